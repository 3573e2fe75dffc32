"""`make demo`: the four kinds on real text, through a real queue, worker and Flower, on any machine.

The text is the language reference that every Python carries (`pydoc_data.topics`), or a file of the user's, cut at
blank lines. Without a key the sandbox answers, and says so.
"""

import itertools
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics as language_reference
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from shoal.client import Shoal
from shoal.errors import JobFailed, ShoalError
from shoal.jobs import Args, Classify, Extract, Outcome, Rank, Summarize
from shoal.settings import ProducerSettings
from shoal_worker import services, up
from shoal_worker.settings import WorkerSettings

LABELS = {
    "statements": "a statement such as if, for, while, try, with, import, del, return, raise",
    "expressions": "operators, calls, comparisons, literals, slices and how they are evaluated",
    "classes and objects": "class definitions, attributes, methods, descriptors, special methods",
    "functions": "function definitions, parameters, decorators, lambda, generators, coroutines",
    "types and values": "numbers, strings, sequences, mappings, sets and their methods",
    "tools": "the debugger, modules, packages, execution and names",
}
FIELDS = {
    "type": "object",
    "properties": {
        "topic": {"type": "string", "description": "what the text is about, in its own words"},
        "url": {"type": "string", "description": "a web address in the text"},
        "version": {"type": "string", "description": "a version of Python that the text names"},
    },
}
QUERY = "How are exceptions raised and handled?"
SUMMARY_WORDS = 30
ROWS_SHOWN = 4
MAX_TEXTS = 100
#: A model on two cores reads some fifty tokens a second.
LOCAL_TEXTS = 4
LOCAL_CHARS = 300


@dataclass(frozen=True, slots=True)
class Helping:
    """How much is asked for: `excerpt_chars` of each text, and of the longest `summary_chars` for the summary."""

    texts: dict[str, str]
    excerpt_chars: int = 1_500
    summary_chars: int = 400_000


def paragraphs(path: Path) -> dict[str, str]:
    """A file's paragraphs by number."""
    parts = [part.strip() for part in path.read_text(errors="replace").split("\n\n")]
    return {f"{path.name} {number}": part for number, part in enumerate(filter(None, parts), 1)}


def jobs(helping: Helping) -> Iterator[tuple[str, Args[Any]]]:
    excerpts = {name: text[: helping.excerpt_chars] for name, text in helping.texts.items()}
    for name, text in excerpts.items():
        yield name, Classify(text=text, labels=LABELS)
    for name, text in excerpts.items():
        yield name, Extract(text=text, fields=FIELDS)
    documents = [{"id": name, "text": text} for name, text in excerpts.items()]
    yield QUERY, Rank(query=QUERY, documents=documents, top_k=5)
    longest = max(helping.texts.items(), key=lambda item: len(item[1]))
    yield longest[0], Summarize(text=longest[1][: helping.summary_chars], length_words=SUMMARY_WORDS)


def said(outcome: Outcome[Any]) -> str:
    """An answer in a few words."""
    result = outcome.result
    match outcome.kind:
        case "classify":
            return f"{result.label} ({result.confidence:.2f})"
        case "extract":
            return ", ".join(f"{name}={value!r}" for name, value in result.data.items() if value is not None) or "-"
        case "rank":
            return ", ".join(document.id for document in result.top)
        case _:
            return str(result.summary)


def table(answers: dict[str, list[tuple[str, Outcome[Any]]]]) -> Table:
    shown = Table(title="answers", expand=True)
    for heading in ("kind", "text", "answer", "tokens", "cost $", "run s"):
        shown.add_column(
            heading, overflow="fold", no_wrap=heading != "answer", ratio=1 if heading == "answer" else None
        )
    for kind in sorted(answers):
        rows = answers[kind]
        for name, outcome in rows[:ROWS_SHOWN]:
            usage = outcome.usage
            tokens, cost = f"{usage.input_tokens}+{usage.output_tokens}", f"{usage.cost_usd:.6f}"
            shown.add_row(kind, name[:18], said(outcome), tokens, cost, f"{outcome.run_seconds:.2f}")
        if len(rows) > ROWS_SHOWN:
            shown.add_row(kind, f"… {len(rows) - ROWS_SHOWN} more", "", "", "", "")
    return shown


def run(redis_url: str, helping: Helping, console: Console) -> bool:
    """Ask everything, show the answers; whether all came."""
    started = time.monotonic()
    answers: dict[str, list[tuple[str, Outcome[Any]]]] = {}
    dead: list[JobFailed] = []
    with Shoal(ProducerSettings(redis_url=redis_url)) as shoal:
        for name, answer in shoal.stream(jobs(helping), fresh=True):
            if isinstance(answer, JobFailed):
                dead.append(answer)
            else:
                answers.setdefault(answer.kind, []).append((name, answer))
    console.print(table(answers))
    for error in dead[:5]:
        console.print(f"dead letter {error.job_id}: {error.cause}: {error.reason}")
    outcomes = [outcome for rows in answers.values() for _, outcome in rows]
    if any(outcome.sandbox for outcome in outcomes):
        console.print("answered by the sandbox: rules, not a model; set SHOAL_OPENROUTER_API_KEY for real answers")
    cost_usd = sum(outcome.usage.cost_usd for outcome in outcomes)
    asked, seconds = len(outcomes) + len(dead), time.monotonic() - started
    click.echo(
        f"demo: kinds={len(answers)} jobs={asked} answered={len(outcomes)} dead={len(dead)} "
        f"cost_usd={cost_usd:.6f} seconds={seconds:.1f}"
    )
    return not dead and len(answers) == 4


def helping_of(texts: dict[str, str], model: str) -> Helping:
    if model == "local":
        return Helping(dict(itertools.islice(texts.items(), LOCAL_TEXTS)), LOCAL_CHARS, 2 * LOCAL_CHARS)
    return Helping(dict(itertools.islice(texts.items(), MAX_TEXTS)))


@click.command()
@click.option("--model", type=click.Choice(["", "local"]), default="", help="local: a small real model, here.")
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Text to use instead.")
def main(file: Path | None, model: str) -> None:
    """Run the demo."""
    console = Console()
    texts = paragraphs(file) if file else dict(language_reference)
    helping = helping_of(texts, model)
    settings = WorkerSettings.load()
    with services.scratch_dir() as scratch, services.running(os.environ, Path(scratch)) as tree:
        plan = up.Plan(
            sandbox=not model and settings.openrouter_api_key is None and not up.own_gateway(settings),
            flower_port=services.free_port(),
            data_dir=Path(scratch) / "valkey",
        )
        try:
            if model == "local":
                os.environ.update(services.start_local_model(tree))
                settings = WorkerSettings.load()
            addresses = up.start(tree, plan, settings)
            console.print(f"queue {addresses.redis_url}   model {addresses.model}   Flower {addresses.flower}")
            good = run(addresses.redis_url, helping, console)
        except ShoalError as error:
            sys.exit(f"error: {error}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
