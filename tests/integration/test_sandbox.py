"""The sandbox as a process: its wire form, each fault, the bill, the cache, and its end."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
from multidict import CIMultiDictProxy

from shoal_worker.sandbox import Fault, FaultRule, Scenario
from shoal_worker.sandbox.ledger import Ledger
from shoal_worker.sandbox.metering import Usage
from shoal_worker.sandbox.scenario import Playback

T = TypeVar("T")
CHAT = "/api/v1/chat/completions"
KEY = {"Authorization": "Bearer sk-or-v1-of-a-test"}
LABELS = ["billing", "bug", "none of these"]
TEXT = "I was charged twice for one month."


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        return found


@dataclass(frozen=True, slots=True)
class Running:
    """A sandbox process and a client for it. Each call has a connection of its own."""

    root: str
    process: subprocess.Popen[str]

    def call(
        self, method: str, path: str, body: bytes | BytesIO | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        async def once(session: aiohttp.ClientSession) -> Answer:
            return await fetch(session, method, self.root + path, body, headers)

        return self.with_session(once)

    def with_session(self, work: Callable[[aiohttp.ClientSession], Awaitable[T]]) -> T:
        async def run() -> T:
            timeout = aiohttp.ClientTimeout(total=30)
            async with aiohttp.ClientSession(headers=KEY, timeout=timeout) as session:
                return await work(session)

        return asyncio.run(run())

    def chat(self, request: dict[str, Any], **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("POST", CHAT, encoded(request), named)

    def faulty(self, fault: str, request: dict[str, Any] | None = None) -> Answer:
        return self.chat(request or classify(), X_Shoal_Sandbox_Fault=fault)

    def play(self, **scenario: Any) -> Answer:
        return self.call("POST", "/sandbox/scenario", json.dumps(scenario).encode())

    def records(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", "/sandbox/requests").json["requests"]
        return found

    def bill(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", "/sandbox/bill").json
        return found

    def await_records(self, holds: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + 20
        while not holds(records := self.records()):
            assert time.monotonic() < deadline, f"never: {records}"
            time.sleep(0.02)
        return records


async def fetch(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    body: bytes | BytesIO | None,
    headers: dict[str, str] | None = None,
) -> Answer:
    async with session.request(method, url, data=body, headers=headers) as response:
        return Answer(response.status, response.headers, await response.read())


def encoded(request: dict[str, Any]) -> bytes:
    return json.dumps(request).encode()


def closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def chat_request(user: str, name: str, schema: dict[str, Any], custom_id: str) -> dict[str, Any]:
    return {
        "model": "openai/gpt-5.4-nano",
        "messages": [{"role": "system", "content": "Do it."}, {"role": "user", "content": user}],
        "response_format": {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}},
        "max_completion_tokens": 500,
        "reasoning": {"effort": "none"},
        "metadata": {"custom_id": custom_id},
    }


def classify(text: str = TEXT, custom_id: str = "job-1") -> dict[str, Any]:
    label = {"type": "string", "enum": LABELS}
    schema = closed({"evidence": {"type": "string"}, "label": label, "confidence": {"type": "number"}})
    return chat_request(f"<text-1a2b3c4d>\n{text}\n</text-1a2b3c4d>", "shoal_classify", schema, custom_id)


def rank() -> dict[str, Any]:
    entry = closed({"id": {"type": "integer"}, "score": {"type": "number"}})
    documents = [f'<document-1a2b3c4d id="{n}">\nword {n}\n</document-1a2b3c4d>' for n in (1, 2, 3)]
    user = "\n".join(["<query-1a2b3c4d>\nword 2\n</query-1a2b3c4d>", *documents])
    return chat_request(user, "shoal_rank", closed({"ranking": {"type": "array", "items": entry}}), "job-r")


def extract() -> dict[str, Any]:
    value = {"anyOf": [{"type": "number"}, {"type": "null"}]}
    schema = closed({"total": closed({"value": value, "quote": {"type": ["string", "null"]}})})
    return chat_request("<text-1a2b3c4d>\nThe total is $5.50.\n</text-1a2b3c4d>", "shoal_extract", schema, "job-e")


def content(answer: Answer) -> Any:
    return json.loads(answer.json["choices"][0]["message"]["content"])


@contextmanager
def running(*options: str) -> Iterator[Running]:
    command = [sys.executable, "-W", "error", "-m", "shoal_worker.sandbox", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.fullmatch(r"sandbox listening on (http://127\.0\.0\.1:\d+)/api/v1\n", line)
            assert match is not None, line
            yield Running(match[1], process)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0


@pytest.fixture(scope="module")
def process() -> Iterator[Running]:
    with running() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(process: Running) -> Running:
    """The shared process, with everything forgotten."""
    assert process.call("POST", "/sandbox/reset").status == 200
    return process


# The wire form of an answer


def test_an_answer_has_the_whole_wire_form_and_says_that_it_is_the_sandbox_s(sandbox: Running) -> None:
    answer = sandbox.chat(classify())
    body = answer.json
    assert answer.status == 200
    assert re.fullmatch(r"gen-\d{10}-[A-Za-z0-9]{20}", body["id"])
    assert answer.headers["X-Generation-Id"] == body["id"]
    assert answer.headers["X-Shoal-Sandbox"] == "1"
    assert (body["model"], body["provider"]) == ("openai/gpt-5.4-nano-20260317", "OpenAI")
    assert body["system_fingerprint"] == "shoal-sandbox"
    choice = body["choices"][0]
    assert (choice["finish_reason"], choice["native_finish_reason"]) == ("stop", "completed")
    assert content(answer)["label"] == "billing"


def test_tokens_are_a_fourth_of_the_bytes_and_priced_per_million(sandbox: Running) -> None:
    answer = sandbox.chat(classify())
    usage = answer.json["usage"]
    prompt = sum(len(message["content"]) for message in classify()["messages"]) // 4
    said = len(answer.json["choices"][0]["message"]["content"]) // 4
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (prompt, said)
    assert usage["cost"] == pytest.approx((prompt * 0.20 + said * 1.25) / 1e6)
    assert usage["cost_details"]["upstream_inference_cost"] == usage["cost"]


def test_only_a_long_prefix_that_was_seen_before_is_cached(sandbox: Running) -> None:
    request = classify()
    request["messages"][0]["content"] = "a prefix " * 600
    cached = [sandbox.chat(request).json["usage"]["prompt_tokens_details"]["cached_tokens"] for _ in range(2)]
    assert cached == [0, 1280]
    sandbox.chat(classify())
    assert sandbox.chat(classify()).json["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_an_answer_longer_than_its_limit_is_cut(sandbox: Running) -> None:
    answer = sandbox.chat(classify() | {"max_completion_tokens": 5}).json
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["native_finish_reason"] == "max_output_tokens"
    assert len(answer["choices"][0]["message"]["content"]) == 20
    assert answer["usage"]["completion_tokens"] == 5


def test_half_a_surrogate_pair_spelled_in_json_is_accepted(sandbox: Running) -> None:
    assert sandbox.chat(classify("I was charged \ud800 twice.")).status == 200


# What is refused


@pytest.mark.parametrize("headers", [{"Authorization": ""}, {"Authorization": "Bearer "}, {"Authorization": "Basic x"}])
@pytest.mark.parametrize("path", [CHAT, "/api/v1/key", "/api/v1/credits", "/api/v1/generation?id=gen-1"])
def test_without_a_bearer_key_nothing_is_answered(sandbox: Running, path: str, headers: dict[str, str]) -> None:
    method, body = ("POST", encoded(classify())) if path == CHAT else ("GET", None)
    answer = sandbox.call(method, path, body, headers)
    assert answer.status == 401
    assert answer.error == {"code": 401, "message": "Missing Authentication header"}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in classify().items() if name != key}


def with_schema(**changes: Any) -> dict[str, Any]:
    request = classify()
    request["response_format"]["json_schema"] |= changes
    return request


LABEL = {"label": {"type": "string"}}
OPEN_SCHEMA = {"type": "object", "properties": LABEL, "required": ["label"]}
LAX_SCHEMA = {"type": "object", "properties": LABEL, "required": [], "additionalProperties": False}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (classify() | {"model": "acme/fake-1.0"}, "acme/fake-1.0 is not a valid model ID"),
        (without("model"), "No models provided"),
        (without("messages"), "Input required: specify 'messages'"),
        (classify() | {"messages": [{"role": "oracle", "content": "x"}]}, "messages.0: not a message"),
        (classify() | {"stream": True}, "The sandbox does not stream"),
        (classify() | {"max_completion_tokens": 0}, "max_completion_tokens: not a positive integer"),
        (classify() | {"metadata": {"custom_id": "x" * 513}}, "metadata: keys have at most 64 characters"),
        (with_schema(name="no spaces"), "response_format.json_schema.name"),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason(
    sandbox: Running, request_: dict[str, Any], message: str
) -> None:
    answer = sandbox.chat(request_)
    assert (answer.status, answer.error["code"]) == (400, 400)
    assert answer.error["message"].startswith(message)
    assert not sandbox.records()[0]["billed"]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (OPEN_SCHEMA, "'additionalProperties' is required"),
        (closed({"inside": OPEN_SCHEMA}), "'additionalProperties' is required"),
        (closed({"list": {"type": "array", "items": LAX_SCHEMA}}), "Missing 'label'"),
        (closed({"choice": {"anyOf": [LAX_SCHEMA, {"type": "null"}]}}), "Missing 'label'"),
    ],
)
def test_strict_mode_refuses_open_objects_and_optional_properties_at_any_depth(
    sandbox: Running, schema: dict[str, Any], reason: str
) -> None:
    answer = sandbox.chat(with_schema(schema=schema))
    assert (answer.status, answer.error["message"]) == (400, "Provider returned error")
    assert reason in answer.error["metadata"]["raw"]
    assert sandbox.chat(with_schema(schema=schema, strict=False)).status == 200


def test_what_is_no_json_and_what_is_too_large_is_refused(sandbox: Running) -> None:
    assert sandbox.call("POST", CHAT, b"{").status == 400
    assert sandbox.call("POST", CHAT, BytesIO(b" " * (20 * 1024 * 1024 + 1))).status == 413
    assert sandbox.call("GET", "/api/v1/nowhere").error["code"] == 404


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


# The bill and the records


def test_a_request_is_recorded_with_its_job_its_cost_and_the_hash_of_its_body(sandbox: Running) -> None:
    answer = sandbox.chat(classify())
    (record,) = sandbox.records()
    assert record["generation_id"] == answer.json["id"]
    assert record["body_sha256"] == sha256(encoded(classify())).hexdigest()
    assert (record["custom_id"], record["schema_name"], record["status"]) == ("job-1", "shoal_classify", 200)
    assert (record["billed"], record["cost_usd"], record["usage"]["cost"]) == (
        True,
        answer.json["usage"]["cost"],
        answer.json["usage"]["cost"],
    )
    assert record["arrived_at"] == pytest.approx(time.time(), abs=60)


def test_neither_texts_nor_keys_are_recorded_unless_bodies_are_asked_for(sandbox: Running) -> None:
    sandbox.chat(classify())
    assert b"charged twice" not in sandbox.call("GET", "/sandbox/requests").body
    sandbox.play(keep_bodies=True)
    sandbox.chat(classify())
    recorded = sandbox.call("GET", "/sandbox/requests").body
    assert b"charged twice" in recorded
    assert b"sk-or-v1" not in recorded


def test_records_can_be_picked_by_job_and_from_the_end(sandbox: Running) -> None:
    for job in ("a", "b", "a", "c"):
        sandbox.chat(classify(custom_id=job))
    picked = sandbox.call("GET", "/sandbox/requests?custom_id=a").json["requests"]
    assert [record["custom_id"] for record in picked] == ["a", "a"]
    latest = sandbox.call("GET", "/sandbox/requests?last=2").json["requests"]
    assert [record["custom_id"] for record in latest] == ["a", "c"]


def test_a_client_that_leaves_before_the_reply_is_billed_all_the_same(sandbox: Running) -> None:
    sandbox.play(latency_seconds=0.5)

    async def ask_and_leave(session: aiohttp.ClientSession) -> None:
        task = asyncio.ensure_future(fetch(session, "POST", sandbox.root + CHAT, encoded(classify())))
        await asyncio.to_thread(sandbox.await_records, bool)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    sandbox.with_session(ask_and_leave)
    (record,) = sandbox.await_records(lambda records: records[0]["client_disconnected"])
    assert (record["billed"], record["status"]) == (True, 200)
    assert sandbox.bill()["billed_by_custom_id"] == {"job-1": 1}


def test_hundreds_of_requests_are_held_at_once(sandbox: Running) -> None:
    sandbox.play(latency_seconds=1.0, jitter_seconds=0.1)

    async def many(session: aiohttp.ClientSession) -> list[Answer]:
        jobs = [fetch(session, "POST", sandbox.root + CHAT, encoded(classify(custom_id=str(n)))) for n in range(300)]
        return await asyncio.gather(*jobs)

    async def with_room(_session: aiohttp.ClientSession) -> list[Answer]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=KEY, connector=connector) as session:
            return await many(session)

    assert {answer.status for answer in sandbox.with_session(with_room)} == {200}
    bill = sandbox.bill()
    assert (bill["most_in_flight"] > 200, bill["in_flight"], bill["billed_calls"]) == (True, 0, 300)


def test_the_in_flight_budget_refuses_what_has_no_room_and_lets_it_in_later(sandbox: Running) -> None:
    # A request holds its 500 completion tokens' price: USD 0.000625 and a little for its prompt.
    sandbox.play(latency_seconds=0.3, in_flight_budget_usd=0.0014)

    async def three(session: aiohttp.ClientSession) -> list[Answer]:
        return await asyncio.gather(
            *(fetch(session, "POST", sandbox.root + CHAT, encoded(classify())) for _ in range(3))
        )

    answers = sandbox.with_session(three)
    (refused,) = [answer for answer in answers if answer.status != 200]
    assert (refused.status, refused.headers["Retry-After"]) == (402, "2")
    assert refused.error["metadata"]["reason"] == "in_flight_budget_exhausted"
    deadline = time.monotonic() + 20
    while sandbox.chat(classify()).status != 200:
        assert time.monotonic() < deadline


def test_the_ledger_forgets_the_oldest_and_keeps_the_sums() -> None:
    ledger = Ledger(requests_kept=2)
    for number in range(5):
        record = ledger.open(f"gen-{number}", b"", 0.0, keep_body=False)
        record.custom_id = f"job-{number % 3}"
        ledger.bill(record, Usage(prompt_tokens=5))
        ledger.close(record, 1.0)
    summary = ledger.summary()
    assert [record.generation_id for record in ledger.records] == ["gen-3", "gen-4"]
    assert (summary["requests"], summary["billed_calls"], summary["cost_usd"]) == (5, 5, 5e-06)
    assert summary["billed_by_custom_id"] == {"job-0": 1, "job-1": 1}


# The response cache


def test_an_identical_request_is_replayed_free_of_charge(sandbox: Running) -> None:
    first, second = (sandbox.chat(classify(), X_OpenRouter_Cache="true") for _ in range(2))
    assert [one.headers["X-OpenRouter-Cache-Status"] for one in (first, second)] == ["MISS", "HIT"]
    assert second.headers["X-OpenRouter-Cache-Source-Id"] == first.json["id"] != second.json["id"]
    assert second.json["choices"] == first.json["choices"]
    assert (second.json["usage"]["total_tokens"], second.json["usage"]["cost"]) == (0, 0)
    bill = sandbox.bill()
    assert (bill["requests"], bill["billed_calls"], bill["cost_usd"]) == (2, 1, first.json["usage"]["cost"])


@pytest.mark.parametrize(
    "headers",
    [
        {"X_OpenRouter_Cache": "false"},
        {"X_OpenRouter_Cache": "true", "Authorization": "Bearer another"},
        {"X_OpenRouter_Cache": "true", "X_OpenRouter_Cache_Clear": "true"},
    ],
)
def test_another_key_another_wish_or_a_clearing_asks_the_model_again(sandbox: Running, headers: dict[str, str]) -> None:
    sandbox.chat(classify(), X_OpenRouter_Cache="true")
    answer = sandbox.chat(classify(), **headers)
    assert answer.headers.get("X-OpenRouter-Cache-Status") != "HIT"
    assert sandbox.bill()["billed_calls"] == 2


def test_a_stored_answer_ends_with_its_time_to_live(sandbox: Running) -> None:
    cached = {"X_OpenRouter_Cache": "true", "X_OpenRouter_Cache_TTL": "1"}
    sandbox.chat(classify(), **cached)
    deadline = time.monotonic() + 20
    while sandbox.chat(classify(), **cached).headers["X-OpenRouter-Cache-Status"] == "HIT":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert sandbox.chat(classify(), X_OpenRouter_Cache="true", X_OpenRouter_Cache_TTL="0").status == 400


def test_errors_are_not_stored(sandbox: Running) -> None:
    request = classify(f"[[fault:server_500*1]] {TEXT}")
    statuses = [sandbox.chat(request, X_OpenRouter_Cache="true").status for _ in range(2)]
    assert statuses == [500, 200]


# The other endpoints


def test_a_generation_is_not_there_at_first_and_then_is(sandbox: Running) -> None:
    answer = sandbox.chat(classify()).json
    path = f"/api/v1/generation?id={answer['id']}"
    assert sandbox.call("GET", path).status == 404
    record = sandbox.call("GET", path).json["data"]
    assert (record["id"], record["total_cost"]) == (answer["id"], answer["usage"]["cost"])
    assert record["native_tokens_prompt"] == answer["usage"]["prompt_tokens"]
    assert record["finish_reason"] == "stop"
    assert [sandbox.call("GET", "/api/v1/generation?id=gen-0").status for _ in range(2)] == [404, 404]


def test_the_catalogue_names_the_model_its_price_and_its_endpoint(sandbox: Running) -> None:
    (model,) = sandbox.call("GET", "/api/v1/models").json["data"]
    assert (model["id"], model["pricing"]["prompt"]) == ("openai/gpt-5.4-nano", "0.0000002")
    endpoints = sandbox.call("GET", f"/api/v1/models/{model['id']}/endpoints").json["data"]["endpoints"]
    assert endpoints[0]["provider_name"] == "OpenAI"
    assert sandbox.call("GET", "/api/v1/models/acme/fake/endpoints").status == 404


def test_the_key_tells_what_was_spent_and_the_credits_are_not_for_it(sandbox: Running) -> None:
    cost = sandbox.chat(classify()).json["usage"]["cost"]
    card = sandbox.call("GET", "/api/v1/key").json["data"]
    assert (card["usage"], card["is_management_key"], card["limit_remaining"]) == (cost, False, None)
    assert sandbox.call("GET", "/api/v1/credits").error["code"] == 403


# The process


def test_a_scenario_file_is_read_and_an_interrupt_ends_the_process_at_once(tmp_path: Path) -> None:
    file = tmp_path / "scenario.json"
    file.write_text('{"faults": [{"fault": "not_found", "from_request": 1}]}', encoding="utf-8")
    with running("--scenario", str(file), "--latency-seconds", "0.01") as sandbox:
        assert sandbox.chat(classify()).status == 404
        sandbox.process.send_signal(signal.SIGINT)
        assert sandbox.process.wait(15) == 0


@pytest.mark.parametrize(
    ("text", "told"), [('{"latency": 1}', "latency: Extra inputs are not permitted"), ("{", "Invalid JSON")]
)
def test_a_wrong_scenario_file_stops_the_start_with_a_reason(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "scenario.json"
    file.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "shoal_worker.sandbox", "--scenario", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, told in ended.stderr) == (2, True)


def test_a_port_in_use_is_named(sandbox: Running) -> None:
    port = sandbox.root.rpartition(":")[2]
    command = [sys.executable, "-m", "shoal_worker.sandbox", "--port", port]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, f"cannot listen on 127.0.0.1:{port}" in ended.stderr) == (1, True)
