"""How fast a model may be called: learned from what its provider says, because successful replies name no limit. Pure.

All worker processes together see one `Pace`. They add up what they saw (`Counts`), and a few times a second one of them
makes the next pace of it:

- Nothing is held back until the first refusal; but before the first reply no more than 400 calls a second start, for
  three quarters of a second, so that a provider that takes fewer can say so before it has them all.
- A refusal shows the ceiling: what the provider took since the refusal before, for whoever calls up to its limit has,
  from one refusal to the next, been given exactly what it gives. The rate goes below it for a moment, so that calls of
  several processes that happen to meet find room again.
- Where calls had to wait, the rate grows: to the last ceiling within a second or so, slowly beyond it, and by doubling
  where the provider has taken clearly more than the ceiling gives, or none is known.
- Calls at once are bound by Little's law, with room for twice the usual latency: a provider that slows down is called
  less before it refuses.
- A provider that fails is left alone: the breaker opens, one call probes after a pause that doubles, and its success
  closes it. After this and after any pause the rate starts low.

Times are Unix seconds of whoever keeps the pace; rates are calls a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from pydantic import BaseModel, ConfigDict

#: Two decisions are at least this far apart; but a refusal is answered at once, unless the last one just was.
WINDOW_SECONDS = 0.25
#: A rate on little evidence, and after a pause. No refusal lowers it to less than a part, nor below the least.
START_RATE = 10.0
MOST_LOWERED = 0.3
LEAST_RATE = 0.2
#: Before the first reply: a refusal comes sooner than an answer.
COLD_RATE, COLD_SECONDS = 400.0, 0.75
#: A rate beyond this binds nobody.
UNBOUND_RATE = 5_000.0
#: What is taken of the measured capacity just after a refusal.
BELOW_CAPACITY = 0.75
#: Growth: back to the ceiling; past it, after so many calls or seconds, by a share of it a second or by calls a second;
#: doubling.
RETURN_SECONDS = 1.0
PROBE_AFTER_CALLS, PROBE_AFTER_LONGEST_SECONDS = 20, 15.0
PROBE_SHARE, PROBE_CALLS, PROBE_MOST_SHARE = 0.06, 3.0, 0.3
#: A provider that has taken so much more than the ceiling gives has another one.
OUTGROWN_SECONDS, OUTGROWN_CALLS = 0.5, 2.0
DOUBLING_SECONDS = 0.8
#: How fast means forget.
GOODPUT_SECONDS = 1.0
LATENCY_SECONDS = 2.0
USUAL_LATENCY_SECONDS = 60.0
#: Latency so far above the usual stops growth; calls at once have room for twice the usual.
SLOWER = 1.5
HEADROOM = 2.0
LEAST_AT_ONCE = 4
CROWDED_SHARE = 0.8
CROWDED_GROWTH_SHARE = 0.05
#: A pause of one model for all: most calls were refused, and a time was named.
PAUSE_FROM_REFUSALS = 3
PAUSE_FROM_SECONDS = 3.0
LONGEST_PAUSE_SECONDS = 60.0
#: The breaker opens after so many failures without any success, or when this share of this many calls fails.
FAILURES_IN_A_ROW = 3
FAILURES_TO_JUDGE, FAILING_SHARE = 10.0, 0.6
FAILURES_KEPT_SECONDS = 5.0
PROBE_AFTER_SECONDS, PROBE_AFTER_MOST_SECONDS = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What all processes saw since the last decision, which took `seconds`.

    `refused` calls were begun under the present rate; `late` ones under an earlier: they say nothing new, nor are they
    among those that `started` since. `crowded` were told that too much is in flight. `held` had to wait.
    `asked_seconds` and `latency_seconds` are sums.
    """

    seconds: float
    started: float = 0
    succeeded: float = 0
    failed: float = 0
    refused: float = 0
    late: float = 0
    crowded: float = 0
    paused: float = 0
    held: float = 0
    probe_succeeded: float = 0
    probe_failed: float = 0
    asked_seconds: float = 0.0
    latency_seconds: float = 0.0

    @property
    def accepted(self) -> float:
        """Less than 0 where calls that began earlier are refused now: the sum over several windows is right."""
        return self.started - self.refused - self.crowded


@dataclass(frozen=True, slots=True)
class Member:
    """A living process: calls that wait in it, and calls in flight."""

    id: str
    waiting: int = 0
    in_flight: int = 0

    @property
    def demand(self) -> int:
        return self.waiting + self.in_flight


