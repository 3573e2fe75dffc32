"""`shoal doctor`: everything is looked at, at the same time; then it is said what that means."""

import asyncio
import json
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

import click
from rich.console import Console

from shoal.errors import SettingsError
from shoal.publisher import is_amqp
from shoal_worker.doctor import beat, fleet, flower, machine, postgres, provider, rabbit, redis, report
from shoal_worker.doctor.addresses import is_loopback
from shoal_worker.doctor.findings import Finding, fault
from shoal_worker.doctor.places import open_once, redis_places
from shoal_worker.openrouter import OpenRouter
from shoal_worker.process import gateway_of
from shoal_worker.settings import WorkerSettings
from shoal_worker.up import NO_KEY, own_gateway


async def examined(settings: WorkerSettings, workers: int, flower_address: str) -> list[Finding]:
    """All findings. Nothing is raised for what is away."""
    async with asyncio.TaskGroup() as looks:
        servers = looks.create_task(of_redis(settings, workers))
        queue = looks.create_task(of_queue(settings))
        results = looks.create_task(of_postgres(settings, workers))
        model = looks.create_task(of_provider(settings))
        schedule = looks.create_task(of_schedule(settings))
        watcher = looks.create_task(flower.look(flower_address))
    found_servers, queue_is_far = servers.result()
    own = machine.findings(machine.look(), settings, queue_is_far=queue_is_far)
    parts = (own, found_servers, queue.result(), results.result(), model.result(), schedule.result())
    return [*(one for part in parts for one in part), *flower.findings(watcher.result(), flower_address)]


async def of_redis(settings: WorkerSettings, workers: int) -> tuple[list[Finding], bool]:
    """What is found there, and whether others than this machine reach the queue."""
    found: list[Finding] = []
    host = urlsplit(settings.queue.get_secret_value()).hostname or ""
    is_far = not is_loopback(host) if is_amqp(settings.queue.get_secret_value()) else False
    for url, place in redis_places(settings):
        client = open_once(url)
        try:
            facts = await redis.look(client)
        finally:
            await client.aclose()
        found += redis.findings(facts, place, workers)
        is_far = is_far or (url == settings.queue and redis.is_far(facts, place))
    return found, is_far


async def of_queue(settings: WorkerSettings) -> list[Finding]:
    url = settings.queue.get_secret_value()
    if is_amqp(url):
        broker = await asyncio.to_thread(rabbit.look, url)
        found = list(rabbit.findings(broker, settings.job_time_limit_seconds))
        return found if broker.away else [*found, *fleet.findings(await fleet.look(settings.queue, None))]
    client = open_once(settings.queue)
    try:
        facts = await fleet.look(settings.queue, client)
    finally:
        await client.aclose()
    return list(fleet.findings(facts))


async def of_schedule(settings: WorkerSettings) -> list[Finding]:
    client = open_once(settings.beats)
    try:
        return list(beat.findings(await beat.look(settings, client)))
    finally:
        await client.aclose()


async def of_postgres(settings: WorkerSettings, workers: int) -> list[Finding]:
    if not settings.in_postgres:
        return []
    facts = await asyncio.to_thread(postgres.look, settings.results)
    return list(postgres.findings(facts, workers))


async def of_provider(settings: WorkerSettings) -> list[Finding]:
    if not (settings.openrouter_api_key or own_gateway(settings)):
        return [fault("provider-key", "there is no model to call", "no job is answered", NO_KEY.partition(": ")[2])]
    gateway = gateway_of(settings)
    asked = provider.Asked(settings.model, gateway.cap_field, gateway.prices, gateway.openrouter_fields)
    model = OpenRouter(gateway)
    try:
        return list(provider.findings(await provider.look(model, settings.model), asked))
    finally:
        await model.aclose()


def diagnosis(workers: int, flower_address: str) -> list[Finding]:
    """All findings; where the settings themselves are wrong, only that."""
    try:
        settings = WorkerSettings.load()
    except SettingsError as error:
        return [fault("settings", str(error), "no worker and no producer starts", "mend what is named")]
    return asyncio.run(examined(settings, workers, flower_address))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
@click.option("--workers", default=1, show_default=True, help="How many worker processes are to run, on all machines.")
@click.option("--flower", "flower_address", default="http://127.0.0.1:5555", show_default=True, help="Where Flower is.")
def doctor(*, as_json: bool, strict: bool, workers: int, flower_address: str) -> None:
    """Look for what would go wrong: servers, limits, clocks, key, model, workers, Flower.

    Exits with 1 where something must be mended.
    """
    found = diagnosis(workers, flower_address)
    show(found, as_json=as_json, strict=strict)
    sys.exit(report.status(found, strict=strict))


def show(found: Sequence[Finding], *, as_json: bool, strict: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.document(found, strict=strict), indent=2, ensure_ascii=False))
        return
    Console().print(report.table(found))
    click.echo(report.summary(found))
