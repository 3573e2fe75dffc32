"""For which faults a worker does not start, as real processes on real servers."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from conftest import Workers, eventually
from proxy import in_front
from shoal import Classify, ProducerSettings, Shoal
from shoal_worker import services


def refused(workers: Workers, **settings: str) -> str:
    """What a worker says that does not start."""
    environ = {**workers.environ, **{f"SHOAL_{name.upper()}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "shoal_worker"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


@contextmanager
def evicting(client: "redis.Redis") -> Iterator[None]:
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        yield
    finally:
        client.config_set("maxmemory-policy", "noeviction")


@contextmanager
def user_without(client: "redis.Redis", *commands: str) -> Iterator[str]:
    """The URL of a user that may do all but some commands."""
    client.acl_setuser(
        "ann", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=["+@all", *commands]
    )
    address = client.connection_pool.connection_kwargs
    try:
        yield f"redis://ann:pw@{address['host']}:{address['port']}/0"
    finally:
        client.acl_deluser("ann")


def test_a_redis_that_evicts_gets_no_worker(workers: Workers, client: "redis.Redis") -> None:
    with evicting(client):
        said = refused(workers, redis_trusted="true")
    assert "the Redis evicts: maxmemory-policy is allkeys-lru: when it is full it throws waiting jobs" in said
    assert "; redis-cli CONFIG SET maxmemory-policy noeviction" in said


def test_a_redis_that_is_too_old_gets_no_worker(workers: Workers, client: "redis.Redis") -> None:
    # No wheel has an old server; this one only says that it is.
    port = client.connection_pool.connection_kwargs["port"]
    with in_front(port, instead=("redis_version:7.2.4", "redis_version:6.0.9")) as old:
        said = refused(workers, redis_url=f"redis://127.0.0.1:{old}/0")
    assert "the Redis is version 6.0.9: workers wait with BLMOVE" in said
    assert "install Redis 6.2 or Valkey 7.2, or newer" in said


def test_a_redis_that_hides_whether_it_evicts_is_taken_on_somebodys_word(
    workers: Workers, client: "redis.Redis"
) -> None:
    with user_without(client, "-info", "-config") as url:
        said = refused(workers, redis_url=url)
        assert "the Redis does not say whether it evicts: INFO is refused" in said
        assert "set SHOAL_REDIS_TRUSTED=true" in said
        assert "pw" not in said
        workers.start(redis_url=url, redis_trusted="true")
        assert b"the Redis does not say whether it evicts" in workers.log()


def test_a_redis_that_is_away_is_waited_for(workers: Workers, tmp_path: Path) -> None:
    port = services.free_port()
    url, log = f"redis://127.0.0.1:{port}/0", tmp_path / "worker0.log"
    tree = services.Services(os.environ, tmp_path)
    # A server ends with the thread that started it, so the worker is the one to be started beside.
    starting = threading.Thread(target=workers.start, kwargs={"redis_url": url})
    starting.start()
    try:
        eventually(lambda: log.exists() and b"Cannot connect to" in log.read_bytes(), what="a worker that waits")
        services.start_valkey(tree, port, tmp_path)
        starting.join()
        with Shoal(ProducerSettings.load(redis_url=url)) as producer:
            job = producer.enqueue(Classify(text="I was charged twice", labels=("billing", "bug")))
            assert job.result(30).label == "billing"
    finally:
        starting.join()
        tree.stop()


@pytest.mark.parametrize("results", ["postgres"], indirect=True)
def test_an_evicting_queue_is_refused_although_results_are_in_postgres(workers: Workers, client: "redis.Redis") -> None:
    with evicting(client):
        assert "the queue's Redis evicts" in refused(workers)
