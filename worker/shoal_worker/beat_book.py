"""Who leads the beats, and how far each entry is: in the Redis of `SHOAL_REDIS_URL`.

All verbs raise redis-py's errors. What a leader writes is fenced by its term: once another leads, it is refused.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from shoal import wire
from shoal.scripts import Scripts
from shoal_worker.timetable import Progress

TERMS = "shoal:beat:terms"
IDS_AT_ONCE = 50

_SCRIPTS = {name: wire.script("shoal_worker", f"beat_{name}") for name in ("lead", "resign", "write", "note")}


class TermOver(Exception):
    """Another beat leads."""


@dataclass(frozen=True, slots=True)
class Term:
    """One beat's time as leader, until its lease ends unrenewed. Times are `time.monotonic()`'s."""

    token: str
    ends_at: float
    #: What the Redis's clock is ahead of the monotonic one: all beats go by the same clock, whatever their machine's.
    clock_seconds: float

    def now(self) -> float:
        """Unix seconds."""
        return time.monotonic() + self.clock_seconds


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest run that has ended, as `shoal schedule list` shows it."""

    scheduled_at: int
    outcome: str
    jobs: int


def entry_record(name: str) -> str:
    """A hash: the last scheduled time that is settled, the one under way, and the last run."""
    return f"shoal:beat:entry:{name}"


def entry_jobs(name: str) -> str:
    """A list: jobs of the last runs that may not have ended, where overlapping runs are skipped."""
    return f"shoal:beat:jobs:{name}"


class BeatBook:
    """The state of all beats in one Redis."""

    def __init__(self, client: "Redis", name: str, lease_seconds: float) -> None:
        self._client = client
        self._name = name
        self._lease_seconds = lease_seconds
        self._scripts = Scripts(client, _SCRIPTS)

    async def lead(self) -> Term | None:
        """Take the lead or keep it; None while another beat has it."""
        asked_at = time.monotonic()
        reply: Any = await self._scripts.call(
            "lead", [wire.BEAT_LEADER, TERMS], [self._name, int(self._lease_seconds * 1000)]
        )
        token, seconds, microseconds = reply[0].decode(), int(reply[1]), int(reply[2])
        if token.partition(" ")[2] != self._name:
            return None
        return Term(token, asked_at + self._lease_seconds, seconds + microseconds / 1e6 - time.monotonic())

    async def resign(self, term: Term) -> None:
        await self._scripts.call("resign", [wire.BEAT_LEADER], [term.token])

    async def progress(self, name: str) -> Progress:
        found: Any = await self._client.hmget(entry_record(name), ["done_at", "begun_at"])
        return Progress(*(int(value) if value else None for value in found))

    async def last_run(self, name: str) -> LastRun | None:
        found: Any = await self._client.hmget(entry_record(name), ["run_at", "outcome", "jobs"])
        at, outcome, jobs = found
        return LastRun(int(at), outcome.decode(), int(jobs)) if at else None

    async def settle(self, term: Term, name: str, until: int) -> None:
        """All runs until then are done, or need none."""
        await self._write(term, name, {"done_at": until})

    async def begin(self, term: Term, name: str, scheduled_at: int) -> None:
        """From now on whoever leads ends this run."""
        await self._write(term, name, {"begun_at": scheduled_at})

    async def end(self, term: Term, name: str, run: LastRun) -> None:
        at = run.scheduled_at
        fields: dict[str, str | int] = {"done_at": at, "begun_at": "", "run_at": at}
        fields |= {"outcome": run.outcome, "jobs": run.jobs}
        await self._write(term, name, fields)

    async def _write(self, term: Term, name: str, fields: dict[str, str | int]) -> None:
        values = [value for pair in fields.items() for value in pair]
        if not await self._scripts.call("write", [wire.BEAT_LEADER, entry_record(name)], [term.token, *values]):
            raise TermOver

    async def note_jobs(self, term: Term, name: str, job_ids: Sequence[str]) -> None:
        """Remember jobs, to see later whether they have ended."""
        if not await self._scripts.call("note", [wire.BEAT_LEADER, entry_jobs(name)], [term.token, *job_ids]):
            raise TermOver

    async def noted_jobs(self, name: str) -> list[str]:
        """Some of those that are remembered, the newest."""
        found: Any = await self._client.lrange(entry_jobs(name), -IDS_AT_ONCE, -1)
        return [job_id.decode() for job_id in found]

    async def forget_jobs(self, name: str, count: int) -> None:
        """Forget so many, the newest."""
        await self._client.ltrim(entry_jobs(name), 0, -count - 1)

    async def aclose(self) -> None:
        await self._client.aclose()
