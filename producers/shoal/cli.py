"""The `shoal` command. The worker's verbs (`up`, `worker`, `sandbox`) come from `shoal_worker`, where installed."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from shoal import files
from shoal.client import Shoal
from shoal.cost_cli import cost
from shoal.dead_cli import dead
from shoal.errors import InvalidJob, JobFailed, ShoalError
from shoal.jobs import KINDS, Args, Outcome

WORKER_COMMANDS = ("up", "worker", "sandbox", "migrate", "recover", "metrics")


class Commands(click.Group):
    """Adds the worker's commands when they are asked for; a backend's install has none of their dependencies."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *WORKER_COMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in WORKER_COMMANDS:
            return super().get_command(ctx, cmd_name)
        try:
            found: click.Command = import_module("shoal_worker.commands").COMMANDS[cmd_name]
        except ModuleNotFoundError as error:
            raise click.ClickException(f"{error.name} is missing: pip install 'shoal[worker]'") from error
        return found


@click.group(cls=Commands)
@click.version_option(package_name="shoal")
def shoal() -> None:
    """A queue of small language-model jobs."""


shoal.add_command(dead)
shoal.add_command(cost)


@shoal.command()
@click.argument("job_id")
def status(job_id: str) -> None:
    """Where a job stands."""
    with Shoal() as client:
        click.echo(client.status(job_id))


@shoal.command()
@click.argument("job_id")
@click.option("--timeout", default=0.5, show_default=True, help="Seconds to wait for an answer.")
def result(job_id: str, timeout: float) -> None:
    """A job's outcome, as JSON."""
    with Shoal() as client:
        click.echo(client.outcome(job_id, timeout).model_dump_json(indent=2))


@shoal.command()
@click.argument("job_id")
def cancel(job_id: str) -> None:
    """Cancel a job that has no answer yet."""
    with Shoal() as client:
        click.echo("cancelled" if client.cancel(job_id) else "it was over already")


@shoal.command()
@click.argument("kind", type=click.Choice(sorted(KINDS)))
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--text", "text", help="The text itself; with FILE, the column that holds it.")
@click.option("--labels", help="classify: names, separated by commas.")
@click.option("--fields", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="extract: JSON Schema.")
@click.option("--set", "settings", multiple=True, metavar="NAME=JSON", help="Any other argument of the kind.")
@click.option("--fresh", is_flag=True, help="Ask again even where an answer is stored.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="JSONL; default: the terminal.")
def submit(kind: str, file: Path | None, output: Path | None, *, fresh: bool, **given: Any) -> None:
    """Enqueue one job, or one for each line of a CSV or JSONL FILE, and write the answers."""
    common = _common(given["labels"], given["fields"], given["settings"])
    with Shoal() as client:
        if file is None:
            args = _args(kind, {**common, "text": given["text"]} if given["text"] else common)
            outcome = client.enqueue(args, fresh=fresh).outcome()
            click.echo(outcome.model_dump_json(indent=2))
        else:
            rows = files.rows(file, given["text"], common)
            failed = _submit_file(client, kind, rows, files.line_count(file), output, fresh=fresh)
            sys.exit(1 if failed else 0)


def _common(labels: str | None, fields: Path | None, settings: tuple[str, ...]) -> dict[str, Any]:
    common: dict[str, Any] = {}
    if labels:
        common["labels"] = [name.strip() for name in labels.split(",")]
    if fields:
        common["fields"] = json.loads(fields.read_text())
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator:
            raise click.BadParameter(f"{setting!r} is not NAME=JSON", param_hint="--set")
        common[name] = files.json_or_text(value)
    return common


def _args(kind: str, values: dict[str, Any]) -> Args[Any]:
    try:
        return KINDS[kind].model_validate(values)
    except ValidationError as error:
        raise InvalidJob("\n".join(_faults(error))) from None


def _faults(error: ValidationError) -> list[str]:
    faults = error.errors(include_input=False, include_url=False)
    return [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults]


@dataclass(slots=True)
class Submission:
    """A file on its way: what is written, and what the progress bar says."""

    kind: str
    write: Callable[[files.Row], None]
    progress: Progress
    bar: TaskID
    failed: int = 0
    cost_usd: float = 0.0

    def jobs(self, rows: Iterable[tuple[int, files.Row]]) -> Iterator[tuple[int, Args[Any]]]:
        """The rows that are jobs. One that is none fails by itself, and the others go on."""
        for line, values in rows:
            try:
                yield line, _args(self.kind, values)
            except InvalidJob as error:
                self.take(line, JobFailed(str(error), cause="invalid_arguments"))

    def take(self, line: int, answer: Outcome[Any] | JobFailed) -> None:
        self.write(files.answer_row(line, answer))
        if isinstance(answer, JobFailed):
            self.failed += 1
        else:
            self.cost_usd += answer.usage.cost_usd
        speed = self.progress.tasks[0].speed or 0.0
        self.progress.update(self.bar, advance=1, said=f"failed {self.failed}  {speed:.0f}/s  ${self.cost_usd:.4f}")


COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("{task.fields[said]}"),
    TimeRemainingColumn(),
)


def _submit_file(
    client: Shoal, kind: str, rows: Iterator[tuple[int, files.Row]], total: int, output: Path | None, *, fresh: bool
) -> int:
    """Answer every row; how many failed."""
    with files.writer(output) as write, Progress(*COLUMNS, console=Console(stderr=True)) as progress:
        submission = Submission(kind, write, progress, progress.add_task(kind, total=total, said=""))
        for line, answer in client.stream(submission.jobs(rows), fresh=fresh):
            submission.take(line, answer)
    return submission.failed


def main() -> None:
    """Run the command; errors of ours are one line and status 1."""
    try:
        shoal(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ShoalError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
