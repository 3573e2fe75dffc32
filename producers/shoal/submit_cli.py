"""`shoal submit`: one job, or one for each line of a file."""

import contextlib
import json
import sys
import time
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click
from pydantic_core import from_json
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shoal.answers import BATCH, InOrder, layout_of
from shoal.client import MAP_WINDOW, Shoal
from shoal.errors import ShoalError
from shoal.files import STANDARD_INPUT, Form, Measure, Row, Source, form_of
from shoal.jobs import KINDS
from shoal.journal import Claim, Journal, Output, terminal
from shoal.keys import canonical_json
from shoal.submission import HELD_WINDOWS, Submission, arguments

INPUT_FORMATS = ("csv", "tsv", "jsonl", "parquet")
OUTPUT_FORMATS = (*INPUT_FORMATS, BATCH)
#: How often the bar is drawn, and how often rows are made safe from a power cut.
DRAW_SECONDS = 0.2
SYNC_SECONDS = 5.0

_SUFFIXES = "By its suffix: .csv, .tsv, .jsonl (each also .gz) or .parquet."


@click.command()
@click.argument("kind", type=click.Choice(sorted(KINDS)))
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--text", "text", help="The text itself; with FILE, the column that holds it.")
@click.option("--labels", help="classify: names, separated by commas.")
@click.option("--fields", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="extract: JSON Schema.")
@click.option("--set", "settings", multiple=True, metavar="NAME=JSON", help="Any other argument of the kind.")
@click.option("--fresh", is_flag=True, help="Ask again even where an answer is stored.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: JSONL to the terminal.")
@click.option("--input-format", type=click.Choice(INPUT_FORMATS), help=f"What FILE holds. {_SUFFIXES}")
@click.option("--format", "output_format", type=click.Choice(OUTPUT_FORMATS), help=f"What to write. {_SUFFIXES}")
@click.option("--ordered", is_flag=True, help="Write answers in the order of the lines, not as they come.")
@click.option("--window", type=click.IntRange(min=1), default=MAP_WINDOW, show_default=True, help="Jobs in flight.")
@click.option("--restart", is_flag=True, help="Throw a former run's output away and begin anew.")
@click.option("--retry-failed", is_flag=True, help="Ask the lines of the output that failed again.")
def submit(kind: str, file: Path | None, **given: Any) -> None:
    """Enqueue one job, or one for each line of FILE, and write the answers.

    FILE is CSV, TSV, JSONL, lines of an OpenAI batch (their body holds the arguments) or Parquet; - is JSONL from
    standard input. Stopped and started again, the same command goes on from what is in OUTPUT.
    """
    common = _common(given["labels"], given["fields"], given["settings"])
    if file is not None:
        sys.exit(1 if _submit_file(kind, file, common, given) else 0)
    args = arguments(kind, {**common, "text": given["text"]} if given["text"] else common)
    with Shoal() as client:
        click.echo(client.enqueue(args, fresh=given["fresh"]).outcome().model_dump_json(indent=2))


def _common(labels: str | None, fields: Path | None, settings: tuple[str, ...]) -> Row:
    common: Row = {}
    if labels:
        common["labels"] = [name.strip() for name in labels.split(",")]
    if fields:
        try:
            common["fields"] = json.loads(fields.read_bytes())
        except ValueError as error:
            raise click.BadParameter(f"{fields.name} is not JSON: {error}", param_hint="--fields") from None
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator:
            raise click.BadParameter(f"{setting!r} is not NAME=JSON", param_hint="--set")
        common[name] = _json_or_text(value)
    return common


def _json_or_text(value: str) -> Any:
    try:
        return from_json(value, allow_inf_nan=False)
    except ValueError:
        return value


