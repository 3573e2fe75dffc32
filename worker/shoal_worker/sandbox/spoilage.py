"""Answers that are wrong inside. A model did work for each of them, so each is billed.

A fault that makes no sense for a kind (a broken permutation of a classification) leaves the answer as it is.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from shoal_worker.sandbox.answers import content_of
from shoal_worker.sandbox.completions import LENGTH, Completion
from shoal_worker.sandbox.faults import Fault

NOWHERE = "words that stand nowhere in the text"
_UNKNOWN_LABEL = "a label that nobody offered"
_TOKENS_OF_A_REFUSAL = 12


def spoiled(fault: Fault, value: Any, completion: Completion) -> Completion:
    """The completion with the fault in it; `value` is the answer that it would have said."""
    if fault in _ENDINGS:
        return _ENDINGS[fault](completion)
    if fault in _VALUES:
        return completion.saying(content_of(_VALUES[fault](value)))
    return completion


def _length_empty(completion: Completion) -> Completion:
    spent = completion.max_tokens or 256
    finish, native = LENGTH
    return replace(
        completion,
        content="",
        finish_reason=finish,
        native_finish_reason=native,
        completion_tokens=spent,
        reasoning_tokens=spent,
    )


def _content_filter(completion: Completion) -> Completion:
    return replace(
        completion,
        content="",
        finish_reason="content_filter",
        native_finish_reason="content_filter",
        completion_tokens=_TOKENS_OF_A_REFUSAL,
    )


def _refusal(completion: Completion) -> Completion:
    refusal = "I'm sorry, but I cannot assist with that request."
    return replace(completion, content=None, refusal=refusal, completion_tokens=_TOKENS_OF_A_REFUSAL)


def _empty_stop(completion: Completion) -> Completion:
    return replace(completion, content="", completion_tokens=0)


def _bad_json(completion: Completion) -> Completion:
    content = completion.content or ""
    return completion.saying(content[: max(1, len(content) * 2 // 3)])


_ENDINGS: dict[Fault, Callable[[Completion], Completion]] = {
    Fault.LENGTH_EMPTY: _length_empty,
    Fault.CONTENT_FILTER: _content_filter,
    Fault.REFUSAL: _refusal,
    Fault.EMPTY_STOP: _empty_stop,
    Fault.BAD_JSON: _bad_json,
}


def _misfit_json(_value: Any) -> Any:
    return {"unexpected": "valid JSON of another shape"}


def _misfit_values(value: Any) -> Any:
    """The right shape with values that the schema or the request does not allow."""
    match value:
        case {"label": str()}:
            return value | {"label": _UNKNOWN_LABEL}
        case {"labels": list()}:
            return value | {"labels": [{"label": _UNKNOWN_LABEL, "confidence": 0.9}]}
        case {"ranking": list(ranking)}:
            return {"ranking": [one | {"score": 99} for one in ranking]}
        case {"sentences": list(told)}:
            return {"sentences": [one | {"sources": [9999]} for one in told]}
    fields = list(_fields(value))
    for field in fields:
        field["value"] = ["no", "scalar"]
    return value if fields else _misfit_json(value)


def _broken_permutation(value: Any) -> Any:
    """The last document left out, the first told twice."""
    match value:
        case {"ranking": [first, *rest]}:
            return {"ranking": [first, *rest[:-1], first]}
    return value


def _unsupported_quotes(value: Any) -> Any:
    if isinstance(value, dict) and "evidence" in value:
        return value | {"evidence": NOWHERE}
    for field in _fields(value):
        field["quote"] = NOWHERE
    return value


def _fields(value: Any) -> Iterator[dict[str, Any]]:
    """The fields of an extraction, wherever they are."""
    if isinstance(value, dict):
        if value.keys() == {"value", "quote"}:
            yield value
        for inside in value.values():
            yield from _fields(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _fields(inside)


_VALUES: dict[Fault, Callable[[Any], Any]] = {
    Fault.MISFIT_JSON: _misfit_json,
    Fault.MISFIT_VALUES: _misfit_values,
    Fault.BROKEN_PERMUTATION: _broken_permutation,
    Fault.UNSUPPORTED_QUOTES: _unsupported_quotes,
}
