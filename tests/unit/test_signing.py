"""Signatures of messages."""

from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from shoal.signing import Signer

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aé €"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
)


def signer(keys: str) -> Signer:
    made = Signer.of(SecretStr(keys))
    assert made is not None
    return made


@given(st.dictionaries(st.text("abc"), JSON, max_size=4))
def test_what_a_key_signed_it_accepts_and_nothing_else(job: dict[str, object]) -> None:
    signature = signer("one").sign(job)
    assert signer("one").verifies(dict(reversed(job.items())), signature)
    assert not signer("one").verifies({**job, "more": 1}, signature)
    assert not signer("two").verifies(job, signature)


def test_keys_can_be_changed_without_a_pause() -> None:
    old = signer("old").sign({"id": "1"})
    assert signer("new, old").verifies({"id": "1"}, old)
    assert signer("new,old").sign({"id": "1"}) == signer("new").sign({"id": "1"})


def test_no_key_means_no_signing_and_no_signature_is_no_signature() -> None:
    assert Signer.of(None) is None
    assert Signer.of(SecretStr(" , ")) is None
    assert not signer("a").verifies({}, None)
    assert not signer("a").verifies({"x": float("nan")}, "é")
    assert "secret" not in repr(signer("secret"))
