"""What a reply of the provider means: every form that is documented or was seen in the wild."""

import json
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.jobs import Usage
from shoal_worker.errors import (
    ContentRefused,
    EmptyAnswer,
    OutOfMoney,
    PauseError,
    ProviderUnavailable,
    RateLimited,
    ReplyLost,
    RequestRefused,
    Unauthorized,
    WorkerError,
)
from shoal_worker.ports import ChatReply
from shoal_worker.replies import HttpReply, Prices, read_reply

MODEL = "openai/gpt-5.4-nano"
NOW = 1_795_000_000.0

SUCCESS: dict[str, Any] = {
    "id": "gen-1795000001-DWHQcPTK6DB2j2ON9Nuq",
    "provider": "OpenAI",
    "model": "openai/gpt-5.4-nano-20260317",
    "object": "chat.completion",
    "created": 1795000001,
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "native_finish_reason": "completed",
            "logprobs": None,
            "message": {
                "role": "assistant",
                "content": '{"label":"invoice"}',
                "refusal": None,
                "reasoning": None,
            },
        }
    ],
    "service_tier": "default",
    "system_fingerprint": None,
    "usage": {
        "prompt_tokens": 412,
        "completion_tokens": 58,
        "total_tokens": 470,
        "cost": 0.0001549,
        "is_byok": False,
        "prompt_tokens_details": {"cached_tokens": 12, "cache_write_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 8, "image_tokens": 0},
    },
}


def read(body: object, status: int = 200, headers: dict[str, str] | None = None) -> ChatReply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = HttpReply(status, httpx.Headers(headers or {}), data)
    return read_reply(reply, asked_model=MODEL, prices=Prices(), now=NOW)


def refused(body: object, status: int = 200, headers: dict[str, str] | None = None) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        read(body, status, headers)
    return caught.value


def outcome(body: object, status: int, headers: dict[str, str] | None = None) -> ChatReply | WorkerError:
    try:
        return read(body, status, headers)
    except WorkerError as error:
        return error


def success(**changes: Any) -> dict[str, Any]:
    """The plain success with its choice or its top level changed."""
    choice = dict(SUCCESS["choices"][0])
    for name in ("finish_reason", "message", "error"):
        if name in changes:
            choice[name] = changes.pop(name)
    return {**SUCCESS, "choices": [choice], **changes}


def message(**changes: Any) -> dict[str, Any]:
    return {**SUCCESS["choices"][0]["message"], **changes}


# --- Answers ---------------------------------------------------------------------------------------------------


def test_a_plain_success_is_read_whole() -> None:
    assert read(SUCCESS, headers={"X-Generation-Id": "gen-of-the-header"}) == ChatReply(
        content='{"label":"invoice"}',
        finish_reason="stop",
        model="openai/gpt-5.4-nano-20260317",
        provider="OpenAI",
        generation_id="gen-of-the-header",
        usage=Usage(
            input_tokens=412, cached_tokens=12, reasoning_tokens=8, output_tokens=58, cost_usd=0.0001549, calls=1
        ),
        sandbox=False,
    )


def test_reasoning_and_citations_beside_the_answer_do_no_harm() -> None:
    details = [
        {"type": "reasoning.summary", "summary": "…", "index": 0},
        {"type": "reasoning.encrypted", "data": "gA", "index": 0},
    ]
    citation = {"type": "url_citation", "url_citation": {"url": "https://x.example", "title": ""}}
    reply = read(success(message=message(reasoning="…", reasoning_details=details, annotations=[citation])))
    assert reply.content == '{"label":"invoice"}'


def test_white_space_that_kept_the_connection_alive_is_no_part_of_the_answer() -> None:
    assert read(b" \n" * 500 + json.dumps(SUCCESS).encode() + b"\n").finish_reason == "stop"


def test_an_answer_cut_at_the_token_cap_is_an_answer_and_was_billed() -> None:
    body = {
        "id": "gen-1",
        "choices": [
            {
                "index": 0,
                "finish_reason": "length",
                "native_finish_reason": "max_output_tokens",
                "message": {"role": "assistant", "content": "", "refusal": None, "reasoning": None},
            }
        ],
        "usage": {
            "prompt_tokens": 90,
            "completion_tokens": 256,
            "total_tokens": 346,
            "completion_tokens_details": {"reasoning_tokens": 256},
        },
    }
    reply = read(body)
    assert (reply.finish_reason, reply.content, reply.generation_id) == ("length", "", "gen-1")
    assert reply.usage.reasoning_tokens == 256
    assert reply.usage.cost_usd == pytest.approx((90 * 0.20 + 256 * 1.25) / 1e6)


