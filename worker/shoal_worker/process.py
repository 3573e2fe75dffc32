"""What one worker process holds for its jobs: connections, the runner, and the upkeep beside them.

Made on the loop's thread when the pool starts, closed there when it stops.
"""

import asyncio
import gc
import hashlib
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

import structlog
from redis.asyncio import Redis

from shoal import wire
from shoal.book import job_book
from shoal.errors import QueueUnavailable
from shoal.fleet import Fleet, FleetView
from shoal.postgres import Database
from shoal.publisher import is_amqp
from shoal.redis_url import open_client
from shoal.reports import WorkerReport
from shoal.signing import Signer
from shoal_worker import sentry
from shoal_worker.board import LocalBoard, RedisBoard
from shoal_worker.calls import CountedModel, clear_doubts
from shoal_worker.guests import Guests
from shoal_worker.last_minute import LastMinute
from shoal_worker.limits import LimitedModel, Limits, gateway_name
from shoal_worker.openrouter import Gateway, OpenRouter
from shoal_worker.packs import Packs, job_ids
from shoal_worker.ports import JobStore
from shoal_worker.progress import ProgressMeter, Pulse
from shoal_worker.quota import Rates
from shoal_worker.replies import Prices
from shoal_worker.reports import report_of
from shoal_worker.runner import Limits as JobLimits
from shoal_worker.runner import Runner, runner_for
from shoal_worker.settings import WorkerSettings
from shoal_worker.slots import Slots
from shoal_worker.stores.postgres import PostgresStore
from shoal_worker.stores.redis import RedisStore
from shoal_worker.tracing import traced_model, traced_runner

UNDECODABLE_AT_ONCE = 100
UPKEEP_SECONDS = 1.0
OUTBOX_SECONDS = 0.2
PAUSE_SECONDS = 0.05
RETENTION_SECONDS = 60.0
#: Some 20 MB of objects that may be garbage. Python's own 700 took 45 % of a busy worker's time, in pauses of 250 ms.
COLLECT_AFTER_OBJECTS = 100_000
#: How much of the estimate of a slot's throughput the newest second is.
CAPACITY_SHARE = 0.3

log = structlog.get_logger()


