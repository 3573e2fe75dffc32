"""The real worker, which kills itself once at a step of a job's life: for tests.

`SHOAL_TEST_DIES_AT` names the step, `SHOAL_TEST_DIES_THERE` says how many times it passes there before
(0: the first time is the last), `SHOAL_TEST_DEATH_NOTE` is a file that gets the Unix time of the death and, once it
is there, lets every later process live.
"""

import asyncio
import os
import signal
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

from shoal.jobs import Outcome
from shoal_worker import process, transport
from shoal_worker.ports import ChatModel, ChatReply, ChatRequest, JobStore
from shoal_worker.progress import Pulse
from shoal_worker.settings import WorkerSettings
from shoal_worker.slots import Slots

STEPS = ("before send", "after send", "before store", "after store", "before ack")


class Trap:
    """Where this process dies."""

    def __init__(self) -> None:
        self._step = os.environ["SHOAL_TEST_DIES_AT"]
        self._passes = int(os.environ["SHOAL_TEST_DIES_THERE"])
        self._note = Path(os.environ["SHOAL_TEST_DEATH_NOTE"])
        self._numbers = count()

    def springs(self, step: str) -> bool:
        """Whether this pass is the one."""
        return step == self._step and next(self._numbers) == self._passes and not self._note.exists()

    def die(self) -> None:
        self._note.write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)


class DyingModel:
    """Dies before a request is sent, or when the provider has it."""

    def __init__(self, model: ChatModel, trap: Trap, base_url: str) -> None:
        self._model = model
        self._trap = trap
        self._requests_url = base_url.replace("/api/v1", "/sandbox/requests")

    async def complete(self, request: ChatRequest) -> ChatReply:
        if self._trap.springs("before send"):
            self._trap.die()
        asking = asyncio.ensure_future(self._model.complete(request))
        if self._trap.springs("after send"):
            while not await asyncio.to_thread(self._has_arrived, request.custom_id):
                await asyncio.sleep(0.01)
            self._trap.die()
        return await asking

    def _has_arrived(self, custom_id: str) -> bool:
        with urlopen(f"{self._requests_url}?custom_id={quote(custom_id)}") as reply:
            return custom_id in reply.read().decode()


class DyingStore:
    """Dies with an answer in its hands, or when it is stored."""

    def __init__(self, store: JobStore, trap: Trap) -> None:
        self._store = store
        self._trap = trap

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def answer(self, outcome: Outcome[Any], holder: str) -> bool:
        if self._trap.springs("before store"):
            self._trap.die()
        stored = await self._store.answer(outcome, holder)
        if self._trap.springs("after store"):
            self._trap.die()
        return stored


def set_trap() -> None:
    """Lay it around the ports of the process that the worker is going to open, and around its acknowledgements."""
    trap = Trap()

    class DyingProcess(process.Process):
        def __init__(self, settings: WorkerSettings, slots: Slots, pulse: Pulse) -> None:
            super().__init__(settings, slots, pulse)
            self.model._model = DyingModel(self.provider, trap, settings.openrouter_base_url)
            self.runner.store = DyingStore(self.store, trap)

    class DyingQoS(transport.QoS):
        def ack(self, delivery_tag: str) -> None:
            if trap.springs("before ack"):
                trap.die()
            super().ack(delivery_tag)

    process.Process = DyingProcess  # type: ignore[misc]  # what open_process makes
    transport.Channel.QoS = DyingQoS  # what a channel makes


def main() -> None:
    set_trap()
    from shoal_worker.main import app

    app.worker_main(["worker", "--without-gossip", "--without-mingle", *sys.argv[1:]])


if __name__ == "__main__":
    main()
