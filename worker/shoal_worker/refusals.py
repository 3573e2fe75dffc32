"""What a refused call means: HTTP status, headers and error body in, a `WorkerError` out. Pure.

The status alone says little: 402 has three meanings and 403 five, told apart by `error.metadata`. The same reading
serves errors inside a reply with status 200, by the code that they name.

The provider's own words (`message`, `raw`, `flagged_input`) may quote the prompt. They are looked at, never repeated:
a reason holds the status, single words out of closed fields, and our own phrases.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from shoal.jobs import Usage
from shoal_worker.errors import (
    ContentRefused,
    LimitOrigin,
    OutOfMoney,
    ProviderUnavailable,
    RateLimited,
    RequestRefused,
    Unauthorized,
    WorkerError,
)

#: Told to wait or to come back: the provider's trouble, not the request's.
UNAVAILABLE_STATUSES = frozenset({408, 500, 502, 503, 504, 520, 522, 524, 529})

#: `error_type` and provider codes that speak of what the text says.
CONTENT_WORDS = frozenset({"content_policy_violation", "content_filter", "refusal"})

#: What a reply with status 200 may name in place of a number.
STATUS_BY_WORD = {
    "authentication": 401,
    "payment_required": 402,
    "permission_denied": 403,
    "not_found": 404,
    "precondition_failed": 412,
    "payload_too_large": 413,
    "unprocessable": 422,
    "rate_limit_exceeded": 429,
    "server": 500,
    "server_error": 500,
    "unmapped": 500,
    "provider_unavailable": 502,
    "provider_overloaded": 503,
    "timeout": 504,
} | dict.fromkeys(
    (
        "content_policy_violation",
        "context_length_exceeded",
        "invalid_prompt",
        "invalid_request",
        "invalid_request_error",
        "max_tokens_exceeded",
        "refusal",
        "string_too_long",
        "token_limit_exceeded",
    ),
    400,
)

#: Words of `error.message` and what we say in their place.
PHRASES = (
    ("not a valid model", "unknown model"),
    ("no endpoints found", "no endpoint serves this model under these settings"),
    ("context length", "text too long for the model"),
    ("context size", "text too long for the model"),
    ("response_format", "answer schema refused"),
    ("invalid schema", "answer schema refused"),
    ("max_tokens, but can only afford", "the balance does not cover the token cap"),
    ("more credits", "not enough credits"),
    ("key limit", "key limit reached"),
    ("authentication header", "no key sent"),
    ("provider returned error", "provider returned error"),
)

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,19}( [A-Za-z0-9._-]{1,19}){0,2}")


def word(value: object) -> str | None:
    """The value if it is one plain word, as limits and error types are; None for anything that could be prose."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def provider_name(value: object) -> str | None:
    """The value if it could name a provider: up to three short words."""
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def number(value: object) -> float | None:
    """A finite number, also where it is written as a string."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else None


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error as it came. Header names are in lower case; `now` is Unix seconds; `html` marks a proxy's error page."""

    status: int
    error: dict[str, Any]
    headers: Mapping[str, str]
    now: float
    html: bool = False
    usage: Usage = field(default_factory=Usage)

    @property
    def metadata(self) -> dict[str, Any]:
        return mapping(self.error.get("metadata"))

    @property
    def availability(self) -> dict[str, Any]:
        return mapping(self.error.get("availability"))

    @property
    def limit_source(self) -> str:
        return word(self.metadata.get("limit_source")) or ""

    @property
    def error_types(self) -> frozenset[str]:
        """Every word that types this error, the provider's own ones included."""
        found = (
            self.error.get("error_type"),
            self.error.get("code"),
            self.metadata.get("error_type"),
            self.metadata.get("provider_code"),
            self.metadata.get("provider_error_code"),
            *_raw_codes(self.metadata.get("raw")),
        )
        return frozenset(item for item in found if isinstance(item, str))

    def says(self, needle: str) -> bool:
        message = self.error.get("message")
        return isinstance(message, str) and needle in message.lower()

    def reason(self) -> str:
        """Fit for logs: nothing that anybody wrote freely."""
        metadata, availability = self.metadata, self.availability
        named = (
            ("limit", metadata.get("limit_source")),
            ("why", metadata.get("reason")),
            ("type", metadata.get("error_type") or self.error.get("error_type")),
            ("code", availability.get("code") or metadata.get("provider_error_code")),
            ("flagged", _first(metadata.get("reasons"))),
        )
        provider = provider_name(metadata.get("provider_name"))
        parts = [f"status {self.status}"]
        parts += [f"{name} {found}" for name, value in named if (found := word(value))]
        parts += [f"provider {provider}"] if provider else []
        parts += [phrase for needle, phrase in PHRASES if self.says(needle)][:1]
        parts += ["html error page"] if self.html else []
        return ", ".join(parts)


def error_of(payload: object) -> dict[str, Any]:
    """The error object of a body, whatever form the gateway gave it."""
    error = mapping(payload).get("error")
    return error if isinstance(error, dict) else {"message": error}


def named_status(error: Mapping[str, Any], default: int) -> int:
    """The status that an error inside a reply stands for: by its number, else by its type."""
    for value in (error.get("code"), error.get("http_status")):
        code = number(value)
        if code is not None and 400 <= code <= 599:
            return int(code)
    for value in (error.get("code"), error.get("error_type"), mapping(error.get("metadata")).get("error_type")):
        if isinstance(value, str) and value in STATUS_BY_WORD:
            return STATUS_BY_WORD[value]
    return default


