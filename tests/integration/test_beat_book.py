"""Who leads the beats, on a real Valkey: one at a time, and none writes after its term."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from shoal_worker.beat_book import BeatBook, LastRun, TermOver
from shoal_worker.process import redis_client
from shoal_worker.timetable import Progress


def with_two(valkey: str, lease_seconds: float, work: Callable[[BeatBook, BeatBook], Awaitable[None]]) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            books = [BeatBook(redis_client(valkey), name, lease_seconds) for name in ("first", "second")]
            for book in books:
                stack.push_async_callback(book.aclose)
            await work(*books)

    asyncio.run(run())


def test_one_leads_until_it_resigns(valkey: str) -> None:
    async def work(first: BeatBook, second: BeatBook) -> None:
        term = await first.lead()
        assert term is not None
        assert await second.lead() is None
        renewed = await first.lead()
        assert renewed is not None
        assert renewed.token == term.token
        assert renewed.ends_at > term.ends_at
        await second.resign(term)  # anybody may say it for a term, and it ends that term only
        next_term = await second.lead()
        assert next_term is not None
        await first.resign(term)
        assert await first.lead() is None

    with_two(valkey, 30, work)


def test_who_was_frozen_past_its_lease_writes_nothing(valkey: str) -> None:
    async def work(first: BeatBook, second: BeatBook) -> None:
        old = await first.lead()
        assert old is not None
        await first.settle(old, "nightly", 100)
        await first.begin(old, "nightly", 160)
        while (new := await second.lead()) is None:
            await asyncio.sleep(0.02)
        writes: list[Callable[[], Awaitable[None]]] = [
            lambda: first.settle(old, "nightly", 400),
            lambda: first.begin(old, "nightly", 400),
            lambda: first.end(old, "nightly", LastRun(160, "queued", 7)),
            lambda: first.note_jobs(old, "nightly", ["a"]),
        ]
        for write in writes:
            with pytest.raises(TermOver):
                await write()
        assert await second.progress("nightly") == Progress(100, 160)
        assert await second.noted_jobs("nightly") == []
        await second.end(new, "nightly", LastRun(160, "queued", 3))
        assert await second.progress("nightly") == Progress(160, None)
        assert await first.last_run("nightly") == LastRun(160, "queued", 3)

    with_two(valkey, 0.2, work)


def test_jobs_are_remembered_until_they_are_forgotten(valkey: str) -> None:
    async def work(first: BeatBook, _: BeatBook) -> None:
        term = await first.lead()
        assert term is not None
        await first.note_jobs(term, "nightly", [str(number) for number in range(120)])
        assert await first.noted_jobs("nightly") == [str(number) for number in range(70, 120)]
        await first.forget_jobs("nightly", 50)
        assert await first.noted_jobs("nightly") == [str(number) for number in range(20, 70)]
        await first.forget_jobs("nightly", 50)
        await first.forget_jobs("nightly", 20)
        assert await first.noted_jobs("nightly") == []

    with_two(valkey, 30, work)
