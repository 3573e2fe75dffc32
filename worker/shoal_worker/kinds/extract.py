"""Extract: every value comes with its quote, and the quote is looked up in the text that was sent."""

from typing import Any

from shoal.jobs import Evidence, Extract, ExtractResult, Grounding
from shoal.schemas import is_leaf
from shoal_worker.errors import Misfit
from shoal_worker.kinds.calls import answer_cap, estimated_tokens
from shoal_worker.kinds.fence import fenced
from shoal_worker.kinds.grounding import Aligner, Match
from shoal_worker.kinds.leaves import Scalar, fitted, quoted_leaf
from shoal_worker.kinds.shapes import Schema, as_text, strict_array, strict_object
from shoal_worker.ports import Ask, Prompt
from shoal_worker.prompts import fill

SCHEMA_NAME = "shoal_extract"
#: Faults named in one misfit: enough to mend an answer, short enough not to cost like one.
MAX_FAULTS = 5
_FRAME_TOKENS, _LEAF_TOKENS = 64, 48
#: How many items an array is given room for.
_ARRAY_ITEMS = 12

Path = tuple[str | int, ...]


async def answer(args: Extract, ask: Ask) -> ExtractResult:
    return await ask(render(args), lambda said: parse(said, args))


def render(args: Extract) -> Prompt:
    return Prompt(
        system=fill("extract.v1", instructions=args.instructions.strip() or "none."),
        user=fenced("text", args.text),
        schema_name=SCHEMA_NAME,
        schema=_quoted(args.fields),
        max_completion_tokens=answer_cap(_FRAME_TOKENS + _answer_tokens(args.fields)),
    )


def parse(answer: Any, args: Extract) -> ExtractResult:
    """Raises Misfit naming every kind of fault once. What the answer leaves out is None, or an empty list."""
    reading = _Reading(args.text)
    data = reading.value(answer, args.fields, ())
    if reading.faults:
        raise Misfit("; ".join(list(reading.faults)[:MAX_FAULTS]))
    return ExtractResult(data=data, evidence=tuple(reading.evidence))


def _quoted(schema: Schema) -> Schema:
    if is_leaf(schema):
        return quoted_leaf(schema)
    described = {"description": schema["description"]} if "description" in schema else {}
    if schema["type"] == "array":
        return strict_array(_quoted(schema["items"])) | described
    return strict_object({name: _quoted(sub) for name, sub in schema["properties"].items()}) | described


def _answer_tokens(schema: Schema) -> int:
    match schema["type"]:
        case "object":
            return sum(estimated_tokens(name) + _answer_tokens(sub) for name, sub in schema["properties"].items())
        case "array":
            return _ARRAY_ITEMS * _answer_tokens(schema["items"])
        case _:
            return _LEAF_TOKENS


class _Reading:
    """Walks an answer along its schema; gathers evidence and faults on the way."""

    def __init__(self, text: str) -> None:
        self.evidence: list[Evidence] = []
        #: A dict for its order and for naming each fault once, be it in a hundred items.
        self.faults: dict[str, None] = {}
        self._aligner = Aligner(text)
        self._last: dict[tuple[str, str], Match] = {}

    def value(self, said: Any, schema: Schema, path: Path) -> Any:
        match schema["type"]:
            case "object":
                return self._object(said, schema["properties"], path)
            case "array":
                return self._array(said, schema["items"], path)
            case _:
                return self._leaf(said, schema, path)

    def _object(self, said: Any, properties: dict[str, Schema], path: Path) -> dict[str, Any]:
        if not isinstance(said, dict):
            self._expect(said is None and path != (), path, "must be a JSON object")
            said = {}
        return {name: self.value(said.get(name), sub, (*path, name)) for name, sub in properties.items()}

    def _array(self, said: Any, items: Schema, path: Path) -> list[Any]:
        """Items without any value are left out: they say nothing."""
        if not isinstance(said, list):
            self._expect(said is None, path, "must be a list")
            said = []
        kept: list[Any] = []
        for item in said:
            value = self.value(item, items, (*path, len(kept)))
            if _says_something(value):
                kept.append(value)
        return kept

    def _leaf(self, said: Any, schema: Schema, path: Path) -> Scalar | None:
        value, quote = (said.get("value"), said.get("quote")) if isinstance(said, dict) else (said, None)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        try:
            scalar = fitted(value, schema)
        except Misfit as misfit:
            self._expect(False, path, misfit.reason)
            return None
        self.evidence.append(self._evidence(as_text(quote) or "", path))
        return scalar

    def _expect(self, holds: bool, path: Path, correction: str) -> None:
        if not holds:
            self.faults[f"{_pattern(path)} {correction}"] = None

    def _evidence(self, quote: str, path: Path) -> Evidence:
        match = self._next_mention(quote, path)
        if match is None:
            return Evidence(path=path, grounding=Grounding.UNSUPPORTED)
        return Evidence(path=path, grounding=match.grounding, **match.span.model_dump())

    def _next_mention(self, quote: str, path: Path) -> Match | None:
        """The same words in the next item of a list are the next mention in the text, if there is one."""
        known = (_pattern(path), quote)
        last = self._last.get(known)
        match = self._aligner.locate(quote, last.span.end if last else 0) or last
        if match is not None:
            self._last[known] = match
        return match


def _pattern(path: Path) -> str:
    """The path without the places in lists: `items[].price`. What the reader of a misfit can act on."""
    steps = "".join("[]" if isinstance(step, int) else f".{step}" for step in path)
    return steps.removeprefix(".") or "the answer"


def _says_something(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_says_something(sub) for sub in value.values())
    return value is not None and value != []
