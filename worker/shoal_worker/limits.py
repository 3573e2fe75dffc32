"""Limits on calls, shared by all worker processes: learned ones for each model, and those that the user sets.

`LimitedModel` stands before the books: a call that waits, or is sent away to wait elsewhere, leaves no entry. Each
process tells the board (`board.py`) some ten times a second what it saw, and hears its share; no call waits for a round
trip of its own. What the next pace is, `pace.py` decides. While the board is away the last share holds, and calls under
a set limit wait.
"""

import asyncio
import hashlib
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil

import structlog

from shoal.jobs import Usage
from shoal_worker.board import Board, Standing, Tally
from shoal_worker.errors import (
    LimitOrigin,
    OutOfMoney,
    PauseError,
    RateLimited,
    ReplyLost,
    Throttled,
    WorkerError,
)
from shoal_worker.gate import PARKED_MOST_SECONDS, PARKED_SECONDS, PATIENCE_SECONDS, Gate, Said, said_by
from shoal_worker.last_minute import LastMinute
from shoal_worker.pace import Counts, Pace, Share, is_due, next_pace, share_of
from shoal_worker.ports import ChatModel, ChatReply, ChatRequest
from shoal_worker.quota import LEARNED_FROM_CALLS, Estimate, Quota, Rates, per_second

