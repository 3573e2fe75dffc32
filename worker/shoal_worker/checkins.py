"""What is told of each run when it begins and when it ends: the one place where monitors of schedules hook in."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import structlog

from shoal_worker.timetable import Timetable, run_name

log = structlog.get_logger()


class RunOutcome(StrEnum):
    """What became of a run."""

    QUEUED = "queued"  #: its jobs are in the queue
    SKIPPED = "skipped"  #: jobs of a run before it had not ended
    FAILED = "failed"  #: there was nothing to read its jobs from


@dataclass(frozen=True, slots=True)
class CheckIn:
    """A run: `outcome` is None at its beginning. `scheduled_at` in Unix seconds, `seconds` since the beginning.

    A run that another beat began, and could not end, begins once more. One that is skipped has no beginning.
    """

    table: Timetable
    scheduled_at: int
    outcome: RunOutcome | None = None
    seconds: float = 0.0
    jobs: int = 0
    joined: int = 0
    #: Rows that are no jobs, and the first of them.
    faulty: int = 0
    first_faulty_line: int | None = None
    reason: str | None = None


def check_in(run: CheckIn) -> None:
    """Called at the begin and at the end of each run, on the event loop: it must not block."""
    name = run_name(run.table.name, run.scheduled_at)
    if run.outcome is None:
        log.info("scheduled_run_begins", run=name)
        return
    said: dict[str, Any] = {"jobs": run.jobs, "joined": run.joined, "seconds": round(run.seconds, 3)}
    if run.faulty:
        said |= {"faulty": run.faulty, "first_faulty_line": run.first_faulty_line}
    if run.reason:
        said["reason"] = run.reason
    tell = log.warning if run.faulty or run.reason else log.info
    tell("scheduled_run_ended", run=name, outcome=run.outcome, **said)
