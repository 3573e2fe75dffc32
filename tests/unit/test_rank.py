import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from shoal.jobs import Document, Rank, RankResult
from shoal_worker.errors import Misfit, ProviderUnavailable
from shoal_worker.kinds import rank
from shoal_worker.kinds.fence import fenced
from shoal_worker.ports import Prompt

ARGS = Rank(query="fish", documents=[Document(id=name, text=f"about {name}") for name in "abcd"], top_k=2)

SAID_NUMBERS = st.integers(-1, 6) | st.sampled_from(["1", "3", "x", None, True, 2.0, 2.5, 10**400])
SAID_SCORES: st.SearchStrategy[Any] = st.floats() | st.integers() | st.sampled_from(["2.5", "good", None, [], 10**400])
SAID = st.lists(
    st.builds(lambda number, score: {"id": number, "score": score}, SAID_NUMBERS, SAID_SCORES) | SAID_NUMBERS
)


def ranked(*pairs: tuple[Any, Any]) -> dict[str, Any]:
    return {"ranking": [{"id": number, "score": score} for number, score in pairs]}


def ids(result: RankResult) -> list[str]:
    return [document.id for document in result.ranking]


def documents_of(prompt: Prompt) -> list[tuple[int, str]]:
    found = re.findall(r'<document-([0-9a-f]{8}) id="(\d+)">\n(.*?)\n</document-\1>', prompt.user, re.DOTALL)
    return [(int(number), text) for _, number, text in found]


def answered(args: Rank, model: Callable[[Prompt], Any]) -> RankResult:
    async def ask(prompt: Prompt, parse: Callable[[Any], Any]) -> Any:
        await asyncio.sleep(0)
        return parse(model(prompt))

    return asyncio.run(rank.answer(args, ask))


def test_the_query_comes_before_the_documents_each_in_its_own_fence() -> None:
    prompt = rank.render(ARGS)
    assert prompt.user.startswith(fenced("query", "fish") + "\n")
    assert documents_of(prompt) == [(number, f"about {name}") for number, name in enumerate("abcd", 1)]
    assert prompt.system.endswith("Better means: more relevant to the query.")
    newest = ARGS.model_copy(update={"criterion": "newer"})
    assert rank.render(newest).system.endswith("Better means: newer")


@given(st.integers(1, 120))
def test_the_schema_takes_a_ranking_of_all_documents_and_nothing_beside_it(count: int) -> None:
    prompt = rank.render(Rank(query="q", documents=["x"] * count))
    Draft202012Validator.check_schema(prompt.schema)
    schema = Draft202012Validator(prompt.schema)
    full = ranked(*((number, 1) for number in range(1, count + 1)))
    assert schema.is_valid(full)
    assert not schema.is_valid({**full, "note": "x"})
    assert not schema.is_valid({"ranking": [{"id": 1}]})
    assert prompt.max_completion_tokens >= 64


@given(SAID)
def test_whatever_the_model_says_every_document_comes_once_and_scores_never_rise(said: list[Any]) -> None:
    try:
        result = rank.parse({"ranking": said}, ARGS)
    except Misfit:
        assert not any(str(item.get("id") if isinstance(item, dict) else item) in "1234" for item in said)
        return
    assert sorted(ids(result)) == list("abcd")
    assert all(ARGS.documents[document.index].id == document.id for document in result.ranking)
    scores = [document.score for document in result.ranking]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 3 for score in scores)


@pytest.mark.parametrize("said", [None, [], {}, {"ranking": None}, {"ranking": []}, ranked((9, 3), ("x", 1)), "x"])
def test_an_answer_without_any_known_document_is_a_misfit(said: Any) -> None:
    with pytest.raises(Misfit):
        rank.parse(said, ARGS)


def test_scores_decide_and_equals_keep_the_order_of_the_answer() -> None:
    result = rank.parse(ranked((1, 1), (4, 3), (3, 1), (2, 3)), ARGS)
    assert ids(result) == ["d", "b", "a", "c"]
    assert result.repaired == ()
    assert [document.id for document in result.top] == ["d", "b"]


def test_missing_documents_come_last_in_the_given_order_and_are_named() -> None:
    result = rank.parse(ranked((3, 2)), ARGS)
    assert ids(result) == ["c", "a", "b", "d"]
    assert [document.score for document in result.ranking] == [2, 0, 0, 0]
    assert result.repaired == ("a", "b", "d")


def test_a_repeated_document_keeps_its_first_place_and_is_named() -> None:
    result = rank.parse(ranked((2, 3), (1, 2), (2, 1), (2, 0), (3, 1), (4, 1)), ARGS)
    assert ids(result) == ["b", "a", "c", "d"]
    assert result.repaired == ("b",)


def by_number(prompt: Prompt) -> Any:
    """A model that grades by the number in the text."""
    return ranked(*((number, int(re.findall(r"\d+", text)[0]) % 4) for number, text in documents_of(prompt)))


def test_documents_over_one_calls_limit_are_graded_in_batches_and_merged() -> None:
    args = Rank(query="q", documents=[f"{number} " + "x" * 90_000 for number in range(11)], top_k=3)
    calls = []

    def model(prompt: Prompt) -> Any:
        calls.append(len(documents_of(prompt)))
        return by_number(prompt)

    result = answered(args, model)
    assert calls == [3, 3, 3, 2]
    assert [document.index for document in result.ranking] == [3, 7, 2, 6, 10, 1, 5, 9, 0, 4, 8]
    assert result.repaired == ()
    assert result.top_k == 3


def test_many_short_documents_are_graded_in_batches_too() -> None:
    args = Rank(query="q", documents=[str(number) for number in range(401)])
    calls = []

    def model(prompt: Prompt) -> Any:
        calls.append(prompt)
        return by_number(prompt)

    assert sorted(document.index for document in answered(args, model).ranking) == list(range(401))
    assert [len(documents_of(prompt)) for prompt in calls] == [200, 200, 1]


def test_a_document_longer_than_any_call_stands_alone() -> None:
    args = Rank(query="q", documents=["2" + "x" * 400_000, "1", "3" + "x" * 400_000])
    calls = []

    def model(prompt: Prompt) -> Any:
        calls.append(len(documents_of(prompt)))
        return by_number(prompt)

    assert ids(answered(args, model)) == ["2", "0", "1"]
    assert calls == [1, 1, 1]


def test_what_one_batch_leaves_out_is_named_by_the_callers_id() -> None:
    args = Rank(query="q", documents=[Document(id=f"d{number}", text="x" * 90_000) for number in range(4)])
    result = answered(args, lambda prompt: ranked((1, 2)))
    assert result.repaired == ("d1", "d2")
    assert ids(result) == ["d0", "d3", "d1", "d2"]


def test_an_error_in_one_batch_waits_for_the_others_and_is_raised_as_it_is() -> None:
    args = Rank(query="q", documents=[f"{number} " + "x" * 90_000 for number in range(11)])
    ended: list[Prompt] = []

    async def ask(prompt: Prompt, parse: Callable[[Any], Any]) -> Any:
        if not ended and documents_of(prompt)[0][1].startswith("0"):
            raise ProviderUnavailable("503")
        for _ in range(9):
            await asyncio.sleep(0)
        ended.append(prompt)
        return parse(by_number(prompt))

    with pytest.raises(ProviderUnavailable, match="503"):
        asyncio.run(rank.answer(args, ask))
    assert len(ended) == 3
