from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError

from shoal import Extract
from shoal.schemas import normalised_fields


class Line(BaseModel):
    name: str
    price: float | None = None


class Invoice(BaseModel):
    vendor: str
    lines: list[Line]
    kind: Literal["paid", "open"] = "open"


def test_a_pydantic_model_becomes_a_plain_schema() -> None:
    plain = normalised_fields(Invoice)
    assert plain["properties"]["vendor"] == {"type": "string"}
    assert plain["properties"]["lines"]["items"]["properties"]["price"] == {"type": "number"}
    assert plain["properties"]["kind"] == {"type": "string", "enum": ["paid", "open"]}


def test_the_plain_form_is_its_own_plain_form() -> None:
    plain = normalised_fields(Invoice)
    assert normalised_fields(plain) == plain


class Node(BaseModel):
    children: list["Node"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (Node, "refers to itself"),
        ({"type": "object"}, "name its properties"),
        ({"type": "string"}, "must describe an object"),
        ({"type": "object", "properties": {"a": {"type": "strin"}}}, "no valid JSON Schema"),
        ({"type": "object", "properties": {"a": {}}}, "fields.a: type None"),
        ({"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "number"}]}}}, "choose one"),
        ({"type": "object", "properties": {"a": {"allOf": [{"type": "string"}]}}}, "allOf"),
        ("text", "JSON Schema"),
        ({"type": "object", "properties": {"a": {"type": ["string", "null"], "enum": [None]}}}, "no choice but null"),
        (
            {"type": "object", "properties": {"a": {"type": "string", "pattern": "x{99999999999999}"}}},
            "cannot be checked",
        ),
    ],
)
def test_what_cannot_be_promised_is_refused_with_its_path(fields: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Extract(text="x", fields=fields)
