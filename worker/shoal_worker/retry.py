"""What becomes of a job whose attempt failed: again, later, or never. Pure: time and chance are passed in.

Retry costs an attempt and waits by full jitter. Snooze costs none: somebody asked for a pause, so it waits at least
that long. Neither outlives the job: what would end past `expires_at` is discarded now, with the last error named.
"""

from dataclasses import dataclass
from random import Random

from shoal_worker.errors import Expired, PauseError, PermanentError, WorkerError

#: 2**32 times any base is past every cap, and 2**1024 would be no float.
_LARGEST_EXPONENT = 32

#: Jobs that were told the same time must not come back in the same instant.
_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after this long; costs an attempt."""

    after_seconds: float
    cause: str
    reason: str


@dataclass(frozen=True, slots=True)
class Snooze:
    """Come back after this long; costs no attempt."""

    after_seconds: float
    cause: str
    reason: str


@dataclass(frozen=True, slots=True)
class Discard:
    """Never again: a dead letter."""

    cause: str
    reason: str


Decision = Retry | Snooze | Discard


@dataclass(frozen=True, slots=True)
class Policy:
    """How often and how long."""

    max_attempts: int = 6
    base_seconds: float = 1.0
    cap_seconds: float = 300.0
    snooze_base_seconds: float = 2.0
    snooze_cap_seconds: float = 120.0

    def backoff_seconds(self, attempt: int, rng: Random) -> float:
        """Full jitter: anywhere up to the bound that doubles with each attempt."""
        return rng.uniform(0.0, _doubled(self.base_seconds, attempt - 1, self.cap_seconds))

    def pause_seconds(self, asked_seconds: float | None, snoozes: int, rng: Random) -> float:
        """Never shorter than asked; where nobody named a time, the upper half of a doubling bound.

        A named time below the base is as good as none: asked for again and again, it would have jobs run in circles.
        """
        asked = max(0.0, asked_seconds or 0.0)
        if asked >= self.snooze_base_seconds:
            return asked + rng.uniform(0.0, asked * _SPREAD)
        bound = _doubled(self.snooze_base_seconds, snoozes, self.snooze_cap_seconds)
        return max(asked, rng.uniform(bound / 2, bound))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job has come. `attempt` counts from 1 and is the one that failed; times are Unix seconds."""

    attempt: int
    snoozes: int
    now: float
    expires_at: float

    @property
    def remaining_seconds(self) -> float:
        return self.expires_at - self.now


def decide(error: WorkerError, progress: Progress, policy: Policy, rng: Random) -> Decision:
    """The branch of the error decides; the clock may overrule it."""
    if isinstance(error, PermanentError):
        return Discard(error.cause, error.reason)
    if isinstance(error, PauseError):
        return _snooze(error, progress, policy, rng)
    if progress.attempt >= policy.max_attempts:
        return Discard(error.cause, f"attempt {progress.attempt} of {policy.max_attempts} failed: {error.reason}")
    after_seconds = policy.backoff_seconds(progress.attempt, rng)
    if after_seconds > progress.remaining_seconds:
        return _expired(error)
    return Retry(after_seconds, error.cause, error.reason)


def _snooze(error: PauseError, progress: Progress, policy: Policy, rng: Random) -> Decision:
    remaining_seconds = progress.remaining_seconds
    if error.after_seconds is not None and error.after_seconds > remaining_seconds:
        return _expired(error)
    after_seconds = policy.pause_seconds(error.after_seconds, progress.snoozes, rng)
    if error.after_seconds is not None:
        # What was asked for fits into the job's life; what we added to it must not be what ends it.
        after_seconds = min(after_seconds, max(0.0, remaining_seconds))
    if after_seconds > remaining_seconds:
        return _expired(error)
    return Snooze(after_seconds, error.cause, error.reason)


def _expired(error: WorkerError) -> Discard:
    return Discard(Expired.cause, f"time runs out before the next try; last: {error.cause}: {error.reason}")


def _doubled(base_seconds: float, times: int, cap_seconds: float) -> float:
    return float(min(cap_seconds, base_seconds * 2 ** min(max(times, 0), _LARGEST_EXPONENT)))
