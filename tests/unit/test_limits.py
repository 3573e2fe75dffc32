"""Decisions about the pace of calls, and the buckets of set limits."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_worker.pace import (
    FAILURES_IN_A_ROW,
    PROBE_AFTER_MOST_SECONDS,
    Counts,
    Member,
    Pace,
    is_due,
    next_pace,
    share_of,
)
from shoal_worker.quota import Estimate, Quota, Rates, full, granted

NOW = 1_795_000_000.0
BUSY = (Member("a", waiting=50, in_flight=10), Member("b", waiting=50, in_flight=10))

amounts = st.integers(0, 1_000)
counts = st.builds(
    Counts,
    st.floats(0, 10),
    *[amounts] * 10,
    st.floats(0, 1e6),
    st.floats(0, 1e6),
)
members = st.lists(
    st.builds(Member, st.sampled_from("abcdefgh"), amounts, amounts), max_size=8, unique_by=lambda member: member.id
)


class Provider:
    """What calls at a rate come to: a bucket of one second's worth."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.tokens = capacity

    def window(self, pace: Pace, seconds: float, at_most: float = 4_000.0) -> Counts:
        """Callers stop at the first refusal, as gates do."""
        self.tokens = min(self.capacity, self.tokens + self.capacity * seconds)
        wanted = (at_most if pace.rate is None else pace.rate) * seconds
        accepted = min(self.tokens, wanted)
        self.tokens -= accepted
        refused = 1.0 if wanted > accepted else 0.0
        return Counts(seconds, accepted + refused, accepted, refused=refused, held=5, latency_seconds=accepted * 0.3)


def played(pace: Pace, provider: Provider, windows: int, now: float) -> tuple[Pace, float, float, float]:
    """The pace after some windows, calls taken, refused, and the time."""
    taken = refused = 0.0
    for _ in range(windows):
        now += 0.25
        seen = provider.window(pace, 0.25)
        taken, refused = taken + seen.succeeded, refused + seen.refused
        pace = next_pace(pace, seen, BUSY, now)
    return pace, taken, refused, now


# --- the rate ------------------------------------------------------------------------------------------------------


def test_nothing_is_held_back_before_the_first_refusal() -> None:
    pace = next_pace(Pace(decided_at=NOW), Counts(0.3, 500, 200, held=0, latency_seconds=900), BUSY, NOW + 0.3)
    share = share_of(pace, BUSY, "a", NOW)
    assert (share.rate, share.at_once, share.open_until) == (None, None, 0.0)


def test_before_the_first_reply_four_hundred_calls_a_second_may_start_for_a_moment() -> None:
    pace, member = Pace(decided_at=NOW), Member("a", 300, 0)
    for place in range(3):
        assert share_of(pace, [member], "a", NOW).rate == pytest.approx(400)
        pace = next_pace(pace, Counts(0.3, 120, held=200), [member], NOW + 0.3 * (place + 1))
    assert share_of(pace, [member], "a", NOW).rate is None


def test_a_capacity_that_falls_and_rises_is_found_with_few_refusals() -> None:
    provider, pace, now = Provider(50.0), Pace(decided_at=NOW), NOW
    pace, _, _, now = played(pace, provider, 40, now)
    assert pace.rate == pytest.approx(50, rel=0.3)
    provider.capacity = 10.0
    pace, *_, now = played(pace, provider, 6, now)
    assert pace.rate is not None
    assert pace.rate < 20
    pace, taken, refused, now = played(pace, provider, 114, now)
    assert taken > 0.9 * 10 * 114 / 4
    assert refused < 0.06 * taken
    provider.capacity = 80.0
    pace, taken, refused, now = played(pace, provider, 120, now)
    assert taken > 0.85 * 80 * 30
    assert refused < 0.02 * taken


@given(st.floats(0.5, 2_000))
def test_any_steady_capacity_is_used_and_seldom_overrun(capacity: float) -> None:
    pace, _, _, now = played(Pace(decided_at=NOW), Provider(capacity), 80, NOW)
    provider = Provider(capacity)
    pace, taken, refused, _ = played(pace, provider, 400, now)
    assert taken >= 0.85 * capacity * 100
    assert refused <= 60


