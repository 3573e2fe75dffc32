"""The life of a job, once its message has reached a worker.

1. Read the message. What cannot be read becomes a dead letter with the reason.
2. Begin: a stored result is replayed and costs nothing; a job that another worker holds comes back later;
   else the lease is ours.
3. Refuse what must not run: expired, or delivered again and again without ever ending.
4. Ask the model, through the kind's own prompts, under a total time limit that never goes beyond the job's life.
5. Store the answer, once: the first writer wins. The same script releases the lease.
6. Anything else is a decision (`retry.py`): retry and snooze park the message for later, discard buries it.

Only then is the message acknowledged. A process that dies on any line of this loses nothing: the message comes back,
and steps 2 and 5 keep the answer single. No Celery, no HTTP and no database here.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import structlog
from pydantic import ValidationError
from structlog.contextvars import bind_contextvars

from shoal.errors import JobCancelled, JobExpired, JobFailed
from shoal.jobs import KINDS, Attempt, DeadLetter, JobMessage, Outcome, Result, Usage
from shoal.signing import Signer
from shoal_worker.asking import Asker
from shoal_worker.errors import (
    DeadlineExceeded,
    Expired,
    Forged,
    InvalidMessage,
    LeaseHeld,
    ReplyLost,
    TransientError,
    WorkerError,
    WorkerKilled,
)
from shoal_worker.kinds import ANSWERS
from shoal_worker.last_minute import LastMinute
from shoal_worker.ports import Ask, ChatModel, Granted, Held, JobStore, Stored
from shoal_worker.retry import Decision, Discard, Policy, Progress, Retry, Snooze, decide

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Done:
    """The job has ended with an answer or, `replayed`, as it had ended before."""

    ending: Outcome[Any] | JobFailed
    replayed: bool = False


Ending = Done | Decision
#: Kind, task id, fields and time of a message from a producer that is not ours; the id of the job that it became.
TakeIn = Callable[[str, str, Any, float], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Adopted:
    """The message is now the job of this id, and that one's ending will be its own."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_deliveries`: how often a job may begin without ever coming to an orderly end."""

    model: str
    model_deadline_seconds: float
    job_time_limit_seconds: float
    max_deliveries: int = 20


class Crashed(TransientError):
    """The worker's own code failed: a bug. The job is tried again, for the next version may be better."""

    cause = "worker_bug"


