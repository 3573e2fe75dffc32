"""Signed messages: where others can write to the queue, a worker runs only what a known key has signed."""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any, Self

from pydantic import SecretStr

from shoal.keys import canonical_json


@dataclass(frozen=True, slots=True, repr=False)
class Signer:
    """Signs with the first key and accepts all of them, so that keys can be changed without a pause."""

    keys: tuple[bytes, ...]

    @classmethod
    def of(cls, setting: SecretStr | None) -> Self | None:
        """From keys separated by commas; None where signing is off."""
        words = setting.get_secret_value().split(",") if setting else []
        keys = tuple(word.strip().encode() for word in words if word.strip())
        return cls(keys) if keys else None

    def sign(self, job: dict[str, Any]) -> str:
        """The HMAC-SHA256 of a message's JSON values, as 64 hex digits."""
        return _mac(self.keys[0], job)

    def verifies(self, job: Any, signature: object) -> bool:
        """Whether one of the keys has signed exactly this."""
        if not isinstance(signature, str):
            return False
        try:
            return any(hmac.compare_digest(_mac(key, job).encode(), signature.encode()) for key in self.keys)
        except ValueError:
            return False


def _mac(key: bytes, job: Any) -> str:
    return hmac.new(key, canonical_json(job), hashlib.sha256).hexdigest()
