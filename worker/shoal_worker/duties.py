"""What a beat does at its times: the schedule's entries, and a digest of the dead letters."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from pydantic import SecretStr

from shoal.client import AsyncShoal
from shoal.errors import InvalidJob, UnknownJob
from shoal.jobs import Args, Lane, Status
from shoal.ports import DeadLetters
from shoal_worker.beat_book import BeatBook, Term
from shoal_worker.checkins import CheckIn, RunOutcome
from shoal_worker.fanout import job_of, rows_of
from shoal_worker.schedule import OWN_PREFIX, Entry
from shoal_worker.timetable import Timetable, run_name

#: Between two looks at whether this beat still leads.
JOBS_AT_ONCE = 200
DAY_SECONDS = 86_400
DIGEST = Timetable(f"{OWN_PREFIX}dead-letters", cron="0 0 * * *")
_OVER = frozenset({Status.COMPLETED, Status.DISCARDED, Status.CANCELLED})

log = structlog.get_logger()


class EntryRuns:
    """The runs of an entry: each queues its jobs under keys of its own."""

    def __init__(
        self, entry: Entry, folder: Path, database: SecretStr | None, shoal: AsyncShoal, book: BeatBook
    ) -> None:
        self._entry = entry
        self._folder = folder
        self._database = database
        self._shoal = shoal
        self._book = book
        self.table = entry.timetable

    async def is_busy(self) -> bool:
        """Whether overlapping runs are skipped, and a job of a run before has not ended. The newest end last."""
        name = self._entry.name
        while self._entry.overlap == "skip" and (ids := await self._book.noted_jobs(name)):
            if any(await asyncio.gather(*map(self._is_open, ids))):
                return True
            await self._book.forget_jobs(name, len(ids))
        return False

    async def _is_open(self, job_id: str) -> bool:
        try:
            return await self._shoal.status(job_id) not in _OVER
        except UnknownJob:
            return False

    async def run(self, lead: Callable[[], Term], begun: CheckIn) -> CheckIn:
        """Queue the jobs. Rows that are none are counted, and the others go on."""
        run, jobs = replace(begun, outcome=RunOutcome.QUEUED), list[Args[Any]]()
        async with aclosing(rows_of(self._entry, self._folder, self._database)) as lines:
            async for line in lines:
                try:
                    jobs.append(job_of(self._entry, line))
                except InvalidJob:
                    first = run.first_faulty_line or line.number
                    run = replace(run, faulty=run.faulty + 1, first_faulty_line=first)
                if len(jobs) == JOBS_AT_ONCE:
                    run, jobs = await self._queue(lead, run, jobs), []
        return await self._queue(lead, run, jobs)

    async def _queue(self, lead: Callable[[], Term], run: CheckIn, args: list[Args[Any]]) -> CheckIn:
        lead()
        lane: Lane = self._entry.lane or ("interactive" if self._entry.is_single else "bulk")
        name = run_name(self._entry.name, run.scheduled_at)
        queued = await self._shoal.enqueue_many(args, run=name, lane=lane)
        if queued and self._entry.overlap == "skip":
            await self._book.note_jobs(lead(), self._entry.name, [job.id for job in queued])
        joined = sum(job.joined for job in queued)
        return replace(run, jobs=run.jobs + len(queued), joined=run.joined + joined)


class DeadLetterDigest:
    """Once a day: of what jobs died. Causes and counts, no reasons and no texts."""

    table = DIGEST

    def __init__(self, dead: DeadLetters) -> None:
        self._dead = dead

    async def is_busy(self) -> bool:
        return False

    async def run(self, lead: Callable[[], Term], begun: CheckIn) -> CheckIn:
        lead()
        since = begun.scheduled_at - DAY_SECONDS
        new, kept = Counter[str](), Counter[str]()
        async for letter in self._dead.walk():
            if letter.died_at < since:
                break
            new[letter.cause] += 1
        for group in await self._dead.groups():
            kept[group.newest.cause] += group.count
        log.info("dead_letter_digest", new=new.total(), kept=kept.total())
        for cause, count in kept.most_common():
            log.info("dead_letters", cause=cause, new=new[cause], kept=count)
        return replace(begun, outcome=RunOutcome.QUEUED)