class Pace(BaseModel):
    """What is known of a model's provider. `rate`, `ceiling` and `at_once` None: no limit was met yet."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    decided_at: float = 0.0
    rate: float | None = None
    ceiling: float | None = None
    at_once: float | None = None
    #: How often the rate was lowered: a refusal of a call that began before that is no news.
    lowerings: int = 0
    goodput: float = 0.0
    #: Since the last refusal, as far as calls had to wait.
    accepted: float = 0.0
    accepted_seconds: float = 0.0
    latency: float = 0.0
    usual_latency: float = 0.0
    paused_until: float = 0.0
    failed: float = 0.0
    succeeded: float = 0.0
    failed_in_a_row: float = 0.0
    #: The breaker is open while this is not 0; then one call of `prober` may go.
    open_until: float = 0.0
    open_seconds: float = 0.0
    prober: str = ""

    @property
    def is_open(self) -> bool:
        return self.open_until > 0


@dataclass(frozen=True, slots=True)
class Share:
    """What one process may do until it hears again. None: no limit."""

    rate: float | None = None
    at_once: int | None = None
    lowerings: int = 0
    paused_until: float = 0.0
    open_until: float = 0.0
    probes: bool = False

    def answers(self, before: "Share") -> bool:
        """Whether it was decided after what stopped us."""
        return self.lowerings != before.lowerings or bool(self.open_until) != bool(before.open_until)


def is_due(pace: Pace, counts: Counts, members: Sequence[Member], now: float) -> bool:
    """Whether there is something to decide."""
    is_news = counts.refused > 0 and pace.accepted_seconds + counts.seconds >= WINDOW_SECONDS
    if now - pace.decided_at < WINDOW_SECONDS and not is_news:
        return False
    wants_probe = pace.is_open and now >= pace.open_until and any(member.waiting for member in members)
    return wants_probe or counts != Counts(counts.seconds)


def next_pace(pace: Pace, counts: Counts, members: Sequence[Member], now: float) -> Pace:
    """The pace after what was seen. `members` are the living processes."""
    measured = _measured(pace, counts, now)
    if pace.is_open:
        return _probed(measured, counts, members, now)
    if _fails(measured):
        return _opened(measured, PROBE_AFTER_SECONDS, now)
    if counts.paused:
        return _started_low(measured)
    if counts.crowded:
        in_flight = sum(member.in_flight for member in members)
        bound = min(measured.at_once or float("inf"), in_flight)
        measured = measured.model_copy(update={"at_once": max(1.0, bound * CROWDED_SHARE)})
    if counts.refused:
        return _lowered(measured, counts, now)
    return _raised(measured, counts)


def share_of(pace: Pace, members: Sequence[Member], me: str, now: float, key_paused_until: float = 0.0) -> Share:
    """One process's part: a tenth is spread evenly, so that who has been idle can begin, the rest goes by demand."""
    demand = sum(member.demand for member in members)
    mine = sum(member.demand for member in members if member.id == me)
    even = 1 / max(1, len(members))
    part = 0.1 * even + 0.9 * (mine / demand if demand else even)
    at_once = _at_once(pace)
    is_cold = pace.rate is None and not pace.usual_latency and pace.accepted_seconds < COLD_SECONDS
    rate = COLD_RATE if is_cold else pace.rate
    return Share(
        rate=None if rate is None else rate * part,
        at_once=None if at_once is None else max(1, ceil(at_once * part)),
        lowerings=pace.lowerings,
        paused_until=max(pace.paused_until, key_paused_until),
        open_until=pace.open_until,
        probes=pace.is_open and now >= pace.open_until and pace.prober == me,
    )


def _at_once(pace: Pace) -> float | None:
    """The least of what the in-flight budget and Little's law allow."""
    bounds = [] if pace.at_once is None else [pace.at_once]
    if pace.rate is not None and pace.usual_latency:
        bounds.append(max(LEAST_AT_ONCE, HEADROOM * pace.rate * pace.usual_latency))
    return min(bounds, default=None)


# --- what was seen -------------------------------------------------------------------------------------------------


def _measured(pace: Pace, counts: Counts, now: float) -> Pace:
    """Means and sums carried on."""
    keep = 0.5 ** (counts.seconds / FAILURES_KEPT_SECONDS)
    seconds = max(counts.seconds, 1e-3)
    update: dict[str, float] = {
        "decided_at": now,
        "goodput": _mean(pace.goodput, max(0.0, counts.accepted) / seconds, seconds, GOODPUT_SECONDS),
        "failed": pace.failed * keep + counts.failed,
        "succeeded": pace.succeeded * keep + counts.succeeded,
        "failed_in_a_row": 0.0 if counts.succeeded else pace.failed_in_a_row + counts.failed,
        "accepted": pace.accepted + counts.accepted,
        "accepted_seconds": pace.accepted_seconds + seconds,
    }
    if counts.succeeded:
        seen = counts.latency_seconds / counts.succeeded
        update["latency"] = _mean(pace.latency or seen, seen, seconds, LATENCY_SECONDS)
        update["usual_latency"] = _mean(pace.usual_latency or seen, seen, seconds, USUAL_LATENCY_SECONDS)
    return pace.model_copy(update=update)


def _mean(mean: float, seen: float, seconds: float, memory_seconds: float) -> float:
    weight = min(1.0, seconds / memory_seconds)
    return mean + weight * (seen - mean)


# --- the rate ------------------------------------------------------------------------------------------------------


