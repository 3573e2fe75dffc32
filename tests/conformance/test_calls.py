"""The ledger of calls, through its port: what every store of it must do. `books` gives each store with its reader."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from redis.asyncio import Redis

from shoal.costs import Cost, Costs, Labels, RedisCosts, nano_usd, total
from shoal.jobs import Usage
from shoal.postgres import Database
from shoal.postgres_jobs import PostgresCosts
from shoal_worker.ports import Call, CallLedger, Settlement
from shoal_worker.stores.postgres import PostgresStore
from shoal_worker.stores.redis import RedisStore

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
CALL = Call("c1", "job", "classify", "acme", "openai/gpt-5.4-nano", "q1", NOON, 0.002, 90.0)
USAGE = Usage(input_tokens=1_500, cached_tokens=1_024, output_tokens=40, cost_usd=0.00016548, calls=1)
PAID = Settlement(is_billed=True, usage=USAGE, cache_saved_usd=0.00018432, generation_id="gen-1")
FREE = Settlement(is_billed=False)
BILLED = Cost(
    billed_calls=1,
    billed_nano_usd=165_480,
    input_tokens=1_500,
    cached_tokens=1_024,
    output_tokens=40,
    cache_saved_nano_usd=184_320,
)
MAYBE = Cost(maybe_calls=1, maybe_nano_usd=2_000_000)
REPLAYED = Cost(replayed_calls=1)


@dataclass(frozen=True, slots=True)
class Books:
    """One store's ledger, and what `shoal cost` reads it with."""

    ledger: CallLedger
    costs: Costs

    async def sum(self) -> Cost:
        sums = await self.costs.between(date(2026, 1, 1), date(2026, 12, 31))
        return total(sums.values())


Work = Callable[[Books], Awaitable[None]]
Keep = Callable[[Work], None]


@pytest.fixture(params=["redis", "postgres"])
def keep(request: pytest.FixtureRequest, valkey: str) -> Keep:
    """Run some work on the empty books of a store."""

    async def on_postgres(work: Work) -> None:
        database = Database(url)
        try:
            await database.rows("TRUNCATE shoal.calls, shoal.cost_sums", {})
            store = PostgresStore(database, lease_seconds=1, keep_seconds=600, rng=Random(1))
            await work(Books(store.calls, PostgresCosts(database)))
        finally:
            await database.aclose()

    async def on_redis(work: Work) -> None:
        async with Redis.from_url(valkey) as client:
            await client.flushall()
            store = RedisStore(client, lease_seconds=1, keep_seconds=600, rng=Random(1))
            await work(Books(store.calls, RedisCosts(client)))

    if request.param == "redis":
        return lambda work: asyncio.run(on_redis(work))
    url = SecretStr(request.getfixturevalue("postgres"))
    return lambda work: asyncio.run(on_postgres(work))


def test_a_call_is_in_no_sum_until_it_is_settled_and_then_once(keep: Keep) -> None:
    async def work(books: Books) -> None:
        await books.ledger.open(CALL)
        await books.ledger.open(CALL)
        assert await books.sum() == Cost()
        await books.ledger.settle(CALL, PAID)
        await books.ledger.settle(CALL, PAID)
        await books.ledger.doubt(CALL, "gen-1")
        assert await books.sum() == BILLED
        assert await books.ledger.doubt_overdue() == 0

    keep(work)


def test_what_was_refused_costs_nothing(keep: Keep) -> None:
    async def work(books: Books) -> None:
        await books.ledger.open(CALL)
        await books.ledger.settle(CALL, FREE)
        await books.ledger.settle(CALL, PAID)
        assert await books.sum() == Cost()

    keep(work)


def test_a_doubt_counts_with_its_bound_until_it_is_settled(keep: Keep) -> None:
    async def work(books: Books) -> None:
        await books.ledger.open(CALL)
        await books.ledger.doubt(CALL)
        await books.ledger.doubt(CALL)
        assert await books.sum() == MAYBE
        await books.ledger.settle(CALL, PAID)
        assert await books.sum() == BILLED
        await books.ledger.doubt(CALL)
        assert await books.sum() == BILLED

    keep(work)


