"""Leases on a real Redis: who has lost one neither ends the job nor takes the lease from who has it."""

import asyncio
from random import Random

from redis.asyncio import Redis

from shoal import JobFailed, wire
from shoal.jobs import DeadLetter
from shoal_worker.ports import Granted, Held
from shoal_worker.stores.redis import RedisStore

LETTER = DeadLetter(id="j", kind="classify", cause="misfit", reason="no", attempts=1, died_at=1.0)
FAILURE = JobFailed("no", "j", "misfit", 1)


async def lost_lease(url: str) -> None:
    async with Redis.from_url(url) as client:
        frozen = RedisStore(client, lease_seconds=0.01, keep_seconds=60, rng=Random(1))
        living = RedisStore(client, lease_seconds=60, keep_seconds=60, rng=Random(2))
        assert isinstance(await frozen.begin("j", "frozen"), Granted)
        while isinstance(await living.begin("j", "living"), Held):
            await asyncio.sleep(0.005)
        assert not await frozen.renew("j", "frozen")
        assert not await frozen.bury(LETTER, FAILURE, "frozen")
        assert await client.hget(wire.job_record("j"), "holder") == b"living"
        assert not await client.exists(wire.result_record("j"), wire.DEAD)
        assert await living.bury(LETTER, FAILURE, "living")
        assert await client.hexists(wire.DEAD, "j")
        assert await living.forget_dead(died_before=1.0) == 0
        assert await living.forget_dead(died_before=2.0) == 1
        assert not await client.exists(wire.DEAD, wire.DEAD_TIMES)


def test_who_has_lost_the_lease_cannot_give_the_job_up(valkey: str) -> None:
    asyncio.run(lost_lease(valkey))
