"""The main job with results in Postgres, through real processes."""

import pytest

from conftest import Workers
from shoal import Classify, Shoal

pytestmark = pytest.mark.parametrize("results", ["postgres"], indirect=True)
LABELS = ("billing", "bug", "praise")


def test_a_job_is_answered(shoal: Shoal, workers: Workers) -> None:
    workers.start()
    outcome = shoal.enqueue(Classify(text="I was charged twice", labels=LABELS)).outcome(30)
    assert outcome.result.label == "billing"
