"""streaq: Redis streams, one uvloop."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from streaq import Worker

from peer import Said, in_redis, main
from question import AT_ONCE, KEEP_SECONDS, REDIS_URL, async_client
from question import ask as ask_model


@asynccontextmanager
async def lifespan() -> AsyncIterator[httpx.AsyncClient]:
    async with async_client() as client:
        yield client


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


worker = Worker(
    redis_url=REDIS_URL,
    redis_kwargs={"max_connections": AT_ONCE + 10},
    concurrency=AT_ONCE,
    lifespan=lifespan,
    serializer=dumps,
    deserializer=json.loads,
    anyio_kwargs={"use_uvloop": True},
)


@worker.task(ttl=KEEP_SECONDS, silent=True)
async def ask(text: str) -> dict[str, Any]:
    return await ask_model(worker.context, text)


async def enqueue_all(texts: list[str]) -> None:
    async with worker:
        for start in range(0, len(texts), 1_000):
            await worker.enqueue_many([ask.enqueue(text) for text in texts[start : start + 1_000]])


async def open_alone(drive: Callable[[Callable[[str], Awaitable[Said]]], Awaitable[None]]) -> None:
    async def one(text: str) -> Said:
        # `task.result()` takes 100 ms to subscribe and unsubscribe; looking for the answer is what is fast.
        task = await ask.enqueue(text)
        while (answer := await worker.redis.get(worker.results_key + task.id)) is None:
            await asyncio.sleep(0.001)
        return read(answer)

    async with worker:
        await drive(one)


def read(raw: bytes | str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(raw)["r"]
    return said


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        worker.run_sync()
    else:
        main(
            lambda texts: asyncio.run(enqueue_all(texts)),
            in_redis("streaq:default:task:results:*", read),
            lambda drive: asyncio.run(open_alone(drive)),
        )
