"""A Celery pool that runs tasks on an asyncio loop: hundreds at once in one process.

Two threads, and everything has its place on one of them:

- the *consumer's* thread (main): Celery's hub, `on_apply`, grow and shrink, and every callback into Celery (accept,
  success, failure, time-out), because those acknowledge messages and the channel belongs to this thread. Run on the
  other thread, the consumer stalls once its prefetch window is full.
- the *loop's* thread: the tasks, each in a greenlet (`loop.py`), under Celery's own tracer. A task begins when there is
  a slot for it (`slots.py`); a message of many jobs begins at once, and its jobs take slots.

Calls cross in two deques, and a crossing is announced only when the other side has nothing announced yet.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context
from functools import partial
from itertools import count
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.concurrency.base import BasePool
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_process_init, worker_process_shutdown

from shoal_worker.loop import LoopThread, drive
from shoal_worker.process import process_if_open
from shoal_worker.reports import calls_shown
from shoal_worker.slots import Load, Place, Slots, working_on

Callback = Callable[[], Any]

#: How often a draining pool looks at the hub's timers, which keep messages in flight invisible to others.
DRAIN_TICK_SECONDS = 0.2
#: How long cancelled tasks get to unwind when the pool is terminated.
TERMINATE_SECONDS = 5.0


class Run:
    """One task on its way through the pool. Celery keeps a weak reference to it, to terminate it."""

    def __init__(self, number: int, call: Callable[[], Any], load: Load, options: dict[str, Any]) -> None:
        self.number = number
        self.call = call
        self.load = load
        self.place: Place | None = None
        self.options = options
        self.task: asyncio.Task[Any] | None = None
        self.timers: list[asyncio.TimerHandle] = []
        self.soft_limit_hit = False
        self.ended_by_celery = False
        self.pool: TaskPool | None = None

    def seen_as(self, error: BaseException) -> BaseException:
        """A cancellation that means the soft time limit is Celery's own error in the task's body."""
        if isinstance(error, asyncio.CancelledError) and self.soft_limit_hit and not self.ended_by_celery:
            self.soft_limit_hit = False
            if self.task is not None:
                self.task.uncancel()
            limit: BaseException = SoftTimeLimitExceeded(self.options.get("soft_timeout"))
            return limit
        return error

    def terminate(self, signal: Any = None) -> None:  # noqa: ARG002 Celery's signature
        """End the task at its next await; Celery has told the world already."""
        self.ended_by_celery = True
        if self.pool is not None:
            self.pool.cancel(self)


class TaskPool(BasePool):
    """See the module. Chosen by `worker_pool = "shoal_worker.pool:TaskPool"`."""

    limit: int
    body_can_be_buffer = True
    signal_safe = False
    task_join_will_block = False

    def on_start(self) -> None:
        self.thread = LoopThread()
        self.slots = Slots(self.limit)
        self._runs: dict[int, Run] = {}  # loop's thread adds and removes; len() is read anywhere
        self._numbers = count(1)
        self._backlog: deque[Run] = deque()
        self._starts_announced = False
        self._callbacks: deque[Callback] = deque()
        self._callbacks_announced = False
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        self._hub: Any = None
        self._is_shut = False
        self.thread.start()
        worker_process_init.send(sender=self)

    def register_with_event_loop(self, loop: Any) -> None:
        self._hub = loop
        loop.add_reader(self._bell, self._on_bell)

    # --- the consumer's thread --------------------------------------------------------------------------------

    def on_apply(self, target: Callable[..., Any], args: Any = (), kwargs: Any = None, **options: Any) -> Run:
        run = Run(next(self._numbers), lambda: target(*args, **(kwargs or {})), load_of(args), options)
        run.pool = self
        self.slots.announce(run.load)
        self._backlog.append(run)
        self._announce_starts()
        return run

    def grow(self, n: int = 1) -> None:
        self.limit = self.slots.limit = self.limit + n
        self._announce_starts()

    def shrink(self, n: int = 1) -> None:
        """Take slots away. Tasks in them finish; nothing new starts above the limit."""
        self.limit = self.slots.limit = max(1, self.limit - n)

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        run = self._runs.get(pid)
        if run is not None:
            run.terminate(signal)

    def cancel(self, run: Run) -> None:
        self.thread.loop.call_soon_threadsafe(self._cancel, run)

    def on_stop(self) -> None:
        """Warm: what runs finishes; what has not started goes back to the queue with the channel."""
        self._backlog.clear()
        self.thread.loop.call_soon_threadsafe(self.slots.close)
        with self._listening() as wait:
            while self._runs:
                wait(DRAIN_TICK_SECONDS)
        self._shut()

    def on_terminate(self) -> None:
        """Cold: what is done is delivered, what runs is cancelled and goes back to the queue."""
        self._backlog.clear()
        self.thread.loop.call_soon_threadsafe(self.slots.close)
        for run in list(self._runs.values()):
            run.terminate()
        ends_at = time.monotonic() + TERMINATE_SECONDS
        with self._listening() as wait:
            while self._runs and time.monotonic() < ends_at:
                wait(DRAIN_TICK_SECONDS)
        self._shut()

    def _shut(self) -> None:
        if self._is_shut:
            return
        self._is_shut = True
        worker_process_shutdown.send(sender=self, pid=os.getpid(), exitcode=0)
        self.thread.stop()
        self._deliver()
        self._bell.close()
        self._ringer.close()

    @contextlib.contextmanager
    def _listening(self) -> Iterator[Callable[[float], None]]:
        """Wait for the bell without the hub's loop, which has ended when the pool stops; its timers go on."""
        if self._hub is not None:
            self._hub.remove_reader(self._bell)
        self._bell.setblocking(True)

        def wait(seconds: float) -> None:
            self._bell.settimeout(seconds)
            with contextlib.suppress(TimeoutError):
                self._bell.recv(64)
            self._deliver()
            if self._hub is not None:
                self._hub.fire_timers()

        yield wait
        self._deliver()

    def _on_bell(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(64)
        self._deliver()

    def _deliver(self) -> None:
        self._callbacks_announced = False
        while self._callbacks:
            self._callbacks.popleft()()

    def _announce_starts(self) -> None:
        if not self._starts_announced:
            self._starts_announced = True
            self.thread.loop.call_soon_threadsafe(self._start_some)

    # --- the loop's thread --------------------------------------------------------------------------------------

    def _start_some(self) -> None:
        self._starts_announced = False
        while self._backlog:
            try:
                run = self._backlog.popleft()
            except IndexError:
                break
            if run.load.is_pack:
                self._start(run)
            else:
                self.slots.request(run.load, partial(self._start_or_drop, run))
        self.slots.serve()

    def _start_or_drop(self, run: Run, has_slot: bool) -> None:
        if has_slot:
            run.place = Place(self.slots)
            self._start(run)

    def _start(self, run: Run) -> None:
        self._runs[run.number] = run
        loop = self.thread.loop
        accept = run.options.get("accept_callback")
        if accept:
            accepted_at = time.monotonic()
            self._call_back(lambda: accept(run.number, accepted_at))
        soft, hard = run.options.get("soft_timeout"), run.options.get("timeout")
        if soft:
            run.timers.append(loop.call_later(soft, self._soft_limit, run, soft))
        if hard:
            run.timers.append(loop.call_later(hard, self._hard_limit, run, hard))
        # In a context of its own: this may run in that of the task which has just freed the slot.
        run.task = loop.create_task(self._body(run), context=Context())

    async def _body(self, run: Run) -> None:
        try:
            with working_on(run.load, run.place):
                value = await drive(lambda: self._guarded(run), run.seen_as)
        finally:
            for timer in run.timers:
                timer.cancel()
            del self._runs[run.number]
            self.slots.end(run.load, run.load.jobs)
            if run.place:
                run.place.free()
        if not run.ended_by_celery:
            self._call_back(value)

    def _guarded(self, run: Run) -> Callback:
        """Run the tracer; answer with the callback that tells Celery."""
        callback, error_callback = run.options["callback"], run.options["error_callback"]
        try:
            value = run.call()
        except BaseException:  # noqa: BLE001 a task that cannot even be traced must not end the loop
            failure = ExceptionInfo()
            return lambda: error_callback(failure)
        return lambda: callback(value)

    def _cancel(self, run: Run) -> None:
        if run.task is not None:
            run.task.cancel()

    def _soft_limit(self, run: Run, seconds: float) -> None:
        run.soft_limit_hit = True
        self._time_out(run, seconds, soft=True)
        self._cancel(run)

    def _hard_limit(self, run: Run, seconds: float) -> None:
        run.ended_by_celery = True
        self._time_out(run, seconds, soft=False)
        self._cancel(run)

    def _time_out(self, run: Run, seconds: float, *, soft: bool) -> None:
        tell = run.options.get("timeout_callback")
        if tell:
            self._call_back(lambda: tell(soft, seconds))

    def _call_back(self, callback: Callback) -> None:
        self._callbacks.append(callback)
        if not self._callbacks_announced:
            self._callbacks_announced = True
            with contextlib.suppress(BlockingIOError, OSError):
                self._ringer.send(b"!")

    def ring(self, hear: Callback) -> None:
        """Have something called on the consumer's thread when it turns next, which shows that it does."""
        self._call_back(hear)

    # --- anywhere -------------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """How many jobs run now."""
        return self.slots.running

    def _get_info(self) -> dict[str, Any]:
        waiting = {lane: len(self.slots.lanes[lane].waiting) for lane in self.slots.lanes}
        known = process_if_open()
        calls = calls_shown(known.report) if known and known.report else {}
        return {**super()._get_info(), "running": self.running, "waiting": waiting, **calls}


def load_of(args: Any) -> Load:
    """What Celery hands over of a task: its name, id, headers and body first."""
    match args:
        case [str(name), _, dict(headers), (str() | bytes()) as body, *_]:
            return Load.of(name, headers, len(body))
        case _:
            return Load.of("", {}, 0)
