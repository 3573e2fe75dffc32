"""Every fault the sandbox can play, and how one is asked for.

A fault is one of these sorts, and the sort decides who plays it:

    replies.py      an error status, or a 200 that holds no completion: sent in place of an answer, never billed
    spoilage.py     an answer that is wrong inside: billed, because a model did work
    completions.py  a right answer in an odd body: billed
    delivery.py     a right answer that comes slowly or in pieces: billed; or no reply at all

It is asked for by the header `X-Shoal-Sandbox-Fault: name[:parameter]`, by a marker in the user text
(`[[fault:name]]`, `[[fault:name:parameter]]`, or `[[fault:name*2]]` for the first two requests that have
markers and the same custom id), or by the scenario. The first of these that speaks wins. Several counted markers
are played one after the other.
The parameter is in seconds: how long to drip or to wait, or what Retry-After says.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

FAULT_HEADER = "X-Shoal-Sandbox-Fault"
DEFAULT_SECONDS = 2.0
MAX_SECONDS = 86_400.0
_MARKER = re.compile(r"\[\[fault:([a-z0-9_]+)(?::([0-9.]+))?(?:\*(\d{1,9}))?\]\]")
_HEADER = re.compile(r"([a-z0-9_]+)(?::([0-9.]+))?")


class Fault(StrEnum):
    # An error status in place of an answer.
    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    OUT_OF_CREDITS = "out_of_credits"
    WEIGHT_EXCEEDS_BUDGET = "weight_exceeds_budget"
    IN_FLIGHT_BUDGET = "in_flight_budget"
    KEY_LIMIT = "key_limit"
    MODERATION = "moderation"
    GUARDRAIL_PATTERNS = "guardrail_patterns"
    BUDGET_403 = "budget_403"
    REGION_403 = "region_403"
    NOT_FOUND = "not_found"
    REQUEST_TIMEOUT_408 = "request_timeout_408"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    UNPROCESSABLE = "unprocessable"
    UPSTREAM_429 = "upstream_429"
    UPSTREAM_429_HTTP_DATE = "upstream_429_http_date"
    UPSTREAM_429_NO_HEADER = "upstream_429_no_header"
    ADMISSION_429 = "admission_429"
    CAPACITY_EXHAUSTED_429 = "capacity_exhausted_429"
    PLATFORM_429 = "platform_429"
    SERVER_500 = "server_500"
    STRING_CODE_500 = "string_code_500"
    BAD_GATEWAY_502 = "bad_gateway_502"
    UNAVAILABLE_503 = "unavailable_503"
    GATEWAY_TIMEOUT_504 = "gateway_timeout_504"
    TIMEOUT_524 = "timeout_524"
    OVERLOADED_529 = "overloaded_529"
    HTML_502 = "html_502"
    HTML_524 = "html_524"
    # A 200 that holds no completion.
    ERROR_200 = "error_200"
    NESTED_ERROR_200 = "nested_error_200"
    NULL_CHOICES = "null_choices"
    CHOICE_ERROR = "choice_error"
    WHITESPACE_ONLY = "whitespace_only"
    # An answer that is wrong inside.
    LENGTH_EMPTY = "length_empty"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"
    EMPTY_STOP = "empty_stop"
    MISFIT_JSON = "misfit_json"
    BAD_JSON = "bad_json"
    MISFIT_VALUES = "misfit_values"
    BROKEN_PERMUTATION = "broken_permutation"
    UNSUPPORTED_QUOTES = "unsupported_quotes"
    MISSING_USAGE_COST = "missing_usage_cost"
    PROVIDER_NESTED_200 = "provider_nested_200"
    # A right answer, badly delivered.
    CUT_BODY = "cut_body"
    DRIP_WHITESPACE = "drip_whitespace"
    SLOW_HEADERS = "slow_headers"
    SLOW_BODY = "slow_body"
    CONNECTION_RESET = "connection_reset"


_NAMES = frozenset(Fault)


class UnknownFaultError(ValueError):
    """A fault was asked for by a name or in a form that does not exist."""


@dataclass(frozen=True, slots=True)
class FaultCall:
    """One fault with its parameter, and for how many requests a marker asks for it (None: for all)."""

    fault: Fault
    seconds: float = DEFAULT_SECONDS
    times: int | None = None


def fault_in_header(value: str) -> FaultCall:
    """`upstream_429:30` as a call."""
    match = _HEADER.fullmatch(value.strip())
    if match is None:
        raise UnknownFaultError(f"{FAULT_HEADER} is not of the form name[:seconds]")
    return _call(match[1], match[2], None)


def faults_in_text(text: str) -> list[FaultCall]:
    """The markers of a user text, in their order."""
    if "[[fault:" not in text:
        return []
    return [_call(*match.groups()) for match in _MARKER.finditer(text)]


def call_for_turn(calls: Iterable[FaultCall], turn: int) -> FaultCall | None:
    """Which of several markers speaks at the given turn (0 is a custom id's first request)."""
    for call in calls:
        if call.times is None or turn < call.times:
            return call
        turn -= call.times
    return None


def _call(name: str, seconds: str | None, times: str | None) -> FaultCall:
    if name not in _NAMES:
        raise UnknownFaultError(f"unknown sandbox fault {name[:60]!r}; known: {', '.join(Fault)}")
    return FaultCall(Fault(name), _length(seconds), None if times is None else int(times))


def _length(seconds: str | None) -> float:
    if seconds is None:
        return DEFAULT_SECONDS
    try:
        length = float(seconds)
    except ValueError:
        length = -1.0
    if not 0 <= length <= MAX_SECONDS:
        raise UnknownFaultError(f"a fault's parameter is a number of seconds from 0 to {MAX_SECONDS:.0f}")
    return length
