import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import Classify, ProducerSettings, wire
from shoal.jobs import JobMessage
from shoal.messages import message_of
from shoal_worker.requests import SHOWN


def job(tenant: str, text: str = "t") -> JobMessage:
    return message_of(Classify(text=text, labels=("a", "b")), {"lane": "bulk"}, ProducerSettings(tenant=tenant), 0.0)


def shown(message: str) -> str:
    said: str = json.loads(message)["headers"]["kwargsrepr"]
    return said


@given(st.text("abzÄé漢_.@-09", max_size=20))
def test_what_our_producers_say_of_a_job_is_shown(tenant: str) -> None:
    single, pack = shown(wire.message(job(tenant))), shown(wire.pack([job(tenant, "1"), job(tenant, "2")]))
    assert SHOWN.fullmatch(single)
    assert SHOWN.fullmatch(pack)
    assert "'bytes': " in single
    assert "'jobs': 2" in pack


@pytest.mark.parametrize(
    "said",
    [
        "{'text': 'a customer'}",
        "{'job': {'kind': 'classify'}}",
        "{'kind': 'a customer'}",
        "{'kind': 'classify', 'bytes': 'a customer'}",
        "('a customer',)",
        "",
        "{}",
    ],
)
def test_what_others_say_is_not(said: str) -> None:
    assert not SHOWN.fullmatch(said)
