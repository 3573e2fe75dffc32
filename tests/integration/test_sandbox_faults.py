"""The sandbox as a process: each fault, and how faults are asked for."""

import json
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sandbox_process import CHAT, LABELS, TEXT, Running, classify, content, extract, process, rank, sandbox  # noqa: F401 fixtures

from shoal_worker.sandbox import Fault, FaultRule, Scenario
from shoal_worker.sandbox.scenario import Playback

# Faults

STATUSES = {
    "bad_request": 400,
    "unauthorized": 401,
    "out_of_credits": 402,
    "weight_exceeds_budget": 402,
    "in_flight_budget": 402,
    "key_limit": 402,
    "moderation": 403,
    "guardrail_patterns": 403,
    "budget_403": 403,
    "region_403": 403,
    "not_found": 404,
    "request_timeout_408": 408,
    "payload_too_large": 413,
    "unprocessable": 422,
    "upstream_429": 429,
    "upstream_429_http_date": 429,
    "upstream_429_no_header": 429,
    "admission_429": 429,
    "platform_429": 429,
    "server_500": 500,
    "bad_gateway_502": 502,
    "unavailable_503": 503,
    "gateway_timeout_504": 504,
    "timeout_524": 524,
    "overloaded_529": 529,
}
UPSTREAM = "upstream_provider_shared_pool"
LIMIT_SOURCES = {
    "out_of_credits": "openrouter_credits",
    "weight_exceeds_budget": "openrouter_credits",
    "in_flight_budget": "openrouter_in_flight_budget",
    "key_limit": "openrouter_key_limit",
    "budget_403": "openrouter_workspace_budget",
    "upstream_429": UPSTREAM,
    "upstream_429_http_date": UPSTREAM,
    "upstream_429_no_header": UPSTREAM,
    "platform_429": "openrouter_rate_limit",
    "admission_429": "openrouter_admission_control",
}


@pytest.mark.parametrize(("fault", "status"), STATUSES.items())
def test_an_error_fault_has_its_status_in_its_envelope_and_is_not_billed(
    sandbox: Running, fault: str, status: int
) -> None:
    answer = sandbox.faulty(fault)
    assert (answer.status, answer.error["code"]) == (status, status)
    assert answer.error["message"]
    assert answer.error.get("metadata", {}).get("limit_source") == LIMIT_SOURCES.get(fault)
    assert answer.headers["X-Shoal-Sandbox"] == "1"
    (record,) = sandbox.records()
    assert (record["status"], record["fault"], record["billed"]) == (status, fault, False)


def test_every_fault_has_a_test_of_its_own_or_a_place_in_a_table() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    assert [fault for fault in Fault if f'"{fault}' not in tests] == []


@pytest.mark.parametrize("fault", ["upstream_429", "admission_429", "unavailable_503", "in_flight_budget"])
def test_retry_after_says_the_seconds_asked_for_and_is_mirrored_in_the_metadata(sandbox: Running, fault: str) -> None:
    answer = sandbox.faulty(f"{fault}:29")
    assert answer.headers["Retry-After"] == "29"
    assert answer.error["metadata"]["headers"] == {"Retry-After": "29"}


def test_retry_after_can_be_an_http_date_or_be_missing(sandbox: Running) -> None:
    dated = sandbox.faulty("upstream_429_http_date:60").headers["Retry-After"]
    assert 0 < parsedate_to_datetime(dated).timestamp() - time.time() <= 61
    assert "Retry-After" not in sandbox.faulty("upstream_429_no_header").headers


def test_exhausted_capacity_names_no_code_but_what_to_do(sandbox: Running) -> None:
    answer = sandbox.faulty("capacity_exhausted_429:40")
    assert (answer.status, answer.headers["Retry-After"], "code" in answer.error) == (429, "40", False)
    availability = answer.error["availability"]
    assert (availability["code"], availability["retryable"], availability["retry_after"]) == (
        "capacity_exhausted",
        True,
        40,
    )


def test_only_the_platform_s_own_limit_has_rate_limit_headers(sandbox: Running) -> None:
    answer = sandbox.faulty("platform_429:60")
    assert answer.headers["X-RateLimit-Remaining"] == "0"
    assert 0 < int(answer.headers["X-RateLimit-Reset"]) / 1000 - time.time() <= 61
    assert "X-RateLimit-Reset" not in sandbox.faulty("upstream_429").headers


def test_the_refusals_of_status_403_differ_in_their_metadata(sandbox: Running) -> None:
    assert sandbox.faulty("moderation").error["metadata"]["reasons"] == ["violence"]
    assert sandbox.faulty("guardrail_patterns").error["metadata"]["patterns"]
    assert sandbox.faulty("budget_403:60").error["metadata"]["resets_at"].endswith("Z")
    assert sandbox.faulty("region_403").error["availability"]["code"] == "region_restricted"


