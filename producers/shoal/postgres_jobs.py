"""Jobs, endings and dead letters in Postgres, with an outbox in front of the queue.

A job is accepted when its row is committed. Its message goes to the queue at once; one that does not get there (a
producer died, the queue is away) is published from the outbox by a worker.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from typing import Any

import psycopg
from pydantic import ValidationError

from shoal import wire
from shoal.costs import COST_FIELDS, Cost, Labels
from shoal.errors import QueueUnavailable, ShoalError, UnknownJob
from shoal.jobs import DeadLetter, JobMessage, Status
from shoal.ports import Claimed, Group, Pause
from shoal.postgres import Database, Grouped, Row, exact_or_json, in_words, is_away, is_certificate_fault, statement
from shoal.publisher import Publisher
from shoal.signing import Signer

#: A message that is not in the queue after this long is published by somebody else.
OUTBOX_SECONDS = 5.0
CHANNEL = "shoal_endings"
HEARD_SECONDS = 2.0
DUE_AT_ONCE = 200
DUE_AGAIN_SECONDS = 10.0
#: Where more is parked, it is as many as the database's own statistics say.
COUNTED_MOST = 20_000
_LETTERS_PER_PAGE = 100
_NAMES = ("claim", "forgotten", "reclaim", "joined", "due", "published", "recover", "cancel")
_SQL = {name: statement("shoal", name) for name in _NAMES}


@contextmanager
def _unavailable() -> Iterator[None]:
    """The database's errors as ours."""
    try:
        yield
    except (psycopg.Error, OSError) as error:
        if is_certificate_fault(error):
            raise QueueUnavailable(f"the database cannot be asked: {in_words(error)}") from error
        if is_away(error):
            raise QueueUnavailable(f"the database did not answer: {type(error).__name__}") from error
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
            raise ShoalError("the database has none of our tables yet, or old ones: run `shoal migrate`") from None
        # The database's own words may show the row.
        raise ShoalError(f"the database refused a statement: {type(error).__name__}") from None


