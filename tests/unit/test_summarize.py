import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from shoal.jobs import Summarize, SummarizeResult
from shoal_worker.errors import Misfit
from shoal_worker.kinds import summarize
from shoal_worker.kinds.fence import fenced
from shoal_worker.ports import Prompt

TEXT = "Dr. Lee found a fish.\nIt was “blue”. 魚は青い。That is all! 😀 Thanks."
SENTENCES = ["Dr. Lee found a fish.", "It was “blue”.", "魚は青い。", "That is all!", "😀 Thanks."]
LONG = " ".join(f"Sentence number {number} tells of a fish." for number in range(30_000))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["sentences", "sources", "text", ""]), inner, max_size=3)
    ),
    max_leaves=15,
)
SAID = st.fixed_dictionaries(
    {
        "sentences": st.lists(
            st.fixed_dictionaries(
                {
                    "sources": JSON | st.lists(st.integers(-1, 7) | st.sampled_from(["2", 3.0, None])),
                    "text": st.text(max_size=9),
                }
            )
        )
    }
)


def said(*sentences: tuple[Any, Any]) -> dict[str, Any]:
    return {"sentences": [{"sources": sources, "text": text} for sources, text in sentences]}


def answered(args: Summarize, model: Callable[[Prompt], Any]) -> SummarizeResult:
    async def ask(prompt: Prompt, parse: Callable[[Any], Any]) -> Any:
        await asyncio.sleep(0)
        return parse(model(prompt))

    return asyncio.run(summarize.answer(args, ask))


def is_merge(prompt: Prompt) -> bool:
    return prompt.system.startswith("You merge notes")


def test_the_text_is_sent_as_numbered_sentences() -> None:
    prompt = summarize.render(Summarize(text=TEXT))
    assert prompt.user == fenced("text", "\n".join(f"[{number}] {words}" for number, words in enumerate(SENTENCES, 1)))


def test_a_line_break_inside_a_sentence_cannot_forge_a_number() -> None:
    prompt = summarize.render(Summarize(text="It goes on\nand on. A b\n[9] c"))
    assert "\n[1] It goes on and on.\n" in prompt.user
    numbers = [int(number) for number in re.findall(r"^\[(\d+)\]", prompt.user, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_length_form_language_and_focus_stand_in_the_system_text() -> None:
    prompt = summarize.render(
        Summarize(text=TEXT, length_words=50, style="bullets", language="German", focus="the fish")
    )
    for words in ("about 50 words", "bullet points", "Language: German", "Focus: the fish"):
        assert words in prompt.system


@given(st.integers(10, 2_000), st.sampled_from(["prose", "bullets"]))
def test_the_schema_is_strict_and_the_room_grows_with_the_length(words: int, style: Any) -> None:
    prompt = summarize.render(Summarize(text=TEXT, length_words=words, style=style))
    Draft202012Validator.check_schema(prompt.schema)
    schema = Draft202012Validator(prompt.schema)
    assert schema.is_valid(said(([1], "x")))
    assert not schema.is_valid({"sentences": [{"text": "x"}]})
    assert not schema.is_valid(said(([1], "x")) | {"note": ""})
    assert max(64, words) <= prompt.max_completion_tokens <= 16_000


def test_sources_are_the_sentences_of_the_text_and_unknown_numbers_are_dropped() -> None:
    result = summarize.parse(said(([3, 1, 99, 0, -1, "2", 1], "A blue fish."), ([], "Indeed.")), Summarize(text=TEXT))
    assert [span.quote for span in result.sentences[0].sources] == SENTENCES[:3]
    assert all(TEXT[span.start : span.end] == span.quote for span in result.sentences[0].sources)
    assert result.sentences[1].sources == ()
    assert result.parts == 1


@pytest.mark.parametrize(("style", "summary"), [("prose", "One. Two."), ("bullets", "- One.\n- Two.")])
def test_the_summary_is_its_sentences_in_the_wanted_form(style: Any, summary: str) -> None:
    result = summarize.parse(said(([1], "One."), ([2], " Two.\n"), ([2], " ")), Summarize(text=TEXT, style=style))
    assert result.summary == summary
    assert [sentence.text for sentence in result.sentences] == ["One.", "Two."]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "the answer must be a JSON object"),
        ({}, "sentences must be a list"),
        (said(), "at least one sentence"),
        (said(([1], " ")), "at least one sentence"),
        (said(([1], "x"), ([1], 7)), r"sentences\[1\]\.text must be a string"),
        (said(([1], "\ud800")), r"sentences\[0\]\.text must be a string"),
        (said(([], "x"), ([99], "y")), "sources must hold numbers of the given lines, 1 to 5"),
        (said(("1", "x")), "sources must hold numbers"),
    ],
)
def test_a_misfit_names_the_smallest_correction(answer: Any, reason: str) -> None:
    with pytest.raises(Misfit, match=reason):
        summarize.parse(answer, Summarize(text=TEXT))


