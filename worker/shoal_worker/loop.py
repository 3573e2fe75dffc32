"""The event loop on which a worker process does its work, on a thread of its own.

Celery's code is synchronous: its tracer calls the task's body, which calls the result backend. Each task runs in a
greenlet on the loop's thread, and hands coroutines to the loop with `await_`: the greenlet stops there, others go on,
and it continues with the value.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import uvloop
from greenlet import getcurrent, greenlet

T = TypeVar("T")

log = logging.getLogger(__name__)


def await_(awaitable: Awaitable[T]) -> T:
    """Inside a task's greenlet: wait for a coroutine without holding the loop."""
    value: T = getcurrent().parent.switch(awaitable)
    return value


async def drive(body: Callable[[], T], seen_as: Callable[[BaseException], BaseException]) -> T:
    """Run `body` in a greenlet, awaiting for it whatever it hands over.

    An error of the awaited is raised in the greenlet as `seen_as` tells.
    """
    runner = greenlet(body)
    # One context for the greenlet and for what it awaits: Sentry and logs keep their scope in it.
    runner.gr_context = getcurrent().gr_context
    value = runner.switch()
    while not runner.dead:
        try:
            answer = await value
        except BaseException as error:  # noqa: BLE001 it belongs to the greenlet
            seen = seen_as(error)
            # With its traceback: what failed is in what was awaited, and not where it is raised again.
            value = runner.throw(type(seen), seen, seen.__traceback__)
        else:
            value = runner.switch(answer)
    result: T = value
    return result


def _log_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody awaits. The loop's own line would hold the exception's message."""
    log.error("loop_error", exc_info=context.get("exception"))


class LoopThread:
    """A uvloop on a daemon thread."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self.loop.set_exception_handler(_log_error)
        self._thread = threading.Thread(target=self._run, name="shoal-loop", daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the loop; what still runs on it is dropped."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def wait_for(self, work: Coroutine[Any, Any, T], timeout_seconds: float | None = None) -> T:
        """Run a coroutine on the loop and block until it is done: from a task's greenlet or from another thread."""
        if threading.current_thread() is self._thread:
            return await_(work)
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_seconds)
