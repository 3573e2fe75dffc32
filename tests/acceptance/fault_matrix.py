"""The fault matrix: one cell is a fault, a kind of job and a store, through real processes.

`python tests/acceptance/fault_matrix.py --fault "redis full" --kind rank` runs cells and prints their table. In a
cell jobs flow, the fault strikes while some are in flight and ends, every job has to end in an answer, and each
living worker has to answer a fresh job.
"""

import sys
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click
from matrix_cell import Cell, Lengths
from matrix_faults import MENU, Fault
from matrix_jobs import JOBS
from matrix_stores import STORES
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

KINDS = list(JOBS)
#: How long a fresh job, or the last acknowledgement, may take where nothing is wrong any more.
CALM_SECONDS = 20.0
#: As long as in the promise, and Redis frozen for longer than all socket timeouts.
FULL = Lengths(
    jobs=60,
    deadline_seconds=20.0,
    storm_seconds=60.0,
    whitespace_seconds=30.0,
    redis_frozen_seconds=35.0,
)


@dataclass(frozen=True)
class Row:
    """What a cell showed. `paid_calls` is the provider's bill, `in_flight` its calls at any time of the fault.
    `recovery_seconds` is the longest that a job waited once the fault was over.

    `maybe_billed` is the ledger's, and `uncounted` how many calls it has too few or too many, by the bill.

    `lost` jobs were accepted and neither answered nor dead, `lost_by_nature` those of a store that was emptied.
    `unheard` answers are stored and did not reach who waited.
    """

    fault: str
    kind: str
    store: str
    jobs: int
    answered: int
    dead: int
    lost: int
    lost_by_nature: int
    doubled: int
    paid_calls: int
    in_flight: int
    maybe_billed: int
    uncounted: int
    recovery_seconds: float
    allowed_seconds: float
    unheard: int
    unsettled: int
    idle_workers: tuple[str, ...]
    dead_workers: int

    @property
    def faults(self) -> list[str]:
        """What is not as promised, in words."""
        wrong = {
            f"{self.lost} lost": self.lost,
            f"{self.dead} given up": self.dead,
            f"{self.doubled} answered twice": self.doubled,
            f"{self.paid_calls} calls paid for {self.jobs} jobs and {self.in_flight} in flight": self.paid_calls
            > self.jobs + self.in_flight,
            f"{self.uncounted} calls of the bill are not in the ledger, or not on the bill": self.uncounted,
            f"recovered in {self.recovery_seconds:.1f} s, not {self.allowed_seconds:.1f} s": self.recovery_seconds
            > self.allowed_seconds,
            f"{self.unheard} answers not heard": self.unheard,
            f"{self.unsettled} messages left": self.unsettled,
            f"{', '.join(self.idle_workers)} no longer consuming": self.idle_workers,
        }
        return [words for words, is_wrong in wrong.items() if is_wrong]


def run(fault: Fault, kind: str, store: str, lengths: Lengths, folder: Path) -> Row:
    """Run one cell."""
    cell = Cell(JOBS[kind], store, lengths, folder)
    try:
        return through(cell, fault, kind)
    finally:
        cell.stop()


