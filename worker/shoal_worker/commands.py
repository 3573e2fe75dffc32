"""The worker's part of the `shoal` command."""

import asyncio

import click
import psycopg

from shoal.book import job_book
from shoal.errors import QueueUnavailable, SettingsError
from shoal.postgres_jobs import PostgresJobs
from shoal.settings import ProducerSettings
from shoal_worker.doctor.command import doctor
from shoal_worker.exporter import metrics
from shoal_worker.flower_app import flower
from shoal_worker.health import health
from shoal_worker.stores import migrations
from shoal_worker.up import up
from shoal_worker.why import why


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("celery_options", nargs=-1, type=click.UNPROCESSED)
def worker(celery_options: tuple[str, ...]) -> None:
    """One worker process; further options are `celery worker`'s."""
    from shoal_worker.main import app

    app.worker_main(["worker", "--without-gossip", "--without-mingle", *celery_options])


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def sandbox(options: tuple[str, ...]) -> None:
    """An offline OpenRouter: rules in place of a model, every fault on demand."""
    from shoal_worker.sandbox.__main__ import main

    main(list(options), prog_name="shoal sandbox")


def _postgres_settings() -> ProducerSettings:
    settings = ProducerSettings.load()
    if not settings.in_postgres:
        raise SettingsError("set SHOAL_RESULT_URL to a Postgres: results in Redis need no tables and have no outbox")
    return settings


@click.command()
def migrate() -> None:
    """Make or update the tables in Postgres. Safe to run again, and from several places at once."""
    settings = _postgres_settings()
    try:
        applied = migrations.migrate(settings.results)
    except psycopg.Error as error:
        raise QueueUnavailable(f"the database refused: {type(error).__name__}: {error}") from None
    click.echo("\n".join(f"applied {name}" for name in applied) or "nothing to do")


@click.command()
@click.option("--older-than-seconds", default=0.0, help="Leave alone what was enqueued later than that.")
def recover(older_than_seconds: float) -> None:
    """Queue again what Postgres accepted and nobody answered: for a queue that has lost its messages.

    What is still in the queue is queued twice then, and runs once.
    """
    settings = _postgres_settings()

    async def again() -> int:
        book = job_book(settings)
        assert isinstance(book, PostgresJobs)
        try:
            count = await book.recover(older_than_seconds)
            while await book.publish_due():
                pass
        finally:
            await book.aclose()
        return count

    click.echo(f"queued {asyncio.run(again())} jobs again")


COMMANDS = {
    "up": up,
    "worker": worker,
    "sandbox": sandbox,
    "migrate": migrate,
    "recover": recover,
    "metrics": metrics,
    "flower": flower,
    "health": health,
    "why": why,
    "doctor": doctor,
}
