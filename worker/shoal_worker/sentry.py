"""What Sentry hears of a worker, where `SHOAL_SENTRY_DSN` is set; without it every verb here does nothing.

Heard of by us, where it happens once:

- a job that is given up (`Runner`, when its dead letter is stored): one event, by cause; a retry or a snooze is none;
- messages of workers that are gone (`transport.py`);
- a run of the beat: a check-in, and an event when it failed (`monitor`).

Heard of by Sentry's logging integration: every line of level ERROR, and with an exception its stack. So come our own
crashes (`worker_bug`, `delivery_failed`, `uncaught`), and what Celery and its consumer complain of.

Its Celery integration is used for transactions alone, when they are sampled: a task of ours ends in Celery's control
flow or in `throws`, of which it makes no event, and it opens a connection object for each task.
"""

import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import sentry_sdk
import structlog
from sentry_sdk.crons import capture_checkin
from sentry_sdk.integrations import Integration
from sentry_sdk.integrations.atexit import AtexitIntegration
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.logging import LoggingIntegration

from shoal.jobs import DeadLetter
from shoal_worker.errors import PermanentError, WorkerKilled
from shoal_worker.scrub import Event, Storms, fingerprint, scrubbed, subject
from shoal_worker.settings import WorkerSettings

CLOSE_SECONDS = 2.0
#: Sentry has no shorter interval.
SHORTEST_INTERVAL_SECONDS = 60.0
_JOB_TAGS = ("kind", "tenant")

log = structlog.get_logger()

_storms: list[Storms] = []


def configure(settings: WorkerSettings) -> None:
    """Begin to report, if there is somebody to report to. Once in a process, after its logs are set up."""
    if settings.sentry_dsn is None:
        return
    _storms[:] = [Storms()]
    sentry_sdk.init(
        dsn=settings.sentry_dsn.get_secret_value(),
        environment=settings.sentry_environment,
        release=settings.sentry_release or f"shoal@{version('shoal')}",
        sample_rate=settings.sentry_sample_rate,
        traces_sample_rate=settings.sentry_traces_sample_rate or None,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=_integrations(settings),
        before_send=_before_send,
        before_send_transaction=_before_send_transaction,
        before_breadcrumb=lambda _, __: None,
        max_breadcrumbs=0,
        include_local_variables=False,
        max_request_body_size="never",
        trace_propagation_targets=[],
        auto_session_tracking=False,
        in_app_include=["shoal", "shoal_worker"],
        spotlight=False,
    )


def _integrations(settings: WorkerSettings) -> list[Integration]:
    chosen: list[Integration] = [
        LoggingIntegration(level=None, sentry_logs_level=None),
        DedupeIntegration(),
        AtexitIntegration(callback=lambda *_: None),
    ]
    if settings.sentry_traces_sample_rate:
        from sentry_sdk.integrations.celery import CeleryIntegration

        chosen.append(CeleryIntegration(propagate_traces=False))
    return chosen


def is_on() -> bool:
    return bool(_storms)


def close() -> None:
    """Send what waits, for a short time. Afterwards nothing is reported."""
    if not is_on():
        return
    if held_back := _storms.pop().held_back():
        log.warning("sentry_events_held_back", count=held_back)
    sentry_sdk.get_client().close(timeout=CLOSE_SECONDS)


def level_of(cause: str) -> str:
    """What the job itself, its text or its time brought about is to be expected; all else is somebody's fault."""
    return "warning" if cause in _EXPECTED else "error"


_EXPECTED = frozenset(error.cause for error in PermanentError.__subclasses__() if error is not WorkerKilled)


