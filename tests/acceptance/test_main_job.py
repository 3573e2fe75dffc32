"""The main job through real processes: producer, queue, worker, model (the sandbox), answer."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import redis
from celery import Celery
from celery.result import AsyncResult

from conftest import Kept, Sandbox, Workers, both_stores, eventually
from shoal import (
    Classify,
    Extract,
    IdempotencyConflict,
    JobCancelled,
    JobFailed,
    Rank,
    Shoal,
    Status,
    Summarize,
    wire,
)
from shoal.messages import message_of

LABELS = ("billing", "bug", "praise")


def question(number: int = 0, marker: str = "") -> Classify:
    return Classify(text=f"I was charged twice by billing, case {number}. {marker}", labels=LABELS)


@both_stores
def test_all_four_kinds_are_answered_with_what_they_cost(shoal: Shoal, workers: Workers) -> None:
    workers.start()
    text = "Ann Smith paid $12.50 on 2024-05-01. The weather was fine. Nobody complained."
    fields = {"type": "object", "properties": {"date": {"type": "string"}, "total": {"type": "number"}}}
    classified = shoal.enqueue(question()).outcome(30)
    extracted = shoal.enqueue(Extract(text=text, fields=fields)).result(30)
    ranked = shoal.enqueue(Rank(query="cat food", documents=("dogs bark", "the cat eats food", "x"))).result(30)
    summary = shoal.enqueue(Summarize(text=text, length_words=10)).result(30)

    assert classified.result.label == "billing"
    assert classified.usage.cost_usd > 0
    assert classified.usage.calls == 1
    assert classified.sandbox
    assert all(e.start is None or text[e.start : e.end] == e.quote for e in extracted.evidence)
    assert extracted.data["date"] == "2024-05-01"
    assert sorted(document.index for document in ranked.ranking) == [0, 1, 2]
    assert ranked.top[0].id == "1"
    assert all(text[s.start : s.end] == s.quote for sentence in summary.sentences for s in sentence.sources)


def test_a_plain_celery_client_gets_the_answer_by_the_job_id(shoal: Shoal, workers: Workers, valkey: str) -> None:
    workers.start()
    job = shoal.enqueue(question())
    app = Celery(broker=valkey, backend=valkey, set_as_current=False)
    answer = AsyncResult(job.id, app=app).get(timeout=30)
    app.close()
    assert answer["result"]["labels"][0]["name"] == "billing"


PRODUCER = """
import sys
from shoal import Classify, Shoal
work = Classify(text="I was charged twice", labels=("billing", "bug"))
with Shoal() as shoal:
    for _ in range(125):
        print(shoal.enqueue(work).result(60).model_dump_json())