def _submit_file(kind: str, file: Path, common: Row, given: dict[str, Any]) -> int:
    """Answer every line that has no row yet; how many rows of all tell of a failure."""
    default = "jsonl" if file == STANDARD_INPUT else None
    source = Source(file, form_of(file, given["input_format"] or default, "--input-format"), given["text"])
    try:
        measure, lines = source.measure(), source.lines()
        first = list(islice(lines, 1))  # a table without the column is refused before there is an output
        with _journal(kind, common, measure, given) as journal:
            order = InOrder(HELD_WINDOWS * given["window"]) if given["ordered"] else None
            submission = Submission(kind, common, chain(first, lines), journal, order)
            _run(submission, source.name, measure, given)
    except OSError as error:
        if isinstance(error, ShoalError):
            raise
        where = error.filename or given["output"] or "standard output"
        raise click.ClickException(f"{where}: {error.strerror or error}") from None
    return journal.answered.failed


def _journal(
    kind: str, common: Row, measure: Measure | None, given: dict[str, Any]
) -> contextlib.AbstractContextManager[Journal]:
    """Where the rows go. Raises `InvalidJob` and click's UsageError."""
    path: Path | None = given["output"]
    if given["ordered"] and given["retry_failed"]:
        raise click.UsageError("--retry-failed adds rows at the end, so it cannot keep --ordered: use --restart")
    if path is None:
        if given["restart"] or given["retry_failed"] or given["output_format"] == "parquet":
            raise click.UsageError("--restart, --retry-failed and Parquet need --output")
        return contextlib.nullcontext(terminal(layout_of(Form(given["output_format"] or "jsonl"), kind)))
    form = form_of(path, given["output_format"], "--format")
    output = Output(path, form, layout_of(form, kind))
    asked = sha256(canonical_json([kind, common, given["text"], form.name])).hexdigest()
    claim = Claim(measure and measure.sha256, asked, given["ordered"])
    return output.opened(claim, restart=given["restart"], retry_failed=given["retry_failed"])


def _run(submission: Submission, name: str, measure: Measure | None, given: dict[str, Any]) -> None:
    journal, began_at = submission.journal, time.monotonic()
    before = journal.answered.rows
    try:
        with Shoal() as client, _bar(name, given["output"]) as progress:
            drawing = submission.moved = Drawing(submission, progress, measure.lines if measure else None)
            submission.run(client, window=given["window"], fresh=given["fresh"])
            drawing.draw()
    except BaseException:
        if given["output"] and measure:
            click.echo(f"{journal.answered.rows:,} rows are written; the same command goes on from there", err=True)
        raise
    rows, seconds = journal.answered.rows, time.monotonic() - began_at
    click.echo(
        f"{name}: {rows:,} lines, {rows - journal.answered.failed:,} answered, {journal.answered.failed:,} failed; "
        f"{rows - before:,} of them now, in {seconds:,.1f} s, for ${submission.cost_usd:.4f}",
        err=True,
    )


def _bar(name: str, output: Path | None) -> Progress:
    columns = (
        TextColumn(name, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=output is None and sys.stdout.isatty())


class Drawing:
    """Called for each line: says on the bar how far a submission is, and makes its rows safe, each in its own time."""

    def __init__(self, submission: Submission, progress: Progress, lines: int | None) -> None:
        self._submission = submission
        self._progress = progress
        self._answered = submission.journal.answered
        self._before = self._answered.rows
        self._bar = progress.add_task("", total=lines, completed=self._before, said="")
        self._began_at = self._drawn_at = self._synced_at = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._drawn_at >= DRAW_SECONDS:
            self._drawn_at = now
            self.draw()
        if now - self._synced_at >= SYNC_SECONDS:
            self._synced_at = now
            self._submission.journal.sync()

    def draw(self) -> None:
        rows, submission = self._answered.rows, self._submission
        rate = (rows - self._before) / max(time.monotonic() - self._began_at, 0.001)
        said = f"failed {self._answered.failed:,}  {rate:,.0f}/s  ${submission.cost_usd:.4f}"
        self._progress.update(self._bar, completed=rows, said=said)
        if submission.ended:
            self._progress.update(self._bar, total=submission.lines_read)
