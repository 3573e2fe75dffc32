"""`shoal why JOB`: what a job waits for, in words."""

import asyncio
import time
from collections.abc import Iterator, Mapping

import click

from shoal.book import job_book
from shoal.errors import UnknownJob
from shoal.fleet import SILENT_SECONDS, Fleet, FleetView
from shoal.jobs import Status
from shoal.ports import Pause
from shoal.publisher import is_amqp
from shoal_worker.board import Standing, standings
from shoal_worker.process import limits_name, redis_client
from shoal_worker.settings import WorkerSettings

_OVER = (Status.COMPLETED, Status.DISCARDED, Status.CANCELLED)
Limits = Mapping[str, Standing]


def reasons(status: Status, pause: Pause | None, view: FleetView | None, limits: Limits, now: float) -> Iterator[str]:
    """One line a reason, the nearest first. `view` None: the queue is no Redis, and workers cannot be looked at."""
    if status in _OVER:
        yield f"it waits for nothing: it is {status}; see `shoal result`"
        return
    if status == Status.RUNNING:
        yield "a worker has it"
    if status == Status.RETRYABLE and pause:
        yield f"it is tried again in {max(0.0, pause.until - now):.0f} s: {pause.cause}"
    for model, standing in limits.items():
        yield from _of_limits(model, standing)
    if status == Status.AVAILABLE:
        yield from _of_fleet(view)


def _of_limits(model: str, standing: Standing) -> Iterator[str]:
    pace, now = standing.pace, standing.now
    until = max(pace.paused_until, standing.key_paused_until)
    if until > now:
        yield f"all calls of {model} pause for {until - now:.0f} s more: the provider asked for it"
    if pace.is_open:
        yield f"the provider of {model} fails: one call probes it, the next in {max(0.0, pace.open_until - now):.0f} s"
    elif pace.rate is not None:
        yield f"calls of {model} are held to {pace.rate:.1f} a second: the provider refused more"


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


async def explained(settings: WorkerSettings, job_id: str) -> list[str]:
    """Raises `UnknownJob`, `QueueUnavailable`."""
    book, url = job_book(settings), settings.queue.get_secret_value()
    client = None if is_amqp(url) else redis_client(url)
    try:
        status = await book.status(job_id)
        if status is None:
            raise UnknownJob(f"no job {job_id}, or its record has expired")
        pause = await book.pause(job_id)
        view = await Fleet(client).look() if client else None
        limits = await standings(client, limits_name(settings)) if client else {}
        return list(reasons(status, pause, view, limits, time.time()))
    finally:
        await book.aclose()
        if client:
            await client.aclose()


@click.command()
@click.argument("job_id")
def why(job_id: str) -> None:
    """What a job waits for. Told by the workers' settings: limits are those of their key and gateway."""
    click.echo("\n".join(asyncio.run(explained(WorkerSettings.load(), job_id))))
