"""What the producer's side asks of the place where jobs and their endings are kept. Redis and Postgres stand behind it.

All verbs raise `QueueUnavailable` when the place does not answer; calling again is safe.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from shoal.costs import Costs
from shoal.jobs import DeadLetter, JobMessage, Status


class Claimed(StrEnum):
    """What became of a job that was enqueued."""

    QUEUED = "queued"
    JOINED = "joined"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Pause:
    """A job that waits for its next try, until then (Unix seconds), because of that."""

    until: float
    cause: str


@dataclass(frozen=True, slots=True)
class Group:
    """Letters that died of the same. `newest` stands for all of them."""

    fingerprint: str
    count: int
    newest: DeadLetter


class DeadLetters(Protocol):
    """Jobs that were given up."""

    async def letter(self, job_id: str) -> DeadLetter:
        """Raises `UnknownJob`."""
        ...

    def walk(self, cause: str | None = None) -> AsyncIterator[DeadLetter]:
        """All of them, or those of one cause (its word or fingerprint), the newest first."""
        ...

    async def groups(self) -> list[Group]:
        """By cause, the most frequent first."""
        ...

    async def causes(self) -> dict[str, int]:
        """How many died of what, by the cause's word. No letter is read for it."""
        ...

    async def drop(self, job_ids: Iterable[str]) -> int:
        """Forget letters; how many there were. The jobs' failures stay readable for as long as any result."""
        ...


class Announcements(Protocol):
    """News of jobs that have ended. Some may be missed: who waits looks again now and then."""

    async def follow(self, job_ids: Sequence[str]) -> None: ...

    async def unfollow(self, job_ids: Sequence[str]) -> None: ...

    async def heard(self) -> list[tuple[str, bytes | None]]:
        """The next that have ended, after some seconds none; the record may come along. Begun after `follow`."""
        ...

    async def aclose(self) -> None: ...


class JobBook(Protocol):
    """Jobs by id: claims, states, endings."""

    @property
    def dead(self) -> DeadLetters: ...

    @property
    def costs(self) -> Costs: ...

    async def enqueue(self, message: JobMessage, kept_seconds: int) -> Claimed:
        """Claim the job and have its message queued; both or neither."""
        ...

    async def enqueue_pack(self, messages: Sequence[JobMessage], kept_seconds: int) -> list[Claimed]:
        """The same for many jobs of one lane and tenant: what is new becomes one message."""
        ...

    async def status(self, job_id: str) -> Status | None: ...

    async def pause(self, job_id: str) -> Pause | None:
        """Why a retryable job waits, as far as that is known."""
        ...

    async def cancel(self, job_id: str, record: bytes, kept_seconds: int) -> Status | None:
        """End a job that has not ended with this record. The status before; None for an unknown job."""
        ...

    async def records(self, job_ids: Sequence[str]) -> list[bytes | None]:
        """The records of those that have ended."""
        ...

    def announcements(self) -> Announcements: ...

    async def parked(self) -> int:
        """How many messages wait here: retries for their time, and what is to be published."""
        ...

    async def publish_due(self) -> int:
        """Put messages of the outbox into the queue whose time has come, some hundreds at once; how many.

        Whoever takes them and dies leaves them to the next, some time later. Nothing to do where there is no outbox.
        """
        ...

    async def aclose(self) -> None: ...
