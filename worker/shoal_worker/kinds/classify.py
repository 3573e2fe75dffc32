"""Classify: the evidence is asked for before the label, so that the choice can lean on it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from shoal.jobs import NONE_OF_THESE, Classify, ClassifyResult, Label, ScoredLabel, Span
from shoal_worker.errors import Misfit
from shoal_worker.kinds.calls import answer_cap, estimated_tokens
from shoal_worker.kinds.fence import fenced
from shoal_worker.kinds.grounding import Aligner
from shoal_worker.kinds.shapes import (
    array_member,
    as_choice,
    as_number,
    as_text,
    member,
    strict_array,
    strict_choice,
    strict_object,
)
from shoal_worker.ports import Ask, Prompt
from shoal_worker.prompts import fill

SCHEMA_NAME = "shoal_classify"
#: The evidence and the punctuation of the answer; and what each label costs beside its name.
_FRAME_TOKENS, _LABEL_TOKENS = 160, 16


async def answer(args: Classify, ask: Ask) -> ClassifyResult:
    return await ask(render(args), lambda said: parse(said, args))


def render(args: Classify) -> Prompt:
    frame = _frame(args.labels, args.many, args.none_of_these)
    return Prompt(frame.system, fenced("text", args.text), SCHEMA_NAME, frame.schema, frame.cap)


@dataclass(frozen=True, slots=True)
class Frame:
    """What is the same for all texts of one set of labels."""

    names: list[str]
    system: str
    schema: dict[str, Any]
    cap: int


@lru_cache(maxsize=256)
def _frame(labels: tuple[Label, ...], many: bool, none_of_these: bool) -> Frame:
    names = [label.name for label in labels] + ([NONE_OF_THESE] if none_of_these else [])
    system = fill(
        "classify_many.v1" if many else "classify.v1", labels="\n".join(map(_line, _shown(labels, none_of_these)))
    )
    return Frame(names, system, _schema(names, many), _cap(names, many))


def _shown(labels: tuple[Label, ...], none_of_these: bool) -> tuple[Label, ...]:
    none = (Label(name=NONE_OF_THESE, description="no other label fits"),) if none_of_these else ()
    return labels + none


def parse(answer: Any, args: Classify) -> ClassifyResult:
    """Raises Misfit. Labels may differ from the given ones in case and white space, and may be repeated."""
    fitting = _labels(array_member(answer, "labels"), args) if args.many else [_label(answer, "", args)]
    surest: dict[str, float] = {}
    for name, confidence in fitting:
        surest[name] = max(confidence, surest.get(name, 0.0))
    surest.pop(NONE_OF_THESE, None)
    labels = sorted(surest.items(), key=lambda scored: -scored[1])
    return ClassifyResult(
        labels=tuple(ScoredLabel(name=name, confidence=confidence) for name, confidence in labels),
        evidence=_evidence(member(answer, "evidence"), args.text),
    )


def _line(label: Label) -> str:
    name, description = " ".join(label.name.split()), " ".join(label.description.split())
    return f"- {name}: {description}" if description else f"- {name}"


def _schema(names: list[str], many: bool) -> dict[str, Any]:
    scored = {"label": strict_choice(names), "confidence": {"type": "number"}}
    chosen = {"labels": strict_array(strict_object(scored))} if many else scored
    return strict_object({"evidence": {"type": "string"}, **chosen})


def _cap(names: list[str], many: bool) -> int:
    sizes = [estimated_tokens(name) + _LABEL_TOKENS for name in names]
    return answer_cap(_FRAME_TOKENS + (sum(sizes) if many else max(sizes)))


def _labels(said: list[Any], args: Classify) -> list[tuple[str, float]]:
    return [_label(item, f"labels[{place}].", args) for place, item in enumerate(said)]


def _label(said: Any, path: str, args: Classify) -> tuple[str, float]:
    name = as_choice(member(said, "label"), _frame(args.labels, args.many, args.none_of_these).names)
    if name is None:
        raise Misfit(f"{path}label must be one of the given labels")
    confidence = as_number(member(said, "confidence"))
    if confidence is None:
        raise Misfit(f"{path}confidence must be a number from 0 to 1")
    return name, min(max(float(confidence), 0.0), 1.0)


def _evidence(said: Any, text: str) -> Span | None:
    quote = as_text(said)
    found = Aligner(text).locate(quote) if quote else None
    return found.span if found else None
