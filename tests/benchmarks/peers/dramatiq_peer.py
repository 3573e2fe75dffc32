"""dramatiq: threads."""

import json
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends.redis import RedisBackend

from peer import in_redis, main
from question import AT_ONCE, KEEP_SECONDS, REDIS_URL, ask_sync

# With redis-py's default of 100 connections, answers of so many threads get lost.
client = redis.Redis.from_url(REDIS_URL, max_connections=2 * AT_ONCE + 10)
broker = RedisBroker(client=client)
broker.add_middleware(
    Results(
        backend=RedisBackend(client=client, namespace="answer", use_namespace_prefix_keys=True),
        store_results=True,
        result_ttl=KEEP_SECONDS * 1000,
    )
)
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="ask")
def ask(text: str) -> dict[str, Any]:
    return ask_sync(text)


def enqueue(texts: list[str]) -> None:
    for text in texts:
        ask.send(text)


def read(raw: bytes) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(raw)
    return said


if __name__ == "__main__":
    main(enqueue, in_redis("answer:*", read, kind="list"))
