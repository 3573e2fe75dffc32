"""The same jobs through each broker, chosen by URL alone."""

import asyncio
import signal
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import redis

from conftest import Sandbox, Workers, eventually
from servers import RABBITMQ, rabbit, replicated
from shoal import Classify, Extract, Job, JobCancelled, JobFailed, ProducerSettings, Rank, Shoal, Summarize, wire
from shoal.control import client_app
from shoal.messages import message_of
from shoal.publisher import open_publisher
from shoal_worker import services

LABELS = ("billing", "bug", "praise")
TIMES = {"visibility_timeout_seconds": 5, "lease_seconds": 2}
NODE = f"w0@{socket.gethostname()}"


@dataclass
class Broker:
    """What a producer and a worker are told, and how the tests look behind it."""

    settings: dict[str, str]
    client: Callable[[], "redis.Redis"]
    waiting: Callable[[], int]

    @property
    def known(self) -> ProducerSettings:
        return ProducerSettings.model_validate(self.settings)

    def left(self) -> int:
        """Messages that wait, that are in flight in Redis, and that wait for their time."""
        with self.client() as client:
            return int(self.waiting() + client.hlen("unacked") + client.zcard(wire.OUTBOX))


def one_redis(url: str) -> Broker:
    def waiting() -> int:
        with redis.Redis.from_url(url) as client:
            return int(client.llen(wire.QUEUE))

    return Broker({"redis_url": url}, lambda: redis.Redis.from_url(url), waiting)


