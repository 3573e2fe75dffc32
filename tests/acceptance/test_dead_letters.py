"""Dead letters from the command line, and a worker that froze for longer than its lease."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import redis
from celery import Celery

from conftest import Sandbox, Workers, eventually, said
from shoal import Classify, JobCancelled, JobFailed, Shoal
from shoal.wire import result_record

LABELS = ("billing", "bug")


def shoal_dead(workers: Workers, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from shoal.cli import main; main()", "dead", *words]
    environ = {**workers.environ, "COLUMNS": "240"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_dead_letters_are_grouped_shown_replayed_and_dropped(shoal: Shoal, workers: Workers) -> None:
    workers.start()
    texts = [f"charged twice {number} [[fault:bad_request:1*1]]" for number in range(3)]
    jobs = [shoal.enqueue(Classify(text=text, labels=LABELS)) for text in texts]
    for job in jobs:
        with pytest.raises(JobFailed):
            job.result(30)
    listed = shoal_dead(workers, "list").stdout
    assert "request_refused" in listed
    assert listed.split("\n")[1].split()[0] == "3"
    each = shoal_dead(workers, "list", "--cause", "request_refused").stdout
    assert all(job.id in each for job in jobs)
    assert json.loads(shoal_dead(workers, "show", jobs[0].id).stdout)["message"]["args"]["text"] == texts[0]
    dry = shoal_dead(workers, "replay", "--cause", "request_refused", "--limit", "2", "--dry-run")
    assert "would replay 2" in dry.stderr
    done = shoal_dead(workers, "replay", jobs[0].id, jobs[1].id, "--set", "max_completion_tokens=2x")
    assert done.returncode == 0, done.stderr
    assert [job.result(30).label for job in jobs[:2]] == ["billing", "billing"]
    assert shoal_dead(workers, "drop", "--all").stdout == "dropped 1\n"
    assert "request_refused" not in shoal_dead(workers, "list").stdout
    assert shoal_dead(workers, "show", jobs[2].id).stderr == f"error: no dead letter {jobs[2].id}\n"


def test_a_letter_tells_each_attempt_with_its_timings(shoal: Shoal, workers: Workers, client: "redis.Redis") -> None:
    workers.start()
    faults = ("server_500*1", "upstream_429:0*1", "bad_request*1")
    text = "charged twice " + " ".join(f"[[fault:{fault}]]" for fault in faults)
    job = shoal.enqueue(Classify(text=text, labels=LABELS))
    with pytest.raises(JobFailed):
        job.result(60)
    letter = json.loads(shoal_dead(workers, "show", job.id).stdout)
    history = letter["history"]
    causes = [(tried["number"], tried["cause"]) for tried in history]
    assert causes == [(1, "provider_unavailable"), (2, "rate_limited"), (2, "request_refused")]
    times = [time for tried in history for time in (tried["began_at"], tried["ended_at"])]
    assert times == sorted(times)
    assert letter["message"]["enqueued_at"] < times[0] < times[-1] <= letter["died_at"]
    assert {tried["worker"] for tried in history} == {history[0]["worker"]}
    assert all(tried["reason"] and "charged" not in tried["reason"] for tried in history)
    assert "history" not in letter["message"]
    assert shoal_dead(workers, "replay", job.id).returncode == 0
    assert job.outcome(60).attempts == 1


def test_a_job_that_waits_for_its_next_try_can_be_cancelled(
    workers: Workers, sandbox: Sandbox, shoal: Shoal, client: "redis.Redis"
) -> None:
    workers.start()
    job = shoal.enqueue(Classify(text="charged twice [[fault:upstream_429:3*1]]", labels=LABELS))
    eventually(lambda: job.status() == "retryable", what="its wait")
    assert job.cancel()
    with pytest.raises(JobCancelled):
        job.result(5)
    eventually(lambda: client.zcard("shoal:parked:shoal") + client.hlen("unacked") == 0, what="its message to be gone")
    assert job.status() == "cancelled"
    assert not job.cancel()
    assert sandbox.bill()["requests"] == 1
    assert client.hlen("shoal:dead") == 0


def test_what_to_replay_must_be_said(workers: Workers) -> None:
    assert "say which" in shoal_dead(workers, "replay").stderr
    assert "known are max_completion_tokens=2x" in shoal_dead(workers, "replay", "--all", "--set", "size=3").stderr


def test_a_message_that_was_never_a_job_is_not_replayed(workers: Workers, client: "redis.Redis", shoal: Shoal) -> None:
    workers.start()
    client.lpush("shoal", "no json")
    eventually(lambda: client.hlen("shoal:dead") == 1, what="its dead letter")
    assert "would replay 0, refused 1" in shoal_dead(workers, "replay", "--all", "--dry-run").stderr
    refused = shoal_dead(workers, "replay", "--all")
    assert refused.returncode == 1
    assert "cannot be read as a job; drop it" in refused.stderr


def test_a_worker_that_froze_beyond_its_lease_changes_nothing_when_it_wakes(
    workers: Workers, sandbox: Sandbox, shoal: Shoal, client: "redis.Redis"
) -> None:
    name = f"w0@{socket.gethostname()}"
    short = {"lease_seconds": 3, "visibility_timeout_seconds": 4}
    sandbox.scenario(latency_seconds=1.0)
    frozen = workers.start(**short)
    job = shoal.enqueue(Classify(text="charged twice", labels=LABELS))
    eventually(lambda: sandbox.bill()["in_flight"] == 1, what="the call")
    os.kill(frozen.pid, signal.SIGSTOP)
    workers.start(**short)
    job.result(30)
    answer = client.get(result_record(job.id))
    assert sandbox.bill()["requests"] == 2
    os.kill(frozen.pid, signal.SIGCONT)
    with Celery(broker=workers.valkey, set_as_current=False) as app:
        active = app.control.inspect([name]).active
        eventually(lambda: said(active).get(name) == [], what="the frozen worker's own end of it")
    assert client.get(result_record(job.id)) == answer
    eventually(lambda: client.hlen("unacked") == 0, what="all messages acknowledged")
    second = shoal.enqueue(Classify(text="charged thrice", labels=LABELS))
    assert second.result(30).label == "billing"
    assert frozen.poll() is None


def test_a_message_with_arguments_in_strange_places_is_a_dead_letter(workers: Workers, client: "redis.Redis") -> None:
    """Celery could not even call the task, and would drop the message."""
    workers.start()
    with Celery(broker=workers.valkey, set_as_current=False) as app:
        for task, name in (("shoal.classify", "job"), ("shoal.pack", "jobs")):
            app.send_task(task, args=["a", "b", "c"], queue="shoal", ignore_result=True)
            app.send_task(task, args=["a"], kwargs={name: "b", "task": "c"}, queue="shoal", ignore_result=True)
    eventually(lambda: client.hlen("shoal:dead") == 4, what="four dead letters")
    assert {json.loads(letter)["cause"] for letter in client.hvals("shoal:dead")} == {"invalid_message"}
