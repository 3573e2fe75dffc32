"""Limits that the user sets: calls and tokens a minute, as buckets that all processes take from. Pure.

A bucket is filled with 99 % of its limit and holds half a hundredth of it, so that no minute sees more than its limit,
even where calls that were let go a little apart arrive together. A call may go while there is anything in it, and what
it takes beyond that is owed: a call larger than the bucket would else wait for ever. Tokens are taken by estimate and
put right when the reply names them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

FILLED_SHARE = 0.99
DEPTH_SHARE = 0.005
#: Tokens have four bytes or so.
BYTES_PER_TOKEN = 4
#: How fast the means of what calls really took forget.
LEARNED_FROM_CALLS = 50


@dataclass(frozen=True, slots=True)
class Rates:
    """Calls and tokens a minute; None: no limit."""

    requests: int | None = None
    tokens: int | None = None

    @property
    def any(self) -> bool:
        return self.requests is not None or self.tokens is not None


@dataclass(frozen=True, slots=True)
class Quota:
    """What is left in the buckets at `at`."""

    requests: float
    tokens: float
    at: float


@dataclass(frozen=True, slots=True)
class Grant:
    """How many calls, the first of those that asked, may go; and what is left."""

    calls: int
    quota: Quota


def depth(per_minute: int | None, least: float) -> float:
    return max(least, (per_minute or 0) * DEPTH_SHARE)


def per_second(per_minute: int | None) -> float:
    return (per_minute or 0) * FILLED_SHARE / 60


def full(rates: Rates, now: float) -> Quota:
    return Quota(depth(rates.requests, 1.0), depth(rates.tokens, 0.0), now)


def granted(quota: Quota, rates: Rates, wants: Sequence[float], settled: float, now: float) -> Grant:
    """`wants` are the tokens of waiting calls, in their order; `settled` is what calls took beyond their estimates."""
    seconds = max(0.0, now - quota.at)
    requests = _filled(quota.requests, depth(rates.requests, 1.0), seconds * per_second(rates.requests))
    tokens = _filled(quota.tokens, depth(rates.tokens, 0.0), seconds * per_second(rates.tokens)) - settled
    calls = 0
    for want in wants:
        if (rates.requests is not None and requests < 1.0) or (rates.tokens is not None and tokens <= 0.0):
            break
        requests, tokens, calls = requests - 1.0, tokens - want, calls + 1
    return Grant(calls, Quota(requests, tokens, now))


def _filled(balance: float, most: float, more: float) -> float:
    """Time fills it to the brim; what was given back may stand above it."""
    return max(balance, min(most, balance + more))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What calls of one kind take: tokens a byte of prompt, tokens of answer."""

    tokens_per_byte: float = 1 / BYTES_PER_TOKEN
    output_tokens: float | None = None
    calls: int = 0

    def tokens(self, prompt_bytes: int, cap: int) -> float:
        """For the first call the answer is taken to be as long as it may be."""
        output = cap if self.output_tokens is None else min(cap, self.output_tokens)
        return prompt_bytes * self.tokens_per_byte + output

    def learned(self, prompt_bytes: int, input_tokens: int, output_tokens: int) -> "Estimate":
        calls = min(LEARNED_FROM_CALLS, self.calls + 1)
        known = output_tokens if self.output_tokens is None else self.output_tokens
        per_byte = input_tokens / max(1, prompt_bytes)
        return replace(
            self,
            tokens_per_byte=self.tokens_per_byte + (per_byte - self.tokens_per_byte) / calls,
            output_tokens=known + (output_tokens - known) / calls,
            calls=calls,
        )