class PostgresJobs:
    """`ports.JobBook` on one Postgres, in front of a queue elsewhere."""

    def __init__(self, database: Database, signer: Signer | None, publisher: Publisher) -> None:
        self._database = database
        self._signer = signer
        self._publisher = publisher
        columns = ("id", "key", "fingerprint", "kind", "tenant", "message", "enqueued_at", "expires_at", "keep_until")
        self._claims = Grouped(columns, self._claim)
        self._published = database.grouped(_SQL["published"], ("ids", "marks"))
        self.dead = PostgresDeadLetters(database)
        self.costs = PostgresCosts(database)

    async def enqueue(self, message: JobMessage, kept_seconds: int) -> Claimed:
        became, mark = await self._claimed(message, kept_seconds)
        if became == Claimed.QUEUED:
            await self._publish_at_once([(message, mark)])
        return became

    async def enqueue_pack(self, messages: Sequence[JobMessage], kept_seconds: int) -> list[Claimed]:
        claims = await asyncio.gather(*(self._claimed(message, kept_seconds) for message in messages))
        pairs = zip(messages, claims, strict=True)
        await self._publish_at_once([(message, mark) for message, (became, mark) in pairs if became == Claimed.QUEUED])
        return [became for became, _ in claims]

    async def _claimed(self, message: JobMessage, kept_seconds: int) -> tuple[Claimed, Any]:
        """What became of it, and the mark of its place in the outbox."""
        values = (message.id, message.key, message.fingerprint, message.kind, message.tenant)
        times = (message.enqueued_at, message.expires_at, message.enqueued_at + kept_seconds)
        with _unavailable():
            row = await self._claims.call(*values, message.model_dump_json(), *times)
        assert row is not None
        _, became, mark = row
        return Claimed(became), mark

    async def _publish_at_once(self, messages: list[tuple[JobMessage, Any]]) -> None:
        """In the outbox the jobs are safe: workers publish what stays there."""
        texts = self._publisher.packed([message for message, _ in messages], self._signer)
        with suppress(QueueUnavailable, psycopg.Error, OSError):
            await self._publish(texts, messages)

    async def _claim(self, arrays: dict[str, Any]) -> list[Row]:
        async with self._database.connection() as connection, connection.transaction():
            queued = await _queued(connection, arrays)
            known_already = _without(arrays, queued.keys())
            if forgotten := await _forgotten(connection, known_already):
                gone = _without(known_already, set(known_already["id"]) - forgotten)
                queued |= await _queued(connection, gone)
            if ended := [job_id for job_id, was_there, _ in queued.values() if was_there]:
                await connection.execute(_SQL["reclaim"].encode(), {"ids": ended})
            there = [job_id for job_id in arrays["id"] if job_id not in queued]
            known = await _fingerprints(connection, there) if there else {}
            asked = dict(zip(arrays["id"], arrays["fingerprint"], strict=True))
            joined = [job_id for job_id in there if known.get(job_id) == asked[job_id]]
            if joined:
                await connection.execute(_SQL["joined"].encode(), {"ids": joined})
        rows: list[Row] = [(job_id, Claimed.QUEUED, mark) for job_id, _, mark in queued.values()]
        rows += [(job_id, Claimed.JOINED, None) for job_id in joined]
        return rows + [(job_id, Claimed.CONFLICT, None) for job_id in there if job_id not in joined]

    async def _publish(self, texts: Sequence[str], messages: list[tuple[JobMessage, Any]]) -> None:
        """Into the queue, and out of the outbox."""
        if texts:
            await self._publisher.publish(texts)
            await asyncio.gather(*(self._published.call(message.id, mark) for message, mark in messages))

    async def publish_due(self) -> int:
        values = {"claim_seconds": DUE_AGAIN_SECONDS, "most": DUE_AT_ONCE}
        with _unavailable():
            rows = await self._database.rows(_SQL["due"], values)
            due = [(message, mark) for _, text, mark in rows if (message := _message(text))]
            await self._publish([wire.message(message, self._signer) for message, _ in due], due)
        return len(rows)

    async def parked(self) -> int:
        sql = """
            SELECT CASE WHEN n < %(most)s THEN n ELSE greatest(n, reltuples::bigint) END
            FROM pg_class, (
              SELECT count(*) AS n FROM (SELECT FROM shoal.jobs WHERE due_at IS NOT NULL LIMIT %(most)s) AS parked
            ) AS counted
            WHERE oid = 'shoal.jobs_due'::regclass
        """
        with _unavailable():
            [(count,)] = await self._database.rows(sql, {"most": COUNTED_MOST})
        return int(count)

    async def recover(self, older_than_seconds: float = 0.0) -> int:
        """Queue again what was accepted, never answered and is not being worked on; how many jobs."""
        values = {"older_than_seconds": older_than_seconds}
        with _unavailable():
            async with self._database.connection() as connection:
                cursor = await connection.execute(_SQL["recover"].encode(), values)
                return cursor.rowcount

    async def status(self, job_id: str) -> Status | None:
        sql = """
            SELECT coalesce(e.status, j.status)
            FROM (SELECT %(id)s::text AS id) AS a
            LEFT JOIN shoal.jobs AS j USING (id) LEFT JOIN shoal.endings AS e ON e.job_id = a.id
        """
        with _unavailable():
            [(status,)] = await self._database.rows(sql, {"id": job_id})
        return Status(status) if status else None

    async def pause(self, job_id: str) -> Pause | None:
        sql = """
            SELECT extract(epoch FROM due_at)::float8, message::jsonb #>> '{history,-1,cause}' FROM shoal.jobs
            WHERE id = %(id)s AND status = 'retryable' AND due_at IS NOT NULL AND message IS NOT NULL
        """
        with _unavailable():
            rows = await self._database.rows(sql, {"id": job_id})
        return Pause(rows[0][0], rows[0][1] or "lease_held") if rows else None

    async def cancel(self, job_id: str, record: bytes, kept_seconds: int) -> Status | None:
        jsonb, exact = exact_or_json(record.decode())
        values = {"id": job_id, "record": jsonb, "exact": exact, "now": time.time(), "keep_seconds": kept_seconds}
        with _unavailable():
            rows = await self._database.rows(_SQL["cancel"], values)
        return Status(rows[0][0]) if rows else None

    async def records(self, job_ids: Sequence[str]) -> list[bytes | None]:
        sql = "SELECT job_id, coalesce(exact, record::text) FROM shoal.endings WHERE job_id = ANY(%(ids)s::text[])"
        with _unavailable():
            rows = await self._database.rows(sql, {"ids": list(job_ids)})
        found = {job_id: text.encode() for job_id, text in rows}
        return [found.get(job_id) for job_id in job_ids]

    def announcements(self) -> "PostgresAnnouncements":
        return PostgresAnnouncements(self._database)

    async def aclose(self) -> None:
        await self._publisher.aclose()
        await self._database.aclose()


def _message(text: str | None) -> JobMessage | None:
    """What stands in the outbox. Who has written something else there by hand must not stop the others."""
    try:
        return JobMessage.model_validate_json(text or "", extra="ignore")
    except ValidationError:
        return None


async def _queued(connection: psycopg.AsyncConnection, arrays: dict[str, Any]) -> dict[str, Row]:
    cursor = await connection.execute(_SQL["claim"].encode(), {**arrays, "grace_seconds": OUTBOX_SECONDS})
    return {row[0]: row for row in await cursor.fetchall()}


def _without(arrays: dict[str, Any], job_ids: Container[str]) -> dict[str, Any]:
    """The columns of all other jobs."""
    places = [place for place, job_id in enumerate(arrays["id"]) if job_id not in job_ids]
    return {name: [values[place] for place in places] for name, values in arrays.items()}