@dataclass(slots=True)
class Runner:
    """Runs jobs. Time and chance are passed in; `name` is the process's.

    `leases` holds (job id, holder) of every attempt that runs: somebody must keep them renewed. `on_death` hears of
    each job that is given up.
    """

    name: str

    store: JobStore
    model: ChatModel
    limits: Limits
    policy: Policy
    rng: Random
    now: Callable[[], float]
    leases: set[tuple[str, str]]
    answers: Mapping[str, Callable[[Any, Ask], Awaitable[Result]]]
    take_in: TakeIn
    signer: Signer | None = None
    on_death: Callable[[DeadLetter], None] = lambda _: None
    minute: LastMinute = field(default_factory=LastMinute)

    async def run(
        self, task_id: str, raw: Any, signature: object = None, asked: Callable[[], None] = lambda: None
    ) -> Ending:
        """Take one delivery of a job to its end or to its next try. `asked` is called when the model is through."""
        if self.signer and not self.signer.verifies(raw, signature):
            return await self._bury_forged(raw)
        try:
            message, args = read(raw)
        except InvalidMessage as error:
            return await self._bury_unread(task_id, raw, error)
        bind_contextvars(job_id=message.id, kind=message.kind, tenant=message.tenant, attempt=message.attempt)
        holder = f"{self.name}/{self.rng.getrandbits(48):012x}"
        begun = await self.store.begin(message.id, holder)
        match begun:
            case Stored(ending):
                return Done(ending, replayed=True)
            case Held(seconds):
                held = LeaseHeld("another attempt at it runs", seconds)
                return await self._give_up(message, held, message.spent, holder)
            case Granted(deliveries):
                self.leases.add((message.id, holder))
                try:
                    return await self._attempt(message, args, deliveries, holder, asked)
                finally:
                    self.leases.discard((message.id, holder))

    async def adopt(self, task_id: str, kind: str, raw: Any, signature: object = None) -> Adopted | Discard:
        """Queue the job of a message from a producer that is not ours."""
        if self.signer and not self.signer.verifies(raw, signature):
            return await self._bury_forged(raw)
        try:
            with naming_the_field():
                return Adopted(await self.take_in(kind, task_id, raw, self.now()))
        except InvalidMessage as error:
            return await self._bury_unread(task_id, raw, error)

    async def _attempt(
        self, message: JobMessage, args: Any, deliveries: int, holder: str, asked: Callable[[], None]
    ) -> Ending:
        started = self.now()
        name = message.model or self.limits.model
        deadline_seconds, factor = self.limits.model_deadline_seconds, message.cap_factor
        question = f"{message.enqueued_at:.3f}/{message.round}"
        asker = Asker(
            *(self.model, name, message.id, deadline_seconds, factor, question, message.kind, message.tenant),
            usage=message.spent,
        )
        failure: WorkerError
        try:
            refuse(message, deliveries, started, self.limits)
            result = await self._ask(message, args, asker, started, asked)
        except WorkerError as error:
            failure = error
        except Exception as error:
            log.exception("worker_bug", job_id=message.id, kind=message.kind)
            failure = Crashed(type(error).__name__)
        else:
            outcome = outcome_of(message, result, asker, started, self.now())
            await self.store.answer(outcome, holder)
            return Done(outcome)
        tried = Attempt(
            number=message.attempt,
            began_at=started,
            ended_at=self.now(),
            cause=failure.cause,
            reason=failure.reason,
            worker=self.name,
        )
        return await self._give_up(message.remembering(tried), failure, asker.usage, holder)

    async def _ask(
        self, message: JobMessage, args: Any, asker: Asker, started: float, asked: Callable[[], None]
    ) -> Result:
        """The kind's own questions, within the time that there is: then the call is closed. Raises `WorkerError`."""
        limit_seconds, overrun = time_limit(message, started, self.limits)
        try:
            async with asyncio.timeout(limit_seconds) as limit:
                return await self.answers[message.kind](args, asker)
        except TimeoutError:
            if limit.expired():
                raise overrun from None
            raise
        finally:
            asked()

    async def _give_up(self, message: JobMessage, error: WorkerError, spent: Usage, holder: str) -> Decision:
        self.minute.failed(error.cause)
        progress = Progress(message.attempt, message.snoozes, self.now(), message.expires_at)
        decision = decide(error, progress, self.policy, self.rng)
        match decision:
            case Retry(after_seconds):
                # A lost reply is asked for with the same bytes; anything else came, and must not come again.
                rounds = message.round + (not isinstance(error, ReplyLost))
                again = {"attempt": message.attempt + 1, "snoozes": 0, "round": rounds, "spent": spent}
                await self.store.park(message.id, message.model_copy(update=again), after_seconds, holder)
            case Snooze(after_seconds):
                again = {"snoozes": message.snoozes + 1, "spent": spent}
                await self.store.park(message.id, message.model_copy(update=again), after_seconds, holder)
            case Discard():
                await self._bury_job(message.model_copy(update={"spent": spent}), decision, holder)
        return decision

    async def _bury_job(self, job: JobMessage, why: Discard, holder: str) -> None:
        letter = DeadLetter(
            id=job.id,
            kind=job.kind,
            cause=why.cause,
            reason=why.reason,
            attempts=job.attempt,
            died_at=self.now(),
            history=job.history,
            message=job.model_dump(mode="json", exclude={"history"}),
        )
        failure = JobExpired if why.cause == Expired.cause else JobFailed
        await self._bury(letter, failure(why.reason, job.id, why.cause, job.attempt), holder)

    async def _bury_unread(self, task_id: str, raw: Any, error: InvalidMessage) -> Discard:
        fields = raw if isinstance(raw, dict) else {"job": raw}
        letter = DeadLetter(
            id=task_id,
            kind=str(fields.get("kind", "unknown")),
            cause=error.cause,
            reason=error.reason,
            attempts=0,
            died_at=self.now(),
            message=fields,
        )
        await self._bury(letter, JobFailed(error.reason, task_id, error.cause))
        return Discard(error.cause, error.reason)

    async def _bury_forged(self, raw: Any) -> Discard:
        """Under an id of its own: whoever forges a message must not end the job that it names."""
        text = json.dumps(raw)
        decision = Discard(Forged.cause, "no known key has signed the message")
        await self._bury_raw(forged_id(text), decision, text)
        log.warning("forged_message", bytes=len(text))
        return decision

    async def bury_unreadable(self, job_id: str, reason: str, raw: str) -> None:
        """A dead letter for what is not even a task. Where signing is on it may name no job."""
        chosen = forged_id(raw) if self.signer else job_id
        await self._bury_raw(chosen, Discard(InvalidMessage.cause, reason), raw)

    async def _bury_raw(self, job_id: str, why: Discard, raw: str) -> None:
        letter = DeadLetter(
            id=job_id, kind="unknown", cause=why.cause, reason=why.reason, attempts=0, died_at=self.now(), raw=raw
        )
        await self._bury(letter, JobFailed(why.reason, job_id, why.cause))

    async def _bury(self, letter: DeadLetter, failure: JobFailed, holder: str = "") -> None:
        """Every job that is given up comes through here, once."""
        if await self.store.bury(letter, failure, holder):
            self.on_death(letter)

    async def cancelled(self, job_id: str) -> None:
        """Celery's remote control ended the job: whoever waits for it is told."""
        await self.store.cancel(JobCancelled("revoked", job_id, "cancelled"), self.now())


