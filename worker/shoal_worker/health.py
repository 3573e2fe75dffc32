"""`shoal health`: does the worker of this machine, or container, get on? One line why, and status 0 or 1.

Two questions. *Live*, for whoever restarts: would a restart help? *Ready*, the default, for whoever rolls out: does it
work, or wait with reason? A queue that does not answer makes a worker unready and leaves it live: a new process could
not reach it either, and calls in flight would be paid for nothing.
"""

import asyncio
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import click
from celery.utils.nodenames import host_format
from kombu.exceptions import OperationalError

from shoal.control import client_app
from shoal.errors import QueueUnavailable
from shoal.fleet import SILENT_SECONDS, FleetView, open_fleet
from shoal.publisher import is_amqp
from shoal.reports import WorkerReport
from shoal_worker.settings import WorkerSettings

#: How long the probe itself waits for the queue.
ANSWER_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Verdict:
    is_well: bool
    reason: str


def verdict(view: FleetView | None, mine: Iterable[WorkerReport], patience_seconds: float, *, live: bool) -> Verdict:
    """Of all of mine, the first that is not well. `view` None: the queue did not answer."""
    if view is None:
        return _away(live=live)
    reports = list(mine)
    if not reports:
        return Verdict(False, f"no worker of that name has told of itself for {SILENT_SECONDS} s")
    each = [_of_one(report, patience_seconds, live=live) for report in reports]
    return next((one for one in each if not one.is_well), each[0])


def _away(*, live: bool) -> Verdict:
    return Verdict(live, "the queue does not answer" + (": a restart would not help" if live else ""))


def _of_one(report: WorkerReport, patience_seconds: float, *, live: bool) -> Verdict:
    told, who = report.progress, report.progress.node or report.name
    if told.is_stopping:
        return Verdict(live, f"{who} is stopping: {report.running} jobs run to their end")
    hub_seconds = patience_seconds if live else min(patience_seconds, SILENT_SECONDS)
    if told.hub_silent_seconds > hub_seconds:
        return Verdict(False, f"{who}: its consumer has not turned for {told.hub_silent_seconds:.0f} s")
    if told.stalled_seconds > patience_seconds:
        return Verdict(False, f"{who} has taken nothing for {told.stalled_seconds:.0f} s, and jobs wait for it")
    return Verdict(True, f"{who} runs {report.running} of {report.slots} jobs at once, and holds {report.held}")


async def looked(queue_url: str, node: str | None) -> tuple[FleetView | None, list[WorkerReport]]:
    """How the fleet stands, and what the workers of that name, or of this host, told. None: the queue is away."""
    fleet = open_fleet(queue_url)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            view = await fleet.look()
    except (QueueUnavailable, TimeoutError):
        return None, []
    finally:
        await fleet.aclose()
    host = socket.gethostname()
    return view, [one for one in view.workers if (one.progress.node == node if node else one.host == host)]


def pinged(settings: WorkerSettings, node: str, *, live: bool) -> Verdict:
    """Where the queue is RabbitMQ, workers tell of themselves nowhere: its consumer is asked by Celery's own ping."""
    try:
        with client_app(settings.queue) as app, app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=ANSWER_SECONDS)
            asked = {"reply": True, "timeout": ANSWER_SECONDS, "limit": 1, "connection": connection}
            is_heard = bool(app.control.broadcast("ping", destination=[node], **asked))
    except (OSError, OperationalError):
        return _away(live=live)
    return Verdict(is_heard, f"{node} answers" if is_heard else f"{node} has not answered a ping")


@click.command()
@click.option("--name", help="Celery's name of the worker, as given with -n; %h is this host. Else all of this host.")
@click.option("--live", is_flag=True, help="Whether a restart would help: a queue that is away is no reason then.")
@click.option(
    "--patience-seconds",
    default=60.0,
    show_default=True,
    help="How long the consumer may stand, or take nothing while jobs wait that it has room for.",
)
def health(name: str | None, patience_seconds: float, *, live: bool) -> None:
    """Whether a worker makes progress; status 0 or 1. Waiting for a provider's limit or pause is well."""
    settings = WorkerSettings.load()
    url = settings.queue.get_secret_value()
    node = host_format(name) if name else None
    if is_amqp(url):
        found = pinged(settings, node or host_format("celery@%h"), live=live)
    else:
        view, mine = asyncio.run(looked(url, node))
        found = verdict(view, mine, patience_seconds, live=live)
    click.echo(found.reason)
    sys.exit(0 if found.is_well else 1)
