"""The worker's part of the `shoal` command."""

import click

from shoal_worker.up import up


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


COMMANDS = {"up": up, "worker": worker, "sandbox": sandbox}
