"""One extracted value: how its schema is told to a provider, and how the value is checked when it comes back.

Strict modes take a type and choices. The other keywords are told in the description and checked here.
"""

from collections.abc import Callable
from datetime import date, datetime, time
from typing import Any
from uuid import UUID

import regex

from shoal_worker.errors import Misfit
from shoal_worker.kinds.shapes import (
    Schema,
    as_choice,
    as_integer,
    as_number,
    as_text,
    strict_choice,
    strict_object,
)

Scalar = str | int | float | bool

PATTERN_SECONDS = 0.05
_TOLD = {
    "format": "Format: {}.",
    "pattern": "Pattern: {}",
    "minimum": "At least {}.",
    "maximum": "At most {}.",
}
#: Those that callers parse next; each raises ValueError. Other formats are told to the model and not checked.
_FORMATS: dict[str, Callable[[str], object]] = {
    "date": date.fromisoformat,
    "date-time": datetime.fromisoformat,
    "time": time.fromisoformat,
    "uuid": UUID,
}


def quoted_leaf(schema: Schema) -> Schema:
    """The strict schema of a value that may be missing, with its quote."""
    return strict_object(
        {
            "value": {"anyOf": [_strict_scalar(schema), {"type": "null"}]},
            "quote": {"type": ["string", "null"]},
        }
    )


def _strict_scalar(schema: Schema) -> Schema:
    scalar: Schema = {"type": schema["type"]}
    choices = schema.get("enum")
    if choices:
        scalar |= strict_choice(choices) if schema["type"] == "string" else {"enum": choices}
    told = [schema["description"]] if "description" in schema else []
    told += [words.format(schema[keyword]) for keyword, words in _TOLD.items() if keyword in schema]
    return scalar | ({"description": " ".join(told)} if told else {})


def fitted(value: Any, schema: Schema) -> Scalar:
    """The value in its schema's type. Raises Misfit with the smallest correction, without the value's path."""
    scalar = _typed(value, schema["type"])
    if schema.get("enum"):
        return _chosen(scalar, schema["enum"])
    if isinstance(scalar, str):
        _check_text(scalar, schema)
    elif not isinstance(scalar, bool):
        _check_range(scalar, schema)
    return scalar


def _typed(value: Any, kind: str) -> Scalar:
    match kind:
        case "string":
            scalar: Scalar | None = str(value) if _is_plain_integer(value) else as_text(value)
        case "integer":
            scalar = as_integer(value)
        case "number":
            scalar = as_number(value)
        case _:
            scalar = _as_boolean(value)
    if scalar is None:
        raise Misfit(f"must be {'an' if kind == 'integer' else 'a'} {kind} or null")
    return scalar


def _is_plain_integer(value: Any) -> bool:
    """One that every JSON reader writes in the same digits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _as_boolean(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else None


def _chosen(scalar: Scalar, choices: list[Any]) -> Scalar:
    names = [choice for choice in choices if isinstance(choice, str)]
    chosen = as_choice(scalar, names) if isinstance(scalar, str) else scalar
    if chosen is None or chosen not in choices:
        raise Misfit("must be one of the choices in the schema, or null")
    return chosen


def _check_text(text: str, schema: Schema) -> None:
    if "pattern" in schema and not _matches(schema["pattern"], text):
        raise Misfit("must match the pattern in its description, or be null")
    parse = _FORMATS.get(schema.get("format", ""))
    try:
        if parse is not None:
            parse(text)
    except ValueError:
        raise Misfit(f"must be in the format {schema['format']}, or null") from None


def _check_range(number: float, schema: Schema) -> None:
    if "minimum" in schema and number < schema["minimum"]:
        raise Misfit("must not be below the minimum in its description, or be null")
    if "maximum" in schema and number > schema["maximum"]:
        raise Misfit("must not be above the maximum in its description, or be null")


def _matches(pattern: str, text: str) -> bool:
    """Bounded in time: a caller's pattern may backtrack for ever, and the loop would wait with it."""
    try:
        return regex.search(pattern, text, timeout=PATTERN_SECONDS) is not None
    except (TimeoutError, regex.error):
        return False
