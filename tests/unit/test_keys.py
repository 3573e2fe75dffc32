import json
import uuid
from hashlib import sha256
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shoal import Classify
from shoal.keys import canonical_json, fingerprint, job_id, job_key

LABELS = ("a", "b")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert canonical_json(value) == canonical_json(dict(reversed(value.items())))


@given(st.text(min_size=1).filter(str.strip), st.text(min_size=1).filter(str.strip))
def test_equal_work_has_one_fingerprint_and_other_work_another(one: str, other: str) -> None:
    prints = [fingerprint(Classify(text=text, labels=LABELS)) for text in (one, one, other)]
    assert prints[0] == prints[1]
    assert (prints[0] == prints[2]) == (one == other)


def test_the_model_is_part_of_the_work() -> None:
    work = Classify(text="x", labels=LABELS)
    assert fingerprint(work) != fingerprint(work, model="other/model")


@given(st.text(), st.text())
def test_a_callers_key_never_meets_a_fingerprint_or_another_tenants(key: str, work: str) -> None:
    assert job_key("", key, work) != job_key("", None, work)
    assert job_key("one", key, work) != job_key("two", key, work)


def test_a_job_id_is_a_uuid_made_of_the_key() -> None:
    assert job_id("k") == str(uuid.UUID(bytes=sha256(b"k").digest()[:16], version=5)) != job_id("l")
    assert str(uuid.UUID(job_id("k"))) == job_id("k")


@given(JSON)
def test_the_canonical_form_is_json_of_the_same_value(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value
