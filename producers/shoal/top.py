"""`shoal top`: the fleet in a terminal, looked at each second; `--once` and `--json` for scripts and for logs."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shoal.errors import QueueUnavailable
from shoal.fleet import FleetView, Lane
from shoal.overview import Lookout, Overview
from shoal.settings import ProducerSettings

LOOK_SECONDS = 1.0
#: What a terminal has no room for is not shown; where there is none, so many workers are.
MOST_WORKERS = 40
#: Lines of a frame that are no workers, with a model or two.
OTHER_LINES = 19
#: Smaller numbers are shown to the last digit.
MILLIONS_FROM = 10_000_000


def frame(seen: Overview, most_workers: int) -> RenderableType:
    """One look, for 80 columns and more. Colour only repeats what the words say."""
    view = seen.fleet
    parts: list[RenderableType] = [_summary(view), "", _lanes(view), "", *_calls(view), *_faults(seen), ""]
    return Group(*parts, _workers(view, most_workers))


def _summary(view: FleetView) -> Text:
    text = Text(overflow="ellipsis", no_wrap=True)
    text.append(f"{_count(view.backlog_jobs)} jobs wait", style="bold")
    if not view.workers:
        return text.append("; no worker is there", style="bold red")
    text.append(
        f", {_count(view.running)} run in {_count(view.slots)} slots, {view.done_per_second:,.0f} end a second; "
    )
    return text.append(f"drained in {_span(view.drain_seconds)}")


def _lanes(view: FleetView) -> Table:
    table = _table(("backlog", "left"), ("messages", "right"), ("jobs", "right"), ("tenants with the most", "left"))
    for name, lane in view.lanes.items():
        table.add_row(name, _count(lane.messages), _count(lane.jobs), _tenants(lane))
    fetched = view.held - view.running
    table.add_row("fetched", _count(view.unacked), _count(fetched), "with workers, and not running")
    table.add_row("parked", _count(view.parked), _count(view.parked), "for their time: retries, the outbox")
    return table


def _tenants(lane: Lane) -> str:
    if not any(lane.tenants):
        return ""
    return ", ".join(f"{tenant or 'nobody'} {_count(some.jobs)}" for tenant, some in lane.tenants.items())


def _calls(view: FleetView) -> Iterable[Text]:
    for calls in view.calls:
        limit = "no limit known" if calls.rate is None else f"at most {calls.rate:,.1f}/s"
        flight = f"{_count(calls.in_flight)} in flight, {_count(calls.waiting)} held back"
        yield Text(f"calls        {calls.model}: {flight}, {limit}")
        if calls.probe_seconds is not None:
            text = f"             the provider fails: one call probes it, the next in {calls.probe_seconds:.0f} s"
            yield Text(text, style="red")
        elif calls.paused_seconds > 0:
            yield Text(f"             all pause for {calls.paused_seconds:.0f} s: it asked for it", style="yellow")


def _faults(seen: Overview) -> Iterable[Text]:
    minute = seen.fleet.minute
    calls = f"{_count(minute.calls)} calls, {_count(minute.refused)} refused"
    tokens = f"{_count(minute.input_tokens)} tokens in, {_count(minute.output_tokens)} out"
    yield Text(f"last minute  {calls}, ${minute.cost_usd:,.4f}, {tokens}")
    yield Text(f"failed       {_causes(minute.failures) or 'nothing'}", style="yellow" if minute.failures else "")
    if seen.dead is None:
        yield Text("dead         the results do not answer", style="red")
    else:
        yield Text(f"dead         {_causes(seen.dead) or 'nothing'}", style="red" if seen.dead else "")


def _causes(counts: Any) -> str:
    return ", ".join(f"{cause} {_count(number)}" for cause, number in sorted(counts.items(), key=lambda each: -each[1]))


def _workers(view: FleetView, most: int) -> RenderableType:
    table = _table(("workers", "left"), ("slots", "right"), ("running", "right"), ("held", "right"))
    table.add_column("jobs/s", justify="right")
    table.add_column("memory", justify="right")
    shown = sorted(view.workers, key=lambda worker: worker.name)[:most]
    for worker in shown:
        memory = f"{worker.memory_bytes / 1e6:,.0f} MB" if worker.memory_bytes else ""
        counts = map(_count, (worker.slots, worker.running, worker.held))
        table.add_row(worker.name, *counts, f"{worker.done_per_second:,.0f}", memory)
    hidden = len(view.workers) - len(shown)
    return Group(table, f"and {hidden} more") if hidden else table


def _table(*columns: tuple[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for place, (name, justify) in enumerate(columns):
        table.add_column(name, justify=justify, no_wrap=True, min_width=11 if place == 0 else len(name))
    return table


def _count(number: int) -> str:
    return f"{number:,}" if number < MILLIONS_FROM else f"{number / 1e6:,.1f} M"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def as_json(seen: Overview) -> dict[str, Any]:
    """The same for programs, with what is derived."""
    view = seen.fleet
    names = ("backlog_jobs", "drain_seconds", "running", "held", "slots", "done_per_second", "capacity_per_second")
    return {
        **{name: getattr(view, name) for name in names},
        "parked": view.parked,
        "unacked": view.unacked,
        "lanes": {name: asdict(lane) for name, lane in view.lanes.items()},
        "calls": [calls.model_dump() for calls in view.calls],
        "last_minute": view.minute.model_dump(),
        "dead_letters": seen.dead,
        "workers": [worker.model_dump() for worker in view.workers],
    }


async def _once(settings: ProducerSettings) -> Overview:
    async with Lookout(settings) as lookout:
        return await lookout.look()


async def _live(settings: ProducerSettings, console: Console) -> None:
    """Until Ctrl-C. While the queue is away the last frame stays, with what is wrong."""
    async with Lookout(settings) as lookout:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            last: RenderableType = ""
            while True:
                began = time.monotonic()
                try:
                    last = frame(await lookout.look(), max(1, console.height - OTHER_LINES))
                    live.update(Group(_heading(), last), refresh=True)
                except QueueUnavailable as error:
                    live.update(Group(_heading(), Text(str(error), style="bold red"), last), refresh=True)
                await asyncio.sleep(max(0.0, began + LOOK_SECONDS - time.monotonic()))


def _heading() -> Text:
    return Text(f"shoal top  {time.strftime('%H:%M:%S')}, Ctrl-C ends it", style="dim")


@click.command()
@click.option("--once", is_flag=True, help="One frame, and end; so it is too where the output is no terminal.")
@click.option("--json", "is_json", is_flag=True, help="One look as JSON.")
def top(*, once: bool, is_json: bool) -> None:
    """What waits, what runs, what calls are held to, what fails and what it costs, in this moment."""
    settings, console = ProducerSettings.load(), Console()
    if is_json:
        click.echo(json.dumps(as_json(asyncio.run(_once(settings))), indent=2))
    elif once or not console.is_terminal:
        console.print(frame(asyncio.run(_once(settings)), MOST_WORKERS))
    else:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_live(settings, console))
