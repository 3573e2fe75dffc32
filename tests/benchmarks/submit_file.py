"""`shoal submit` on a file of a million lines: what reading and writing take, with answers out of thin air.

    PYTHONPATH=tests python tests/benchmarks/submit_file.py --input jsonl --output csv

Each measurement has a process of its own, for memory only grows. Answers come in a shuffled order.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

import click

from shoal.answers import InOrder, Place, layout_of
from shoal.client import MAP_WINDOW
from shoal.files import Source, form_of
from shoal.jobs import ClassifyResult, Outcome, ScoredLabel, Usage
from shoal.journal import Claim, Output
from shoal.results import Answer
from shoal.submission import HELD_WINDOWS, Job, Submission

COMMON = {"labels": ["billing", "bug", "praise"]}


class ThinAir:
    """Stands for the queue: keeps a window of jobs in flight and answers any of them."""

    def __init__(self) -> None:
        self._chance = Random(1)

    def stream(self, jobs: Iterable[Job], *, window: int, fresh: bool) -> Iterator[tuple[Place, Answer]]:
        assert not fresh
        source = iter(jobs)
        in_flight: list[Place] = []
        while True:
            in_flight += (place for place, _ in islice(source, window - len(in_flight)))
            if not in_flight:
                return
            place = in_flight.pop(self._chance.randrange(len(in_flight)))
            yield place, answer(place)


def answer(place: Place) -> Outcome[ClassifyResult]:
    result = ClassifyResult(labels=(ScoredLabel(name="billing", confidence=0.9),))
    usage = Usage(input_tokens=150, output_tokens=20, cost_usd=5e-5, calls=1)
    times = {"queue_seconds": 0.1, "run_seconds": 0.3, "finished_at": 1_795_000_000.0 + place.line}
    return Outcome(job_id=str(place.line), kind="classify", result=result, usage=usage, model="m", attempts=1, **times)


def write_input(path: Path, lines: int) -> None:
    rows = ({"custom_id": f"review-{number}", "text": f"I was charged twice, case {number}"} for number in range(lines))
    if path.suffix == ".parquet":
        from shoal import parquet

        parquet.write(path, {"custom_id": str, "text": str}, rows)
        return
    with path.open("w", encoding="utf-8") as file:
        if path.suffix == ".csv":
            file.write("custom_id,text\n")
        for row in rows:
            file.write(f"{json.dumps(row)}\n" if path.suffix == ".jsonl" else f'{row["custom_id"]},"{row["text"]}"\n')


def submit(read: Path, wrote: Path, *, ordered: bool) -> None:
    """As `shoal submit` does it, but for the queue and the bar."""
    source = Source(read, form_of(read, None, ""))
    form = form_of(wrote, None, "")
    output = Output(wrote, form, layout_of(form, "classify"))
    measure = source.measure()
    assert measure is not None
    with output.opened(Claim(measure.sha256, "", ordered), restart=False, retry_failed=False) as journal:
        order = InOrder(HELD_WINDOWS * MAP_WINDOW) if ordered else None
        Submission("classify", COMMON, source.lines(), journal, order).run(ThinAir(), window=MAP_WINDOW, fresh=False)
        click.echo(f"{journal.answered.rows:,} rows", nl=False)


@click.command()
@click.option("--lines", default=1_000_000, show_default=True)
@click.option("--input", "read", default="jsonl", show_default=True, type=click.Choice(["csv", "jsonl", "parquet"]))
@click.option("--output", "wrote", default="jsonl", show_default=True)
@click.option("--ordered", is_flag=True)
@click.option("--measured", hidden=True, type=click.Path(path_type=Path))
def main(lines: int, read: str, wrote: str, measured: Path | None, *, ordered: bool) -> None:
    if measured is not None:
        began_at = time.monotonic()
        submit(measured / f"in.{read}", measured / f"out.{wrote}", ordered=ordered)
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu_seconds, memory_mb = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
        click.echo(f" in {time.monotonic() - began_at:.0f} s, {cpu_seconds:.0f} s of CPU, at most {memory_mb:.0f} MB")
        return
    with tempfile.TemporaryDirectory() as name:
        write_input(Path(name) / f"in.{read}", lines)
        command = [sys.executable, __file__, "--input", read, "--output", wrote, "--measured", name]
        for what in ("asked", "gone on with"):
            click.echo(f"{read} to {wrote}{', ordered' if ordered else ''}, {what}: ", nl=False)
            subprocess.run([*command, *(["--ordered"] if ordered else [])], check=True)


if __name__ == "__main__":
    main()
