"""`shoal health` beside real workers: what is well, what is not, and what a restart would help."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner
from pydantic import SecretStr

from conftest import Sandbox, Workers, eventually
from shoal import Classify, Shoal, wire
from shoal.control import client_app
from shoal_worker import services
from shoal_worker.health import health

WEDGED_WORKER = Path(__file__).with_name("wedged_worker.py")


def question(number: int, marker: str = "") -> Classify:
    return Classify(text=f"I was charged twice by billing, case {number}. {marker}", labels=("billing", "bug"))


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, valkey: str) -> CliRunner:
    monkeypatch.setenv("SHOAL_REDIS_URL", valkey)
    return CliRunner()


def asked(probe: CliRunner, *options: str) -> tuple[int, str]:
    done = probe.invoke(health, options)
    return done.exit_code, done.output


@contextmanager
def stopped(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def test_an_idle_worker_is_well_by_host_and_by_name_and_a_stopped_one_with_a_backlog_is_not(
    workers: Workers, shoal: Shoal, probe: CliRunner
) -> None:
    worker = workers.start()
    eventually(lambda: asked(probe)[0] == 0, what="the first report")
    command = [sys.executable, "-c", "from shoal.cli import main; main()", "health", "--name", "w0@%h"]
    done = subprocess.run(command, env=workers.environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("w0@")
    assert asked(probe, "--name", "somebody@%h")[0] == 1
    with stopped(worker):
        shoal.enqueue(question(1))
        eventually(lambda: asked(probe, "--live")[0] == 1, what="the silence noticed")
        code, said = asked(probe)
        assert (code, "no worker of that name" in said) == (1, True)
    eventually(lambda: asked(probe)[0] == 0, what="the woken one")


def test_a_worker_that_a_provider_told_to_wait_is_well_and_one_that_takes_nothing_is_not(
    workers: Workers, shoal: Shoal, sandbox: Sandbox, probe: CliRunner, client: "redis.Redis"
) -> None:
    patience = ("--patience-seconds", "2")
    workers.start()
    shoal.enqueue(question(0, "[[fault:platform_429:60]]"))
    eventually(lambda: client.zcard("shoal:parked:shoal") == 1, what="the refused one")
    for number in range(1, 30):
        shoal.enqueue(question(number))
    eventually(lambda: asked(probe)[0] == 0, what="the first report")
    with pytest.raises(AssertionError):
        eventually(lambda: asked(probe, *patience)[0] == 1, 4, "a pause taken for a stall")
    assert client.llen("shoal") > 0
    (pause,) = list(client.scan_iter("shoal:limit:*:pause"))
    with client_app(SecretStr(workers.valkey)) as app:
        app.control.cancel_consumer("shoal")
    client.delete(pause)
    eventually(lambda: "has taken nothing for" in asked(probe, *patience, "--live")[1], what="the stall")


def test_a_consumer_that_stands_still_is_not_live_though_its_loop_turns(workers: Workers, probe: CliRunner) -> None:
    workers.command = (str(WEDGED_WORKER),)
    workers.start()
    eventually(lambda: asked(probe)[0] == 0, what="the first report")
    with client_app(SecretStr(workers.valkey)) as app:
        app.control.broadcast("stand_still")
    eventually(lambda: "has not turned for" in asked(probe, "--live", "--patience-seconds", "2")[1], what="the wedge")
    assert asked(probe, "--live")[0] == 0


def test_without_its_queue_a_worker_is_live_and_not_ready(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "valkey"
    folder.mkdir()
    tree = services.Services(os.environ, tmp_path)
    port, probe = services.free_port(), CliRunner()
    try:
        url = services.start_valkey(tree, port, folder)
        monkeypatch.setenv("SHOAL_REDIS_URL", url)
        workers.start(redis_url=url)
        eventually(lambda: asked(probe)[0] == 0, what="the first report")
        tree.stop()
        assert (asked(probe)[0], asked(probe, "--live")[0]) == (1, 0)
        services.start_valkey(tree, port, folder)
        eventually(lambda: asked(probe)[0] == 0, what="the worker with its queue")
    finally:
        tree.stop()


def test_a_worker_tells_of_itself_on_a_server_that_is_full(
    workers: Workers, probe: CliRunner, client: "redis.Redis"
) -> None:
    workers.start()
    eventually(lambda: asked(probe)[0] == 0, what="the first report")
    client.config_set("maxmemory", "1")
    try:
        client.delete(wire.WORKERS)
        eventually(lambda: asked(probe)[0] == 0, what="a report on a full server")
    finally:
        client.config_set("maxmemory", "0")


def test_a_draining_worker_is_live_and_not_ready(
    workers: Workers, shoal: Shoal, sandbox: Sandbox, probe: CliRunner
) -> None:
    sandbox.scenario(latency_seconds=4.0)
    worker = workers.start()
    shoal.enqueue(question(0))
    eventually(lambda: sandbox.bill()["in_flight"] == 1, what="a running job")
    worker.terminate()
    eventually(lambda: "is stopping: 1 jobs run" in asked(probe)[1], 10, "the drain")
    assert (asked(probe)[0], asked(probe, "--live")[0]) == (1, 0)
    worker.wait(30)
