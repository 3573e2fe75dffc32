"""What can go wrong for a producer.

::

    ShoalError
     x SettingsError          the environment is wrong: every fault at once, each with its fix
     x InvalidJob             (also ValueError) the job cannot be sent as it is
        + IdempotencyConflict the explicit key was used before, with other arguments
     x QueueUnavailable       (also ConnectionError) the queue or the result store did not answer; safe to try again
     x ResultTimeout          (also TimeoutError) no answer yet; the job goes on
     x UnknownJob             (also LookupError) no such job, or its result has expired
     x JobFailed              the worker gave the job up; it is a dead letter with this cause and reason
        + JobCancelled        somebody cancelled it
        + JobExpired          its time ran out before an answer came
"""

from typing import Self


class ShoalError(Exception):
    """Root of all errors that the producer library raises on purpose."""


class SettingsError(ShoalError):
    """The settings are wrong. The message lists every fault, each with its fix."""


class InvalidJob(ShoalError, ValueError):
    """The job cannot be sent as it is."""


class IdempotencyConflict(InvalidJob):
    """This idempotency key was used before, with other arguments."""


class QueueUnavailable(ShoalError, ConnectionError):
    """The queue or the result store did not answer. Enqueueing the same job again is safe."""


class ResultTimeout(ShoalError, TimeoutError):
    """No answer within the given time. The job goes on; ask again."""


class UnknownJob(ShoalError, LookupError):
    """There is no job of this id, or its result has expired."""


class JobFailed(ShoalError):
    """The worker gave the job up; it is a dead letter.

    `cause` is a stable word to group by, `reason` a sentence for people. Celery pickles exceptions, so every
    argument has a default.
    """

    def __init__(self, reason: str = "", job_id: str = "", cause: str = "unknown", attempts: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.job_id = job_id
        self.cause = cause
        self.attempts = attempts

    def __reduce__(self) -> tuple[type[Self], tuple[str, str, str, int]]:
        return type(self), (self.reason, self.job_id, self.cause, self.attempts)


class JobCancelled(JobFailed):
    """Somebody cancelled the job before it had an answer."""


class JobExpired(JobFailed):
    """The job's `expires_at` passed before it had an answer."""
