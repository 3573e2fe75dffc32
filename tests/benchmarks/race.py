"""One run: a fresh Valkey and model, a backlog, a worker; what it does between its warm-up and its last jobs.

The window is the same for all. It opens one second after the first answer and closes with the arrival of the last
question at the model, after which slots run empty. Rates and CPU are counted by the model server and the kernel, so
measuring costs the measured nothing. Afterwards all answers are read from where they are stored and checked.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import redis

from contestants import PEERS, Contestant
from postgres_server import Postgres
from shoal_worker import services

WARM_SECONDS = 1.0
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 240.0
ENQUEUE_SECONDS = 3_600.0


class RunFailed(Exception):
    """A contestant did not do what it was asked for."""


@dataclass
class Stage:
    """What a run plays on: the servers, and the environment that points a contestant at them."""

    tree: services.Services
    contestant: Contestant
    redis_url: str
    model_url: str
    at_once: int
    folder: Path
    workers: list[psutil.Process] = field(default_factory=list)

    def state(self) -> dict[str, int]:
        with urlopen(self.model_url.replace("/api/v1", "/bench/state")) as reply:
            found: dict[str, int] = json.loads(reply.read())
            return found

    def program(self, *words: object) -> dict[str, Any]:
        """Run one of the contestant's verbs; what it prints."""
        done = subprocess.run(
            self.contestant.verb(*words),
            env=dict(self.tree.environ),
            capture_output=True,
            text=True,
            timeout=ENQUEUE_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RunFailed(f"{self.contestant.title}: {words[0]} failed\n{done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def start_worker(self) -> None:
        number = len(self.workers)
        command = self.contestant.worker_command(self.at_once)
        if self.contestant.is_shoal or "celery" in command:
            command += ["-n", f"bench{number}@%h"]
        service = self.tree.start(f"worker{number}", command, grace_seconds=2)
        self.workers.append(psutil.Process(service.process.pid))

    def pid(self, name: str) -> psutil.Process:
        service = next(one for one in self.tree.started if one.name == name)
        return psutil.Process(service.process.pid)

    def wait(self, what: str, holds: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        ends_at = time.monotonic() + PATIENCE_SECONDS
        while not holds(found := self.state()):
            if time.monotonic() > ends_at or self.tree.ended():
                log = (self.folder / "worker0.log").read_text(errors="replace")[-2000:]
                raise RunFailed(f"{self.contestant.title}: {what} did not come; the model saw {found}\n{log}")
            time.sleep(POLL_SECONDS)
        return found


@contextlib.contextmanager
def stage(
    contestant: Contestant,
    at_once: int,
    *,
    latency_seconds: float,
    jobs: int = 0,
    database: Postgres | None = None,
) -> Iterator[Stage]:
    """A Valkey that keeps its data, and the model; both new."""
    with services.scratch_dir() as name, services.running(os.environ, Path(name)) as tree:
        redis_url = services.start_valkey(tree, services.free_port(), Path(name))
        port = services.free_port()
        model = str(PEERS.parent / "model_server.py")
        tree.start("model", [sys.executable, model, f"--port={port}", f"--latency-seconds={latency_seconds}"])
        tree.await_condition("model", lambda: not services.port_is_free(port))
        model_url = f"http://127.0.0.1:{port}/api/v1"
        tree.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")},
            "PYTHONPATH": str(PEERS),
            "BENCH_REDIS_URL": redis_url,
            "BENCH_MODEL_URL": model_url,
            "BENCH_AT_ONCE": str(at_once),
            "BENCH_CLIENT": contestant.client,
            "BENCH_JOBS": str(jobs),
            **dict(contestant.environ),
            "SHOAL_REDIS_URL": redis_url,
            "SHOAL_OPENROUTER_BASE_URL": model_url,
            "SHOAL_OPENROUTER_API_KEY": "bench",
            "SHOAL_CONCURRENCY": str(at_once),
            "SHOAL_LOG_LEVEL": "WARNING",
            **({"SHOAL_RESULT_URL": database.url} if database else {}),
        }
        yield Stage(tree, contestant, redis_url, model_url, at_once, Path(name))


@dataclass(frozen=True)
class Moment:
    at: float
    answered: int
    worker_cpu: float
    model_cpu: float
    valkey_cpu: float


class Watch:
    """The clocks of the processes of one run. Children are looked up once, when all slots are warm."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._workers = [one for worker in stage.workers for one in (worker, *worker.children(recursive=True))]
        self._model, self._valkey = stage.pid("model"), stage.pid("valkey")

    def moment(self, answered: int) -> Moment:
        cpu = sum(_cpu_seconds(worker) for worker in self._workers)
        return Moment(time.monotonic(), answered, cpu, _cpu_seconds(self._model), _cpu_seconds(self._valkey))

    def memory_mb(self) -> float:
        return sum(worker.memory_info().rss for worker in self._workers) / 1e6


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def race(
    contestant: Contestant,
    at_once: int,
    *,
    latency_seconds: float,
    jobs: int,
    processes: int = 1,
    database: Postgres | None = None,
    cut_after_seconds: float | None = None,
) -> dict[str, float]:
    """One run's figures. `cut_after_seconds` ends it with jobs left: then the first 1,000 answers are checked."""
    with stage(contestant, at_once, latency_seconds=latency_seconds, jobs=jobs, database=database) as it:
        before = _used_bytes(it.redis_url)
        enqueued = it.program("enqueue", 0, jobs)["seconds"]
        waiting_bytes = (_used_bytes(it.redis_url) - before) / jobs
        for _ in range(processes):
            it.start_worker()
        opened, closed, memory_mb = _window(it, jobs, cut_after_seconds)
        if cut_after_seconds is None:
            it.wait("the last answer", lambda state: state["answered"] >= jobs)
        repeated = it.state()["repeated"]
        done_bytes = (_used_bytes(it.redis_url) - before) / jobs
        checked = it.program("answers", jobs if cut_after_seconds is None else min(jobs, 1_000))
        _check(contestant, checked, jobs if cut_after_seconds is None else 1_000, exactly=cut_after_seconds is None)
        seconds, answered = closed.at - opened.at, closed.answered - opened.answered
        return {
            "jobs_per_second": round(answered / seconds, 1),
            "worker_cpu_ms_per_job": round((closed.worker_cpu - opened.worker_cpu) / answered * 1000, 3),
            "model_cpu_ms_per_job": round((closed.model_cpu - opened.model_cpu) / answered * 1000, 3),
            "valkey_cpu_ms_per_job": round((closed.valkey_cpu - opened.valkey_cpu) / answered * 1000, 3),
            "slots_in_use": round(answered / seconds * latency_seconds / (at_once * processes), 3),
            "worker_memory_mb": round(memory_mb, 1),
            "enqueued_per_second": round(jobs / enqueued) if enqueued > 1e-3 else 0,
            "redis_bytes_per_waiting_job": round(waiting_bytes),
            "redis_bytes_per_done_job": round(done_bytes),
            "window_seconds": round(seconds, 2),
            "jobs": jobs,
            "asked_twice": repeated,
        }


def _window(it: Stage, jobs: int, cut_after_seconds: float | None) -> tuple[Moment, Moment, float]:
    it.wait("the first answer", lambda state: state["answered"] > 0)
    time.sleep(WARM_SECONDS)
    watch = Watch(it)
    opened = closed = watch.moment(it.state()["answered"])
    while (state := it.state())["arrived"] < jobs:
        closed = watch.moment(state["answered"])
        if cut_after_seconds is not None and closed.at - opened.at > cut_after_seconds:
            break
        if closed.at - opened.at > PATIENCE_SECONDS or it.tree.ended():
            raise RunFailed(f"{it.contestant.title}: {jobs} questions did not come; the model saw {state}")
        time.sleep(POLL_SECONDS)
    if closed.answered == opened.answered:
        raise RunFailed(f"{it.contestant.title}: {jobs} jobs are over before the window opens")
    return opened, closed, watch.memory_mb()


def _check(contestant: Contestant, checked: dict[str, Any], jobs: int, *, exactly: bool) -> None:
    kept = checked["right"] == checked["stored"] == checked["distinct"]
    if not kept or (checked["stored"] != jobs if exactly else checked["stored"] < jobs):
        raise RunFailed(f"{contestant.title}: of {jobs} answers, {checked}")


def _used_bytes(redis_url: str) -> int:
    with redis.Redis.from_url(redis_url) as client:
        memory: Any = client.info("memory")
        return int(memory["used_memory"])
