"""How many workers, Redis servers and gigabytes a rate of jobs needs; a simulation of it, to see whether they wait.

`PYTHONPATH=tests python tests/benchmarks/sizing.py` takes what a job costs from `results.json`. The plan is arithmetic:
cores by CPU, slots by Little's law, servers by what their one thread bears. The simulation is one cell of the plan:
jobs arrive by chance, their model takes by chance longer or shorter, and each costs its worker's core and its Redis
time, one after the other. What it shows is how long jobs wait beyond their model.
"""

import heapq
import json
from collections import deque
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from random import Random
from statistics import quantiles

import click
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results.json"
RATES = (10, 1_000, 100_000)
#: Nobody plans for a full core: what is left takes bursts, upkeep and a neighbour that died.
CORE_IN_USE, REDIS_IN_USE = 0.7, 0.5
#: Jobs at once in one process.
SLOTS = 600
SIMULATED_SECONDS = 30.0
#: The spread of a model's latency around its median: one in twenty takes more than twice as long.
LATENCY_SIGMA = 0.45


@dataclass(frozen=True, slots=True)
class Cost:
    """What one job takes: milliseconds of a worker's core and of Redis's thread, bytes while it waits and when done."""

    worker_ms: float
    redis_ms: float
    waiting_bytes: float
    done_bytes: float


@dataclass(frozen=True, slots=True)
class Plan:
    """For a rate: `cells` of one Redis and `processes` each."""

    rate: float
    cells: int
    processes: int
    result_gigabytes: float
    hour_of_backlog_gigabytes: float


def planned(rate: float, cost: Cost, latency_seconds: float, kept_seconds: float) -> Plan:
    """Cores, slots and servers for so many jobs a second."""
    cells = max(1, ceil(rate * cost.redis_ms / 1000 / REDIS_IN_USE))
    by_core = rate / cells * cost.worker_ms / 1000 / CORE_IN_USE
    by_slots = rate / cells * latency_seconds / SLOTS / CORE_IN_USE
    return Plan(
        rate=rate,
        cells=cells,
        processes=max(1, ceil(max(by_core, by_slots))),
        result_gigabytes=rate * kept_seconds * cost.done_bytes / 1e9,
        hour_of_backlog_gigabytes=rate * 3600 * cost.waiting_bytes / 1e9,
    )


@dataclass(slots=True)
class Server:
    """Something that does one thing after the other."""

    free_at: float = 0.0
    busy_seconds: float = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """When it is done with it."""
        self.free_at = max(self.free_at, now) + seconds
        self.busy_seconds += seconds
        return self.free_at


def waits(plan: Plan, cost: Cost, latency_seconds: float, rng: Random) -> tuple[list[float], float, float]:
    """Seconds that jobs of one cell waited beyond their model; how busy a worker's core and the Redis were."""
    rate = plan.rate / plan.cells
    redis, workers = Server(), [Server() for _ in range(plan.processes)]
    free = deque(range(plan.processes * SLOTS))
    queue: deque[float] = deque()
    events: list[tuple[float, int, int, float]] = []
    now, waited = 0.0, list[float]()

    def begin(slot: int, arrived: float) -> None:
        fetched = redis.serve(now, cost.redis_ms / 1000)
        ready = workers[slot % plan.processes].serve(fetched, cost.worker_ms / 1000)
        latency = latency_seconds * rng.lognormvariate(0, LATENCY_SIGMA)
        waited.append(ready - arrived)
        heapq.heappush(events, (ready + latency, 1, slot, 0.0))

    heapq.heappush(events, (rng.expovariate(rate), 0, 0, 0.0))
    while events:
        now, is_end, slot, _ = heapq.heappop(events)
        if is_end:
            free.append(slot)
        elif now < SIMULATED_SECONDS:
            queue.append(now)
            heapq.heappush(events, (now + rng.expovariate(rate), 0, 0, 0.0))
        while free and queue:
            begin(free.popleft(), queue.popleft())
    core = sum(worker.busy_seconds for worker in workers) / len(workers) / SIMULATED_SECONDS
    return waited, core, redis.busy_seconds / SIMULATED_SECONDS


def costs() -> dict[str, Cost]:
    """By lane, from the last whole benchmark."""
    found = json.loads(RESULTS.read_text())
    rows = {lane: found["throughput"][f"shoal_{lane}"]["600"] for lane in ("bulk", "single")}
    return {
        lane: Cost(
            worker_ms=row["worker_cpu_ms_per_job"],
            redis_ms=row["valkey_cpu_ms_per_job"],
            waiting_bytes=row["redis_bytes_per_waiting_job"],
            done_bytes=row["redis_bytes_per_done_job"],
        )
        for lane, row in rows.items()
    }


@click.command()
@click.option("--latency-seconds", default=1.0, show_default=True, help="The model's median.")
@click.option("--kept-seconds", default=86_400.0, show_default=True, help="How long results stay.")
def main(latency_seconds: float, kept_seconds: float) -> None:
    """Show what 10, 1,000 and 100,000 jobs a second need."""
    table = Table(box=None)
    for heading in ("jobs/s", "lane", "Redis servers", "worker processes", "results, GB", "an hour's backlog, GB"):
        table.add_column(heading, justify="left" if heading == "lane" else "right")
    for heading in ("wait p50, ms", "p99, ms", "core in use", "Redis in use"):
        table.add_column(heading, justify="right")
    for rate in RATES:
        for lane, cost in costs().items():
            plan = planned(rate, cost, latency_seconds, kept_seconds)
            waited, core, redis = waits(plan, cost, latency_seconds, Random(1))
            cuts = quantiles(waited, n=100)
            sizes = (f"{plan.result_gigabytes:,.1f}", f"{plan.hour_of_backlog_gigabytes:,.1f}")
            seen = (f"{cuts[49] * 1000:.1f}", f"{cuts[98] * 1000:.1f}", f"{core:.0%}", f"{redis:.0%}")
            servers = (f"{plan.cells}", f"{plan.cells * plan.processes}")
            table.add_row(f"{rate:,}", lane, *servers, *sizes, *seen)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
