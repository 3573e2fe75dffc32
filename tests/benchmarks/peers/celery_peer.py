"""Celery's own pools, with settings that its users find after some trouble."""

import json
from typing import Any

from celery import Celery

from peer import in_redis, main
from question import AT_ONCE, KEEP_SECONDS, REDIS_URL, ask_sync

app = Celery("peer", broker=REDIS_URL, backend=REDIS_URL)
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=2,
    # With the default of 10, acknowledgements get lost above so many at once.
    broker_transport_options={"max_connections": 2 * AT_ONCE + 10},
    redis_max_connections=2 * AT_ONCE + 10,
    result_expires=KEEP_SECONDS,
    worker_send_task_events=False,
)


@app.task(name="peer.ask")
def ask(text: str) -> dict[str, Any]:
    return ask_sync(text)


def enqueue(texts: list[str]) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        for text in texts:
            ask.apply_async((text,), producer=producer)


def read(raw: bytes) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(raw)["result"]
    return said


if __name__ == "__main__":
    main(enqueue, in_redis("celery-task-meta-*", read))