REPORT_SECONDS = 0.1
IDLE_REPORT_SECONDS = 0.25
COLD_REPORT_SECONDS = 0.03
#: Two reports are at least this far apart, whatever happens.
LEAST_REPORT_SECONDS = 0.02
IDLE_GATE_SECONDS = 60.0
#: Waiting calls that one round asks a quota for.
WANTS_AT_ONCE = 200
#: Nobody is paused for longer by one refusal: credits may be bought, and a key's limit raised, at any time.
LONGEST_PAUSE_SECONDS = 120.0
WHOLE_KEY = frozenset({LimitOrigin.PLATFORM, LimitOrigin.ADMISSION, LimitOrigin.IN_FLIGHT})

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How one model's limits stand, all processes together; but `waiting`, `in_flight` and `share` are this one's.

    `set_rate` is what the user lets start, calls a second; None: no such limit. Times are Unix seconds by the board's
    clock, which said `now` at last. `quota` None: no limit is set.
    """

    model: str
    now: float
    pace: Pace
    key_paused_until: float
    processes: int
    waiting: int
    in_flight: int
    share: Share
    quota: Quota | None
    set_rate: float | None


@dataclass(frozen=True, slots=True)
class _Want:
    future: asyncio.Future[None]
    tokens: float
    since: float


class Limits:
    """The limits of one process. `model` is the one that most jobs ask; `room` speaks of it."""

    def __init__(
        self, board: Board, name: str, model: str, rates: Rates, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._board = board
        self._name = name
        self._model = model
        self._rates = rates
        self._now = now
        self._bell = asyncio.Event()
        self._gates: dict[str, Gate] = {}
        self._standings: dict[str, Standing] = {}
        self._pause_seconds = 0.0
        self._wants: deque[_Want] = deque()
        self._settled = 0.0
        self._quota: Quota | None = None
        self._usual_tokens = 0.0
        self._estimates: defaultdict[str, Estimate] = defaultdict(Estimate)
        self.gate(model)

    def gate(self, model: str) -> Gate:
        gate = self._gates.get(model)
        if gate is None:
            gate = self._gates[model] = Gate(self._now, self._bell.set)
            self._bell.set()
        return gate

    @property
    def share(self) -> Share | None:
        """What this process may do with the model that most jobs ask; None before it has heard."""
        return self.gate(self._model).share

    def pause(self, seconds: float) -> None:
        """Everybody who uses this key pauses."""
        self._pause_seconds = max(self._pause_seconds, min(seconds, LONGEST_PAUSE_SECONDS))
        for gate in self._gates.values():
            gate.hold(seconds)
        self._bell.set()

    async def reserve(self, request: ChatRequest) -> float:
        """Wait for the limits that the user set; the tokens taken. Raises `Throttled`."""
        if not self._rates.any:
            return 0.0
        tokens = self._estimates[request.kind].tokens(prompt_bytes(request), request.prompt.max_completion_tokens)
        want = _Want(asyncio.get_running_loop().create_future(), tokens, self._now())
        if not self._wants:
            self._bell.set()
        self._wants.append(want)
        self._usual_tokens += (tokens - self._usual_tokens) / LEARNED_FROM_CALLS
        try:
            await want.future
        except asyncio.CancelledError:
            if want.future.done() and not want.future.cancelled() and not want.future.exception():
                self._settled -= tokens
            raise
        return tokens

    def settle(self, request: ChatRequest, tokens: float, usage: Usage) -> None:
        """What a call really took."""
        if not self._rates.any:
            return
        self._settled += usage.input_tokens + usage.output_tokens - tokens
        if usage.input_tokens and usage.output_tokens:
            known = self._estimates[request.kind]
            learned = known.learned(prompt_bytes(request), usage.input_tokens, usage.output_tokens)
            self._estimates[request.kind] = learned

    def room(self) -> int | None:
        """How many more calls could start here within some seconds; None: any number."""
        learned, given = self.gate(self._model).room(), self._quota_room()
        if learned is None or given is None:
            return given if learned is None else learned
        return min(learned, given)

    def snapshot(self) -> list[Snapshot]:
        """For metrics, one a model that was called of late."""
        return [
            Snapshot(
                model=model,
                now=standing.now,
                pace=standing.pace,
                key_paused_until=standing.key_paused_until,
                processes=len(standing.members),
                waiting=self._gates[model].waiting,
                in_flight=self._gates[model].in_flight,
                share=self._gates[model].share or Share(),
                quota=self._quota,
                set_rate=self._rates.requests and per_second(self._rates.requests),
            )
            for model, standing in self._standings.items()
            if model in self._gates
        ]

    async def keep(self) -> float:
        """One round of upkeep: wait until it is time or something has happened, then report."""
        busy = self._wants or any(gate.waiting or gate.in_flight for gate in self._gates.values())
        with suppress(TimeoutError):
            async with asyncio.timeout(self._report_seconds() if busy else IDLE_REPORT_SECONDS):
                await self._bell.wait()
        self._bell.clear()
        try:
            await asyncio.gather(self._take_grants(), *(self._report(model) for model in list(self._gates)))
        except Exception:
            self._open_unknown()
            raise
        return LEAST_REPORT_SECONDS

    def _report_seconds(self) -> float:
        """Before a provider has said anything, what one process hears concerns all the others at once."""
        known = self._standings.get(self._model)
        return REPORT_SECONDS if known and known.pace.usual_latency else COLD_REPORT_SECONDS

    # --- the learned limits --------------------------------------------------------------------------------------

    async def _report(self, model: str) -> None:
        gate = self._gates[model]
        if model != self._model and self._now() > gate.used_at + IDLE_GATE_SECONDS and not gate.in_flight:
            del self._gates[model]
            self._standings.pop(model, None)
            return
        pause_seconds, self._pause_seconds = self._pause_seconds, 0.0
        me = gate.member(self._name)
        standing = await self._board.report(model, me, gate.take_tally(), pause_seconds)
        counts = counts_of(standing)
        if is_due(standing.pace, counts, standing.members, standing.now):
            pace = next_pace(standing.pace, counts, standing.members, standing.now)
            if await self._board.decide(model, standing, pace):
                _tell(model, standing.pace, pace)
                standing = replace(standing, pace=pace)
        self._standings[model] = standing
        share = share_of(standing.pace, standing.members, self._name, standing.now, standing.key_paused_until)
        gate.follow(_in_our_time(share, self._now() - standing.now))

    def _open_unknown(self) -> None:
        """A board that is away stops nobody."""
        for gate in self._gates.values():
            if gate.share is None:
                gate.follow(Share())

    # --- the set limits ------------------------------------------------------------------------------------------

    async def _take_grants(self) -> None:
        if not self._rates.any:
            return
        self._give_up_late()
        wants = [want for want in self._wants if not want.future.done()]
        settled, self._settled = self._settled, 0.0
        try:
            grant = await self._board.grant(self._rates, [want.tokens for want in wants[:WANTS_AT_ONCE]], settled)
        except BaseException:
            self._settled += settled
            raise
        self._quota = grant.quota
        for want in wants[: grant.calls]:
            if want.future.done():
                self._settled -= want.tokens
            else:
                want.future.set_result(None)
        self._wants = deque(want for want in self._wants if not want.future.done())

    def _give_up_late(self) -> None:
        late = self._now() - PATIENCE_SECONDS
        rate = max(1e-3, self._calls_granted(Quota(0.0, 0.0, 0.0), 1.0))
        while self._wants and (self._wants[0].future.done() or self._wants[0].since < late):
            want = self._wants.popleft()
            if not want.future.done():
                seconds = min(PARKED_MOST_SECONDS, max(PARKED_SECONDS, len(self._wants) / rate))
                want.future.set_exception(Throttled("the calls or tokens a minute that are set are used up", seconds))

    def _quota_room(self) -> int | None:
        """This process's part of what the set limits give in a second."""
        if self._quota is None:
            return None
        return max(0, ceil(self._calls_granted(self._quota, 1.0)) - len(self._wants))

    def _calls_granted(self, quota: Quota, seconds: float) -> float:
        """How many usual calls of this process the buckets and so many seconds are good for."""
        standing = self._standings.get(self._model)
        bounds = []
        if self._rates.requests is not None:
            bounds.append(quota.requests + seconds * per_second(self._rates.requests))
        if self._rates.tokens is not None:
            tokens = quota.tokens + seconds * per_second(self._rates.tokens)
            bounds.append(tokens / max(1.0, self._usual_tokens))
        return min(bounds) / max(1, len(standing.members) if standing else 1)


