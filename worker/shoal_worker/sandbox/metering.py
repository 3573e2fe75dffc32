"""Tokens, usage and cost. Tokens are estimated: four bytes of UTF-8 are one token, and none is less than one."""

from dataclasses import dataclass
from typing import Any

from shoal_worker.sandbox.catalogue import (
    CACHED_USD_PER_MILLION,
    COMPLETION_USD_PER_MILLION,
    MAX_COMPLETION_TOKENS,
    PROMPT_USD_PER_MILLION,
)

BYTES_PER_TOKEN = 4
#: The provider caches prefixes from this length on, in steps of 128 tokens.
CACHED_FROM_TOKENS = 1024
_CACHE_STEP_TOKENS = 128
_PREFIXES_KEPT = 10_000


def byte_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def tokens_of(text: str) -> int:
    return max(1, byte_length(text) // BYTES_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call and what they cost. A replayed answer has none of either."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def prompt_usd(self) -> float:
        fresh = self.prompt_tokens - self.cached_tokens
        return (fresh * PROMPT_USD_PER_MILLION + self.cached_tokens * CACHED_USD_PER_MILLION) / 1e6

    @property
    def completion_usd(self) -> float:
        return self.completion_tokens * COMPLETION_USD_PER_MILLION / 1e6

    @property
    def cost_usd(self) -> float:
        return round(self.prompt_usd + self.completion_usd, 10)

    def block(self) -> dict[str, Any]:
        """The `usage` object of an answer."""
        cost = self.cost_usd
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "cost": cost,
            "is_byok": False,
            "prompt_tokens_details": {
                "cached_tokens": self.cached_tokens,
                "cache_write_tokens": 0,
                "audio_tokens": 0,
                "video_tokens": 0,
            },
            "cost_details": {
                "upstream_inference_cost": cost,
                "upstream_inference_prompt_cost": round(self.prompt_usd, 10),
                "upstream_inference_completions_cost": round(self.completion_usd, 10),
            },
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning_tokens,
                "image_tokens": 0,
                "audio_tokens": 0,
            },
        }


class PrefixMemory:
    """Which long first system messages were seen before: their tokens come at the cached price."""

    def __init__(self) -> None:
        self._seen: dict[int, None] = {}

    def cached_tokens(self, system: str) -> int:
        """Tokens of `system` that the provider has cached; remembers it for the next time."""
        tokens = byte_length(system) // BYTES_PER_TOKEN
        if tokens < CACHED_FROM_TOKENS:
            return 0
        key = hash(system)
        if key in self._seen:
            return tokens - tokens % _CACHE_STEP_TOKENS
        if len(self._seen) >= _PREFIXES_KEPT:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = None
        return 0


class InFlightBudget:
    """What the requests in flight hold together: the dearest each could become, from its arrival to its end."""

    def __init__(self) -> None:
        self._held_usd = 0.0

    def hold(self, prompt_tokens: int, max_completion_tokens: int | None, limit_usd: float | None) -> float | None:
        """The USD now held for a request, or None when the budget has no room for it."""
        completion_tokens = MAX_COMPLETION_TOKENS if max_completion_tokens is None else max_completion_tokens
        weight = Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens).cost_usd
        if limit_usd is not None and self._held_usd + weight > limit_usd:
            return None
        self._held_usd += weight
        return weight

    def release(self, weight_usd: float) -> None:
        self._held_usd = max(0.0, self._held_usd - weight_usd)


class Capacity:
    """A provider's calls a second, as a bucket that holds one second's worth. It outlives a change of its size."""

    def __init__(self) -> None:
        self._tokens = float("inf")
        self._filled_at = 0.0

    def take(self, per_second: float | None, now: float) -> bool:
        """Whether there is room for one call more. `now` is monotonic; `per_second` None: always."""
        if per_second is None:
            return True
        depth = max(1.0, per_second)
        self._tokens = min(depth, self._tokens + (now - self._filled_at) * per_second)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
