"""Jobs flow for a long time, and every so often a random fault strikes: what is lost, doubled, paid, and leaked?

`python tests/acceptance/soak.py --jobs 100000 --every-seconds 20 --minutes 30` ends with one line of JSON. Workers
that a fault kills are started anew, as a supervisor would; the last worker is never killed, frozen or stepped, so
that its memory can be followed from end to end.
"""

import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import psutil
from matrix_cell import Cell, Lengths
from matrix_faults import MENU, Fault
from matrix_jobs import JOBS
from matrix_stores import STORES

from conftest import eventually
from shoal import Args
from shoal.jobs import DeadLetter

#: Whatever happens, no more jobs than this are on their way.
WINDOW = 500
#: What a fault may leave behind until the last job has its answer, and what a fresh job may take.
SETTLE_SECONDS = 60.0
RSS_EVERY_SECONDS = 2.0
#: Every so often so many jobs go in one message, as many as have gone alone since the last time.
PACK = 5
IDS_AT_ONCE = 1_000
#: Flat: the last third holds at most this share more than the second. The first is for warming up.
GROWTH_ALLOWED = 0.10
KINDS = list(JOBS)
#: All that a store with its data can be asked to survive again and again.
ONCE_ONLY = {"redis restarted empty", "postgres has no connection"}
SOAK_MENU = {name: fault for name, fault in MENU.items() if name not in ONCE_ONLY and not fault.missing()}


def mixed(number: object) -> Args[Any]:
    """All kinds in turn."""
    return JOBS[KINDS[number % len(KINDS) if isinstance(number, int) else 0]](number)


@dataclass
class Strike:
    """One fault that was played, in Unix seconds."""

    fault: str
    struck_at: float
    lifted_at: float


@dataclass(frozen=True)
class Result:
    """The one line at the end. Memory is the spared worker's, the median of each third, in MB."""

    store: str
    seconds: float
    jobs: int
    answered: int
    dead: int
    causes: list[str]
    lost: int
    doubled: int
    paid_calls: int
    in_flight: int
    maybe_billed: int
    uncounted: int
    faults: dict[str, int]
    longest_wait_seconds: float
    workers_restarted: int
    idle_workers: list[str]
    unsettled: int
    rss_mb: list[float]

    @property
    def wrong(self) -> list[str]:
        broken = {
            "jobs were lost": self.lost,
            "jobs were given up": self.dead,
            "jobs were answered twice": self.doubled,
            "more was paid than jobs and calls in flight at a fault": self.paid_calls > self.jobs + self.in_flight,
            "calls of the bill are not in the ledger, or not on the bill": self.uncounted,
            "workers no longer consume": self.idle_workers,
            "messages are left": self.unsettled,
            "memory grows": self.rss_mb[2] > self.rss_mb[1] * (1 + GROWTH_ALLOWED),
        }
        return [words for words, is_so in broken.items() if is_so]