def through(cell: Cell, fault: Fault, kind: str) -> Row:
    lengths, producer = cell.lengths, cell.producer
    allowed_seconds = 2 * lengths.visibility_seconds + fault.backoff_seconds(lengths)
    cell.start_workers(fault.workers, fault.first(cell.folder))
    producer.start(lengths.jobs, lengths.job_every_seconds)
    cell.await_calls()
    early = cell.wait_early()
    cell.strike(fault.strike)
    producer.wait(allowed_seconds + lengths.jobs * lengths.job_every_seconds)
    must_end = {job_id for job_id, offered_at in producer.offered_at.items() if offered_at >= cell.wiped_at}
    unanswered = cell.await_answers(must_end, allowed_seconds + CALM_SECONDS)
    jobs = dict(producer.offered_at)
    in_flight, paid_calls = cell.calls_in_flight(), cell.sandbox.bill()["billed_calls"]
    idle = cell.idle_workers(CALM_SECONDS)
    unsettled = cell.await_settled(CALM_SECONDS)
    cell.watch.look()
    dead, spent, billed = cell.store.letters().keys(), cell.store.spent(), cell.sandbox.bill()["billed_calls"]
    uncounted = max(0, billed - spent.billed - spent.maybe_billed, spent.billed - billed)
    answered = cell.watch.seen_at.keys() & jobs.keys()
    return Row(
        fault=fault.name,
        kind=kind,
        store=cell.store.name,
        jobs=len(jobs),
        answered=len(answered - dead),
        dead=len(dead),
        lost=len(unanswered - dead),
        lost_by_nature=len(jobs.keys() - must_end - answered),
        doubled=len(cell.watch.doubled),
        paid_calls=paid_calls,
        in_flight=in_flight,
        maybe_billed=spent.maybe_billed,
        # A store that was emptied has lost its ledger too.
        uncounted=0 if cell.wiped_at else uncounted,
        recovery_seconds=max(0.0, *(cell.waited_seconds(job_id) for job_id in answered)),
        allowed_seconds=allowed_seconds,
        unheard=cell.unheard(early, must_end - unanswered),
        unsettled=unsettled,
        idle_workers=tuple(idle),
        dead_workers=sum(not worker.alive for worker in cell.workers),
    )


COLUMNS = "fault kind store jobs answered dead lost double paid in_flight maybe_billed recovery_s".split()


def table(rows: list[Row]) -> Table:
    """One line a cell; those that are not as promised are red."""
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        is_word = name in COLUMNS[:3]
        shown.add_column(name.replace("_", " "), no_wrap=is_word, justify="left" if is_word else "right")
    for row in rows:
        numbers = (row.jobs, row.answered, row.dead, row.lost, row.doubled, row.paid_calls, row.in_flight)
        recovery = f"{row.recovery_seconds:.1f}"
        words = (row.fault, row.kind, row.store, *map(str, numbers), str(row.maybe_billed), recovery)
        shown.add_row(*words, style="red" if row.faults else None)
    return shown


def report(rows: list[Row], console: Console) -> None:
    """The table, and in words what is wrong and what was lost by nature."""
    console.print(table(rows))
    for row in rows:
        name = f"{row.fault}, {row.kind}, {row.store}"
        if row.lost_by_nature:
            console.print(f"{name}: {row.lost_by_nature} jobs were only in Redis and went with its data, by nature")
        for words in row.faults:
            console.print(f"{name}: {words}", style="red")


@click.command()
@click.option("--fault", "faults", multiple=True, type=click.Choice(list(MENU)), default=list(MENU))
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), default=["classify"])
@click.option("--store", "stores", multiple=True, type=click.Choice(list(STORES)), default=list(STORES))
@click.option("--full", is_flag=True, help="Storms of a minute, as `make chaos` has them.")
@click.option("--keep", type=click.Path(path_type=Path), help="A folder that keeps the logs of the cells.")
def main(faults: list[str], kinds: list[str], stores: list[str], full: bool, keep: Path | None) -> None:
    rows, console = [], Console(width=120)
    for fault, kind, store in product(faults, kinds, stores):
        if store not in MENU[fault].stores:
            continue
        with tempfile.TemporaryDirectory(prefix="shoal-") as scratch:
            folder = keep / f"{fault} {kind} {store}" if keep else Path(scratch)
            folder.mkdir(parents=True, exist_ok=not keep)
            rows.append(run(MENU[fault], kind, store, FULL if full else Lengths(), folder))
        click.echo(rows[-1], err=True)
    report(rows, console)
    sys.exit(1 if any(row.faults for row in rows) else 0)


if __name__ == "__main__":
    main()
