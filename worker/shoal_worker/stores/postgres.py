"""Results, leases and dead letters in Postgres.

Every verb is one statement for all jobs that ask at the same moment (`shoal.postgres.Grouped`), so it happens whole or
not at all, and safe to repeat, so a lost reply is asked again. A server that is away, full or read-only is waited for:
an answer that was paid for is not thrown away because the store restarts.
"""

import asyncio
from random import Random
from typing import Any

import psycopg
import structlog

from shoal import records
from shoal.deadletters import fingerprint
from shoal.errors import JobCancelled, JobFailed
from shoal.jobs import DeadLetter, JobMessage, Outcome, Status
from shoal.postgres import Database, Grouped, Row, exact_or_json, is_away, statement, storable
from shoal_worker.ports import Begun, Granted, Held, Stored
from shoal_worker.stores.postgres_calls import PostgresCalls

#: Rows deleted in one statement: some milliseconds of work, so that jobs do not wait behind it.
FORGET_AT_ONCE = 500
_SQL = {
    name: statement("shoal_worker.stores", name) for name in ("begin", "renew", "finish", "park", "alias", "forget")
}
_ENDING = ("id", "holder", "status", "kind", "record", "exact", "finished_at")
_LETTER = ("cause", "fingerprint", "reason", "attempts", "letter")

log = structlog.get_logger()


class PostgresStore:
    """`ports.JobStore` on one Postgres."""

    def __init__(self, database: Database, *, lease_seconds: float, keep_seconds: int, rng: Random) -> None:
        self._database = database
        self._rng = rng
        lease, keep = {"lease_seconds": lease_seconds}, {"keep_seconds": float(keep_seconds)}
        self._begin = database.grouped(_SQL["begin"], ("id", "holder"), **lease, **keep)
        self._renew = database.grouped(_SQL["renew"], ("id", "holder"), **lease)
        self._ended = database.grouped(_SQL["finish"], (*_ENDING, *_LETTER), **keep)
        self.calls = PostgresCalls(database, self._call)
        self._park = database.grouped(_SQL["park"], ("id", "holder", "message", "after_seconds"))

        self._alias = database.grouped(_SQL["alias"], ("job_id", "alias"))

    async def begin(self, job_id: str, holder: str) -> Begun:
        while True:
            row = await self._call(self._begin, job_id, holder)
            _, deliveries, record, held_seconds = row or (job_id, None, None, None)
            if deliveries is not None:
                return Granted(deliveries)
            if record is not None:
                return Stored(records.decoded(record.encode()))
            if held_seconds:
                return Held(held_seconds)
            # It ended, or its lease ran out, while the statement ran: ask again.

    async def renew(self, job_id: str, holder: str) -> bool:
        """False when the lease has gone to somebody else. Not insisted on: the next round tries again."""
        return await self._renew.call(job_id, holder) is not None

    async def answer(self, outcome: Outcome[Any], holder: str) -> bool:
        """Store an answer; False when the job had ended before."""
        record = records.answered(outcome)
        ending = _ending(outcome.job_id, holder, Status.COMPLETED, outcome.kind, record, outcome.finished_at)
        return await self._call(self._ended, *ending, *_NO_LETTER) is not None

    async def bury(self, letter: DeadLetter, error: JobFailed, holder: str = "") -> bool:
        """Store a dead letter and the failure as the job's result; False when the job had ended before."""
        record = records.failed(error, letter.died_at)
        ending = _ending(letter.id, holder, Status.DISCARDED, letter.kind, record, letter.died_at)
        buried = (letter.cause, fingerprint(letter), storable(letter.reason), letter.attempts, letter.model_dump_json())
        return await self._call(self._ended, *ending, *buried) is not None

    async def cancel(self, error: JobCancelled, now: float) -> bool:
        """Store that a job was cancelled; False when it had ended before."""
        ending = _ending(error.job_id, "", Status.CANCELLED, "", records.failed(error, now), now)
        return await self._call(self._ended, *ending, *_NO_LETTER) is not None

    async def alias(self, job_id: str, alias: str) -> None:
        """However the job ends, that is stored under this id as well."""
        await self._call(self._alias, job_id, alias)

    async def repeat(self, ending: Outcome[Any] | JobFailed, now: float) -> bool:
        """Store an ending under the id that it names; False where there is one."""
        record, status = records.ended(ending, now)
        kind, at = (ending.kind, ending.finished_at) if isinstance(ending, Outcome) else ("", now)
        row = _ending(ending.job_id, "", status, kind, record, at)
        return await self._call(self._ended, *row, *_NO_LETTER) is not None

    async def park(self, job_id: str, message: JobMessage, after_seconds: float, holder: str) -> None:
        """Queue the message again in some seconds, from the outbox."""
        await self._call(self._park, job_id, holder, message.model_dump_json(), after_seconds)

    async def forget_old(self, died_before: float) -> int:
        """Drop dead letters that are too old, and what has been kept long enough, some hundreds at a time."""
        values = {"died_before": died_before, "most": FORGET_AT_ONCE}
        [(count,)] = await self._database.rows(_SQL["forget"], values)
        return int(count) + await self.calls.sum_up()

    async def aclose(self) -> None:
        await self._database.aclose()

    async def _call(self, verb: Grouped, *values: Any) -> Row | None:
        tries = 0
        while True:
            try:
                return await verb.call(*values)
            except (psycopg.Error, OSError) as error:
                if not is_away(error):
                    raise
                if tries == 0:
                    log.warning("store_is_away", error=type(error).__name__)
                tries += 1
                await asyncio.sleep(self._rng.uniform(0.1, 0.2 * 2 ** min(tries, 4)))


_NO_LETTER = (None,) * len(_LETTER)


def _ending(job_id: str, holder: str, status: Status, kind: str, record: bytes, finished_at: float) -> Row:
    jsonb, exact = exact_or_json(record.decode())
    return storable(job_id), holder, status, storable(kind), jsonb, exact, finished_at
