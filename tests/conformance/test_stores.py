"""What every store promises, through the ports of both sides: claims, leases, endings, dead letters."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from shoal import Classify, JobFailed, ProducerSettings, postgres_jobs, records, results, wire
from shoal.book import job_book
from shoal.deadletters import fingerprint
from shoal.errors import JobCancelled, UnknownJob
from shoal.jobs import ClassifyResult, DeadLetter, JobMessage, Outcome, ScoredLabel, Status, Usage
from shoal.messages import message_of
from shoal.ports import Claimed, JobBook
from shoal.postgres import Database
from shoal.results import ResultWatcher
from shoal_worker.ports import Granted, Held, JobStore, Stored
from shoal_worker.stores.postgres import PostgresStore
from shoal_worker.stores.redis import RedisStore

LABELS = ("billing", "bug")


@dataclass
class Place:
    """One Redis or one Postgres, with as many processes at it as a test wants."""

    valkey: str
    postgres: str | None
    opened: list[Any] = field(default_factory=list)

    @property
    def settings(self) -> ProducerSettings:
        return ProducerSettings.load(redis_url=self.valkey, result_url=self.postgres)

    def book(self) -> JobBook:
        self.opened.append(book := job_book(self.settings))
        return book

    def store(self, lease_seconds: float = 60.0, keep_seconds: int = 60) -> JobStore:
        store: JobStore
        if self.postgres:
            database = Database(SecretStr(self.postgres))
            store = PostgresStore(database, lease_seconds=lease_seconds, keep_seconds=keep_seconds, rng=Random())
        else:
            client = Redis.from_url(self.valkey)
            store = RedisStore(client, lease_seconds=lease_seconds, keep_seconds=keep_seconds, rng=Random())
        self.opened.append(store)
        return store

    def message(self, number: int = 0) -> JobMessage:
        return message_of(Classify(text=f"charged twice {number}", labels=LABELS), {}, self.settings, 1e9)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for thing in self.opened:
                await thing.aclose()


@pytest.fixture(params=["redis", "postgres"])
def place(request: pytest.FixtureRequest, valkey: str) -> Place:
    return Place(valkey, request.getfixturevalue("postgres") if request.param == "postgres" else None)


def holds(place: Place, test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with place.open():
            await test()

    asyncio.run(run())


def outcome(job_id: str, label: str = "billing") -> Outcome[Any]:
    return Outcome[Any](
        job_id=job_id,
        kind="classify",
        result=ClassifyResult(labels=(ScoredLabel(name=label, confidence=0.5),), confidence_source="stated"),
        usage=Usage(cost_usd=1e-05, calls=1),
        model="m",
        attempts=1,
        queue_seconds=0.0,
        run_seconds=0.0,
        finished_at=1e9,
    )


def letter(job_id: str, reason: str = "no", died_at: float = 1e9) -> DeadLetter:
    return DeadLetter(id=job_id, kind="classify", cause="misfit", reason=reason, attempts=1, died_at=died_at)


def failure(job_id: str, reason: str = "no") -> JobFailed:
    return JobFailed(reason, job_id, "misfit", 1)


def test_the_same_work_is_claimed_once_whoever_asks(place: Place) -> None:
    async def test() -> None:
        books = [place.book() for _ in range(3)]
        message = place.message()
        became = await asyncio.gather(*(books[number % 3].enqueue(message, 60) for number in range(60)))
        assert sorted(became) == [Claimed.JOINED] * 59 + [Claimed.QUEUED]
        other = message.model_copy(update={"fingerprint": "other"})
        assert await books[0].enqueue(other, 60) == Claimed.CONFLICT
        assert await books[0].status(message.id) == Status.AVAILABLE
        assert await books[0].status("nobody") is None

    holds(place, test)


def test_many_jobs_at_once_are_each_claimed(place: Place) -> None:
    async def test() -> None:
        book = place.book()
        became = await asyncio.gather(*(book.enqueue(place.message(number), 60) for number in range(400)))
        assert set(became) == {Claimed.QUEUED}

    holds(place, test)


def test_one_of_many_attempts_gets_the_lease(place: Place) -> None:
    async def test() -> None:
        stores = [place.store() for _ in range(3)]
        begun = await asyncio.gather(*(stores[number % 3].begin("j", f"holder {number}") for number in range(60)))
        assert sum(isinstance(one, Granted) for one in begun) == 1
        held = [one for one in begun if isinstance(one, Held)]
        assert len(held) == 59
        assert all(50 < one.seconds <= 60 for one in held)

    holds(place, test)


def test_an_attempt_counts_until_the_job_is_given_back(place: Place) -> None:
    async def test() -> None:
        book, store, message = place.book(), place.store(), place.message()
        await book.enqueue(message, 60)
        assert await store.begin(message.id, "a") == Granted(1)
        assert await store.begin(message.id, "a") == Granted(2)
        assert await book.status(message.id) == Status.RUNNING
        await store.park(message.id, message, 30.0, "a")
        assert await book.status(message.id) == Status.RETRYABLE
        assert await store.begin(message.id, "b") == Granted(1)

    holds(place, test)


def test_a_second_delivery_that_is_parked_leaves_the_first_alone(place: Place) -> None:
    async def test() -> None:
        book, store, message = place.book(), place.store(), place.message()
        await book.enqueue(message, 60)
        await store.begin(message.id, "first")
        assert isinstance(await store.begin(message.id, "second"), Held)
        await store.park(message.id, message, 30.0, "second")
        assert await book.status(message.id) == Status.RUNNING
        assert await store.renew(message.id, "first")
        assert await store.answer(outcome(message.id), "first")

    holds(place, test)


def test_the_first_answer_is_the_answer(place: Place) -> None:
    async def test() -> None:
        book = place.book()
        stores = [place.store() for _ in range(3)]
        given = [outcome("j", f"label {number}") for number in range(30)]
        won = await asyncio.gather(*(stores[n % 3].answer(one, f"holder {n}") for n, one in enumerate(given)))
        assert sum(won) == 1
        [record] = await book.records(["j"])
        assert record is not None
        assert records.decoded(record) == given[won.index(True)]
        assert not await stores[0].bury(letter("j"), failure("j"))
        assert not await stores[0].cancel(JobCancelled("", "j"), 1e9)
        assert await book.records(["j", "k"]) == [record, None]
        begun = await stores[0].begin("j", "late")
        assert begun == Stored(given[won.index(True)])

    holds(place, test)


def test_who_has_lost_the_lease_neither_ends_the_job_nor_takes_the_lease(place: Place) -> None:
    async def test() -> None:
        book, frozen, living = place.book(), place.store(lease_seconds=0.01), place.store()
        message = place.message()
        await book.enqueue(message, 60)
        assert isinstance(await frozen.begin(message.id, "frozen"), Granted)
        while isinstance(await living.begin(message.id, "living"), Held):
            await asyncio.sleep(0.005)
        assert not await frozen.renew(message.id, "frozen")
        assert not await frozen.bury(letter(message.id), failure(message.id), "frozen")
        await frozen.park(message.id, message, 30.0, "frozen")
        assert await living.renew(message.id, "living")
        assert await book.status(message.id) == Status.RUNNING
        assert await book.records([message.id]) == [None]
        with pytest.raises(UnknownJob):
            await book.dead.letter(message.id)
        assert await living.bury(letter(message.id), failure(message.id), "living")
        assert (await book.dead.letter(message.id)).id == message.id

    holds(place, test)


def test_a_late_answer_that_was_paid_for_counts_and_ends_the_other_attempt_harmlessly(place: Place) -> None:
    async def test() -> None:
        book, frozen, living = place.book(), place.store(lease_seconds=0.01), place.store()
        message = place.message()
        await book.enqueue(message, 60)
        await frozen.begin(message.id, "frozen")
        while isinstance(await living.begin(message.id, "living"), Held):
            await asyncio.sleep(0.005)
        assert await frozen.answer(outcome(message.id, "late"), "frozen")
        assert await living.renew(message.id, "living")
        assert not await living.answer(outcome(message.id, "second"), "living")
        assert not await living.renew(message.id, "living")
        assert await book.status(message.id) == Status.COMPLETED

    holds(place, test)


def test_what_has_ended_badly_may_be_enqueued_again(place: Place) -> None:
    async def test() -> None:
        book, store, message = place.book(), place.store(), place.message()
        await book.enqueue(message, 60)
        assert await store.bury(letter(message.id), failure(message.id))
        assert await book.status(message.id) == Status.DISCARDED
        assert await book.enqueue(message, 60) == Claimed.QUEUED
        assert await book.records([message.id]) == [None]
        assert await book.dead.drop([message.id]) == 0
        assert await store.begin(message.id, "a") == Granted(1)
        await store.answer(outcome(message.id), "a")
        assert await book.enqueue(message, 60) == Claimed.JOINED

    holds(place, test)


def test_a_cancelled_job_has_ended(place: Place) -> None:
    async def test() -> None:
        book, store, message = place.book(), place.store(), place.message()
        record = records.failed(JobCancelled("by a producer", message.id, "cancelled"), 1e9)
        assert await book.cancel(message.id, record, 60) is None
        await book.enqueue(message, 60)
        assert await book.cancel(message.id, record, 60) == Status.AVAILABLE
        assert await book.cancel(message.id, record, 60) == Status.CANCELLED
        begun = await store.begin(message.id, "a")
        assert isinstance(begun, Stored)
        assert isinstance(begun.ending, JobCancelled)
        assert not await store.answer(outcome(message.id), "a")
        await store.park(message.id, message, 1.0, "a")
        assert await book.status(message.id) == Status.CANCELLED
        assert await book.enqueue(message, 60) == Claimed.QUEUED

    holds(place, test)


def test_an_answer_is_kept_for_its_time_and_then_forgotten(place: Place) -> None:
    async def test() -> None:
        book, store, message = place.book(), place.store(keep_seconds=1), place.message()
        await book.enqueue(message, 60)
        await store.answer(outcome(message.id), "")
        assert await book.records([message.id]) != [None]
        async with asyncio.timeout(20):
            while await book.records([message.id]) != [None] or await book.status(message.id):
                await store.forget_old(died_before=0.0)
                await asyncio.sleep(0.05)
        assert await book.enqueue(message, 60) == Claimed.QUEUED

    holds(place, test)


def test_an_answer_is_announced_to_who_waits(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "LOOK_AGAIN_SECONDS", 3_600.0)

    async def test() -> None:
        book, store = place.book(), place.store()
        watcher = ResultWatcher(book)
        place.opened.insert(0, watcher)
        ids = [f"{number}-{'x' * 90}" for number in range(300)]
        await store.answer(outcome(ids[0]), "")
        waiting = [watcher.answer(job_id) for job_id in ids]
        async with asyncio.timeout(20):
            await waiting[0]
            await asyncio.gather(*(store.answer(outcome(job_id), "") for job_id in ids[1:]))
            answers = await asyncio.gather(*waiting)
        assert [answer.job_id for answer in answers] == ids

    holds(place, test)


def test_any_text_is_kept_as_it_is(place: Place) -> None:
    text = "NUL \0, snow ☃, a tab\t, \\u0000 spelt out, 𝔘"

    async def test() -> None:
        book, store = place.book(), place.store()
        given = outcome("j", text)
        await store.answer(given, "")
        await store.bury(letter("k", text), failure("k", text))
        found = [records.decoded(record) for record in await book.records(["j", "k"]) if record]
        assert found[0] == given
        assert isinstance(found[1], JobFailed)
        assert found[1].reason == text
        assert (await book.dead.letter("k")).reason == text

    holds(place, test)


def test_letters_are_walked_newest_first_grouped_and_dropped(place: Place) -> None:
    async def test() -> None:
        book, store = place.book(), place.store()
        buried = [letter(f"{n:03}", reason=f"{n} tokens" if n % 3 else "other", died_at=1e9 + n) for n in range(250)]
        await asyncio.gather(*(store.bury(one, failure(one.id)) for one in buried))
        assert [one async for one in book.dead.walk()] == buried[::-1]
        others = [one for one in buried if one.reason == "other"][::-1]
        assert [one async for one in book.dead.walk(fingerprint(others[0]))] == others
        assert [one async for one in book.dead.walk("misfit")] == buried[::-1]
        assert [one async for one in book.dead.walk("nothing")] == []
        groups = await book.dead.groups()
        assert [(group.count, group.newest.id) for group in groups] == [(166, "248"), (84, "249")]
        assert await book.dead.drop(["000", "001", "nobody"]) == 2
        assert await store.forget_old(died_before=1e9 + 100) == 98
        assert len([one async for one in book.dead.walk()]) == 150

    holds(place, test)


def test_letters_are_counted_by_cause_whatever_becomes_of_them(place: Place) -> None:
    async def test() -> None:
        book, store, message = place.book(), place.store(), place.message()
        await book.enqueue(message, 60)
        others = [letter(f"{number}", died_at=1e9 + number) for number in range(5)]
        quoting = letter("quoting", reason='it said "cause":"misfit", twice').model_copy(update={"cause": "forged"})
        for one in (*others, quoting, letter(message.id).model_copy(update={"cause": "truncated"})):
            await store.bury(one, failure(one.id))
        assert await book.dead.causes() == {"misfit": 5, "forged": 1, "truncated": 1}
        assert await book.enqueue(message, 60) == Claimed.QUEUED
        assert await book.dead.drop(["4", "nobody"]) == 1
        assert await book.dead.causes() == {"misfit": 4, "forged": 1}
        await store.forget_old(died_before=1e9 + 2)
        assert await book.dead.causes() == {"misfit": 2}
        await book.dead.drop(["2", "3"])
        assert await book.dead.causes() == {}

    holds(place, test)


def test_letters_of_a_worker_that_did_not_count_them_are_counted_at_the_next_upkeep(valkey: str) -> None:
    place = Place(valkey, None)

    async def test() -> None:
        book, store = place.book(), place.store()
        async with Redis.from_url(valkey) as client:
            for number in range(3):
                await client.hset(wire.DEAD, f"{number}", letter(f"{number}").model_dump_json())
                await client.zadd(wire.DEAD_TIMES, {f"{number}": 1e9})
        assert await book.dead.causes() == {}
        await store.forget_old(died_before=0.0)
        assert await book.dead.causes() == {"misfit": 3}

    holds(place, test)


def test_what_is_parked_is_counted(place: Place) -> None:
    async def test() -> None:
        book, store, message = place.book(), place.store(), place.message()
        await book.enqueue(message, 60)
        assert await book.parked() == 0
        await store.begin(message.id, "w")
        await store.park(message.id, message, 3_600.0, "w")
        assert await book.parked() == 1

    holds(place, test)


def test_more_parked_jobs_than_are_counted_are_as_many_as_statistics_say(
    postgres: str, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_jobs, "COUNTED_MOST", 2)
    place = Place(valkey, postgres)

    async def test() -> None:
        book, store = place.book(), place.store()
        for number in range(5):
            await store.begin(f"{number}", "w")
            await store.park(f"{number}", place.message(number).model_copy(update={"id": f"{number}"}), 3_600.0, "w")
        async with await psycopg.AsyncConnection.connect(postgres, autocommit=True) as connection:
            await connection.execute("ANALYZE shoal.jobs")
        assert await book.parked() == 5

    holds(place, test)