def test_a_completion_nested_in_the_provider_field_is_found() -> None:
    reply = read({"id": None, "choices": None, "model": None, "provider": SUCCESS})
    assert (reply.content, reply.provider) == ('{"label":"invoice"}', "OpenAI")


def test_a_missing_cost_is_computed_from_the_price_table() -> None:
    usage = {
        "prompt_tokens": 745 + 11_776,
        "completion_tokens": 235,
        "prompt_tokens_details": {"cached_tokens": 11_776},
    }
    assert read(success(usage=usage)).usage.cost_usd == pytest.approx(0.00067827)


@pytest.mark.parametrize("wrong", [-5, 10**30, "many", None, [], True])
def test_a_count_that_cannot_be_is_not_counted(wrong: object) -> None:
    found = read(success(usage={"prompt_tokens": wrong, "completion_tokens": 10, "cost": -1})).usage
    assert found.input_tokens == 0
    assert found.cost_usd == pytest.approx(10 * 1.25 / 1e6)


def test_a_cost_of_zero_is_believed() -> None:
    assert read(success(usage={"prompt_tokens": 100, "completion_tokens": 5, "cost": 0})).usage.cost_usd == 0


def test_the_asked_model_stands_in_where_the_reply_names_none() -> None:
    assert read(success(model=None)).model == MODEL


def test_the_provider_may_be_named_by_a_header_only() -> None:
    assert read(success(provider=None), headers={"X-Provider-Name": "Amazon Bedrock"}).provider == "Amazon Bedrock"


@pytest.mark.parametrize(
    ("body", "headers"),
    [(SUCCESS, {"X-Shoal-Sandbox": "1"}), (success(system_fingerprint="shoal-sandbox"), {})],
)
def test_an_answer_of_the_sandbox_says_so(body: dict[str, Any], headers: dict[str, str]) -> None:
    assert read(body, headers=headers).sandbox


# --- Status 200 that is not a success --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"", b" " * 64 + b"\n", json.dumps(SUCCESS).encode()[:200], b"<html>hello</html>", b"[1]", b"\xff", b"[" * 9_999],
    ids=["none", "blank", "cut", "html", "array", "no utf-8", "deep"],
)
def test_a_body_that_is_no_whole_json_object_is_a_lost_reply(body: bytes) -> None:
    error = refused(body)
    assert type(error) is ReplyLost
    assert error.usage.calls == 1


IN_200: list[tuple[dict[str, Any], type[WorkerError]]] = [
    ({"error": {"message": "Internal Server Error", "code": 500}, "user_id": "org_abc123"}, ProviderUnavailable),
    (
        {
            "id": None,
            "choices": None,
            "model": None,
            "object": None,
            "error": {"message": "Provider returned error", "code": 400},
            "user_id": "org_x",
        },
        RequestRefused,
    ),
    ({"error": {"message": "…", "code": 429, "metadata": {"headers": {"Retry-After": "7"}}}}, RateLimited),
    ({"error": {"message": "…", "code": "429"}}, RateLimited),
    ({"error": {"message": "…", "code": "server_error"}}, ProviderUnavailable),
    ({"error": {"message": "…", "code": "rate_limit_exceeded"}}, RateLimited),
    ({"error": {"message": "…", "code": "never heard of"}}, ProviderUnavailable),
    ({"error": {"message": "…", "http_status": 429, "error_type": "rate_limit_exceeded"}}, RateLimited),
    ({"error": {"message": "…", "metadata": {"error_type": "context_length_exceeded"}}}, RequestRefused),
    ({"error": "overloaded"}, ProviderUnavailable),
    ({"error": {"code": 402, "metadata": {"limit_source": "openrouter_credits"}}}, OutOfMoney),
    ({"id": "gen-1", "choices": None, "model": "openai/gpt-5.4-nano"}, ProviderUnavailable),
    ({"id": "gen-1", "choices": []}, ProviderUnavailable),
    ({"id": "gen-1", "choices": [None]}, ProviderUnavailable),
    ({}, ProviderUnavailable),
    (
        {
            "id": "gen-1",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "error",
                    "native_finish_reason": None,
                    "message": {"role": "assistant", "content": "partial…"},
                    "error": {
                        "code": 502,
                        "message": "Provider disconnected mid-stream",
                        "metadata": {"error_type": "provider_unavailable"},
                    },
                }
            ],
        },
        ProviderUnavailable,
    ),
    ({"choices": [{"finish_reason": "error"}]}, ProviderUnavailable),
    ({"choices": [{"finish_reason": "stop", "error": {"code": 429}}]}, RateLimited),
    (success(finish_reason="content_filter", message=message(content="part")), ContentRefused),
    (success(message=message(content=None, refusal="I cannot help with that.")), ContentRefused),
    (success(message=message(content="")), EmptyAnswer),
    (success(message=message(content=" \n")), EmptyAnswer),
    (success(message=message(content=None)), EmptyAnswer),
    (success(message=None), EmptyAnswer),
]


