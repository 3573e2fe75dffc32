"""Dead letters: jobs that Shoal gave up, as they were, kept with the reason until they are replayed, dropped or old."""

import hashlib
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from redis.asyncio import Redis

from shoal import wire
from shoal.errors import InvalidJob, UnknownJob
from shoal.jobs import DeadLetter, JobMessage, Usage

_LETTERS_PER_PAGE = 100
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Group:
    """Letters that died of the same. `newest` stands for all of them."""

    fingerprint: str
    count: int
    newest: DeadLetter


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be different when a job runs again. None leaves it as it was."""

    cap_factor: float | None = None
    model: str | None = None
    expires_in_seconds: float | None = None


def fingerprint(letter: DeadLetter) -> str:
    """12 hex digits that letters of one cause share: its word and its reason, whatever numbers stand in it."""
    return hashlib.sha256(f"{letter.cause}\n{_DIGITS.sub('#', letter.reason)}".encode()).hexdigest()[:12]


def revived(letter: DeadLetter, changes: Changes, *, lifetime_seconds: float, now: float) -> JobMessage:
    """The job's message as new: first attempt, a new life. Raises `InvalidJob` for what was never a job."""
    try:
        message = JobMessage.model_validate(letter.message, extra="ignore")
        message.arguments()
    except (ValidationError, LookupError):
        raise InvalidJob(f"{letter.id} cannot be replayed: its message cannot be read as a job; drop it") from None
    renewed: dict[str, Any] = {
        "attempt": 1,
        "snoozes": 0,
        "round": 0,
        "spent": Usage(),
        "history": (),
        "enqueued_at": now,
        "expires_at": now + (changes.expires_in_seconds or lifetime_seconds),
    }
    if changes.cap_factor is not None:
        renewed["cap_factor"] = changes.cap_factor
    if changes.model is not None:
        renewed["model"] = changes.model
    return message.model_copy(update=renewed)


class DeadLetters:
    """Those of one Redis. All verbs raise redis-py's errors."""

    def __init__(self, client: "Redis") -> None:
        self._client = client

    async def letter(self, job_id: str) -> DeadLetter:
        """Raises `UnknownJob`."""
        raw: Any = await self._client.hget(wire.DEAD, job_id)
        if raw is None:
            raise UnknownJob(f"no dead letter {job_id}")
        return DeadLetter.model_validate_json(raw, extra="ignore")

    async def walk(self, cause: str | None = None) -> AsyncIterator[DeadLetter]:
        """All of them, or those of one cause (its word or fingerprint), the newest first."""
        start = 0
        while ids := await self._client.zrevrange(wire.DEAD_TIMES, start, start + _LETTERS_PER_PAGE - 1):
            page: Any = ids
            for raw in await self._client.hmget(wire.DEAD, page):
                if raw is None:
                    continue
                letter = DeadLetter.model_validate_json(raw, extra="ignore")
                if cause is None or cause in (letter.cause, fingerprint(letter)):
                    yield letter
            start += len(ids)

    async def groups(self) -> list[Group]:
        """By cause, the most frequent first."""
        groups: dict[str, Group] = {}
        async for letter in self.walk():
            name = fingerprint(letter)
            known = groups.get(name)
            groups[name] = Group(name, known.count + 1, known.newest) if known else Group(name, 1, letter)
        return sorted(groups.values(), key=lambda group: -group.count)

    async def drop(self, job_ids: Iterable[str]) -> int:
        """Forget letters; how many there were. The jobs' failures stay readable for as long as any result."""
        ids = list(job_ids)
        if not ids:
            return 0
        pipeline = self._client.pipeline()
        pipeline.hdel(wire.DEAD, *ids)
        pipeline.zrem(wire.DEAD_TIMES, *ids)
        dropped, _ = await pipeline.execute()
        return int(dropped)
