"""Celery's consumer, with dead letters where Celery would log a message and throw it away."""

import contextlib
import uuid
from collections.abc import Mapping
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.control import control_command
from kombu.utils.url import maybe_sanitize_url
from redis.exceptions import RedisError

from shoal_worker.process import process
from shoal_worker.transport import Channel


@control_command(args=[("job_id", str)])
def shoal_cancel(state: Any, job_id: str) -> dict[str, str]:
    """Remote control: end a job that runs in a message of many. `revoke` knows messages only."""
    state.consumer.pool.thread.loop.call_soon_threadsafe(lambda: process().packs.cancel(job_id))
    return {"ok": job_id}


#: A store that is away holds the consumer up for this long at most; then the message stays unacknowledged.
BURY_SECONDS = 30.0
#: How late those who watch may hear what became of a task.
EVENTS_SECONDS = 0.25
#: Celery publishes every 24 events, and its loop stands still until Redis has answered.
EVENTS_AT_ONCE = 1_000


_PUBLIC = frozenset("hostname userid virtual_host port transport connect_timeout heartbeat failover_strategy".split())


def public(connection: Mapping[str, Any]) -> dict[str, Any]:
    """Of a connection what all may know. Celery leaves out the password, but not those of the other nodes."""
    told = {name: connection[name] for name in _PUBLIC if name in connection}
    return told | {"alternates": [maybe_sanitize_url(url) for url in connection.get("alternates") or ()]}


class Consumer(CeleryConsumer):
    """Chosen by `worker_consumer = "shoal_worker.consumer:Consumer"`."""

    class Blueprint(CeleryConsumer.Blueprint):
        """Without Celery's delayed queues in RabbitMQ: what waits for its time waits in our outbox."""

        default_steps = tuple(step for step in CeleryConsumer.Blueprint.default_steps if "delayed_delivery" not in step)

    _events_are_due = False

    def on_send_event_buffered(self) -> None:
        """Celery publishes what it has after every turn of its loop, and waits for Redis each time.

        RabbitMQ is not waited for; and a worker that wakes from a long sleep with events in hand hangs on a connection
        that RabbitMQ has closed.
        """
        if not isinstance(getattr(self.task_consumer, "channel", None), Channel):
            super().on_send_event_buffered()
        elif self.hub and not self._events_are_due:
            self._events_are_due = True
            self.hub.call_later(EVENTS_SECONDS, self._flush_events)

    def _flush_events(self) -> None:
        self._events_are_due = False
        super()._flush_events()

    def create_task_handler(self, *args: Any, **options: Any) -> Any:
        """Called at the start of each connection: its channel learns what the pool has use for."""
        self._events_are_due = False
        channel = getattr(self.task_consumer, "channel", None)
        if isinstance(channel, Channel):
            channel.room_of = self.pool.slots.room
            if self.event_dispatcher:
                self.event_dispatcher.buffer_limit = EVENTS_AT_ONCE
        return super().create_task_handler(*args, **options)

    def on_unknown_message(self, body: Any, message: Any) -> None:  # noqa: ARG002 Celery's signature
        self._bury(message, "the message names no task")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002 Celery's signature
        name = str((message.headers or {}).get("task"))[:60]
        known = ", ".join(sorted(task for task in self.app.tasks if task.startswith("shoal.")))
        self._bury(message, f"task: unknown {name!r}; known: {known}")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002 Celery's signature
        self._bury(message, f"the message is no task: {type(exc).__name__}")

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._bury(message, f"the message's body cannot be decoded: {type(exc).__name__}")

    def _bury(self, message: Any, reason: str) -> None:
        body = message.body if isinstance(message.body, str) else bytes(message.body or b"").decode(errors="replace")
        job_id = str((message.headers or {}).get("id") or uuid.uuid4())
        self.pool.thread.wait_for(process().bury(job_id, reason, body), BURY_SECONDS)
        message.ack()

    def info(self) -> dict[str, Any]:
        """What remote control and Flower tell of the connection."""
        told: dict[str, Any] = super().info()
        return told | {"broker": public(told["broker"])}

    def shutdown(self) -> None:
        """The pool has ended: what was fetched and never begun goes back at once. RabbitMQ sees to that itself."""
        channel = getattr(self.task_consumer, "channel", None)
        if isinstance(channel, Channel):
            with contextlib.suppress(OSError, RedisError):
                channel.release()
        super().shutdown()
