"""Dead letters: jobs that Shoal gave up, as they were, kept until they are replayed, dropped or old. Pure."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from shoal.errors import InvalidJob
from shoal.jobs import DeadLetter, JobMessage, Usage

_DIGITS = re.compile(r"\d+")


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
