"""Classify: the evidence is asked for before the label, so that the choice can lean on it."""

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
    asset = "classify_many.v1" if args.many else "classify.v1"
    return Prompt(
        system=fill(asset, labels="\n".join(_lines(args))),
        user=fenced("text", args.text),
        schema_name=SCHEMA_NAME,
        schema=_schema(args),
        max_completion_tokens=_cap(args),
    )


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


def _names(args: Classify) -> list[str]:
    return [label.name for label in args.labels] + ([NONE_OF_THESE] if args.none_of_these else [])


def _lines(args: Classify) -> list[str]:
    none = [Label(name=NONE_OF_THESE, description="no other label fits")] if args.none_of_these else []
    return [_line(label) for label in (*args.labels, *none)]


def _line(label: Label) -> str:
    name, description = " ".join(label.name.split()), " ".join(label.description.split())
    return f"- {name}: {description}" if description else f"- {name}"


def _schema(args: Classify) -> dict[str, Any]:
    scored = {"label": strict_choice(_names(args)), "confidence": {"type": "number"}}
    chosen = {"labels": strict_array(strict_object(scored))} if args.many else scored
    return strict_object({"evidence": {"type": "string"}, **chosen})


def _cap(args: Classify) -> int:
    sizes = [estimated_tokens(name) + _LABEL_TOKENS for name in _names(args)]
    return answer_cap(_FRAME_TOKENS + (sum(sizes) if args.many else max(sizes)))


def _labels(said: list[Any], args: Classify) -> list[tuple[str, float]]:
    return [_label(item, f"labels[{place}].", args) for place, item in enumerate(said)]


def _label(said: Any, path: str, args: Classify) -> tuple[str, float]:
    name = as_choice(member(said, "label"), _names(args))
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
