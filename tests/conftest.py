"""Real parts for the tests: a Valkey, the sandbox, worker processes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import redis
from pydantic import SecretStr
from pydantic_core import from_json, to_json

from shoal import ProducerSettings, Shoal
from shoal_worker import services


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
            told: list[dict[str, Any]] = from_json(reply.read())["requests"]
            return told

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

    def start(self, **settings: object) -> "subprocess.Popen[bytes]":
        """Start one and wait until it consumes."""
        number = len(self.processes)
        environ = {**self.environ, **{f"SHOAL_{name.upper()}": str(value) for name, value in settings.items()}}
        with (self.folder / f"worker{number}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "shoal_worker", "-n", f"w{number}@%h"],
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
def workers(valkey: str, sandbox: Sandbox, tmp_path: Path) -> Iterator[Workers]:
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")},
        "SHOAL_REDIS_URL": valkey,
        "SHOAL_OPENROUTER_BASE_URL": sandbox.base_url,
        "SHOAL_OPENROUTER_API_KEY": "test-key",
    }
    started = Workers(environ, tmp_path, [], valkey)
    yield started
    for process in started.processes:
        process.kill()
        process.wait()


@pytest.fixture
def shoal(valkey: str) -> Iterator[Shoal]:
    with Shoal(ProducerSettings(redis_url=SecretStr(valkey))) as producer:
        yield producer
