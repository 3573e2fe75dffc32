"""arq: a sorted set, read every 10 ms (its default of 500 ms would be the limit). Its redis<6 needs its own venv."""

import asyncio
import json
import logging
from typing import Any, ClassVar

import uvloop
from arq import create_pool
from arq.connections import RedisSettings

from peer import gathered, in_redis, main
from question import AT_ONCE, KEEP_SECONDS, REDIS_URL, async_client
from question import ask as ask_model

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


async def ask(ctx: dict[str, Any], text: str) -> dict[str, Any]:
    return await ask_model(ctx["client"], text)


async def open_client(ctx: dict[str, Any]) -> None:
    ctx["client"] = async_client()
    # A line for each job's start and end otherwise.
    logging.getLogger("arq").setLevel(logging.WARNING)


class WorkerSettings:
    functions: ClassVar[list[Any]] = [ask]
    on_startup = open_client
    redis_settings = RedisSettings.from_dsn(REDIS_URL)
    max_jobs = AT_ONCE
    poll_delay = 0.01
    keep_result = KEEP_SECONDS
    job_serializer = dumps
    job_deserializer = json.loads
    log_results = False


async def enqueue_all(texts: list[str]) -> None:
    pool = await create_pool(RedisSettings.from_dsn(REDIS_URL), job_serializer=dumps, job_deserializer=json.loads)
    await gathered(lambda text: pool.enqueue_job("ask", text), texts)
    await pool.aclose()


def read(raw: bytes) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(raw)["r"]
    return said


if __name__ == "__main__":
    main(lambda texts: asyncio.run(enqueue_all(texts)), in_redis("arq:result:*", read))
