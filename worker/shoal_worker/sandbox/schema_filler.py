"""A value for any JSON Schema that no other rule knows: the smallest one that fits, with words of the text in it."""

import re
from collections.abc import Iterator
from math import ceil
from typing import Any

_DEPTH_MAX = 12
_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "sandbox@example.com",
    "uri": "https://example.com/",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
#: Tried in turn against a pattern, after the words of the text.
_SAMPLES = (*_FORMATS.values(), "", "a", "A", "AB", "ABC", "0", "00", "000", "1234", "12345", "a1", "A-1", "1.0")


def resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """The schema that a local `$ref` means; itself without one."""
    for _ in range(_DEPTH_MAX):
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            return schema
        target: Any = root
        for step in reference.lstrip("#").strip("/").split("/"):
            target = target.get(step.replace("~1", "/").replace("~0", "~"), {}) if step else target
        schema = target
    return {}


def filled(schema: Any, root: dict[str, Any], text: str, depth: int = 0) -> Any:
    """A value that fits the schema. Deep down it prefers null and empty lists, so that recursion ends."""
    if not isinstance(schema, dict):
        return None
    schema = resolved(schema, root)
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else schema["enum"][0]
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return filled(_option(options, depth), root, text, depth + 1)
    sort = _sort(schema, depth)
    if sort == "object":
        properties = schema.get("properties", {})
        return {name: filled(part, root, text, depth + 1) for name, part in properties.items()}
    return _list(schema, root, text, depth) if sort == "array" else _scalar(sort, schema, text)


def _option(options: list[Any], depth: int) -> Any:
    if depth < _DEPTH_MAX // 2:
        return options[0]
    flat = [one for one in options if isinstance(one, dict) and one.get("type") not in (None, "object", "array")]
    return (flat or options)[0]


def _sort(schema: dict[str, Any], depth: int) -> str:
    """The JSON type to make, where a schema allows several."""
    named = schema.get("type")
    sorts = [named] if isinstance(named, str) else list(named or ())
    if not sorts:
        return "object" if "properties" in schema else "array" if "items" in schema else "string"
    return "null" if depth >= _DEPTH_MAX and "null" in sorts else str(sorts[0])


def _list(schema: dict[str, Any], root: dict[str, Any], text: str, depth: int) -> list[Any]:
    first = [filled(part, root, text, depth + 1) for part in schema.get("prefixItems", ())]
    least = schema.get("minItems", 0)
    wanted = max(least, 1) if depth == 0 and schema.get("maxItems", 1) else least
    return first + [filled(schema.get("items"), root, text, depth + 1) for _ in range(wanted - len(first))]


def _scalar(sort: str, schema: dict[str, Any], text: str) -> Any:
    if sort == "integer":
        return ceil(_number(schema, schema.get("multipleOf", 1)))
    if sort == "number":
        return _number(schema, schema.get("multipleOf"))
    return {"boolean": False, "null": None}[sort] if sort in {"boolean", "null"} else _string(schema, text)


def _number(schema: dict[str, Any], multiple: float | None) -> float:
    """The first likely number within the bounds; 0 when the bounds leave none."""
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    most, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    for value in _numbers(least if least is not None else above, most if most is not None else below, multiple):
        if (
            (least is None or value >= least)
            and (most is None or value <= most)
            and (above is None or value > above)
            and (below is None or value < below)
        ):
            return value
    return 0


def _numbers(low: float | None, high: float | None, multiple: float | None) -> Iterator[float]:
    yield 0
    if multiple is None:
        if low is not None and high is not None:
            yield (low + high) / 2
        yield from (bound for bound in (low, high) if bound is not None)
        multiple = 1
    for bound in (low, high):
        if bound is not None:
            yield from (multiple * (bound // multiple + step) for step in (-1, 0, 1))


def _string(schema: dict[str, Any], text: str) -> str:
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    if "pattern" in schema:
        words = text.split()
        return next((word for word in (*words, *_SAMPLES) if re.search(schema["pattern"], word)), "")
    return text[: schema.get("maxLength", 200)].ljust(schema.get("minLength", 0), "x")
