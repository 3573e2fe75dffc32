"""The sandbox's rules: whatever is asked, the answer fits its schema and quotes are cut from the text."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic_core import from_json, to_json

from shoal_worker.sandbox.answers import answer_value, content_of
from shoal_worker.sandbox.completions import completion_saying
from shoal_worker.sandbox.faults import Fault
from shoal_worker.sandbox.prompt_parts import fenced_blocks
from shoal_worker.sandbox.spoilage import NOWHERE, spoiled
from shoal_worker.sandbox.validation import Ask

INVOICE = """Invoice number: INV-2026-113
Dear Maria Keller, thank you for your order of 12 lamps on 3 March 2026. The Desk Lamp costs $49.50 each.
A Floor Lamp costs $1,120.00. The total is $1,714.00 and it is due on 2026-04-01. It has not been paid yet.
Questions go to billing@lamps.example or https://lamps.example/help."""
COMPLAINT = "Hello there. I was charged twice for my subscription. Thanks for any help."
#: Pieces that the rules look for, among which random text is strewn.
SNIPPETS = st.sampled_from(
    [*INVOICE.splitlines(), COMPLAINT, "31.02.2026", "99/99/2026", "€ 5", "[1] One.", "", "日本。"]
)
TEXTS = st.lists(SNIPPETS | st.text(max_size=80), max_size=6).map("\n".join)
NAMES = st.sampled_from(
    ["date", "due_date", "email", "total", "currency", "customerName", "paid", "topic", "x", "ID", "año"]
)
GENEROUS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def field(leaf: dict[str, Any]) -> dict[str, Any]:
    return closed({"value": {"anyOf": [leaf, {"type": "null"}]}, "quote": {"type": ["string", "null"]}})


def ask(name: str, schema: dict[str, Any], user: str, system: str = "Do as the schema says.") -> Ask:
    return Ask(system, user, system, len(system + user), None, name, to_json(schema), None)


def fenced(text: str) -> str:
    return f"<text-1a2b3c4d>\n{text}\n</text-1a2b3c4d>"


def answered(request: Ask) -> Any:
    """The answer as it goes over the wire, checked against its schema."""
    assert request.schema_json is not None
    value = from_json(content_of(answer_value(request)))
    Draft202012Validator(from_json(request.schema_json)).validate(value)
    return value


LEAVES = st.one_of(
    st.just({"type": "string"}),
    st.builds(lambda n: {"type": "string", "maxLength": n, "description": "short"}, st.integers(0, 12)),
    st.sampled_from(["date", "date-time", "email", "uri"]).map(lambda form: {"type": "string", "format": form}),
    st.just({"type": "string", "pattern": "^[A-Z]{3}-"}),
    st.just({"type": "string", "enum": ["USD", "EUR", "paid"]}),
    st.just({"enum": [1, "lamps", True]}),
    st.builds(lambda low: {"type": "number", "minimum": low}, st.integers(-5, 2000)),
    st.builds(lambda high: {"type": "integer", "maximum": high}, st.integers(0, 100)),
    st.just({"type": "boolean"}),
    st.just({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
)


def _nested(inside: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.dictionaries(NAMES, inside, min_size=1, max_size=4).map(closed),
        st.builds(lambda items: {"type": "array", "items": items}, inside),
        st.builds(
            lambda items, n: {"type": "array", "items": items, "minItems": n, "maxItems": n + 1},
            inside,
            st.integers(0, 3),
        ),
    )


EXTRACT_SCHEMAS = st.dictionaries(
    NAMES, st.recursive(LEAVES.map(field), _nested, max_leaves=6), min_size=1, max_size=4
).map(closed)


def quotes(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["quote"]] if isinstance(value.get("quote"), str) else []
        return own + [quote for inside in value.values() for quote in quotes(inside)]
    return [quote for inside in value for quote in quotes(inside)] if isinstance(value, list) else []


@GENEROUS
@given(schema=EXTRACT_SCHEMAS, text=TEXTS)
def test_any_extraction_fits_its_schema_and_quotes_the_text_word_for_word(schema: dict[str, Any], text: str) -> None:
    value = answered(ask("shoal_extract", schema, fenced(text)))
    assert all(quote in text and quote for quote in quotes(value))


@GENEROUS
@given(
    text=TEXTS,
    labels=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=6, unique=True),
    many=st.booleans(),
)
def test_any_classification_fits_its_schema_and_its_evidence_stands_in_the_text(
    text: str, labels: list[str], many: bool
) -> None:
    value = answered(classify(text, labels, many=many))
    assert value["evidence"] in text


@GENEROUS
@given(query=TEXTS, documents=st.lists(TEXTS, min_size=1, max_size=8))
def test_any_ranking_holds_every_document_once_with_falling_scores(query: str, documents: list[str]) -> None:
    ranking = answered(rank(query, documents))["ranking"]
    assert sorted(one["id"] for one in ranking) == list(range(1, len(documents) + 1))
    scores = [one["score"] for one in ranking]
    assert scores == sorted(scores, reverse=True)


@GENEROUS
@given(
    lines=st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1), max_size=9),
    most=st.integers(1, 4),
)
def test_any_summary_is_made_of_its_numbered_sentences(lines: list[str], most: int) -> None:
    told = answered(summarize(lines, f"at most {most} sentences"))["sentences"]
    assert len(told) == min(most, len(lines))
    assert all(one["text"] == lines[one["sources"][0] - 1] for one in told)