def test_a_call_that_its_worker_left_open_becomes_a_doubt(keep: Keep) -> None:
    async def work(books: Books) -> None:
        left = replace(CALL, overdue_seconds=0.0)
        await books.ledger.open(left)
        await books.ledger.open(replace(CALL, id="c2", question="q2"))
        assert await books.ledger.doubt_overdue() == 1
        assert await books.sum() == MAYBE
        # A worker that was only frozen settles it all the same.
        await books.ledger.settle(left, PAID)
        assert await books.sum() == BILLED

    keep(work)


async def claimed(books: Books) -> list[Call]:
    """The first that are due: a store's clock may take a second or two to come to it."""
    async with asyncio.timeout(20):
        while not (calls := await books.ledger.claim_doubts(10)):
            await asyncio.sleep(0.05)
    return calls


def test_only_a_doubt_with_a_generation_is_looked_up_and_by_one_alone(keep: Keep) -> None:
    async def work(books: Books) -> None:
        unknown = replace(CALL, id="c2", question="q2")
        for call in (CALL, unknown):
            await books.ledger.open(call)
        await books.ledger.doubt(unknown)
        await books.ledger.doubt(CALL, "gen-1")
        assert await claimed(books) == [replace(CALL, generation_id="gen-1")]
        assert await books.ledger.claim_doubts(10) == []
        await books.ledger.settle(replace(CALL, generation_id="gen-1"), PAID)
        assert await books.sum() == BILLED + MAYBE

    keep(work)


def test_an_overdue_call_is_looked_up_when_its_worker_names_the_generation_after_all(keep: Keep) -> None:
    async def work(books: Books) -> None:
        left = replace(CALL, overdue_seconds=0.0)
        await books.ledger.open(left)
        assert await books.ledger.doubt_overdue() == 1
        await books.ledger.doubt(left, "gen-1")
        assert [call.generation_id for call in await claimed(books)] == ["gen-1"]
        assert await books.sum() == MAYBE

    keep(work)


def test_a_replay_of_a_settled_call_saves_what_that_cost(keep: Keep) -> None:
    async def work(books: Books) -> None:
        again = replace(CALL, id="c2")
        await books.ledger.open(CALL)
        await books.ledger.settle(CALL, PAID)
        await books.ledger.open(again)
        await books.ledger.replayed(again, "gen-1")
        await books.ledger.replayed(again, "gen-1")
        assert await books.sum() == BILLED + REPLAYED + Cost(replay_saved_nano_usd=165_480)

    keep(work)


@pytest.mark.parametrize("was", ["open", "in doubt", "in doubt with its generation"])
def test_a_replay_names_the_generation_that_a_lost_call_was_billed_for(keep: Keep, was: str) -> None:
    async def work(books: Books) -> None:
        again = replace(CALL, id="c2")
        await books.ledger.open(CALL)
        if was != "open":
            await books.ledger.doubt(CALL, "gen-1" if "generation" in was else "")
        await books.ledger.open(again)
        await books.ledger.replayed(again, "gen-1")
        assert await books.sum() == MAYBE + REPLAYED
        (source,) = await claimed(books)
        assert source == replace(CALL, generation_id="gen-1")
        await books.ledger.settle(source, PAID)
        assert await books.sum() == BILLED + REPLAYED + Cost(replay_saved_nano_usd=165_480)

    keep(work)


def test_a_replay_settles_no_call_beside_the_one_that_was_billed(keep: Keep) -> None:
    """Three calls of one question: lost unbilled, billed, lost replay. Then a replay comes."""

    async def work(books: Books) -> None:
        lost, lost_replay, replay = (replace(CALL, id=name) for name in ("c0", "c2", "c3"))
        await books.ledger.open(lost)
        await books.ledger.doubt(lost)
        await books.ledger.open(CALL)
        await books.ledger.settle(CALL, PAID)
        await books.ledger.open(lost_replay)
        await books.ledger.doubt(lost_replay)
        await books.ledger.open(replay)
        await books.ledger.replayed(replay, "gen-1")
        assert await books.ledger.claim_doubts(10) == []
        assert await books.sum() == BILLED + MAYBE + MAYBE + REPLAYED + Cost(replay_saved_nano_usd=165_480)

    keep(work)


