"""Jobs a second beside Celery's own pools, in one run on one machine: `make bench`.

The model is the sandbox with a fixed latency; the peers run the same work the usual way: one httpx call a task, the
result in Redis. Everything shares the same cores, the sandbox and the producer included.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import psutil
import redis
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from postgres_server import Postgres, postgres_server
from shoal import Classify, ProducerSettings, Shoal
from shoal_worker import services
from shoal_worker.stores.migrations import migrate

LATENCY_SECONDS = 0.3
LABELS = ("billing", "bug", "praise")
HERE = Path(__file__).parent


def question(number: int) -> Classify:
    return Classify(text=f"I was charged twice, case {number}.", labels=LABELS)


def bill(base_url: str) -> dict[str, Any]:
    from urllib.request import urlopen

    with urlopen(base_url.replace("/api/v1", "/sandbox/bill")) as reply:
        found: dict[str, Any] = json.loads(reply.read())
        return found


def eventually_empty(client: "redis.Redis") -> None:
    """Give the last acknowledgements five seconds."""
    ends_at = time.monotonic() + 5
    while client.hlen("unacked") and time.monotonic() < ends_at:
        time.sleep(0.05)


def measure_shoal(at_once: int, jobs: int, scratch: Path, database: Postgres | None = None) -> tuple[float, str]:
    """Jobs a second with the backlog waiting, and what was billed, left behind and used."""
    with services.running(os.environ, scratch) as tree:
        url, base_url = _servers(tree, scratch / f"shoal{at_once}{'postgres' if database else ''}")
        places = {"redis_url": url} | ({"result_url": database.url} if database else {})
        tree.environ = {
            **tree.environ,
            **{f"SHOAL_{name.upper()}": place for name, place in places.items()},
            "SHOAL_OPENROUTER_BASE_URL": base_url,
            "SHOAL_OPENROUTER_API_KEY": "bench",
            "SHOAL_CONCURRENCY": str(at_once),
            "SHOAL_LOG_LEVEL": "WARNING",
        }
        with Shoal(ProducerSettings.load(**places)) as shoal:
            for number in range(jobs):
                shoal.enqueue(question(number))
        with redis.Redis.from_url(url) as client:
            tree.start("worker", [sys.executable, "-m", "shoal_worker"])
            worker = psutil.Process(tree.started[-1].process.pid)
            rate = _drain(lambda: _rows(database) if database else _keys(client), jobs)
            memory_mb = worker.memory_info().rss / 1e6
            eventually_empty(client)
            left = client.hlen("unacked")
        once = all(count == 1 for count in bill(base_url)["billed_by_custom_id"].values())
        billed = f"{bill(base_url)['billed_calls']}{', each job once' if once else ''}"
        return rate, f"billed {billed}, unacknowledged {left}, {memory_mb:.0f} MB"


def measure_celery(pool: str, at_once: int, jobs: int, scratch: Path) -> tuple[float, str]:
    with services.running(os.environ, scratch) as tree:
        url, base_url = _servers(tree, scratch / pool)
        tree.environ = {**tree.environ, "PEER_REDIS_URL": url, "PEER_MODEL_URL": base_url, "PYTHONPATH": str(HERE)}
        os.environ.update({"PEER_REDIS_URL": url, "PEER_MODEL_URL": base_url})
        sys.modules.pop("celery_peer", None)
        sys.path.insert(0, str(HERE))
        from celery_peer import app, ask

        for number in range(jobs):
            ask.delay(question(number).text)
        app.close()
        command = [sys.executable, "-m", "celery", "-A", "celery_peer", "worker", "-P", pool, "-c", str(at_once)]
        with redis.Redis.from_url(url) as client:
            tree.start(pool, [*command, "--without-gossip", "--without-mingle", "-l", "error"])
            rate = _drain(lambda: _keys(client), jobs)
            eventually_empty(client)
            left = client.hlen("unacked")
        return rate, f"unacknowledged {left}"


def _servers(tree: services.Services, folder: Path) -> tuple[str, str]:
    folder.mkdir()
    return (
        services.start_valkey(tree, services.free_port(), folder),
        services.start_sandbox(tree, LATENCY_SECONDS),
    )


def _keys(client: "redis.Redis") -> int:
    return sum(1 for _ in client.scan_iter("celery-task-meta-*", count=5000))


def _rows(database: Postgres) -> int:
    [(count,)] = database.run("SELECT count(*) FROM shoal.endings")
    assert isinstance(count, int)
    return count


def _drain(count: Callable[[], int], jobs: int) -> float:
    """Answers a second, from the first ones seen to the last."""
    before, started = _wait(count, 1), time.monotonic()
    _wait(count, jobs)
    return (jobs - before) / (time.monotonic() - started)


def _wait(count: Callable[[], int], jobs: int) -> int:
    ends_at = time.monotonic() + 300
    while (found := count()) < jobs:
        if time.monotonic() > ends_at:
            raise SystemExit(f"{jobs} answers did not come")
        time.sleep(0.05)
    return found


@click.command()
@click.option("--jobs", default=3_000, show_default=True)
def main(jobs: int) -> None:
    table = Table(title=f"{jobs} jobs, model latency {LATENCY_SECONDS} s, {os.cpu_count()} cores")
    for heading in ("worker", "at once", "jobs/s", ""):
        table.add_column(heading)
    with services.scratch_dir() as name:
        scratch = Path(name)
        for at_once in (300, 600):
            rate, said = measure_shoal(at_once, jobs, scratch)
            table.add_row("shoal", str(at_once), f"{rate:.0f}", said)
        for at_once in (300, 600):
            with postgres_server("fsync=on") as database:
                migrate(SecretStr(database.url))
                rate, said = measure_shoal(at_once, jobs, scratch, database)
            table.add_row("shoal, results in Postgres", str(at_once), f"{rate:.0f}", said)
        for pool, at_once, share in (("gevent", 300, 3), ("prefork", 8, 10)):
            rate, said = measure_celery(pool, at_once, jobs // share, scratch)
            table.add_row(f"celery {pool}, httpx", str(at_once), f"{rate:.0f}", f"{jobs // share} jobs, {said}")
    Console().print(table)


if __name__ == "__main__":
    main()
