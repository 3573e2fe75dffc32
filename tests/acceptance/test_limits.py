"""Limits through real workers: a provider that is down, and calls a minute that two workers share."""

import time
from pathlib import Path

import pytest
import redis

from conftest import Sandbox, Workers, eventually
from shoal import Classify, Outcome, Shoal

LABELS = ("billing", "bug")
IMPATIENT_WORKER = Path(__file__).with_name("impatient_worker.py")


def questions(count: int) -> list[Classify]:
    return [Classify(text=f"charged twice {number}", labels=LABELS) for number in range(count)]


def test_an_outage_longer_than_all_retries_makes_no_dead_letters(
    workers: Workers, sandbox: Sandbox, shoal: Shoal, client: "redis.Redis"
) -> None:
    sandbox.scenario(faults=[{"fault": "bad_gateway_502"}])
    workers.command = (str(IMPATIENT_WORKER),)
    workers.start()
    jobs = [shoal.enqueue(question) for question in questions(20)]
    eventually(lambda: sandbox.bill()["requests"] >= 20, what="the first calls")
    time.sleep(5)  # the length of the outage: unhindered, six attempts take less than two seconds
    in_outage = sandbox.bill()["requests"]
    sandbox.scenario()
    outcomes = [job.outcome(60) for job in jobs]
    assert client.hlen("shoal:dead") == 0
    assert max(outcome.attempts for outcome in outcomes) <= 4
    assert in_outage <= 60


@pytest.mark.parametrize("setting", [{"rpm": 120}, {"tpm": 36_000}], ids=["rpm", "tpm"])
def test_calls_a_minute_are_held_by_two_workers_together(
    workers: Workers, sandbox: Sandbox, shoal: Shoal, setting: dict[str, int]
) -> None:
    for _ in range(2):
        workers.start(**setting)
    ended = list(shoal.map(questions(12)))
    assert all(isinstance(outcome, Outcome) for outcome in ended)
    requests = sandbox.requests()
    assert len(requests) == 12
    arrived = [one["arrived_at"] for one in requests]
    if "rpm" in setting:
        assert max(arrived) - min(arrived) >= (12 - 1 - 1.2) / 2 * 0.9
    else:
        tokens = sum(one["usage"]["total_tokens"] for one in requests[:-1])
        assert max(arrived) - min(arrived) >= (tokens - 360) / 600 * 0.9 - tokens / 11 / 600
