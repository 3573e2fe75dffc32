"""Every fault of the sandbox's menu through a real worker: the right verb, and the right bill."""

from collections.abc import Iterator
from typing import Any

import pytest

from conftest import Sandbox, Workers
from shoal import Args, Classify, Extract, JobFailed, Outcome, Rank, Shoal
from shoal.messages import message_of
from shoal_worker.sandbox import Fault

#: What the worker does about it, and how many of the job's calls are billed.
VERBS: dict[Fault, tuple[str, int]] = {
    Fault.BAD_REQUEST: ("discard request_refused", 0),
    Fault.NOT_FOUND: ("discard request_refused", 0),
    Fault.PAYLOAD_TOO_LARGE: ("discard request_refused", 0),
    Fault.UNPROCESSABLE: ("discard request_refused", 0),
    Fault.MODERATION: ("discard content_refused", 0),
    Fault.GUARDRAIL_PATTERNS: ("discard content_refused", 0),
    Fault.CONTENT_FILTER: ("discard content_refused", 1),
    Fault.REFUSAL: ("discard content_refused", 1),
    Fault.UNAUTHORIZED: ("snooze", 1),
    Fault.OUT_OF_CREDITS: ("snooze", 1),
    Fault.WEIGHT_EXCEEDS_BUDGET: ("snooze", 1),
    Fault.IN_FLIGHT_BUDGET: ("snooze", 1),
    Fault.KEY_LIMIT: ("snooze", 1),
    Fault.BUDGET_403: ("snooze", 1),
    Fault.UPSTREAM_429: ("snooze", 1),
    Fault.UPSTREAM_429_HTTP_DATE: ("snooze", 1),
    Fault.UPSTREAM_429_NO_HEADER: ("snooze", 1),
    Fault.ADMISSION_429: ("snooze", 1),
    Fault.CAPACITY_EXHAUSTED_429: ("snooze", 1),
    Fault.PLATFORM_429: ("snooze", 1),
    Fault.UNAVAILABLE_503: ("snooze", 1),
    Fault.REGION_403: ("retry", 1),
    Fault.REQUEST_TIMEOUT_408: ("retry", 1),
    Fault.SERVER_500: ("retry", 1),
    Fault.STRING_CODE_500: ("retry", 1),
    Fault.BAD_GATEWAY_502: ("retry", 1),
    Fault.GATEWAY_TIMEOUT_504: ("retry", 1),
    Fault.TIMEOUT_524: ("retry", 1),
    Fault.OVERLOADED_529: ("retry", 1),
    Fault.HTML_502: ("retry", 1),
    Fault.HTML_524: ("retry", 1),
    Fault.ERROR_200: ("retry", 1),
    Fault.NESTED_ERROR_200: ("retry", 1),
    Fault.NULL_CHOICES: ("retry", 1),
    Fault.CHOICE_ERROR: ("retry", 1),
    Fault.WHITESPACE_ONLY: ("retry", 1),
    Fault.EMPTY_STOP: ("retry", 2),
    Fault.CUT_BODY: ("retry", 2),
    Fault.CONNECTION_RESET: ("retry", 1),
    Fault.LENGTH_EMPTY: ("ask again", 2),
    Fault.MISFIT_JSON: ("ask again", 2),
    Fault.BAD_JSON: ("ask again", 2),
    Fault.MISFIT_VALUES: ("ask again", 2),
    Fault.BROKEN_PERMUTATION: ("answer", 1),
    Fault.UNSUPPORTED_QUOTES: ("answer", 1),
    Fault.MISSING_USAGE_COST: ("answer", 1),
    Fault.PROVIDER_NESTED_200: ("answer", 1),
    Fault.DRIP_WHITESPACE: ("answer", 1),
    Fault.SLOW_HEADERS: ("answer", 1),
    Fault.SLOW_BODY: ("answer", 1),
}


def job_with(fault: Fault) -> Args[Any]:
    marker = f"[[fault:{fault}:1*1]]"
    text = f"Ann was charged twice on 2024-05-01. {marker}"
    if fault == Fault.BROKEN_PERMUTATION:
        return Rank(query="charges", documents=(text, "fish", "cats", "dogs"))
    if fault == Fault.UNSUPPORTED_QUOTES:
        fields = {"type": "object", "properties": {"date": {"type": "string"}}}
        return Extract(text=text, fields=fields)
    return Classify(text=text, labels=("billing", "bug"))


def verb_of(answer: Outcome[Any] | JobFailed) -> str:
    """What was done, read from what a producer can see."""
    if isinstance(answer, JobFailed):
        return f"discard {answer.cause}"
    if answer.attempts > 1:
        return "retry"
    if len(answer.generation_ids) > 1:
        return "ask again"
    return "snooze" if answer.usage.calls > 1 else "answer"


def test_the_table_is_the_whole_menu() -> None:
    assert set(VERBS) == set(Fault)


def beside_good_ones() -> Iterator[tuple[object, Args[Any]]]:
    """So many failures without a success would be a provider that is down, whose calls are held back."""
    for fault in VERBS:
        yield fault, job_with(fault)
        for number in range(3):
            yield (fault, number), Classify(text=f"A good one, beside {fault} {number}", labels=("billing", "bug"))


@pytest.mark.timeout(170)
def test_each_fault_has_its_verb_and_its_bill(shoal: Shoal, workers: Workers, sandbox: Sandbox) -> None:
    workers.start()
    ids = {fault: message_of(job_with(fault), {}, shoal.settings, 0.0).id for fault in VERBS}
    answers = dict(shoal.stream(beside_good_ones(), window=200))
    billed = sandbox.bill()["billed_by_custom_id"]
    seen = {fault: (verb_of(answers[fault]), billed.get(ids[fault], 0)) for fault in VERBS}
    assert {f"{fault}": seen[fault] for fault in VERBS} == {f"{fault}": VERBS[fault] for fault in VERBS}
    repaired = answers[Fault.BROKEN_PERMUTATION]
    assert isinstance(repaired, Outcome)
    assert repaired.result.repaired
    ungrounded = answers[Fault.UNSUPPORTED_QUOTES]
    assert isinstance(ungrounded, Outcome)
    assert any(evidence.quote is None for evidence in ungrounded.result.evidence)
    priced = answers[Fault.MISSING_USAGE_COST]
    assert isinstance(priced, Outcome)
    assert priced.usage.cost_usd > 0
