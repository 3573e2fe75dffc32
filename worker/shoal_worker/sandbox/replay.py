"""OpenRouter's response cache: a byte-identical request of the same key is answered again, free of charge.

It works only when a request asks for it by header. Requests under way are not joined, and only a 200 that reached
its client whole is stored: whether the real one stores abandoned answers is unknown, and relying on it would cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from shoal_worker.sandbox.completions import Completion
from shoal_worker.sandbox.replies import Refused, error

CACHE_HEADER = "X-OpenRouter-Cache"
CLEAR_HEADER = "X-OpenRouter-Cache-Clear"
TTL_HEADER = "X-OpenRouter-Cache-TTL"
DEFAULT_TTL_SECONDS, MAX_TTL_SECONDS = 300, 86_400
_STORED_MAX = 10_000

Key = bytes


@dataclass(frozen=True, slots=True)
class Stored:
    completion: Completion
    generation_id: str
    stored_at: float
    ttl_seconds: int


@dataclass(frozen=True, slots=True)
class CacheWish:
    """What a request's headers ask of the cache."""

    key: Key
    ttl_seconds: int
    clear: bool


def cache_wish(headers: Mapping[str, str], body_digest: bytes) -> CacheWish | None:
    """None when the request does not want the cache."""
    if headers.get(CACHE_HEADER, "").lower() != "true":
        return None
    told = headers.get(TTL_HEADER, str(DEFAULT_TTL_SECONDS))
    if not told.isdecimal() or not 1 <= int(told) <= MAX_TTL_SECONDS:
        raise Refused(error(400, f"{TTL_HEADER} must be an integer from 1 to {MAX_TTL_SECONDS}"))
    key = sha256(headers["Authorization"].encode() + body_digest).digest()
    return CacheWish(key, int(told), headers.get(CLEAR_HEADER, "").lower() == "true")


class ReplayCache:
    def __init__(self) -> None:
        self._stored: dict[Key, Stored] = {}

    def find(self, wish: CacheWish, now: float) -> Stored | None:
        """The stored answer that is still fresh, unless the request wants a new one."""
        stored = self._stored.get(wish.key)
        if stored is None:
            return None
        if wish.clear or now >= stored.stored_at + stored.ttl_seconds:
            del self._stored[wish.key]
            return None
        return stored

    def store(self, wish: CacheWish, completion: Completion, generation_id: str, now: float) -> None:
        if len(self._stored) >= _STORED_MAX:
            del self._stored[next(iter(self._stored))]
        self._stored[wish.key] = Stored(completion, generation_id, now, wish.ttl_seconds)


def hit_headers(stored: Stored, now: float) -> dict[str, str]:
    return {
        "X-OpenRouter-Cache-Status": "HIT",
        "X-OpenRouter-Cache-Age": str(int(now - stored.stored_at)),
        "X-OpenRouter-Cache-TTL": str(stored.ttl_seconds),
        "X-OpenRouter-Cache-Source-Id": stored.generation_id,
    }
