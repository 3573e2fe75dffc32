"""What others cost whoever waits: an interactive job beside 100,000 bulk ones, a small tenant beside a large one.

`PYTHONPATH=tests python tests/benchmarks/lanes.py` fails when an interactive job takes more than twice as long as on an
idle system, or when the small tenant's jobs wait more than two service times before their own.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

import click
from rich.console import Console
from rich.table import Table

from shoal import Classify, ProducerSettings, Shoal
from shoal_worker import services

LATENCY_SECONDS = 0.3
AT_ONCE = 300
SAMPLES = 40
#: Numbers of questions that no other part asks.
OWN = 10_000_000


def question(number: int) -> Classify:
    return Classify(text=f"I was charged twice, case {number}.", labels=("billing", "bug", "praise"))


@contextmanager
def system(scratch: Path) -> Iterator[str]:
    """A Valkey, the sandbox and one worker; the queue's URL."""
    scratch.mkdir()
    with services.running(os.environ, scratch) as tree:
        url = services.start_valkey(tree, services.free_port(), scratch)
        model = services.start_sandbox(tree, LATENCY_SECONDS)
        tree.environ = {
            **tree.environ,
            "SHOAL_REDIS_URL": url,
            "SHOAL_OPENROUTER_BASE_URL": model,
            "SHOAL_OPENROUTER_API_KEY": "bench",
            "SHOAL_CONCURRENCY": str(AT_ONCE),
            "SHOAL_LOG_LEVEL": "WARNING",
        }
        tree.start("worker", [sys.executable, "-m", "shoal_worker"])
        yield url


def one_by_one(shoal: Shoal, first: int) -> list[float]:
    """Seconds from enqueueing to the answer."""
    found = []
    for number in range(first, first + SAMPLES):
        began_at = time.monotonic()
        shoal.enqueue(question(number)).result(120)
        found.append(time.monotonic() - began_at)
    return found


def beside_bulk(scratch: Path, bulk: int) -> tuple[list[float], list[float]]:
    """Interactive jobs on the idle system, and while bulk jobs wait."""
    with system(scratch) as url, Shoal(ProducerSettings.load(redis_url=url)) as shoal:
        shoal.enqueue(question(OWN)).result(60)
        idle = one_by_one(shoal, OWN + 1_000)
        many = shoal.enqueue_many(question(number) for number in range(bulk))
        many[0].result(60)
        busy = one_by_one(shoal, OWN + 2_000)
        assert shoal.status(many[-1].id) == "available", "the bulk jobs did not last: give more of them"
        return idle, busy


def beside_a_large_tenant(scratch: Path, large: int, small: int = 10) -> list[float]:
    """A small tenant's waits, all its jobs enqueued together behind the large one's."""
    with system(scratch) as url, Shoal(ProducerSettings.load(redis_url=url, tenant="large")) as other:
        many = other.enqueue_many(question(number) for number in range(large))
        many[0].result(60)
        with Shoal(ProducerSettings.load(redis_url=url, tenant="small")) as shoal:
            began_at = time.monotonic()
            questions = (question(OWN + number) for number in range(small))
            waits = [time.monotonic() - began_at for _ in shoal.map(questions)]
        assert other.status(many[-1].id) == "available", "the large tenant's jobs did not last: give more of them"
        return waits


@click.command()
@click.option("--bulk", default=100_000, show_default=True)
@click.option("--large", default=50_000, show_default=True)
def main(bulk: int, large: int) -> None:
    with services.scratch_dir() as name:
        idle, busy = beside_bulk(Path(name) / "bulk", bulk)
        waits = beside_a_large_tenant(Path(name) / "tenants", large)
    ratio, p95 = median(busy) / median(idle), quantiles(waits, n=20, method="inclusive")[-1]
    table = Table(title=f"model latency {LATENCY_SECONDS} s, {AT_ONCE} at once, one worker, {os.cpu_count()} cores")
    for heading in ("what", "measured", "promised"):
        table.add_column(heading)
    table.add_row("interactive job, idle, p50", f"{median(idle) * 1000:.0f} ms", "")
    table.add_row(f"beside {bulk} bulk jobs, p50", f"{median(busy) * 1000:.0f} ms, {ratio:.2f} times", "2 times")
    table.add_row(f"10 jobs beside {large} of another tenant, p95", f"{p95 * 1000:.0f} ms", "3 service times")
    Console().print(table)
    sys.exit(0 if ratio <= 2 and p95 <= 3 * LATENCY_SECONDS else 1)


if __name__ == "__main__":
    main()
