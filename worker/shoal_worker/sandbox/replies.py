"""What is sent in place of an answer: error statuses, and 200s that hold no completion. None of it is billed.

The bodies are those of OpenRouter, texts and oddities included: an error without a code, a code that is a string,
headers mirrored in the metadata.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from math import ceil
from typing import Any

from shoal_worker.sandbox.catalogue import AUTHOR, MODEL, PROVIDER
from shoal_worker.sandbox.faults import Fault, FaultCall

JSON = "application/json"
HTML = "text/html; charset=UTF-8"
_USER = "user_sandbox"


@dataclass(frozen=True, slots=True)
class Reply:
    """A status, its body (text, or a value to send as JSON) and the headers that belong to it."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = JSON


class Refused(Exception):
    """A request ends here with this reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"status {reply.status}")
        self.reply = reply


def error(code: int, message: str, metadata: dict[str, Any] | None = None, **headers: str) -> Reply:
    """The usual envelope. A header given here is mirrored in the metadata, as OpenRouter does."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    told = dict(metadata or {})
    if named:
        told["headers"] = named
    body: dict[str, Any] = {"error": {"code": code, "message": message}, "user_id": _USER}
    if told:
        body["error"]["metadata"] = told
    return Reply(code, body, named)


def scripted(call: FaultCall, generation_id: str, now: float) -> Reply | None:
    """The reply that a fault puts in the answer's place; None when the fault is of another sort."""
    if call.fault in _FIXED:
        code, message, metadata = _FIXED[call.fault]
        return error(code, message, metadata)
    if call.fault in _MADE:
        return _MADE[call.fault](call.seconds, now)
    if call.fault in _EMPTY:
        return Reply(200, _EMPTY[call.fault](generation_id))
    if call.fault in _PAGES:
        status, page = _PAGES[call.fault]
        return Reply(status, page, content_type=HTML if status != 200 else JSON)
    return None


def _retry_after(seconds: float) -> str:
    return str(ceil(seconds))


def in_flight_budget_full(seconds: float) -> Reply:
    return error(
        402,
        "This request would exceed your available credits given your current in-flight requests. "
        "Retry after in-flight requests settle, or add credits.",
        {
            "reason": "in_flight_budget_exhausted",
            "limit_source": "openrouter_in_flight_budget",
            "remedy_hint": "Wait for in-flight requests to settle, or add credits.",
        },
        Retry_After=_retry_after(seconds),
    )


def _budget(seconds: float, now: float) -> Reply:
    resets_at = datetime.fromtimestamp(now + seconds, UTC).isoformat(timespec="milliseconds")
    return error(
        403,
        "Workspace budget exceeded.",
        {
            "limit_source": "openrouter_workspace_budget",
            "scope": "workspace",
            "limit_usd": 5,
            "spend_usd": 5.01,
            "resets_at": resets_at.replace("+00:00", "Z"),
        },
    )


def _region(_seconds: float, _now: float) -> Reply:
    reply = error(
        403,
        "Provider returned error",
        {"raw": "Country, region, or territory not supported", "provider_name": PROVIDER},
    )
    reply.body["error"]["availability"] = {
        "code": "region_restricted",
        "retryable": False,
        "requested_models": [MODEL],
        "affected_providers": [AUTHOR],
    }
    return reply


def _upstream(seconds: float, _now: float) -> Reply:
    return error(429, "Provider returned error", _upstream_metadata(seconds), Retry_After=_retry_after(seconds))


def _upstream_http_date(seconds: float, now: float) -> Reply:
    until = format_datetime(datetime.fromtimestamp(ceil(now + seconds), UTC), usegmt=True)
    return error(429, "Provider returned error", _upstream_metadata(None), Retry_After=until)


def upstream_full() -> Reply:
    """The provider's 429 that names no time."""
    return error(429, "Provider returned error", _upstream_metadata(None))


def _upstream_metadata(seconds: float | None) -> dict[str, Any]:
    metadata = {
        "raw": f"{MODEL} is temporarily rate-limited upstream. Please retry shortly.",
        "provider_name": PROVIDER,
        "provider_error_code": "rate_limit_exceeded",
        "limit_source": "upstream_provider_shared_pool",
        "is_byok": False,
    }
    return metadata if seconds is None else {**metadata, "retry_after_seconds": ceil(seconds)}


def _admission(seconds: float, _now: float) -> Reply:
    return error(
        429,
        "OpenRouter could not verify available credits for this request in time. Retry shortly.",
        {
            "limit_source": "openrouter_admission_control",
            "remedy_hint": "Slow down the request rate for this account, then retry.",
            "provider_name": None,
        },
        Retry_After=_retry_after(seconds),
    )


def _capacity_exhausted(seconds: float, _now: float) -> Reply:
    body = {
        "error": {
            "message": f"All providers for {MODEL} are at capacity. Retry after {ceil(seconds)} seconds.",
            "error_type": "rate_limit_exceeded",
            "http_status": 429,
            "availability": {
                "code": "capacity_exhausted",
                "retryable": True,
                "retry_after": ceil(seconds),
                "requested_models": [MODEL],
                "affected_providers": [AUTHOR],
                "docs_url": "https://openrouter.ai/docs/errors#capacity_exhausted",
            },
            "metadata": {
                "previous_errors": [{"provider": AUTHOR, "code": "capacity_exhausted", "status": 429}],
            },
        }
    }
    return Reply(429, body, {"Retry-After": _retry_after(seconds)})


