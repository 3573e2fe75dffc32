"""How many results a store takes, how soon one can be read, and how long it holds the event loop.

`python tests/benchmarks/stores.py` runs each store against a real server on this machine and prints a table:
results/s with 300 attempts at once (each begins a job and stores its answer), the time until another connection can
read an answer that was stored at low load, and the longest the loop was late while 1,000 a second were stored.
"""

import asyncio
import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import click
from pydantic import SecretStr
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from postgres_server import postgres_server
from shoal import ProducerSettings
from shoal.book import job_book
from shoal.jobs import ClassifyResult, Outcome, ScoredLabel, Usage
from shoal.ports import JobBook
from shoal.postgres import Database
from shoal_worker import services
from shoal_worker.ports import JobStore
from shoal_worker.stores.migrations import migrate
from shoal_worker.stores.postgres import PostgresStore
from shoal_worker.stores.redis import RedisStore

AT_ONCE = 300
#: What is promised of Postgres on two cores.
LEAST_RESULTS_PER_SECOND = 3_000
MOST_MS = 20
PACED = 1_000
TICK_SECONDS = 0.005


def outcome(job_id: str) -> Outcome[Any]:
    return Outcome[Any](
        job_id=job_id,
        kind="classify",
        result=ClassifyResult(labels=(ScoredLabel(name="billing", confidence=0.9),), confidence_source="stated"),
        usage=Usage(input_tokens=412, output_tokens=58, cost_usd=0.00015, calls=1),
        model="openai/gpt-5.4-nano",
        attempts=1,
        queue_seconds=0.1,
        run_seconds=0.3,
        finished_at=time.time(),
    )


class LagMonitor:
    """How late the loop comes back to a timer, at the worst."""

    def __init__(self) -> None:
        self.worst_seconds = 0.0
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            due = time.perf_counter() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.worst_seconds = max(self.worst_seconds, time.perf_counter() - due)

    def stop(self) -> None:
        self._task.cancel()


async def attempt(store: JobStore, job_id: str) -> None:
    await store.begin(job_id, "holder")
    await store.answer(outcome(job_id), "holder")


async def throughput(store: JobStore, name: str, results: int) -> float:
    """Results per second."""
    numbers = iter(range(results))

    async def attempts() -> None:
        for number in numbers:
            await attempt(store, f"{name}-{number}")

    began_at = time.perf_counter()
    await asyncio.gather(*(attempts() for _ in range(AT_ONCE)))
    return results / (time.perf_counter() - began_at)


async def lag_seconds(store: JobStore, seconds: int) -> float:
    """How late the loop was at the worst, with PACED attempts a second."""
    lag = LagMonitor()
    running = set()
    began_at = time.perf_counter()
    for number in range(PACED * seconds):
        await asyncio.sleep(began_at + number / PACED - time.perf_counter())
        running.add(task := asyncio.create_task(attempt(store, f"paced-{number}")))
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    lag.stop()
    return lag.worst_seconds


async def readable_seconds(store: JobStore, book: JobBook, times: int) -> float:
    """Median time from an answer's arrival until another connection has read it back."""
    took = []
    for number in range(times):
        given = outcome(f"alone-{number}")
        began_at = time.perf_counter()
        await store.answer(given, "")
        while await book.records([given.job_id]) == [None]:
            pass
        took.append(time.perf_counter() - began_at)
    return statistics.median(took)


async def measured(open_store: Callable[[], JobStore], settings: ProducerSettings, results: int) -> dict[str, float]:
    store, book = open_store(), job_book(settings)
    try:
        await throughput(store, "warm", 1_000)
        lag = await lag_seconds(store, 5)
        rate = await throughput(store, "hot", results)
        readable = await readable_seconds(store, book, 200)
    finally:
        await store.aclose()
        await book.aclose()
    return {
        "results_per_second": round(rate),
        "readable_ms": round(readable * 1000, 2),
        "worst_lag_ms": round(lag * 1000, 1),
    }


def run(work: Awaitable[dict[str, float]]) -> dict[str, float]:
    import uvloop

    async def main() -> dict[str, float]:
        return await work

    found: dict[str, float] = uvloop.run(main())
    return found


@click.command()
@click.option("--results", default=20_000, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(results: int, *, as_json: bool) -> None:
    times: Any = {"lease_seconds": 30.0, "keep_seconds": 86_400}
    found = {}
    with services.scratch_dir() as scratch, services.running(os.environ, Path(scratch)) as tree:
        url = services.start_valkey(tree, services.free_port(), Path(scratch))
        settings = ProducerSettings(redis_url=SecretStr(url))
        found["redis"] = run(
            measured(lambda: RedisStore(Redis.from_url(url), **times, rng=Random()), settings, results)
        )
        with postgres_server("fsync=on") as server:
            migrate(SecretStr(server.url))
            settings = ProducerSettings(redis_url=SecretStr(url), result_url=SecretStr(server.url))
            database = Database(SecretStr(server.url))
            found["postgres"] = run(measured(lambda: PostgresStore(database, **times, rng=Random()), settings, results))
    if as_json:
        click.echo(json.dumps(found))
    else:
        show(found)
    row = found["postgres"]
    kept = (
        row["results_per_second"] >= LEAST_RESULTS_PER_SECOND
        and max(row["readable_ms"], row["worst_lag_ms"]) <= MOST_MS
    )
    raise SystemExit(0 if kept else f"not as promised: {row}")


def show(found: dict[str, dict[str, float]]) -> None:
    table = Table("store", "results/s", "readable after", "loop late by at most", box=None)
    for name, row in found.items():
        table.add_row(name, f"{row['results_per_second']:,}", f"{row['readable_ms']} ms", f"{row['worst_lag_ms']} ms")
    Console().print(table)


if __name__ == "__main__":
    main()
