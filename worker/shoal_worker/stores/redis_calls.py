"""The ledger of calls in Redis or Valkey: open calls, maybe-billed ones, and sums by UTC day.

The sums of a day are one hash, with a field `what|kind|tenant|model` for each; money is in whole nano-dollars, so that
what is taken back is exactly what was added.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any

from pydantic_core import from_json, to_json

from shoal import wire
from shoal.costs import day_of, nano_usd, usd
from shoal_worker.ports import LOOKUP_BASE_SECONDS, LOOKUPS, Call, Settlement

SCRIPTS = {
    name: wire.script("shoal_worker.stores", "calls") + wire.script("shoal_worker.stores", name)
    for name in (
        "call_open",
        "call_settle",
        "call_replayed",
        "call_doubt",
        "call_overdue",
        "call_claim",
        "call_forget",
    )
}
_AT_ONCE = 200
_BOOKS = (wire.OPEN_CALLS, wire.OPEN_CALLS_DUE, wire.MAYBE_CALLS, wire.MAYBE_CALLS_TIMES, wire.MAYBE_CALLS_LOOKUPS)

RunScript = Callable[[str, Sequence[str], Sequence[str | bytes | int | float]], Awaitable[Any]]


class RedisCalls:
    """`ports.CallLedger`. Its scripts go out with the store's."""

    def __init__(self, run: RunScript, keep_seconds: int) -> None:
        self._run = run
        self._keep_seconds = keep_seconds

    async def open(self, call: Call) -> None:
        args: list[str | bytes | float] = [
            call.id,
            _packed(call),
            call.overdue_seconds,
            call.question,
            _labels(call),
            self._keep_seconds,
        ]
        await self._run("call_open", _keys(call), args)

    async def settle(self, call: Call, settlement: Settlement) -> None:
        usage = settlement.usage
        charged = (nano_usd(usage.cost_usd), usage.input_tokens, usage.cached_tokens, usage.output_tokens)
        args: list[str | int] = [call.id, _labels(call), settlement.generation_id, int(settlement.is_billed)]
        await self._run("call_settle", _keys(call), [*args, *charged, nano_usd(settlement.cache_saved_usd)])

    async def replayed(self, call: Call, source_id: str) -> None:
        await self._run("call_replayed", _keys(call), [call.id, _labels(call), source_id, call.question])

    async def doubt(self, call: Call, generation_id: str = "") -> None:
        await self._run("call_doubt", _keys(call), [call.id, generation_id, LOOKUP_BASE_SECONDS])

    async def doubt_overdue(self) -> int:
        return int(await self._run("call_overdue", _BOOKS, [_AT_ONCE]))

    async def claim_doubts(self, most: int) -> list[Call]:
        claimed = await self._run("call_claim", _BOOKS, [most, LOOKUP_BASE_SECONDS, LOOKUPS])
        return [_unpacked(raw) for raw in claimed]

    async def forget_doubts(self, older_than_seconds: float) -> int:
        return int(await self._run("call_forget", _BOOKS, [older_than_seconds, _AT_ONCE]))


def _keys(call: Call) -> list[str]:
    return [*_BOOKS, wire.job_calls(call.job_id), _sums(call)]


def _sums(call: Call) -> str:
    return _sums_of_day(int(call.started_at // 86_400))


@lru_cache(maxsize=8)
def _sums_of_day(number: int) -> str:
    return wire.cost_sums(day_of(number * 86_400))


def _labels(call: Call) -> str:
    return f"{call.kind}|{call.tenant.replace('|', '_')}|{call.model}"


def _packed(call: Call) -> bytes:
    """A call as its record: with the names of its sums, for the scripts that find it by themselves."""
    return to_json(
        {
            "id": call.id,
            "job_id": call.job_id,
            "labels": _labels(call),
            "sums": _sums(call),
            "question": call.question,
            "started_at": call.started_at,
            "bound_nano_usd": nano_usd(call.bound_usd),
            "overdue_seconds": call.overdue_seconds,
            "generation_id": call.generation_id,
        }
    )


def _unpacked(raw: bytes) -> Call:
    record = from_json(raw)
    kind, tenant, model = record["labels"].split("|", 2)
    return Call(
        id=record["id"],
        job_id=record["job_id"],
        kind=kind,
        tenant=tenant,
        model=model,
        question=record["question"],
        started_at=record["started_at"],
        bound_usd=usd(record["bound_nano_usd"]),
        overdue_seconds=record["overdue_seconds"],
        generation_id=record["generation_id"],
    )