class Process:
    """The runner of this process and its upkeep: leases renewed, unreadable items buried, the outbox published."""

    def __init__(self, settings: WorkerSettings, slots: Slots, pulse: Pulse) -> None:
        signer = Signer.of(settings.signing_keys)
        queue_url = settings.queue.get_secret_value()
        self._queue = None if is_amqp(queue_url) else redis_client(queue_url)
        self.store = store_of(settings, signer)
        gateway = gateway_of(settings)
        self.provider = OpenRouter(gateway)
        grace_seconds = settings.lease_seconds
        provider = traced_model(self.provider, gateway.base_url)
        self.model = CountedModel(provider, self.store.calls, slots, gateway.prices, grace_seconds=grace_seconds)
        self._generations = self.provider if gateway.openrouter_fields else None
        job_limits = JobLimits(settings.model, settings.model_deadline_seconds, settings.job_time_limit_seconds)
        name = f"{os.getpid()}@{socket.gethostname()}/{uuid.uuid4().hex[:8]}"
        board = RedisBoard(self._queue, limits_name(settings)) if self._queue else LocalBoard()
        self.limits = Limits(board, name, settings.model, Rates(settings.rpm, settings.tpm))
        self._minute = LastMinute()
        model = LimitedModel(self.model, self.limits, self._minute)
        self._book = job_book(settings)
        guests = Guests(self._book, self.store, settings)
        runner = runner_for(name, self.store, model, job_limits, guests.adopt, signer)
        runner.on_death = partial(sentry.discarded, model=settings.model)
        runner.minute = self._minute
        self.runner: Runner = traced_runner(runner)
        self._gateway = limits_name(settings)
        slots.bound = self.limits.room
        self.packs = Packs(self.runner, slots)
        self._slots = slots
        self._fleet = Fleet(self._queue) if self._queue else None
        self._throughput = Throughput(time.monotonic(), slots)
        self._progress = ProgressMeter(time.monotonic(), slots, pulse)
        #: How this worker and all of them stood a second ago; read on the consumer's thread too.
        self.report: WorkerReport | None = None
        self.fleet_view: FleetView | None = None
        self._renew_every_seconds = settings.lease_seconds / 3
        self._dead_letter_ttl_seconds = settings.dead_letter_ttl_seconds
        duties = [self._renew_leases, self._forget_old, self._clear_doubts, self._keep_limits]
        duties += [self._bury_undecodable] if self._queue else []
        duties += [self._publish_due] if settings.has_outbox else []
        duties += [self._tell_and_look] if self._fleet else []
        self._upkeep = [asyncio.create_task(self._repeat(duty)) for duty in duties]

    async def bury(self, job_id: str, reason: str, raw: str) -> None:
        """A dead letter for a message that Celery cannot make a task of."""
        await self.runner.bury_unreadable(job_id, reason, raw)
        log.warning("unreadable_message", dead_letter=job_id, reason=reason)

    async def revoked(self, task_id: str, name: str, jobs: Any) -> None:
        """Celery's remote control ended a message: whoever waits for its jobs is told."""
        ids = job_ids(jobs) if name == wire.PACK_TASK else [task_id]
        await asyncio.gather(*map(self.runner.cancelled, ids))

    async def aclose(self) -> None:
        for task in self._upkeep:
            task.cancel()
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        await self.model.aclose()
        await self.provider.aclose()
        await self.store.aclose()
        await self._book.aclose()
        if self._queue:
            await self._queue.aclose()

    async def _repeat(self, duty: Callable[[], Awaitable[float]]) -> None:
        """Do it again and again; it says how many seconds to wait. Upkeep goes on, whatever the store says today."""
        while True:
            try:
                pause_seconds = await duty()
            except Exception as error:  # noqa: BLE001 the next time may do
                log.warning("upkeep_failed", duty=duty.__name__, error=type(error).__name__)
                pause_seconds = UPKEEP_SECONDS
            await asyncio.sleep(pause_seconds)

    async def _renew_leases(self) -> float:
        renewals = [self.store.renew(job_id, holder) for job_id, holder in self.runner.leases]
        kept = await asyncio.gather(*renewals, return_exceptions=True)
        if failed := sum(1 for answer in kept if isinstance(answer, BaseException)):
            log.warning("leases_not_renewed", count=failed)
        return self._renew_every_seconds

    async def _forget_old(self) -> float:
        forgotten = await self.store.forget_old(time.time() - self._dead_letter_ttl_seconds)
        return PAUSE_SECONDS if forgotten else RETENTION_SECONDS

    async def _publish_due(self) -> float:
        return 0.0 if await self._book.publish_due() else OUTBOX_SECONDS

    async def _keep_limits(self) -> float:
        try:
            return await self.limits.keep()
        finally:
            self._slots.serve()

    @property
    def calls_at_once(self) -> int | None:
        """What the limits allow this process; None for any number."""
        share = self.limits.share
        return share.at_once if share else None

    async def _tell_and_look(self) -> float:
        assert self._fleet is not None
        done_per_second, capacity_per_second = self._throughput.measure(time.monotonic())
        share = self.limits.share
        if share and share.rate is not None:
            capacity_per_second = min(capacity_per_second, share.rate)
        speed = (done_per_second, capacity_per_second)
        known, minute = self.limits.snapshot(), self._minute.told(time.monotonic())
        report = report_of(self.runner.name, self._slots, speed, self._gateway, known, minute)
        progress = self._progress.measure(time.monotonic(), self.fleet_view)
        self.report = report.model_copy(update={"progress": progress})
        try:
            self.fleet_view = await self._fleet.look(self.report)
        except QueueUnavailable:
            self.fleet_view = None
            raise
        return UPKEEP_SECONDS

    async def _clear_doubts(self) -> float:
        await clear_doubts(self.store.calls, self._generations)
        return UPKEEP_SECONDS

    async def _bury_undecodable(self) -> float:
        assert self._queue is not None
        items: Any = await self._queue.lrange(wire.UNDECODABLE, 0, UNDECODABLE_AT_ONCE - 1)
        for item in items:
            job_id = "undecodable-" + hashlib.sha256(item).hexdigest()[:32]
            await self.bury(job_id, "the message is not JSON", item.decode(errors="replace"))
            await self._queue.lrem(wire.UNDECODABLE, 1, item)
        return UPKEEP_SECONDS