@pytest.fixture(scope="module", params=["redis", "sentinel", "rabbitmq"])
def running(
    request: pytest.FixtureRequest, valkey_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("brokers") / request.param
    if request.param == "redis":
        yield one_redis(valkey_server)
    elif request.param == "sentinel":
        with replicated(folder) as servers:
            direct = one_redis(f"redis://127.0.0.1:{servers.primary()}/0")
            yield Broker({"redis_url": servers.url}, direct.client, direct.waiting)
    else:
        if not RABBITMQ.exists():
            pytest.skip(f"no RabbitMQ: {RABBITMQ} is not there; install rabbitmq-server, or set SHOAL_TEST_RABBITMQ")
        with rabbit(folder) as server:
            settings = {"redis_url": valkey_server, "queue_url": server.url}
            yield Broker(settings, one_redis(valkey_server).client, lambda: server.counts()[0])


@pytest.fixture
def broker(running: Broker) -> Iterator[Broker]:
    """With empty results. What a test leaves in the queue would be seen by the next one, so it must leave nothing."""
    with running.client() as client:
        client.flushall()
    yield running
    eventually(lambda: running.left() == 0, what=f"a queue with nothing left, but {running.waiting()}")


@pytest.fixture
def producer(broker: Broker) -> Iterator[Shoal]:
    with Shoal(broker.known) as shoal:
        yield shoal


def question(number: int = 0, marker: str = "") -> Classify:
    return Classify(text=f"I was charged twice by billing, case {number}. {marker}", labels=LABELS)


def stopped(worker: Any) -> None:
    """With an orderly end, so that all acknowledgements are made."""
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0


def test_all_four_kinds_are_answered(broker: Broker, producer: Shoal, workers: Workers) -> None:
    worker = workers.start(**broker.settings)
    text = "Ann Smith paid $12.50 on 2024-05-01. The weather was fine. Nobody complained."
    fields = {"type": "object", "properties": {"date": {"type": "string"}}}
    jobs: list[Job[Any]] = [
        producer.enqueue(question()),
        producer.enqueue(Extract(text=text, fields=fields)),
        producer.enqueue(Rank(query="cat food", documents=("dogs bark", "the cat eats food", "x"))),
        producer.enqueue(Summarize(text=text, length_words=10)),
    ]
    assert [job.outcome(30).kind for job in jobs] == ["classify", "extract", "rank", "summarize"]
    assert sum(1 for _ in producer.map(question(number) for number in range(300))) == 300
    # What a slow producer had not confirmed within five seconds a worker has published too, and finds answered.
    eventually(lambda: broker.left() == 0, what="all messages acknowledged")
    stopped(worker)


def test_a_killed_worker_loses_no_job(broker: Broker, producer: Shoal, workers: Workers, sandbox: Sandbox) -> None:
    sandbox.scenario(latency_seconds=1.0)
    first = workers.start(**broker.settings, **TIMES)
    jobs = [producer.enqueue(question(number)) for number in range(100)]
    eventually(lambda: sandbox.bill()["in_flight"] >= 80, what="calls in flight")
    first.kill()
    first.wait()
    second = workers.start(**broker.settings, **TIMES)
    assert {job.result(60).label for job in jobs} == {"billing"}
    assert sandbox.bill()["billed_calls"] <= 100 + 100
    eventually(lambda: broker.left() == 0, what="all messages acknowledged")
    stopped(second)


def test_a_retry_waits_for_its_time(broker: Broker, producer: Shoal, workers: Workers, sandbox: Sandbox) -> None:
    worker = workers.start(**broker.settings)
    started = time.time()
    outcome = producer.enqueue(question(marker="[[fault:upstream_429:3*1]]")).outcome(60)
    assert outcome.finished_at - started >= 3
    assert (outcome.result.label, outcome.usage.calls) == ("billing", 2)
    stopped(worker)


def test_a_running_job_can_be_cancelled(broker: Broker, producer: Shoal, workers: Workers, sandbox: Sandbox) -> None:
    sandbox.scenario(latency_seconds=20.0)
    worker = workers.start(**broker.settings)
    job = producer.enqueue(question())
    eventually(lambda: sandbox.bill()["in_flight"] == 1, what="a call in flight")
    assert job.cancel()
    with pytest.raises(JobCancelled):
        job.result(10)
    with client_app(broker.known.queue) as app:
        active = app.control.inspect([NODE]).active
        eventually(lambda: (active() or {}).get(NODE) == [], 10, "a worker with nothing to do")
    stopped(worker)


def test_sigterm_lets_running_calls_finish_and_gives_the_rest_back(
    broker: Broker, producer: Shoal, workers: Workers, sandbox: Sandbox
) -> None:
    sandbox.scenario(latency_seconds=3.0)
    first = workers.start(**broker.settings, concurrency=20)
    jobs = [producer.enqueue(question(number)) for number in range(60)]
    eventually(lambda: sandbox.bill()["in_flight"] == 20, what="20 calls in flight")
    stopped(first)
    assert sandbox.bill()["billed_calls"] == 20
    eventually(lambda: broker.left() == 40, what="the other 40 back in the queue")
    second = workers.start(**broker.settings)
    assert {job.result(60).label for job in jobs} == {"billing"}
    assert sandbox.bill()["billed_calls"] == 60
    stopped(second)


async def put(url: str, *messages: str) -> None:
    publisher = open_publisher(url)
    await publisher.publish(messages)
    await publisher.aclose()


def test_bad_messages_become_dead_letters(broker: Broker, producer: Shoal, workers: Workers) -> None:
    worker = workers.start(**broker.settings)
    good = message_of(question(), {}, producer.settings, time.time())
    unknown_kind = wire.message(good.model_copy(update={"id": "unknown-kind", "kind": "clasify"}))
    missing = wire.message(good.model_copy(update={"id": "missing-field", "args": {"labels": ["a", "b"]}}))
    broken_body = wire.message(good.model_copy(update={"id": "broken-body"})).replace('"body":"[[]', '"body":"[[')
    url = broker.known.queue.get_secret_value()
    asyncio.run(put(url, "this is no message", unknown_kind, missing, broken_body, wire.message(good)))
    assert producer.job(good.id).result(30).label == "billing"
    with broker.client() as client:
        eventually(lambda: client.hlen(wire.DEAD) == 4, what="four dead letters")
        assert {b"unknown-kind", b"missing-field", b"broken-body"} < set(client.hkeys(wire.DEAD))
    with pytest.raises(JobFailed, match="Field required"):
        producer.outcome("missing-field", 10)
    stopped(worker)


def test_remote_control_and_flower_see_the_worker(broker: Broker, workers: Workers, tmp_path: Path) -> None:
    worker = workers.start(**broker.settings, concurrency=7)
    with client_app(broker.known.queue) as app:
        eventually(lambda: app.control.ping([NODE], timeout=1), what="a pong")
        app.control.pool_grow(5, [NODE])
        seen = app.control.inspect([NODE]).stats
        eventually(lambda: (seen() or {}).get(NODE, {}).get("pool", {}).get("max-concurrency") == 12, what="more room")
    environ = {**services.environment(**broker.settings), "FLOWER_BASIC_AUTH": "tester:only-for-this-test"}
    tree = services.Services(environ, tmp_path)
    login = {"Authorization": "Basic " + b64encode(b"tester:only-for-this-test").decode()}
    try:
        address = services.start_flower(tree, services.free_port())

        def pages() -> bool:
            with urlopen(Request(f"{address}/api/workers?refresh=1", headers=login)) as reply:
                return NODE.encode() in reply.read()

        eventually(pages, what="the worker in Flower")
    finally:
        tree.stop()
    stopped(worker)
