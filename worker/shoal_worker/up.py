"""`shoal up`: everything that is missing, workers and Flower, in one process tree."""

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

import click
from celery.utils.sysinfo import cpu_budget
from pydantic import SecretStr

from shoal.errors import SettingsError
from shoal_worker import services
from shoal_worker.beat_cli import read_schedule
from shoal_worker.errors import WorkerError
from shoal_worker.flower_access import access_of
from shoal_worker.lookups import KeyStatus
from shoal_worker.openrouter import OpenRouter
from shoal_worker.process import gateway_of
from shoal_worker.settings import WorkerSettings
from shoal_worker.stores import migrations

DEFAULT_REDIS_PORT = 6379
NO_KEY = (
    "no model to call: set SHOAL_OPENROUTER_API_KEY (or SHOAL_OPENROUTER_BASE_URL for another gateway), "
    "or try it offline with --sandbox"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start."""

    workers: int = 1
    sandbox: bool = False
    sandbox_latency_seconds: float = 0.3
    flower_port: int = 5555
    data_dir: Path = Path(".shoal")
    beat: bool = False


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the started things are."""

    redis_url: str
    model: str
    flower: str


def check(plan: Plan, settings: WorkerSettings) -> None:
    """Raises `SettingsError` when there is no model to call."""
    if not (plan.sandbox or settings.openrouter_api_key or own_gateway(settings)):
        raise SettingsError(NO_KEY)


def check_key(settings: WorkerSettings) -> None:
    """Raises `SettingsError` when the provider refuses the key; a provider that does not answer is no fault of ours."""

    async def status() -> KeyStatus:
        model = OpenRouter(gateway_of(settings))
        try:
            return await model.check_key()
        finally:
            await model.aclose()

    try:
        known = asyncio.run(status())
    except WorkerError as error:
        click.echo(f"the key could not be checked: {error.reason}", err=True)
        return
    if not known.is_valid:
        raise SettingsError("the provider refuses the key: set another SHOAL_OPENROUTER_API_KEY")


def own_gateway(settings: WorkerSettings) -> bool:
    """Whether another gateway than OpenRouter is set, which may need no key."""
    return bool(settings.openrouter_base_url != WorkerSettings.model_fields["openrouter_base_url"].default)


def start(tree: services.Services, plan: Plan, settings: WorkerSettings) -> Addresses:
    """Start what is missing, then the workers, then beat if it is planned, then Flower."""
    is_set = "redis_url" in settings.model_fields_set
    redis_url = settings.redis_url.get_secret_value() if is_set else _embedded(tree, plan)
    queue_url = settings.queue_url.get_secret_value() if settings.queue_url else redis_url
    model = settings.openrouter_base_url
    added = {"SHOAL_REDIS_URL": redis_url}
    if plan.sandbox:
        model = services.start_sandbox(tree, plan.sandbox_latency_seconds)
        added |= {"SHOAL_OPENROUTER_BASE_URL": model, "SHOAL_OPENROUTER_API_KEY": "sandbox"}
    tree.environ = {**tree.environ, **added}
    names = [f"worker{number}" for number in range(1, plan.workers + 1)]
    services.start_workers(tree, names, queue_url, settings.shutdown_grace_seconds)
    if plan.beat:
        services.start_beat(tree)
    return Addresses(redis_url, model, services.start_flower(tree, plan.flower_port))


def without_login(url: SecretStr | str | None) -> str:
    """An address for people to see; '' for none."""
    text = url.get_secret_value() if isinstance(url, SecretStr) else url or ""
    scheme, separator, rest = text.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _embedded(tree: services.Services, plan: Plan) -> str:
    plan.data_dir.mkdir(parents=True, exist_ok=True)
    port = DEFAULT_REDIS_PORT if services.port_is_free(DEFAULT_REDIS_PORT) else services.free_port()
    return services.start_valkey(tree, port, plan.data_dir)


@click.command()
@click.option("--workers", type=click.IntRange(1), help="Worker processes.  [default: one for each core]")
@click.option("--sandbox", is_flag=True, help="Answer with the offline sandbox: rules, no model, no cost.")
@click.option("--flower-port", default=5555, show_default=True)
@click.option("--data-dir", default=".shoal", show_default=True, type=click.Path(path_type=Path, file_okay=False))
def up(workers: int | None, *, sandbox: bool, flower_port: int, data_dir: Path) -> None:
    """Start workers and Flower, a Valkey when SHOAL_REDIS_URL is not set, beat where a schedule is; Ctrl-C ends all."""
    settings = WorkerSettings.load()
    plan = Plan(
        workers=workers or cpu_budget().count,
        sandbox=sandbox,
        flower_port=flower_port,
        data_dir=data_dir,
        beat=settings.schedule_file.is_file(),
    )
    check(plan, settings)
    if plan.beat:
        read_schedule(settings)
    access_of(os.environ, services.LOOPBACK)
    if settings.in_postgres:
        migrations.migrate(settings.results)
    if not sandbox:
        check_key(settings)
    with services.running(os.environ) as tree:
        try:
            addresses = start(tree, plan, settings)
            click.echo(f"queue   {without_login(settings.queue_url) or without_login(addresses.redis_url)}")
            click.echo(f"results {without_login(settings.result_url) or without_login(addresses.redis_url)}")
            click.echo(f"model   {addresses.model}{' (the sandbox: no model answers)' if sandbox else ''}")
            click.echo(f"Flower  {addresses.flower}")
            if plan.beat:
                click.echo(f"beat    {settings.schedule_file}")
            click.echo("ready; Ctrl-C ends all of it")
            while (gone := tree.ended()) is None:
                time.sleep(0.5)
            raise services.ServiceFailed(f"{gone.name} ended with status {gone.process.returncode}")
        except KeyboardInterrupt:
            click.echo("stopping")
