"""Enqueue jobs and get their answers: `AsyncShoal` for async backends, `Shoal` for all others.

There is one implementation, the async one. `Shoal` runs it on an event loop of its own in a background thread,
which is started at the first call and again after a fork.
"""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import Any, Generic, Self, TypeVar, Unpack

from shoal import records
from shoal.book import job_book
from shoal.control import revoke
from shoal.costs import Costs
from shoal.deadletters import Changes, revived
from shoal.errors import (
    IdempotencyConflict,
    InvalidJob,
    JobCancelled,
    JobFailed,
    ResultTimeout,
    UnknownJob,
)
from shoal.jobs import Args, DeadLetter, JobMessage, Outcome, R, Status
from shoal.messages import PACK_JOBS, Options, kept_seconds, message_of, packs
from shoal.ports import Claimed, DeadLetters
from shoal.results import ResultWatcher
from shoal.settings import ProducerSettings
from shoal.tracing import enqueueing

T = TypeVar("T")
#: How many jobs `map` keeps in flight. It bounds the memory on this side, and what a stop leaves to finish.
MAP_WINDOW = 5_000
_PACKS_AT_ONCE = 20


class AsyncShoal:
    """The producer's side of Shoal, for code that runs on an event loop. Use as `async with AsyncShoal() as shoal`."""

    def __init__(self, settings: ProducerSettings | None = None) -> None:
        self.settings = settings or ProducerSettings.load()
        self._book = job_book(self.settings)
        self._watcher = ResultWatcher(self._book)
        self.dead: DeadLetters = self._book.dead
        self.costs: Costs = self._book.costs

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._watcher.aclose()
        await self._book.aclose()

    async def enqueue(self, args: Args[R], **options: Unpack[Options]) -> "AsyncJob[R]":
        """Queue a job, or join the one that does the same work already.

        Raises `IdempotencyConflict`, `InvalidJob`, `QueueUnavailable`. Calling it again after any of these is safe.
        """
        message = message_of(args, options, self.settings, time.time())
        became = await self._enqueue(message)
        if became == Claimed.CONFLICT:
            raise IdempotencyConflict(
                "this idempotency key was used before with other arguments: use a new key, or the same arguments"
            )
        return AsyncJob(message.id, self, joined=became == Claimed.JOINED)

    async def enqueue_many(self, jobs: Iterable[Args[R]], **options: Unpack[Options]) -> "list[AsyncJob[R]]":
        """Queue many jobs in the bulk lane, some dozens to a message; in the interactive one, if so told, one by one.

        In all else each is as if it had been enqueued alone. Given back in the order of `jobs`. Raises as `enqueue`;
        what was queued by then stays.
        """
        if "idempotency_key" in options:
            raise InvalidJob("idempotency_key names one job: leave it out, each job's work is its key")
        chosen: Options = {"lane": "bulk", **options}
        messages = (message_of(args, chosen, self.settings, time.time()) for args in jobs)
        groups, queued = packs(messages), list[AsyncJob[R]]()
        while some := take(groups, _PACKS_AT_ONCE):
            became = await asyncio.gather(*map(self._enqueue_pack, some))
            for pack, words in zip(some, became, strict=True):
                pairs = zip(pack, words, strict=True)
                queued += (AsyncJob(message.id, self, joined=word == Claimed.JOINED) for message, word in pairs)
        return queued

    async def _enqueue(self, message: JobMessage) -> Claimed:
        with enqueueing(message.kind):
            return await self._book.enqueue(message, kept_seconds(message, self.settings))

    async def _enqueue_pack(self, messages: list[JobMessage]) -> list[Claimed]:
        if messages[0].lane == "interactive":
            return await asyncio.gather(*map(self._enqueue, messages))
        kept = max(kept_seconds(message, self.settings) for message in messages)
        with enqueueing(messages[0].kind):
            return await self._book.enqueue_pack(messages, kept)

    async def replay(self, letter: DeadLetter, changes: Changes) -> "AsyncJob[Any]":
        """Run a dead job again, under its own id. Raises `InvalidJob` for what was never a job, `QueueUnavailable`."""
        lifetime_seconds = self.settings.job_lifetime_seconds
        message = revived(letter, changes, lifetime_seconds=lifetime_seconds, now=time.time())
        became = await self._enqueue(message)
        if became == Claimed.CONFLICT:
            raise InvalidJob(f"{letter.id} cannot be replayed: its key is used for other work now; drop it")
        return AsyncJob(message.id, self, joined=became == Claimed.JOINED)

    def job(self, job_id: str) -> "AsyncJob[Any]":
        """The handle of a job known by its id."""
        return AsyncJob(job_id, self, joined=True)

    async def outcome(self, job_id: str, timeout: float | None = None) -> Outcome[Any]:  # noqa: ASYNC109 the public verb
        """Wait for an answer, `timeout` seconds at most. Raises `ResultTimeout`, `JobFailed`."""
        try:
            async with asyncio.timeout(timeout):
                answer = await asyncio.shield(self._watcher.answer(job_id))
        except TimeoutError:
            raise ResultTimeout(f"job {job_id} has no answer after {timeout} s; it goes on") from None
        if isinstance(answer, JobFailed):
            raise answer
        return answer

    async def status(self, job_id: str) -> Status:
        """Where the job stands. Raises `UnknownJob`, `QueueUnavailable`."""
        status = await self._book.status(job_id)
        if status is None:
            raise UnknownJob(f"no job {job_id}, or its record has expired")
        return status

    async def cancel(self, job_id: str) -> bool:
        """Cancel a job that has no answer yet; False if it was over already. Raises `UnknownJob`."""
        record = records.failed(JobCancelled("cancelled by a producer", job_id, "cancelled"), time.time())
        before = await self._book.cancel(job_id, record, self.settings.result_ttl_seconds)
        if before is None:
            raise UnknownJob(f"no job {job_id}, or its record has expired")
        if before == Status.RUNNING:
            await asyncio.to_thread(revoke, self.settings.queue, job_id)
        return before not in {Status.COMPLETED, Status.DISCARDED, Status.CANCELLED}

    async def map(
        self,
        jobs: Iterable[Args[R]],
        *,
        window: int = MAP_WINDOW,
        on_failure: Callable[[JobFailed], None] | None = None,
        **options: Unpack[Options],
    ) -> AsyncIterator[Outcome[R]]:
        """Answers of many jobs, as they come. Takes from `jobs` only as answers go out: `window` in flight at most.

        A job that fails goes to `on_failure`, or without one is raised here.
        """
        stream = Stream[None, R](self, window, options)
        source = ((None, args) for args in jobs)
        while True:
            while wanted := stream.wanted:
                await stream.put(take(source, wanted))
            if not stream.in_flight:
                return
            for _, answer in await stream.answers():
                if not isinstance(answer, JobFailed):
                    yield answer
                else:
                    _tell(answer, on_failure)