SCALARS = st.one_of(
    st.builds(
        lambda a, b: {"type": "string", "minLength": a, "maxLength": a + b}, st.integers(0, 9), st.integers(0, 9)
    ),
    st.builds(
        lambda a, b: {"type": "integer", "minimum": a, "maximum": a + b}, st.integers(-50, 50), st.integers(0, 9)
    ),
    st.builds(lambda a: {"type": "number", "exclusiveMinimum": a, "exclusiveMaximum": a + 1}, st.integers(-50, 50)),
    st.builds(lambda a, m: {"type": "integer", "minimum": a, "multipleOf": m}, st.integers(-50, 50), st.integers(1, 9)),
    st.sampled_from(
        [{"type": "boolean"}, {"type": "null"}, {"const": "x"}, {"enum": [3, "a"]}, {"type": ["null", "string"]}]
    ),
    st.sampled_from([{"type": "string", "pattern": "^[A-Z]{2}$"}, {"type": "string", "format": "uuid"}]),
)
ANY_SCHEMAS = st.dictionaries(NAMES, st.recursive(SCALARS, _nested, max_leaves=6), max_size=4).map(closed)


@GENEROUS
@given(
    schema=ANY_SCHEMAS,
    text=TEXTS,
    name=st.sampled_from(["anything", "shoal_classify", "shoal_rank", "shoal_summarize"]),
)
def test_a_schema_that_no_rule_knows_is_filled_with_something_that_fits(
    schema: dict[str, Any], text: str, name: str
) -> None:
    answered(ask(name, schema, fenced(text)))


def test_a_schema_that_holds_itself_is_filled_to_an_end() -> None:
    node = closed({"name": {"type": "string"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}})
    answered(ask("tree", {**closed({"root": {"$ref": "#/$defs/node"}}), "$defs": {"node": node}}, "Hello."))


def test_the_same_request_always_has_the_same_answer() -> None:
    request = ask("shoal_extract", closed({"total": field({"type": "number"})}), fenced(INVOICE))
    assert answer_value(request) == answer_value(request)


def classify(text: str, labels: list[str], system: str = "", *, many: bool = False) -> Ask:
    label = {"type": "string", "enum": labels}
    confidence = {"type": "number", "minimum": 0, "maximum": 1}
    one = {"label": label, "confidence": confidence}
    lists = {"labels": {"type": "array", "items": closed(one)}}
    schema = closed({"evidence": {"type": "string"}, **(lists if many else one)})
    return ask("shoal_classify", schema, fenced(text), system)


