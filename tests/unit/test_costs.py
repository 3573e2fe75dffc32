"""The pure parts of the ledger: bounds, questions, what is billed, and how its sums are read and shown."""

from dataclasses import replace
from datetime import date

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json
from rich.console import Console

from shoal.cost_cli import first_day, table_of
from shoal.costs import COST_FIELDS, Cost, Labels, costs_of, day_of, days, grouped, nano_usd, total, usd
from shoal.jobs import Usage
from shoal_worker.calls import bound_usd, question_of, settlement_of
from shoal_worker.openrouter import Gateway, chat_body
from shoal_worker.ports import ChatRequest, Prompt
from shoal_worker.replies import HttpReply, Prices, read_generation

TODAY = date(2026, 3, 10)
PROMPT = Prompt("Do it.", "A text.", "shoal_classify", {"type": "object", "properties": {}}, 100)
REQUEST = ChatRequest(PROMPT, "openai/gpt-5.4-nano", "job", 5.0)

texts = st.text(max_size=200)
money = st.integers(0, 10**15)
costs = st.builds(Cost, **dict.fromkeys(COST_FIELDS, money))


@given(system=texts, user=texts, named=texts, cap=st.integers(1, 16_000), tokens=st.integers(0, 10**6))
def test_no_call_costs_more_than_its_bound(system: str, user: str, named: str, cap: int, tokens: int) -> None:
    """However the tokenizer cuts: a token is a byte at the least, and the answer ends at its cap."""
    prompt = Prompt(system, user, "shoal_extract", {"type": "object", "properties": {named: {}}}, cap)
    read = len((system + user).encode("utf-8", "surrogatepass")) + len(to_json({named: {}}))
    most = Prices().cost_usd(read, 0, min(tokens, cap))
    assert nano_usd(bound_usd(prompt, Prices())) >= nano_usd(most)


@given(first=texts, second=texts, cap=st.integers(1, 99))
def test_equal_questions_are_equal_bytes(first: str, second: str, cap: int) -> None:
    one = REQUEST
    other = replace(one, prompt=replace(PROMPT, user=first, max_completion_tokens=cap), round=second)
    same_bytes = chat_body(one, Gateway()) == chat_body(other, Gateway())
    assert (question_of(one) == question_of(other)) == same_bytes
    assert question_of(other) == question_of(replace(other, deadline_seconds=9.0, kind="rank", tenant="x"))


def test_a_reply_that_counts_nothing_was_not_billed() -> None:
    assert not settlement_of(Usage(calls=1), "gen-1", Prices()).is_billed
    assert settlement_of(Usage(calls=1, output_tokens=1), "gen-1", Prices()).is_billed


def test_the_prompt_cache_saves_the_difference_of_the_prices() -> None:
    settlement = settlement_of(Usage(input_tokens=2_000, cached_tokens=1_024, cost_usd=1.0), "gen-1", Prices())
    assert nano_usd(settlement.cache_saved_usd) == 1_024 * 180


def generation(status: int, card: object) -> HttpReply:
    return HttpReply(status, {}, to_json({"data": card}))


def test_a_generation_is_read_as_what_it_was_charged() -> None:
    card = {"id": "gen-1", "total_cost": 0.0000325, "native_tokens_prompt": 100, "native_tokens_completion": 10}
    read = read_generation(generation(200, card), Prices(), now=0)
    assert read
    assert (read.is_billed, read.usage.cost_usd, read.usage.output_tokens) == (True, 0.0000325, 10)


@pytest.mark.parametrize("reply", [generation(404, None), generation(200, {}), generation(200, {"total_cost": None})])
def test_a_generation_that_is_not_known_yet_says_nothing(reply: HttpReply) -> None:
    assert read_generation(reply, Prices(), now=0) is None


@pytest.mark.parametrize("cost", [-1, 1e12, "much", True])
def test_a_cost_that_cannot_be_is_none(cost: object) -> None:
    assert read_generation(generation(200, {"total_cost": cost}), Prices(), now=0) is None


def test_a_generation_that_cost_nothing_was_not_billed() -> None:
    read = read_generation(generation(200, {"total_cost": 0}), Prices(), now=0)
    assert read
    assert not read.is_billed


@given(st.floats(0, 1_000_000))
def test_money_is_kept_to_the_nano_dollar(amount: float) -> None:
    assert abs(usd(nano_usd(amount)) - amount) <= 1e-9
    assert nano_usd(usd(nano_usd(amount))) == nano_usd(amount)


def test_a_days_sums_are_read_whatever_newer_workers_add() -> None:
    sums = {
        b"billed_calls|rank||some|model": b"2",
        b"maybe_calls|rank|acme|m": b"1",
        b"billed_dreams|rank|acme|m": b"1",
    }
    assert costs_of(TODAY, sums) == {
        Labels(TODAY, "rank", "", "some|model"): Cost(billed_calls=2),
        Labels(TODAY, "rank", "acme", "m"): Cost(maybe_calls=1),
    }


@given(st.lists(costs, max_size=5))
def test_groups_add_up_to_the_total(several: list[Cost]) -> None:
    labelled = {Labels(TODAY, "rank", f"t{n % 2}", f"m{n}"): cost for n, cost in enumerate(several)}
    groups = grouped(labelled, lambda labels: labels.tenant)
    assert total(groups.values()) == total(several)
    assert list(groups) == sorted(groups)


def test_days_are_those_of_utc() -> None:
    assert day_of(86_399.999) == date(1970, 1, 1)
    assert day_of(86_400) == date(1970, 1, 2)
    assert days(date(2026, 2, 28), date(2026, 3, 1)) == [date(2026, 2, 28), date(2026, 3, 1)]


@pytest.mark.parametrize(
    ("since", "first"),
    [
        ("1d", TODAY),
        ("7d", date(2026, 3, 4)),
        ("2026-03-01", date(2026, 3, 1)),
        ("999d", date(2025, 2, 4)),
        ("2001-01-01", date(2025, 2, 4)),
    ],
)
def test_since_is_days_or_a_date(since: str, first: date) -> None:
    assert first_day(since, TODAY) == first


@pytest.mark.parametrize("since", ["", "0d", "7", "7h", "yesterday", "2026-13-01"])
def test_a_wrong_since_says_what_is_right(since: str) -> None:
    with pytest.raises(click.BadParameter, match="7d, or a date"):
        first_day(since, TODAY)


def test_the_table_fits_a_hundred_columns() -> None:
    busy = Cost(**{name: 123_456_789 if "nano" not in name else 1_234_567_890_000 for name in COST_FIELDS})
    console = Console(width=100, record=True)
    console.print(table_of("model", {"openai/gpt-5.4-nano": busy, "": Cost()}))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert all(len(line) <= 100 for line in lines)
    assert all("…" not in line for line in lines)
    assert any(line.startswith("openai/gpt") for line in lines)
    assert lines[-1].split()[0] == "total"
