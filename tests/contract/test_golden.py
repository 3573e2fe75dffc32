"""The wire form, pinned. A golden file never changes; where a form gains a field it gets a newer sibling.

`NAME.v1.json` is the first form of contract version 1, `NAME.v1.2.json` the second: the newest is what is written, all
of them are read. `python tests/contract/test_golden.py` writes what is missing.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from shoal import (
    Attempt,
    Classify,
    ClassifyResult,
    DeadLetter,
    Document,
    Evidence,
    Extract,
    ExtractResult,
    Grounding,
    JobFailed,
    Label,
    Outcome,
    Rank,
    RankedDocument,
    RankResult,
    ScoredLabel,
    Span,
    Summarize,
    SummarizeResult,
    SummarySentence,
    Usage,
)
from shoal.jobs import KINDS, RESULTS, JobMessage
from shoal.records import answered, decoded, failed

GOLDEN = Path(__file__).parent / "golden"
FIELDS = {"type": "object", "properties": {"total": {"type": "number"}}}
TRIED = Attempt(
    number=1,
    began_at=1_795_000_001.25,
    ended_at=1_795_000_001.75,
    cause="provider_unavailable",
    reason="status 502",
    worker="17@host/0a1b2c3d",
)
USAGE = Usage(input_tokens=412, cached_tokens=0, reasoning_tokens=0, output_tokens=58, cost_usd=0.0001549, calls=1)


def outcome(kind: str, result: Any) -> Outcome[Any]:
    return RESULTS[kind](
        job_id="3f0c1c1e-0000-5000-8000-000000000000",
        kind=kind,
        result=result,
        usage=USAGE,
        model="openai/gpt-5.4-nano-20260317",
        provider="OpenAI",
        generation_ids=("gen-1795000001-DWHQcPTK6DB2j2ON9Nuq",),
        attempts=1,
        queue_seconds=0.25,
        run_seconds=0.5,
        finished_at=1_795_000_002.5,
    )


EXAMPLES: dict[str, BaseModel] = {
    "classify.args": Classify(
        text="I was charged twice", labels=(Label(name="billing", description="money"), Label(name="bug")), many=True
    ),
    "extract.args": Extract(text="Total: $12.50", fields=FIELDS, instructions="in dollars"),
    "rank.args": Rank(query="cat food", documents=(Document(id="a", text="cats eat"),), top_k=1, criterion="useful"),
    "summarize.args": Summarize(text="A long story.", length_words=50, focus="plot", style="bullets", language="de"),
    "classify.outcome": outcome(
        "classify",
        ClassifyResult(
            labels=(ScoredLabel(name="billing", confidence=0.9),), evidence=Span(start=2, end=5, quote="was")
        ),
    ),
    "extract.outcome": outcome(
        "extract",
        ExtractResult(
            data={"total": 12.5},
            evidence=(Evidence(path=("total",), grounding=Grounding.EXACT, start=7, end=13, quote="$12.50"),),
        ),
    ),
    "rank.outcome": outcome(
        "rank",
        RankResult(ranking=(RankedDocument(id="a", index=0, score=3),), top_k=1, repaired=("a",)),
    ),
    "summarize.outcome": outcome(
        "summarize",
        SummarizeResult(
            summary="Short.",
            sentences=(SummarySentence(text="Short.", sources=(Span(start=0, end=13, quote="A long story."),)),),
        ),
    ),
    "message": JobMessage(
        id="3f0c1c1e-0000-5000-8000-000000000000",
        key="/work:abc",
        fingerprint="abc",
        kind="classify",
        args={"text": "I was charged twice", "labels": [{"name": "billing"}, {"name": "bug"}]},
        enqueued_at=1_795_000_000.0,
        expires_at=1_795_086_400.0,
        history=(TRIED,),
    ),
    "dead_letter": DeadLetter(
        id="x",
        kind="classify",
        cause="misfit",
        reason="label: not given",
        attempts=6,
        died_at=1.5,
        history=(TRIED,),
        message={"id": "x"},
    ),
}


def forms(name: str) -> list[Path]:
    """The golden files of one name, the newest last."""
    newer = GOLDEN.glob(f"{name}.v1.*.json")
    return [GOLDEN / f"{name}.v1.json", *sorted(newer, key=lambda path: int(path.name.split(".")[-2]))]


def form_of(path: Path) -> str:
    return re.sub(r"\.v1(\.\d+)?\.json$", "", path.name)


FILES = sorted(GOLDEN.iterdir())


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_written_is_the_newest_golden_form(name: str) -> None:
    assert json.loads(EXAMPLES[name].model_dump_json()) == json.loads(forms(name)[-1].read_text())


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_newest_golden_form_is_read_back_whole(name: str) -> None:
    assert type(EXAMPLES[name]).model_validate_json(forms(name)[-1].read_text()) == EXAMPLES[name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_golden_form_is_read_and_what_it_does_not_have_is_a_default(path: Path) -> None:
    model = type(EXAMPLES[form_of(path)])
    read = model.model_validate_json(path.read_text())
    assert json.loads(read.model_dump_json(exclude_unset=True)) == json.loads(path.read_text())


def test_a_message_from_before_a_field_existed_reads_as_its_default() -> None:
    added = {"cap_factor", "round"}
    oldest = json.loads(forms("message")[0].read_text())
    older = {name: value for name, value in oldest.items() if name not in added}
    assert JobMessage.model_validate(older) == JobMessage.model_validate(oldest)


def test_a_producer_refuses_unknown_fields_and_a_worker_ignores_them() -> None:
    newer = {**json.loads(forms("message")[-1].read_text()), "version": 7, "colour": "blue"}
    newer["args"]["mood"] = "calm"
    newer["history"][0]["weather"] = "rain"
    with pytest.raises(ValidationError, match="colour"):
        JobMessage.model_validate(newer)
    message = JobMessage.model_validate(newer, extra="ignore")
    assert message.arguments() == Classify(text="I was charged twice", labels=("billing", "bug"))
    assert message.history == (TRIED,)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_survives_its_record(kind: str) -> None:
    example = EXAMPLES[f"{kind}.outcome"]
    assert isinstance(example, Outcome)
    assert decoded(answered(example)) == example


def test_a_failure_survives_its_record() -> None:
    read = decoded(failed(JobFailed("no credit", "id-1", "out_of_money", 3), 1.0))
    assert isinstance(read, JobFailed)
    assert (read.reason, read.job_id, read.cause, read.attempts) == ("no credit", "id-1", "out_of_money", 3)


def write_missing() -> None:
    """A first file, or a newer sibling, for each form that is written otherwise than its newest file says."""
    for name, model in EXAMPLES.items():
        known = [path for path in forms(name) if path.exists()]
        written = model.model_dump(mode="json")
        if not known or json.loads(known[-1].read_text()) != written:
            revision = f".{len(known) + 1}" if known else ""
            (GOLDEN / f"{name}.v1{revision}.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    write_missing()
