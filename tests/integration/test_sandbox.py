"""The sandbox as a process: its wire form, what it refuses, its other endpoints, and its end."""

import re
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from sandbox_process import CHAT, Running, classify, closed, content, encoded, process, running, sandbox  # noqa: F401 fixtures

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
