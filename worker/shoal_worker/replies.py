"""What a reply to a chat call means: status, headers and body in, a `ChatReply` out or a `WorkerError` raised. Pure.

Status 200 is committed before the model has answered, so a reply with it may still be cut, hold an error, or hold
nothing. The checks stand in the order in which these forms hide one another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic_core import from_json

from shoal.jobs import Usage
from shoal_worker.errors import ContentRefused, EmptyAnswer, ProviderUnavailable, ReplyLost
from shoal_worker.ports import ChatReply, Settlement
from shoal_worker.refusals import (
    Complaint,
    error_of,
    mapping,
    named_status,
    number,
    provider_name,
    refusal,
    word,
)

#: The sandbox marks each of its replies twice, so that no answer of its own passes for a model's.
SANDBOX_HEADER = "x-shoal-sandbox"
SANDBOX_FINGERPRINT = "shoal-sandbox"

#: Whether an answer came out of the response cache, and whose it is.
CACHE_STATUS_HEADER = "x-openrouter-cache-status"
CACHE_SOURCE_HEADER = "x-openrouter-cache-source-id"

#: No honest count or cost is larger; a wrong one must not spoil the sums.
_MOST_TOKENS = 10**12
_MOST_USD = 10**6


@dataclass(frozen=True, slots=True)
class Prices:
    """USD per million tokens, for replies that name no cost. The defaults are gpt-5.4-nano's."""

    input_usd: float = 0.20
    cached_usd: float = 0.02
    output_usd: float = 1.25

    def cost_usd(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        cached = min(cached_tokens, input_tokens)
        per_million = (
            (input_tokens - cached) * self.input_usd + cached * self.cached_usd + output_tokens * self.output_usd
        )
        return per_million / 1_000_000

    def cache_saved_usd(self, usage: Usage) -> float:
        """What the cached tokens of a prompt would have cost more."""
        return min(usage.cached_tokens, usage.input_tokens) * max(0.0, self.input_usd - self.cached_usd) / 1_000_000


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What came over the wire. Header names are looked up in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def read_reply(reply: HttpReply, *, asked_model: str, prices: Prices, now: float) -> ChatReply:
    """The answer, or the error that says what to do. `finish_reason` "length" is an answer: the caller decides."""
    completion = _completion(read_object(reply, now=now))
    choice = _first_choice(completion)
    _check_choice(choice, completion, reply, now)
    return _answer(choice, completion, reply, asked_model=asked_model, prices=prices)


def read_object(reply: HttpReply, *, now: float) -> dict[str, Any]:
    """The JSON object of a reply that is neither refused nor cut nor an error in disguise."""
    payload = _payload(reply)
    if not 200 <= reply.status <= 299:
        _refuse(reply.status, error_of(payload), reply, now)
    if not isinstance(payload, dict):
        raise ReplyLost(_unreadable(reply), Usage(calls=1))
    if payload.get("error"):
        error = error_of(payload)
        _refuse(named_status(error, default=502), error, reply, now)
    return payload


def _payload(reply: HttpReply) -> Any:
    """The body as JSON, or None where it is none. Leading white space is keep-alive padding."""
    try:
        return from_json(reply.body)
    except ValueError:
        return None


def _unreadable(reply: HttpReply) -> str:
    what = "cut or no JSON" if reply.body.strip() else "blank"
    return f"status {reply.status}, body is {what} ({len(reply.body)} bytes)"


def _refuse(status: int, error: dict[str, Any], reply: HttpReply, now: float, cost_usd: float = 0.0) -> NoReturn:
    html = reply.body.lstrip()[:1] == b"<"
    raise refusal(Complaint(status, error, reply.headers, now, html, Usage(calls=1, cost_usd=cost_usd)))


def _completion(payload: dict[str, Any]) -> dict[str, Any]:
    """Seen in the wild: the real completion inside `provider`, and null everywhere else."""
    nested = payload.get("provider")
    if not payload.get("choices") and isinstance(nested, dict) and nested.get("choices"):
        return nested
    return payload


def _first_choice(completion: dict[str, Any]) -> dict[str, Any]:
    choices = completion.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    raise ProviderUnavailable("status 200, no choices", Usage(calls=1))


def _check_choice(choice: dict[str, Any], completion: dict[str, Any], reply: HttpReply, now: float) -> None:
    """A choice that failed midway is not charged, so only a cost that the reply names is counted."""
    if not choice.get("error") and choice.get("finish_reason") != "error":
        return
    error = error_of(choice)
    cost_usd = _named_cost(mapping(completion.get("usage"))) or 0.0
    _refuse(named_status(error, default=502), error, reply, now, cost_usd)


def _answer(
    choice: dict[str, Any], completion: dict[str, Any], reply: HttpReply, *, asked_model: str, prices: Prices
) -> ChatReply:
    usage = read_usage(completion, prices)
    finish_reason = word(choice.get("finish_reason")) or "unknown"
    message = mapping(choice.get("message"))
    content = message.get("content")
    content = content if isinstance(content, str) else ""
    if finish_reason != "length":
        if finish_reason == "content_filter" or message.get("refusal"):
            raise ContentRefused(f"status 200, finish reason {finish_reason}, no answer given", usage)
        if not content.strip():
            raise EmptyAnswer(f"status 200, finish reason {finish_reason}, nothing in it", usage)
    headers = reply.headers
    return ChatReply(
        content=content,
        finish_reason=finish_reason,
        model=_text(completion.get("model")) or asked_model,
        provider=provider_name(completion.get("provider")) or provider_name(headers.get("x-provider-name")),
        generation_id=_text(headers.get("x-generation-id")) or _text(completion.get("id")),
        usage=usage,
        sandbox=SANDBOX_HEADER in headers or completion.get("system_fingerprint") == SANDBOX_FINGERPRINT,
        replay_of=_replay_of(headers),
    )


def _replay_of(headers: Mapping[str, str]) -> str | None:
    """The generation whose answer this is, where it came out of the provider's response cache."""
    if _text(headers.get(CACHE_STATUS_HEADER)).upper() != "HIT":
        return None
    return _text(headers.get(CACHE_SOURCE_HEADER))


def read_generation(reply: HttpReply, prices: Prices, *, now: float) -> Settlement | None:
    """What `GET /generation` says was charged; None where the provider does not know the generation (yet)."""
    if reply.status == 404:
        return None
    card = mapping(read_object(reply, now=now).get("data"))
    cost_usd = _named_cost({"cost": card.get("total_cost")})
    if cost_usd is None:
        return None
    usage = Usage(
        input_tokens=_count(card.get("native_tokens_prompt")),
        cached_tokens=_count(card.get("native_tokens_cached")),
        reasoning_tokens=_count(card.get("native_tokens_reasoning")),
        output_tokens=_count(card.get("native_tokens_completion")),
        cost_usd=cost_usd,
        calls=1,
    )
    return Settlement(usage.cost_usd > 0, usage, prices.cache_saved_usd(usage), _text(card.get("id")))


def read_usage(completion: Mapping[str, Any], prices: Prices) -> Usage:
    """What one reply counts and charges; the price table fills in where it names no cost."""
    usage = mapping(completion.get("usage"))
    prompt_details = mapping(usage.get("prompt_tokens_details"))
    output_details = mapping(usage.get("completion_tokens_details"))
    input_tokens = _count(usage.get("prompt_tokens"))
    cached_tokens = _count(prompt_details.get("cached_tokens"))
    output_tokens = _count(usage.get("completion_tokens"))
    cost_usd = _named_cost(usage)
    return Usage(
        input_tokens=input_tokens,
        cached_tokens=cached_tokens,
        reasoning_tokens=_count(output_details.get("reasoning_tokens")),
        output_tokens=output_tokens,
        cost_usd=prices.cost_usd(input_tokens, cached_tokens, output_tokens) if cost_usd is None else cost_usd,
        calls=1,
    )


def _count(value: object) -> int:
    found = number(value)
    return int(found) if found is not None and 0 <= found <= _MOST_TOKENS else 0


def _named_cost(usage: Mapping[str, Any]) -> float | None:
    cost = number(usage.get("cost"))
    return cost if cost is not None and 0 <= cost <= _MOST_USD else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