"""


@both_stores
def test_the_same_work_from_many_processes_is_paid_once(workers: Workers, sandbox: Sandbox) -> None:
    workers.start()
    command = [sys.executable, "-c", PRODUCER]
    producers = [subprocess.Popen(command, env=workers.environ, stdout=subprocess.PIPE) for _ in range(8)]
    answers = [line for producer in producers for line in producer.communicate()[0].splitlines()]
    assert len(answers) == 1_000
    assert len(set(answers)) == 1
    assert sandbox.bill()["billed_calls"] == 1


@both_stores
def test_an_explicit_key_with_other_arguments_is_a_conflict(shoal: Shoal) -> None:
    first = shoal.enqueue(question(1), idempotency_key="order-17")
    assert shoal.enqueue(question(1), idempotency_key="order-17").id == first.id
    with pytest.raises(IdempotencyConflict, match="other arguments"):
        shoal.enqueue(question(2), idempotency_key="order-17")


@both_stores
def test_map_answers_every_job_in_bounded_flight(shoal: Shoal, workers: Workers, kept: Kept) -> None:
    workers.start()
    taken = 0
    most_waiting = 0

    def source() -> Any:
        nonlocal taken, most_waiting
        for number in range(500):
            taken += 1
            most_waiting = max(most_waiting, taken - answered)
            yield question(number)

    answered = 0
    for _ in shoal.map(source(), window=100):
        answered += 1
    assert answered == 500
    assert most_waiting <= 200
    eventually(lambda: kept.unfinished() == 0, what="all messages acknowledged")


@both_stores
def test_bad_messages_become_dead_letters_and_the_worker_goes_on(
    shoal: Shoal, workers: Workers, client: "redis.Redis", kept: Kept
) -> None:
    workers.start()
    good = message_of(question(), {}, shoal.settings, time.time())
    unknown_kind = wire.message(good.model_copy(update={"id": "unknown-kind", "kind": "clasify"}))
    missing = wire.message(good.model_copy(update={"id": "missing-field", "args": {"labels": ["a", "b"]}}))
    huge = good.model_copy(update={"id": "huge", "args": {**good.args, "text": "x" * 10_000_000}})
    broken_body = wire.message(good.model_copy(update={"id": "broken-body"})).replace('"body":"[[]', '"body":"[[')
    future = good.model_copy(update={"id": "future", "version": 9, "args": {**good.args, "mood": "blue"}})
    client.lpush(wire.QUEUE, "this is no JSON", unknown_kind, missing, wire.message(huge), broken_body)
    client.lpush(wire.QUEUE, wire.message(future))

    assert shoal.job("future").result(30).label == "billing"
    eventually(lambda: len(kept.letters()) == 5, what="five dead letters")
    letters = kept.letters()
    assert "unknown 'shoal.clasify'" in letters["unknown-kind"]
    assert "text: Field required" in letters["missing-field"]
    assert "text: String should have at most 1000000 characters" in letters["huge"]
    assert "cannot be decoded" in letters["broken-body"]
    assert any(name.startswith("undecodable-") for name in letters)
    with pytest.raises(JobFailed, match="Field required"):
        shoal.outcome("missing-field", 10)


@both_stores
def test_a_killed_worker_loses_no_job_and_doubles_no_answer(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, kept: Kept
) -> None:
    sandbox.scenario(latency_seconds=3.0)
    times = {"visibility_timeout_seconds": 4, "lease_seconds": 2}
    first = workers.start(**times)
    jobs = [shoal.enqueue(question(number)) for number in range(200)]
    eventually(lambda: sandbox.bill()["in_flight"] >= 150, what="calls in flight")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    workers.start(**times)
    for job in jobs:
        job.result(60)
    assert sandbox.bill()["billed_calls"] <= 200 + 200
    assert kept.answers() == 200
    eventually(lambda: kept.unfinished() == 0, what="all messages acknowledged")


@both_stores
def test_sigterm_lets_running_calls_finish_and_redelivers_nothing(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, kept: Kept
) -> None:
    sandbox.scenario(latency_seconds=4.0)
    worker = workers.start()
    jobs = [shoal.enqueue(question(number)) for number in range(200)]
    eventually(lambda: sandbox.bill()["in_flight"] == 200, what="200 calls in flight")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    for job in jobs:
        job.result(10)
    assert sandbox.bill()["billed_calls"] == 200
    assert kept.unfinished() == 0


@both_stores
def test_a_running_job_can_be_cancelled(shoal: Shoal, workers: Workers, sandbox: Sandbox) -> None:
    sandbox.scenario(latency_seconds=20.0)
    workers.start()
    job = shoal.enqueue(question())
    eventually(lambda: job.status() == Status.RUNNING, what="a running job")
    eventually(lambda: sandbox.bill()["in_flight"] == 1, what="a call in flight")
    assert job.cancel()
    with pytest.raises(JobCancelled):
        job.result(10)
    assert job.status() == Status.CANCELLED


@both_stores
def test_a_job_revoked_by_a_stock_client_is_told_to_who_waits(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, valkey: str
) -> None:
    """As Flower's button does it: the message is gone, so without this the producer would wait for ever."""
    sandbox.scenario(latency_seconds=20.0)
    workers.start()
    job = shoal.enqueue(question())
    eventually(lambda: sandbox.bill()["in_flight"] == 1, what="a call in flight")
    with Celery(broker=valkey, set_as_current=False) as app:
        app.control.revoke(job.id, terminate=True)
    with pytest.raises(JobCancelled, match="revoked"):
        job.result(20)


@both_stores
def test_one_process_given_the_same_job_twice_pays_once(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, client: "redis.Redis", kept: Kept
) -> None:
    sandbox.scenario(latency_seconds=1.0)
    workers.start(visibility_timeout_seconds=8, lease_seconds=3)
    job = message_of(question(), {}, shoal.settings, time.time())
    client.lpush(wire.QUEUE, wire.message(job), wire.message(job))
    assert shoal.job(job.id).result(30).label == "billing"
    eventually(lambda: kept.unfinished() == 0, what="both ended")
    assert sandbox.bill()["billed_calls"] == 1


def test_a_delivery_that_our_own_code_cannot_handle_is_not_lost(
    shoal: Shoal, workers: Workers, client: "redis.Redis"
) -> None:
    """A record of another type makes the store's script fail, and no decision can be stored either."""
    workers.start()
    job = message_of(question(), {}, shoal.settings, time.time())
    client.lpush(wire.result_record(job.id), "in the way")
    client.lpush(wire.QUEUE, wire.message(job))
    eventually(lambda: b"delivery_failed" in workers.log(), what="a failed delivery")
    assert b"charged twice" not in workers.log()
    client.delete(wire.result_record(job.id))
    assert shoal.job(job.id).result(30).label == "billing"


@both_stores
def test_a_job_that_died_and_is_answered_later_is_dead_no_longer(shoal: Shoal, workers: Workers, kept: Kept) -> None:
    workers.start()
    work = question(marker="[[fault:bad_request*1]]")
    with pytest.raises(JobFailed):
        shoal.enqueue(work).result(30)
    assert len(kept.letters()) == 1
    again = shoal.enqueue(work)
    assert not again.joined
    assert again.result(30).label == "billing"
    assert not kept.letters()
