"""One cell of the fault matrix: its own store, provider, proxy, worker processes and producer."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from fault_proxy import Proxy
from matrix_stores import STORES, Store, StoreAway
from matrix_watch import Watch

from conftest import Sandbox, eventually
from shoal import Args, Job, JobFailed, Outcome, ProducerSettings, QueueUnavailable, ResultTimeout, Shoal
from shoal.jobs import JobMessage
from shoal.messages import message_of
from shoal_worker import services

TRY_AGAIN_SECONDS = 0.2
EARLY_WAITERS = 3
#: Jobs at once in a worker; it takes twice as many out of the queue.
CONCURRENCY = 20
HEARD_WITHIN_SECONDS = 10.0
DYING_WORKER = Path(__file__).with_name("dying_worker.py")


@dataclass(frozen=True)
class Lengths:
    """How long things last, and how many jobs there are."""

    jobs: int = 24
    job_every_seconds: float = 0.1
    latency_seconds: float = 0.5
    deadline_seconds: float = 3.0
    #: A provider that asks for pauses or is not there.
    storm_seconds: float = 3.0
    #: Replies that get lost: a longer time would use up the attempts of a job.
    loss_seconds: float = 2.5
    whitespace_seconds: float = 2.5
    redis_frozen_seconds: float = 6.0
    visibility_seconds: float = 4.0
    lease_seconds: float = 2.0


@dataclass
class Worker:
    """One worker process. `name` is its node's."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def is_ready(self) -> bool:
        assert self.alive, self.log.read_text(errors="replace")
        return b" ready." in self.log.read_bytes()

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Producer:
    """Enqueues jobs at a steady pace on a thread of its own; what the queue does not take it offers again."""

    shoal: Shoal
    watch: Watch
    work: Callable[[object], Args[Any]]
    #: When the enqueueing began that the queue took, by job id.
    offered_at: dict[str, float] = field(default_factory=dict)
    sent: int = 0

    def start(self, jobs: int, job_every_seconds: float) -> None:
        self._thread = threading.Thread(target=self._run, args=(jobs, job_every_seconds), name="producer", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the producer still has jobs that the queue does not take"

    def _run(self, jobs: int, job_every_seconds: float) -> None:
        for number in range(jobs):
            self.enqueue(number)
            self.sent += 1
            time.sleep(job_every_seconds)

    def enqueue(self, number: object) -> str:
        [job_id] = self._offer(lambda: [self.shoal.enqueue(self.work(number))])
        return job_id

    def enqueue_many(self, numbers: Iterable[object]) -> None:
        """Many jobs in a message."""
        works = [self.work(number) for number in numbers]
        self._offer(lambda: self.shoal.enqueue_many(works))

    def _offer(self, enqueue: Callable[[], list[Job[Any]]]) -> list[str]:
        while True:
            now = time.time()
            try:
                ids = [job.id for job in enqueue()]
            except QueueUnavailable:
                time.sleep(TRY_AGAIN_SECONDS)
                continue
            self.offered_at |= dict.fromkeys(ids, now)
            self.watch.jobs.update(ids)
            return ids

    def latest(self, most: int) -> list[JobMessage]:
        """The last jobs that were sent, as new messages."""
        numbers = range(max(0, self.sent - most), self.sent)
        return [message_of(self.work(number), {}, self.shoal.settings, time.time()) for number in numbers]


class Cell:
    """What a fault may strike. Everything ends with `stop`."""

    def __init__(self, work: Callable[[object], Args[Any]], store: str, lengths: Lengths, folder: Path) -> None:
        self.lengths = lengths
        self.folder = folder
        self.struck_at = self.lifted_at = 0.0
        #: When the store was emptied: what was offered before may be gone.
        self.wiped_at = 0.0
        self.workers: list[Worker] = []
        self._numbers = count()
        self._tree = services.Services(os.environ, folder)
        self._waiters = ThreadPoolExecutor(EARLY_WAITERS, "waiter")
        self.store: Store = STORES[store](folder)
        self.sandbox = Sandbox(services.start_sandbox(self._tree, lengths.latency_seconds))
        self.proxy = Proxy.start(int(self.sandbox.base_url.rsplit(":", 1)[1].split("/")[0]))
        self.watch = Watch(self.store)
        self.watch.start()
        self.shoal = Shoal(ProducerSettings.model_validate(self.store.settings()))
        self.producer = Producer(self.shoal, self.watch, work)

    def start_workers(self, number: int, first: Mapping[str, str]) -> None:
        """All at once. `first` are environment variables of the first one."""
        self.workers = [self.start_worker({} if place else first) for place in range(number)]
        for worker in self.workers:
            eventually(worker.is_ready, 60, "a ready worker")

    def start_worker(self, extra: Mapping[str, str]) -> Worker:
        """One with some environment variables of its own; it need not be ready yet."""
        lengths, name = self.lengths, f"w{next(self._numbers)}"
        settings: dict[str, object] = {
            **self.store.settings(),
            "openrouter_base_url": f"http://127.0.0.1:{self.proxy.port}/api/v1",
            "openrouter_api_key": "test-key",
            "concurrency": CONCURRENCY,
            "model_deadline_seconds": lengths.deadline_seconds,
            "job_time_limit_seconds": 40,
            "shutdown_grace_seconds": 60,
            "lease_seconds": lengths.lease_seconds,
            "visibility_timeout_seconds": lengths.visibility_seconds,
        }
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")},
            **{f"SHOAL_{setting.upper()}": str(value) for setting, value in settings.items()},
            **extra,
        }
        program = [str(DYING_WORKER)] if "SHOAL_TEST_DIES_AT" in extra else ["-m", "shoal_worker"]
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            command = [sys.executable, *program, "-n", f"{name}@%h"]
            process = subprocess.Popen(command, env=environ, stdout=output, stderr=output, start_new_session=True)
        return Worker(name, process, log)

    def stop(self) -> None:
        for worker in self.workers:
            worker.end()
        self.watch.stop()
        self._waiters.shutdown(wait=False, cancel_futures=True)
        self.shoal.close()
        self.proxy.stop()
        for service in self._tree.started:
            service.process.kill()
        self._tree.stop()
        self.store.stop()

    # --- the course of a cell -----------------------------------------------------------------------------------

    def await_calls(self, at_least: int = 3) -> None:
        """Until so many calls are at the provider."""
        eventually(lambda: self.sandbox.bill()["in_flight"] >= at_least, what="calls in flight")

    def wait_early(self) -> list["Future[Outcome[Any]]"]:
        """Have some wait for answers from before the fault on, as a producer does."""
        ids = list(self.producer.offered_at)[:EARLY_WAITERS]
        return [self._waiters.submit(self.shoal.outcome, job_id, 120) for job_id in ids]

    def strike(self, blow: Callable[["Cell"], None]) -> None:
        """Strike, and note from when to when the fault was there, unless the blow knows better."""
        self.struck_at = time.time()
        blow(self)
        self.lifted_at = self.lifted_at or time.time()

    def unheard(self, early: list["Future[Outcome[Any]]"], job_ids: Iterable[str]) -> int:
        """How many answers that are stored do not reach who waits for them, from before the fault or now."""
        missing = 0
        for job_id in job_ids:
            try:
                self.shoal.outcome(job_id, HEARD_WITHIN_SECONDS)
            except JobFailed:
                continue
            except ResultTimeout:
                missing += 1
        done, _ = wait(early, HEARD_WITHIN_SECONDS)
        return missing + (0 if self.wiped_at else len(early) - len(done))

    def unanswered(self, job_ids: Iterable[str]) -> set[str]:
        ids = set(job_ids)
        return ids - self.store.answers(ids).keys()

    def await_answers(self, job_ids: Iterable[str], seconds: float) -> set[str]:
        """Wait until all have ended; those that have not are given back."""
        ids, ends_at = set(job_ids), time.monotonic() + seconds
        while time.monotonic() < ends_at:
            with contextlib.suppress(StoreAway):
                ids = self.unanswered(ids)
            if not ids:
                break
            time.sleep(0.05)
        return ids

    def await_settled(self, seconds: float) -> int:
        """Wait until no message waits, is parked or is unacknowledged; how many still are."""
        ends_at, left = time.monotonic() + seconds, -1
        while left and time.monotonic() < ends_at:
            with contextlib.suppress(StoreAway):
                left = self.store.unsettled()
            time.sleep(0.05)
        return left

    def idle_workers(self, seconds: float) -> list[str]:
        """The living workers that do not answer a fresh job while all others are stopped."""
        idle, living = [], [worker for worker in self.workers if worker.alive]
        for worker in living:
            others = [other for other in living if other is not worker]
            for other in others:
                other.send(signal.SIGSTOP)
            try:
                job_id = self.producer.enqueue(f"for {worker.name}")
                if self.await_answers([job_id], seconds):
                    idle.append(worker.name)
            finally:
                for other in others:
                    other.send(signal.SIGCONT)
        return idle

    def waited_seconds(self, job_id: str) -> float:
        """How long an answered job waited, counted from the end of the fault or, when it came later, its enqueueing."""
        return self.watch.seen_at[job_id] - max(self.lifted_at, self.producer.offered_at[job_id])

    def calls_in_flight(self) -> int:
        """How many calls were at the provider at any time of the fault."""
        return sum(
            call["arrived_at"] <= self.lifted_at and (call["finished_at"] or self.lifted_at) >= self.struck_at
            for call in self.sandbox.requests()
        )
