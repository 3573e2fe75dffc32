"""What dead letters have in common, and how a job comes back to life."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import Attempt, Classify, InvalidJob, ProducerSettings
from shoal.dead_cli import changes_of
from shoal.deadletters import Changes, fingerprint, revived
from shoal.jobs import HISTORY_LENGTH, HISTORY_REASON_CHARS, DeadLetter
from shoal.messages import message_of

MESSAGE = message_of(Classify(text="t", labels=("a", "b")), {}, ProducerSettings(), 1_000.0)


def attempt(number: int, reason: str = "no") -> Attempt:
    return Attempt(number=number, began_at=1.0, ended_at=2.0, cause="misfit", reason=reason, worker="w")


def letter(reason: str = "no", cause: str = "misfit", **fields: object) -> DeadLetter:
    tried = MESSAGE.remembering(attempt(3)).model_copy(update={"attempt": 4, "snoozes": 2}).model_dump(mode="json")
    whole = {"id": MESSAGE.id, "kind": "classify", "attempts": 4, "died_at": 2_000.0, "message": tried, **fields}
    return DeadLetter.model_validate({"cause": cause, "reason": reason, **whole})


def test_a_fingerprint_is_the_cause_and_the_reason_without_its_numbers() -> None:
    assert fingerprint(letter("after 3 s")) == fingerprint(letter("after 17 s"))
    assert fingerprint(letter("after 3 s")) != fingerprint(letter("after 3 min"))
    assert fingerprint(letter()) != fingerprint(letter(cause="truncated"))


def test_a_revived_job_starts_anew_under_its_own_id_and_key() -> None:
    again = revived(letter(), Changes(cap_factor=2.0, model="m"), lifetime_seconds=50, now=3_000.0)
    assert (again.id, again.key, again.fingerprint) == (MESSAGE.id, MESSAGE.key, MESSAGE.fingerprint)
    assert (again.attempt, again.snoozes, again.cap_factor, again.model) == (1, 0, 2.0, "m")
    assert (again.enqueued_at, again.expires_at, again.history) == (3_000.0, 3_050.0, ())
    assert revived(letter(), Changes(expires_in_seconds=7), lifetime_seconds=50, now=0).expires_at == 7


@pytest.mark.parametrize("message", [None, {"id": "x"}, {**MESSAGE.model_dump(mode="json"), "kind": "dance"}])
def test_what_was_never_a_job_is_not_revived(message: object) -> None:
    with pytest.raises(InvalidJob, match="drop it"):
        revived(letter(message=message), Changes(), lifetime_seconds=50, now=0)


def test_what_is_set_for_a_replay_is_read_or_refused() -> None:
    said = changes_of(("max_completion_tokens=2.5x", "model=m", "expires_in_seconds=60"))
    assert said == Changes(2.5, "m", 60.0)
    for wrong in ("max_completion_tokens=0x", "max_completion_tokens=65x", "max_completion_tokens=9", "model="):
        with pytest.raises(click.BadParameter, match="known are"):
            changes_of((wrong,))


@given(st.integers(0, 2 * HISTORY_LENGTH), st.lists(st.text(max_size=2 * HISTORY_REASON_CHARS), min_size=1))
def test_a_history_keeps_the_newest_attempts_and_never_grows_beyond_its_bound(before: int, reasons: list[str]) -> None:
    """`before` may be more than ours: another version may have another bound."""
    kept = tuple(attempt(number) for number in range(1, before + 1))
    message = MESSAGE.model_copy(update={"history": kept})
    made = [attempt(before + place, reason) for place, reason in enumerate(reasons, start=1)]
    for tried in made:
        message = message.remembering(tried)
        assert len(message.history) <= HISTORY_LENGTH
    assert [one.number for one in message.history] == [one.number for one in (*kept, *made)][-HISTORY_LENGTH:]
    assert all(len(one.reason) <= HISTORY_REASON_CHARS for one in message.history)
    assert message.history[-1].reason == reasons[-1][:HISTORY_REASON_CHARS]