def discarded(letter: DeadLetter, model: str) -> None:
    """A job was given up. `model` is the worker's, for jobs that name none."""
    if not is_on():
        return
    # Of a message that was never read as a job, nothing is known to be what it says.
    read = letter.message if letter.message and letter.attempts else {}
    _report(
        f"discarded: {letter.cause}",
        level_of(letter.cause),
        ["discard", letter.cause],
        {
            "kind": read.get("kind"),
            "tenant": read.get("tenant"),
            "model": read.get("model") or model,
            "cause": letter.cause,
        },
        job={
            "id": letter.id,
            "reason": letter.reason,
            "attempts": letter.attempts,
            "causes": ", ".join(attempt.cause for attempt in letter.history),
        },
    )


def worker_lost(messages: int) -> None:
    """Messages were put back that nobody renewed: their worker was killed, or stood still for too long."""
    if is_on():
        _report("worker lost", "error", ["worker lost"], {"cause": "worker_lost"}, queue={"restored": messages})


def _report(message: str, level: str, key: list[str], tags: dict[str, Any], **contexts: dict[str, Any]) -> None:
    held_back = _storms[0].admits(key, time.monotonic())
    if held_back is None:
        return
    event: Any = {
        "message": message,
        "level": level,
        "fingerprint": key,
        "tags": {name: value for name, value in tags.items() if value},
        "contexts": {**contexts, **_storm(held_back)},
    }
    sentry_sdk.capture_event(event)


def _storm(held_back: int) -> dict[str, Any]:
    """For the event that comes after others like it."""
    return {"storm": {"held_back": held_back}} if held_back else {}


def _before_send(event: Any, hint: dict[str, Any]) -> Any:
    """The last look at what goes out. What is not ours comes from the logs, or is a crash that nobody caught."""
    safe = scrubbed(event)
    if safe.get("type") == "check_in" or "fingerprint" in safe:
        return safe
    record = hint.get("log_record")
    return _from_logs(safe, subject(record) if record else "captured")


def _before_send_transaction(event: Any, _: dict[str, Any]) -> Any:
    return scrubbed(event)


def _from_logs(event: Event, about: str) -> Event | None:
    key = fingerprint(event, about)
    held_back = _storms[0].admits(key, time.monotonic()) if is_on() else 0
    if held_back is None:
        return None
    bound = structlog.contextvars.get_contextvars()
    tags = {name: bound[name] for name in _JOB_TAGS if bound.get(name)}
    event["fingerprint"] = key
    event["tags"] = {**event.get("tags", {}), **tags, "cause": about}
    event["contexts"] |= _storm(held_back)
    if "job_id" in bound:
        event["contexts"]["job"] = {"id": bound["job_id"], "attempt": bound.get("attempt")}
    values = event.get("exception", {}).get("values")
    if values:
        # The place of the exception's own message, which may hold anything.
        values[-1]["value"] = about
    else:
        event["message"] = about
    return event


@contextmanager
def monitor(name: str, schedule: str | float, timezone: str = "UTC") -> Iterator[None]:
    """Around one run of what is due by a schedule: a crontab's five fields, or the seconds between runs.

    Sentry is told when it has ended, well or not, and misses it when it does not come. An error is also an event; it
    goes on to the caller. Sentry knows no interval below a minute: then only errors are told.
    """
    if not is_on():
        yield
        return
    began = time.monotonic()
    try:
        yield
    except Exception as error:
        _check_in(name, schedule, timezone, "error", time.monotonic() - began)
        with sentry_sdk.new_scope() as scope:
            scope.set_tag("schedule", name)
            scope.capture_exception(error)
        raise
    _check_in(name, schedule, timezone, "ok", time.monotonic() - began)


def _check_in(name: str, schedule: str | float, timezone: str, status: str, seconds: float) -> None:
    config: Any = {"timezone": timezone, "schedule": {"type": "crontab", "value": schedule}}
    if not isinstance(schedule, str):
        if schedule < SHORTEST_INTERVAL_SECONDS:
            return
        config["schedule"] = {"type": "interval", "value": math.ceil(schedule / 60), "unit": "minute"}
    capture_checkin(monitor_slug=slug(name), status=status, duration=seconds, monitor_config=config)


def slug(name: str) -> str:
    """A name as Sentry takes it for a monitor."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")[:50]