def rank(query: str, documents: list[str]) -> Ask:
    entry = closed({"id": {"type": "integer"}, "score": {"type": "number", "minimum": 0, "maximum": 3}})
    blocks = [f'<document-0a0b0c0d id="{n}">\n{text}\n</document-0a0b0c0d>' for n, text in enumerate(documents, 1)]
    user = "\n".join([f"<query-0a0b0c0d>\n{query}\n</query-0a0b0c0d>", *blocks])
    return ask("shoal_rank", closed({"ranking": {"type": "array", "items": entry}}), user)


def summarize(lines: list[str], length: str) -> Ask:
    entry = closed({"sources": {"type": "array", "items": {"type": "integer"}}, "text": {"type": "string"}})
    numbered = "\n".join(f"[{n}] {line}" for n, line in enumerate(lines, 1))
    schema = closed({"sentences": {"type": "array", "items": entry}})
    return ask("shoal_summarize", schema, fenced(numbered), f"Summarize in {length}.")


def test_a_double_charge_is_billing_and_the_evidence_says_why() -> None:
    value = answered(classify(COMPLAINT, ["billing", "bug", "praise"]))
    assert value["label"] == "billing"
    assert value["evidence"] == "I was charged twice for my subscription."


def test_a_label_is_recognised_by_the_words_of_its_description() -> None:
    system = "Choose.\n- alpha: questions about giraffes\n- beta: questions about submarines"
    assert answered(classify("Two submarines sank.", ["alpha", "beta"], system))["label"] == "beta"


def test_a_text_that_speaks_of_no_label_is_none_of_these() -> None:
    value = answered(classify("Zebras graze.", ["billing", "none of these"]))
    assert (value["label"], value["confidence"] < 0.5) == ("none of these", True)


def test_several_labels_are_given_when_the_text_speaks_of_several() -> None:
    text = "I was charged for an invoice. The app has a crash, an error and a bug."
    labels = answered(classify(text, ["billing", "bug", "praise"], many=True))["labels"]
    assert {one["label"] for one in labels} == {"billing", "bug"}


@pytest.mark.parametrize(
    ("name", "leaf", "value", "quote"),
    [
        ("invoice_number", {"type": "string"}, "INV-2026-113", "INV-2026-113"),
        ("date", {"type": "string", "format": "date"}, "2026-03-03", "3 March 2026"),
        ("due_date", {"type": "string"}, "2026-04-01", "2026-04-01"),
        ("email", {"type": "string"}, "billing@lamps.example", "billing@lamps.example"),
        ("website", {"type": "string"}, "https://lamps.example/help", "https://lamps.example/help"),
        ("total", {"type": "number"}, 1714.0, "$1,714.00"),
        ("quantity", {"type": "integer"}, 12, "12"),
        ("customer_name", {"type": "string"}, "Maria Keller", "Maria Keller"),
        ("currency", {"type": "string", "enum": ["EUR", "USD"]}, "USD", "$49.50"),
        ("paid", {"type": "boolean"}, False, "It has not been paid yet."),
        ("topic", {"type": "string"}, "lamps", "lamps"),
        ("fax_extension", {"type": "boolean"}, None, None),
    ],
)
def test_a_field_is_found_by_its_name_and_type(name: str, leaf: dict[str, Any], value: Any, quote: str | None) -> None:
    found = answered(ask("shoal_extract", closed({name: field(leaf)}), fenced(INVOICE)))
    assert found == {name: {"value": value, "quote": quote}}


def test_a_list_of_things_has_an_entry_for_each_of_them() -> None:
    item = closed({"name": field({"type": "string"}), "price": field({"type": "number"})})
    schema = closed({"items": {"type": "array", "items": item}})
    items = answered(ask("shoal_extract", schema, fenced(INVOICE)))["items"]
    told = {(one["name"]["value"], one["price"]["value"]) for one in items}
    assert {("Desk Lamp", 49.5), ("Floor Lamp", 1120.0)} <= told


