"""Places in which jobs run, and who gets the next one that is free.

So many calls are on their way at once as there are slots. Some jobs begin ahead of that: what comes before a call
(claiming the job, putting the call down) waits for the store, and no slot is to be empty meanwhile. How many is
learned: more when a slot finds nobody ready, fewer while those that are ready wait.

Interactive jobs come before bulk ones, but for one place in ten; within a lane tenants take turns, by the size of what
was begun for them. A message is a *load* of one job or many; the consumer is told how many more messages there is use
for, so that no worker holds much more than it will soon run.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from math import ceil
from typing import Any, Generic, TypeVar

from shoal import wire
from shoal.messages import PACK_JOBS

T = TypeVar("T")

INTERACTIVE, BULK = "interactive", "bulk"
#: The queue that each lane waits in.
LANES = {INTERACTIVE: wire.QUEUE, BULK: wire.BULK_QUEUE}
#: One place in so many is the bulk lane's, however many interactive jobs wait.
BULK_EVERY = 10
#: A worker holds jobs for so many times its places.
LOOKAHEAD = 2
#: How many fewer jobs begin ahead for each one that was ready too early.
READY_COST = 1 / 16

#: The load that the current task works on, and its place where it has one.
LOAD: ContextVar["Load"] = ContextVar("load")
PLACE: ContextVar["Place"] = ContextVar("place")


class SlotsClosedError(Exception):
    """The worker stops: what has not begun goes back to the queue."""


@dataclass(slots=True)
class Load:
    """A message by its jobs. `weight` is the bytes of one of them."""

    lane: str
    tenant: str
    jobs: int
    weight: float
    is_pack: bool
    ended: int = 0

    @classmethod
    def of(cls, task: str, headers: dict[str, Any], size_bytes: int) -> "Load":
        """From a message's headers; those of a stock client say little."""
        said, is_pack = str(headers.get(wire.PACK_SIZE_HEADER)), task == wire.PACK_TASK
        jobs = int(said) if is_pack and said.isascii() and said.isdecimal() else 1
        place = (headers.get("delivery_info") or {}).get("routing_key")
        tenant = headers.get(wire.TENANT_HEADER)
        return cls(
            lane=BULK if place == wire.BULK_QUEUE else INTERACTIVE,
            tenant=tenant if isinstance(tenant, str) else "",
            jobs=jobs,
            weight=size_bytes / max(1, jobs),
            is_pack=is_pack,
        )


class Turns(Generic[T]):
    """A queue in which each tenant waits in a line of its own: who was served least is served next."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[tuple[float, T]]] = {}
        self._next: list[tuple[float, int, str]] = []
        self._order = count()
        self._served = 0.0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, tenant: str, weight: float, item: T) -> None:
        line = self._lines.get(tenant)
        if line is None:
            line = self._lines[tenant] = deque()
            # Who comes anew neither waits for others' past nor makes them wait for its own.
            heapq.heappush(self._next, (self._served, next(self._order), tenant))
        line.append((weight, item))
        self._length += 1

    def pop(self) -> T:
        """Raises IndexError when nobody waits."""
        while True:
            self._served, _, tenant = heapq.heappop(self._next)
            line = self._lines[tenant]
            if not line:
                # Only now: it had its share, and must not come again as if it had not.
                del self._lines[tenant]
                continue
            weight, item = line.popleft()
            heapq.heappush(self._next, (self._served + weight, next(self._order), tenant))
            self._length -= 1
            return item


@dataclass(slots=True)
class Lane:
    """`announced` is written on the consumer's thread only, the rest on the loop's; all may be read anywhere."""

    waiting: Turns[Callable[[bool], None]] = field(default_factory=Turns)
    announced: int = 0
    ended: int = 0

    @property
    def held(self) -> int:
        """Jobs that are here and have not ended."""
        return self.announced - self.ended


def in_turn(number: int, lines: Mapping[str, Sized]) -> str | None:
    """Which lane's line is next."""
    first, second = (BULK, INTERACTIVE) if number % BULK_EVERY == 0 else (INTERACTIVE, BULK)
    return next((lane for lane in (first, second) if lines[lane]), None)


