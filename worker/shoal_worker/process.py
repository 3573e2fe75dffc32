"""What one worker process holds for its jobs: connections, the runner, and the upkeep beside them.

Made on the loop's thread when the pool starts, closed there when it stops.
"""

import asyncio
import hashlib
import os
import socket
import time
import uuid
from random import Random

import structlog
from redis.exceptions import RedisError

from shoal.errors import QueueUnavailable
from shoal.publisher import Publisher, open_publisher
from shoal.redis_url import open_client
from shoal.signing import Signer
from shoal_worker.openrouter import Gateway, OpenRouter
from shoal_worker.replies import Prices
from shoal_worker.runner import Limits, Runner, runner_for
from shoal_worker.settings import WorkerSettings
from shoal_worker.stores.redis import RedisStore

UNDECODABLE_AT_ONCE = 100
DUE_AT_ONCE = 200
UPKEEP_SECONDS = 1.0
RETENTION_SECONDS = 60.0

log = structlog.get_logger()


class Process:
    """The runner of this process and its upkeep: leases renewed, unreadable items buried, the outbox published."""

    def __init__(self, settings: WorkerSettings) -> None:
        client = open_client(
            settings.results.get_secret_value(),
            socket_timeout=10,
            socket_connect_timeout=5,
            socket_keepalive=True,
            health_check_interval=25,
            max_connections=64,
        )
        signer = Signer.of(settings.signing_keys)
        self.store = RedisStore(
            client,
            lease_seconds=settings.lease_seconds,
            keep_seconds=settings.result_ttl_seconds,
            rng=Random(),
            signer=signer,
        )
        self.model = OpenRouter(gateway_of(settings))
        limits = Limits(settings.model, settings.model_deadline_seconds, settings.job_time_limit_seconds)
        name = f"{os.getpid()}@{socket.gethostname()}/{uuid.uuid4().hex[:8]}"
        self.runner: Runner = runner_for(name, self.store, self.model, limits, signer)
        self._renew_every_seconds = settings.lease_seconds / 3
        self._dead_letter_ttl_seconds = settings.dead_letter_ttl_seconds
        duties = [self._renew_leases(), self._bury_undecodable(), self._forget_dead()]
        self._publisher: Publisher | None = None
        if settings.has_outbox:
            self._publisher = open_publisher(settings.queue.get_secret_value())
            duties.append(self._publish_due(self._publisher))
        self._upkeep = [asyncio.create_task(duty) for duty in duties]

    async def bury(self, job_id: str, reason: str, raw: str) -> None:
        """A dead letter for a message that Celery cannot make a task of."""
        await self.runner.bury_unreadable(job_id, reason, raw)
        log.warning("unreadable_message", dead_letter=job_id, reason=reason)

    async def aclose(self) -> None:
        for task in self._upkeep:
            task.cancel()
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        if self._publisher:
            await self._publisher.aclose()
        await self.model.aclose()
        await self.store.aclose()

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self._renew_every_seconds)
            renewals = [self.store.renew(job_id, holder) for job_id, holder in self.runner.leases]
            kept = await asyncio.gather(*renewals, return_exceptions=True)
            if failed := sum(1 for answer in kept if isinstance(answer, BaseException)):
                log.warning("leases_not_renewed", count=failed)

    async def _forget_dead(self) -> None:
        while True:
            try:
                while await self.store.forget_dead(time.time() - self._dead_letter_ttl_seconds):
                    pass
            except (RedisError, OSError) as error:
                log.warning("upkeep_waits_for_redis", error=type(error).__name__)
            await asyncio.sleep(RETENTION_SECONDS)

    async def _publish_due(self, publisher: Publisher) -> None:
        while True:
            try:
                while due := await self.store.due(DUE_AT_ONCE):
                    await publisher.publish(due)
                    await self.store.forget_due(due)
            except (QueueUnavailable, RedisError, OSError) as error:
                log.warning("outbox_waits", error=type(error).__name__)
            await asyncio.sleep(UPKEEP_SECONDS)

    async def _bury_undecodable(self) -> None:
        while True:
            await asyncio.sleep(UPKEEP_SECONDS)
            try:
                for item in await self.store.undecodable(UNDECODABLE_AT_ONCE):
                    job_id = "undecodable-" + hashlib.sha256(item).hexdigest()[:32]
                    await self.bury(job_id, "the message is not JSON", item.decode(errors="replace"))
                    await self.store.forget_undecodable(item)
            except (RedisError, OSError) as error:
                log.warning("upkeep_waits_for_redis", error=type(error).__name__)


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


_current: list[Process] = []


def process() -> Process:
    """The one of this process. Called on the loop's thread only."""
    return _current[0]


async def open_process(settings: WorkerSettings) -> None:
    _current[:] = [Process(settings)]


async def close_process() -> None:
    while _current:
        await _current.pop().aclose()
