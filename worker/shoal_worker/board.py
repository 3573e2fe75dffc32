"""Where processes put what they saw of a provider and read where all stand: in the queue's Redis, or in the process.

One report is one script; decisions are made in Python (`pace.py`) and set by whoever comes first. Time is Redis's own.

    shoal:limit:GATEWAY:MODEL           a hash: the pace, its version, counts since it was made
    shoal:limit:GATEWAY:MODEL:members   a hash: living processes
    shoal:limit:GATEWAY:pause           until when nobody calls
    shoal:limit:GATEWAY:quota           a hash: what is left of calls and tokens
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from redis.asyncio import Redis

from shoal import wire
from shoal.scripts import Scripts
from shoal_worker.pace import Member, Pace
from shoal_worker.quota import Grant, Quota, Rates, depth, full, granted, per_second

PREFIX = "shoal:limit:"
#: A process that has said nothing for so long has no share.
SILENT_SECONDS = 3.0
#: What was learned is forgotten after an hour in which nobody called.
KEEP_SECONDS = 3_600

Tally = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Standing:
    """What the board says. `counts` were seen since `since`, under the pace or before it."""

    now: float
    version: int
    pace: Pace
    since: float
    key_paused_until: float
    counts: Tally
    members: tuple[Member, ...]


class Board(Protocol):
    """Every verb is atomic. Raises what its server's client raises, when that is away."""

    async def report(self, model: str, me: Member, counts: Tally, pause_seconds: float) -> Standing:
        """Add to the counts; a pause above 0 is for the whole key."""
        ...

    async def decide(self, model: str, standing: Standing, pace: Pace) -> bool:
        """Set the pace made from a standing; False when somebody was faster."""
        ...

    async def grant(self, rates: Rates, wants: Sequence[float], settled: float) -> Grant: ...


class RedisBoard:
    """Shared by all processes that call the same gateway with the same key."""

    def __init__(self, client: "Redis", gateway: str) -> None:
        names = ("limit_report", "limit_decide", "limit_quota")
        self._scripts = Scripts(client, {name: wire.script("shoal_worker", name) for name in names})
        self._prefix = f"{PREFIX}{gateway}:"

    async def report(self, model: str, me: Member, counts: Tally, pause_seconds: float) -> Standing:
        key = self._prefix + model
        state = f"{me.waiting} {me.in_flight}"
        args = [me.id, state, SILENT_SECONDS, pause_seconds, KEEP_SECONDS, *_flat(counts)]
        return _standing(
            await self._scripts.call("limit_report", [key, f"{key}:members", f"{self._prefix}pause"], args)
        )

    async def decide(self, model: str, standing: Standing, pace: Pace) -> bool:
        args = [standing.version, pace.model_dump_json(), *_flat(standing.counts)]
        return bool(await self._scripts.call("limit_decide", [self._prefix + model], args))

    async def grant(self, rates: Rates, wants: Sequence[float], settled: float) -> Grant:
        fixed: list[float] = []
        for per_minute, least in ((rates.requests, 1.0), (rates.tokens, 0.0)):
            fixed += [-1.0 if per_minute is None else per_second(per_minute), depth(per_minute, least)]
        args = [*fixed, settled, KEEP_SECONDS, *wants]
        calls, requests, tokens, now = await self._scripts.call("limit_quota", [f"{self._prefix}quota"], args)
        return Grant(int(calls), Quota(float(requests), float(tokens), float(now)))


def _standing(answer: Any) -> Standing:
    now, version, pace, since, pause, counts, members = answer
    return Standing(
        now=float(now),
        version=int(version),
        pace=Pace.model_validate_json(pace) if pace else Pace(),
        since=float(since),
        key_paused_until=float(pause),
        counts={name.decode(): float(number) for name, number in _pairs(counts)},
        members=tuple(Member(name.decode(), *map(int, state.split())) for name, state in _pairs(members)),
    )


def _flat(counts: Tally) -> list[str | float]:
    return [part for pair in counts.items() for part in pair]


def _pairs(flat: list[bytes]) -> Iterable[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


@dataclass
class LocalBoard:
    """For one process alone, where the queue is no Redis."""

    now: Callable[[], float] = time.time
    _standings: dict[str, Standing] = field(default_factory=dict)
    _paused_until: float = 0.0
    _quota: Quota | None = None

    async def report(self, model: str, me: Member, counts: Tally, pause_seconds: float) -> Standing:
        now = self.now()
        if pause_seconds > 0:
            self._paused_until = max(self._paused_until, now + pause_seconds)
        known = self._standings.get(model) or Standing(now, 0, Pace(), now, 0.0, {}, ())
        summed = {name: known.counts.get(name, 0.0) + counts.get(name, 0.0) for name in {*known.counts, *counts}}
        since = known.since if known.counts else now
        standing = Standing(now, known.version, known.pace, since, self._paused_until, summed, (me,))
        self._standings[model] = standing
        return standing

    async def decide(self, model: str, standing: Standing, pace: Pace) -> bool:
        self._standings[model] = Standing(
            standing.now, standing.version + 1, pace, standing.now, self._paused_until, {}, standing.members
        )
        return True

    async def grant(self, rates: Rates, wants: Sequence[float], settled: float) -> Grant:
        now = self.now()
        grant = granted(self._quota or full(rates, now), rates, wants, settled, now)
        self._quota = grant.quota
        return grant
