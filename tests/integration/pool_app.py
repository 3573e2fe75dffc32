"""A plain Celery app on our pool and channel, for the tests of both."""

import asyncio
import os
import time
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from shoal_worker import transport
from shoal_worker.loop import await_

transport.register()
_url = os.environ["POOL_REDIS_URL"]
app = Celery("pool", broker="shoal" + _url.removeprefix("redis"), backend=_url)
app.conf.update(
    worker_pool="shoal_worker.pool:TaskPool",
    worker_consumer="shoal_worker.consumer:Consumer",
    task_acks_late=True,
    task_default_queue="pool",
    worker_prefetch_multiplier=2,
    worker_enable_remote_control=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 4, "unacked_restore_interval": 1},
)


@app.task(name="pool.sleep", bind=True)
def sleep(task: Any, seconds: float, value: int) -> list[Any]:
    """Its own request must be the same before and after others have run."""
    before = (task.request.id, tuple(task.request.args))
    await_(asyncio.sleep(seconds))
    after = (task.request.id, tuple(task.request.args))
    return [value, before == after]


@app.task(name="pool.soft", soft_time_limit=0.3)
def soft() -> str:
    try:
        await_(asyncio.sleep(30))
    except SoftTimeLimitExceeded:
        await_(asyncio.sleep(0.01))
        return "cleaned up"
    return "never"


@app.task(name="pool.hard", time_limit=0.3)
def hard() -> None:
    await_(asyncio.sleep(30))


@app.task(name="pool.retry", bind=True, max_retries=2)
def retry(task: Any) -> int:
    if task.request.retries < 2:
        raise task.retry(countdown=0.05)
    times: int = task.request.retries
    return times


@app.task(name="pool.fail")
def fail() -> None:
    raise ValueError("no")


@app.task(name="pool.now")
def now() -> float:
    return time.time()
