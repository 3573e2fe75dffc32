"""A worker with bugs of the kind that carry a customer's words into logs: for tests.

A summary of a text with `[[bug]]` in it fails with that text in the exception, in a task that nobody looks at, and in a
warning.
"""

import asyncio
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

from shoal.jobs import Result
from shoal_worker import process
from shoal_worker.kinds import ANSWERS
from shoal_worker.ports import Ask
from shoal_worker.progress import Pulse
from shoal_worker.retry import Policy
from shoal_worker.settings import WorkerSettings
from shoal_worker.slots import Slots


async def _fail(text: str) -> None:
    raise ValueError(text)


def leaking(answer: Callable[[Any, Ask], Awaitable[Result]]) -> Callable[[Any, Ask], Awaitable[Result]]:
    async def answered(args: Any, ask: Ask) -> Result:
        if "[[bug]]" not in args.text:
            return await answer(args, ask)
        asyncio.get_running_loop().create_task(_fail(args.text))
        await asyncio.sleep(0)
        warnings.warn(args.text, UserWarning, stacklevel=1)
        raise KeyError(args.text)

    return answered


class LeakyProcess(process.Process):
    def __init__(self, settings: WorkerSettings, slots: Slots, pulse: Pulse) -> None:
        super().__init__(settings, slots, pulse)
        self.runner.answers = {**ANSWERS, "summarize": leaking(ANSWERS["summarize"])}
        self.runner.policy = Policy(max_attempts=4, base_seconds=0.05)


def main() -> None:
    process.Process = LeakyProcess  # type: ignore[misc]  # what open_process makes
    from shoal_worker.main import app

    app.worker_main(["worker", "--without-gossip", "--without-mingle", *sys.argv[1:]])


if __name__ == "__main__":
    main()
