"""`shoal why JOB`: what a job waits for, in words."""

import asyncio
import time
from collections.abc import Iterator

import click

from shoal.book import job_book
from shoal.errors import UnknownJob
from shoal.fleet import SILENT_SECONDS, FleetView, open_fleet
from shoal.jobs import Status
from shoal.ports import Pause
from shoal.publisher import is_amqp
from shoal.reports import ModelCalls
from shoal.settings import ProducerSettings

_OVER = (Status.COMPLETED, Status.DISCARDED, Status.CANCELLED)


def reasons(status: Status, pause: Pause | None, view: FleetView | None, now: float) -> Iterator[str]:
    """One line a reason, the nearest first. `view` None: the queue is no Redis, and workers cannot be looked at."""
    if status in _OVER:
        yield f"it waits for nothing: it is {status}; see `shoal result`"
        return
    if status == Status.RUNNING:
        yield "a worker has it"
    if status == Status.RETRYABLE and pause:
        yield f"it is tried again in {max(0.0, pause.until - now):.0f} s: {pause.cause}"
    for calls in view.calls if view else ():
        yield from _of_limits(calls)
    if status == Status.AVAILABLE:
        yield from _of_fleet(view)


def _of_limits(calls: ModelCalls) -> Iterator[str]:
    if calls.paused_seconds > 0:
        yield f"all calls of {calls.model} pause for {calls.paused_seconds:.0f} s more: the provider asked for it"
    if calls.probe_seconds is not None:
        yield f"the provider of {calls.model} fails: one call probes it, the next in {calls.probe_seconds:.0f} s"
    elif calls.rate is not None:
        yield f"calls of {calls.model} are held to {calls.rate:.1f} a second: the provider refused more, or SHOAL_RPM"


def _of_fleet(view: FleetView | None) -> Iterator[str]:
    if view is None:
        yield "it is in the queue; how long that is, ask the broker"
        return
    waiting = ", ".join(f"{lane.jobs} in the {name} lane" for name, lane in view.lanes.items())
    yield f"it is in the queue: jobs that wait there are {waiting}"
    if not view.workers:
        yield f"no worker has told of itself for {SILENT_SECONDS} s: start one, with `shoal up` or `shoal worker`"
        return
    yield (
        f"{len(view.workers)} workers use {view.running} of {view.slots} slots and end {view.done_per_second:.0f} jobs "
        f"a second: all that waits takes about {view.drain_seconds:.0f} s"
    )


async def explained(settings: ProducerSettings, job_id: str) -> list[str]:
    """Raises `UnknownJob`, `QueueUnavailable`."""
    book, url = job_book(settings), settings.queue.get_secret_value()
    fleet = None if is_amqp(url) else open_fleet(url)
    try:
        status = await book.status(job_id)
        if status is None:
            raise UnknownJob(f"no job {job_id}, or its record has expired")
        pause = await book.pause(job_id)
        view = await fleet.look() if fleet else None
        return list(reasons(status, pause, view, time.time()))
    finally:
        await book.aclose()
        if fleet:
            await fleet.aclose()


@click.command()
@click.argument("job_id")
def why(job_id: str) -> None:
    """What a job waits for."""
    click.echo("\n".join(asyncio.run(explained(ProducerSettings.load(), job_id))))
