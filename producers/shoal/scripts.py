"""Calls of Lua scripts from many coroutines, sent to Redis together.

While one pipeline is on its way, further calls gather and leave as the next one: under load a hundred jobs share a
round trip, alone a job waits for nobody. Every script here is safe to repeat, because a lost reply is asked again.

Behind Sentinel a call returns when a replica has what it wrote. Where none says so within `REPLICA_MS`, the call stands
if the sentinels still hold to this primary (it may have no replica left, and what it alone knows is lost with it), and
else fails, for a primary that is being replaced forgets what it is told.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError

from shoal.redis_url import has_replicas, is_replaced

#: Enough to hide the round trip, few enough that Redis answers others in between.
MAX_CALLS_PER_PIPELINE = 100
#: A replica is less than this behind, or there is none to wait for.
REPLICA_MS = 500

Command = tuple[str, str, Sequence[str], Sequence[str | bytes | int | float]]


class Scripts:
    """The scripts of one Redis, by name."""

    def __init__(self, client: "Redis", texts: dict[str, str]) -> None:
        self._client = client
        self._texts = texts
        self._replicated = has_replicas(client)
        self._shas = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in texts.items()}  # noqa: S324 Redis names scripts so
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def call(self, name: str, keys: Sequence[str], args: Sequence[str | bytes | int | float]) -> Any:
        """Run a script. Raises redis-py's errors."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(((name, self._shas[name], keys, args), future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return await future

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:MAX_CALLS_PER_PIPELINE]
                del self._waiting[:MAX_CALLS_PER_PIPELINE]
                await self._send(batch)
        finally:
            self._sender = None

    async def _send(self, batch: list[tuple[Command, asyncio.Future[Any]]]) -> None:
        try:
            replies = await self._replies([command for command, _ in batch])
        except (RedisError, OSError) as error:
            replies = [error] * len(batch)
        for (_, future), reply in zip(batch, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    async def _replies(self, commands: list[Command]) -> list[Any]:
        replies = await self._execute(commands)
        unknown = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            for name in {commands[place][0] for place in unknown}:
                await self._client.script_load(self._texts[name])
            again = await self._execute([commands[place] for place in unknown])
            for place, reply in zip(unknown, again, strict=True):
                replies[place] = reply
        return replies

    async def _execute(self, commands: list[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for _, sha, keys, args in commands:
            pipeline.execute_command("EVALSHA", sha, len(keys), *keys, *args)
        if not self._replicated:
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            return replies
        pipeline.execute_command("WAIT", 1, REPLICA_MS)
        *replies, replicas = await pipeline.execute(raise_on_error=False)
        if replicas == 0 and await is_replaced(self._client):
            await self._client.connection_pool.disconnect(inuse_connections=False)
            raise RedisConnectionError("no replica has it, and the primary is being replaced")
        return replies
