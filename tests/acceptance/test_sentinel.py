"""A Redis behind Sentinel: the primary dies or steps down while a worker works."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from pydantic import SecretStr

from conftest import Sandbox, Workers, eventually
from servers import Replicated, replicated
from shoal import Classify, ProducerSettings, QueueUnavailable, Shoal
from shoal.scripts import REPLICA_MS

T = TypeVar("T")
TIMES = {"visibility_timeout_seconds": 6, "lease_seconds": 3}


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Replicated]:
    with replicated(tmp_path / "servers") as running:
        yield running


@pytest.fixture
def producer(servers: Replicated) -> Iterator[Shoal]:
    with Shoal(ProducerSettings(redis_url=SecretStr(servers.url))) as shoal:
        yield shoal


def question(number: int) -> Classify:
    return Classify(text=f"charged twice {number}", labels=("billing", "bug"))


def insisting(call: Callable[[], T]) -> T:
    """What a producer does whose queue is away: ask again, which is safe."""
    answers: list[T] = []

    def once() -> bool:
        try:
            answers.append(call())
        except QueueUnavailable:
            return False
        return True

    eventually(once, 60, "the queue")
    return answers[0]


@pytest.mark.parametrize("fault", [Replicated.kill_primary, Replicated.switch])
def test_a_failover_costs_time_and_no_job(
    servers: Replicated, producer: Shoal, workers: Workers, sandbox: Sandbox, fault: Callable[[Replicated], None]
) -> None:
    sandbox.scenario(latency_seconds=1.0)
    worker = workers.start(redis_url=servers.url, concurrency=50, **TIMES)
    jobs = [producer.enqueue(question(number)) for number in range(300)]
    eventually(lambda: sandbox.bill()["in_flight"] == 50, what="calls in flight")
    fault(servers)
    jobs.append(insisting(lambda: producer.enqueue(question(300))))
    assert {job.result(90).label for job in jobs} == {"billing"}
    with servers.client() as client:
        assert len(client.keys("celery-task-meta-*")) == 301
        eventually(lambda: client.hlen("unacked") == client.zcard("unacked_index") == 0, 60, "all acknowledged")
        # What came twice has waited for the other's lease, and finds its answer when its time comes.
        eventually(lambda: client.llen("shoal") == client.zcard("shoal:parked:shoal") == 0, 90, "nothing left")
        assert client.hlen("shoal:dead") == 0
    assert sandbox.bill()["billed_calls"] <= 301 + 50
    assert worker.poll() is None


def test_what_a_producer_was_told_is_on_a_replica(servers: Replicated, producer: Shoal) -> None:
    jobs = [producer.enqueue(question(number)) for number in range(20)]
    servers.kill_primary()
    assert {insisting(job.status) for job in jobs} == {"available"}
    with servers.client() as client:
        assert client.llen("shoal") == 20
    assert insisting(lambda: producer.enqueue(question(20))).id, f"no replica is left: taken after {REPLICA_MS} ms"
