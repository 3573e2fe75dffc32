"""Why an attempt at a job did not end in an answer. The branch says what to do, the leaf why.

::

    WorkerError
     x TransientError           try again later; costs an attempt
        + ReplyLost             it was sent and no whole reply came back: maybe billed
           + DeadlineExceeded   the same, because the total deadline passed
        + ProviderUnavailable   the provider failed, before or inside a reply with status 200
        + EmptyAnswer           a reply that says it is finished and holds nothing
     x PauseError               wait, as long as asked where a time is named; costs no attempt
        + RateLimited           429 of any origin, 503 that names a time, in-flight budget; `origin` tells which
        + Throttled             not sent: we hold calls back, because of what the provider said to others
        + OutOfMoney            credits, key limit or budget spent: until somebody acts or it resets
        + Unauthorized          the key is missing, disabled or expired: until somebody acts
        + LeaseHeld             another worker has this job
        + ConnectFailed         the provider is not there: nothing was sent, so nothing was billed
     x PermanentError           never again: a dead letter
        + InvalidMessage        the message cannot be read as a job
        + Forged                no known key has signed the message
        + RequestRefused        the provider will not take the request: 400, 404, 413, 422
        + ContentRefused        moderation, guardrail, content filter or the model's own refusal
        + Truncated             the answer did not fit, not even under the raised cap
        + Misfit                the answer does not fit the contract, not even when asked again
        + Expired               the job's time ran out
        + Cancelled             somebody cancelled the job
        + WorkerKilled          the job was delivered again and again and never came to an end

Messages never hold prompts, texts or answers: they go to logs, Sentry and dead letters.
"""

from enum import StrEnum
from typing import ClassVar

from shoal.jobs import Usage

_NOTHING = Usage()


class WorkerError(Exception):
    """Root. `cause` is the stable word that dead letters, metrics and Sentry group by.

    `usage` is what the failed attempt had already cost.
    """

    cause: ClassVar[str] = "unknown"

    def __init__(self, reason: str = "", usage: Usage | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.usage = usage or _NOTHING


class TransientError(WorkerError):
    """Try again later; costs an attempt."""


class ReplyLost(TransientError):
    """The request was sent and no whole reply came back: maybe billed."""

    cause = "reply_lost"


class DeadlineExceeded(ReplyLost):
    """No whole reply within the total deadline: maybe billed."""

    cause = "deadline_exceeded"


class ProviderUnavailable(TransientError):
    """The provider failed; `status` is the HTTP status or the code inside the reply."""

    cause = "provider_unavailable"


class EmptyAnswer(TransientError):
    """The reply says it is finished and holds nothing."""

    cause = "empty_answer"


class PauseError(WorkerError):
    """Wait; costs no attempt. `after_seconds` None means that nobody named a time."""

    def __init__(self, reason: str = "", after_seconds: float | None = None, usage: Usage | None = None) -> None:
        super().__init__(reason, usage)
        self.after_seconds = after_seconds


class LimitOrigin(StrEnum):
    """Whose limit it is. All but the last two are the whole key's."""

    PLATFORM = "platform"
    ADMISSION = "admission"
    IN_FLIGHT = "in_flight"
    UPSTREAM = "upstream"
    OVERLOAD = "overload"


class RateLimited(PauseError):
    """Too much at once."""

    cause = "rate_limited"

    def __init__(
        self,
        reason: str = "",
        after_seconds: float | None = None,
        usage: Usage | None = None,
        origin: LimitOrigin = LimitOrigin.UPSTREAM,
    ) -> None:
        super().__init__(reason, after_seconds, usage)
        self.origin = origin


class Throttled(PauseError):
    """Our own limits have no room for this call soon: nothing was sent."""

    cause = "throttled"


class OutOfMoney(PauseError):
    """Credits, key limit or budget spent."""

    cause = "out_of_money"


class Unauthorized(PauseError):
    """The key is missing, disabled or expired."""

    cause = "unauthorized"


class LeaseHeld(PauseError):
    """Another worker has this job."""

    cause = "lease_held"


class ConnectFailed(PauseError):
    """No connection: nothing was sent, so nothing was billed. An outage of a minute must not be the end of all jobs."""

    cause = "connect_failed"


class PermanentError(WorkerError):
    """Never again: a dead letter."""


class InvalidMessage(PermanentError):
    """The message cannot be read as a job."""

    cause = "invalid_message"


class Forged(PermanentError):
    """Signing is on and no known key has signed the message."""

    cause = "forged"


class RequestRefused(PermanentError):
    """The provider will not take the request."""

    cause = "request_refused"


class ContentRefused(PermanentError):
    """Moderation, guardrail, content filter or the model's own refusal."""

    cause = "content_refused"


class Truncated(PermanentError):
    """The answer did not fit, not even under the raised cap."""

    cause = "truncated"


class Misfit(PermanentError):
    """The answer does not fit the contract, not even when asked again. `reason` names the field, never its value."""

    cause = "misfit"


class Expired(PermanentError):
    """The job's time ran out before an answer came."""

    cause = "expired"


class Cancelled(PermanentError):
    """Somebody cancelled the job."""

    cause = "cancelled"


class WorkerKilled(PermanentError):
    """The job was delivered again and again and never came to an end: it may be what kills the worker."""

    cause = "worker_killed"
