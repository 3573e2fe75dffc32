"""Real parts for the tests: a Valkey, the sandbox, worker processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psycopg
import pytest
import redis
from pydantic import SecretStr
from pydantic_core import from_json, to_json

from postgres_server import Postgres, postgres_server
from shoal import ProducerSettings, Shoal
from shoal.costs import COST_FIELDS, Cost, costs_of, day_of, total
from shoal_worker import services
from shoal_worker.stores.migrations import migrate


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the SHOAL_* or the .env of whoever runs it."""
    for name in list(os.environ):
        if name.startswith("SHOAL_") and not name.startswith("SHOAL_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def eventually(holds: Callable[[], Any], seconds: float = 30.0, what: str = "the condition") -> Any:
    """Wait until a callable gives something true, and give it back."""
    ends_at = time.monotonic() + seconds
    while True:
        value = holds()
        if value:
            return value
        assert time.monotonic() < ends_at, f"{what} did not come within {seconds} s"
        time.sleep(0.02)


def said(question: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """What workers answer to remote control; nothing where a connection ended meanwhile: ask again."""
    try:
        return question() or {}
    except redis.ConnectionError:
        return {}


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    given = os.environ.get("SHOAL_TEST_REDIS_URL")
    if given:
        yield given
        return
    folder = tmp_path_factory.mktemp("valkey")
    tree = services.Services(os.environ, folder)
    try:
        yield services.start_valkey(tree, services.free_port(), folder)
    finally:
        tree.stop()


@pytest.fixture
def valkey(valkey_server: str) -> str:
    """The URL of an empty Valkey."""
    with redis.Redis.from_url(valkey_server) as client:
        client.flushall()
    return valkey_server


@pytest.fixture
def client(valkey: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(valkey) as connection:
        yield connection


@pytest.fixture(scope="session")
def postgres_process() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> str:
    """The URL of a Postgres whose tables are ours and empty."""
    url: str = os.environ.get("SHOAL_TEST_POSTGRES_URL") or request.getfixturevalue("postgres_process").url
    migrate(SecretStr(url))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE shoal.jobs, shoal.endings, shoal.dead_letters, shoal.calls, shoal.cost_sums")
    return url


@pytest.fixture
def results(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings that say where results are: Redis, or by `parametrize("results", ["postgres"], indirect=True)`."""
    if getattr(request, "param", "redis") == "redis":
        return {}
    return {"result_url": request.getfixturevalue("postgres")}


both_stores = pytest.mark.parametrize("results", ["redis", "postgres"], indirect=True)


def interruptible() -> None:
    """For a child process: a shell that starts us in the background has Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Sandbox:
    """A running sandbox and its control."""

    base_url: str

    @property
    def control(self) -> str:
        return self.base_url.replace("/api/v1", "/sandbox")

    def bill(self) -> dict[str, Any]:
        with urlopen(f"{self.control}/bill") as reply:
            bill: dict[str, Any] = from_json(reply.read())
            return bill

    def requests(self) -> list[dict[str, Any]]:
        with urlopen(f"{self.control}/requests") as reply:
            requests: list[dict[str, Any]] = from_json(reply.read())["requests"]
            return requests

    def scenario(self, **fields: Any) -> None:
        request = Request(f"{self.control}/scenario", to_json(fields), {"content-type": "application/json"})
        urlopen(request).close()


@pytest.fixture(scope="session")
def sandbox_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    tree = services.Services(os.environ, tmp_path_factory.mktemp("sandbox"))
    try:
        yield Sandbox(services.start_sandbox(tree, 0.02))
    finally:
        tree.stop()


@pytest.fixture
def sandbox(sandbox_server: Sandbox) -> Sandbox:
    """A sandbox with no requests, no faults and 20 ms of latency."""
    urlopen(Request(f"{sandbox_server.control}/reset", b"", method="POST")).close()
    sandbox_server.scenario(latency_seconds=0.02)
    return sandbox_server


@dataclass
class Workers:
    """Worker processes of one test."""

    environ: dict[str, str]
    folder: Path
    processes: list["subprocess.Popen[bytes]"]
    valkey: str
    command: tuple[str, ...] = ("-m", "shoal_worker")

    def start(self, **settings: object) -> "subprocess.Popen[bytes]":
        """Start one and wait until it consumes."""
        number = len(self.processes)
        environ = {**self.environ, **{f"SHOAL_{name.upper()}": str(value) for name, value in settings.items()}}
        with (self.folder / f"worker{number}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *self.command, "-n", f"w{number}@%h"],
                env=environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        eventually(lambda: b" ready." in self.log(number) or process.poll() is not None, what="a ready worker")
        assert process.poll() is None, self.log(number).decode()
        return process

    def log(self, number: int = 0) -> bytes:
        return (self.folder / f"worker{number}.log").read_bytes()


@pytest.fixture
def workers(valkey: str, sandbox: Sandbox, tmp_path: Path, results: dict[str, str]) -> Iterator[Workers]:
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")},
        "SHOAL_REDIS_URL": valkey,
        "SHOAL_OPENROUTER_BASE_URL": sandbox.base_url,
        "SHOAL_OPENROUTER_API_KEY": "test-key",
        **{f"SHOAL_{name.upper()}": value for name, value in results.items()},
    }
    started = Workers(environ, tmp_path, [], valkey)
    yield started
    for process in started.processes:
        process.kill()
        process.wait()


@dataclass
class Kept:
    """What one place keeps, counted without our own code where that is possible."""

    valkey: str
    result_url: str | None

    def answers(self) -> int:
        """How many jobs have ended."""
        if self.result_url is None:
            with redis.Redis.from_url(self.valkey) as client:
                return len(client.keys("celery-task-meta-*"))
        [(count,)] = self.sql("SELECT count(*) FROM shoal.endings")
        return int(count)

    def letters(self) -> dict[str, str]:
        """Dead letters as JSON, by job id."""
        if self.result_url is None:
            with redis.Redis.from_url(self.valkey) as client:
                found: Any = client.hgetall("shoal:dead")
                return {job_id.decode(): letter.decode() for job_id, letter in found.items()}
        return dict(self.sql("SELECT job_id, letter FROM shoal.dead_letters"))

    def unfinished(self) -> int:
        """Messages that wait, are in flight, or are parked or in the outbox."""
        with redis.Redis.from_url(self.valkey) as client:
            lists: Any = ["shoal", "shoal.bulk", *client.scan_iter("shoal:tenant:*")]
            waiting: Any = *map(client.llen, lists), client.hlen("unacked"), client.zcard("shoal:parked:shoal")
        if self.result_url is None:
            return int(sum(waiting))
        [(in_outbox,)] = self.sql("SELECT count(*) FROM shoal.jobs WHERE due_at IS NOT NULL")
        return int(sum(waiting) + in_outbox)

    def open_calls(self) -> int:
        """Calls that are in the books and in no sum."""
        if self.result_url is None:
            with redis.Redis.from_url(self.valkey) as client:
                return int(client.hlen("shoal:calls:open"))
        [(count,)] = self.sql("SELECT count(*) FROM shoal.calls WHERE state = 'open'")
        return int(count)

    def cost(self) -> Cost:
        """All that is in the books."""
        if self.result_url is None:
            with redis.Redis.from_url(self.valkey) as client:
                days: Any = client.keys("shoal:cost:*")
                hashes: list[Any] = [client.hgetall(day) for day in days]
            return total(cost for sums in hashes for cost in costs_of(day_of(0), sums).values())
        return total(Cost(*row) for row in self.sql(f"SELECT {', '.join(COST_FIELDS)} FROM shoal.cost"))

    def sql(self, statement: str) -> list[Any]:
        assert self.result_url is not None
        with psycopg.connect(self.result_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def kept(valkey: str, results: dict[str, str]) -> Kept:
    return Kept(valkey, results.get("result_url"))


@pytest.fixture
def shoal(valkey: str, results: dict[str, str]) -> Iterator[Shoal]:
    with Shoal(ProducerSettings.load(redis_url=valkey, **results)) as producer:
        yield producer
