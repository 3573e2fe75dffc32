"""Many jobs in a message, through real processes: each is a job of its own all the same."""

import json
import signal

import pytest
import redis

from conftest import Kept, Sandbox, Workers, both_stores, eventually
from shoal import Classify, InvalidJob, JobCancelled, JobFailed, ProducerSettings, Shoal, Status, wire
from shoal.messages import message_of

LABELS = ("billing", "bug", "praise")


def question(number: int = 0, marker: str = "") -> Classify:
    return Classify(text=f"I was charged twice by billing, case {number}. {marker}", labels=LABELS)


@both_stores
def test_many_jobs_travel_in_few_messages_and_each_is_answered_once(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, client: "redis.Redis", kept: Kept
) -> None:
    jobs = shoal.enqueue_many(question(number) for number in range(120))
    assert client.llen(wire.BULK_QUEUE) == 3
    assert shoal.status(jobs[7].id) == Status.AVAILABLE
    workers.start()
    assert [job.result(30).label for job in jobs] == ["billing"] * 120
    assert sandbox.bill()["billed_calls"] == 120
    eventually(lambda: kept.unfinished() == 0, what="all acknowledged")


@both_stores
def test_jobs_that_are_there_already_are_joined_and_not_sent_again(
    shoal: Shoal, workers: Workers, sandbox: Sandbox
) -> None:
    first = shoal.enqueue(question(3))
    jobs = shoal.enqueue_many([*(question(number) for number in range(10)), question(9)])
    assert [job.joined for job in jobs] == [number == 3 for number in range(10)] + [True]
    assert jobs[3].id == first.id
    workers.start()
    for job in jobs:
        job.result(30)
    assert sandbox.bill()["billed_calls"] == 10
    assert all(job.joined for job in shoal.enqueue_many(question(number) for number in range(10)))


@both_stores
def test_one_bad_job_fails_alone_and_a_retried_one_comes_back_alone(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, kept: Kept
) -> None:
    workers.start()
    texts = ["", "[[fault:bad_request]]", "[[fault:server_500*1]]", "[[fault:cut_body*1]]", ""]
    jobs = shoal.enqueue_many(question(number, text) for number, text in enumerate(texts))
    with pytest.raises(JobFailed, match="400"):
        jobs[1].result(30)
    assert [job.outcome(30).attempts for job in jobs if job is not jobs[1]] == [1, 2, 2, 1]
    assert set(kept.letters()) == {jobs[1].id}
    eventually(lambda: kept.unfinished() == 0, what="all acknowledged")


def test_a_job_that_cannot_be_read_does_not_hold_up_its_neighbours(
    shoal: Shoal, workers: Workers, client: "redis.Redis", kept: Kept
) -> None:
    good = message_of(question(1), {"lane": "bulk"}, shoal.settings, 1e9)
    good = good.model_copy(update={"expires_at": 4e9})
    bad = good.model_copy(update={"id": "bad", "args": {"labels": ["a", "b"]}})
    client.lpush(wire.BULK_QUEUE, wire.pack([bad, good]), no_list(wire.pack([good])))
    workers.start()
    assert shoal.job(good.id).result(30).label == "billing"
    eventually(lambda: kept.unfinished() == 0, what="all acknowledged")
    letters = kept.letters()
    assert "text: Field required" in letters.pop("bad")
    [letter] = letters.values()
    assert "jobs: a list is needed" in letter


def no_list(pack: str) -> str:
    """A message of many jobs that has none, and no list of them."""
    message = json.loads(pack)
    return json.dumps({**message, "body": '[[],{"jobs":17},{}]'})


@both_stores
def test_a_worker_killed_in_the_middle_repeats_nothing_that_is_done(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, kept: Kept
) -> None:
    sandbox.scenario(latency_seconds=0.3)
    jobs = shoal.enqueue_many(question(number) for number in range(100))
    doomed = workers.start(concurrency=10, visibility_timeout_seconds=3, lease_seconds=1.5)
    eventually(lambda: kept.answers() >= 30, what="some answers")
    doomed.kill()
    in_flight = 10
    workers.start(concurrency=50, visibility_timeout_seconds=3, lease_seconds=1.5)
    for job in jobs:
        job.result(60)
    assert 100 <= sandbox.bill()["billed_calls"] <= 100 + in_flight
    eventually(lambda: kept.unfinished() == 0, what="all acknowledged")