def _platform(seconds: float, now: float) -> Reply:
    return error(
        429,
        "Rate limit exceeded: requests-per-minute.",
        {"limit_source": "openrouter_rate_limit", "provider_name": None},
        X_RateLimit_Limit="20",
        X_RateLimit_Remaining="0",
        X_RateLimit_Reset=str(ceil((now + seconds) * 1000)),
    )


def _unavailable(seconds: float, _now: float) -> Reply:
    metadata = {"error_type": "provider_overloaded"}
    return error(503, "Service temporarily unavailable", metadata, Retry_After=_retry_after(seconds))


def _string_code(_seconds: float, _now: float) -> Reply:
    return Reply(500, {"error": {"code": "server_error", "message": "Internal Server Error"}})


_FIXED: dict[Fault, tuple[int, str, dict[str, Any] | None]] = {
    Fault.BAD_REQUEST: (400, "acme/fake-1.0 is not a valid model ID", None),
    Fault.UNAUTHORIZED: (401, "User not found.", None),
    Fault.OUT_OF_CREDITS: (
        402,
        (
            "This request requires more credits, or fewer max_tokens. You requested up to 16384 tokens, "
            "but can only afford 3324."
        ),
        {
            "limit_source": "openrouter_credits",
            "remedy_hint": "Add credits at https://openrouter.ai/settings/credits, or lower max_tokens / prompt size "
            "to fit your remaining balance.",
        },
    ),
    Fault.WEIGHT_EXCEEDS_BUDGET: (
        402,
        "This request requires more credits than your account may hold in flight. Lower max_tokens, or add credits.",
        {"limit_source": "openrouter_credits", "reason": "weight_exceeds_budget"},
    ),
    Fault.KEY_LIMIT: (
        402,
        "Key limit exceeded.",
        {"limit_source": "openrouter_key_limit", "remedy_hint": "Raise the key's limit."},
    ),
    Fault.MODERATION: (
        403,
        f'{MODEL} requires moderation on {PROVIDER}. Your input was flagged for "violence". No credits were charged.',
        {
            "reasons": ["violence"],
            "flagged_input": "…",
            "provider_name": PROVIDER,
            "model_slug": MODEL,
        },
    ),
    Fault.GUARDRAIL_PATTERNS: (
        403,
        "Request blocked: prompt injection patterns detected",
        {"patterns": ["ignore all previous instructions"]},
    ),
    Fault.NOT_FOUND: (404, f"No endpoints found for {MODEL}.", None),
    Fault.REQUEST_TIMEOUT_408: (408, "Operation timed out. Please try again later.", None),
    Fault.PAYLOAD_TOO_LARGE: (413, "Request payload too large", None),
    Fault.UNPROCESSABLE: (422, "Invalid argument", None),
    Fault.SERVER_500: (500, "Internal Server Error", {"error_type": "server"}),
    Fault.BAD_GATEWAY_502: (
        502,
        "Provider returned error",
        {"error_type": "provider_unavailable", "provider_code": "server_error"},
    ),
    Fault.GATEWAY_TIMEOUT_504: (504, "Provider timed out", {"error_type": "timeout"}),
    Fault.TIMEOUT_524: (524, "Request timed out. Please try again later.", None),
    Fault.OVERLOADED_529: (529, "Provider returned error", None),
}

_MADE: dict[Fault, Callable[[float, float], Reply]] = {
    Fault.IN_FLIGHT_BUDGET: lambda seconds, _now: in_flight_budget_full(seconds),
    Fault.BUDGET_403: _budget,
    Fault.REGION_403: _region,
    Fault.UPSTREAM_429: _upstream,
    Fault.UPSTREAM_429_HTTP_DATE: _upstream_http_date,
    Fault.UPSTREAM_429_NO_HEADER: lambda _seconds, _now: upstream_full(),
    Fault.ADMISSION_429: _admission,
    Fault.CAPACITY_EXHAUSTED_429: _capacity_exhausted,
    Fault.PLATFORM_429: _platform,
    Fault.UNAVAILABLE_503: _unavailable,
    Fault.STRING_CODE_500: _string_code,
}

_EMPTY: dict[Fault, Callable[[str], dict[str, Any]]] = {
    Fault.ERROR_200: lambda _: {"error": {"message": "Internal Server Error", "code": 500}, "user_id": _USER},
    Fault.NESTED_ERROR_200: lambda _: {
        "id": None,
        "choices": None,
        "model": None,
        "object": None,
        "error": {"message": "Provider returned error", "code": 502},
        "user_id": _USER,
    },
    Fault.NULL_CHOICES: lambda generation_id: {"id": generation_id, "choices": None, "model": MODEL},
    Fault.CHOICE_ERROR: lambda generation_id: {
        "id": generation_id,
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
}

_CLOUDFLARE = (
    "<!DOCTYPE html>\n<html><head><title>openrouter.ai | {0}</title></head>"
    "<body><h1>{0}</h1><p>cloudflare</p></body></html>\n"
)
_PAGES: dict[Fault, tuple[int, str]] = {
    Fault.HTML_502: (502, _CLOUDFLARE.format("502: Bad gateway")),
    Fault.HTML_524: (524, _CLOUDFLARE.format("524: A timeout occurred")),
    Fault.WHITESPACE_ONLY: (200, " " * 64 + "\n"),
}
