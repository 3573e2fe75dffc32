"""`shoal beat` and `shoal schedule`: run the schedule, check it, list it."""

import asyncio
import os
import signal
import socket
import uuid
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import click
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from shoal.client import AsyncShoal
from shoal.errors import SettingsError
from shoal_worker import guard, logs, sentry
from shoal_worker.beat import Beat, Duty
from shoal_worker.beat_book import BeatBook, LastRun
from shoal_worker.duties import DeadLetterDigest, EntryRuns
from shoal_worker.fanout import SourceAway, faults_of
from shoal_worker.process import redis_client
from shoal_worker.schedule import Entry, Fault, load
from shoal_worker.settings import WorkerSettings
from shoal_worker.timetable import next_times

#: `schedule list` does without a queue that does not answer by then.
LOOK_SECONDS = 5.0


def read_schedule(settings: WorkerSettings) -> list[Entry]:
    """Raises `SettingsError` that names every fault."""
    return load(settings.schedule_file, has_database=settings.schedule_database_url is not None)


def book_of(settings: WorkerSettings) -> BeatBook:
    name = f"{os.getpid()}@{socket.gethostname()}/{uuid.uuid4().hex[:8]}"
    return BeatBook(redis_client(settings.beats.get_secret_value()), name, settings.lease_seconds)


@click.command()
def beat() -> None:
    """Run the schedule. Of several, one acts, and another takes over when it is gone."""
    settings = WorkerSettings.load()
    entries = read_schedule(settings)
    logs.configure(settings.log_level, settings.log_format)
    sentry.configure(settings)
    guard.check(settings)
    asyncio.run(_beat(settings, entries))


async def _beat(settings: WorkerSettings, entries: list[Entry]) -> None:
    async with AsyncExitStack() as stack:
        book = book_of(settings)
        stack.push_async_callback(book.aclose)
        clients = {
            tenant: await stack.enter_async_context(AsyncShoal(settings.model_copy(update={"tenant": tenant})))
            for tenant in {settings.tenant, *(entry.tenant for entry in entries if entry.tenant is not None)}
        }
        folder, database = settings.schedule_file.parent, settings.schedule_database_url
        duties: list[Duty] = [DeadLetterDigest(clients[settings.tenant].dead)]
        for entry in entries:
            client = clients[settings.tenant if entry.tenant is None else entry.tenant]
            duties.append(EntryRuns(entry, folder, database, client, book))
        beating = asyncio.create_task(Beat(book, duties, settings.lease_seconds).run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, beating.cancel)
        await asyncio.wait([beating])
        if not beating.cancelled():
            beating.result()


@click.group()
def schedule() -> None:
    """The entries of SHOAL_SCHEDULE_FILE: check, list."""


@schedule.command()
def check() -> None:
    """Name every fault of the schedule, and of the first lines of its files and queries. Exit status 1 for any."""
    settings = WorkerSettings.load()
    entries = read_schedule(settings)
    faults = asyncio.run(_source_faults(settings, entries))
    if faults:
        raise SettingsError("\n".join([f"{settings.schedule_file}: the schedule is wrong:", *map(str, faults)]))
    click.echo(f"{settings.schedule_file}: {len(entries)} entries are right")


async def _source_faults(settings: WorkerSettings, entries: list[Entry]) -> list[Fault]:
    faults: list[Fault] = []
    for entry in entries:
        try:
            faults += await faults_of(entry, settings.schedule_file.parent, settings.schedule_database_url)
        except SourceAway as error:
            click.echo(f"{entry.name}.query could not be checked: {error}", err=True)
    return faults


@schedule.command("list")
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1, 100), help="So many next runs of each.")
def list_entries(runs: int) -> None:
    """Entries with their next runs, and the last one where the queue answers."""
    settings = WorkerSettings.load()
    entries = read_schedule(settings)
    try:
        last_runs = asyncio.run(_last_runs(settings, entries))
    except (RedisError, OSError):
        click.echo("the queue does not answer: last runs are not known", err=True)
        last_runs = {}
    now = datetime.now(UTC).timestamp()
    table = Table("entry", "kind", "schedule", "next runs", "last run", box=None)
    for entry in entries:
        coming = "\n".join(_shown(at, entry) for at in next_times(entry.timetable, now, runs))
        table.add_row(entry.name, entry.kind, str(entry.timetable), coming, _last(last_runs.get(entry.name), entry))
    Console().print(table)


async def _last_runs(settings: WorkerSettings, entries: list[Entry]) -> dict[str, LastRun | None]:
    book = book_of(settings)
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            return {entry.name: await book.last_run(entry.name) for entry in entries}
    finally:
        await book.aclose()


def _shown(at: int, entry: Entry) -> str:
    """In the entry's own time zone."""
    return f"{datetime.fromtimestamp(at, ZoneInfo(entry.time_zone)):%Y-%m-%d %H:%M:%S}"


def _last(run: LastRun | None, entry: Entry) -> str:
    return f"{_shown(run.scheduled_at, entry)}\n{run.outcome}, jobs: {run.jobs}" if run else "–"
