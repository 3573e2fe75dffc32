"""`shoal why` names what a job waits for."""

import subprocess
import sys
import time

import pytest

from conftest import Sandbox, Workers, both_stores, eventually
from shoal import Classify, Shoal, Status
from shoal.fleet import FleetView, Lane
from shoal.ports import Pause
from shoal.reports import ModelCalls, WorkerReport
from shoal_worker.why import reasons


def question(marker: str = "") -> Classify:
    return Classify(text=f"I was charged twice by billing. {marker}", labels=("billing", "bug"))


def said(workers: Workers, job_id: str) -> str:
    command = [sys.executable, "-c", "from shoal.cli import main; main()", "why", job_id]
    return subprocess.run(command, env=workers.environ, capture_output=True, text=True, check=False).stdout


@both_stores
def test_a_job_that_waits_for_a_worker_then_for_the_provider_then_for_nothing(
    shoal: Shoal, workers: Workers, sandbox: Sandbox
) -> None:
    job = shoal.enqueue(question("[[fault:bad_gateway_502*2]]"))
    assert "no worker has told of itself" in said(workers, job.id)
    paused = shoal.enqueue(Classify(text="twice [[fault:upstream_429:600]]", labels=("billing", "bug")))
    workers.start()
    eventually(lambda: paused.status() == Status.RETRYABLE, what="the pause")
    assert "it is tried again in" in said(workers, paused.id)
    assert "rate_limited" in said(workers, paused.id)
    job.result(60)
    assert "it waits for nothing: it is completed" in said(workers, job.id)
    assert said(workers, "nobody") == ""


WORKER = WorkerReport(name="w", slots=300, running=300, held=600, done_per_second=90.0, capacity_per_second=90.0)
NOW = 1_000.0


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        (ModelCalls(model="nano", rate=4.0), "calls of nano are held to 4.0 a second"),
        (ModelCalls(model="nano", rate=4.0, paused_seconds=30.0), "pause for 30 s more"),
        (ModelCalls(model="nano", probe_seconds=8.0), "one call probes it, the next in 8 s"),
    ],
)
def test_the_limits_are_named(calls: ModelCalls, words: str) -> None:
    view = FleetView({"bulk": Lane(10, 400)}, workers=(WORKER.model_copy(update={"calls": (calls,)}),))
    lines = list(reasons(Status.AVAILABLE, None, view, NOW))
    assert any(words in line for line in lines)
    assert "300 of 300 slots" in lines[-1]
    assert "about 8 s" in lines[-1]


def test_a_pause_and_a_queue_that_is_no_redis_are_named() -> None:
    now = time.time()
    assert "in 30 s: out_of_money" in next(reasons(Status.RETRYABLE, Pause(now + 30, "out_of_money"), None, now))
    assert list(reasons(Status.AVAILABLE, None, None, now)) == ["it is in the queue; how long that is, ask the broker"]