def test_the_document_that_shares_the_query_s_words_comes_first_with_the_full_score() -> None:
    documents = ["Bread is baked from flour.", "A lighthouse warns ships.", "Ships sail; a lighthouse keeper waits."]
    ranking = answered(rank("lighthouse keeper", documents))["ranking"]
    assert ranking[0] == {"id": 3, "score": 3.0}
    assert ranking[-1] == {"id": 1, "score": 0.0}


def test_a_summary_of_about_so_many_words_does_not_run_over() -> None:
    lines = ["The dam broke at night and the river flooded the valley."] * 6
    told = answered(summarize(lines, "about 25 words"))["sentences"]
    assert len(told) == 2


def test_without_a_schema_the_first_sentence_of_the_text_is_said() -> None:
    request = Ask("", fenced(COMPLAINT), "", 1, None, None, None, None)
    assert content_of(answer_value(request)) == "Hello there."


def test_a_closing_tag_of_another_fence_does_not_end_a_block() -> None:
    text = "before\n</text-99999999>\nafter"
    assert [block.text for block in fenced_blocks(fenced(text))] == [text]


@given(content=st.text(min_size=1), limit=st.integers(1, 40))
def test_a_completion_never_says_more_tokens_than_it_may(content: str, limit: int) -> None:
    completion = completion_saying(content, limit)
    assert completion.completion_tokens <= limit
    assert (completion.finish_reason == "length") == (completion.content != content)


EXTRACT = ask("shoal_extract", closed({"total": field({"type": "number"})}), fenced(INVOICE))


@pytest.mark.parametrize(
    "request_",
    [
        classify(COMPLAINT, ["billing", "bug"]),
        EXTRACT,
        rank("a", ["a", "b"]),
        summarize(["One.", "Two."], "at most 1 sentence"),
    ],
    ids=lambda request: request.schema_name,
)
@pytest.mark.parametrize("fault", [Fault.MISFIT_JSON, Fault.BAD_JSON, Fault.MISFIT_VALUES])
def test_a_spoiled_answer_says_something_else_than_the_right_one(request_: Ask, fault: Fault) -> None:
    value = answer_value(request_)
    whole = completion_saying(content_of(value), None)
    assert spoiled(fault, value, whole).content != whole.content


def test_a_broken_permutation_drops_one_document_and_repeats_another() -> None:
    value = answer_value(rank("a", ["a", "b", "c"]))
    broken = from_json(spoiled(Fault.BROKEN_PERMUTATION, value, completion_saying("", None)).content or "")
    ids = [one["id"] for one in broken["ranking"]]
    assert (len(ids), len(set(ids))) == (3, 2)


@pytest.mark.parametrize(
    "request_", [EXTRACT, classify(COMPLAINT, ["billing"])], ids=lambda request: request.schema_name
)
def test_unsupported_quotes_stand_nowhere_in_the_text(request_: Ask) -> None:
    completion = spoiled(Fault.UNSUPPORTED_QUOTES, answer_value(request_), completion_saying("", None))
    assert NOWHERE in (completion.content or "")
    assert NOWHERE not in request_.user


def test_labels_too_many_for_a_schema_are_read_from_the_prompt() -> None:
    schema = closed({"evidence": {"type": "string"}, "label": {"type": "string"}, "confidence": {"type": "number"}})
    system = "Rules:\n- answer\n\nLabels:\n- alpha: about giraffes\n- beta: about submarines"
    assert answered(ask("shoal_classify", schema, fenced("Submarines."), system))["label"] == "beta"


@pytest.mark.parametrize("sentence", ["word " * 500, "長" * 500])
def test_a_sentence_longer_than_the_summary_may_be_is_shortened(sentence: str) -> None:
    (only,) = answered(summarize([sentence], "about 10 words"))["sentences"]
    assert sentence.startswith(only["text"])
    assert 40 <= len(only["text"].encode()) <= 140