@pytest.mark.parametrize(("body", "expected"), IN_200, ids=[json.dumps(body)[:60] for body, _ in IN_200])
def test_a_failure_behind_status_200_is_told_by_its_body(body: dict[str, Any], expected: type[WorkerError]) -> None:
    assert type(refused(body)) is expected


@pytest.mark.parametrize(
    "body",
    [
        success(finish_reason="content_filter"),
        success(message=message(refusal="I cannot help with that.")),
        success(message=message(content="")),
    ],
    ids=["content filter", "refusal", "empty"],
)
def test_a_refused_or_empty_answer_was_billed_all_the_same(body: dict[str, Any]) -> None:
    assert refused(body).usage.cost_usd == 0.0001549


def test_a_choice_that_failed_midway_costs_only_what_the_reply_names() -> None:
    tokens = {"prompt_tokens": 100, "completion_tokens": 50}
    unnamed = refused(success(finish_reason="error", usage=tokens))
    named = refused(success(finish_reason="error", usage={**tokens, "cost": 0.01}))
    assert (unnamed.usage.cost_usd, named.usage.cost_usd) == (0.0, 0.01)


# --- Error statuses --------------------------------------------------------------------------------------------

IN_FLIGHT = {
    "reason": "in_flight_budget_exhausted",
    "limit_source": "openrouter_in_flight_budget",
    "remedy_hint": "…",
    "headers": {"Retry-After": "120"},
}
UPSTREAM = {
    "raw": "openai/gpt-5.4-nano is temporarily rate-limited upstream. Please retry shortly…",
    "provider_name": "OpenAI",
    "provider_error_code": "rate_limit_exceeded",
    "limit_source": "upstream_provider_shared_pool",
    "is_byok": False,
    "retry_after_seconds": 29,
    "headers": {"Retry-After": "29"},
}
ADMISSION = {
    "limit_source": "openrouter_admission_control",
    "remedy_hint": "Slow down the request rate for this account, then retry after the reset.",
    "headers": {"Retry-After": "10"},
    "provider_name": None,
}
CAPACITY = {
    "message": "All providers for openai/gpt-5.4-nano are at capacity. Retry after 40 seconds.",
    "error_type": "rate_limit_exceeded",
    "http_status": 429,
    "availability": {
        "code": "capacity_exhausted",
        "retryable": True,
        "retry_after": 40,
        "requested_models": ["openai/gpt-5.4-nano"],
        "affected_providers": ["openai"],
    },
    "metadata": {"previous_errors": [{"provider": "openai", "code": "capacity_exhausted", "status": 429}]},
}
MODERATION = {
    "reasons": ["violence"],
    "flagged_input": "You are…order.",
    "provider_name": "OpenAI",
    "model_slug": "openai/gpt-5.4-nano",
}
RESETS_AT = datetime.fromtimestamp(NOW + 3_600, UTC).isoformat().replace("+00:00", "Z")
BUDGET = {
    "limit_source": "openrouter_workspace_budget",
    "scope": "workspace",
    "limit_usd": 5,
    "spend_usd": 5.01,
    "resets_at": RESETS_AT,
}