def test_a_worker_that_stops_finishes_what_it_has_begun_and_gives_the_rest_back(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, client: "redis.Redis"
) -> None:
    sandbox.scenario(latency_seconds=0.5)
    jobs = shoal.enqueue_many(question(number) for number in range(60))
    worker = workers.start(concurrency=5)
    eventually(lambda: sandbox.bill()["in_flight"] == 5, what="calls in flight")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert client.hlen("unacked") == 0
    assert client.llen(wire.BULK_QUEUE) == 2
    done = sandbox.bill()["billed_calls"]
    assert done < 60
    sandbox.scenario(latency_seconds=0.02)
    workers.start()
    for job in jobs:
        job.result(30)
    assert sandbox.bill()["billed_calls"] == 60


@both_stores
def test_a_job_in_a_message_of_many_can_be_cancelled_waiting_and_running(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, kept: Kept
) -> None:
    waiting, running, *others = shoal.enqueue_many(
        question(number, "[[fault:drip_whitespace:4]]" if number == 1 else "") for number in range(5)
    )
    assert waiting.cancel()
    workers.start()
    for job in others:
        job.result(30)
    eventually(lambda: sandbox.bill()["in_flight"] == 1, what="the slow call")
    assert running.cancel()
    for job in (waiting, running):
        with pytest.raises(JobCancelled):
            job.result(10)
    eventually(lambda: any(call["client_disconnected"] for call in sandbox.requests()), what="the call closed")
    eventually(lambda: kept.unfinished() == 0, 10, "all acknowledged")


def test_interactive_jobs_go_first_and_tenants_take_turns(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, valkey: str
) -> None:
    sandbox.scenario(latency_seconds=0.05)
    many = shoal.enqueue_many(question(number) for number in range(600))
    with Shoal(ProducerSettings.load(redis_url=valkey, tenant="small")) as other:
        few = other.enqueue_many(question(number) for number in range(5))
        workers.start(concurrency=10)
        many[0].result(30)
        shoal.enqueue(question(-1)).result(30)
        for job in few:
            job.result(30)
        assert shoal.status(many[-1].id) == Status.AVAILABLE
        assert sandbox.bill()["billed_calls"] < 300


def test_an_interactive_job_wakes_a_worker_that_is_full_of_bulk(
    shoal: Shoal, workers: Workers, sandbox: Sandbox
) -> None:
    sandbox.scenario(latency_seconds=0.2)
    many = shoal.enqueue_many(question(number) for number in range(400))
    workers.start(concurrency=10)
    many[0].result(30)
    shoal.enqueue(question(-1)).result(30)
    assert shoal.status(many[-1].id) == Status.AVAILABLE


def test_many_jobs_need_no_key_of_their_own(shoal: Shoal) -> None:
    with pytest.raises(InvalidJob, match="idempotency_key"):
        shoal.enqueue_many([question()], idempotency_key="x")


def test_signed_jobs_are_run_and_forged_ones_buried(valkey: str, workers: Workers, client: "redis.Redis") -> None:
    with Shoal(ProducerSettings.load(redis_url=valkey, signing_keys="key")) as signed:
        jobs = signed.enqueue_many(question(number) for number in range(3))
        forged = message_of(question(9), {"lane": "bulk"}, signed.settings, 1e9)
        client.lpush(wire.BULK_QUEUE, wire.pack([forged]))
        workers.start(signing_keys="key")
        for job in jobs:
            assert job.result(30).label == "billing"
        eventually(lambda: client.hlen(wire.DEAD) == 1, 10, "a dead letter")
        assert str(client.hkeys(wire.DEAD)).startswith("[b'forged-")
