"""Answers that were paid for and got lost are not paid for again; answers that were no good are asked for anew."""

import os
import signal

import redis

from conftest import Sandbox, Workers, eventually
from shoal import Classify, Shoal

LABELS = ("billing", "bug")
SHORT = {"lease_seconds": 1, "visibility_timeout_seconds": 2}


def lose_an_answer(workers: Workers, sandbox: Sandbox, shoal: Shoal, client: "redis.Redis", **settings: object) -> int:
    """Kill the worker with an answer in its hands that it could not store; how many calls the job cost in the end."""
    server = int(client.info()["process_id"])
    sandbox.scenario(latency_seconds=1.0)
    worker = workers.start(**SHORT, **settings)
    job = shoal.enqueue(Classify(text="charged twice", labels=LABELS))
    eventually(lambda: sandbox.bill()["in_flight"] == 1, what="the call")
    os.kill(server, signal.SIGSTOP)
    try:
        eventually(lambda: sandbox.bill()["in_flight"] == 0, what="the answer")
        worker.kill()
        worker.wait()
    finally:
        os.kill(server, signal.SIGCONT)
    workers.start(**SHORT, **settings)
    assert job.result(60).label == "billing"
    bill = sandbox.bill()
    assert bill["requests"] == 2
    billed: int = bill["billed_calls"]
    return billed


def test_an_answer_lost_with_its_worker_is_had_again_for_nothing(
    workers: Workers, sandbox: Sandbox, shoal: Shoal, client: "redis.Redis"
) -> None:
    assert lose_an_answer(workers, sandbox, shoal, client) == 1


def test_without_the_response_cache_it_is_paid_again(
    workers: Workers, sandbox: Sandbox, shoal: Shoal, client: "redis.Redis"
) -> None:
    assert lose_an_answer(workers, sandbox, shoal, client, response_cache=False) == 2


def test_an_empty_answer_is_not_had_again(workers: Workers, sandbox: Sandbox, shoal: Shoal) -> None:
    workers.start()
    outcome = shoal.enqueue(Classify(text="charged twice [[fault:empty_stop:1*1]]", labels=LABELS)).outcome(60)
    assert (outcome.result.label, outcome.attempts) == ("billing", 2)
    assert sandbox.bill()["billed_calls"] == 2


def test_a_job_enqueued_again_after_its_death_is_asked_anew(workers: Workers, sandbox: Sandbox, shoal: Shoal) -> None:
    workers.start()
    args = Classify(text="charged twice [[fault:refusal:1*1]]", labels=LABELS)
    first = shoal.enqueue(args)
    eventually(lambda: first.status() == "discarded", what="its death")
    assert shoal.enqueue(args).result(60).label == "billing"
    assert sandbox.bill()["billed_calls"] == 2