def told(code: int, text: str, metadata: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    error = {"code": code, "message": text, **({"metadata": metadata} if metadata else {}), **more}
    return {"error": error, "user_id": "user_2u7z"}


AFFORD = (
    "This request requires more credits, or fewer max_tokens. "
    "You requested up to 16384 tokens, but can only afford 3324."
)
FLAGGED = '… requires moderation on OpenAI. Your input was flagged for "violence". No credits were charged.'
UPSTREAM_TEXT = "Provider returned error"

# status, body, the error, how long it asks to wait
REFUSALS: list[tuple[int, Any, type[WorkerError], float | None]] = [
    (400, told(400, "acme/fake-1.0 is not a valid model ID"), RequestRefused, None),
    (400, told(400, UPSTREAM_TEXT, {"error_type": "content_policy_violation"}), ContentRefused, None),
    (400, told(400, UPSTREAM_TEXT, {"raw": '{"error":{"code":"content_filter"}}'}), ContentRefused, None),
    (400, told(400, UPSTREAM_TEXT, {"raw": {"code": "content_filter"}}), ContentRefused, None),
    (400, told(400, UPSTREAM_TEXT, {"raw": "no json {"}), RequestRefused, None),
    (401, told(401, "Missing Authentication header"), Unauthorized, None),
    (402, told(402, AFFORD, {"limit_source": "openrouter_credits"}), OutOfMoney, None),
    (402, told(402, "…", {"limit_source": "openrouter_credits", "reason": "weight_exceeds_budget"}), OutOfMoney, None),
    (402, told(402, "…", {"limit_source": "openrouter_key_limit"}), OutOfMoney, None),
    (402, told(402, "…"), OutOfMoney, None),
    (402, told(402, "… current in-flight requests …", IN_FLIGHT), RateLimited, 120),
    (403, told(403, FLAGGED, MODERATION), ContentRefused, None),
    (403, told(403, "Request blocked", {"patterns": ["ignore all previous instructions"]}), ContentRefused, None),
    (403, told(403, "Budget exceeded", BUDGET), OutOfMoney, 3_600),
    (403, told(403, "…", {**BUDGET, "limit_source": "openrouter_guardrail_budget"}), OutOfMoney, 3_600),
    (403, told(403, "…", {"limit_source": "openrouter_key_limit"}), OutOfMoney, None),
    (403, told(403, "Key limit exceeded (total limit)."), OutOfMoney, None),
    (403, told(403, UPSTREAM_TEXT, {"provider_name": "OpenAI", "raw": "down"}), ProviderUnavailable, None),
    (403, told(403, "…", availability={"code": "region_restricted"}), ProviderUnavailable, None),
    (403, told(403, "Only management keys can fetch credits"), RequestRefused, None),
    (403, b"<html>Just a moment</html>", ProviderUnavailable, None),
    (404, told(404, "No endpoints found for google/gemini-2.5-flash:free."), RequestRefused, None),
    (404, told(404, "…", availability={"code": "no_endpoints", "retryable": False}), RequestRefused, None),
    (404, told(404, "…", availability={"code": "no_endpoints", "retryable": True}), ProviderUnavailable, None),
    (408, told(408, "Operation timed out. Please try again later."), ProviderUnavailable, None),
    (409, told(409, "…"), RequestRefused, None),
    (413, told(413, "Request payload too large"), RequestRefused, None),
    (413, b"<html><h1>413 Request Entity Too Large</h1></html>", RequestRefused, None),
    (418, b"", RequestRefused, None),
    (422, told(422, "Invalid argument"), RequestRefused, None),
    (429, told(429, UPSTREAM_TEXT, UPSTREAM), RateLimited, 29),
    (429, told(429, "OpenRouter could not verify available credits", ADMISSION), RateLimited, 10),
    (429, {"error": CAPACITY}, RateLimited, 40),
    (429, told(429, "Rate limit exceeded"), RateLimited, None),
    (429, b"<html>1015</html>", RateLimited, None),
    (500, told(500, "Internal Server Error", {"error_type": "server"}), ProviderUnavailable, None),
    (500, {"error": {"code": "server_error", "message": "Internal Server Error"}}, ProviderUnavailable, None),
    (502, told(502, UPSTREAM_TEXT, {"error_type": "provider_unavailable"}), ProviderUnavailable, None),
    (502, b"<!DOCTYPE html><title>502: Bad gateway</title>", ProviderUnavailable, None),
    (503, told(503, "Service temporarily unavailable"), ProviderUnavailable, None),
    (503, told(503, "…", {"headers": {"Retry-After": "3"}}), RateLimited, 3),
    (503, told(503, "…", availability={"code": "temporarily_unavailable", "retry_after": 9}), RateLimited, 9),
    (504, told(504, "…", {"error_type": "timeout"}), ProviderUnavailable, None),
    (520, b"<html>", ProviderUnavailable, None),
    (522, b"<html>", ProviderUnavailable, None),
    (524, told(524, "Request timed out. Please try again later."), ProviderUnavailable, None),
    (529, told(529, UPSTREAM_TEXT), ProviderUnavailable, None),
    (599, b"", ProviderUnavailable, None),
    (302, b"", RequestRefused, None),
]


@pytest.mark.parametrize(
    ("status", "body", "expected", "after_seconds"),
    REFUSALS,
    ids=[f"{status}-{place}" for place, (status, *_) in enumerate(REFUSALS)],
)
def test_an_error_status_is_told_apart_by_its_metadata(
    status: int, body: object, expected: type[WorkerError], after_seconds: float | None
) -> None:
    error = refused(body, status)
    assert type(error) is expected
    assert f"status {status}" in error.reason
    assert error.usage == Usage(calls=1)
    if isinstance(error, PauseError):
        assert error.after_seconds == after_seconds


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "1.5"}, 1.5),
        ({"retry-after-ms": "2500", "Retry-After": "3"}, 2.5),
        ({"Retry-After": format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True)}, 90),
        ({"Retry-After": format_datetime(datetime.fromtimestamp(NOW - 90, UTC), usegmt=True)}, 0),
        ({"Retry-After": "-5"}, 0),
        ({"X-RateLimit-Reset": str(int(NOW + 20) * 1000)}, 20),
        ({"X-RateLimit-Reset": str(int(NOW + 20))}, 20),
        ({"Retry-After": "5", "X-RateLimit-Reset": str(int(NOW + 20) * 1000)}, 5),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "Mon, 01 Jan 2027 00:00:00 +99999999"}, None),
        ({"X-RateLimit-Reset": "60"}, None),
    ],
)
def test_the_asked_wait_is_read_in_each_of_its_forms(headers: dict[str, str], expected: float | None) -> None:
    error = refused(told(429, "…"), 429, headers)
    assert isinstance(error, RateLimited)
    assert error.after_seconds == expected


