"""Results, leases and dead letters in Redis or Valkey.

Every verb is one script, so it happens whole or not at all, and safe to repeat, so a lost reply is asked again. A
server that is away is waited for: an answer that was paid for is not thrown away because the store restarts.
"""

import asyncio
import time
from collections.abc import Sequence
from random import Random
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shoal import records, wire
from shoal.costs import day_of
from shoal.errors import JobCancelled, JobFailed
from shoal.jobs import DeadLetter, JobMessage, Outcome, Status
from shoal.redis_url import is_away
from shoal.scripts import Scripts
from shoal.signing import Signer
from shoal_worker.errors import LeaseHeld
from shoal_worker.ports import Begun, Granted, Held, Stored
from shoal_worker.stores.redis_calls import SCRIPTS, RedisCalls

#: Longer than any job lives that is not told otherwise.
ALIAS_SECONDS = 30 * 86_400
FORGOTTEN_AT_ONCE = 500
#: What a server that restarts, fails over or loads its data says. Everything else is a mistake of ours.
AWAY = (RedisConnectionError, RedisTimeoutError, ReadOnlyError, OSError)


class RedisStore:
    """`ports.JobStore` on one Redis."""

    def __init__(
        self, client: "Redis", *, lease_seconds: float, keep_seconds: int, rng: Random, signer: Signer | None = None
    ) -> None:
        self._client = client
        texts = {name: wire.script("shoal_worker.stores", name) for name in ("begin", "renew", "park", "alias")}
        for name in ("finish", "forget_letters"):
            texts[name] = wire.script("shoal", "dead", "aliases") + wire.script("shoal_worker.stores", name)
        self._scripts = Scripts(client, texts | SCRIPTS)
        self._lease_ms = int(lease_seconds * 1000)
        self._keep_seconds = keep_seconds
        self._rng = rng
        self._signer = signer
        #: The ledger of calls: its entries share round trips with the store's verbs.
        self.calls = RedisCalls(self._call, keep_seconds)

    async def begin(self, job_id: str, holder: str) -> Begun:
        word, value = await self._call("begin", self._keys(job_id), [holder, self._lease_ms, self._keep_seconds])
        match word:
            case b"done":
                return Stored(records.decoded(value))
            case b"held":
                return Held(int(value) / 1000)
            case _:
                return Granted(int(value))

    async def renew(self, job_id: str, holder: str) -> bool:
        """False when the lease has gone to somebody else. Not insisted on: the next round tries again."""
        kept = await self._scripts.call("renew", [wire.job_record(job_id)], [holder, self._lease_ms])
        return bool(kept)

    async def answer(self, outcome: Outcome[Any], holder: str) -> bool:
        """Store an answer; False when the job had ended before."""
        return await self._finish(outcome.job_id, records.answered(outcome), Status.COMPLETED, holder)

    async def bury(self, letter: DeadLetter, error: JobFailed, holder: str = "") -> bool:
        """Store a dead letter and the failure as the job's result; False when the job had ended before."""
        record = records.failed(error, letter.died_at)
        return await self._finish(letter.id, record, Status.DISCARDED, holder, letter)

    async def cancel(self, error: JobCancelled, now: float) -> bool:
        """Store that a job was cancelled; False when it had ended before."""
        return await self._finish(error.job_id, records.failed(error, now), Status.CANCELLED, "")

    async def alias(self, job_id: str, alias: str) -> None:
        """However the job ends, that is stored under this id as well."""
        await self._call("alias", [wire.aliases(job_id)], [alias, ALIAS_SECONDS])

    async def repeat(self, ending: Outcome[Any] | JobFailed, now: float) -> bool:
        """Store an ending under the id that it names; False where there is one."""
        record, status = records.ended(ending, now)
        return await self._finish(ending.job_id, record, status, "")

    async def park(self, job_id: str, message: JobMessage, after_seconds: float, holder: str) -> None:
        """Queue the message again in some seconds."""
        keys = [*self._keys(job_id), wire.OUTBOX]
        cause = message.history[-1].cause if message.history else LeaseHeld.cause
        await self._call("park", keys, [holder, wire.message(message, self._signer), after_seconds, cause])

    async def forget_old(self, died_before: float) -> int:
        """Drop dead letters that are too old, some hundreds at a time; how many. Results go by themselves."""
        keys = [wire.DEAD, wire.DEAD_TIMES]
        return int(await self._scripts.call("forget_letters", keys, [died_before, FORGOTTEN_AT_ONCE]))

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _finish(
        self, job_id: str, record: bytes, status: Status, holder: str, letter: DeadLetter | None = None
    ) -> bool:
        buried = (letter.model_dump_json(), letter.died_at) if letter else ("", 0)
        stored = await self._call(
            "finish",
            [
                *(*self._keys(job_id), wire.DEAD, wire.DEAD_TIMES),
                *(wire.job_calls(job_id), _sums_of_today(), wire.aliases(job_id)),
            ],
            [holder, record, self._keep_seconds, wire.result_record(job_id), status, job_id, *buried],
        )
        return bool(stored)

    def _keys(self, job_id: str) -> list[str]:
        return [wire.job_record(job_id), wire.result_record(job_id)]

    async def _call(self, name: str, keys: Sequence[str], args: Sequence[str | bytes | int | float]) -> Any:
        tries = 0
        while True:
            try:
                return await self._scripts.call(name, keys, args)
            except AWAY:
                tries += 1
                await asyncio.sleep(self._rng.uniform(0.1, 0.2 * 2 ** min(tries, 4)))
            except RedisError as error:
                if not (is_away(error) or str(error).startswith(("OOM", "MISCONF"))):
                    raise
                tries += 1
                await asyncio.sleep(self._rng.uniform(0.5, 2.0))


def _sums_of_today() -> str:
    return wire.cost_sums(day_of(time.time()))