def store_of(settings: WorkerSettings, signer: Signer | None) -> JobStore:
    """Where the settings keep results, leases and dead letters."""
    times: Any = {"lease_seconds": settings.lease_seconds, "keep_seconds": settings.result_ttl_seconds}
    if settings.in_postgres:
        return PostgresStore(Database(settings.results), **times, rng=Random())
    client = redis_client(settings.results.get_secret_value())
    return RedisStore(client, **times, rng=Random(), signer=signer)


def redis_client(url: str) -> Redis:
    return open_client(
        url,
        socket_timeout=10,
        socket_connect_timeout=5,
        socket_keepalive=True,
        health_check_interval=25,
        max_connections=64,
    )


def limits_name(settings: WorkerSettings) -> str:
    """Processes with the same gateway and key share their limits."""
    key = settings.openrouter_api_key
    return gateway_name(settings.openrouter_base_url, key.get_secret_value() if key else "")


def gateway_of(settings: WorkerSettings) -> Gateway:
    return Gateway(
        base_url=settings.openrouter_base_url,
        api_key=settings.openrouter_api_key,
        app_title=settings.app_title,
        app_url=settings.app_url,
        prices=Prices(settings.price_input_usd, settings.price_cached_usd, settings.price_output_usd),
        openrouter_fields=settings.openrouter_fields,
        response_cache=settings.response_cache,
        cap_field="max_tokens" if settings.cap_field == "max_tokens" else "max_completion_tokens",
        max_connections=max(1_000, settings.concurrency * 2),
    )


class Throughput:
    """Jobs a second, and how many there would be with all slots in use; until something has ended, one a slot."""

    def __init__(self, now: float, slots: Slots) -> None:
        self._slots = slots
        self._at = now
        self._ended = self._count()
        self._per_slot = 1.0

    def _count(self) -> int:
        return sum(lane.ended for lane in self._slots.lanes.values())

    def measure(self, now: float) -> tuple[float, float]:
        """Since the last time."""
        ended, seconds = self._count(), max(1e-6, now - self._at)
        per_second = (ended - self._ended) / seconds
        self._at, self._ended = now, ended
        if per_second and self._slots.running:
            self._per_slot += (per_second / self._slots.running - self._per_slot) * CAPACITY_SHARE
        return per_second, self._per_slot * self._slots.limit


_current: list[Process] = []


def process() -> Process:
    """The one of this process. Called on the loop's thread only."""
    return _current[0]


def process_if_open() -> Process | None:
    """For other threads: the same, while there is one."""
    return next(iter(_current), None)


async def open_process(settings: WorkerSettings, slots: Slots, pulse: Pulse) -> None:
    spare_the_collector()
    _current[:] = [Process(settings, slots, pulse)]


def spare_the_collector() -> None:
    """Have Python look for reference cycles seldom: jobs make none, and each look goes through all that are in flight.

    What errors and psycopg leave in cycles is found when there is enough of it; soon also what was in use at one look
    and no more at the next, or a worker would grow for an hour.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS, 2, 2)


async def close_process() -> None:
    while _current:
        await _current.pop().aclose()
