"""taskiq on Redis streams, which acknowledge. `BENCH_BROKER=list`: its other queue, which loses what a worker holds."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import taskiq_redis
from taskiq import TaskiqEvents, TaskiqState
from taskiq.serializers import ORJSONSerializer

from peer import Said, gathered, in_redis, main
from question import AT_ONCE, KEEP_SECONDS, REDIS_URL, async_client
from question import ask as ask_model

results: Any = taskiq_redis.RedisAsyncResultBackend(
    REDIS_URL, result_ex_time=KEEP_SECONDS, serializer=ORJSONSerializer(), prefix_str="answer"
)
broker = (
    taskiq_redis.ListQueueBroker(REDIS_URL)
    if os.environ.get("BENCH_BROKER") == "list"
    else taskiq_redis.RedisStreamBroker(REDIS_URL, consumer_id="0", xread_count=AT_ONCE)
).with_result_backend(results)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_client(state: TaskiqState) -> None:
    state.client = async_client()


@broker.task(task_name="ask")
async def ask(text: str) -> dict[str, Any]:
    return await ask_model(broker.state.client, text)


async def enqueue_all(texts: list[str]) -> None:
    await broker.startup()
    await gathered(ask.kiq, texts)
    await broker.shutdown()


async def open_alone(drive: Callable[[Callable[[str], Awaitable[Said]]], Awaitable[None]]) -> None:
    async def one(text: str) -> Said:
        task = await ask.kiq(text)
        return (await task.wait_result(check_interval=0.001, timeout=30)).return_value

    await broker.startup()
    await drive(one)
    await broker.shutdown()


def read(raw: bytes) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(raw)["return_value"]
    return said


if __name__ == "__main__":
    main(
        lambda texts: asyncio.run(enqueue_all(texts)),
        in_redis("answer:*", read),
        lambda drive: asyncio.run(open_alone(drive)),
    )
