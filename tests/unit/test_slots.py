import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import wire
from shoal.messages import PACK_JOBS
from shoal_worker.slots import BULK, BULK_EVERY, INTERACTIVE, LOAD, Load, Slots, SlotsClosedError, Turns

pushes = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 100)), max_size=60)


def load(lane: str = INTERACTIVE, tenant: str = "", jobs: int = 1) -> Load:
    return Load(lane, tenant, jobs, 1.0, is_pack=jobs > 1)


@given(pushes)
def test_each_is_served_once_and_a_tenants_own_in_order(pushed: list[tuple[str, int]]) -> None:
    turns = Turns[tuple[str, int]]()
    for place, (tenant, weight) in enumerate(pushed):
        turns.push(tenant, weight, (tenant, place))
    assert len(turns) == len(pushed)
    served = [turns.pop() for _ in pushed]
    assert len(turns) == 0
    assert sorted(place for _, place in served) == list(range(len(pushed)))
    for tenant in "abc":
        own = [place for name, place in served if name == tenant]
        assert own == sorted(own)
    with pytest.raises(IndexError):
        turns.pop()


@given(pushes)
def test_of_two_that_wait_none_is_served_more_than_one_piece_ahead(pushed: list[tuple[str, int]]) -> None:
    turns = Turns[tuple[str, int]]()
    left, got = Counter[str](), Counter[str]()
    for tenant, weight in pushed:
        turns.push(tenant, weight, (tenant, weight))
        left[tenant] += 1
    while True:
        waiting = [tenant for tenant in left if left[tenant]]
        if len(waiting) < len(left) or not waiting:
            return
        assert max(got[tenant] for tenant in waiting) - min(got[tenant] for tenant in waiting) <= 100
        tenant, weight = turns.pop()
        left[tenant] -= 1
        got[tenant] += weight


def test_who_comes_late_is_not_served_for_the_time_before() -> None:
    turns = Turns[str]()
    for _ in range(20):
        turns.push("old", 1, "old")
    for _ in range(10):
        turns.pop()
    for _ in range(10):
        turns.push("new", 1, "new")
    assert Counter(turns.pop() for _ in range(10)) == {"old": 5, "new": 5}


def test_who_empties_its_line_does_not_come_again_as_if_new() -> None:
    turns = Turns[str]()
    for _ in range(10):
        turns.push("steady", 1, "steady")
    got = []
    for _ in range(10):
        turns.push("again", 5, "again")
        got.append(turns.pop())
    assert Counter(got)["again"] <= 3


def started(slots: Slots, lane: str, count: int) -> list[str]:
    begun: list[str] = []
    for _ in range(count):
        slots.request(load(lane), lambda is_given: begun.append(lane if is_given else "closed"))
    return begun


@given(st.integers(1, 10), st.lists(st.sampled_from(["request", "end", "grow", "shrink"]), max_size=60))
def test_no_more_run_than_there_are_slots(limit: int, steps: list[str]) -> None:
    slots, begun = Slots(limit), list[int]()
    for step in steps:
        match step:
            case "request":
                slots.request(load(), lambda _: begun.append(slots.begun))
            case "end" if slots.begun:
                slots.release()
            case "grow":
                slots.limit += 1
                slots.serve()
            case "shrink":
                slots.limit = max(1, slots.limit - 1)
        assert slots.begun <= max(slots.limit, limit + steps.count("grow"))
        waiting = len(slots.lanes[INTERACTIVE].waiting)
        assert not waiting or slots.running == slots.limit


def test_interactive_jobs_go_first_but_for_one_in_ten() -> None:
    slots, order = Slots(1), list[str]()
    for lane in (BULK, INTERACTIVE):
        for _ in range(40):
            slots.request(load(lane), lambda _, lane=lane: order.append(lane))  # type: ignore[misc]
    for _ in range(40):
        slots.release()
    assert order[1:41].count(BULK) == 40 // BULK_EVERY


def test_the_rest_is_told_when_the_slots_close() -> None:
    slots = Slots(1)
    begun = started(slots, BULK, 3)
    slots.close()
    assert begun == [BULK, "closed", "closed"]
    assert started(slots, INTERACTIVE, 1) == ["closed"]


def test_there_is_room_for_about_twice_what_runs_at_once() -> None:
    slots = Slots(100)
    assert slots.room(wire.QUEUE) == 200
    assert slots.room(wire.BULK_QUEUE) == 200 / PACK_JOBS
    pack = load(BULK, jobs=200)
    slots.announce(pack)
    assert slots.room(wire.BULK_QUEUE) == 0
    assert slots.room(wire.QUEUE) == 200
    slots.end(pack, 150)
    assert slots.room(wire.BULK_QUEUE) == 150 / PACK_JOBS
    slots.end(pack, 1_000)
    assert slots.room(wire.BULK_QUEUE) == 200 / PACK_JOBS
    assert slots.room("another") is None


