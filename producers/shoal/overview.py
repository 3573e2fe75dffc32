"""All that a look from outside shows: the fleet, by its queue, and what is kept beside the results."""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

from shoal.book import job_book
from shoal.errors import QueueUnavailable, SettingsError, ShoalError
from shoal.fleet import FleetView, open_fleet
from shoal.publisher import is_amqp
from shoal.settings import ProducerSettings

T = TypeVar("T")

#: How long a server may take to answer.
QUEUE_SECONDS, RESULTS_SECONDS = 5.0, 3.0
#: What is kept beside the results is asked for no more often: a database counts it row by row.
KEPT_SECONDS = 5.0
Kept = tuple[int, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Overview:
    """`dead`: letters by cause. None: the results did not answer, and neither are their parked jobs counted."""

    fleet: FleetView
    dead: Mapping[str, int] | None


def seen_queue(settings: ProducerSettings) -> str:
    """The queue's URL. Raises `SettingsError` where it is no Redis."""
    url = settings.queue.get_secret_value()
    if is_amqp(url):
        raise SettingsError("workers tell of themselves in Redis, and SHOAL_QUEUE_URL is a RabbitMQ: ask it instead")
    return url


class Lookout:
    """A look takes two round trips, whatever waits: nothing is walked through."""

    def __init__(self, settings: ProducerSettings) -> None:
        """Raises `SettingsError` where the queue is no Redis."""
        queue_url = settings.queue.get_secret_value()
        if is_amqp(queue_url):
            raise SettingsError(
                "workers tell of themselves in Redis, and SHOAL_QUEUE_URL is a RabbitMQ: ask it instead"
            )
        self._fleet = open_fleet(queue_url)
        self._book = job_book(settings)
        self._has_outbox = settings.has_outbox
        self._kept: Kept | None = None
        self._kept_until = 0.0

    async def look(self) -> Overview:
        """Raises `QueueUnavailable` when the queue does not answer."""
        view, kept = await asyncio.gather(_in_time(self._fleet.look(), QUEUE_SECONDS), self._kept_of_late())
        if kept is None:
            return Overview(view, None)
        parked, dead = kept
        return Overview(replace(view, parked=view.parked + parked), dead)

    async def _kept_of_late(self) -> Kept | None:
        """Jobs parked elsewhere than in the queue, and dead letters."""
        if self._kept is None or time.monotonic() >= self._kept_until:
            try:
                parked = await _in_time(self._book.parked(), RESULTS_SECONDS) if self._has_outbox else 0
                self._kept = parked, await _in_time(self._book.dead.causes(), RESULTS_SECONDS)
            except ShoalError:
                self._kept = None
            self._kept_until = time.monotonic() + KEPT_SECONDS
        return self._kept

    async def aclose(self) -> None:
        await self._fleet.aclose()
        await self._book.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def _in_time(asked: Coroutine[Any, Any, T], seconds: float) -> T:
    """A server that hangs is away too."""
    try:
        async with asyncio.timeout(seconds):
            return await asked
    except TimeoutError:
        raise QueueUnavailable(f"no answer within {seconds:g} s") from None