def test_a_storm_that_takes_no_call_at_all_is_over_soon() -> None:
    pace, now = Pace(decided_at=NOW, usual_latency=0.3, latency=0.3), NOW
    for _ in range(40):
        now += 0.3
        pace = next_pace(pace, Counts(0.3, 1, refused=1, held=9), BUSY, now)
    assert (pace.rate or 0) < 1
    _, taken, _, _ = played(pace, Provider(100.0), 40, now)
    assert taken > 200


def test_the_rate_does_not_grow_while_nobody_waits_or_replies_are_slow() -> None:
    pace = Pace(decided_at=NOW, rate=10.0, ceiling=10.0, accepted=25.0, latency=0.3, usual_latency=0.3)
    calm = Counts(0.3, 3, 3, latency_seconds=0.9)
    assert next_pace(pace, calm, BUSY, NOW + 0.3).rate == 10.0
    slow = Counts(1.0, 10, 10, held=5, latency_seconds=20.0)
    assert next_pace(pace, slow, BUSY, NOW + 1).rate == 10.0
    assert (next_pace(pace, replace(calm, held=5), BUSY, NOW + 0.3).rate or 0) > 10.0


def test_refusals_of_calls_that_began_under_an_earlier_pace_do_not_lower_it_again() -> None:
    pace = Pace(decided_at=NOW, rate=10.0, ceiling=10.0, lowerings=3)
    assert next_pace(pace, Counts(0.3, 3, 1, late=20, held=9), BUSY, NOW + 0.3).lowerings == 3


def test_calls_at_once_have_room_for_twice_the_usual_latency() -> None:
    pace = Pace(rate=100.0, usual_latency=0.5)
    assert share_of(pace, [Member("a")], "a", NOW).at_once == 100


def test_a_full_in_flight_budget_lowers_calls_at_once_and_not_the_rate() -> None:
    pace = next_pace(Pace(decided_at=NOW), Counts(0.3, 20, 0, crowded=5), BUSY, NOW + 0.3)
    assert (pace.at_once, pace.rate) == (16.0, None)


def test_a_pause_of_the_key_is_followed_by_a_slow_start() -> None:
    pace = next_pace(Pace(decided_at=NOW), Counts(0.3, 100, 90, paused=1, held=10), BUSY, NOW + 0.3)
    assert pace.rate == 10.0
    share = share_of(pace, BUSY, "a", NOW, key_paused_until=NOW + 60)
    assert share.paused_until == NOW + 60


def test_one_model_pauses_when_most_of_its_calls_are_told_to_come_back_later() -> None:
    told = Counts(0.3, 8, 0, refused=8, asked_seconds=8 * 29.0)
    assert next_pace(Pace(decided_at=NOW), told, BUSY, NOW).paused_until == NOW + 29.0
    some = Counts(0.3, 80, 70, refused=8, asked_seconds=8 * 29.0)
    assert next_pace(Pace(decided_at=NOW), some, BUSY, NOW).paused_until == 0.0


@given(st.lists(counts, max_size=30), members)
def test_whatever_is_seen_a_pace_stays_a_pace(seen: list[Counts], living: list[Member]) -> None:
    pace, now = Pace(decided_at=NOW), NOW
    for window in seen:
        now += window.seconds
        is_due(pace, window, living, now)
        pace = next_pace(pace, window, living, now)
        assert pace.rate is None or 0 < pace.rate <= 5_000
        assert pace.at_once is None or pace.at_once >= 1
        assert pace.open_until <= now + PROBE_AFTER_MOST_SECONDS
        assert Pace.model_validate_json(pace.model_dump_json()) == pace


@given(st.floats(0.1, 1_000), members.filter(bool))
def test_shares_add_up_to_the_pace(rate: float, living: list[Member]) -> None:
    shares = [share_of(Pace(rate=rate), living, member.id, NOW).rate or 0 for member in living]
    assert sum(shares) == pytest.approx(rate)
    assert min(shares) > 0


# --- the breaker ---------------------------------------------------------------------------------------------------


def failing(pace: Pace, now: float, **seen: Any) -> Pace:
    return next_pace(pace, Counts(0.3, **seen), BUSY, now)


