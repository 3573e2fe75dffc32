"""`python -m shoal_worker.sandbox`: the offline OpenRouter as a process."""

import resource
from pathlib import Path

import click
import uvloop
from pydantic import ValidationError

from shoal_worker.sandbox.control import scenario_faults
from shoal_worker.sandbox.scenario import Scenario
from shoal_worker.sandbox.server import serve


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, show_default="a free one", type=click.IntRange(0, 65_535), help="Port to listen on.")
@click.option(
    "--scenario",
    "scenario_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A scenario as JSON: latency, budget, faults.",
)
@click.option(
    "--latency-seconds", type=click.FloatRange(0, 86_400), help="How long an answer takes; wins over the scenario's."
)
def main(host: str, port: int, scenario_file: Path | None, latency_seconds: float | None) -> None:
    """Serve OpenRouter's wire form offline: rules in place of a model, and every fault on demand."""
    scenario = _scenario(scenario_file)
    if latency_seconds is not None:
        scenario = scenario.model_copy(update={"latency_seconds": latency_seconds})
    _allow_many_connections()
    try:
        uvloop.run(serve(scenario, host, port, _announce))
    except OSError as failed:
        raise click.ClickException(f"cannot listen on {host}:{port}: {failed.strerror}") from failed


def _scenario(file: Path | None) -> Scenario:
    if file is None:
        return Scenario()
    try:
        return Scenario.model_validate_json(file.read_bytes())
    except ValidationError as invalid:
        raise click.BadParameter(scenario_faults(invalid), param_hint="--scenario") from invalid


def _allow_many_connections() -> None:
    """A shell's usual 1,024 open files would be the limit of requests at once."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _announce(base_url: str) -> None:
    click.echo(f"sandbox listening on {base_url}")


if __name__ == "__main__":
    main()