def test_a_code_can_be_a_string(sandbox: Running) -> None:
    assert sandbox.faulty("string_code_500").error["code"] == "server_error"


@pytest.mark.parametrize(("fault", "status"), [("html_502", 502), ("html_524", 524)])
def test_the_edge_answers_with_a_page(sandbox: Running, fault: str, status: int) -> None:
    answer = sandbox.faulty(fault)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "text/html; charset=UTF-8")
    assert answer.body.startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("fault", "holds"),
    [
        ("error_200", lambda body: body["error"]["code"] == 500 and "choices" not in body),
        ("nested_error_200", lambda body: body["choices"] is None and body["error"]["code"] == 502),
        ("null_choices", lambda body: body["choices"] is None and "error" not in body),
        ("choice_error", lambda body: body["choices"][0]["finish_reason"] == "error"),
    ],
)
def test_a_200_without_a_completion_is_not_billed(
    sandbox: Running, fault: str, holds: Callable[[dict[str, Any]], bool]
) -> None:
    answer = sandbox.faulty(fault)
    assert answer.status == 200
    assert holds(answer.json)
    assert sandbox.bill()["billed_calls"] == 0


def test_a_body_can_be_white_space_only(sandbox: Running) -> None:
    answer = sandbox.faulty("whitespace_only")
    assert (answer.status, answer.body.strip()) == (200, b"")
    assert sandbox.bill()["billed_calls"] == 0


@pytest.mark.parametrize(
    ("fault", "finish", "said", "refusal"),
    [
        ("length_empty", "length", "", None),
        ("content_filter", "content_filter", "", None),
        ("refusal", "stop", None, "I'm sorry, but I cannot assist with that request."),
        ("empty_stop", "stop", "", None),
    ],
)
def test_an_ending_without_an_answer_is_billed(
    sandbox: Running, fault: str, finish: str, said: str | None, refusal: str | None
) -> None:
    answer = sandbox.faulty(fault).json
    choice = answer["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"], choice["message"]["refusal"]) == (
        finish,
        said,
        refusal,
    )
    assert sandbox.bill()["cost_usd"] == answer["usage"]["cost"] > 0


def test_reasoning_that_ate_the_budget_is_in_the_usage(sandbox: Running) -> None:
    usage = sandbox.faulty("length_empty").json["usage"]
    assert usage["completion_tokens"] == usage["completion_tokens_details"]["reasoning_tokens"] == 500


@pytest.mark.parametrize(
    ("fault", "request_", "holds"),
    [
        ("misfit_json", classify(), lambda said: "label" not in said),
        ("misfit_values", classify(), lambda said: said["label"] not in LABELS),
        ("misfit_values", rank(), lambda said: said["ranking"][0]["score"] > 3),
        ("misfit_values", extract(), lambda said: not isinstance(said["total"]["value"], float)),
        ("broken_permutation", rank(), lambda said: len({one["id"] for one in said["ranking"]}) == 2),
        ("unsupported_quotes", extract(), lambda said: said["total"]["quote"] not in "The total is $5.50."),
        ("unsupported_quotes", classify(), lambda said: said["evidence"] not in TEXT),
    ],
)
def test_an_answer_wrong_inside_is_valid_json_and_billed(
    sandbox: Running, fault: str, request_: dict[str, Any], holds: Callable[[Any], bool]
) -> None:
    assert holds(content(sandbox.faulty(fault, request_)))
    assert sandbox.bill()["billed_by_custom_id"] == {request_["metadata"]["custom_id"]: 1}


def test_bad_json_is_billed(sandbox: Running) -> None:
    with pytest.raises(json.JSONDecodeError):
        content(sandbox.faulty("bad_json"))
    assert sandbox.bill()["billed_calls"] == 1


def test_the_cost_can_be_missing_from_the_usage(sandbox: Running) -> None:
    usage = sandbox.faulty("missing_usage_cost").json["usage"]
    assert ("cost" in usage, usage["prompt_tokens"] > 0) == (False, True)
    assert sandbox.bill()["cost_usd"] > 0


def test_the_completion_can_be_nested_in_the_provider(sandbox: Running) -> None:
    body = sandbox.faulty("provider_nested_200").json
    assert (body["choices"], body["provider"]["choices"][0]["finish_reason"]) == (None, "stop")


@pytest.mark.parametrize("fault", ["slow_headers:0.1", "slow_body:0.1", "drip_whitespace:0.6"])
def test_a_slow_answer_is_a_right_one_and_billed(sandbox: Running, fault: str) -> None:
    answer = sandbox.faulty(fault)
    assert content(answer)["label"] == "billing"
    assert answer.body.startswith(b" ") == fault.startswith("drip")
    assert sandbox.bill()["billed_calls"] == 1


