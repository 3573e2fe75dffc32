"""The users of `deploy/redis/users.acl` as it is delivered: the whole main job runs with them, and none may do more."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import redis
from click.testing import CliRunner
from pydantic import SecretStr

from conftest import Workers, eventually
from shoal import Classify, Extract, Job, JobCancelled, JobFailed, ProducerSettings, Rank, Shoal, Summarize
from shoal.cli import shoal as shoal_command
from shoal.control import client_app
from shoal.overview import Lookout, Overview
from shoal.redis_url import open_client
from shoal_worker import services
from shoal_worker.beat_book import BeatBook, LastRun
from shoal_worker.doctor import command
from shoal_worker.doctor.findings import Grade
from shoal_worker.settings import WorkerSettings

ACL = Path(__file__).parents[2] / "deploy" / "redis" / "users.acl"
USERS = ("producer", "beat", "worker", "flower", "metrics", "doctor")
LABELS = ("billing", "bug")
TEXT = "Ann Smith paid $12.50 on 2024-05-01. The weather was fine. Nobody complained."
UrlOf = Callable[[str], str]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[UrlOf]:
    """A Valkey with our users and one that may look; gives the URL of a user."""
    users = tmp_path / "users.acl"
    users.write_text(ACL.read_text() + "user admin on >admin-password ~* &* +@all\n")
    tree, port = services.Services(os.environ, tmp_path), services.free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--aclfile", str(users)]
    tree.start("valkey", [services.valkey_executable(), *options, "--appendonly", "yes", "--save", ""])

    def url_of(user: str) -> str:
        return f"redis://{user}:{user}-password@127.0.0.1:{port}/0"

    try:
        tree.await_condition("valkey", lambda: services.answers_ping(url_of("admin")))
        yield url_of
    finally:
        tree.stop()


def denied(url_of: UrlOf) -> list[dict[str, Any]]:
    """What the server has refused so far."""
    with redis.Redis.from_url(url_of("admin"), decode_responses=True) as client:
        log: Any = client.acl_log()
        return [{name: entry[name] for name in ("username", "reason", "object", "context")} for entry in log]


def test_the_whole_main_job_runs_with_them(
    guarded: UrlOf, workers: Workers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker = workers.start(redis_url=guarded("worker"))
    fields = {"type": "object", "properties": {"date": {"type": "string"}}}
    with Shoal(ProducerSettings.load(redis_url=guarded("producer"), tenant="acme")) as producer:
        jobs: list[Job[Any]] = [
            producer.enqueue(Classify(text="I was charged twice", labels=LABELS)),
            producer.enqueue(Extract(text=TEXT, fields=fields)),
            producer.enqueue(Rank(query="cat food", documents=("dogs bark", "the cat eats food"))),
            producer.enqueue(Summarize(text=TEXT, length_words=10)),
            producer.enqueue(Classify(text="tried twice [[fault:server_500*1]]", labels=LABELS)),
        ]
        assert all(job.outcome(60).usage.cost_usd > 0 for job in jobs)
        assert sum(1 for _ in producer.map(Classify(text=f"case {n}", labels=LABELS) for n in range(120))) == 120
        slow = producer.enqueue(Classify(text="[[fault:slow_headers:60]]", labels=LABELS))
        eventually(lambda: slow.status() == "running", what="a running job")
        assert slow.cancel()
        with pytest.raises(JobCancelled):
            slow.result(30)
        with pytest.raises(JobFailed):
            producer.enqueue(Classify(text="[[fault:bad_request]]", labels=LABELS)).result(30)
    monkeypatch.setenv("SHOAL_REDIS_URL", guarded("producer"))
    for words in (["dead", "list"], ["dead", "replay", "--cause", "request_refused"], ["cost"]):
        told = CliRunner().invoke(shoal_command, words)
        assert told.exit_code == 0, told.output
    for user, words in (("metrics", ["top", "--once"]), ("worker", ["why", jobs[0].id])):
        monkeypatch.setenv("SHOAL_REDIS_URL", guarded(user))
        told = CliRunner().invoke(shoal_command, words)
        assert told.exit_code == 0, told.output
    asyncio.run(beating(guarded("beat")))
    watched(guarded, tmp_path)
    worker.terminate()
    assert worker.wait(60) == 0
    assert denied(guarded) == []


async def beating(url: str) -> None:
    """All that a beat writes and reads beside the jobs that it queues as any producer."""
    book = BeatBook(open_client(url), "1@here", lease_seconds=30)
    term = await book.lead()
    assert term
    await book.begin(term, "nightly", 60)
    await book.note_jobs(term, "nightly", ["one", "two"])
    assert await book.noted_jobs("nightly") == ["one", "two"]
    await book.forget_jobs("nightly", 1)
    await book.end(term, "nightly", LastRun(60, "queued", 2))
    assert (await book.progress("nightly")).done_at == 60
    assert await book.last_run("nightly")
    await book.resign(term)
    await book.aclose()


def watched(guarded: UrlOf, folder: Path) -> None:
    """Flower, the metrics and the doctor at a fleet that works, each as its own user."""

    async def look() -> Overview:
        async with Lookout(ProducerSettings.load(redis_url=guarded("metrics"))) as lookout:
            return await lookout.look()

    assert len(eventually(lambda: asyncio.run(look()).fleet.workers, what="a worker that tells of itself")) == 1
    settings = WorkerSettings.load(redis_url=guarded("doctor"))
    found = asyncio.run(command.of_queue(settings)) + asyncio.run(command.of_redis(settings, workers=1))[0]
    assert denied(guarded) == []
    assert [one.line for one in found if one.grade != Grade.FINE] == []
    tree = services.Services(services.environment(redis_url=guarded("flower")), folder)
    try:
        address = services.start_flower(tree, services.free_port())
        eventually(lambda: b"w0@" in page(f"{address}/workers"), what="a worker in Flower")
        with client_app(SecretStr(guarded("flower"))) as app:
            assert app.control.inspect(timeout=5, limit=1).stats()
    finally:
        tree.stop()


def page(address: str) -> bytes:
    try:
        with urlopen(address, timeout=2) as reply:
            said: bytes = reply.read()
            return said
    except OSError:
        return b""


@pytest.mark.parametrize("user", USERS)
def test_none_may_do_more(guarded: UrlOf, user: str) -> None:
    with redis.Redis.from_url(guarded(user)) as client:
        for words in ("FLUSHALL", "CONFIG SET maxmemory 1", "KEYS *", "SHUTDOWN", "EVAL return 0", "ACL LIST"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*words.split(), *(["0"] if words.startswith("EVAL") else []))
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.llen("somebody-elses")
    nobody = redis.Redis.from_url(guarded("admin").replace("admin:admin-password@", ""))
    with nobody, pytest.raises(redis.exceptions.AuthenticationError):
        nobody.ping()
