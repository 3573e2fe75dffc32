"""The beat: one of however many there are leads, and begins each run at its time.

A run is a name and a scheduled time. That it is begun is written down before its first job is queued, and its jobs'
keys are made of it: whoever leads next goes on with it, and what it queues again joins.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import structlog
from redis.exceptions import RedisError

from shoal.errors import ShoalError
from shoal_worker.beat_book import BeatBook, LastRun, Term, TermOver
from shoal_worker.checkins import CheckIn, RunOutcome, check_in
from shoal_worker.fanout import SourceAway, SourceFailed
from shoal_worker.sentry import monitor
from shoal_worker.timetable import Introduce, LeaveOut, Resume, Run, Timetable, Wait, step

#: How long a failure is let alone: of the queue, of a database, of our own code.
PAUSE_SECONDS = 2.0
#: Nobody sleeps longer, for the clock may be set.
MOST_SECONDS = 30.0

log = structlog.get_logger()


class Duty(Protocol):
    """What is to be done at the times of a timetable."""

    @property
    def table(self) -> Timetable: ...

    async def is_busy(self) -> bool:
        """Whether a run that is due must be skipped."""
        ...

    async def run(self, lead: Callable[[], Term], begun: CheckIn) -> CheckIn:
        """Do it. `lead` gives the term, and raises `TermOver` when it is over.

        Raises `SourceFailed` where to try again would not help, and anything else where it may.
        """
        ...


class Beat:
    """One beat. `late_after_seconds`: how late a run may start and be on time."""

    def __init__(self, book: BeatBook, duties: Sequence[Duty], lease_seconds: float) -> None:
        self._book = book
        self._duties = duties
        self._renew_every_seconds = lease_seconds / 5
        # A failover takes a lease's time, and must not make runs late.
        self._late_after_seconds = 2 * lease_seconds
        self._term: Term | None = None

    async def run(self) -> None:
        """Until it is cancelled; then another may lead at once."""
        try:
            while True:
                self._term = await self._elected()
                log.info("beat_leads", term=self._term.token)
                await self._lead(self._term)
                log.warning("beat_leads_no_more", term=self._term.token)
        finally:
            if self._term:
                with suppress(RedisError, OSError):
                    await self._book.resign(self._term)

    async def _elected(self) -> Term:
        while True:
            try:
                if term := await self._book.lead():
                    return term
            except (RedisError, OSError) as error:
                log.warning("beat_waits", error=type(error).__name__)
            await asyncio.sleep(self._renew_every_seconds)

    async def _lead(self, term: Term) -> None:
        """Until the term is over."""
        tasks = [asyncio.create_task(work) for work in (self._keep(term), *map(self._follow, self._duties))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, term: Term) -> None:
        """Renew the lease; return when it is lost. A server that does not answer takes it no sooner than it ends."""
        while self._term and time.monotonic() < self._term.ends_at:
            await asyncio.sleep(self._renew_every_seconds)
            try:
                async with asyncio.timeout(self._term.ends_at - time.monotonic()):
                    kept = await self._book.lead()
            except (RedisError, OSError) as error:
                log.warning("beat_waits", error=type(error).__name__)
                continue
            if kept is None or kept.token != term.token:
                return
            self._term = kept

    def _now(self) -> Term:
        """The term as it was last renewed. Raises `TermOver` once the lease has ended."""
        if self._term is None or time.monotonic() >= self._term.ends_at:
            raise TermOver
        return self._term

    async def _follow(self, duty: Duty) -> None:
        """Do a duty at its times; return when the term is over."""
        while True:
            try:
                pause_seconds = await self._step(duty)
            except TermOver:
                return
            except Exception as error:  # noqa: BLE001 the run stays begun: the next time may do
                # Only messages of our own are known to hold no text.
                said = {"reason": str(error)} if isinstance(error, ShoalError | SourceAway) else {}
                log.warning("scheduled_run_waits", entry=duty.table.name, error=type(error).__name__, **said)
                pause_seconds = PAUSE_SECONDS
            await asyncio.sleep(min(pause_seconds, MOST_SECONDS))

    async def _step(self, duty: Duty) -> float:
        """Do what is to be done now; how many seconds nothing is."""
        name, term = duty.table.name, self._now()
        what = step(duty.table, await self._book.progress(name), term.now(), self._late_after_seconds)
        match what:
            case Introduce(at):
                await self._book.settle(term, name, at)
            case LeaveOut(until, count):
                log.warning("scheduled_runs_left_out", entry=name, count=count)
                await self._book.settle(term, name, until)
            case Resume(at):
                await self._run(duty, at)
            case Run(at, left_out):
                if left_out:
                    log.warning("scheduled_runs_left_out", entry=name, count=left_out)
                if await duty.is_busy():
                    await self._end(CheckIn(duty.table, at, RunOutcome.SKIPPED))
                else:
                    await self._book.begin(term, name, at)
                    await self._run(duty, at)
            case Wait(until):
                return MOST_SECONDS if until is None else max(0.0, until - term.now())
        return 0.0

    async def _run(self, duty: Duty, scheduled_at: int) -> None:
        begun = CheckIn(duty.table, scheduled_at)
        began_at = time.monotonic()
        check_in(begun)
        try:
            with monitor(duty.table.name, duty.table.rule, duty.table.time_zone):
                ended = await self._run_in_term(duty, begun)
        except SourceFailed as error:
            ended = replace(begun, outcome=RunOutcome.FAILED, reason=str(error))
        if ended is None:
            raise TermOver
        await self._end(replace(ended, seconds=time.monotonic() - began_at))

    async def _run_in_term(self, duty: Duty, begun: CheckIn) -> CheckIn | None:
        """None where the term is over: the run goes on elsewhere, which is no failure of it."""
        try:
            return await duty.run(self._now, begun)
        except TermOver:
            return None

    async def _end(self, run: CheckIn) -> None:
        assert run.outcome is not None
        await self._book.end(self._now(), run.table.name, LastRun(run.scheduled_at, run.outcome, run.jobs))
        check_in(run)
