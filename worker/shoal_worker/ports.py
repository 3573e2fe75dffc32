"""What the life of a job asks of the world. Implemented by `openrouter.py` and `stores/`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from shoal.errors import JobCancelled, JobFailed
from shoal.jobs import DeadLetter, JobMessage, Outcome, Usage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to a model. `system` is the stable prefix, `user` holds untrusted text only, fenced."""

    system: str
    user: str
    schema_name: str
    schema: dict[str, Any]
    max_completion_tokens: int


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A prompt addressed to a model. `custom_id` comes back in the provider's records; `deadline_seconds` is total.

    Requests that are equal in all but the deadline are one question, which the provider may answer again for nothing;
    another `round` makes it a new one.
    """

    prompt: Prompt
    model: str
    custom_id: str
    deadline_seconds: float
    round: str = ""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A model's answer as it came: `content` is text that should be JSON of the prompt's schema."""

    content: str
    finish_reason: str
    model: str
    provider: str | None
    generation_id: str
    usage: Usage = field(default_factory=Usage)
    sandbox: bool = False


class ChatModel(Protocol):
    async def complete(self, request: ChatRequest) -> ChatReply:
        """Ask once. Raises a `WorkerError` that says whether to retry, to pause or to give up."""
        ...


class Ask(Protocol):
    """Put a prompt to the model and get a parsed answer; misfits are asked again, usage is counted.

    `parse` takes the decoded JSON and raises `errors.Misfit` whose reason is fit to be shown to the model.
    """

    def __call__(self, prompt: Prompt, parse: Callable[[Any], T]) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Stored:
    """The job has ended already; this is how."""

    ending: Outcome[Any] | JobFailed


@dataclass(frozen=True, slots=True)
class Held:
    """Another worker has the job; its lease runs for `seconds` unless renewed."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Granted:
    """The job is ours. `deliveries` counts the starts since its last orderly end."""

    deliveries: int


Begun = Stored | Held | Granted


class JobStore(Protocol):
    """Results, leases and dead letters. Every verb is atomic, safe to repeat, and waits for a store that is away.

    `holder` names one attempt at a job, not the process: a process may be given the same job twice.
    """

    async def begin(self, job_id: str, holder: str) -> Begun: ...

    async def renew(self, job_id: str, holder: str) -> bool: ...

    async def answer(self, outcome: Outcome[Any], holder: str) -> bool: ...

    async def bury(self, letter: DeadLetter, error: JobFailed, holder: str = "") -> bool: ...

    async def cancel(self, error: JobCancelled, now: float) -> bool: ...

    async def park(self, job_id: str, message: JobMessage, after_seconds: float, holder: str) -> None: ...

    async def forget_dead(self, died_before: float) -> int: ...

    async def undecodable(self, most: int) -> list[bytes]: ...

    async def forget_undecodable(self, item: bytes) -> None: ...

    async def due(self, most: int) -> list[bytes]: ...

    async def forget_due(self, items: list[bytes]) -> None: ...

    async def aclose(self) -> None: ...
