"""Jobs from producers that are not ours: any Celery client that calls `shoal.<kind>` with the arguments as `args`.

Such a message is made one of ours and queued, as if its sender had enqueued it: the same work is one job, whoever sends
it. How the job ends is stored under the sender's own id too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from shoal import records
from shoal.errors import InvalidJob, JobFailed
from shoal.jobs import KINDS, JobMessage, Lane, Outcome
from shoal.messages import Options, kept_seconds, message_of
from shoal.ports import Claimed, JobBook
from shoal.settings import TENANT, ProducerSettings
from shoal_worker.errors import InvalidMessage
from shoal_worker.ports import JobStore

#: What a sender may call its job: it goes into records as it is.
TASK_ID = re.compile(r"[\w.:/@+=-]{1,200}", re.ASCII)


class Guest(BaseModel):
    """What such a message says; all but `args` may be left out. There is no `fresh`: it may be delivered twice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    args: dict[str, Any]
    tenant: str | None = Field(default=None, **TENANT)
    idempotency_key: str | None = None
    model: str | None = None
    lane: Lane | None = None
    expires_in_seconds: float | None = None
    expires_at: float | None = None


def adopted(kind: str, guest: Guest, settings: ProducerSettings, now: float) -> JobMessage:
    """The message as one of ours. Raises `InvalidMessage`, and pydantic's ValidationError for the arguments."""
    options: Any = {
        name: value for name in Options.__annotations__ if (value := getattr(guest, name, None)) is not None
    }
    tenant = settings.tenant if guest.tenant is None else guest.tenant
    try:
        args = KINDS[kind].model_validate(guest.args)
        return message_of(args, options, settings.model_copy(update={"tenant": tenant}), now)
    except InvalidJob as error:
        raise InvalidMessage(str(error)) from None


@dataclass(frozen=True, slots=True)
class Guests:
    """Safe to repeat: a delivery that was cut off comes again, and finds what it has done."""

    book: JobBook
    store: JobStore
    settings: ProducerSettings

    async def adopt(self, kind: str, task_id: str, fields: Mapping[str, Any], now: float) -> str:
        """Queue it; the id of the job. Raises `InvalidMessage`, pydantic's ValidationError, `QueueUnavailable`."""
        if not TASK_ID.fullmatch(task_id):
            raise InvalidMessage("id: 1 to 200 letters, digits or any of .:/@+=_- are needed")
        guest = Guest.model_validate(fields)
        message = adopted(kind, guest, self.settings, now)
        # First: whoever ends the job from here on tells the guest too.
        await self.store.alias(message.id, task_id)
        became = await self.book.enqueue(message, kept_seconds(message, self.settings))
        if became == Claimed.CONFLICT:
            raise InvalidMessage("idempotency_key: it is used for other work: choose another")
        if became == Claimed.JOINED:
            [record] = await self.book.records([message.id])
            if record is not None:
                await self.store.repeat(renamed(records.decoded(record), task_id), now)
        return message.id


def renamed(ending: Outcome[Any] | JobFailed, job_id: str) -> Outcome[Any] | JobFailed:
    """The same ending of a job known by another id."""
    if isinstance(ending, Outcome):
        return ending.model_copy(update={"job_id": job_id})
    return type(ending)(ending.reason, job_id, ending.cause, ending.attempts)