def test_so_many_begin_ahead_as_keep_the_slots_in_use() -> None:
    """Only where slots found nobody ready; and those that are ready too early bring it down again."""

    async def course() -> None:
        slots = Slots(4)
        begun = started(slots, BULK, 20)
        assert len(begun) == 4
        for _ in range(4):
            await slots.enter_call()
        assert slots.calling == 4
        slots.leave_call()
        slots.leave_call()
        assert len(begun) == 6
        assert slots.running == 4
        for _ in range(40):
            await slots.enter_call()
            slots.leave_call()
        assert len(begun) == 8
        for _ in range(2):
            await slots.enter_call()
        ready = [asyncio.create_task(slots.enter_call()) for _ in range(16 * 4)]
        await asyncio.sleep(0)
        for _ in range(4):
            slots.release()
        assert len(begun) == 8
        for task in ready:
            task.cancel()
        await asyncio.gather(*ready, return_exceptions=True)

    asyncio.run(course())


def test_nobody_begins_ahead_where_nobody_waits() -> None:
    async def course() -> None:
        slots = Slots(2)
        started(slots, BULK, 2)
        for _ in range(9):
            await slots.enter_call()
            slots.leave_call()
        begun = started(slots, BULK, 5)
        assert begun == []

    asyncio.run(course())


def test_interactive_jobs_that_are_ready_call_first_but_for_one_in_ten() -> None:
    async def course() -> None:
        slots, order = Slots(1), list[str]()

        async def call(lane: str) -> None:
            token = LOAD.set(load(lane))
            try:
                await slots.enter_call()
            finally:
                LOAD.reset(token)
            order.append(lane)
            await asyncio.sleep(0)
            slots.leave_call()

        await slots.enter_call()
        waiting = [asyncio.create_task(call(lane)) for lane in (BULK, INTERACTIVE) for _ in range(40)]
        await asyncio.sleep(0)
        slots.leave_call()
        await asyncio.gather(*waiting)
        assert order[:40].count(BULK) == 40 // BULK_EVERY

    asyncio.run(course())


def test_who_gives_up_waiting_takes_no_slot_and_who_has_one_gives_it_back() -> None:
    async def course() -> None:
        slots = Slots(1)

        async def work(seconds: float) -> None:
            place = await slots.take(load(BULK))
            try:
                await asyncio.sleep(seconds)
            finally:
                place.free()
                place.free()

        holder = asyncio.create_task(work(60))
        await asyncio.sleep(0)
        waiter, other = asyncio.create_task(work(0)), asyncio.create_task(work(0))
        await asyncio.sleep(0)
        waiter.cancel()
        holder.cancel()
        await asyncio.gather(holder, waiter, return_exceptions=True)
        await asyncio.wait_for(other, 5)
        await asyncio.sleep(0)
        assert slots.begun == 0
        slots.close()
        with pytest.raises(SlotsClosedError):
            await work(0)

    asyncio.run(course())


@pytest.mark.parametrize(
    ("task", "headers", "expected"),
    [
        ("shoal.classify", {}, (INTERACTIVE, "", 1)),
        ("shoal.classify", {"delivery_info": {"routing_key": wire.BULK_QUEUE}}, (BULK, "", 1)),
        ("shoal.classify", {wire.TENANT_HEADER: "acme", wire.PACK_SIZE_HEADER: "7"}, (INTERACTIVE, "acme", 1)),
        (wire.PACK_TASK, {wire.PACK_SIZE_HEADER: "7"}, (INTERACTIVE, "", 7)),
        (wire.PACK_TASK, {wire.PACK_SIZE_HEADER: "-7", wire.TENANT_HEADER: 5}, (INTERACTIVE, "", 1)),
        (wire.PACK_TASK, {"delivery_info": None}, (INTERACTIVE, "", 1)),
    ],
)
def test_what_a_message_says_of_itself(task: str, headers: dict[str, object], expected: tuple[str, str, int]) -> None:
    found = Load.of(task, headers, 700)
    assert (found.lane, found.tenant, found.jobs) == expected
    assert found.weight == 700 / found.jobs


def test_no_more_begin_or_are_fetched_than_the_limits_have_use_for() -> None:
    slots, bounds = Slots(100), [3]
    slots.bound = lambda: bounds[0]
    assert slots.room(wire.QUEUE) == 3
    assert slots.room(wire.BULK_QUEUE) == 1
    begun = started(slots, BULK, 1)
    slots.announce(load(BULK, jobs=50))
    assert slots.room(wire.BULK_QUEUE) == 0
    bounds[0] = 0
    begun += started(slots, INTERACTIVE, 2)
    assert begun == [BULK]
    assert slots.room(wire.QUEUE) == 0
    bounds[0] = 2
    slots.serve()
    assert slots.running == 3
