"""A completion and the body that says it: what the model said, how it ended, and how the wire tells it."""

from dataclasses import dataclass, replace
from random import Random
from string import ascii_letters, digits
from typing import Any, Self

from pydantic_core import to_json

from shoal_worker.sandbox.catalogue import DATED_MODEL, PROVIDER
from shoal_worker.sandbox.faults import Fault
from shoal_worker.sandbox.metering import BYTES_PER_TOKEN, Usage, byte_length, tokens_of

#: In every answer, so that nobody takes the sandbox's for a model's.
FINGERPRINT = "shoal-sandbox"
LENGTH = ("length", "max_output_tokens")
_ALNUM = ascii_letters + digits


def generation_id(now: float, rng: Random) -> str:
    return f"gen-{int(now)}-{''.join(rng.choices(_ALNUM, k=20))}"


@dataclass(frozen=True, slots=True)
class Completion:
    content: str | None
    completion_tokens: int
    max_tokens: int | None = None
    reasoning_tokens: int = 0
    finish_reason: str = "stop"
    native_finish_reason: str = "completed"
    refusal: str | None = None

    def saying(self, content: str) -> Self:
        """The same completion with other content, cut where the request's limit of tokens is reached."""
        tokens = tokens_of(content)
        if self.max_tokens is None or tokens <= self.max_tokens:
            return replace(self, content=content, completion_tokens=tokens)
        finish, native = LENGTH
        return replace(
            self,
            content=content.encode()[: self.max_tokens * BYTES_PER_TOKEN].decode("utf-8", "ignore"),
            completion_tokens=self.max_tokens,
            finish_reason=finish,
            native_finish_reason=native,
        )


def completion_saying(content: str, max_tokens: int | None) -> Completion:
    """A finished completion that says the content, or as much of it as the limit allows."""
    tokens = max(1, byte_length(content) // BYTES_PER_TOKEN)
    whole = Completion(content, tokens, max_tokens)
    return whole if max_tokens is None or tokens <= max_tokens else whole.saying(content)


def completion_body(completion: Completion, usage: Usage, identity: str, now: float, fault: Fault | None) -> bytes:
    """The chat.completion as it goes over the wire."""
    message = {
        "role": "assistant",
        "content": completion.content,
        "refusal": completion.refusal,
        "reasoning": None,
    }
    choice = {
        "index": 0,
        "finish_reason": completion.finish_reason,
        "native_finish_reason": completion.native_finish_reason,
        "logprobs": None,
        "message": message,
    }
    body: dict[str, Any] = {
        "id": identity,
        "provider": PROVIDER,
        "model": DATED_MODEL,
        "object": "chat.completion",
        "created": int(now),
        "choices": [choice],
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
        "usage": usage.block(),
    }
    if fault is Fault.MISSING_USAGE_COST:
        del body["usage"]["cost"], body["usage"]["cost_details"]
    if fault is Fault.PROVIDER_NESTED_200:
        body = dict.fromkeys(body) | {"provider": body}
    return to_json(body)