@pytest.mark.parametrize(
    "metadata",
    [
        {"retry_after_seconds": 29},
        {"headers": {"retry-after": 29}},
        {"headers": {"X-RateLimit-Reset": str(int(NOW + 29) * 1000)}},
        {"headers": "none", "retry_after_seconds": "29"},
    ],
)
def test_the_asked_wait_may_stand_in_the_metadata_only(metadata: dict[str, Any]) -> None:
    error = refused(told(429, "…", metadata), 429)
    assert isinstance(error, RateLimited)
    assert error.after_seconds == 29


@pytest.mark.parametrize("resets_at", [RESETS_AT, NOW + 3_600, (NOW + 3_600) * 1000, RESETS_AT.rstrip("Z")])
def test_a_spent_budget_waits_until_it_is_reset(resets_at: object) -> None:
    error = refused(told(403, "…", {**BUDGET, "resets_at": resets_at}), 403)
    assert isinstance(error, OutOfMoney)
    assert error.after_seconds == 3_600


def test_a_reset_without_a_zone_is_meant_in_utc_wherever_the_worker_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        error = refused(told(403, "…", {**BUDGET, "resets_at": RESETS_AT.rstrip("Z")}), 403)
    time.tzset()
    assert isinstance(error, OutOfMoney)
    assert error.after_seconds == 3_600


def test_reasons_name_whose_limit_it_is_and_whose_fault() -> None:
    assert refused(told(429, UPSTREAM_TEXT, UPSTREAM), 429).reason == (
        "status 429, limit upstream_provider_shared_pool, code rate_limit_exceeded, provider OpenAI, "
        "provider returned error"
    )
    assert refused(told(400, "acme/fake-1.0 is not a valid model ID"), 400).reason == "status 400, unknown model"
    assert refused(told(403, FLAGGED, MODERATION), 403).reason == (
        "status 403, flagged violence, provider OpenAI, input blocked"
    )


