"""What reaches Sentry from real workers, and what does not."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
import redis

from conftest import Sandbox, Workers, eventually
from receivers import Receiver, receiver
from shoal import Classify, JobFailed, ProducerSettings, Shoal, wire
from shoal.messages import message_of
from shoal_worker import sentry
from shoal_worker.settings import WorkerSettings

TEXT = "the quokka was charged twice"
LABELS = ("billing", "bug")


@pytest.fixture
def received() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


def question(marker: str = "") -> Classify:
    return Classify(text=f"{TEXT} {marker}", labels=LABELS)


def stop(workers: Workers) -> None:
    """Warm, so that all that waits is sent."""
    for process in workers.processes:
        process.send_signal(signal.SIGTERM)
    for process in workers.processes:
        process.wait(30)


def test_a_job_that_is_given_up_is_one_event_and_retries_and_snoozes_are_none(
    shoal: Shoal, workers: Workers, received: Receiver
) -> None:
    workers.start(sentry_dsn=received.dsn, sentry_environment="staging", tenant="acme")
    retried = shoal.enqueue(question("[[fault:server_500*1]]"))
    snoozed = shoal.enqueue(question("[[fault:upstream_429:1*1]]"))
    assert retried.outcome(30).attempts == 2
    snoozed.outcome(30)
    with Shoal(ProducerSettings.load(redis_url=workers.valkey, tenant="acme")) as acme:
        refused = acme.enqueue(question("[[fault:bad_request]]"), model="some/model")
        with pytest.raises(JobFailed):
            refused.result(30)
    stop(workers)
    [event] = received.events()
    assert event["level"] == "warning"
    assert event["fingerprint"] == ["discard", "request_refused"]
    named = {"kind": "classify", "model": "some/model", "tenant": "acme", "cause": "request_refused"}
    assert named.items() <= event["tags"].items()
    assert event["contexts"]["job"]["id"] == refused.id
    assert event["environment"] == "staging"
    assert event["release"].startswith("shoal@")
    assert not received.items("transaction")
    assert b"quokka" not in received.everything()


def test_a_crash_of_our_own_code_comes_with_its_stack(
    shoal: Shoal, workers: Workers, client: "redis.Redis", received: Receiver
) -> None:
    workers.start(sentry_dsn=received.dsn)
    job = message_of(question(), {}, shoal.settings, time.time())
    client.lpush(wire.result_record(job.id), "in the way")
    client.lpush(wire.QUEUE, wire.message(job))
    [event] = eventually(received.events, what="the event")
    assert event["level"] == "error"
    assert event["tags"]["cause"] == "delivery_failed"
    assert event["contexts"]["job"]["id"] == job.id
    exception = event["exception"]["values"][-1]
    assert (exception["type"], exception["value"]) == ("ResponseError", "delivery_failed")
    functions = [frame["function"] for frame in exception["stacktrace"]["frames"]]
    assert {"run_job", "begin"} <= set(functions)
    assert not [frame for frame in exception["stacktrace"]["frames"] if "vars" in frame]
    assert b"quokka" not in received.everything()


def test_a_lost_worker_is_an_event(shoal: Shoal, workers: Workers, sandbox: Sandbox, received: Receiver) -> None:
    sandbox.scenario(latency_seconds=1.5)
    times = {"visibility_timeout_seconds": 2, "lease_seconds": 1}
    doomed = workers.start(**times)
    job = shoal.enqueue(question())
    eventually(lambda: sandbox.bill()["in_flight"] == 1, what="a call in flight")
    os.killpg(doomed.pid, signal.SIGKILL)
    workers.start(sentry_dsn=received.dsn, **times)
    job.result(30)
    [event] = eventually(received.events, what="the event")
    assert event["tags"]["cause"] == "worker_lost"
    assert event["contexts"]["queue"] == {"restored": 1}


def test_a_storm_of_discards_is_a_few_events_and_messages_are_transactions_where_they_are_sampled(
    shoal: Shoal, workers: Workers, received: Receiver
) -> None:
    workers.start(sentry_dsn=received.dsn, sentry_traces_sample_rate=1)
    jobs = [shoal.enqueue(question(f"{number} [[fault:bad_request]]")) for number in range(40)]
    for job in jobs:
        with pytest.raises(JobFailed):
            job.result(30)
    stop(workers)
    assert len(received.events()) == 10
    assert b'"sentry_events_held_back"' in workers.log()
    assert b'"count": 30' in workers.log()
    transactions = received.items("transaction")
    assert [transaction["transaction"] for transaction in transactions] == ["shoal.classify"] * 40
    assert b"quokka" not in received.everything()


@pytest.fixture
def reporting(received: Receiver) -> Iterator[Receiver]:
    """This process reports, as the beat does."""
    sentry.configure(WorkerSettings.load(sentry_dsn=received.dsn))
    yield received
    sentry.close()


def test_a_run_of_the_beat_checks_in_when_it_has_ended(reporting: Receiver) -> None:
    with sentry.monitor("Nightly reviews", "0 3 * * *", "Europe/Zurich"):
        pass
    with sentry.monitor("often", 90.0):
        pass
    with sentry.monitor("too often for Sentry", 5.0):
        pass
    with pytest.raises(ValueError), sentry.monitor("broken", "* * * * *"):
        raise ValueError(TEXT)
    sentry.close()
    crontab, interval, failed = reporting.items("check_in")
    assert (crontab["monitor_slug"], crontab["status"]) == ("nightly-reviews", "ok")
    assert crontab["monitor_config"] == {
        "schedule": {"type": "crontab", "value": "0 3 * * *"},
        "timezone": "Europe/Zurich",
    }
    assert interval["monitor_config"]["schedule"] == {"type": "interval", "value": 2, "unit": "minute"}
    assert (failed["monitor_slug"], failed["status"]) == ("broken", "error")
    [event] = reporting.events()
    assert event["tags"] == {"schedule": "broken", "cause": "captured"}
    assert event["exception"]["values"][-1]["type"] == "ValueError"
    assert TEXT.encode() not in reporting.everything()


def test_without_a_dsn_nothing_is_done() -> None:
    sentry.configure(WorkerSettings.load())
    assert not sentry.is_on()
    with sentry.monitor("nightly", "0 3 * * *"):
        pass
    sentry.worker_lost(3)