def test_headers_of_a_slow_body_come_before_its_end(sandbox: Running) -> None:
    async def read_headers_only(session: aiohttp.ClientSession) -> str:
        headers = {"X-Shoal-Sandbox-Fault": "slow_body:3600"}
        async with session.post(sandbox.root + CHAT, json=classify(), headers=headers) as response:
            response.close()
            return response.headers["X-Generation-Id"]

    identity = sandbox.with_session(read_headers_only)
    assert sandbox.records()[0]["generation_id"] == identity


def test_a_cut_body_ends_before_its_length_and_is_billed(sandbox: Running) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        sandbox.faulty("cut_body")
    (record,) = sandbox.await_records(lambda records: records[0]["billed"])
    assert (record["status"], record["client_disconnected"]) == (200, False)


def test_a_reset_connection_brings_no_reply_and_no_bill(sandbox: Running) -> None:
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        sandbox.faulty("connection_reset")
    assert (sandbox.records()[0]["status"], sandbox.bill()["billed_calls"]) == (None, 0)


# How faults are asked for


def test_a_marker_in_the_text_strikes_every_time(sandbox: Running) -> None:
    request = classify(f"[[fault:server_500]] {TEXT}")
    assert [sandbox.chat(request).status for _ in range(3)] == [500, 500, 500]


def test_counted_markers_are_played_in_turn_for_each_custom_id_by_itself(sandbox: Running) -> None:
    text = f"[[fault:server_500*2]][[fault:upstream_429:7*1]] {TEXT}"
    for job in ("job-a", "job-b"):
        answers = [sandbox.chat(classify(text, job)) for _ in range(4)]
        assert [answer.status for answer in answers] == [500, 500, 429, 200]
        assert answers[2].headers["Retry-After"] == "7"


def test_the_header_wins_over_the_marker_and_the_marker_over_the_scenario(sandbox: Running) -> None:
    sandbox.play(faults=[{"fault": "not_found"}])
    marked = classify(f"[[fault:server_500]] {TEXT}")
    assert sandbox.faulty("unprocessable", marked).status == 422
    assert sandbox.chat(marked).status == 500
    assert sandbox.chat(classify()).status == 404


@pytest.mark.parametrize(("fault", "message"), [("no_such", "unknown sandbox fault"), ("slow_body:1.2.3", "a number")])
def test_a_fault_that_does_not_exist_is_an_error_and_not_silence(sandbox: Running, fault: str, message: str) -> None:
    assert message in sandbox.faulty(fault).error["message"]
    assert message in sandbox.chat(classify(f"[[fault:{fault}]]")).error["message"]


def test_a_scenario_strikes_by_the_number_of_the_request(sandbox: Running) -> None:
    assert sandbox.play(faults=[{"fault": "upstream_429", "from_request": 2, "to_request": 3}]).status == 200
    assert [sandbox.chat(classify()).status for _ in range(4)] == [200, 429, 429, 200]


def test_a_scenario_strikes_by_time() -> None:
    rule = FaultRule(fault=Fault.UPSTREAM_429, from_seconds=5, to_seconds=65)
    playback = Playback(Scenario(faults=(rule,)), now=100.0)
    struck = [playback.next_fault(100.0 + elapsed) is not None for elapsed in (0, 4.9, 5, 64.9, 65)]
    assert struck == [False, False, True, True, False]


def test_a_scenario_strikes_a_share_of_requests_the_same_ones_for_the_same_seed() -> None:
    rule = FaultRule(fault=Fault.SERVER_500, share=0.1)

    def struck(seed: int) -> list[int]:
        playback = Playback(Scenario(seed=seed, faults=(rule,)), now=0.0)
        return [number for number in range(2000) if playback.next_fault(0.0)]

    assert 120 < len(struck(1)) < 280
    assert struck(1) == struck(1) != struck(2)


@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        ({"latency": 1}, "latency: Extra inputs are not permitted"),
        ({"faults": [{"fault": "no_such"}]}, "faults.0.fault: Input should be 'bad_request'"),
        (
            {"faults": [{"fault": "server_500", "from_request": 9, "to_request": 2}]},
            "to_request is before from_request",
        ),
        ({"latency_seconds": -1}, "latency_seconds: Input should be greater than or equal to 0"),
    ],
)
def test_a_wrong_scenario_is_refused_with_its_faults_named(sandbox: Running, scenario: Any, told: str) -> None:
    answer = sandbox.play(**scenario)
    assert answer.status == 400
    assert told in answer.error["message"]
