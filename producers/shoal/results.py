"""Waiting for answers: one subscription for all the jobs that somebody waits for.

Workers announce each record on a channel of its own name (Celery's convention). A record is looked for once after
subscribing, so an answer that came first is not missed, and again every few seconds, so a lost announcement costs
seconds and not the job.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from shoal import records
from shoal.errors import JobFailed, ShoalError
from shoal.jobs import Outcome
from shoal.ports import JobBook

Answer = Outcome[Any] | JobFailed

#: Announcements are lost only with their connection; then this is the delay.
LOOK_AGAIN_SECONDS = 2.0
CANCEL_AGAIN_SECONDS = 0.1
ANSWER_SECONDS = 10.0


async def _tried(work: Coroutine[Any, Any, None]) -> bool:
    """Whether it was done in time. Whatever failed is tried again: who waits must not wait for ever."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await work
    except Exception:  # noqa: BLE001 as it says
        return False
    return True


class ResultWatcher:
    """Futures of answers, by job id."""

    def __init__(self, book: JobBook) -> None:
        self._book = book
        self._announcements = book.announcements()
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._fresh: list[str] = []
        self._settled: list[str] = []
        self._wake = asyncio.Event()
        self._subscribed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def answer(self, job_id: str) -> "asyncio.Future[Answer]":
        """The future of a job's answer; the same one for all who ask. Do not cancel it: `asyncio.shield` it."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._look()), asyncio.create_task(self._listen())]
        future = self._waiting.get(job_id)
        if future is None:
            future = self._waiting[job_id] = asyncio.get_running_loop().create_future()
            self._fresh.append(job_id)
            self._wake.set()
        return future

    async def aclose(self) -> None:
        # A cancellation that meets the end of a wait may get lost on the way (`wait_for` in Python 3.11): say it again.
        while running := [task for task in self._tasks if not task.done()]:
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=CANCEL_AGAIN_SECONDS)
        for future in self._waiting.values():
            future.cancel()
        await self._announcements.aclose()

    async def _look(self) -> None:
        """Subscribe to new ids and look whether they, or on a timer all ids, are answered."""
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), LOOK_AGAIN_SECONDS)
            except TimeoutError:
                self._fresh = list(self._waiting)
            self._wake.clear()
            ids, self._fresh = self._fresh, []
            # Read all the same: an answer must not wait for its announcement.
            followed, read = await _tried(self._follow(ids)), await _tried(self._read(ids))
            if not (followed and read):
                self._fresh += ids
                await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def _follow(self, ids: list[str]) -> None:
        settled, self._settled = self._settled, []
        if ids:
            await self._announcements.follow(ids)
            self._subscribed.set()
        if settled:
            await self._announcements.unfollow(settled)

    async def _read(self, ids: list[str]) -> None:
        for job_id, record in zip(ids, await self._book.records(ids), strict=True):
            if record is not None:
                self._settle(job_id, record)

    async def _listen(self) -> None:
        await self._subscribed.wait()
        while True:
            try:
                heard = await self._announcements.heard()
                for job_id, record in heard:
                    if record is not None:
                        self._settle(job_id, record)
                await self._read([job_id for job_id, record in heard if record is None])
            except Exception:  # noqa: BLE001 whatever it is, who waits must not wait for ever
                await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def _settle(self, job_id: str, record: Any) -> None:
        future = self._waiting.pop(job_id, None)
        if future is None:
            return
        self._settled.append(job_id)
        if future.done():
            return
        try:
            future.set_result(records.decoded(record))
        except (ValueError, LookupError, TypeError) as error:
            future.set_exception(
                ShoalError(f"the stored result of job {job_id} cannot be read: {type(error).__name__}")
            )