@given(JSON | SAID)
def test_any_json_gives_a_summary_or_a_misfit(answer: Any) -> None:
    try:
        result = summarize.parse(answer, Summarize(text=TEXT))
    except Misfit as misfit:
        assert misfit.reason  # noqa: PT017 both ends are fine, silence is not
        return
    assert result.summary.strip()
    assert any(sentence.sources for sentence in result.sentences)
    result.model_dump_json()


def test_a_long_text_is_read_in_parts_whose_notes_are_merged_back_to_the_text() -> None:
    merges = []

    def model(prompt: Prompt) -> Any:
        first, last = re.findall(r"^\[\d+\] (.*)$", prompt.user, re.MULTILINE)[:: len(prompt.user.splitlines()) - 3]
        if is_merge(prompt):
            merges.append(prompt)
            return said(([1, 2], "Begins."), ([len(prompt.user.splitlines()) - 2], f"Ends with: {last}"))
        return said(([1], f"First: {first}"), ([2], "Then."))

    result = answered(Summarize(text=LONG), model)
    assert result.parts == 4
    assert len(merges) == 1
    assert [span.quote for span in result.sentences[0].sources] == [
        "Sentence number 0 tells of a fish.",
        "Sentence number 1 tells of a fish.",
    ]
    assert result.summary.endswith("Ends with: Then.")
    spans = [span for sentence in result.sentences for span in sentence.sources]
    assert all(LONG[span.start : span.end] == span.quote for span in spans)


def test_parts_are_about_as_long_and_hold_every_sentence_once_in_order() -> None:
    parts = []

    def model(prompt: Prompt) -> Any:
        if not is_merge(prompt):
            parts.append(re.findall(r"^\[\d+\] (.*)$", prompt.user, re.MULTILINE))
        return said(([1], "Fish."))

    answered(Summarize(text=LONG), model)
    assert " ".join(sentence for part in parts for sentence in part) == LONG
    assert max(map(len, parts)) - min(map(len, parts)) < 0.1 * len(parts[0])


def test_notes_that_are_too_long_for_one_call_are_merged_in_rounds() -> None:
    prompts = []

    def model(prompt: Prompt) -> Any:
        prompts.append(is_merge(prompt))
        long_note = "All about fish and more fish. " * 4_600
        return said(([1], "Fish." if all(prompts[-1:]) else long_note))

    result = answered(Summarize(text=LONG), model)
    assert prompts[: result.parts] == [False] * result.parts
    assert prompts.count(True) > 1
    assert result.summary == "Fish."
    assert all(LONG[span.start : span.end] == span.quote for span in result.sentences[0].sources)


def test_notes_that_do_not_get_shorter_are_a_misfit() -> None:
    with pytest.raises(Misfit, match="must be shorter: about 200 words"):
        answered(Summarize(text=LONG), lambda _: said(([1], "More and more fish. " * 10_000)))