async def _forgotten(connection: psycopg.AsyncConnection, arrays: dict[str, Any]) -> set[str]:
    if not arrays["id"]:
        return set()
    values = {"ids": arrays["id"], "fingerprints": arrays["fingerprint"]}
    cursor = await connection.execute(_SQL["forgotten"].encode(), values)
    return {job_id for (job_id,) in await cursor.fetchall()}


async def _fingerprints(connection: psycopg.AsyncConnection, job_ids: list[str]) -> dict[str, str]:
    sql = b"SELECT id, fingerprint FROM shoal.jobs WHERE id = ANY(%(ids)s::text[])"
    cursor = await connection.execute(sql, {"ids": job_ids})
    return dict(await cursor.fetchall())


class PostgresAnnouncements:
    """One LISTEN for all jobs: each commit of a worker tells the ids that have ended."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: psycopg.AsyncConnection | None = None
        self._following: set[str] = set()
        self._is_open = asyncio.Lock()

    async def follow(self, job_ids: Sequence[str]) -> None:
        self._following.update(job_ids)
        await self._listening()

    async def unfollow(self, job_ids: Sequence[str]) -> None:
        self._following.difference_update(job_ids)

    async def heard(self) -> list[tuple[str, bytes | None]]:
        connection = await self._listening()
        ids: set[str] = set()
        with _unavailable():
            async for notice in connection.notifies(timeout=HEARD_SECONDS, stop_after=1):
                ids.update(notice.payload.split(","))
        return [(job_id, None) for job_id in ids & self._following]

    async def _listening(self) -> psycopg.AsyncConnection:
        async with self._is_open:
            if self._connection is None or self._connection.closed:
                with _unavailable():
                    self._connection = await self._database.connect()
                    await self._connection.execute(f"LISTEN {CHANNEL}".encode())
            return self._connection

    async def aclose(self) -> None:
        if self._connection is not None:
            await self._connection.close()


class PostgresDeadLetters:
    """`ports.DeadLetters` on one Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def letter(self, job_id: str) -> DeadLetter:
        sql = "SELECT letter FROM shoal.dead_letters WHERE job_id = %(id)s"
        with _unavailable():
            rows = await self._database.rows(sql, {"id": job_id})
        if not rows:
            raise UnknownJob(f"no dead letter {job_id}")
        return DeadLetter.model_validate_json(rows[0][0], extra="ignore")

    async def walk(self, cause: str | None = None) -> AsyncIterator[DeadLetter]:
        sql = """
            SELECT letter, died_at, job_id FROM shoal.dead_letters
            WHERE (%(cause)s::text IS NULL OR %(cause)s IN (cause, fingerprint))
              AND (%(died_at)s::timestamptz IS NULL OR (died_at, job_id) < (%(died_at)s, %(job_id)s))
            ORDER BY died_at DESC, job_id DESC LIMIT %(most)s
        """
        died_at: Any = None
        job_id = ""
        while True:
            values = {"cause": cause, "died_at": died_at, "job_id": job_id, "most": _LETTERS_PER_PAGE}
            with _unavailable():
                rows = await self._database.rows(sql, values)
            for text, died_at, job_id in rows:  # noqa: B007 the last one is where the next page begins
                yield DeadLetter.model_validate_json(text, extra="ignore")
            if len(rows) < _LETTERS_PER_PAGE:
                return

    async def groups(self) -> list[Group]:
        sql = """
            SELECT f.fingerprint, f.letters, d.letter
            FROM shoal.failures AS f JOIN shoal.dead_letters AS d ON d.job_id = f.newest_job_id
            ORDER BY f.letters DESC
        """
        with _unavailable():
            rows = await self._database.rows(sql, {})
        return [Group(name, count, DeadLetter.model_validate_json(text, extra="ignore")) for name, count, text in rows]

    async def causes(self) -> dict[str, int]:
        with _unavailable():
            rows = await self._database.rows("SELECT cause, count(*) FROM shoal.dead_letters GROUP BY cause", {})
        return dict(rows)

    async def drop(self, job_ids: Iterable[str]) -> int:
        sql = b"DELETE FROM shoal.dead_letters WHERE job_id = ANY(%(ids)s::text[])"
        with _unavailable():
            async with self._database.connection() as connection:
                cursor = await connection.execute(sql, {"ids": list(job_ids)})
                return cursor.rowcount


class PostgresCosts:
    """`costs.Costs` of one Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def between(self, first: date, last: date) -> dict[Labels, Cost]:
        sums = ", ".join(COST_FIELDS)
        sql = f"SELECT day, kind, tenant, model, {sums} FROM shoal.cost WHERE day BETWEEN %(first)s AND %(last)s"  # noqa: S608 our own names
        with _unavailable():
            rows = await self._database.rows(sql, {"first": first, "last": last})
        return {Labels(*row[:4]): Cost(*row[4:]) for row in rows}
