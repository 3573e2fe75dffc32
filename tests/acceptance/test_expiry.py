"""A job's life ends where it was told to end: in the queue, while parked, and in the middle of a call."""

import time

import pytest
import redis

from conftest import Sandbox, Workers, eventually
from shoal import Classify, ClassifyResult, DeadLetter, Job, JobExpired, Shoal
from shoal.wire import DEAD

LABELS = ("billing", "bug")


def question(marker: str = "") -> Classify:
    return Classify(text=f"charged twice {marker}", labels=LABELS)


def letter_of(client: "redis.Redis", job_id: str) -> DeadLetter:
    raw = client.hget(DEAD, job_id)
    assert isinstance(raw, bytes)
    return DeadLetter.model_validate_json(raw)


def expired(job: "Job[ClassifyResult]") -> JobExpired:
    with pytest.raises(JobExpired) as caught:
        job.result(30)
    return caught.value


def test_a_call_in_flight_is_closed_when_the_life_of_its_job_ends(
    workers: Workers, sandbox: Sandbox, shoal: Shoal, client: "redis.Redis"
) -> None:
    sandbox.scenario(latency_seconds=10.0)
    workers.start()
    ends_at = time.time() + 6
    job = shoal.enqueue(question(), expires_at=ends_at)
    eventually(lambda: sandbox.bill()["in_flight"] == 1, 6, "the call")
    error = expired(job)
    assert (error.cause, error.attempts) == ("expired", 1)
    letter = letter_of(client, job.id)
    assert letter.cause == "expired"
    assert [tried.cause for tried in letter.history] == ["expired"]
    # Timers go by another clock.
    assert letter.history[0].began_at < ends_at < letter.history[0].ended_at + 0.1
    eventually(lambda: client.hlen("unacked") == 0, what="its message to be gone")
    assert client.zcard("shoal:parked:shoal") == client.llen("shoal") == 0
    eventually(lambda: sandbox.bill()["in_flight"] == 0, what="the model's end of it")
    assert [request["client_disconnected"] for request in sandbox.requests()] == [True]


def test_a_job_whose_life_ended_in_the_queue_is_not_asked(
    workers: Workers, sandbox: Sandbox, shoal: Shoal, client: "redis.Redis"
) -> None:
    job = shoal.enqueue(question(), expires_in_seconds=0.5)
    ends_at = time.time() + 0.5
    eventually(lambda: time.time() > ends_at, what="the end of its life")
    workers.start()
    assert "before a worker came" in expired(job).reason
    assert sandbox.bill()["requests"] == 0
    assert letter_of(client, job.id).cause == "expired"


def test_a_job_whose_life_ended_while_it_was_parked_is_not_asked_again(
    workers: Workers, sandbox: Sandbox, shoal: Shoal, client: "redis.Redis"
) -> None:
    worker = workers.start()
    ends_at = time.time() + 8
    job = shoal.enqueue(question("[[fault:upstream_429:5*1]]"), expires_at=ends_at)
    eventually(lambda: job.status() == "retryable", what="its wait")
    worker.kill()
    worker.wait()
    eventually(lambda: time.time() > ends_at, what="the end of its life")
    workers.start()
    assert "before a worker came" in expired(job).reason
    assert [tried.cause for tried in letter_of(client, job.id).history] == ["rate_limited", "expired"]
    assert sandbox.bill()["requests"] == 1


def test_a_next_try_that_would_be_too_late_is_not_waited_for(
    workers: Workers, shoal: Shoal, client: "redis.Redis"
) -> None:
    workers.start()
    job = shoal.enqueue(question("[[fault:upstream_429:3600*1]]"), expires_in_seconds=600)
    assert "last: rate_limited" in expired(job).reason
    assert [tried.cause for tried in letter_of(client, job.id).history] == ["rate_limited"]