def test_failures_in_a_row_open_the_breaker_and_one_process_probes() -> None:
    pace = failing(Pace(decided_at=NOW), NOW, started=9, failed=FAILURES_IN_A_ROW)
    assert pace.open_until == NOW + 1
    assert not any(share_of(pace, BUSY, name, NOW + 2).probes for name in "ab")
    pace = failing(pace, NOW + 1)
    assert [share_of(pace, BUSY, name, NOW + 2).probes for name in "ab"].count(True) == 1


def test_a_probe_that_fails_doubles_the_pause_up_to_its_most() -> None:
    pace, now, pauses = failing(Pace(decided_at=NOW), NOW, failed=5), NOW, []
    for _ in range(8):
        now = pace.open_until
        pace = failing(failing(pace, now), now + 0.3, probe_failed=1)
        pauses.append(pace.open_seconds)
    assert pauses == [2, 4, 8, 16, 30, 30, 30, 30]


def test_a_probe_that_succeeds_closes_it_and_calls_start_slowly() -> None:
    pace = failing(failing(Pace(decided_at=NOW), NOW, failed=5), NOW + 1)
    pace = failing(pace, NOW + 1.3, probe_succeeded=1)
    assert (pace.is_open, pace.rate) == (False, 10.0)
    for _ in range(12):
        pace = failing(pace, NOW + 2, started=5, succeeded=5, held=9, latency_seconds=1.5)
    assert (pace.rate or 0) > 200
    assert failing(pace, NOW + 3, started=5, succeeded=5).rate is None


def test_old_calls_that_come_back_do_not_close_it() -> None:
    pace = failing(Pace(decided_at=NOW), NOW, failed=5)
    assert failing(pace, NOW + 0.3, succeeded=20).is_open


def test_failures_among_many_successes_do_not_open_it() -> None:
    pace = Pace(decided_at=NOW)
    for _ in range(20):
        pace = failing(pace, NOW, started=40, succeeded=30, failed=10)
    assert not pace.is_open
    for _ in range(15):
        pace = failing(pace, NOW, started=40, succeeded=1, failed=39)
    assert pace.is_open


def test_a_prober_that_has_gone_or_has_nothing_to_ask_is_replaced() -> None:
    pace = failing(failing(Pace(decided_at=NOW), NOW, failed=5), NOW + 1)
    other = next(member for member in BUSY if member.id != pace.prober)
    assert next_pace(pace, Counts(0.3), [other], NOW + 2).prober == other.id
    assert next_pace(pace, Counts(0.3), [other, Member(pace.prober)], NOW + 2).prober == other.id


# --- set limits ----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 60)), min_size=1, max_size=200), st.integers(1, 3_000))
def test_no_minute_sees_more_calls_than_the_limit_and_a_bucket(asks: list[tuple[float, int]], rpm: int) -> None:
    rates = Rates(requests=rpm)
    quota, now, log = full(rates, 0.0), 0.0, []
    for pause, calls in asks:
        now += pause
        grant = granted(quota, rates, [100.0] * calls, 0.0, now)
        quota = grant.quota
        log += [now] * grant.calls
    for began in log:
        assert sum(began <= at < began + 60 for at in log) <= rpm + max(1.0, rpm / 100)


def test_a_call_larger_than_the_bucket_goes_and_is_paid_off() -> None:
    rates = Rates(tokens=6_000)
    grant = granted(full(rates, 0.0), rates, [3_000.0, 1.0], 0.0, 0.0)
    assert grant.calls == 1
    assert granted(grant.quota, rates, [1.0], 0.0, 29.0).calls == 0
    assert granted(grant.quota, rates, [1.0], 0.0, 31.0).calls == 1


def test_what_was_taken_too_much_is_given_back() -> None:
    rates = Rates(tokens=6_000)
    owing = Quota(1.0, -500.0, 0.0)
    assert granted(owing, rates, [1.0], 0.0, 0.0).calls == 0
    assert granted(owing, rates, [1.0], -600.0, 0.0).calls == 1


def test_an_estimate_begins_with_the_cap_and_learns() -> None:
    estimate = Estimate()
    assert estimate.tokens(400, 1_000) == 1_100
    for _ in range(60):
        estimate = estimate.learned(400, 80, 20)
    assert estimate.tokens(400, 1_000) == pytest.approx(100)
