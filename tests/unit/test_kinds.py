"""What every kind promises of any answer whatever. The model is a function from a prompt to JSON."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from shoal import Classify, Extract, Grounding, Rank, Summarize
from shoal_worker.errors import Misfit
from shoal_worker.kinds import classify, extract, rank, summarize
from shoal_worker.kinds.fence import fenced
from shoal_worker.kinds.sentences import sentences
from shoal_worker.ports import Prompt

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TEXT = "Ann paid $12.50 on 2024-05-01. Ann “liked” it. Café 😀 was open."
FIELDS = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "total": {"type": "number", "minimum": 0},
        "names": {"type": "array", "items": {"type": "string"}},
    },
}
ARGS: list[Any] = [
    Classify(text=TEXT, labels=("a", "b")),
    Classify(text=TEXT, labels=("a", "b"), many=True, none_of_these=True),
    Extract(text=TEXT, fields=FIELDS),
    Rank(query="q", documents=("x", "y", "z")),
]
MODULES = {"classify": classify, "extract": extract, "rank": rank}


def answered(module: Any, args: Any, model: Callable[[Prompt], Any]) -> Any:
    async def ask(prompt: Prompt, parse: Callable[[Any], Any]) -> Any:
        return parse(model(prompt))

    return asyncio.run(module.answer(args, ask))


def leaf(value: Any, quote: str | None) -> dict[str, Any]:
    return {"value": value, "quote": quote}


@pytest.mark.parametrize("args", ARGS, ids=lambda args: args.kind)
@given(answer=JSON)
def test_any_json_gives_a_result_or_a_misfit(args: Any, answer: Any) -> None:
    try:
        result = MODULES[args.kind].parse(answer, args)
    except Misfit as error:
        assert error.reason  # noqa: PT017 both ends are fine, silence is not
    else:
        assert result.kind == args.kind


@given(answer=JSON)
def test_any_json_gives_a_summary_or_a_misfit(answer: Any) -> None:
    try:
        assert answered(summarize, Summarize(text=TEXT), lambda _: answer).summary.strip()
    except Misfit as error:
        assert error.reason  # noqa: PT017 both ends are fine, silence is not


def _objects(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [found for item in schema for found in _objects(item)]
    if not isinstance(schema, dict):
        return []
    inner = [found for item in schema.values() for found in _objects(item)]
    return [schema, *inner] if schema.get("type") == "object" else inner


@pytest.mark.parametrize("args", ARGS, ids=lambda args: args.kind)
def test_schemas_are_fit_for_strict_mode(args: Any) -> None:
    schema = MODULES[args.kind].render(args).schema
    Draft202012Validator.check_schema(schema)
    for found in _objects(schema):
        assert found["additionalProperties"] is False
        assert set(found["required"]) == set(found["properties"])


def test_a_label_outside_the_set_is_a_misfit_and_case_is_forgiven() -> None:
    args = Classify(text=TEXT, labels=("Billing", "Bug"))
    said = {"evidence": "Ann paid", "label": " billing ", "confidence": 1.7}
    result = classify.parse(said, args)
    assert result.label == "Billing"
    assert result.confidence == 1.0
    assert result.evidence
    assert result.evidence.quote == "Ann paid"
    with pytest.raises(Misfit, match="label"):
        classify.parse({**said, "label": "praise"}, args)


@given(st.data())
def test_a_quote_from_the_text_is_found_where_it_stands(data: st.DataObject) -> None:
    text = data.draw(st.text(min_size=1, max_size=80).filter(str.strip))
    start = data.draw(st.integers(0, len(text) - 1))
    quote = text[start : data.draw(st.integers(start + 1, len(text)))]
    if not quote.strip():
        return
    args = Extract(text=text, fields={"type": "object", "properties": {"name": {"type": "string"}}})
    evidence = extract.parse({"name": leaf("v", quote)}, args).evidence[0]
    assert evidence.start is not None
    assert text[evidence.start : evidence.end] == evidence.quote


@pytest.mark.parametrize(
    ("quote", "grounding", "words"),
    [
        ("Ann paid", Grounding.EXACT, "Ann paid"),
        ("ANN  PAID", Grounding.NORMALISED, "Ann paid"),
        ('"liked"', Grounding.NORMALISED, "“liked”"),
        ("Bob paid", Grounding.UNSUPPORTED, None),
        (None, Grounding.UNSUPPORTED, None),
    ],
)
def test_a_value_says_how_it_stands_in_the_text(quote: str | None, grounding: Grounding, words: str | None) -> None:
    said = {"name": leaf("Ann", quote), "total": leaf(None, None), "names": []}
    evidence = extract.parse(said, Extract(text=TEXT, fields=FIELDS)).evidence[0]
    assert evidence.grounding == grounding
    assert evidence.quote == words


def test_repeated_mentions_take_successive_places() -> None:
    said = {
        "name": leaf(None, None),
        "total": leaf("12.5", "$12.50"),
        "names": [leaf("Ann", "Ann"), leaf("Ann", "Ann")],
    }
    result = extract.parse(said, Extract(text=TEXT, fields=FIELDS))
    places = [evidence.start for evidence in result.evidence if evidence.path[0] == "names"]
    assert places == [0, TEXT.index("Ann", 1)]
    assert result.data["total"] == 12.5


@given(st.lists(st.integers(-1, 6), min_size=1))
def test_a_ranking_is_a_full_permutation_whatever_the_model_says(ids: list[int]) -> None:
    args = Rank(query="q", documents=tuple("abcd"))
    said = {"ranking": [{"id": number, "score": 9 - place} for place, number in enumerate(ids)]}
    try:
        result = rank.parse(said, args)
    except Misfit:
        assert not set(ids) & {1, 2, 3, 4}
        return
    assert sorted(document.index for document in result.ranking) == [0, 1, 2, 3]
    left_out = {str(number - 1) for number in {1, 2, 3, 4} - set(ids)}
    assert left_out <= set(result.repaired)
    scores = [document.score for document in result.ranking]
    assert scores == sorted(scores, reverse=True)


def test_a_summary_names_the_sentences_it_stands_on() -> None:
    said = {"sentences": [{"sources": [2, 99], "text": "Ann was happy."}]}
    result = answered(summarize, Summarize(text=TEXT), lambda _: said)
    assert [span.quote for span in result.sentences[0].sources] == ["Ann “liked” it."]


def test_a_text_over_one_calls_limit_is_read_in_parts_and_merged() -> None:
    text = " ".join(f"Sentence number {number} tells of fish." for number in range(30_000))
    asked = 0

    def model(_: Prompt) -> Any:
        nonlocal asked
        asked += 1
        return {"sentences": [{"sources": [1], "text": "Fish."}]}

    result = answered(summarize, Summarize(text=text), model)
    assert result.parts > 1
    assert asked == result.parts + 1
    spans = [span for sentence in result.sentences for span in sentence.sources]
    assert spans
    assert all(text[span.start : span.end] == span.quote for span in spans)


@given(st.text(max_size=300))
def test_sentences_stand_in_order_and_where_they_say(text: str) -> None:
    end = 0
    for span in sentences(text):
        assert span.start >= end
        assert text[span.start : span.end] == span.quote
        end = span.end


@given(st.text(max_size=200))
def test_a_text_cannot_close_its_own_fence(text: str) -> None:
    block = fenced("text", text)
    closing = block.rsplit("\n", 1)[1]
    assert block.count(closing) == 1
    again = fenced("text", block)
    assert again.rsplit("\n", 1)[1] != closing
