"""Messages put into a queue that is not where the results are: an AMQP queue, or another Redis.

A message goes out in the form in which Redis keeps it (`wire.message`); for AMQP it is taken apart here. `publish`
returns when the broker has the messages: RabbitMQ confirms them when a quorum of its nodes has written them to disk.
"""

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from kombu import Connection, Queue
from kombu.transport.pyamqp import Channel
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shoal import wire
from shoal.errors import QueueUnavailable
from shoal.jobs import JobMessage
from shoal.redis_url import in_words, open_client
from shoal.scripts import Scripts
from shoal.signing import Signer

AMQP = ("amqp://", "amqps://")
CONNECT_SECONDS = 5.0
CONFIRM_SECONDS = 10.0
#: How often a broker may take a message back from workers that died of it before it drops it. Shoal counts itself, and
#: makes a dead letter; RabbitMQ from version 4 on would drop a message without one after 20 times.
DELIVERY_LIMIT = 1_000_000

Message = str | bytes


def is_amqp(url: str) -> bool:
    return url.startswith(AMQP)


def amqp_queue() -> Queue:
    """The queue as producers and workers declare it: alike, or RabbitMQ refuses it."""
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}
    return Queue(wire.QUEUE, routing_key=wire.QUEUE, durable=True, queue_arguments=arguments)


def ssl_options(url: str) -> dict[str, Any] | None:
    """For kombu: with `amqps://` the server's certificate must be valid for the host in the URL."""
    return {"server_hostname": None} if url.startswith("amqps://") else None


class Publisher(Protocol):
    """Raises `QueueUnavailable`. Then some of the messages may have arrived: to publish them again is safe."""

    async def publish(self, messages: Sequence[Message]) -> None: ...

    def packed(self, jobs: Sequence[JobMessage], signer: Signer | None) -> list[str]:
        """Jobs of one lane and tenant as messages: many in one, where workers count jobs and not messages."""
        ...

    async def aclose(self) -> None: ...


def open_publisher(url: str) -> Publisher:
    """For the queue at a URL. It connects at the first message."""
    return AmqpPublisher(url) if is_amqp(url) else RedisPublisher(open_client(url, socket_timeout=30))


class RedisPublisher:
    """Puts messages into the list that workers read."""

    def __init__(self, client: "Redis") -> None:
        self._client = client
        self._scripts = Scripts(client, {"push": wire.script("shoal", "queue", "push")})

    async def publish(self, messages: Sequence[Message]) -> None:
        try:
            await self._scripts.call("push", [wire.QUEUE], messages)
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"the queue did not take the job: {in_words(error)}") from error

    def packed(self, jobs: Sequence[JobMessage], signer: Signer | None) -> list[str]:
        if len(jobs) > 1 and jobs[0].lane == "bulk":
            return [wire.pack(jobs, signer)]
        return [wire.message(job, signer) for job in jobs]

    async def aclose(self) -> None:
        await self._client.aclose()


class AmqpPublisher:
    """One connection, on which one thread at a time publishes; meanwhile further messages gather and go together."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._channel: _ConfirmingChannel | None = None
        self._lock = threading.Lock()
        self._waiting: list[tuple[Sequence[Message], asyncio.Future[None]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def publish(self, messages: Sequence[Message]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        await future

    def packed(self, jobs: Sequence[JobMessage], signer: Signer | None) -> list[str]:
        # RabbitMQ hands out so many messages, whatever is in them.
        return [wire.message(job, signer) for job in jobs]

    async def aclose(self) -> None:
        if self._sender:
            await self._sender
        await asyncio.to_thread(self._close)

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                failure = await asyncio.to_thread(self._send, [one for messages, _ in batch for one in messages])
                for _, future in batch:
                    if not future.done():
                        future.set_exception(failure) if failure else future.set_result(None)
        finally:
            self._sender = None

    def _send(self, messages: list[Message]) -> QueueUnavailable | None:
        with self._lock:
            # A connection that was open already may be dead by now, where a new one would do.
            tries = 2 if self._channel else 1
            failure = None
            for _ in range(tries):
                failure = self._try(messages)
                if failure is None:
                    break
            return failure

    def _try(self, messages: list[Message]) -> QueueUnavailable | None:
        try:
            if self._channel is None:
                self._channel = _ConfirmingChannel(self._url)
            self._channel.publish(messages)
        except Exception as error:  # noqa: BLE001 on a lost connection pyamqp raises whatever it comes across
            self._drop()
            return QueueUnavailable(f"the queue did not take the job: {type(error).__name__}")
        return None

    def _close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


class UnconfirmedError(OSError):
    """The broker gave a message back, refused it, or said nothing in time."""


class _ConfirmingChannel:
    """A channel that knows which of its messages the broker has. After any error, close it."""

    def __init__(self, url: str) -> None:
        self._connection = Connection(
            url,
            connect_timeout=CONNECT_SECONDS,
            ssl=ssl_options(url),
            transport_options={"read_timeout": CONFIRM_SECONDS, "write_timeout": CONFIRM_SECONDS},
        )
        self._connection.connect()
        self._channel: Channel = self._connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_refusal)
        self._channel.events["basic_return"].add(self._on_refusal)
        self._sent = 0
        self._unconfirmed: set[int] = set()
        self._refused = False
        amqp_queue()(self._channel).declare()

    def publish(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._channel.basic_publish(amqp_message(self._channel, message), "", wire.QUEUE, mandatory=True)
            self._sent += 1
            self._unconfirmed.add(self._sent)
        ends_at = time.monotonic() + CONFIRM_SECONDS
        while self._unconfirmed and not self._refused:
            self._connection.drain_events(timeout=max(0.001, ends_at - time.monotonic()))
        if self._refused:
            raise UnconfirmedError

    def close(self) -> None:
        self._connection.collect()

    def _on_ack(self, delivery_tag: int, multiple: bool) -> None:
        if multiple:
            self._unconfirmed = {tag for tag in self._unconfirmed if tag > delivery_tag}
        else:
            self._unconfirmed.discard(delivery_tag)

    def _on_refusal(self, *_: Any) -> None:
        self._refused = True


def amqp_message(channel: Any, message: Message) -> Any:
    """The same task as AMQP carries it. What is no message goes out as it is, for a worker to bury."""
    try:
        parts = json.loads(message)
        return channel.prepare_message(
            parts["body"].encode(),
            content_type=parts["content-type"],
            content_encoding=parts["content-encoding"],
            headers=parts["headers"],
            properties={"correlation_id": parts["properties"]["correlation_id"], "delivery_mode": 2},
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        body = message.encode() if isinstance(message, str) else message
        return channel.prepare_message(body, properties={"delivery_mode": 2})
