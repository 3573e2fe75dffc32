"""What the caller of `extract` asks for: a JSON Schema, brought into the plain form that models can be held to.

References are put in place, titles and defaults dropped. What cannot be promised (recursion, free-form keys,
combined schemas) is refused here, at the producer, with the path and the fix.
"""

from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel

SCALARS = ("string", "number", "integer", "boolean")
#: Kept beside a scalar's type: they tell the model more, and the parser checks them.
SCALAR_KEYWORDS = ("enum", "format", "pattern", "minimum", "maximum", "description")
MAX_DEPTH = 8
MAX_LEAVES = 200

Schema = dict[str, Any]


def normalised_fields(fields: object) -> Schema:
    """The plain form of a JSON Schema or of a pydantic model's. Raises ValueError naming the path and the fix."""
    if isinstance(fields, type) and issubclass(fields, BaseModel):
        fields = fields.model_json_schema()
    if not isinstance(fields, dict):
        raise ValueError("must be a JSON Schema (a dict) or a pydantic model class")  # noqa: TRY004 pydantic reads ValueError
    try:
        Draft202012Validator.check_schema(fields)
    except SchemaError as error:
        # Its message shows the whole value, and a schema's descriptions may be private.
        at, rule = error.json_path, error.validator
        raise ValueError(f"is no valid JSON Schema: what stands at {at} must hold to {rule!r}") from None
    except (OverflowError, RecursionError) as error:
        raise ValueError(f"holds a pattern or a nesting that cannot be checked: {type(error).__name__}") from error
    plain = _plain(fields, fields.get("$defs", {}), "fields", 0)
    if plain["type"] != "object":
        raise ValueError(f'must describe an object, not a {plain["type"]}: {{"type": "object", "properties": …}}')
    if _leaf_count(plain) > MAX_LEAVES:
        raise ValueError(f"hold more than {MAX_LEAVES} values: split them over several jobs")
    return plain


def is_leaf(schema: Schema) -> bool:
    return schema["type"] in SCALARS


def _plain(schema: Any, definitions: Schema, path: str, depth: int) -> Schema:
    if not isinstance(schema, dict):
        raise ValueError(f"{path}: give a schema with a type")  # noqa: TRY004 pydantic reads ValueError
    if depth > MAX_DEPTH:
        raise ValueError(f"{path}: nested deeper than {MAX_DEPTH}, or refers to itself: make it flat")
    schema = _without_null(_resolved(schema, definitions, path), definitions, path)
    match schema.get("type"):
        case "object":
            return _plain_object(schema, definitions, path, depth)
        case "array":
            items = _plain(schema.get("items"), definitions, f"{path}[]", depth + 1)
            return _described(schema, {"type": "array", "items": items})
        case str(kind) if kind in SCALARS:
            return {"type": kind} | {name: schema[name] for name in SCALAR_KEYWORDS if name in schema}
        case other:
            raise ValueError(f"{path}: type {other!r} is not known; use object, array, {', '.join(SCALARS)}")


def _plain_object(schema: Schema, definitions: Schema, path: str, depth: int) -> Schema:
    properties = schema.get("properties")
    if not properties:
        raise ValueError(f"{path}: name its properties; an object of free-form keys cannot be promised")
    plain = {name: _plain(sub, definitions, f"{path}.{name}", depth + 1) for name, sub in properties.items()}
    return _described(schema, {"type": "object", "properties": plain})


def _described(schema: Schema, plain: Schema) -> Schema:
    return plain | ({"description": schema["description"]} if "description" in schema else {})


def _resolved(schema: Schema, definitions: Schema, path: str) -> Schema:
    for _ in range(MAX_DEPTH):
        reference = schema.get("$ref")
        if reference is None:
            return schema
        target = definitions.get(str(reference).removeprefix("#/$defs/"))
        if target is None:
            raise ValueError(f"{path}: {reference} is not in $defs of this schema")
        schema = {**target, **{name: value for name, value in schema.items() if name != "$ref"}}
    raise ValueError(f"{path}: refers to itself: make it flat")


def _without_null(schema: Schema, definitions: Schema, path: str) -> Schema:
    """Every value may be missing, so "or null" says nothing: take it away and keep the one real branch."""
    if isinstance(schema.get("type"), list):
        kinds = [kind for kind in schema["type"] if kind != "null"]
        if len(kinds) != 1:
            raise ValueError(f"{path}: give one type, or one type and null; not {schema['type']}")
        return _with_type_of_choices({**schema, "type": kinds[0]}, path)
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        real = [branch for branch in branches if branch.get("type") != "null"]
        if len(real) != 1:
            raise ValueError(f"{path}: anyOf with several types cannot be promised: choose one")
        described = {"description": schema["description"]} if "description" in schema else {}
        return _without_null(_resolved({**real[0], **described}, definitions, path), definitions, path)
    if "allOf" in schema:
        raise ValueError(f"{path}: allOf cannot be promised: write the properties out")
    return _with_type_of_choices(schema, path)


def _with_type_of_choices(schema: Schema, path: str) -> Schema:
    """A schema of `enum` or `const` alone gets the type that its choices have in common."""
    choices = schema["enum"] if "enum" in schema else [schema["const"]] if "const" in schema else None
    if choices is None:
        return schema
    choices = [choice for choice in choices if choice is not None]
    if not choices:
        raise ValueError(f"{path}: enum holds no choice but null: add one")
    kinds = {_type_name(choice) for choice in choices}
    if "type" in schema:
        return {**schema, "enum": choices}
    if len(kinds) != 1 or None in kinds:
        raise ValueError(f"{path}: the choices of enum must be all strings, all numbers or all booleans")
    return {**schema, "enum": choices, "type": kinds.pop()}


def _type_name(value: object) -> str | None:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case _:
            return None


def _leaf_count(schema: Schema) -> int:
    match schema["type"]:
        case "object":
            return sum(_leaf_count(sub) for sub in schema["properties"].values())
        case "array":
            return _leaf_count(schema["items"])
        case _:
            return 1
