"""The shapes of answers: how they are told to a provider, and how they are read back.

Providers' strict modes want every property required and no other allowed, and they differ in which keywords they
take; so schemas hold types, choices and descriptions only, and everything else is checked here when the answer comes.
"""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from shoal_worker.errors import Misfit

#: OpenAI's strict mode refuses a longer list of choices if its names are longer together than the second number.
MAX_CHOICES, MAX_CHOICES_CHARS = 250, 15_000

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_DECIMAL = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")

Schema = dict[str, Any]


def strict_object(properties: dict[str, Schema]) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def strict_array(items: Schema, least: int | None = None, most: int | None = None) -> Schema:
    """`most` keeps a small model from repeating itself without end, `least` from saying nothing."""
    bounds = {"minItems": least, "maxItems": most}
    return {"type": "array", "items": items, **{name: count for name, count in bounds.items() if count is not None}}


def strict_choice(names: Sequence[str]) -> Schema:
    """A string that is one of the names; just a string where the list is longer than providers take."""
    if len(names) > MAX_CHOICES and sum(map(len, names)) > MAX_CHOICES_CHARS:
        return {"type": "string"}
    return {"type": "string", "enum": list(names)}


def member(answer: Any, name: str) -> Any:
    """A property of an answer that should be an object; None where it is missing."""
    if not isinstance(answer, dict):
        raise Misfit("the answer must be a JSON object of the schema")
    return answer.get(name)


def array_member(answer: Any, name: str) -> list[Any]:
    value = member(answer, name)
    if not isinstance(value, list):
        raise Misfit(f"{name} must be a list")
    return value


def as_integer(value: Any) -> int | None:
    """A whole number, also where it came as 12.0 or "12"; None where that is not what it says."""
    match value:
        case bool():
            return None
        case int():
            return value
        case float() if value.is_integer():
            return int(value)
        case str() if _WHOLE.fullmatch(value.strip()):
            return int(value)
        case _:
            return None


def as_number(value: Any) -> int | float | None:
    """A finite number, also where it came as "12.5"; None where that is not what it says, or digits would be lost."""
    match value:
        case bool():
            return None
        case int():
            return value if abs(value) < 10**300 else None
        case float():
            return value if math.isfinite(value) else None
        case str() if _DECIMAL.fullmatch(value.strip()):
            number = float(value) if "." in value else int(value)
            return number if Decimal(str(number)) == Decimal(value.strip()) else None
        case _:
            return None


def as_text(value: Any) -> str | None:
    """A string that can be stored and sent: half a surrogate pair, which JSON can spell, is none."""
    if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" for character in value):
        return None
    return value


def as_choice(value: Any, names: Sequence[str]) -> str | None:
    """The name that is meant: spelled as given, or the only one that differs in case and white space alone."""
    if not isinstance(value, str):
        return None
    if value in names:
        return value
    meant = [name for name in names if _relaxed(name) == _relaxed(value)]
    return meant[0] if len(meant) == 1 else None


def _relaxed(name: str) -> str:
    return "".join(name.casefold().split())
