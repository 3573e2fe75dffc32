"""What becomes of a job whose attempt failed."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_worker.errors import (
    ConnectFailed,
    ContentRefused,
    OutOfMoney,
    PauseError,
    ProviderUnavailable,
    RateLimited,
    ReplyLost,
    RequestRefused,
    TransientError,
    WorkerError,
)
from shoal_worker.retry import Discard, Policy, Progress, Retry, Snooze, decide

POLICY = Policy()
NOW = 1_795_000_000.0
DAY_SECONDS = 86_400.0

seeds = st.integers(0, 2**32)
waits = st.floats(0, 1e6)
errors: st.SearchStrategy[WorkerError] = st.one_of(
    st.builds(ProviderUnavailable, st.just("status 502")),
    st.builds(ReplyLost, st.just("cut")),
    st.builds(RateLimited, st.just("status 429"), st.one_of(st.none(), st.floats())),
    st.builds(OutOfMoney, st.just("status 402"), st.one_of(st.none(), st.floats())),
    st.builds(RequestRefused, st.just("status 400")),
)


def progress(attempt: int = 1, snoozes: int = 0, left_seconds: float = DAY_SECONDS) -> Progress:
    return Progress(attempt, snoozes, NOW, NOW + left_seconds)


@given(errors, st.integers(-1, 10**6), st.integers(-1, 10**6), st.floats(-1e9, 1e9), seeds)
def test_every_error_ends_in_a_decision_that_is_finite_and_within_the_jobs_life(
    error: WorkerError, attempt: int, snoozes: int, left_seconds: float, seed: int
) -> None:
    state = progress(attempt, snoozes, left_seconds)
    decision = decide(error, state, POLICY, Random(seed))
    if not isinstance(decision, Discard):
        assert math.isfinite(decision.after_seconds)
        assert 0 <= decision.after_seconds <= state.remaining_seconds
        assert decision.cause == error.cause


@given(st.integers(1, 10**6), seeds)
def test_a_retry_waits_at_most_the_cap_however_many_attempts_there_were(attempt: int, seed: int) -> None:
    patient = Policy(max_attempts=10**7)
    decision = decide(ProviderUnavailable("status 502"), progress(attempt), patient, Random(seed))
    assert isinstance(decision, Retry)
    assert 0 <= decision.after_seconds <= min(patient.cap_seconds, patient.base_seconds * 2 ** min(attempt - 1, 60))


def test_the_waits_of_retries_grow_and_are_spread() -> None:
    chance = Random(7)
    means = [sum(POLICY.backoff_seconds(attempt, chance) for _ in range(400)) / 400 for attempt in (1, 3, 5, 7)]
    assert means == sorted(means)
    assert means[-1] > 8 * means[0]


def test_a_transient_error_is_retried_until_the_attempts_are_used_up() -> None:
    error = ReplyLost("connection lost: ServerDisconnectedError")
    kinds = [type(decide(error, progress(attempt), POLICY, Random(1))) for attempt in range(1, POLICY.max_attempts + 1)]
    assert kinds == [Retry] * 5 + [Discard]


def test_the_last_attempt_leaves_the_last_errors_cause_and_says_that_it_was_the_last() -> None:
    decision = decide(ProviderUnavailable("status 502"), progress(attempt=6), POLICY, Random(1))
    assert decision == Discard("provider_unavailable", "attempt 6 of 6 failed: status 502")


@given(waits, st.integers(0, 10**6), seeds)
def test_a_snooze_is_never_shorter_than_asked_and_at_most_a_tenth_longer(asked: float, snoozes: int, seed: int) -> None:
    decision = decide(
        RateLimited("status 429", asked), progress(snoozes=snoozes, left_seconds=2e6), POLICY, Random(seed)
    )
    assert isinstance(decision, Snooze)
    assert decision.after_seconds >= asked
    if asked >= POLICY.snooze_base_seconds:
        assert decision.after_seconds <= asked * 1.1 + 1e-6


@given(st.floats(0, 1.9), st.integers(0, 10**6), seeds)
def test_being_asked_for_no_wait_again_and_again_does_not_make_a_job_run_in_circles(
    asked: float, snoozes: int, seed: int
) -> None:
    pause = POLICY.pause_seconds(asked, snoozes, Random(seed))
    assert pause >= max(asked, min(POLICY.snooze_cap_seconds, POLICY.snooze_base_seconds * 2 ** min(snoozes, 30)) / 2)


@given(st.integers(0, 10**6), seeds)
def test_an_unnamed_pause_grows_with_the_snoozes_up_to_its_cap(snoozes: int, seed: int) -> None:
    decision = decide(OutOfMoney("status 402"), progress(snoozes=snoozes), POLICY, Random(seed))
    assert isinstance(decision, Snooze)
    bound = min(POLICY.snooze_cap_seconds, POLICY.snooze_base_seconds * 2 ** min(snoozes, 60))
    assert bound / 2 <= decision.after_seconds <= bound


@given(st.floats(2, 1e6), seeds)
def test_our_own_spread_never_ends_a_job_whose_asked_wait_still_fits(asked: float, seed: int) -> None:
    decision = decide(RateLimited("status 429", asked), progress(left_seconds=asked), POLICY, Random(seed))
    assert decision == Snooze(progress(left_seconds=asked).remaining_seconds, "rate_limited", "status 429") or (
        # Unix time is a float: the rest of the life may be rounded to just below what was asked.
        isinstance(decision, Discard) and progress(left_seconds=asked).remaining_seconds < asked
    )


@pytest.mark.parametrize("asked", [3_601.0, 1e12, math.inf])
def test_a_pause_longer_than_the_jobs_life_is_a_dead_letter_that_names_its_cause(asked: float) -> None:
    decision = decide(RateLimited("status 429, limit x", asked), progress(left_seconds=3_600), POLICY, Random(1))
    assert decision == Discard("expired", "time runs out before the next try; last: rate_limited: status 429, limit x")


@pytest.mark.parametrize("error", [TransientError("t"), PauseError("p"), PauseError("p", 0.0)])
def test_a_job_whose_time_has_run_out_is_not_tried_again(error: WorkerError) -> None:
    decision = decide(error, progress(left_seconds=-1), POLICY, Random(1))
    assert isinstance(decision, Discard)
    assert decision.cause == "expired"


@given(st.integers(1, 10**6), st.floats(-1e6, 1e6), seeds)
def test_a_permanent_error_is_a_dead_letter_under_its_own_cause(attempt: int, left: float, seed: int) -> None:
    decision = decide(ContentRefused("status 403"), progress(attempt, 0, left), POLICY, Random(seed))
    assert decision == Discard("content_refused", "status 403")


def test_a_snooze_costs_no_attempt_even_when_all_of_them_are_used_up() -> None:
    decision = decide(RateLimited("status 429", 5.0), progress(attempt=10**6), POLICY, Random(1))
    assert isinstance(decision, Snooze)


@given(st.integers(1, 10**6), seeds)
def test_a_provider_that_is_not_there_costs_no_attempt(attempt: int, seed: int) -> None:
    assert isinstance(decide(ConnectFailed("no connection"), progress(attempt), POLICY, Random(seed)), Snooze)
