"""The `shoal` command. The worker's verbs (`up`, `worker`, `sandbox`) come from `shoal_worker`, where installed."""

import sys
from importlib import import_module

import click

from shoal.client import Shoal
from shoal.cost_cli import cost
from shoal.dead_cli import dead
from shoal.errors import ShoalError
from shoal.submit_cli import submit
from shoal.top import top

WORKER_COMMANDS = ("up", "worker", "sandbox", "migrate", "recover", "metrics", "health", "why", "flower", "doctor")


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
shoal.add_command(submit)
shoal.add_command(top)


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
