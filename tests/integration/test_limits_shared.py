"""Limits that several processes share through a real Valkey, or one has for itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from redis.asyncio import Redis

from shoal.jobs import Usage
from shoal_worker.board import Board, LocalBoard, RedisBoard, Standing, Tally
from shoal_worker.errors import LimitOrigin, ProviderUnavailable, RateLimited, Throttled, WorkerError
from shoal_worker.limits import LimitedModel, Limits
from shoal_worker.pace import Member, Pace
from shoal_worker.ports import ChatReply, ChatRequest, Prompt
from shoal_worker.quota import Rates
from shoal_worker.reports import calls_of

REQUEST = ChatRequest(Prompt("system", "user", "answer", {}, 100), "some/model", "job", 60.0, kind="classify")


@dataclass
class Model:
    """`ports.ChatModel` that answers at once, unless told to fail."""

    fault: Callable[[], WorkerError | None] = lambda: None
    calls: list[float] = field(default_factory=list)

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.calls.append(time.monotonic())
        await asyncio.sleep(0.01)
        if fault := self.fault():
            raise fault
        usage = Usage(calls=1, input_tokens=30, output_tokens=20)
        return ChatReply("{}", "stop", request.model, None, "gen-1", usage)


@asynccontextmanager
async def processes(
    count: int, model: Model, boards: Callable[[], Board], rates: Rates | None = None
) -> AsyncIterator[list[tuple[Limits, LimitedModel]]]:
    """What several processes hold, on one loop."""
    limits = [Limits(boards(), f"p{number}", REQUEST.model, rates or Rates()) for number in range(count)]

    async def keep(one: Limits) -> None:
        while True:
            await asyncio.sleep(await one.keep())

    tasks = [asyncio.create_task(keep(one)) for one in limits]
    try:
        yield [(one, LimitedModel(model, one)) for one in limits]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


async def ask(model: LimitedModel) -> ChatReply | WorkerError:
    try:
        return await model.complete(REQUEST)
    except WorkerError as error:
        return error


@pytest.fixture
def in_valkey(valkey: str) -> Callable[[Callable[[Callable[[], Board]], Awaitable[None]]], None]:
    """Run a coroutine function that is given a maker of boards, each with a connection of its own."""

    def run(body: Callable[[Callable[[], Board]], Awaitable[None]]) -> None:
        async def main() -> None:
            clients: list[Redis] = []

            def board() -> Board:
                clients.append(Redis.from_url(valkey))
                return RedisBoard(clients[-1], "gateway")

            try:
                await body(board)
            finally:
                for client in clients:
                    await client.aclose()

        asyncio.run(main())

    return run


InValkey = Callable[[Callable[[Callable[[], Board]], Awaitable[None]]], None]


def test_a_refusal_in_one_process_slows_down_the_others(in_valkey: InValkey) -> None:
    async def body(boards: Callable[[], Board]) -> None:
        model = Model(lambda: RateLimited("status 429") if len(model.calls) == 1 else None)
        async with processes(2, model, boards) as ((first, asking), (second, _)):
            await until(lambda: first.gate(REQUEST.model).share is not None)
            assert isinstance(await ask(asking), RateLimited)
            await until(lambda: second.gate(REQUEST.model).room() in range(1, 20))

    in_valkey(body)


@pytest.mark.parametrize("origin", [LimitOrigin.PLATFORM, LimitOrigin.ADMISSION, LimitOrigin.IN_FLIGHT])
def test_a_pause_of_the_key_is_everybodys_and_sends_jobs_away(in_valkey: InValkey, origin: LimitOrigin) -> None:
    async def body(boards: Callable[[], Board]) -> None:
        model = Model(lambda: RateLimited("refused", 60.0, origin=origin))
        async with processes(2, model, boards) as ((_, asking), (second, other)):
            await ask(asking)
            await until(lambda: second.room() == 0)
            told = await ask(other)
            assert isinstance(told, Throttled)
            assert told.after_seconds == pytest.approx(60, abs=5)
            assert len(model.calls) == 1

    in_valkey(body)


def test_a_provider_that_fails_is_probed_by_one_call_of_all_processes(in_valkey: InValkey) -> None:
    async def body(boards: Callable[[], Board]) -> None:
        down = [True]
        model = Model(lambda: ProviderUnavailable("status 502") if down[0] else None)
        async with processes(2, model, boards) as members:
            for _, asking in members:
                await asyncio.gather(ask(asking), ask(asking))
            await until(lambda: all(limits.snapshot()[0].pace.is_open for limits, _ in members))
            before = len(model.calls)
            waiting = [asyncio.create_task(ask(asking)) for _, asking in members for _ in range(3)]
            await until(lambda: members[0][0].snapshot()[0].pace.open_seconds == 2)
            assert len(model.calls) == before + 1
            down[0] = False
            await until(lambda: not members[0][0].snapshot()[0].pace.is_open)
            answers = await asyncio.gather(*waiting)
            assert sorted(type(answer).__name__ for answer in answers) == ["ChatReply"] * 5 + ["Throttled"]

    in_valkey(body)


def test_waiting_takes_no_longer_than_patience_and_a_cancelled_call_leaves_no_trace(in_valkey: InValkey) -> None:
    async def body(boards: Callable[[], Board]) -> None:
        model = Model()
        board = boards()
        paused = Pace(rate=0.05, ceiling=0.05)
        standing = await board.report(REQUEST.model, Member("p0"), {}, 0)
        await board.decide(REQUEST.model, standing, paused)
        async with processes(1, model, lambda: board) as [(limits, asking)]:
            gate = limits.gate(REQUEST.model)
            await until(lambda: gate.share is not None)
            assert isinstance(await ask(asking), ChatReply)
            asked = time.monotonic()
            cancelled = asyncio.create_task(ask(asking))
            late = asyncio.create_task(ask(asking))
            await until(lambda: gate.waiting == 2)
            cancelled.cancel()
            told = await late
            assert isinstance(told, Throttled)
            assert time.monotonic() - asked >= 4.9
            with suppress(asyncio.CancelledError):
                await cancelled
            assert (gate.in_flight, gate.waiting, len(model.calls)) == (0, 0, 1)

    in_valkey(body)


async def rates_are_held(boards: Callable[[], Board], count: int) -> None:
    """Calls of several processes in two seconds, at 600 a minute and for tokens enough for half of them."""
    model = Model()
    async with processes(count, model, boards, Rates(requests=1_200, tokens=30_000)) as members:
        began = time.monotonic()
        asking = [asyncio.create_task(ask(model)) for _, model in members for _ in range(60)]
        await until(lambda: len(model.calls) >= 20)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        took = model.calls[19] - began
        # Ten calls a second, after a bucket of six calls' tokens, of which the first are guessed too high.
        assert took >= (20 - 6 - 1) / 10
        room = members[0][0].room()
        assert room is not None
        assert room <= 20


def test_set_limits_are_shared(in_valkey: InValkey) -> None:
    in_valkey(lambda boards: rates_are_held(boards, 3))


def test_without_a_redis_one_process_keeps_them_alone() -> None:
    asyncio.run(rates_are_held(LocalBoard, 1))


def test_who_only_looks_sees_how_all_stand(in_valkey: InValkey) -> None:
    async def body(boards: Callable[[], Board]) -> None:
        model = Model(lambda: RateLimited("refused", 60.0, origin=LimitOrigin.PLATFORM))
        async with processes(2, model, boards) as ((_, asking), (second, _)):
            await ask(asking)
            await until(lambda: second.room() == 0)
            [told] = second.snapshot()
            assert told.processes == 2
            calls = calls_of(told)
            assert (calls.model, calls.in_flight, calls.waiting, calls.probe_seconds) == (REQUEST.model, 0, 0, None)
            assert 50 < calls.paused_seconds <= 60

    in_valkey(body)


def test_the_last_share_holds_while_the_board_is_away(in_valkey: InValkey) -> None:
    class Away(LocalBoard):
        async def report(self, model: str, me: Member, counts: Tally, pause_seconds: float) -> Standing:
            raise ConnectionError

    async def body(_: Callable[[], Board]) -> None:
        limits = Limits(Away(), "p0", REQUEST.model, Rates())
        with suppress(ConnectionError):
            await limits.keep()
        assert isinstance(await ask(LimitedModel(Model(), limits)), ChatReply)

    in_valkey(body)
