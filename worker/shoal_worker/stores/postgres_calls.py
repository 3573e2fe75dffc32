"""The ledger of calls in Postgres: a row a call, summed up by views, and by days once the rows have gone."""

from collections.abc import Awaitable, Callable
from typing import Any

from shoal.costs import nano_usd, usd
from shoal.postgres import Database, Grouped, Row, statement, storable
from shoal_worker.ports import LOOKUP_BASE_SECONDS, LOOKUPS, Call, Settlement

#: Rows of calls are kept this long, their sums longer.
ROWS_KEPT_DAYS = 30
_AT_ONCE = 200
_NAMES = ("open", "settle", "replayed", "doubt", "overdue", "claim", "forget", "sum_up")
_SQL = {name: statement("shoal_worker.stores", f"call_{name}") for name in _NAMES}
_OPEN = ("id", "job_id", "kind", "tenant", "model", "question", "started_at", "bound_nano_usd", "overdue_seconds")
_SETTLE = ("id", "state", "generation_id", "nano_usd", "input_tokens", "cached_tokens", "output_tokens")

Insist = Callable[..., Awaitable[Row | None]]


class PostgresCalls:
    """`ports.CallLedger`. `insist` calls a verb until the database is there."""

    def __init__(self, database: Database, insist: Insist) -> None:
        self._database = database
        self._insist = insist
        self._open: Grouped = database.grouped(_SQL["open"], _OPEN)
        self._settle: Grouped = database.grouped(_SQL["settle"], (*_SETTLE, "cache_saved_nano_usd"))
        self._replayed: Grouped = database.grouped(_SQL["replayed"], ("id", "job_id", "source_id", "question"))
        pause = {"look_up_seconds": float(LOOKUP_BASE_SECONDS)}
        self._doubt: Grouped = database.grouped(_SQL["doubt"], ("id", "generation_id"), **pause)

    async def open(self, call: Call) -> None:
        labels = (storable(call.kind), storable(call.tenant), storable(call.model))
        times = (call.started_at, nano_usd(call.bound_usd), call.overdue_seconds)
        await self._insist(self._open, call.id, call.job_id, *labels, call.question, *times)

    async def settle(self, call: Call, settlement: Settlement) -> None:
        generation_id = storable(settlement.generation_id)
        if not settlement.is_billed:
            await self._insist(self._settle, call.id, "free", generation_id, 0, 0, 0, 0, 0)
            return
        usage = settlement.usage
        charged = (nano_usd(usage.cost_usd), usage.input_tokens, usage.cached_tokens, usage.output_tokens)
        saved = nano_usd(settlement.cache_saved_usd)
        await self._insist(self._settle, call.id, "billed", generation_id, *charged, saved)

    async def replayed(self, call: Call, source_id: str) -> None:
        await self._insist(self._replayed, call.id, call.job_id, storable(source_id), call.question)

    async def doubt(self, call: Call, generation_id: str = "") -> None:
        await self._insist(self._doubt, call.id, storable(generation_id))

    async def doubt_overdue(self) -> int:
        return len(await self._rows("overdue", most=_AT_ONCE))

    async def claim_doubts(self, most: int) -> list[Call]:
        rows = await self._rows("claim", most=most, lookups=LOOKUPS, look_up_seconds=float(LOOKUP_BASE_SECONDS))
        return [_call_of(row) for row in rows]

    async def forget_doubts(self, older_than_seconds: float) -> int:
        return len(await self._rows("forget", most=_AT_ONCE, older_than_seconds=older_than_seconds))

    async def sum_up(self) -> int:
        """Make sums of rows that are old, some hundreds at once; how many."""
        [(count,)] = await self._rows("sum_up", most=_AT_ONCE, keep_days=ROWS_KEPT_DAYS)
        return int(count)

    async def _rows(self, name: str, **values: Any) -> list[Row]:
        return await self._database.rows(_SQL[name], values)


def _call_of(row: Row) -> Call:
    values = dict(zip((*_OPEN, "generation_id"), row, strict=True))
    return Call(bound_usd=usd(values.pop("bound_nano_usd")), **values)