@dataclass
class Soak:
    cell: Cell
    rng: random.Random
    strikes: list[Strike] = field(default_factory=list)
    restarted: int = 0
    rss: list[tuple[float, float]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def produce(self, jobs: int, seconds: float) -> None:
        """Spread the jobs evenly over the time, with a bounded number of them on their way."""
        producer, watch, began_at = self.cell.producer, self.cell.watch, time.monotonic()
        while producer.sent < jobs:
            watch.jobs -= watch.seen_at.keys() & watch.jobs
            due = min(jobs, int(jobs * (time.monotonic() - began_at) / seconds) + 1)
            while producer.sent < due and len(watch.jobs) < WINDOW:
                producer.enqueue(producer.sent)
                producer.sent += 1
                if producer.sent % (2 * PACK) == 0:
                    producer.enqueue_many(range(producer.sent, producer.sent + PACK))
                    producer.sent += PACK
            time.sleep(0.01)

    def sample(self) -> None:
        spared = psutil.Process(self.cell.workers[-1].process.pid)
        while not self.over.wait(RSS_EVERY_SECONDS):
            self.rss.append((time.time(), spared.memory_info().rss / 1e6))

    def strike_until_done(self, producing: threading.Thread, every_seconds: float) -> None:
        while producing.is_alive():
            producing.join(every_seconds)
            if producing.is_alive():
                store = self.cell.store.name
                self.strike(self.rng.choice([fault for fault in SOAK_MENU.values() if store in fault.stores]))

    def strike(self, fault: Fault) -> None:
        cell = self.cell
        mortal = cell.workers[:-1]
        self.rng.shuffle(mortal)
        cell.workers[:-1] = mortal
        (cell.folder / "death").unlink(missing_ok=True)
        if first := fault.first(cell.folder):
            self.replace(0, first)
        cell.lifted_at = 0.0
        cell.strike(fault.strike)
        self.strikes.append(Strike(fault.name, cell.struck_at, cell.lifted_at))
        click.echo(
            f"{fault.name}: {cell.lifted_at - cell.struck_at:.1f} s, {len(cell.watch.jobs)} on their way", err=True
        )
        for place, worker in enumerate(mortal):
            if not worker.alive or first:
                self.replace(place, {})

    def replace(self, place: int, extra: dict[str, str]) -> None:
        """End a worker, if it still lives, and start another one."""
        self.cell.workers[place].end()
        self.cell.workers[place] = worker = self.cell.start_worker(extra)
        eventually(worker.is_ready, 60, "a ready worker")
        self.restarted += 1

    def result(self, seconds: float) -> Result:
        """Wait for the rest, look at every single job, and add up."""
        cell = self.cell
        ids = list(cell.producer.offered_at)
        pages = [ids[start : start + IDS_AT_ONCE] for start in range(0, len(ids), IDS_AT_ONCE)]
        unanswered = set().union(*(cell.await_answers(page, SETTLE_SECONDS) for page in pages))
        calls, paid_calls = cell.sandbox.requests(), cell.sandbox.bill()["billed_calls"]
        idle, unsettled = cell.idle_workers(SETTLE_SECONDS), cell.await_settled(SETTLE_SECONDS)
        cell.watch.stop()
        for page in pages:
            cell.watch.compare(page)
        letters, spent, billed = cell.store.letters(), cell.store.spent(), cell.sandbox.bill()["billed_calls"]
        dead = letters.keys()
        return Result(
            store=cell.store.name,
            seconds=round(seconds, 1),
            jobs=len(ids),
            answered=len(ids) - len(unanswered | dead),
            dead=len(dead),
            causes=[self.told(letter) for letter in letters.values()],
            lost=len(unanswered - dead),
            doubled=len(cell.watch.doubled),
            paid_calls=paid_calls,
            in_flight=sum(any(touched(call, strike) for strike in self.strikes) for call in calls),
            maybe_billed=spent.maybe_billed,
            uncounted=max(0, billed - spent.billed - spent.maybe_billed, spent.billed - billed),
            faults=dict(Counter(strike.fault for strike in self.strikes)),
            longest_wait_seconds=round(max(map(self.waited_seconds, ids)), 1),
            workers_restarted=self.restarted,
            idle_workers=idle,
            unsettled=unsettled,
            rss_mb=thirds([rss for _, rss in self.rss]),
        )

    def told(self, letter: DeadLetter) -> str:
        """Why a job was given up: how each of its attempts ended, and in which faults."""
        ends = [f"{attempt.cause} ({self.faults_at(attempt.began_at, attempt.ended_at)})" for attempt in letter.history]
        return f"{letter.kind} {letter.cause}, {letter.reason}: {', '.join(ends)}"

    def faults_at(self, began_at: float, ended_at: float) -> str:
        met = [strike.fault for strike in self.strikes if strike.struck_at < ended_at and strike.lifted_at > began_at]
        return ", ".join(met) or "no fault"

    def waited_seconds(self, job_id: str) -> float:
        """How long a job was without an answer while no fault was there, counted from the last one that it met."""
        seen_at, offered_at = self.cell.watch.seen_at.get(job_id, time.time()), self.cell.producer.offered_at[job_id]
        met = [
            strike.lifted_at for strike in self.strikes if strike.struck_at < seen_at and strike.lifted_at > offered_at
        ]
        return seen_at - min(seen_at, max([offered_at, *met]))


def touched(call: dict[str, Any], strike: Strike) -> bool:
    """Whether a call was at the provider at any time of a fault."""
    return bool(
        call["arrived_at"] <= strike.lifted_at and (call["finished_at"] or strike.lifted_at) >= strike.struck_at
    )


def thirds(samples: list[float]) -> list[float]:
    """The median of each third."""
    size = max(1, len(samples) // 3)
    return [round(median(samples[start : start + size] or [0.0]), 1) for start in (0, size, 2 * size)]


def soak(store: str, jobs: int, every_seconds: float, seconds: float, folder: Path, seed: int = 1) -> Result:
    """Run one and add up."""
    cell = Cell(mixed, store, Lengths(visibility_seconds=8.0, lease_seconds=4.0), folder)
    try:
        cell.start_workers(2, {})
        running, began_at = Soak(cell, random.Random(seed)), time.monotonic()
        producing = threading.Thread(target=running.produce, args=(jobs, seconds), name="producer", daemon=True)
        sampling = threading.Thread(target=running.sample, name="memory", daemon=True)
        producing.start()
        sampling.start()
        running.strike_until_done(producing, every_seconds)
        running.over.set()
        sampling.join()
        return running.result(time.monotonic() - began_at)
    finally:
        cell.stop()


@click.command()
@click.option("--jobs", default=100_000, show_default=True)
@click.option("--every-seconds", default=20.0, show_default=True)
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--store", type=click.Choice(list(STORES)), default="redis", show_default=True)
@click.option("--seed", default=1, show_default=True, help="Which faults, in which order.")
def main(jobs: int, every_seconds: float, minutes: float, store: str, seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
        result = soak(store, jobs, every_seconds, minutes * 60, Path(folder), seed)
    click.echo(json.dumps(asdict(result)))
    for words in result.wrong:
        click.echo(words, err=True)
    sys.exit(1 if result.wrong else 0)


if __name__ == "__main__":
    main()
