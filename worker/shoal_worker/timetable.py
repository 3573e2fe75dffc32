"""When runs are due. Decisions only: times are Unix seconds and are passed in."""

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, islice, pairwise, takewhile
from typing import Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim

CatchUp = Literal["skip", "latest", "all"]
#: Of a longer pause, whatever the policy, no more than the newest of these runs are looked at.
MOST_RUNS = 10_000


@dataclass(frozen=True, slots=True)
class Timetable:
    """An entry's times: `cron` in `time_zone`, or each multiple of `every_seconds` since 1970, in UTC.

    A run starts up to `jitter_seconds` after its time, always as much for the same run.
    """

    name: str
    cron: str | None = None
    every_seconds: int | None = None
    time_zone: str = "UTC"
    jitter_seconds: int = 0
    catch_up: CatchUp = "latest"
    catch_up_limit: int = 100

    @property
    def rule(self) -> str | float:
        """A cron expression, or seconds between runs."""
        if self.every_seconds is not None:
            return self.every_seconds
        assert self.cron is not None
        return self.cron

    def __str__(self) -> str:
        return f"every {self.every_seconds} s" if self.cron is None else f"{self.cron} {self.time_zone}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an entry is. `done_at`: the last scheduled time that is settled; `begun_at`: one that is under way."""

    done_at: int | None = None
    begun_at: int | None = None


@dataclass(frozen=True, slots=True)
class Introduce:
    """An entry that is seen for the first time: what came before is not made up for."""

    at: int


@dataclass(frozen=True, slots=True)
class Resume:
    """A run was begun, and whoever began it has not ended it."""

    scheduled_at: int


@dataclass(frozen=True, slots=True)
class Run:
    """A run is due. `left_out` runs before it are too late."""

    scheduled_at: int
    left_out: int


@dataclass(frozen=True, slots=True)
class LeaveOut:
    """Only late runs are due, and none of them is to be made up for."""

    until: int
    count: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until then; None: never again."""

    until: float | None


Step = Introduce | Resume | Run | LeaveOut | Wait


def step(table: Timetable, progress: Progress, now: float, late_after_seconds: float) -> Step:
    """What to do with an entry now.

    What starts within `late_after_seconds` of its time is on time, and runs. Of what is later, `skip` runs nothing,
    `latest` the newest where nothing is on time, `all` the newest `catch_up_limit`.
    """
    if progress.begun_at is not None:
        return Resume(progress.begun_at)
    if progress.done_at is None:
        return Introduce(int(now))
    passed, due = _due(table, progress.done_at, now)
    if not due:
        return Wait(next((start for _, start in starts_after(table, progress.done_at)), None))
    late = [at for at, start in due if now - start > late_after_seconds]
    on_time = [at for at, _ in due[len(late) :]]
    made_up = {"skip": [], "latest": [] if on_time else late[-1:], "all": late[-table.catch_up_limit :]}
    chosen = [*made_up[table.catch_up], *on_time]
    if not chosen:
        return LeaveOut(late[-1], passed + len(due))
    return Run(chosen[0], passed + len(due) - len(chosen))


def _due(table: Timetable, done_at: int, now: float) -> tuple[int, list[tuple[int, float]]]:
    """Times that have come and their starts, the newest `MOST_RUNS`, and how many there were before those."""
    passed = 0
    if table.every_seconds is not None:
        passed = max(0, int(now - done_at) // table.every_seconds - MOST_RUNS)
    after = done_at + passed * (table.every_seconds or 0)
    found: deque[tuple[int, float]] = deque(maxlen=MOST_RUNS)
    for run in takewhile(lambda run: run[1] <= now, starts_after(table, after)):
        passed += len(found) == MOST_RUNS
        found.append(run)
    return passed, list(found)


def starts_after(table: Timetable, after: int) -> Iterator[tuple[int, float]]:
    """Scheduled times and when their runs start.

    The jitter is made of the run's name, so that who takes over from another waits as long. It never reaches beyond the
    next run: they keep their order.
    """
    for at, following in pairwise(times_after(table, after)):
        digest = hashlib.sha256(f"{table.name}@{at}".encode()).digest()
        most = min(table.jitter_seconds, following - at)
        yield at, at + most * int.from_bytes(digest[:4], "big") / 2**32


def times_after(table: Timetable, after: int) -> Iterator[int]:
    """Scheduled times, in their order, without the jitter."""
    if table.every_seconds is not None:
        yield from count((after // table.every_seconds + 1) * table.every_seconds, table.every_seconds)
    assert table.cron is not None
    zone = UTC if table.time_zone == "UTC" else ZoneInfo(table.time_zone)
    last = after
    for moment in CronSim(table.cron, datetime.fromtimestamp(after, zone)):
        at = int(moment.timestamp())
        # Where clocks are put back, a wall clock's time may lie before `after`; where forward, two may be one.
        if at > last:
            yield at
            last = at


def next_times(table: Timetable, after: float, most: int) -> list[int]:
    """The next scheduled times."""
    return list(islice(times_after(table, int(after)), most))


def run_name(name: str, scheduled_at: int) -> str:
    """What a run is known by: its jobs' keys are made of it, so that a run that is repeated joins itself."""
    return f"{name}@{datetime.fromtimestamp(scheduled_at, UTC):%Y-%m-%dT%H:%M:%SZ}"
