"""The books of paid calls: a model whose every call is put down before it is sent, and the upkeep of doubtful ones.

A call ends in the books as settled (what the provider charged, nothing for a refusal) or as maybe billed: its reply was
lost, its deadline passed, or whoever asked went away while it was on its way. What a worker leaves open becomes maybe
billed when it is overdue. A doubt is cleared by the provider's record of the generation, where its id is known.
"""

import asyncio
import hashlib
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from shoal.jobs import Usage
from shoal_worker.errors import ReplyLost, WorkerError
from shoal_worker.ports import (
    Call,
    CallLedger,
    CallPlaces,
    ChatModel,
    ChatReply,
    ChatRequest,
    Generations,
    Prompt,
    Settlement,
)
from shoal_worker.replies import Prices

#: What stands around the texts of a prompt: roles, separators.
_FRAME_TOKENS = 64
#: How long a stopping process waits for its last entries; what is not written by then is found overdue by others.
_CLOSE_SECONDS = 2.0
_LOOKUPS_AT_ONCE = 20
#: No generation is looked for, and none replayed, after so long.
DOUBT_KEPT_SECONDS = 86_400.0

NOT_BILLED = Settlement(is_billed=False)

log = structlog.get_logger()


class CountedModel:
    """`ports.ChatModel` that keeps the books of another one.

    Only the opening is waited for. What comes after is written beside the job, in the same turn as its result; it is
    written even while the job is being cancelled. What is put down waits for a place among the calls of the process,
    and is sent the moment that it has one. `grace_seconds` is how much longer than its deadline a call may take until
    it is overdue.
    """

    def __init__(
        self,
        model: ChatModel,
        ledger: CallLedger,
        places: CallPlaces,
        prices: Prices,
        *,
        grace_seconds: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._model = model
        self._ledger = ledger
        self._places = places
        self._prices = prices
        self._grace_seconds = grace_seconds
        self._now = now
        self._entries: set[asyncio.Task[None]] = set()

    async def complete(self, request: ChatRequest) -> ChatReply:
        call = call_of(request, uuid.uuid4().hex, self._now(), self._grace_seconds, self._prices)
        generation_ids: list[str] = []
        try:
            await self._ledger.open(call)
            await self._places.enter_call()
        except asyncio.CancelledError:
            await self._write(self._ledger.settle(call, NOT_BILLED))
            raise
        try:
            try:
                reply = await self._model.complete(request.heard_by(generation_ids.append))
            finally:
                self._places.leave_call()
        except WorkerError as error:
            if isinstance(error, ReplyLost):
                await self._write(self._ledger.doubt(call, *generation_ids))
            else:
                await self._write(
                    self._ledger.settle(call, settlement_of(error.usage, "".join(generation_ids), self._prices))
                )
            raise
        except (Exception, asyncio.CancelledError):
            await self._write(self._ledger.doubt(call, *generation_ids))
            raise
        await self._write(self._entry(call, reply))
        return reply

    async def aclose(self) -> None:
        """Wait a little for entries that are still on their way."""
        if self._entries:
            await asyncio.wait(self._entries, timeout=_CLOSE_SECONDS)

    def _entry(self, call: Call, reply: ChatReply) -> Coroutine[Any, Any, None]:
        if reply.replay_of is not None:
            return self._ledger.replayed(call, reply.replay_of)
        return self._ledger.settle(call, settlement_of(reply.usage, reply.generation_id, self._prices))

    async def _write(self, entry: Coroutine[Any, Any, None]) -> None:
        """Send an entry off. It stands before whatever the caller sends next, in the same round trip."""
        task = asyncio.create_task(_logged(entry))
        self._entries.add(task)
        task.add_done_callback(self._entries.discard)
        await asyncio.sleep(0)


async def _logged(entry: Coroutine[Any, Any, None]) -> None:
    try:
        await entry
    except Exception as error:
        log.exception("call_not_settled", error=type(error).__name__)


def call_of(request: ChatRequest, call_id: str, now: float, grace_seconds: float, prices: Prices) -> Call:
    return Call(
        id=call_id,
        job_id=request.custom_id,
        kind=request.kind,
        tenant=request.tenant,
        model=request.model,
        question=question_of(request),
        # Whole milliseconds: a record that went through a script is the same to the last digit.
        started_at=round(now, 3),
        bound_usd=bound_usd(request.prompt, prices),
        overdue_seconds=request.deadline_seconds + grace_seconds,
    )


def question_of(request: ChatRequest) -> str:
    """Equal for requests of one job that have equal bytes. The job gives the schema its properties."""
    prompt = request.prompt
    asked = (
        f"{request.custom_id}\n{request.model}\n{request.round}\n{prompt.max_completion_tokens}\n{prompt.schema_name}\n"
        f"{prompt.system}\n{prompt.user}"
    )
    return hashlib.blake2b(asked.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def bound_usd(prompt: Prompt, prices: Prices) -> float:
    """No call costs more: a token has one byte at least, and no answer outgrows its cap."""
    sizes = (len(text.encode("utf-8", "surrogatepass")) for text in (prompt.system, prompt.user, str(prompt.schema)))
    return prices.cost_usd(sum(sizes) + _FRAME_TOKENS, 0, prompt.max_completion_tokens)


def settlement_of(usage: Usage, generation_id: str, prices: Prices) -> Settlement:
    """What a reply charged. One that counts neither tokens nor cost was not billed."""
    is_billed = usage.cost_usd > 0 or usage.input_tokens > 0 or usage.output_tokens > 0
    return Settlement(is_billed, usage, prices.cache_saved_usd(usage), generation_id)


async def clear_doubts(ledger: CallLedger, generations: Generations | None) -> None:
    """One round of upkeep, by any worker. `generations` None: the provider keeps no records to look into."""
    while overdue := await ledger.doubt_overdue():
        log.warning("calls_overdue", count=overdue)
    while await ledger.forget_doubts(DOUBT_KEPT_SECONDS):
        pass
    if generations is None:
        return
    claimed = await ledger.claim_doubts(_LOOKUPS_AT_ONCE)
    await asyncio.gather(*(_look_up(call, ledger, generations) for call in claimed))


async def _look_up(call: Call, ledger: CallLedger, generations: Generations) -> None:
    try:
        charged = await generations.charged(call.generation_id)
    except WorkerError as error:
        log.warning("generation_not_looked_up", cause=error.cause)
        return
    if charged is not None:
        await ledger.settle(call, charged)
