"""Workers restarted one by one under load: what is lost, what is paid for twice, and how much later answers come.

`PYTHONPATH=tests python tests/benchmarks/rolling.py`: three workers, 200 single jobs a second for a minute, the sandbox
at 0.3 s. For the first third all stay; then each is ended with SIGTERM, a new one started beside it, and the next
one follows when the old one is gone.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from urllib.request import urlopen

import click
from pydantic import SecretStr

from shoal import Classify, ProducerSettings, Shoal
from shoal_worker import services

LATENCY_SECONDS = 0.3
WORKERS = 3
GRACE_SECONDS = 60.0
#: How long the last answers may take.
SETTLE_SECONDS = 60.0


@dataclass
class Load:
    """Jobs at a steady rate, each with how long its answer took, by the moment it was asked."""

    shoal: Shoal
    waits: list[tuple[float, float]] = field(default_factory=list)
    asked: int = 0
    lost: int = 0

    def run(self, rate: float, seconds: float) -> None:
        began_at = time.monotonic()
        waiting: list[threading.Thread] = []
        while (now := time.monotonic()) < began_at + seconds:
            due = began_at + self.asked / rate
            if now < due:
                time.sleep(due - now)
            question = Classify(text=f"I was charged twice by billing, case {self.asked}.", labels=("billing", "bug"))
            self.asked += 1
            waiting.append(threading.Thread(target=self._ask, args=(question, time.monotonic() - began_at)))
            waiting[-1].start()
        for one in waiting:
            one.join()

    def _ask(self, question: Classify, at: float) -> None:
        sent_at = time.monotonic()
        try:
            self.shoal.enqueue(question).outcome(SETTLE_SECONDS)
        except Exception:  # noqa: BLE001 whatever it is, it is no answer
            self.lost += 1
        else:
            self.waits.append((at, time.monotonic() - sent_at))


@contextmanager
def parts(folder: Path) -> Iterator[tuple[services.Services, str, str]]:
    with services.running(os.environ, folder) as tree:
        queue = services.start_valkey(tree, services.free_port(), folder)
        provider = services.start_sandbox(tree, LATENCY_SECONDS)
        settings = {"redis_url": queue, "openrouter_base_url": provider, "openrouter_api_key": "sandbox"}
        tree.environ = services.environment(**settings)
        yield tree, queue, provider


def roll(tree: services.Services, queue: str, rolled: list[float]) -> None:
    """Replace each worker; `rolled` hears how long each drain took."""
    leaving = [service for service in tree.started if service.name.startswith("worker")]
    for number, service in enumerate(leaving, start=WORKERS + 1):
        began_at = time.monotonic()
        service.process.terminate()
        tree.started.remove(service)
        services.start_workers(tree, [f"worker{number}"], queue, GRACE_SECONDS)
        service.process.wait(GRACE_SECONDS)
        rolled.append(round(time.monotonic() - began_at, 1))


def p99_ms(waits: list[float]) -> int:
    return round(quantiles(waits, n=100)[98] * 1_000)


@click.command()
@click.option("--rate", default=200.0, show_default=True, help="Jobs a second.")
@click.option("--seconds", default=60.0, show_default=True)
@click.option("--concurrency", default=100, show_default=True, help="Of each worker.")
def main(rate: float, seconds: float, concurrency: int) -> None:
    """Print one line of JSON."""
    with services.scratch_dir() as scratch, parts(Path(scratch)) as (tree, queue, provider):
        tree.environ = {**tree.environ, "SHOAL_CONCURRENCY": str(concurrency)}
        services.start_workers(tree, [f"worker{number}" for number in range(1, WORKERS + 1)], queue, GRACE_SECONDS)
        rolled: list[float] = []
        with Shoal(ProducerSettings(redis_url=SecretStr(queue))) as shoal:
            load = Load(shoal)
            producer = threading.Thread(target=load.run, args=(rate, seconds))
            producer.start()
            time.sleep(seconds / 3)
            roll(tree, queue, rolled)
            rolled_at = seconds / 3 + sum(rolled)
            producer.join()
        with urlopen(provider.replace("/api/v1", "/sandbox/bill")) as reply:
            bill = json.load(reply)
    quiet = [wait for at, wait in load.waits if 5 < at < seconds / 3]
    rolling = [wait for at, wait in load.waits if seconds / 3 <= at < rolled_at]
    click.echo(
        json.dumps(
            {
                "jobs": load.asked,
                "lost": load.lost,
                "repeated": bill["billed_calls"] - load.asked,
                "rolled_seconds": rolled,
                "p99_ms_before": p99_ms(quiet),
                "p99_ms_while_rolling": p99_ms(rolling),
                "added_p99_ms": p99_ms(rolling) - p99_ms(quiet),
            }
        )
    )


if __name__ == "__main__":
    main()
