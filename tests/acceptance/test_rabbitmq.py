"""What only RabbitMQ can do to a worker, and a queue that is not where the results are."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner
from pydantic import SecretStr

from conftest import Sandbox, Workers, eventually
from servers import RABBITMQ, Rabbit, rabbit
from shoal import Classify, ProducerSettings, Shoal, wire
from shoal_worker.health import health


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Rabbit]:
    if not RABBITMQ.exists():
        pytest.skip(f"no RabbitMQ: {RABBITMQ} is not there; install rabbitmq-server, or set SHOAL_TEST_RABBITMQ")
    with rabbit(tmp_path / "rabbit") as running:
        yield running


def settings(valkey: str, queue: str) -> ProducerSettings:
    return ProducerSettings(redis_url=SecretStr(valkey), queue_url=SecretStr(queue))


def probed(environ: dict[str, str], *options: str) -> int:
    """The status of `shoal health`."""
    return CliRunner().invoke(health, options, env=environ).exit_code


def question(number: int) -> Classify:
    return Classify(text=f"charged twice {number}", labels=("billing", "bug"))


def test_a_broker_killed_under_a_working_worker_costs_time_and_no_job(
    server: Rabbit, valkey: str, workers: Workers, sandbox: Sandbox, client: "redis.Redis"
) -> None:
    sandbox.scenario(latency_seconds=2.0)
    worker = workers.start(queue_url=server.url, concurrency=50, lease_seconds=3, visibility_timeout_seconds=6)
    with Shoal(settings(valkey, server.url)) as shoal:
        jobs = [shoal.enqueue(question(number)) for number in range(200)]
        eventually(lambda: sandbox.bill()["in_flight"] == 50, what="calls in flight")
        server.kill()
        # In the outbox a job is safe, whatever has become of the broker.
        jobs += [shoal.enqueue(question(number)) for number in range(200, 210)]
        assert client.zcard(wire.OUTBOX) >= 10
        server.start()
        assert {job.result(90).label for job in jobs} == {"billing"}
    eventually(lambda: client.zcard(wire.OUTBOX) == 0, 60, "an empty outbox")
    assert sandbox.bill()["billed_calls"] == 210
    assert client.hlen(wire.DEAD) == 0
    assert worker.poll() is None
    environ = {"SHOAL_REDIS_URL": valkey, "SHOAL_QUEUE_URL": server.url}
    assert probed(environ, "--name", "w0@%h") == 0
    assert probed(environ, "--live") == 1, "nobody is called celery@%h"
    worker.terminate()
    assert worker.wait(60) == 0
    assert server.counts() == (0, 0)
    server.kill()
    assert (probed(environ), probed(environ, "--live")) == (1, 0)


def test_a_worker_that_froze_is_relieved_and_finds_its_job_done(
    server: Rabbit, valkey: str, workers: Workers, sandbox: Sandbox
) -> None:
    sandbox.scenario(latency_seconds=1.0)
    times = {"lease_seconds": 3, "visibility_timeout_seconds": 4}
    frozen = workers.start(queue_url=server.url, **times)
    with Shoal(settings(valkey, server.url)) as shoal:
        job = shoal.enqueue(question(1))
        eventually(lambda: sandbox.bill()["in_flight"] == 1, what="the call")
        os.kill(frozen.pid, signal.SIGSTOP)
        other = workers.start(queue_url=server.url, **times)
        answer = job.outcome(60)
        os.kill(frozen.pid, signal.SIGCONT)
        other.terminate()
        assert other.wait(60) == 0
        assert shoal.enqueue(question(2)).result(60).label == "billing"
        assert job.outcome(10) == answer
    assert frozen.poll() is None
    frozen.terminate()
    assert frozen.wait(60) == 0
    eventually(lambda: server.counts() == (0, 0), what="an empty queue")


def test_of_several_nodes_one_that_answers_is_enough(server: Rabbit, valkey: str, workers: Workers) -> None:
    urls = f"amqp://guest:guest@127.0.0.1:9//;{server.url}"
    workers.start(queue_url=urls)
    with Shoal(settings(valkey, urls)) as shoal:
        assert shoal.enqueue(question(1)).result(30).label == "billing"


def test_what_a_producer_left_in_the_outbox_is_published_by_a_worker(
    server: Rabbit, valkey: str, workers: Workers, client: "redis.Redis"
) -> None:
    with Shoal(settings(valkey, "amqp://guest:guest@127.0.0.1:9//")) as shoal:
        job = shoal.enqueue(question(1))
        assert client.zcard(wire.OUTBOX) == 1
        workers.start(queue_url=server.url)
        assert job.result(30).label == "billing"


def test_a_queue_in_another_redis_goes_through_the_outbox_too(
    valkey: str, workers: Workers, client: "redis.Redis"
) -> None:
    queue = f"{valkey.removesuffix('/0')}/1"
    worker = workers.start(queue_url=queue)
    with Shoal(settings(valkey, queue)) as shoal:
        assert shoal.enqueue(question(1)).result(30).label == "billing"
        retried = shoal.enqueue(Classify(text="charged twice [[fault:server_500:1*1]]", labels=("billing", "bug")))
        assert retried.outcome(60).attempts == 2
    worker.terminate()
    assert worker.wait(60) == 0
    with redis.Redis.from_url(queue) as other:
        kept = {key for key in other.keys("shoal*") if not key.startswith((b"shoal:limit:", b"shoal:workers"))}
        assert not kept
        assert other.hlen("unacked") == 0
    assert client.zcard(wire.OUTBOX) == client.llen(wire.QUEUE) == 0