@pytest.mark.parametrize(
    ("other", "source_id"), [({"question": "q2"}, "gen-1"), ({"job_id": "another"}, "gen-1"), ({}, "")]
)
def test_a_replay_says_nothing_of_other_questions_nor_without_its_source(
    keep: Keep, other: dict[str, Any], source_id: str
) -> None:
    async def work(books: Books) -> None:
        await books.ledger.open(replace(CALL, id="c0", **other))
        await books.ledger.doubt(replace(CALL, id="c0", **other))
        await books.ledger.open(CALL)
        await books.ledger.replayed(CALL, source_id)
        assert await books.ledger.claim_doubts(10) == []
        assert await books.sum() == MAYBE + REPLAYED

    keep(work)


def test_old_doubts_are_forgotten_and_stay_in_the_sums(keep: Keep) -> None:
    async def work(books: Books) -> None:
        await books.ledger.open(CALL)
        await books.ledger.doubt(CALL, "gen-1")
        assert await books.ledger.forget_doubts(60.0) == 0
        assert await books.ledger.forget_doubts(0.0) == 1
        await books.ledger.settle(CALL, PAID)
        assert await books.sum() == MAYBE

    keep(work)


def test_sums_are_kept_by_the_day_of_the_start_kind_tenant_and_model(keep: Keep) -> None:
    async def work(books: Books) -> None:
        other = replace(CALL, id="c2", kind="rank", tenant="", model="a|b", started_at=NOON + 86_400)
        for call in (CALL, other):
            await books.ledger.open(call)
            await books.ledger.settle(call, PAID)
        day = date(2026, 3, 1)
        expected = {
            Labels(day, "classify", "acme", "openai/gpt-5.4-nano"): BILLED,
            Labels(day + timedelta(1), "rank", "", "a|b"): BILLED,
        }
        assert await books.costs.between(day, day + timedelta(1)) == expected
        assert list(await books.costs.between(day, day)) == [next(iter(expected))]

    keep(work)


#: What can happen to a call, in any order and as often as it likes.
STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["settle", "refuse", "doubt", "named", "overdue", "replayed"])),
    max_size=24,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_happens_in_whatever_order_each_call_counts_once(keep: Keep, steps: list[tuple[int, str]]) -> None:
    """The first of settling, refusing and a replay decides; before that a doubt counts with its bound."""
    calls = [replace(CALL, id=f"c{n}", question=f"q{n}", overdue_seconds=0.0 if n % 2 else 90.0) for n in range(4)]

    async def work(books: Books) -> None:
        states = dict.fromkeys(range(4), "open")
        for call in calls:
            await books.ledger.open(call)
        for number, step in steps:
            await take(books.ledger, calls[number], step)
            expect(states, number, step)
        told = list(states.values())
        summed = await books.sum()
        assert summed.maybe_calls == told.count("maybe")
        assert summed.maybe_nano_usd == told.count("maybe") * nano_usd(CALL.bound_usd)
        assert summed.billed_nano_usd == told.count("settle") * BILLED.billed_nano_usd
        assert (summed.billed_calls, summed.replayed_calls) == (told.count("settle"), told.count("replayed"))

    keep(work)


async def take(ledger: CallLedger, call: Call, step: str) -> None:
    match step:
        case "settle":
            await ledger.settle(call, PAID)
        case "refuse":
            await ledger.settle(call, FREE)
        case "doubt":
            await ledger.doubt(call)
        case "named":
            await ledger.doubt(call, f"gen-{call.id}")
        case "overdue":
            await ledger.doubt_overdue()
        case "replayed":
            await ledger.replayed(call, "gen-of-nobody")


def expect(states: dict[int, str], number: int, step: str) -> None:
    """The model: what the books must say after a step."""
    if step == "overdue":
        states.update({n: "maybe" for n, state in states.items() if n % 2 and state == "open"})
    elif states[number] in ("open", "maybe"):
        states[number] = "maybe" if step in ("doubt", "named") else step