def refusal(complaint: Complaint) -> WorkerError:
    """The error that says what to do about it."""
    status = complaint.status
    if status == 401:
        return Unauthorized(complaint.reason(), asked_seconds(complaint), complaint.usage)
    if status == 402:
        return _payment(complaint)
    if status == 403:
        return _forbidden(complaint)
    if status == 429:
        return _limited(complaint, _origin(complaint))
    if status in UNAVAILABLE_STATUSES or status >= 500:
        return _unavailable(complaint)
    return _unacceptable(complaint)


def _payment(complaint: Complaint) -> WorkerError:
    in_flight = (
        complaint.limit_source == "openrouter_in_flight_budget"
        or complaint.metadata.get("reason") == "in_flight_budget_exhausted"
    )
    if in_flight:
        return _limited(complaint, LimitOrigin.IN_FLIGHT)
    return OutOfMoney(complaint.reason(), asked_seconds(complaint), complaint.usage)


def _limited(complaint: Complaint, origin: LimitOrigin) -> RateLimited:
    return RateLimited(complaint.reason(), asked_seconds(complaint), complaint.usage, origin)


def _origin(complaint: Complaint) -> LimitOrigin:
    """Whose limit a 429 is. The platform's own sources begin with its name; what names none comes from a provider."""
    source = complaint.limit_source
    if source == "openrouter_admission_control":
        return LimitOrigin.ADMISSION
    return LimitOrigin.PLATFORM if source.startswith("openrouter_") else LimitOrigin.UPSTREAM


def _forbidden(complaint: Complaint) -> WorkerError:
    metadata, reason, usage = complaint.metadata, complaint.reason(), complaint.usage
    if metadata.get("reasons") or metadata.get("flagged_input") or metadata.get("patterns"):
        return ContentRefused(f"{reason}, input blocked", usage)
    if _is_about_content(complaint):
        return ContentRefused(reason, usage)
    if complaint.limit_source or "resets_at" in metadata or complaint.says("key limit"):
        return OutOfMoney(reason, asked_seconds(complaint), usage)
    if complaint.html or _is_elsewhere(complaint):
        return ProviderUnavailable(reason, usage)
    return RequestRefused(reason, usage)


def _unavailable(complaint: Complaint) -> WorkerError:
    asked = asked_seconds(complaint)
    if complaint.status == 503 and asked is not None:
        return _limited(complaint, LimitOrigin.OVERLOAD)
    return ProviderUnavailable(complaint.reason(), complaint.usage)


def _unacceptable(complaint: Complaint) -> WorkerError:
    if _is_about_content(complaint):
        return ContentRefused(complaint.reason(), complaint.usage)
    # A proxy's own 413 is about the size all the same.
    page_of_a_proxy = complaint.html and complaint.status != 413
    if page_of_a_proxy or complaint.availability.get("retryable") is True:
        return ProviderUnavailable(complaint.reason(), complaint.usage)
    return RequestRefused(complaint.reason(), complaint.usage)


def _is_about_content(complaint: Complaint) -> bool:
    return not CONTENT_WORDS.isdisjoint(complaint.error_types)


def _is_elsewhere(complaint: Complaint) -> bool:
    """A 403 of one provider or region: another one may answer."""
    return (
        complaint.says("provider returned error")
        or complaint.availability.get("retryable") is True
        or complaint.availability.get("code") == "region_restricted"
    )


def _raw_codes(raw: object) -> tuple[object, ...]:
    """Code and type of the provider's own body: a string, JSON in a string, or an object."""
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError):
            return ()
    body = mapping(raw)
    inner = mapping(body.get("error")) or body
    return inner.get("code"), inner.get("type")


# --- When to come back -----------------------------------------------------------------------------------------


def asked_seconds(complaint: Complaint) -> float | None:
    """How long the provider asks to wait, by whichever of its ways comes first; None where it names no time."""
    for seconds in _asked(complaint):
        if seconds is not None:
            return max(0.0, seconds)
    return None


def _asked(complaint: Complaint) -> Iterator[float | None]:
    metadata, now = complaint.metadata, complaint.now
    mirrored = {name.lower(): value for name, value in mapping(metadata.get("headers")).items()}
    for headers in (complaint.headers, mirrored):
        milliseconds = number(headers.get("retry-after-ms"))
        yield None if milliseconds is None else milliseconds / 1000
        yield _retry_after(headers.get("retry-after"), now)
    yield number(metadata.get("retry_after_seconds"))
    yield number(complaint.availability.get("retry_after"))
    yield _until(metadata.get("resets_at"), now)
    for headers in (complaint.headers, mirrored):
        yield _until(headers.get("x-ratelimit-reset"), now)


def _retry_after(value: object, now: float) -> float | None:
    """Seconds, or an HTTP date."""
    seconds = number(value)
    if seconds is not None or not isinstance(value, str):
        return seconds
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return _stamp(moment, now)


def _until(value: object, now: float) -> float | None:
    """Seconds until a moment given as epoch seconds, epoch milliseconds or ISO 8601."""
    stamp = number(value)
    if stamp is not None:
        seconds = stamp / 1000 if stamp > 1e11 else stamp
        return seconds - now if seconds > 1e9 else None
    if not isinstance(value, str):
        return None
    try:
        return _stamp(datetime.fromisoformat(value), now)
    except ValueError:
        return None


def _stamp(moment: datetime, now: float) -> float | None:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        return aware.timestamp() - now
    except (OverflowError, ValueError):
        return None
