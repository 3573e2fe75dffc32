"""The `shoal` command. The worker's verbs (`up`, `worker`, `sandbox`) come from `shoal_worker`, where installed."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shoal import files
from shoal.client import Shoal
from shoal.errors import JobFailed, ShoalError
from shoal.jobs import KINDS, Args, Outcome

WORKER_COMMANDS = ("up", "worker", "sandbox")


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
        faults = error.errors(include_input=False, include_url=False)
        lines = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults]
        raise click.ClickException("\n".join(lines)) from None


def _submit_file(
    client: Shoal,
    kind: str,
    rows: Iterator[tuple[int, dict[str, Any]]],
    total: int,
    output: Path | None,
    *,
    fresh: bool,
) -> int:
    """Answer every row; how many failed."""
    failed, cost_usd = 0, 0.0
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    jobs = ((line, _args(kind, values)) for line, values in rows)
    with files.writer(output) as write, Progress(*columns, console=console) as progress:
        task = progress.add_task(kind, total=total, said="")
        for line, answer in client.stream(jobs, fresh=fresh):
            write(files.answer_row(line, answer))
            if isinstance(answer, JobFailed):
                failed += 1
            elif isinstance(answer, Outcome):
                cost_usd += answer.usage.cost_usd
            speed = progress.tasks[0].speed or 0.0
            progress.update(task, advance=1, said=f"failed {failed}  {speed:.0f}/s  ${cost_usd:.4f}")
    return failed


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
