"""What the provider tells of the key and of its models."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shoal_worker.refusals import mapping, number
from shoal_worker.replies import Prices


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """What the provider says of the key. `limit_remaining_usd` None: the key has no limit, or none is told.

    It is the least of what the key's own limit and its budget leave. `expires_at` is in Unix seconds.
    """

    is_valid: bool
    limit_remaining_usd: float | None = None
    usage_usd: float = 0.0
    is_free_tier: bool = False
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model in the provider's catalogue. `parameters`, `prices` None: not told. `expires_at` is in Unix seconds."""

    parameters: frozenset[str] | None = None
    prices: Prices | None = None
    expires_at: float | None = None


def read_key(data: Mapping[str, Any]) -> KeyStatus:
    left = [number(data.get("limit_remaining")), number(mapping(data.get("effective_budget")).get("remaining_usd"))]
    return KeyStatus(
        is_valid=True,
        limit_remaining_usd=min((usd for usd in left if usd is not None), default=None),
        usage_usd=number(data.get("usage")) or 0.0,
        is_free_tier=data.get("is_free_tier") is True,
        expires_at=_unix(data.get("expires_at")),
    )


def read_models(data: object, model: str) -> ModelCard | None:
    """The card of one model, by its name or its dated name; None where the catalogue has none."""
    for card in map(mapping, data if isinstance(data, list) else []):
        if model in (card.get("id"), card.get("canonical_slug")):
            known = card.get("supported_parameters")
            parameters = frozenset(map(str, known)) if isinstance(known, list) else None
            return ModelCard(parameters, _prices(mapping(card.get("pricing"))), _unix(card.get("expiration_date")))
    return None


def _prices(pricing: Mapping[str, Any]) -> Prices | None:
    """The catalogue's are USD a token, as decimal strings."""
    told = [number(pricing.get(name)) for name in ("prompt", "input_cache_read", "completion")]
    found = [round(usd * 1e6, 6) for usd in told if usd is not None]
    return Prices(*found) if len(found) == len(told) else None


def _unix(text: object) -> float | None:
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