def _tell(error: JobFailed, on_failure: Callable[[JobFailed], None] | None) -> None:
    if on_failure is None:
        raise error
    on_failure(error)


class Stream(Generic[T, R]):
    """Many jobs, each with a tag of the caller's (its line number, say), a bounded number of them in flight."""

    def __init__(self, shoal: AsyncShoal, window: int, options: Options) -> None:
        if window < 1:
            raise InvalidJob("window must be at least 1")
        self._shoal = shoal
        self._options = options
        self._window = window
        self._ended = False
        self.in_flight: dict[asyncio.Future[Outcome[R] | JobFailed], list[T]] = {}

    @property
    def wanted(self) -> int:
        """How many more jobs to put now; 0 when the window is full or the source has ended."""
        room = self._window - len(self.in_flight)
        # A few answers are no reason to send a small message, unless nothing else is going on.
        enough = not self.in_flight or room >= min(PACK_JOBS, self._window // 4)
        return min(room, _PACKS_AT_ONCE * PACK_JOBS) if enough and not self._ended else 0

    async def put(self, items: list[tuple[T, Args[R]]]) -> None:
        """Enqueue jobs; none at all says that the source has ended. Equal jobs share one answer."""
        self._ended = not items
        jobs = await self._shoal.enqueue_many((args for _, args in items), **self._options)
        for (tag, _), job in zip(items, jobs, strict=True):
            future: Any = self._shoal._watcher.answer(job.id)  # noqa: SLF001 the same module
            self.in_flight.setdefault(future, []).append(tag)

    async def answers(self) -> list[tuple[T, Outcome[R] | JobFailed]]:
        """Wait for at least one answer and take all that are there."""
        done, _ = await asyncio.wait(self.in_flight, return_when=asyncio.FIRST_COMPLETED)
        return [(tag, future.result()) for future in done for tag in self.in_flight.pop(future)]


def take(source: Iterator[T], most: int) -> list[T]:
    """The next items, `most` at the most; empty at the end."""
    return list(islice(source, most))


class AsyncJob(Generic[R]):
    """One job. `joined` tells that the same work was there already."""

    def __init__(self, job_id: str, shoal: AsyncShoal, *, joined: bool) -> None:
        self.id = job_id
        self.joined = joined
        self._shoal = shoal

    async def outcome(self, timeout: float | None = None) -> Outcome[R]:  # noqa: ASYNC109 the public verb
        """The answer with what it took. Raises `ResultTimeout`, `JobFailed`."""
        return await self._shoal.outcome(self.id, timeout)

    async def result(self, timeout: float | None = None) -> R:  # noqa: ASYNC109 the public verb
        """The answer alone. Raises `ResultTimeout`, `JobFailed`."""
        return (await self.outcome(timeout)).result

    async def status(self) -> Status:
        return await self._shoal.status(self.id)

    async def cancel(self) -> bool:
        return await self._shoal.cancel(self.id)


class Shoal:
    """The producer's side of Shoal. Safe to share among threads; close it, or use it as `with Shoal() as shoal`."""

    def __init__(self, settings: ProducerSettings | None = None) -> None:
        self.settings = settings or ProducerSettings.load()
        self._lock = threading.Lock()
        self._pid: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, verb: Callable[[AsyncShoal], Coroutine[Any, Any, T]]) -> T:
        return self._begun(verb).result()

    def _begun(self, verb: Callable[[AsyncShoal], Coroutine[Any, Any, T]]) -> "Future[T]":
        with self._lock:
            if self._pid != os.getpid():
                self._start()
        return asyncio.run_coroutine_threadsafe(verb(self._shoal), self._loop)

    def _start(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="shoal", daemon=True)
        self._thread.start()
        self._shoal = asyncio.run_coroutine_threadsafe(self._connected(), self._loop).result()

    async def _connected(self) -> AsyncShoal:
        return AsyncShoal(self.settings)

    def close(self) -> None:
        """Close connections and end the background thread. Jobs go on."""
        with self._lock:
            if self._pid != os.getpid():
                return
            self._pid = None
        asyncio.run_coroutine_threadsafe(self._shoal.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def enqueue(self, args: Args[R], **options: Unpack[Options]) -> "Job[R]":
        """Queue a job, or join the one that does the same work already.

        Raises `IdempotencyConflict`, `InvalidJob`, `QueueUnavailable`. Calling it again after any of these is safe.
        """
        job = self._run(lambda shoal: shoal.enqueue(args, **options))
        return Job(job.id, self, joined=job.joined)

    def enqueue_many(self, jobs: Iterable[Args[R]], **options: Unpack[Options]) -> "list[Job[R]]":
        """Queue many jobs in the bulk lane, some dozens to a message; in the interactive one, if so told, one by one.

        In all else each is as if it had been enqueued alone. Given back in the order of `jobs`. Raises as `enqueue`;
        what was queued by then stays.
        """
        queued: list[Job[R]] = []
        on_their_way: deque[Future[list[AsyncJob[R]]]] = deque()
        source = iter(jobs)
        while True:
            # The next ones are taken while those before are on their way.
            if chunk := take(source, _PACKS_AT_ONCE * PACK_JOBS):
                on_their_way.append(self._begun(lambda shoal, chunk=chunk: shoal.enqueue_many(chunk, **options)))  # type: ignore[misc]  # bound at once
            if not on_their_way:
                return queued
            if not chunk or len(on_their_way) > 1:
                queued += (Job(job.id, self, joined=job.joined) for job in on_their_way.popleft().result())

    def job(self, job_id: str) -> "Job[Any]":
        """The handle of a job known by its id."""
        return Job(job_id, self, joined=True)

    def outcome(self, job_id: str, timeout: float | None = None) -> Outcome[Any]:
        """Wait for an answer, `timeout` seconds at most. Raises `ResultTimeout`, `JobFailed`."""
        return self._run(lambda shoal: shoal.outcome(job_id, timeout))

    def status(self, job_id: str) -> Status:
        """Where the job stands. Raises `UnknownJob`, `QueueUnavailable`."""
        return self._run(lambda shoal: shoal.status(job_id))

    def cancel(self, job_id: str) -> bool:
        """Cancel a job that has no answer yet; False if it was over already. Raises `UnknownJob`."""
        return self._run(lambda shoal: shoal.cancel(job_id))

    def map(
        self,
        jobs: Iterable[Args[R]],
        *,
        window: int = MAP_WINDOW,
        on_failure: Callable[[JobFailed], None] | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Outcome[R]]:
        """Answers of many jobs, as they come. Takes from `jobs` only as answers go out: `window` in flight at most.

        A job that fails goes to `on_failure`, or without one is raised here.
        """
        for _, answer in self.stream(((None, args) for args in jobs), window=window, **options):
            if not isinstance(answer, JobFailed):
                yield answer
            else:
                _tell(answer, on_failure)

    def stream(
        self, jobs: Iterable[tuple[T, Args[R]]], *, window: int = MAP_WINDOW, **options: Unpack[Options]
    ) -> Iterator[tuple[T, Outcome[R] | JobFailed]]:
        """As `map`, for jobs with a tag each, which comes back beside the answer or the failure.

        `jobs` is read in the caller's own thread.
        """
        source = iter(jobs)
        stream = self._run(lambda shoal: _opened(Stream[T, R](shoal, window, options)))
        while True:
            while wanted := stream.wanted:
                chunk = take(source, wanted)
                self._run(lambda _, chunk=chunk: stream.put(chunk))  # type: ignore[misc]  # bound at once
            if not stream.in_flight:
                return
            yield from self._run(lambda _: stream.answers())


async def _opened(stream: Stream[T, R]) -> Stream[T, R]:
    return stream


class Job(Generic[R]):
    """One job. `joined` tells that the same work was there already."""

    def __init__(self, job_id: str, shoal: Shoal, *, joined: bool) -> None:
        self.id = job_id
        self.joined = joined
        self._shoal = shoal

    def outcome(self, timeout: float | None = None) -> Outcome[R]:
        """The answer with what it took. Raises `ResultTimeout`, `JobFailed`."""
        return self._shoal.outcome(self.id, timeout)

    def result(self, timeout: float | None = None) -> R:
        """The answer alone. Raises `ResultTimeout`, `JobFailed`."""
        return self.outcome(timeout).result

    def status(self) -> Status:
        return self._shoal.status(self.id)

    def cancel(self) -> bool:
        return self._shoal.cancel(self.id)
