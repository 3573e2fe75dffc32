"""Where the calls of one process to one model wait until its share lets them go: evenly spaced, so many at once.

A refusal stops the gate until all have decided on a slower pace: what one refusal says, a hundred need not hear again.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from shoal_worker.errors import (
    ConnectFailed,
    LimitOrigin,
    ProviderUnavailable,
    RateLimited,
    ReplyLost,
    Throttled,
    Unauthorized,
    WorkerError,
)
from shoal_worker.pace import Member, Share

#: How long a call waits here; then its job is parked, and its slot is free.
PATIENCE_SECONDS = 5.0
#: For so long calls may wait that are asked for ahead, so that a rate that doubles finds some; less than the patience.
ROOM_SECONDS = 2.0
#: A parked job comes back no sooner, and no later.
PARKED_SECONDS, PARKED_MOST_SECONDS = 2.0, 60.0
#: How long a refusal stops the gate, when no decision comes.
BRAKE_SECONDS = 0.5
#: The same for a probe: what it said is not known to all at once.
PROBED_SECONDS = 1.0
#: What a late timer may catch up.
SLACK_SECONDS = 0.05


class Said(Enum):
    """What a call tells of its provider."""

    ANSWERED = auto()
    REFUSED = auto()
    CROWDED = auto()
    FAILED = auto()
    NOTHING = auto()


def said_by(error: WorkerError) -> Said:
    if isinstance(error, RateLimited):
        return Said.CROWDED if error.origin is LimitOrigin.IN_FLIGHT else Said.REFUSED
    if isinstance(error, (ReplyLost, ProviderUnavailable, ConnectFailed, Unauthorized)):
        return Said.FAILED
    return Said.ANSWERED


@dataclass(frozen=True, slots=True)
class Pass:
    """One call on its way. `lowerings` is the pace's, under which it began."""

    began: float
    lowerings: int
    is_probe: bool


@dataclass(frozen=True, slots=True)
class _Waiter:
    future: asyncio.Future[Pass]
    since: float


