"""What calls cost and what was saved: sums by day, kind, tenant and model, as the ledger of calls keeps them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol, Self

from redis.asyncio import Redis

from shoal import wire

_NANO = 1_000_000_000


def nano_usd(usd: float) -> int:
    """Money as the ledger adds it up: whole nano-dollars, a fraction of the price of any token."""
    return round(usd * _NANO)


def usd(nano: int) -> float:
    return nano / _NANO


def day_of(unix_seconds: float) -> date:
    """The UTC day that a call is counted in: that of its start."""
    return datetime.fromtimestamp(unix_seconds, UTC).date()


@dataclass(frozen=True, slots=True)
class Cost:
    """Sums. The names are those of the ledger's fields.

    Billed: what the provider said it charged. Maybe: calls whose reply was lost, with the most they can have cost.
    Saved: calls answered out of the provider's response cache, tokens out of its prompt cache, jobs that joined others.
    """

    billed_calls: int = 0
    billed_nano_usd: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    maybe_calls: int = 0
    maybe_nano_usd: int = 0
    replayed_calls: int = 0
    replay_saved_nano_usd: int = 0
    cache_saved_nano_usd: int = 0
    joined_jobs: int = 0
    joined_saved_nano_usd: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(**{name: getattr(self, name) + getattr(other, name) for name in COST_FIELDS})

    def as_json(self) -> dict[str, Any]:
        """Money in USD, for people and programs outside."""
        return {
            name.replace("nano_usd", "usd"): usd(value) if "nano_usd" in name else value
            for name, value in ((name, getattr(self, name)) for name in COST_FIELDS)
        }


COST_FIELDS = tuple(field.name for field in fields(Cost))


@dataclass(frozen=True, slots=True)
class Labels:
    """Whose cost it is."""

    day: date
    kind: str
    tenant: str
    model: str


class Costs(Protocol):
    """Read what the ledger has summed up."""

    async def between(self, first: date, last: date) -> dict[Labels, Cost]:
        """The sums of these days, both included."""
        ...


def grouped(costs: dict[Labels, Cost], by: Callable[[Labels], str]) -> dict[str, Cost]:
    """Added up by one label, in its order."""
    groups: dict[str, Cost] = {}
    for labels, cost in costs.items():
        groups[by(labels)] = groups.get(by(labels), Cost()) + cost
    return dict(sorted(groups.items()))


def total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost())


def days(first: date, last: date) -> list[date]:
    return [first + timedelta(number) for number in range((last - first).days + 1)]


class RedisCosts:
    """`Costs` of one Redis. Raises redis-py's errors."""

    def __init__(self, client: "Redis") -> None:
        self._client = client

    async def between(self, first: date, last: date) -> dict[Labels, Cost]:
        pipeline = self._client.pipeline(transaction=False)
        wanted = days(first, last)
        for day in wanted:
            pipeline.hgetall(wire.cost_sums(day))
        costs: dict[Labels, Cost] = {}
        for day, sums in zip(wanted, await pipeline.execute(), strict=True):
            costs |= costs_of(day, sums)
        return costs


def costs_of(day: date, sums: dict[bytes, bytes]) -> dict[Labels, Cost]:
    """One day's hash, read. Fields that newer workers count are passed over."""
    found: dict[Labels, dict[str, int]] = {}
    for name, value in sums.items():
        what, kind, tenant, model = name.decode().split("|", 3)
        if what in COST_FIELDS:
            found.setdefault(Labels(day, kind, tenant, model), {})[what] = int(value)
    return {labels: Cost(**counted) for labels, counted in found.items()}