class Slots:
    """So many calls at once. All but `announce` and `room` is for the loop's thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        #: Jobs that have begun and that the model has not yet answered.
        self.begun = 0
        self.calling = 0
        self._ahead = 0.0
        self._callers: dict[str, deque[asyncio.Future[None]]] = {INTERACTIVE: deque(), BULK: deque()}
        self._calls = 0
        self.lanes = {INTERACTIVE: Lane(), BULK: Lane()}
        #: How many more jobs the limits on calls let begin soon; None for any number.
        self.bound: Callable[[], int | None] = lambda: None
        self._turn = 0
        self.is_closed = False

    @property
    def running(self) -> int:
        """Slots in use."""
        return min(self.begun, self.limit)

    @property
    def held(self) -> int:
        """Jobs that are here and have not ended, in both lanes."""
        return sum(lane.held for lane in self.lanes.values())

    # --- the consumer's thread ------------------------------------------------------------------------------------

    def announce(self, load: Load) -> None:
        """A message has come."""
        self.lanes[load.lane].announced += load.jobs

    def room(self, queue: str) -> int | None:
        """How many more messages of a queue there is use for; None for one that is not ours."""
        if queue not in (wire.QUEUE, wire.BULK_QUEUE):
            return None
        bound = self.bound()
        soon = self.limit if bound is None else min(self.limit, bound)
        lane = self.lanes[INTERACTIVE if queue == wire.QUEUE else BULK]
        free = LOOKAHEAD * self.limit - lane.held
        if bound is not None:
            free = min(free, soon - len(lane.waiting))
        if queue == wire.QUEUE:
            return max(0, free)
        enough = lane.held - self.running >= soon or free <= 0
        return 0 if enough else ceil(free / PACK_JOBS)

    # --- the loop's thread ----------------------------------------------------------------------------------------

    def request(self, load: Load, begin: Callable[[bool], None]) -> None:
        """Call `begin(True)` when there is a place, or `begin(False)` when there will be none any more."""
        if self.is_closed:
            begin(False)
            return
        self.lanes[load.lane].waiting.push(load.tenant, load.weight, begin)
        self.serve()

    def serve(self) -> None:
        """Give away the places that are free, as far as the limits have use for them."""
        self._let_call()
        room = self.bound()
        room = self.limit if room is None else room
        while self.begun < self._most and room > 0 and (lane := self._next_lane()):
            room -= 1
            self.begun += 1
            self._turn += 1
            lane.waiting.pop()(True)

    @property
    def _most(self) -> int:
        """Jobs that may have begun and not been answered."""
        return self.limit + int(self._ahead)

    def _next_lane(self) -> Lane | None:
        lane = in_turn(self._turn, {name: lane.waiting for name, lane in self.lanes.items()})
        return self.lanes[lane] if lane else None

    def release(self) -> None:
        """A place is free again."""
        self.begun -= 1
        self.serve()

    async def enter_call(self) -> None:
        """Wait for a call's place."""
        if self.calling < self.limit and not any(self._callers.values()):
            self.calling += 1
            return
        self._ahead = max(0.0, self._ahead - READY_COST)
        load = LOAD.get(None)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._callers[load.lane if load else BULK].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave_call()
            raise

    def leave_call(self) -> None:
        """The call has ended; whoever is next may call."""
        self.calling -= 1
        if not any(self._callers.values()) and self.begun >= self._most and self._next_lane():
            self._ahead = min(self._ahead + 1, self.limit)
            self.serve()
        self._let_call()

    def _let_call(self) -> None:
        while self.calling < self.limit and (lane := in_turn(self._calls, self._callers)):
            turn = self._callers[lane].popleft()
            if not turn.done():
                self.calling += 1
                self._calls += 1
                turn.set_result(None)

    def end(self, load: Load, jobs: int = 1) -> None:
        """Jobs of a load have ended, or all that are left of it when it says more than there are."""
        jobs = min(jobs, load.jobs - load.ended)
        load.ended += jobs
        self.lanes[load.lane].ended += jobs

    async def take(self, load: Load) -> "Place":
        """Wait for a place for one job of a load. Raises `SlotsClosedError`."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def begin(is_given: bool) -> None:
            if not future.done():
                future.set_result(is_given)
            elif is_given:
                # Who asked is gone. Not at once: this is called from within `serve`.
                asyncio.get_running_loop().call_soon(self.release)

        self.request(load, begin)
        try:
            is_given = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.result():
                self.release()
            raise
        if not is_given:
            raise SlotsClosedError
        return Place(self)

    def close(self) -> None:
        """Nobody gets a place any more; who waits is told."""
        self.is_closed = True
        for lane in self.lanes.values():
            while lane.waiting:
                lane.waiting.pop()(False)


@dataclass(slots=True)
class Place:
    """A place that was given. It is free again as soon as the model has answered: storing takes none."""

    slots: Slots
    is_free: bool = False

    def free(self) -> None:
        """Give it back; a second time does nothing."""
        if not self.is_free:
            self.is_free = True
            self.slots.release()


@contextmanager
def working_on(load: Load, place: Place | None) -> Iterator[None]:
    """Within it `LOAD` and `PLACE` are these."""
    token = LOAD.set(load)
    given = PLACE.set(place) if place else None
    try:
        yield
    finally:
        LOAD.reset(token)
        if given:
            PLACE.reset(given)