class LimitedModel:
    """`ports.ChatModel` that asks another one when the limits let it."""

    def __init__(self, model: ChatModel, limits: Limits, minute: LastMinute | None = None) -> None:
        self._model = model
        self._limits = limits
        self._minute = minute or LastMinute()

    async def complete(self, request: ChatRequest) -> ChatReply:
        tokens = await self._limits.reserve(request)
        gate = self._limits.gate(request.model)
        try:
            call = await gate.enter()
        except BaseException:
            self._limits.settle(request, tokens, Usage())
            raise
        said, asked_seconds = Said.NOTHING, None
        try:
            reply = await self._model.complete(request)
        except WorkerError as error:
            said = said_by(error)
            self._minute.called(error.usage, refused=said in (Said.REFUSED, Said.CROWDED))
            asked_seconds = self._hear(error)
            if not isinstance(error, ReplyLost):
                self._limits.settle(request, tokens, error.usage)
                if call.is_probe and said is Said.FAILED:
                    # Not billed, and no fault of the job: it waits as all others do.
                    raise Throttled(f"a probe failed: {error.reason}", PARKED_SECONDS, error.usage) from error
            raise
        else:
            said = Said.ANSWERED
            self._minute.called(reply.usage)
            self._limits.settle(request, tokens, reply.usage)
            return reply
        finally:
            gate.leave(call, said, asked_seconds)

    def _hear(self, error: WorkerError) -> float | None:
        """How long an error asks to wait; what it asks of the whole key is told to everybody."""
        if not isinstance(error, PauseError) or error.after_seconds is None:
            return None
        if isinstance(error, OutOfMoney) or (isinstance(error, RateLimited) and error.origin in WHOLE_KEY):
            self._limits.pause(error.after_seconds)
        return error.after_seconds


def counts_of(standing: Standing) -> Counts:
    """What was seen under the pace of a standing; refusals of calls that began under an earlier one are late."""
    counts, lowerings = standing.counts, standing.pace.lowerings
    refused = counts.get(f"refused.{lowerings}", 0.0)
    names = ("started", "succeeded", "failed", "crowded", "paused", "held", "probe_succeeded", "probe_failed")
    seconds = min(standing.now - standing.pace.decided_at, standing.now - standing.since + REPORT_SECONDS)
    return Counts(
        seconds=max(0.0, seconds),
        refused=refused,
        late=sum(number for name, number in counts.items() if name.startswith("refused.")) - refused,
        asked_seconds=counts.get(f"asked_seconds.{lowerings}", 0.0),
        latency_seconds=counts.get("latency_seconds", 0.0),
        **_picked(counts, names),
    )


def _picked(counts: Tally, names: tuple[str, ...]) -> Mapping[str, float]:
    return {name: counts.get(name, 0.0) for name in names}


def _in_our_time(share: Share, offset_seconds: float) -> Share:
    """The board's Unix seconds as ours; 0 stays 0, which is never."""
    paused_until = share.paused_until and share.paused_until + offset_seconds
    open_until = share.open_until and share.open_until + offset_seconds
    return replace(share, paused_until=paused_until, open_until=open_until)


def _tell(model: str, before: Pace, after: Pace) -> None:
    """The log hears of what people ask about: who slowed us down, and who is down."""
    if after.is_open != before.is_open:
        log.warning("provider_fails" if after.is_open else "provider_answers_again", model=model)
    if after.rate is not None and before.rate is None:
        log.warning("calls_limited", model=model, calls_per_second=round(after.rate, 2))


def prompt_bytes(request: ChatRequest) -> int:
    prompt = request.prompt
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in (prompt.system, prompt.user))


def gateway_name(base_url: str, api_key: str) -> str:
    """What processes that share a provider's limits have in common; the key cannot be read out of it."""
    return hashlib.sha256(f"{base_url}\n{api_key}".encode()).hexdigest()[:12]
