"""No queue at all: coroutines on one uvloop ask, and one writer sets what is answered into Redis in pipelines."""

import asyncio
import json
import os
import sys
from collections import deque
from typing import Any

import uvloop
from redis.asyncio import Redis

from peer import in_redis, main
from question import AT_ONCE, KEEP_SECONDS, REDIS_URL, ask, async_client, text_of


async def work(jobs: int) -> None:
    numbers, answered, ended = iter(range(jobs)), deque[tuple[int, dict[str, Any]]](), asyncio.Event()

    async def slot() -> None:
        for number in numbers:
            answered.append((number, await ask(client, text_of(number))))

    async def write() -> None:
        while answered or not ended.is_set():
            async with redis.pipeline(transaction=False) as pipe:
                while answered:
                    number, said = answered.popleft()
                    pipe.set(f"answer:{number}", json.dumps(said), ex=KEEP_SECONDS)
                await pipe.execute()
            await asyncio.sleep(0.01)

    redis = Redis.from_url(REDIS_URL)
    async with async_client() as client:
        writer = asyncio.create_task(write())
        await asyncio.gather(*(slot() for _ in range(AT_ONCE)))
        ended.set()
        await writer
    await redis.aclose()
    # Stay, as a worker would, until the benchmark has looked at this process.
    await asyncio.Event().wait()


def read(raw: bytes) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(raw)
    return said


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        uvloop.run(work(int(os.environ["BENCH_JOBS"])))
    else:
        main(lambda _: None, in_redis("answer:*", read))
