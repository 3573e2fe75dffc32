"""`shoal dead`: look at what was given up, and run it again or forget it."""

import asyncio
import re
import time
from itertools import islice
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from shoal.client import AsyncShoal
from shoal.deadletters import Changes, revived
from shoal.errors import InvalidJob, UnknownJob
from shoal.jobs import DeadLetter

#: The contract takes no more.
MAX_CAP_FACTOR = 64


@click.group()
def dead() -> None:
    """Jobs that were given up: list, show, replay, drop."""


@dead.command("list")
@click.option("--cause", help="Each letter of one cause: its word, or the fingerprint in the table.")
@click.option("--limit", default=50, show_default=True)
def list_letters(cause: str | None, limit: int) -> None:
    """How many died of what; with --cause, each of them."""
    table = asyncio.run(_groups(limit) if cause is None else _letters(cause, limit))
    Console().print(table)


async def _groups(limit: int) -> Table:
    table = Table("letters", "cause", "fingerprint", "newest", "its job", "its reason", box=None)
    async with AsyncShoal() as shoal:
        for group in (await shoal.dead.groups())[:limit]:
            newest = group.newest
            row = (str(group.count), newest.cause, group.fingerprint, _ago(newest), newest.id, newest.reason)
            table.add_row(*row)
    return table


async def _letters(cause: str, limit: int) -> Table:
    table = Table("job", "kind", "died", "attempts", "reason", box=None)
    async with AsyncShoal() as shoal:
        async for letter in shoal.dead.walk(cause):
            table.add_row(letter.id, letter.kind, _ago(letter), str(letter.attempts), letter.reason)
            if table.row_count >= limit:
                break
    return table


def _ago(letter: DeadLetter) -> str:
    seconds = max(0, int(time.time() - letter.died_at))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


@dead.command()
@click.argument("job_id")
def show(job_id: str) -> None:
    """One letter as JSON: the reason, each attempt with its timings, and the job with its texts."""

    async def letter() -> DeadLetter:
        async with AsyncShoal() as shoal:
            return await shoal.dead.letter(job_id)

    click.echo(asyncio.run(letter()).model_dump_json(indent=2))


@dead.command()
@click.argument("job_ids", nargs=-1)
@click.option("--cause", help="All of one cause: its word or fingerprint.")
@click.option("--all", "everything", is_flag=True, help="Every letter there is.")
@click.option("--limit", type=click.IntRange(min=1), help="This many at the most, the newest first.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="max_completion_tokens=2x, model=…, …")
@click.option("--dry-run", is_flag=True, help="Say which, and do nothing.")
def replay(
    job_ids: tuple[str, ...], limit: int | None, settings: tuple[str, ...], *, dry_run: bool, **which: Any
) -> None:
    """Run jobs again under their own ids."""
    changes = changes_of(settings)

    async def again() -> tuple[int, int]:
        async with AsyncShoal() as shoal:
            ids = await _chosen(shoal, job_ids, which, limit)
            refused = 0
            for job_id in ids:
                try:
                    letter = await shoal.dead.letter(job_id)
                    if dry_run:
                        revived(letter, changes, lifetime_seconds=1, now=0)
                    else:
                        await shoal.replay(letter, changes)
                    click.echo(job_id)
                except (InvalidJob, UnknownJob) as error:
                    refused += 1
                    click.echo(f"error: {error}", err=True)
            return len(ids) - refused, refused

    replayed, refused = asyncio.run(again())
    click.echo(f"{'would replay' if dry_run else 'replayed'} {replayed}, refused {refused}", err=True)
    raise SystemExit(1 if refused else 0)


@dead.command()
@click.argument("job_ids", nargs=-1)
@click.option("--cause", help="All of one cause: its word or fingerprint.")
@click.option("--all", "everything", is_flag=True, help="Every letter there is.")
@click.option("--limit", type=click.IntRange(min=1), help="This many at the most, the newest first.")
@click.option("--dry-run", is_flag=True, help="Say how many, and do nothing.")
def drop(job_ids: tuple[str, ...], limit: int | None, *, dry_run: bool, **which: Any) -> None:
    """Forget letters."""

    async def gone() -> int:
        async with AsyncShoal() as shoal:
            ids = await _chosen(shoal, job_ids, which, limit)
            return len(ids) if dry_run else await shoal.dead.drop(ids)

    click.echo(f"{'would drop' if dry_run else 'dropped'} {asyncio.run(gone())}")


async def _chosen(shoal: AsyncShoal, job_ids: tuple[str, ...], which: dict[str, Any], limit: int | None) -> list[str]:
    cause, everything = which["cause"], which["everything"]
    if sum((bool(job_ids), cause is not None, everything)) != 1:
        raise click.UsageError("say which: job ids, or --cause, or --all")
    found = list(job_ids) or [letter.id async for letter in shoal.dead.walk(cause)]
    return list(islice(found, limit))


def changes_of(settings: tuple[str, ...]) -> Changes:
    """`--set` in words. Raises click's BadParameter that names what can be set."""
    cap_factor: float | None = None
    model: str | None = None
    expires_in_seconds: float | None = None
    for setting in settings:
        name, _, value = setting.partition("=")
        times = float(value[:-1]) if re.fullmatch(r"\d+(\.\d+)?x", value) else 0.0
        if name == "max_completion_tokens" and 0 < times <= MAX_CAP_FACTOR:
            cap_factor = times
        elif name == "model" and value:
            model = value
        elif name == "expires_in_seconds" and re.fullmatch(r"[1-9]\d*", value):
            expires_in_seconds = float(value)
        else:
            known = "max_completion_tokens=2x, model=NAME, expires_in_seconds=3600"
            raise click.BadParameter(f"{setting!r}: known are {known}", param_hint="--set")
    return Changes(cap_factor, model, expires_in_seconds)
