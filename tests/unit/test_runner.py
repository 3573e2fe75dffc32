"""How long an attempt may take."""

from hypothesis import given
from hypothesis import strategies as st

from shoal import Classify, ProducerSettings
from shoal.messages import message_of
from shoal_worker.errors import DeadlineExceeded, Expired
from shoal_worker.runner import Limits, time_limit

NOW = 1_795_000_000.0
MESSAGE = message_of(Classify(text="t", labels=("a", "b")), {}, ProducerSettings(), NOW)
seconds = st.integers(1, 10**6).map(float)


@given(seconds, seconds)
def test_an_attempt_ends_with_its_own_limit_or_its_jobs_life_whichever_comes_first(limit: float, life: float) -> None:
    message = MESSAGE.model_copy(update={"expires_at": NOW + life})
    limit_seconds, overrun = time_limit(message, NOW, Limits("m", 1.0, limit))
    assert limit_seconds == min(limit, life)
    assert isinstance(overrun, Expired if life <= limit else DeadlineExceeded)
