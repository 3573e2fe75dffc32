"""How long a job lives, as its producer says it."""

import math

import pytest

from shoal import Classify, InvalidJob, Options, ProducerSettings
from shoal.messages import message_of

ARGS = Classify(text="t", labels=("a", "b"))
NOW = 1_795_000_000.0


def expires_at(**options: object) -> float:
    given: Options = options  # type: ignore[assignment]  # wrong ones too
    return message_of(ARGS, given, ProducerSettings(job_lifetime_seconds=60), NOW).expires_at


def test_a_life_is_given_by_its_length_or_its_end_or_the_settings() -> None:
    assert expires_at() == NOW + 60
    assert expires_at(expires_in_seconds=5) == NOW + 5
    assert expires_at(expires_at=NOW + 7.5) == NOW + 7.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"expires_at": NOW + 1, "expires_in_seconds": 1}, "exclude each other"),
        ({"expires_in_seconds": 0}, "expires_in_seconds must be more than 0"),
        ({"expires_in_seconds": math.nan}, "expires_in_seconds must be more than 0"),
        ({"expires_in_seconds": math.inf}, "expires_in_seconds is more than 100 years away"),
        ({"expires_at": NOW}, "expires_at must be in the future"),
        ({"expires_at": math.nan}, "expires_at must be in the future"),
        ({"expires_at": NOW * 1_000}, "not in milliseconds"),
        ({"expires_at": "tomorrow"}, "expires_at must be a number of seconds"),
        ({"expires_at": None}, "expires_at must be a number of seconds"),
    ],
)
def test_a_life_that_is_none_is_refused_in_words(options: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidJob, match=said):
        expires_at(**options)


def test_the_life_is_no_part_of_the_work() -> None:
    first, second = (message_of(ARGS, {"expires_at": NOW + life}, ProducerSettings(), NOW) for life in (1, 2))
    assert first.id == second.id
