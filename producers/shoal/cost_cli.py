"""`shoal cost`: what was billed, what may have been, and what was saved."""

import asyncio
import json
import re
from datetime import UTC, date, datetime, timedelta

import click
from rich.console import Console
from rich.table import Table

from shoal.client import AsyncShoal
from shoal.costs import Cost, Labels, grouped, total, usd

GROUPS = ("day", "kind", "tenant", "model")
#: The sums are kept no longer.
MAX_DAYS = 400
HEADINGS = (
    *("billed\ncalls", "billed\n$"),
    *("maybe\nbilled", "at most\n$"),
    *("replays", "saved\n$", "prompt\ncache\nsaved $"),
    *("joins", "saved\n$"),
)


def first_day(since: str, today: date) -> date:
    """`7d` are seven days with today; a date is itself. Raises click's BadParameter."""
    if match := re.fullmatch(r"([1-9]\d{0,2})d", since):
        return today - timedelta(min(int(match[1]), MAX_DAYS) - 1)
    try:
        return max(date.fromisoformat(since), today - timedelta(MAX_DAYS - 1))
    except ValueError:
        raise click.BadParameter(f"{since!r}: say 7d, or a date such as 2026-03-01", param_hint="--since") from None


@click.command()
@click.option("--by", type=click.Choice(GROUPS), default="day", show_default=True)
@click.option("--since", default="7d", show_default=True, help="So many days with today, or a date (UTC).")
@click.option("--json", "as_json", is_flag=True, help="The same for programs, with the tokens.")
def cost(by: str, since: str, *, as_json: bool) -> None:
    """What calls cost: billed, maybe billed, and saved by replays, the prompt cache and joined jobs."""
    today = datetime.now(UTC).date()
    first = first_day(since, today)
    groups = grouped(_read(first, today), lambda labels: str(getattr(labels, by)))
    if as_json:
        rows = [{by: name, **sums.as_json()} for name, sums in groups.items()]
        click.echo(json.dumps({"since": str(first), "rows": rows, "total": total(groups.values()).as_json()}, indent=2))
    else:
        Console().print(table_of(by, groups))


def _read(first: date, last: date) -> dict[Labels, Cost]:
    async def read() -> dict[Labels, Cost]:
        async with AsyncShoal() as shoal:
            return await shoal.costs.between(first, last)

    return asyncio.run(read())


def table_of(by: str, groups: dict[str, Cost]) -> Table:
    """One line a group and their total. `at most` is what the maybe-billed calls can have cost."""
    table = Table(box=None, show_footer=True, padding=(0, 2, 0, 0))
    sums = _cells(total(groups.values()))
    table.add_column(by, footer="total", overflow="fold", min_width=10)
    for heading, summed in zip(HEADINGS, sums, strict=True):
        table.add_column(heading, footer=summed, justify="right", no_wrap=True)
    for name, group in groups.items():
        table.add_row(name or "–", *_cells(group))
    return table


def _cells(group: Cost) -> tuple[str, ...]:
    return (
        _count(group.billed_calls),
        _money(group.billed_nano_usd),
        _count(group.maybe_calls),
        _money(group.maybe_nano_usd),
        _count(group.replayed_calls),
        _money(group.replay_saved_nano_usd),
        _money(group.cache_saved_nano_usd),
        _count(group.joined_jobs),
        _money(group.joined_saved_nano_usd),
    )


def _count(number: int) -> str:
    return f"{number:,}" if number < 1_000_000 else f"{number / 1_000_000:,.2f}M"


def _money(nano: int) -> str:
    """USD: to the cent where there are dollars, to the millionth where there are none."""
    amount = usd(nano)
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.6f}" if nano else "0"