class Gate:
    """Belongs to one event loop. `now` is monotonic, and so are the times of the share."""

    def __init__(self, now: Callable[[], float], wake: Callable[[], None]) -> None:
        self._now = now
        self._wake = wake
        self._waiters: deque[_Waiter] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._next_at = 0.0
        self._braked_until = 0.0
        self.share: Share | None = None
        self.in_flight = 0
        self.used_at = now()
        self.tally: defaultdict[str, float] = defaultdict(float)
        self._probing = False

    async def enter(self) -> Pass:
        """Wait for a turn. Raises `Throttled` when none comes soon."""
        now = self.used_at = self._now()
        if not self._waiters and self._start_at() <= now:
            return self._started(now)
        self._raise_if_far(now)
        if not self._waiters:
            self._wake()
        self.tally["held"] += 1
        waiter = _Waiter(asyncio.get_running_loop().create_future(), now)
        self._waiters.append(waiter)
        self._pump()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and not waiter.future.exception():
                self.leave(waiter.future.result(), Said.NOTHING)
            raise

    def leave(self, call: Pass, said: Said, asked_seconds: float | None = None) -> None:
        """The call has ended."""
        self.in_flight -= 1
        self._count(call, said, asked_seconds)
        if call.is_probe and said is not Said.NOTHING:
            self._braked_until = self._now() + PROBED_SECONDS
            self._wake()
        self._pump()

    def follow(self, share: Share) -> None:
        """A new share."""
        now = self._now()
        if self.share is not None and share.answers(self.share):
            self._braked_until = 0.0
            self._next_at = max(self._next_at, now)
        self.share = share
        if share.rate is not None:
            self._next_at = min(self._next_at, now + 1 / share.rate)
        self._give_up_late(now)
        self._pump()

    def hold(self, seconds: float) -> None:
        """Pause now; the next share says how long all do."""
        self.tally["paused"] += 1
        self._braked_until = max(self._braked_until, self._now() + min(seconds, BRAKE_SECONDS))

    def member(self, name: str) -> Member:
        return Member(name, self.waiting, self.in_flight)

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    def take_tally(self) -> dict[str, float]:
        """What was seen since the last time, those that still wait included."""
        tally, self.tally = self.tally, defaultdict(float)
        if self._waiters:
            tally["held"] += len(self._waiters)
        return dict(tally)

    def room(self) -> int | None:
        """How many more calls could start within some seconds; None: any number."""
        now, share = self._now(), self.share
        if share is None:
            return None
        if share.open_until:
            return max(0, 1 - self.waiting) if share.open_until <= now + 1 else 0
        if share.paused_until > now + 1:
            return 0
        bounds = []
        if share.rate is not None:
            bounds.append(max(1, round(ROOM_SECONDS * share.rate)))
        if share.at_once is not None:
            bounds.append(share.at_once - self.in_flight)
        return max(0, min(bounds) - self.waiting) if bounds else None

    # --- turns -----------------------------------------------------------------------------------------------------

    def _start_at(self) -> float:
        """When the next call may start; infinity where only news can tell."""
        share = self.share
        if share is None:
            return float("inf")
        if share.open_until:
            return self._braked_until if share.probes and not self._probing else float("inf")
        if share.at_once is not None and self.in_flight >= share.at_once:
            return float("inf")
        paced = 0.0 if share.rate is None else self._next_at
        return max(paced, self._braked_until, share.paused_until)

    def _started(self, now: float) -> Pass:
        share = self.share
        assert share is not None
        if share.rate is not None:
            self._next_at = max(self._next_at, now - SLACK_SECONDS) + 1 / share.rate
        self.in_flight += 1
        self.tally["started"] += 1
        self._probing = bool(share.open_until)
        return Pass(now, share.lowerings, self._probing)

    def _pump(self) -> None:
        """Let go whoever may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._now()
        while self._waiters:
            if self._waiters[0].future.done():
                self._waiters.popleft()
                continue
            at = self._start_at()
            if at == float("inf"):
                return
            if at > now:
                self._timer = asyncio.get_running_loop().call_later(at - now, self._pump)
                return
            self._waiters.popleft().future.set_result(self._started(now))

    def _raise_if_far(self, now: float) -> None:
        share = self.share
        if share is None:
            return
        for until, reason in (
            (share.paused_until, "all calls pause"),
            (share.open_until, "the provider fails; one call at a time probes it"),
        ):
            if until > now + PATIENCE_SECONDS:
                raise Throttled(reason, until - now)

    def _give_up_late(self, now: float) -> None:
        while self._waiters and (self._waiters[0].future.done() or self._waiters[0].since < now - PATIENCE_SECONDS):
            waiter = self._waiters.popleft()
            if not waiter.future.done():
                waiter.future.set_exception(self._throttled(now))

    def _throttled(self, now: float) -> Throttled:
        share = self.share or Share()
        if share.open_until:
            return Throttled("the provider fails; one call at a time probes it", PARKED_SECONDS)
        if share.paused_until > now:
            return Throttled("all calls pause", max(PARKED_SECONDS, share.paused_until - now))
        seconds = self.waiting / share.rate if share.rate else PARKED_SECONDS
        return Throttled("more calls wait than may start", min(PARKED_MOST_SECONDS, max(PARKED_SECONDS, seconds)))

    # --- what calls tell -------------------------------------------------------------------------------------------

    def _count(self, call: Pass, said: Said, asked_seconds: float | None) -> None:
        if call.is_probe:
            self._probing = False
            if said is not Said.NOTHING:
                self.tally["probe_failed" if said is Said.FAILED else "probe_succeeded"] += 1
        match said:
            case Said.ANSWERED:
                self.tally["succeeded"] += 1
                self.tally["latency_seconds"] += self._now() - call.began
            case Said.FAILED:
                self.tally["failed"] += 1
            case Said.CROWDED:
                self.tally["crowded"] += 1
            case Said.REFUSED:
                self.tally[f"refused.{call.lowerings}"] += 1
                self.tally[f"asked_seconds.{call.lowerings}"] += asked_seconds or 0.0
                self._brake(call)
            case Said.NOTHING:
                pass

    def _brake(self, call: Pass) -> None:
        if self.share is not None and call.lowerings == self.share.lowerings:
            self._braked_until = max(self._braked_until, self._now() + BRAKE_SECONDS)
            self._wake()
