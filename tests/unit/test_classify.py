import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from shoal.jobs import NONE_OF_THESE, Classify, Label
from shoal_worker.errors import Misfit
from shoal_worker.kinds import ANSWERS, classify
from shoal_worker.kinds.fence import fenced
from shoal_worker.ports import Prompt

TEXT = "I was charged twice! Please refund me."
LABELS = ("billing", "bug", "praise")
ONE = Classify(text=TEXT, labels=LABELS)
MANY = Classify(text=TEXT, labels=LABELS, many=True)

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name.strip() and name != NONE_OF_THESE
)
ARGS = st.builds(
    Classify,
    text=st.just(TEXT),
    labels=st.lists(st.builds(Label, name=NAMES), min_size=2, max_size=6, unique_by=lambda label: label.name),
    many=st.booleans(),
    none_of_these=st.booleans(),
)


def one(label: Any, confidence: Any = 0.9, evidence: Any = "charged twice") -> dict[str, Any]:
    return {"evidence": evidence, "label": label, "confidence": confidence}


def many(*labels: tuple[Any, Any]) -> dict[str, Any]:
    return {"evidence": "", "labels": [{"label": name, "confidence": sure} for name, sure in labels]}


def test_the_system_text_holds_the_labels_and_the_user_text_only_the_fenced_text() -> None:
    args = Classify(text=TEXT, labels={"billing": "money\nmatters", "bug": ""}, none_of_these=True)
    prompt = classify.render(args)
    labels = "Labels:\n- billing: money matters\n- bug\n- none of these: no other label fits"
    assert prompt.system.endswith(labels)
    assert prompt.user == fenced("text", TEXT)
    assert prompt.schema_name == "shoal_classify"


def test_the_evidence_is_asked_for_before_the_label() -> None:
    assert list(classify.render(ONE).schema["properties"]) == ["evidence", "label", "confidence"]
    assert list(classify.render(MANY).schema["properties"]) == ["evidence", "labels"]


@given(ARGS)
def test_the_schema_takes_each_given_label_and_no_other(args: Classify) -> None:
    schema = Draft202012Validator(classify.render(args).schema)
    allowed = [label.name for label in args.labels] + [NONE_OF_THESE] * args.none_of_these
    for name in allowed:
        assert schema.is_valid(many((name, 1)) if args.many else one(name))
    assert not schema.is_valid(many(("-" * 21, 1)) if args.many else one("-" * 21))
    assert args.none_of_these == schema.is_valid(many((NONE_OF_THESE, 1)) if args.many else one(NONE_OF_THESE))


def test_labels_too_long_for_a_providers_choices_are_checked_here_instead() -> None:
    args = Classify(text=TEXT, labels=[f"{'long ' * 20}{number}" for number in range(400)])
    prompt = classify.render(args)
    assert prompt.schema["properties"]["label"] == {"type": "string"}
    assert classify.parse(one(args.labels[7].name), args).label == args.labels[7].name
    with pytest.raises(Misfit):
        classify.parse(one("another"), args)


@given(ARGS, st.data())
def test_every_given_label_is_read_as_itself(args: Classify, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(args.labels)).name
    result = classify.parse(many((name, 0.5)) if args.many else one(name, 0.5), args)
    assert (result.label, result.confidence) == (name, 0.5)


@pytest.mark.parametrize("said", ["Billing", " billing\n", "BILL ING"])
def test_case_and_white_space_of_a_label_are_forgiven(said: str) -> None:
    assert classify.parse(one(said), ONE).label == "billing"


def test_a_label_that_could_mean_two_is_a_misfit_unless_it_is_one_of_them() -> None:
    args = Classify(text=TEXT, labels=("Bug", "bug"))
    assert classify.parse(one("bug"), args).label == "bug"
    with pytest.raises(Misfit):
        classify.parse(one("BUG"), args)


@pytest.mark.parametrize(
    ("said", "confidence"), [(1.7, 1.0), (-3, 0.0), (0, 0.0), ("0.25", 0.25), (10**200, 1.0), (1e308, 1.0)]
)
def test_a_confidence_is_brought_between_0_and_1(said: Any, confidence: float) -> None:
    assert classify.parse(one("bug", said), ONE).confidence == confidence


@pytest.mark.parametrize("said", [None, True, "sure", float("nan"), float("inf"), [1], 10**400])
def test_a_confidence_that_is_no_number_is_a_misfit(said: Any) -> None:
    with pytest.raises(Misfit, match=r"^confidence must be a number from 0 to 1$"):
        classify.parse(one("bug", said), ONE)


def test_several_labels_come_the_surest_first_and_once_each() -> None:
    result = classify.parse(many(("Billing", 0.4), ("bug", 0.8), ("bug", 0.2)), MANY)
    assert [(label.name, label.confidence) for label in result.labels] == [("bug", 0.8), ("billing", 0.4)]


def test_an_empty_list_is_an_answer_where_several_labels_are_allowed() -> None:
    assert classify.parse(many(), MANY).labels == ()


@pytest.mark.parametrize("allows_many", [True, False])
def test_none_of_these_means_no_label_where_it_is_allowed(allows_many: bool) -> None:
    said = many((NONE_OF_THESE, 0.9)) if allows_many else one("None of these")
    args = Classify(text=TEXT, labels=LABELS, many=allows_many, none_of_these=True)
    assert classify.parse(said, args).labels == ()
    with pytest.raises(Misfit):
        classify.parse(said, MANY if allows_many else ONE)


def test_a_misfit_names_the_place_and_the_correction_but_never_the_value() -> None:
    with pytest.raises(Misfit) as caught:
        classify.parse(many(("bug", 1), ("my secret", 1)), MANY)
    assert caught.value.reason == "labels[1].label must be one of the given labels"


@pytest.mark.parametrize(
    ("evidence", "span"),
    [
        ("charged twice", (6, 19)),
        ("CHARGED  twice", (6, 19)),
        ("stolen", None),
        ("", None),
        (None, None),
        (7, None),
        ("\ud800", None),
    ],
)
def test_evidence_is_words_of_the_text_or_nothing(evidence: Any, span: tuple[int, int] | None) -> None:
    found = classify.parse(one("bug", evidence=evidence), ONE).evidence
    assert (found and (found.start, found.end, found.quote)) == (span and (*span, TEXT[slice(*span)]))


def test_more_labels_get_more_room_for_the_answer_but_not_without_end() -> None:
    def room(count: int) -> int:
        labels = [f"{number} " + "x" * 190 for number in range(count)]
        return classify.render(Classify(text=TEXT, labels=labels, many=True)).max_completion_tokens

    assert 64 <= room(2) < room(20) < room(400) == room(500) == 16_000


def test_a_job_asks_once_and_reads_the_answer() -> None:
    async def ask(prompt: Prompt, parse: Callable[[Any], Any]) -> Any:
        assert prompt == classify.render(ONE)
        return parse(one("billing"))

    async def answered() -> Any:
        return await ANSWERS["classify"](ONE, ask)

    assert asyncio.run(answered()) == classify.parse(one("billing"), ONE)
