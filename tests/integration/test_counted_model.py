"""Every way a call can end, and what the books say of it. The store is real, the model does what it is told."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random

import pytest
from redis.asyncio import Redis

from shoal import wire
from shoal.costs import Cost, RedisCosts, day_of, nano_usd, total
from shoal.jobs import Usage
from shoal_worker.calls import CountedModel, bound_usd
from shoal_worker.errors import (
    ConnectFailed,
    ContentRefused,
    DeadlineExceeded,
    EmptyAnswer,
    ProviderUnavailable,
    RateLimited,
    ReplyLost,
    WorkerError,
)
from shoal_worker.ports import ChatReply, ChatRequest, Prompt
from shoal_worker.replies import Prices
from shoal_worker.slots import Slots
from shoal_worker.stores.redis import RedisStore

PROMPT = Prompt("Do it.", "A text.", "shoal_classify", {"type": "object"}, 100)
REQUEST = ChatRequest(PROMPT, "openai/gpt-5.4-nano", "job", 5.0, kind="classify", tenant="acme")
USAGE = Usage(input_tokens=100, output_tokens=10, cost_usd=0.0000325, calls=1)
REPLY = ChatReply("{}", "stop", "openai/gpt-5.4-nano", None, "gen-1", USAGE)
BOUND = nano_usd(bound_usd(PROMPT, Prices()))
MAYBE = Cost(maybe_calls=1, maybe_nano_usd=BOUND)
BILLED = Cost(billed_calls=1, billed_nano_usd=32_500, input_tokens=100, output_tokens=10)

Answer = Callable[[ChatRequest], Awaitable[ChatReply]]


class Model:
    """Does what a test says, and has seen what was open meanwhile."""

    def __init__(self, answer: Answer, client: "Redis") -> None:
        self._answer = answer
        self._client = client
        self.open: list[int] = []

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.open.append(await self._client.hlen(wire.OPEN_CALLS))
        return await self._answer(request)


async def booked(
    url: str, answer: Answer, work: Callable[[CountedModel, "Redis"], Awaitable[None]], places: Slots | None = None
) -> Cost:
    """The books after some work; no call may be open then, and each must have been when it was sent."""
    places = places or Slots(10)
    async with Redis.from_url(url) as client:
        store = RedisStore(client, lease_seconds=1, keep_seconds=60, rng=Random(1))
        told = Model(answer, client)
        model = CountedModel(told, store.calls, places, Prices(), grace_seconds=1, now=lambda: 0.0)
        await work(model, client)
        await model.aclose()
        assert set(told.open) <= {1}
        assert places.calling == 0
        assert await client.hlen(wire.OPEN_CALLS) == await client.zcard(wire.OPEN_CALLS_DUE) == 0
        sums = await RedisCosts(client).between(day_of(0), day_of(0))
        assert all((labels.kind, labels.tenant) == ("classify", "acme") for labels in sums)
        return total(sums.values())


def after(url: str, answer: Answer) -> Cost:
    async def once(model: CountedModel, _client: "Redis") -> None:
        try:
            await model.complete(REQUEST)
        except (WorkerError, ZeroDivisionError):
            return

    return asyncio.run(booked(url, answer, once))


def test_an_answer_is_billed(valkey: str) -> None:
    async def answer(_: ChatRequest) -> ChatReply:
        return REPLY

    assert after(valkey, answer) == BILLED


@pytest.mark.parametrize(
    ("error", "cost"),
    [
        (ConnectFailed("no connection"), Cost()),
        (ProviderUnavailable("status 500", Usage(calls=1)), Cost()),
        (RateLimited("status 429", 1.0, Usage(calls=1)), Cost()),
        (ContentRefused("input blocked", Usage(calls=1)), Cost()),
        (ContentRefused("finish reason content_filter", USAGE), BILLED),
        (EmptyAnswer("nothing in it", USAGE), BILLED),
        (ReplyLost("connection lost", Usage(calls=1)), MAYBE),
        (DeadlineExceeded("no whole reply", Usage(calls=1)), MAYBE),
        (ZeroDivisionError(), MAYBE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_says_whether_it_was_billed(valkey: str, error: Exception, cost: Cost) -> None:
    async def answer(_: ChatRequest) -> ChatReply:
        raise error

    assert after(valkey, answer) == cost


def test_the_generation_of_a_lost_reply_is_kept_for_the_lookup(valkey: str) -> None:
    async def answer(request: ChatRequest) -> ChatReply:
        assert request.on_generation
        request.on_generation("gen-1")
        raise ReplyLost("cut", Usage(calls=1))

    async def lost(model: CountedModel, client: "Redis") -> None:
        with pytest.raises(ReplyLost):
            await model.complete(REQUEST)
        await model.aclose()
        assert await client.zcard(wire.MAYBE_CALLS_LOOKUPS) == 1
        (raw,) = await client.hvals(wire.MAYBE_CALLS)
        assert b'"generation_id":"gen-1"' in raw

    assert asyncio.run(booked(valkey, answer, lost)) == MAYBE


def test_a_replay_is_not_billed(valkey: str) -> None:
    async def answer(_: ChatRequest) -> ChatReply:
        return replace(REPLY, usage=Usage(calls=1), replay_of="gen-0")

    assert after(valkey, answer) == Cost(replayed_calls=1)


def test_a_cancelled_call_is_written_down_although_its_task_is_gone(valkey: str) -> None:
    called = asyncio.Event()

    async def answer(_: ChatRequest) -> ChatReply:
        called.set()
        await asyncio.Event().wait()
        return REPLY

    async def cancelled(model: CountedModel, _client: "Redis") -> None:
        task = asyncio.create_task(model.complete(REQUEST))
        await called.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert asyncio.run(booked(valkey, answer, cancelled)) == MAYBE


def test_a_call_that_is_cancelled_before_it_is_sent_costs_nothing(valkey: str) -> None:
    """The server is paused, so that the entry cannot be written in time."""

    async def answer(_: ChatRequest) -> ChatReply:
        raise AssertionError("it was sent")

    async def cancelled(model: CountedModel, _client: "Redis") -> None:
        async with Redis.from_url(valkey) as other:
            await other.client_pause(2_000, all=False)
            task = asyncio.create_task(model.complete(REQUEST))
            while not (await other.info("clients"))["blocked_clients"]:
                assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    assert asyncio.run(booked(valkey, answer, cancelled)) == Cost()


def test_a_call_that_is_cancelled_while_it_waits_for_its_place_costs_nothing(valkey: str) -> None:
    places = Slots(1)

    async def answer(_: ChatRequest) -> ChatReply:
        raise AssertionError("it was sent")

    async def cancelled(model: CountedModel, client: "Redis") -> None:
        await places.enter_call()
        task = asyncio.create_task(model.complete(REQUEST))
        while not await client.hlen(wire.OPEN_CALLS):
            assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        places.leave_call()

    assert asyncio.run(booked(valkey, answer, cancelled, places)) == Cost()


def test_no_more_calls_are_on_their_way_than_there_are_slots(valkey: str) -> None:
    on_their_way: list[int] = []
    places = Slots(3)

    async def answer(_: ChatRequest) -> ChatReply:
        on_their_way.append(places.calling)
        await asyncio.sleep(0)
        return REPLY

    async def all_at_once(url: str) -> None:
        async with Redis.from_url(url) as client:
            store = RedisStore(client, lease_seconds=1, keep_seconds=60, rng=Random(1))
            model = CountedModel(Model(answer, client), store.calls, places, Prices(), grace_seconds=1)
            await asyncio.gather(*(model.complete(REQUEST) for _ in range(20)))
            await model.aclose()

    asyncio.run(all_at_once(valkey))
    assert len(on_their_way) == 20
    assert max(on_their_way) == 3
    assert places.calling == 0
