"""The composition root: settings, Celery's app, the pool and the process's connections are put together here.

`python -m shoal_worker` is a Shoal worker; `celery -A shoal_worker.main worker` is the same.
"""

from typing import Any

from celery import Celery
from celery.signals import celeryd_after_setup, task_revoked, worker_process_init, worker_process_shutdown
from kombu import serialization
from kombu.utils import json as kombu_json
from pydantic_core import from_json

from shoal import wire
from shoal_worker import broker, sentry, tasks, tracing
from shoal_worker.loop import LoopThread
from shoal_worker.process import close_process, open_process, process
from shoal_worker.progress import Pulse
from shoal_worker.settings import WorkerSettings

#: A connection that will not close must not keep the worker.
CLOSE_SECONDS = 5.0


def read_json(text: str | bytes) -> Any:
    """Kombu's own decoder looks at each object for types of Python's, which ours never hold."""
    try:
        return from_json(text)
    except ValueError:
        return kombu_json.loads(text)


def make_app(settings: WorkerSettings) -> Celery:
    """Celery's app, for a worker."""
    serialization.register("json", kombu_json.dumps, read_json, "application/json", "utf-8")
    app = Celery("shoal", set_as_current=True)
    app.conf.update(
        **broker.configuration(settings.queue.get_secret_value(), settings.visibility_timeout_seconds),
        result_backend="disabled://",
        task_default_queue=wire.QUEUE,
        task_ignore_result=False,
        task_acks_late=True,
        task_acks_on_failure=True,
        task_acks_on_timeout=False,
        task_serializer="json",
        accept_content=["json"],
        worker_pool="shoal_worker.pool:TaskPool",
        worker_consumer="shoal_worker.consumer:Consumer",
        worker_autoscaler="shoal_worker.autoscale:Autoscaler",
        worker_concurrency=settings.concurrency,
        worker_prefetch_multiplier=2,
        worker_enable_prefetch_count_reduction=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
    )
    tasks.register(app)
    return app


def connect_process(settings: WorkerSettings) -> None:
    """Open the process's connections on the pool's loop when it starts, close them there when it stops."""
    threads: list[LoopThread] = []
    nodes: list[str] = []

    def on_named(sender: str, **_: Any) -> None:
        nodes[:] = [sender]

    def on_start(sender: Any, **_: Any) -> None:
        threads[:] = [sender.thread]
        sender.thread.wait_for(open_process(settings, sender.slots, Pulse("".join(nodes), sender.ring)))

    def on_stop(sender: Any, **_: Any) -> None:
        sender.thread.wait_for(close_process(), CLOSE_SECONDS)
        tracing.close()
        sentry.close()

    def on_revoked(request: Any, **_: Any) -> None:
        jobs = (request.kwargs or {}).get("jobs") if request.task == wire.PACK_TASK else None
        threads[0].wait_for(process().revoked(request.id, request.task, jobs), CLOSE_SECONDS)

    celeryd_after_setup.connect(on_named, weak=False)
    worker_process_init.connect(on_start, weak=False)
    task_revoked.connect(on_revoked, weak=False)
    worker_process_shutdown.connect(on_stop, weak=False)
