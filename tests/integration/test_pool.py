"""The pool and the channel under Celery's own worker, with plain tasks."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.exceptions import TaskRevokedError, TimeLimitExceeded

from conftest import eventually


class Pool:
    """A worker process of `pool_app` and a stock client of it."""

    def __init__(self, url: str, folder: Path, *options: str) -> None:
        environ = {**os.environ, "POOL_REDIS_URL": url, "PYTHONPATH": str(Path(__file__).parent)}
        self.log = folder / "pool.log"
        command = [sys.executable, "-m", "celery", "-A", "pool_app", "worker", "-l", "info", *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, cwd=folder)
        self.app = Celery(broker=url, backend=url, set_as_current=False)
        self.app.conf.task_default_queue = "pool"
        eventually(lambda: b" ready." in self.log.read_bytes(), what="a ready worker")

    def send(self, name: str, *args: Any) -> Any:
        return self.app.send_task(f"pool.{name}", args)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.app.close()


@pytest.fixture
def pool(valkey: str, tmp_path: Path) -> Iterator[Pool]:
    running = Pool(valkey, tmp_path, "-c", "100")
    yield running
    running.stop()


def test_interleaved_tasks_keep_their_own_request(pool: Pool) -> None:
    results = [pool.send("sleep", 0.2 if number % 2 else 0.1, number) for number in range(100)]
    assert [result.get(timeout=20) for result in results] == [[number, True] for number in range(100)]


def test_retries_failures_and_results_are_celerys_own(pool: Pool) -> None:
    assert pool.send("retry").get(timeout=20) == 2
    with pytest.raises(ValueError, match="no"):
        pool.send("fail").get(timeout=20)


def test_a_soft_time_limit_is_raised_inside_the_task(pool: Pool) -> None:
    assert pool.send("soft").get(timeout=20) == "cleaned up"


def test_a_hard_time_limit_ends_the_task(pool: Pool) -> None:
    with pytest.raises(TimeLimitExceeded):
        pool.send("hard").get(timeout=20)


def test_revoke_with_terminate_ends_a_running_task(pool: Pool) -> None:
    result = pool.send("sleep", 60, 1)
    inspect = pool.app.control.inspect(timeout=1)
    eventually(lambda: any((inspect.active() or {}).values()), what="a running task")
    pool.app.control.revoke(result.id, terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=20)


def test_the_pool_grows_and_shrinks_on_command(pool: Pool) -> None:
    control = pool.app.control
    inspect = control.inspect(timeout=1)

    def limit() -> int:
        replies: dict[str, Any] = inspect.stats() or {}
        return next((stats["pool"]["max-concurrency"] for stats in replies.values()), -1)

    def shrunk() -> bool:
        # Said again: a broadcast reaches nobody who is not listening yet.
        control.pool_shrink(99)
        return limit() == 1

    eventually(shrunk, what="a pool of one")
    control.pool_grow(9)
    eventually(lambda: limit() == 10, what="a pool of ten")
    for number in range(20):
        pool.send("sleep", 30, number)

    def started() -> int:
        replies: dict[str, Any] = inspect.stats() or {}
        return next((stats["pool"]["running"] for stats in replies.values()), -1)

    eventually(lambda: started() == 10, what="ten tasks at once")


def test_a_message_in_flight_is_not_delivered_twice_while_its_worker_lives(pool: Pool, client: "redis.Redis") -> None:
    assert pool.send("sleep", 7, 1).get(timeout=20) == [1, True]  # the visibility timeout is 4 s
    assert pool.log.read_bytes().count(b"received") == 1
    eventually(lambda: client.hlen("unacked") == 0, what="all messages acknowledged")


def test_a_connection_cut_in_the_middle_loses_and_repeats_nothing(pool: Pool, client: "redis.Redis") -> None:
    results = [pool.send("sleep", 2, number) for number in range(50)]
    eventually(lambda: client.hlen("unacked") == 50, what="all messages in flight")
    client.client_kill_filter(_type="normal", skipme=True)
    assert [result.get(timeout=30)[0] for result in results] == list(range(50))
    eventually(lambda: client.hlen("unacked") == 0, what="all messages acknowledged")
    assert pool.log.read_bytes().count(b"received") == 50


def test_what_was_fetched_and_not_begun_goes_back_at_once(valkey: str, tmp_path: Path, client: "redis.Redis") -> None:
    pool = Pool(valkey, tmp_path, "-c", "5")
    for number in range(20):
        pool.send("sleep", 3, number)
    eventually(lambda: client.hlen("unacked") == 10, what="a full prefetch window")
    pool.process.send_signal(signal.SIGTERM)
    assert pool.process.wait(20) == 0
    assert client.hlen("unacked") == 0
    assert client.llen("pool") == 15
    pool.stop()


def test_autoscale_starts_with_few_and_grows(valkey: str, tmp_path: Path) -> None:
    pool = Pool(valkey, tmp_path, "--autoscale=40,2")
    results = [pool.send("sleep", 0.2, number) for number in range(80)]
    for result in results:
        result.get(timeout=30)
    assert b"Scaling up" in pool.log.read_bytes()
    pool.stop()
