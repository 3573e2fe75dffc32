"""How well the worker finds a provider's limits: `PYTHONPATH=tests python tests/benchmarks/capacity.py`.

A provider that takes 50, then 10, then 80 calls a second, and refuses what is beyond, with more jobs waiting than can
be done; and a limit of tokens a minute that eight worker processes share. The provider is the sandbox: what it took and
refused is counted there. Ends with status 1 where the promise is missed.
"""

import os
import sys
import time
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from conftest import Sandbox
from shoal import Classify, ProducerSettings, Shoal
from shoal_worker import services

LATENCY_SECONDS = 0.3
CONCURRENCY = 100
CAPACITIES = (50.0, 10.0, 80.0)
LEAST_USED, MOST_REFUSED = 0.90, 0.02
TPM_PROCESSES, TPM = 8, 300_000
TPM_SECONDS = 150.0
LEAST_TPM_USED, MOST_TPM_USED = 0.95, 1.02


@dataclass
class Case:
    """Workers, their servers and a backlog."""

    tree: services.Services
    sandbox: Sandbox
    redis_url: str

    def scenario(self, capacity_per_second: float | None) -> None:
        self.sandbox.scenario(latency_seconds=LATENCY_SECONDS, capacity_per_second=capacity_per_second)

    def enqueue(self, jobs: int) -> None:
        with Shoal(ProducerSettings.load(redis_url=self.redis_url)) as shoal:
            for number in range(jobs):
                shoal.enqueue(Classify(text=f"I was charged twice, case {number}.", labels=("billing", "bug")))

    def start_workers(self, count: int, **settings: object) -> None:
        added = {"SHOAL_REDIS_URL": self.redis_url, "SHOAL_OPENROUTER_BASE_URL": self.sandbox.base_url}
        added |= {"SHOAL_OPENROUTER_API_KEY": "bench", "SHOAL_CONCURRENCY": str(CONCURRENCY)}
        added |= {f"SHOAL_{name.upper()}": str(value) for name, value in settings.items()}
        self.tree.environ = {**self.tree.environ, **added}
        for number in range(count):
            self.tree.start(f"w{number}", [sys.executable, "-m", "shoal_worker", "-n", f"w{number}@%h"])

    def first_call(self) -> float:
        """When it arrived, in Unix seconds."""
        while not (requests := self.sandbox.requests()):
            time.sleep(0.05)
        return float(requests[0]["arrived_at"])


def case(tree: services.Services, folder: Path) -> Case:
    folder.mkdir()
    url = services.start_valkey(tree, services.free_port(), folder)
    return Case(tree, Sandbox(services.start_sandbox(tree, LATENCY_SECONDS)), url)


@dataclass(frozen=True)
class Row:
    name: str
    shown: tuple[str, ...]
    is_kept: bool


def stepped(workers: int, phase_seconds: float, scratch: Path) -> Row:
    """The share of what the provider would have taken, and the share of calls that it refused."""
    with services.running(os.environ, scratch) as tree:
        run = case(tree, scratch / f"stepped{workers}")
        run.scenario(CAPACITIES[0])
        run.enqueue(int(sum(CAPACITIES) * phase_seconds * 1.5))
        run.start_workers(workers)
        started = run.first_call()
        for number, capacity in enumerate(CAPACITIES):
            run.scenario(capacity)
            time.sleep(max(0.0, started + (number + 1) * phase_seconds - time.time()))
        requests = [one for one in run.sandbox.requests() if one["arrived_at"] < started + 3 * phase_seconds]
    phases = [of_phase(requests, started + number * phase_seconds, phase_seconds) for number in range(3)]
    taken, refused = (sum(phase[place] for phase in phases) for place in (0, 1))
    used, share = taken / (sum(CAPACITIES) * phase_seconds), refused / max(1, taken + refused)
    shown = [f"{phase[0] / phase_seconds:.1f}/s, {phase[1]} refused" for phase in phases]
    name = f"{workers} worker process{'es' if workers > 1 else ''}"
    return Row(name, (*shown, f"{used:.1%}", f"{share:.2%}"), used >= LEAST_USED and share < MOST_REFUSED)


def of_phase(requests: list[dict[str, Any]], began: float, seconds: float) -> tuple[int, int]:
    """Calls taken and refused."""
    statuses = [one["status"] for one in requests if began <= one["arrived_at"] < began + seconds]
    refused = sum(status == 429 for status in statuses)
    return len(statuses) - refused, refused


def shared_tpm(seconds: float, scratch: Path) -> Row:
    """The most and the least that any minute saw, by the arrival of the calls."""
    with services.running(os.environ, scratch) as tree:
        run = case(tree, scratch / "tpm")
        run.scenario(None)
        run.enqueue(int(TPM / 120 * seconds / 60))
        run.start_workers(TPM_PROCESSES, tpm=TPM)
        started = run.first_call()
        time.sleep(seconds)
        requests = [one for one in run.sandbox.requests() if one["billed"] and one["arrived_at"] < started + seconds]
    calls = sorted((one["arrived_at"], one["usage"]["total_tokens"]) for one in requests)
    minutes = tokens_of_minutes(calls, started + seconds)
    # All processes must have started before the least is counted.
    most, least = max(minutes) / TPM, min(minutes[len(minutes) // 4 :]) / TPM
    shown = (f"{len(calls)} calls", "", "", f"{least:.1%} to {most:.1%} of it in any minute", "")
    return Row(f"{TPM_PROCESSES} processes, tpm {TPM}", shown, least >= LEAST_TPM_USED and most <= MOST_TPM_USED)


def tokens_of_minutes(calls: list[tuple[float, int]], ended: float) -> list[int]:
    """What each minute that begins with a call saw."""
    times, sums = [at for at, _ in calls], [0, *accumulate(tokens for _, tokens in calls)]
    return [sums[bisect_left(times, at + 60)] - sums[place] for place, at in enumerate(times) if at + 60 <= ended]


@click.command()
@click.option("--phase-seconds", default=30.0, show_default=True)
@click.option("--workers", multiple=True, type=int, default=[1, 4], show_default=True)
@click.option("--tpm/--no-tpm", "with_tpm", default=True)
def main(phase_seconds: float, workers: list[int], *, with_tpm: bool) -> None:
    rows = []
    with services.scratch_dir() as name:
        rows += [stepped(count, phase_seconds, Path(name)) for count in workers]
        if with_tpm:
            rows.append(shared_tpm(TPM_SECONDS, Path(name)))
    table = Table(title=f"model latency {LATENCY_SECONDS} s, concurrency {CONCURRENCY}, phases of {phase_seconds:g} s")
    for heading in ("", *(f"{capacity:g} calls/s" for capacity in CAPACITIES), "used", "refused"):
        table.add_column(heading)
    for row in rows:
        table.add_row(row.name, *row.shown, style=None if row.is_kept else "red")
    Console(width=140).print(table)
    sys.exit(0 if all(row.is_kept for row in rows) else 1)


if __name__ == "__main__":
    main()
