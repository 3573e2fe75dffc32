from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from shoal.jobs import Extract, Grounding
from shoal_worker.errors import Misfit
from shoal_worker.kinds import extract
from shoal_worker.kinds.fence import fenced

TEXT = "Ann Lee ordered 2 lamps at $40, then 1 lamp at $45. Ann Lee paid on 2024-05-01."

#: What providers' strict modes are known to take.
STRICT_KEYWORDS = {"type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "description"}

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["12", "x", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "value", "quote", ""]), inner, max_size=4)
    ),
    max_leaves=15,
)
LEAVES = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={
            "pattern": st.sampled_from(["^x", r"^\d+$", "a{2}"]),
            "format": st.sampled_from(["date", "date-time", "time", "uuid", "email"]),
            "description": st.text(max_size=10),
        },
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number"])},
        optional={"minimum": st.integers(-5, 5), "maximum": st.floats(0, 20)},
    ),
    st.just({"type": "boolean"}),
    st.lists(st.text(max_size=3), min_size=1, unique=True).map(lambda names: {"type": "string", "enum": names}),
    st.lists(st.integers(0, 20), min_size=1, unique=True).map(lambda choices: {"type": "integer", "enum": choices}),
)


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    named = st.dictionaries(st.sampled_from(["a", "b", "value", "quote", ""]), inner, min_size=1, max_size=3)
    return named.map(lambda properties: {"type": "object", "properties": properties})


SCHEMAS = objects(
    st.recursive(
        LEAVES, lambda inner: objects(inner) | inner.map(lambda items: {"type": "array", "items": items}), max_leaves=6
    )
)


def leaf(value: Any, quote: Any = None) -> dict[str, Any]:
    return {"value": value, "quote": quote}


def one(value: Any, **keywords: Any) -> Any:
    """What is read of one value under a schema of these keywords."""
    args = Extract(text=TEXT, fields={"type": "object", "properties": {"x": keywords}})
    return extract.parse({"x": leaf(value)}, args).data["x"]


def sub_schemas(schema: Any) -> list[dict[str, Any]]:
    below = [*schema.get("properties", {}).values(), *schema.get("anyOf", []), schema.get("items", {})]
    return [schema, *(found for sub in below if sub for found in sub_schemas(sub))]


def asked(fields: dict[str, Any]) -> dict[str, Any]:
    return extract.render(Extract(text=TEXT, fields=fields)).schema


@given(SCHEMAS)
def test_the_schema_is_fit_for_strict_modes_whatever_was_asked_for(fields: dict[str, Any]) -> None:
    schema = asked(fields)
    Draft202012Validator.check_schema(schema)
    for found in sub_schemas(schema):
        assert set(found) <= STRICT_KEYWORDS
        if found.get("type") == "object":
            assert found["additionalProperties"] is False
            assert found["required"] == list(found["properties"])


def test_a_scalar_is_asked_for_with_its_quote_and_told_what_strict_modes_do_not_take() -> None:
    fields = {
        "type": "object",
        "description": "an order",
        "properties": {"n": {"type": "integer", "description": "How many.", "minimum": 1, "maximum": 9}},
    }
    assert asked(fields) == {
        "type": "object",
        "description": "an order",
        "properties": {
            "n": {
                "type": "object",
                "properties": {
                    "value": {
                        "anyOf": [
                            {"type": "integer", "description": "How many. At least 1. At most 9."},
                            {"type": "null"},
                        ]
                    },
                    "quote": {"type": ["string", "null"]},
                },
                "required": ["value", "quote"],
                "additionalProperties": False,
            }
        },
        "required": ["n"],
        "additionalProperties": False,
    }


@given(SCHEMAS, st.data())
def test_any_json_gives_a_result_or_a_misfit(fields: dict[str, Any], data: st.DataObject) -> None:
    args = Extract(text=TEXT, fields=fields)
    said = data.draw(JSON | answers(args.fields))
    try:
        result = extract.parse(said, args)
    except Misfit as misfit:
        assert misfit.reason  # noqa: PT017 both ends are fine, silence is not
        return
    assert list(result.data) == list(fields["properties"])
    result.model_dump_json()
    for evidence in result.evidence:
        value: Any = result.data
        for step in evidence.path:
            value = value[step]
        assert value is not None
        if evidence.grounding is Grounding.UNSUPPORTED:
            assert (evidence.start, evidence.end, evidence.quote) == (None, None, None)
        else:
            assert TEXT[evidence.start : evidence.end] == evidence.quote


