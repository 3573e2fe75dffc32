"""Thin Celery tasks: run the job, turn its ending into a Celery verb."""

import asyncio
from typing import Any, assert_never

import structlog
from celery import Celery, Task
from celery.exceptions import Reject
from celery.exceptions import Retry as CeleryRetry

from shoal import wire
from shoal.errors import JobExpired, JobFailed
from shoal.jobs import KINDS, Outcome
from shoal_worker import tracing
from shoal_worker.errors import Expired, InvalidMessage
from shoal_worker.loop import await_
from shoal_worker.process import process
from shoal_worker.retry import Discard, Retry, Snooze
from shoal_worker.runner import Adopted, Done, Ending
from shoal_worker.slots import LOAD, PLACE

#: How long a delivery that our own code could not handle waits before it goes back to the queue.
REDELIVERY_SECONDS = 5.0

_OPTIONS = {
    "bind": True,
    "acks_late": True,
    "throws": (JobFailed,),
    "Request": "shoal_worker.requests:Request",
}

log = structlog.get_logger()


def register(app: Celery) -> None:
    """One task a kind, all with the same body, and one for messages of many jobs."""
    for kind in KINDS:
        app.task(run_job, name=wire.task_name(kind), **_OPTIONS)
    app.task(run_pack, name=wire.PACK_TASK, **_OPTIONS)


def run_job(task: Task, /, *args: Any, **kwargs: Any) -> str:
    """Run one delivery. The answer itself is stored by the runner; what is returned is safe to show in Flower.

    Other producers than ours send no `job`, but what they ask.
    """
    job = given("job", args, kwargs)
    tracing.go_on(task.request)
    try:
        signature = task.request.get(wire.SIGNATURE_HEADER)
        ending: Ending | Adopted
        if job is not None:
            ending = await_(process().runner.run(task.request.id, job, signature, PLACE.get().free))
        else:
            ending = await_(process().runner.adopt(task.request.id, wire.kind_of(task.name), kwargs, signature))
    except Exception as error:
        # Acknowledged now, the job would be lost. It goes back, slowly, until somebody has mended what is wrong.
        log.exception("delivery_failed", job_id=task.request.id)
        await_(asyncio.sleep(REDELIVERY_SECONDS))
        raise Reject(type(error).__name__, requeue=True) from None
    match ending:
        case Adopted(job_id):
            return f"queued as {job_id}"
        case Done(ended, replayed):
            return f"replayed: {summary(ended)}" if replayed else summary(ended)
        case Retry(after_seconds, cause, reason) | Snooze(after_seconds, cause, reason):
            raise CeleryRetry(f"{cause}: {reason}", JobFailed(reason, task.request.id, cause), after_seconds)
        case Discard(cause, reason):
            failure = JobExpired if cause == Expired.cause else JobFailed
            raise failure(reason, task.request.id, cause)
        case _:
            assert_never(ending)


def run_pack(task: Task, /, *args: Any, **kwargs: Any) -> str:
    """Run one delivery of a message of many jobs. It comes again when one of them was brought to no end."""
    jobs = given("jobs", args, kwargs)
    if not isinstance(jobs, list):
        reason = "jobs: a list is needed"
        await_(process().bury(task.request.id, reason, str(jobs)))
        raise JobFailed(reason, task.request.id, InvalidMessage.cause)
    tracing.go_on(task.request)
    end = await_(process().packs.run(task.request.id, jobs, LOAD.get()))
    if not end.is_whole:
        if end.words["failed"]:
            await_(asyncio.sleep(REDELIVERY_SECONDS))
        raise Reject(end.summary(), requeue=True)
    return end.summary()


def given(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What stands under a name, or else in the first place. However a message gives it, the task can be called."""
    return kwargs.get(name, args[0] if args else None)


def summary(ended: Outcome[Any] | JobFailed) -> str:
    """What an ending cost, or its cause: never the answer."""
    if isinstance(ended, JobFailed):
        return ended.cause
    usage = ended.usage
    return f"{usage.input_tokens}+{usage.output_tokens} tokens, ${usage.cost_usd:.6f}, {ended.model}"
