"""Servers and workers that go away in the middle."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from conftest import Sandbox, Workers, eventually
from shoal import Classify, ProducerSettings, Shoal
from shoal_worker import services


def storm(what: str, kills: int, messages: int) -> str:
    """In a process of its own: its children are forked, and must inherit no threads."""
    script = Path(__file__).with_name("kill_storm.py")
    command = [sys.executable, str(script), "--what", what, "--kills", str(kills), "--messages", str(messages)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_consumer_killed_again_and_again_loses_nothing() -> None:
    assert '"lost": 0' in storm("consumer", kills=40, messages=3_000)


def test_a_worker_killed_again_and_again_loses_nothing() -> None:
    assert '"lost": 0' in storm("worker", kills=15, messages=1_500)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", ["consumer", "worker"])
def test_a_thousand_kills_lose_nothing(what: str) -> None:
    assert '"lost": 0' in storm(what, kills=1_000, messages=20_000)


def test_valkey_stopped_for_ten_seconds_costs_time_and_no_job(
    workers: Workers, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.scenario(latency_seconds=0.3)
    folder = tmp_path / "valkey"
    folder.mkdir()
    tree = services.Services(os.environ, tmp_path)
    port = services.free_port()
    try:
        url = services.start_valkey(tree, port, folder)
        worker = workers.start(redis_url=url, concurrency=50)
        settings = ProducerSettings(redis_url=SecretStr(url))
        with Shoal(settings) as shoal:
            texts = (Classify(text=f"charged twice {n}", labels=("billing", "bug")) for n in range(1_000))
            jobs = [shoal.enqueue(args) for args in texts]
            eventually(lambda: sandbox.bill()["billed_calls"] > 200, what="some answers")
            tree.stop()
            with pytest.raises(AssertionError):
                eventually(lambda: worker.poll() is not None, seconds=10)
            services.start_valkey(tree, port, folder)
            with redis.Redis.from_url(url) as client:
                eventually(lambda: len(client.keys("celery-task-meta-*")) == 1_000, 60, "all answers")
                eventually(lambda: client.hlen("unacked") == 0, what="all messages acknowledged")
            for job in jobs:
                job.result(10)
        assert worker.poll() is None
    finally:
        tree.stop()


def test_a_thousand_calls_in_flight_use_little_memory(workers: Workers, sandbox: Sandbox, shoal: Shoal) -> None:
    import psutil

    sandbox.scenario(latency_seconds=8.0)
    worker = workers.start(concurrency=1_000)
    for number in range(1_000):
        shoal.enqueue(Classify(text=f"charged twice {number}", labels=("billing", "bug")))
    eventually(lambda: sandbox.bill()["in_flight"] >= 1_000, what="1,000 calls in flight")
    assert psutil.Process(worker.pid).memory_info().rss < 300e6