def forged_id(text: str) -> str:
    """An id that no job has."""
    return f"forged-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}"


def read(raw: Any) -> tuple[JobMessage, Any]:
    """A message and its typed arguments. Raises `InvalidMessage` that names the field, never its value."""
    with naming_the_field():
        message = JobMessage.model_validate(raw, extra="ignore")
        if message.kind not in KINDS:
            raise InvalidMessage(f"kind: unknown {message.kind[:40]!r}; known: {', '.join(KINDS)}")
        return message, message.arguments()


@contextmanager
def naming_the_field() -> Iterator[None]:
    """Errors of pydantic's as `InvalidMessage`."""
    try:
        yield
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False, include_context=False)
        said = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'job'}: {fault['msg']}" for fault in faults[:5])
        raise InvalidMessage(said) from None


def refuse(message: JobMessage, deliveries: int, now: float, limits: Limits) -> None:
    """Raise what keeps a job from running at all."""
    if now >= message.expires_at:
        raise Expired("its time ran out before a worker came to it")
    if deliveries > limits.max_deliveries:
        raise WorkerKilled(f"begun {deliveries} times and never ended")


def time_limit(message: JobMessage, started: float, limits: Limits) -> tuple[float, WorkerError]:
    """How long an attempt may take, and what it means when that has passed."""
    life_seconds = message.expires_at - started
    if life_seconds <= limits.job_time_limit_seconds:
        return life_seconds, Expired("its time ran out in the middle of an attempt")
    limit_seconds = limits.job_time_limit_seconds
    return limit_seconds, DeadlineExceeded(f"no answer within {limit_seconds} s")


def outcome_of(message: JobMessage, result: Result, asker: Asker, started: float, ended: float) -> Outcome[Any]:
    last = asker.replies[-1] if asker.replies else None
    return Outcome[Any](
        job_id=message.id,
        kind=message.kind,
        result=result,
        usage=asker.usage,
        model=last.model if last else asker.model_name,
        provider=last.provider if last else None,
        generation_ids=tuple(reply.generation_id for reply in asker.replies),
        attempts=message.attempt,
        queue_seconds=max(0.0, started - message.enqueued_at),
        run_seconds=max(0.0, ended - started),
        finished_at=ended,
        sandbox=any(reply.sandbox for reply in asker.replies),
    )


def runner_for(
    name: str, store: JobStore, model: ChatModel, limits: Limits, take_in: TakeIn, signer: Signer | None = None
) -> Runner:
    """A runner with the standard policy and kinds, the system's time and chance."""
    return Runner(name, store, model, limits, Policy(), Random(), time.time, set(), ANSWERS, take_in, signer)
