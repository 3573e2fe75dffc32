"""Putting messages into a queue that is not where the jobs are kept.

The job has been claimed, its message is in the outbox: a message that does not get into the queue now is published
from there by a worker, and one that gets there twice is run once.
"""

from collections.abc import Sequence
from typing import Protocol

from redis.asyncio import Redis

from shoal import wire
from shoal.jobs import JobMessage
from shoal.scripts import Scripts
from shoal.signing import Signer

_PUSH = "return redis.call('LPUSH', KEYS[1], unpack(ARGV))"


class Publisher(Protocol):
    async def publish(self, messages: Sequence[JobMessage]) -> None:
        """Raises the broker's own errors; then some may be in the queue."""
        ...

    async def aclose(self) -> None: ...


class RedisPublisher:
    """The list that kombu's Redis transport, and ours, take messages from."""

    def __init__(self, client: "Redis", signer: Signer | None) -> None:
        self._client = client
        self._signer = signer
        self._scripts = Scripts(client, {"push": _PUSH})

    async def publish(self, messages: Sequence[JobMessage]) -> None:
        texts = [wire.message(message, self._signer) for message in messages]
        if texts:
            await self._scripts.call("push", [wire.QUEUE], texts)

    async def aclose(self) -> None:
        await self._client.aclose()