# --- Whatever comes --------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
SECRET = "the patient's name is Ilsabill"
known_words = st.sampled_from(
    ["429", "server_error", "error", "stop", "length", "content_filter", "retry-after", SECRET]
)
anything = json_values | known_words | st.sampled_from([402, 403, 429, 503, 1e300, 10**400])
statuses = st.sampled_from([200, 204, 301, 400, 401, 402, 403, 404, 413, 418, 429, 500, 503, 524, 599])


def some_of(*names: str, value: st.SearchStrategy[Any] = anything) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, value))


metadata_values = some_of(
    *("limit_source", "reason", "reasons", "patterns", "flagged_input", "raw", "provider_name", "error_type"),
    *("provider_code", "retry_after_seconds", "resets_at"),
).flatmap(
    lambda known: some_of("Retry-After", "X-RateLimit-Reset", "retry-after-ms").map(lambda h: {**known, "headers": h})
)
error_values = st.builds(
    lambda known, metadata, availability: {**known, "metadata": metadata, "availability": availability},
    some_of("code", "message", "error_type", "http_status"),
    metadata_values | anything,
    some_of("code", "retryable", "retry_after") | anything,
)
choice_values = st.builds(
    lambda known, inner: {**known, "message": inner},
    some_of("finish_reason") | st.builds(lambda error: {"error": error}, error_values | anything),
    some_of("content", "refusal") | anything,
)
usage_values = some_of(
    "prompt_tokens", "completion_tokens", "cost", "prompt_tokens_details", "completion_tokens_details"
)
bodies = st.one_of(
    anything,
    st.builds(lambda error: {"error": error}, error_values | anything),
    st.builds(
        lambda known, choices, usage: {**known, "choices": choices, "usage": usage},
        some_of("id", "model", "provider", "system_fingerprint"),
        st.lists(choice_values | anything, max_size=2) | anything,
        usage_values | anything,
    ),
).map(lambda value: json.dumps(value).encode())
header_values = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset", "x-generation-id"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
    max_size=3,
)


@settings(max_examples=600)
@given(bodies | st.binary(max_size=60), statuses, header_values)
def test_any_body_under_any_status_is_an_answer_or_an_error_of_ours(
    body: bytes, status: int, headers: dict[str, str]
) -> None:
    found = outcome(body, status, headers)
    if isinstance(found, WorkerError):
        assert type(found).cause != "unknown"
    else:
        assert 200 <= status <= 299
    if isinstance(found, PauseError) and found.after_seconds is not None:
        assert 0 <= found.after_seconds < float("inf")
    assert found.usage.calls == 1
    assert 0 <= found.usage.cost_usd < float("inf")


@settings(max_examples=300)
@given(bodies, statuses)
def test_no_words_of_a_reply_get_into_the_reason_of_an_error(body: bytes, status: int) -> None:
    found = outcome(body, status)
    if isinstance(found, WorkerError):
        assert "Ilsabill" not in repr(found)


@pytest.mark.parametrize("field", ["raw", "flagged_input", "patterns", "reason", "limit_source", "provider_name"])
@pytest.mark.parametrize("status", [400, 402, 403, 429, 500, 503])
def test_what_the_provider_quotes_stays_out_of_reasons(status: int, field: str) -> None:
    for value in (SECRET, {"error": {"message": SECRET, "code": SECRET}}, [SECRET], json.dumps({"code": SECRET})):
        error = refused(told(status, f"Provider returned error: {SECRET}", {field: value}), status)
        assert "Ilsabill" not in repr(error)


@pytest.mark.parametrize(
    "body",
    [
        success(finish_reason="content_filter", message=message(content=SECRET)),
        success(message=message(content=None, refusal=SECRET)),
        success(finish_reason="error", message=message(content=SECRET), error={"code": 502, "message": SECRET}),
        json.dumps(success(message=message(content=SECRET))).encode()[:-9],
    ],
    ids=["content filter", "refusal", "failed midway", "cut"],
)
def test_answers_stay_out_of_reasons(body: object) -> None:
    assert "Ilsabill" not in repr(refused(body))