def answers(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Answers of the right shape, with values that may be wrong."""
    if schema["type"] == "object":
        return st.fixed_dictionaries({name: answers(sub) for name, sub in schema["properties"].items()})
    if schema["type"] == "array":
        return st.lists(answers(schema["items"]), max_size=3)
    values = st.none() | st.integers(0, 20) | st.floats() | st.text(max_size=3) | st.booleans()
    return st.builds(leaf, values, st.sampled_from([None, "", "Ann Lee", "ANN  LEE", "Bob", 7, "\ud800"]))


@pytest.mark.parametrize(
    ("kind", "said", "value"),
    [
        ("integer", 12, 12),
        ("integer", "12", 12),
        ("integer", " -12 ", -12),
        ("integer", 12.0, 12),
        ("number", 12, 12),
        ("number", "12.50", 12.5),
        ("number", "0.1", 0.1),
        ("boolean", "True", True),
        ("boolean", False, False),
        ("string", 12, "12"),
        ("string", " as it is ", " as it is "),
        ("string", "", None),
        ("string", "  ", None),
        ("integer", None, None),
    ],
)
def test_a_value_that_plainly_means_its_type_is_read_as_that_type(kind: str, said: Any, value: Any) -> None:
    read = one(said, type=kind)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("integer", 12.5),
        ("integer", "12.0"),
        ("integer", "twelve"),
        ("integer", True),
        ("integer", "9" * 5_000),
        ("number", "1,200"),
        ("number", "0.123456789012345678"),
        ("number", float("nan")),
        ("number", float("inf")),
        ("number", 10**400),
        ("number", False),
        ("boolean", 1),
        ("boolean", "yes"),
        ("string", 1.5),
        ("string", True),
        ("string", ["a"]),
        ("string", 2**60),
        ("string", "half a pair: \ud800"),
    ],
)
def test_a_value_that_would_have_to_be_guessed_is_a_misfit(kind: str, said: Any) -> None:
    with pytest.raises(Misfit, match=rf"^x must be an? {kind} or null$"):
        one(said, type=kind)


@pytest.mark.parametrize(
    ("keywords", "good", "bad"),
    [
        ({"type": "string", "enum": ["red", "blue"]}, "red", "green"),
        ({"type": "integer", "enum": [1, 2]}, 2, 3),
        ({"type": "boolean", "enum": [True]}, True, False),
        ({"type": "string", "pattern": r"^[A-Z]\d+$"}, "A12", "12A"),
        ({"type": "string", "format": "date"}, "2024-05-01", "1 May 2024"),
        ({"type": "string", "format": "date-time"}, "2024-05-01T10:00:00Z", "at ten"),
        ({"type": "string", "format": "time"}, "10:00", "ten"),
        ({"type": "string", "format": "uuid"}, "12345678-1234-5678-1234-567812345678", "1234"),
        ({"type": "integer", "minimum": 3}, 3, 2),
        ({"type": "number", "maximum": 3}, 3, 3.01),
    ],
)
def test_what_a_schema_asks_of_a_value_is_checked(keywords: dict[str, Any], good: Any, bad: Any) -> None:
    assert one(good, **keywords) == good
    with pytest.raises(Misfit, match=r"^x must (not )?(be|match) .*, or (be )?null$") as caught:
        one(bad, **keywords)
    assert str(bad) not in caught.value.reason


def test_a_choice_may_differ_in_case() -> None:
    assert one(" RED", type="string", enum=["red", "blue"]) == "red"


def test_a_pattern_with_braces_is_told_as_it_stands() -> None:
    schema = asked({"type": "object", "properties": {"x": {"type": "string", "pattern": "^a{2}$"}}})
    assert schema["properties"]["x"]["properties"]["value"]["anyOf"][0]["description"] == "Pattern: ^a{2}$"


ORDER = {
    "type": "object",
    "properties": {
        "buyer": {"type": "object", "properties": {"first": {"type": "string"}, "last": {"type": "string"}}},
        "lines": {
            "type": "array",
            "items": {"type": "object", "properties": {"who": {"type": "string"}, "price": {"type": "number"}}},
        },
    },
}


def order(*lines: tuple[Any, Any]) -> dict[str, Any]:
    return {
        "buyer": {"first": leaf("Ann", "Ann Lee"), "last": leaf("Lee", "Ann Lee")},
        "lines": [{"who": leaf(*who), "price": leaf(*price)} for who, price in lines],
    }


def test_the_same_words_in_the_next_item_are_the_next_mention_in_the_text() -> None:
    said = order(*[(("Ann", "Ann Lee"), (40, "$40"))] * 3)
    found = {e.path: e.start for e in extract.parse(said, Extract(text=TEXT, fields=ORDER)).evidence}
    second = TEXT.rindex("Ann Lee")
    assert [found["lines", place, "who"] for place in range(3)] == [0, second, second]
    assert [found["lines", place, "price"] for place in range(3)] == [TEXT.index("$40")] * 3
    # Two fields of one object read from the same words stand at the same place.
    assert found["buyer", "first"] == found["buyer", "last"] == 0


def test_items_that_say_nothing_are_left_out_and_paths_follow() -> None:
    said = order(((None, "Ann"), (None, None)), (("Ann", "Ann Lee"), (None, None)))
    result = extract.parse(said, Extract(text=TEXT, fields=ORDER))
    assert result.data["lines"] == [{"who": "Ann", "price": None}]
    assert result.evidence[-1].path == ("lines", 0, "who")


def test_what_an_answer_leaves_out_is_missing_in_its_place() -> None:
    result = extract.parse({}, Extract(text=TEXT, fields=ORDER))
    assert result.data == {"buyer": {"first": None, "last": None}, "lines": []}
    assert result.evidence == ()


def test_a_bare_value_is_taken_without_a_quote() -> None:
    result = extract.parse({"buyer": {"first": "Ann"}}, Extract(text=TEXT, fields=ORDER))
    assert result.data["buyer"]["first"] == "Ann"
    assert [evidence.grounding for evidence in result.evidence] == [Grounding.UNSUPPORTED]


def test_a_misfit_names_each_fault_once_however_many_items_share_it() -> None:
    said = order(*[(("Ann", None), ("secret", None))] * 9) | {"buyer": "secret"}
    with pytest.raises(Misfit) as caught:
        extract.parse(said, Extract(text=TEXT, fields=ORDER))
    assert caught.value.reason == "buyer must be a JSON object; lines[].price must be a number or null"


def test_a_misfit_names_no_more_faults_than_are_needed() -> None:
    names = [f"n{number}" for number in range(50)]
    fields = {"type": "object", "properties": {name: {"type": "integer"} for name in names}}
    with pytest.raises(Misfit) as caught:
        extract.parse(dict.fromkeys(names, "x"), Extract(text=TEXT, fields=fields))
    assert caught.value.reason.count(";") == extract.MAX_FAULTS - 1


@pytest.mark.parametrize("said", [None, [], "x", 1])
def test_an_answer_that_is_no_object_is_a_misfit(said: Any) -> None:
    with pytest.raises(Misfit, match=r"^the answer must be a JSON object$"):
        extract.parse(said, Extract(text=TEXT, fields=ORDER))


def test_the_prompt_holds_the_instructions_and_the_fenced_text_apart() -> None:
    prompt = extract.render(Extract(text=TEXT, fields=ORDER, instructions="Prices in dollars."))
    assert prompt.system.endswith("Further instructions: Prices in dollars.")
    assert prompt.user == fenced("text", TEXT)
    assert extract.render(Extract(text=TEXT, fields=ORDER)).system.endswith("Further instructions: none.")


def test_more_values_get_more_room_for_the_answer() -> None:
    small = {"type": "object", "properties": {"x": {"type": "integer"}}}
    rooms = [extract.render(Extract(text=TEXT, fields=fields)).max_completion_tokens for fields in (small, ORDER)]
    assert 64 <= rooms[0] < rooms[1] <= 16_000


@pytest.mark.timeout(20)
def test_a_pattern_that_backtracks_for_ever_is_a_misfit_and_not_a_standstill() -> None:
    fields = {"type": "object", "properties": {"name": {"type": "string", "pattern": "(a+)+$"}}}
    args = Extract(text="a" * 60 + "!", fields=fields)
    with pytest.raises(Misfit, match="pattern"):
        extract.parse({"name": {"value": "a" * 60 + "!", "quote": None}}, args)