def _lowered(pace: Pace, counts: Counts, now: float) -> Pace:
    capacity = _capacity(pace)
    least = START_RATE if pace.rate is None else max(LEAST_RATE, pace.rate * MOST_LOWERED)
    rate = max(least, capacity * BELOW_CAPACITY)
    if pace.rate is not None:
        rate = min(rate, pace.rate)
    asked_seconds = counts.asked_seconds / counts.refused
    # A provider that has taken nothing at all shows no ceiling, but a storm that will pass.
    is_known = pace.rate is not None and pace.accepted > 0
    mostly = counts.refused >= PAUSE_FROM_REFUSALS and counts.refused > counts.accepted
    pauses = mostly and asked_seconds >= PAUSE_FROM_SECONDS
    return pace.model_copy(
        update={
            "rate": rate,
            "ceiling": max(rate, capacity) if is_known else None,
            "lowerings": pace.lowerings + 1,
            "accepted": 0.0,
            "accepted_seconds": 0.0,
            "paused_until": now + min(asked_seconds, LONGEST_PAUSE_SECONDS) if pauses else pace.paused_until,
        }
    )


def _capacity(pace: Pace) -> float:
    """What the provider took since the last refusal.

    What it took in about the last second, where there was none, or it has taken so much since that it must have changed
    in between. The first time that is no ceiling yet: it may have taken a burst.
    """
    if pace.rate is None or _is_outgrown(pace):
        return pace.goodput
    return max(0.0, pace.accepted) / max(pace.accepted_seconds, 1e-3)


def _raised(pace: Pace, counts: Counts) -> Pace:
    """Only what binds is raised, and only while replies come, as fast as usual."""
    at_once = pace.at_once
    if at_once is not None and counts.held:
        at_once += counts.seconds * (1 + at_once * CROWDED_GROWTH_SHARE)
    if pace.rate is None:
        return pace.model_copy(update={"at_once": at_once})
    if not counts.held:
        unbound = pace.ceiling is None
        fresh = {"at_once": at_once, "accepted": 0.0, "accepted_seconds": 0.0}
        return pace.model_copy(update=fresh | ({"rate": None} if unbound else {}))
    if not pace.usual_latency or pace.latency > SLOWER * pace.usual_latency:
        return pace.model_copy(update={"at_once": at_once})
    rate = _grown(pace, pace.rate, counts.seconds)
    if rate > UNBOUND_RATE:
        return pace.model_copy(update={"at_once": at_once, "rate": None, "ceiling": None})
    return pace.model_copy(update={"at_once": at_once, "rate": rate})


def _is_outgrown(pace: Pace) -> bool:
    """Whether the ceiling is disproved."""
    if pace.ceiling is None:
        return False
    return pace.accepted > pace.ceiling * (pace.accepted_seconds + OUTGROWN_SECONDS) + OUTGROWN_CALLS


def _grown(pace: Pace, rate: float, seconds: float) -> float:
    ceiling = pace.ceiling
    if ceiling is None or _is_outgrown(pace):
        return float(rate * 2.0 ** min(1.0, seconds / DOUBLING_SECONDS))
    back = max(0.0, ceiling - rate) * min(1.0, seconds / RETURN_SECONDS)
    if pace.accepted < PROBE_AFTER_CALLS and pace.accepted_seconds < PROBE_AFTER_LONGEST_SECONDS:
        return rate + back
    probe = max(PROBE_SHARE * ceiling, min(PROBE_CALLS, PROBE_MOST_SHARE * ceiling))
    return rate + back + probe * min(1.0, seconds)


def _started_low(pace: Pace) -> Pace:
    """After a pause: what was known stays the ceiling, and is soon reached again."""
    known = pace.ceiling or 0.0
    low = max(START_RATE, known / 2)
    fresh = {"rate": min(low, pace.rate or low), "accepted": 0.0, "accepted_seconds": 0.0}
    return pace.model_copy(update=fresh)


# --- the breaker ---------------------------------------------------------------------------------------------------


def _fails(pace: Pace) -> bool:
    if pace.failed_in_a_row >= FAILURES_IN_A_ROW:
        return True
    return pace.failed >= FAILURES_TO_JUDGE and pace.failed >= FAILING_SHARE * (pace.failed + pace.succeeded)


def _opened(pace: Pace, seconds: float, now: float) -> Pace:
    return pace.model_copy(update={"open_until": now + seconds, "open_seconds": seconds, "prober": ""})


def _probed(pace: Pace, counts: Counts, members: Sequence[Member], now: float) -> Pace:
    """An open breaker. Only probes say something: other calls began before it opened."""
    if counts.probe_succeeded:
        closed = {"open_until": 0.0, "open_seconds": 0.0, "prober": ""}
        forgotten = {"failed": 0.0, "succeeded": 0.0, "failed_in_a_row": 0.0}
        return _started_low(pace.model_copy(update=closed | forgotten))
    if counts.probe_failed:
        return _opened(pace, min(PROBE_AFTER_MOST_SECONDS, pace.open_seconds * 2), now)
    if now < pace.open_until or any(member.id == pace.prober and member.demand for member in members):
        return pace
    waiting = max(members, key=lambda member: member.waiting, default=None)
    return pace.model_copy(update={"prober": waiting.id if waiting and waiting.waiting else ""})
