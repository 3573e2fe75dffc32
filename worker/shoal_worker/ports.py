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
    another `round` makes it a new one. `kind` and `tenant` are for the books and are not sent. `on_generation` hears
    the generation's id as soon as headers name it, so that it is known whatever becomes of the body.
    """

    prompt: Prompt
    model: str
    custom_id: str
    deadline_seconds: float
    round: str = ""
    kind: str = ""
    tenant: str = ""
    on_generation: Callable[[str], None] | None = field(default=None, compare=False)

    def heard_by(self, on_generation: Callable[[str], None]) -> "ChatRequest":
        """The same request. (`dataclasses.replace` takes four times as long, and this is done for each call.)"""
        asked = (self.prompt, self.model, self.custom_id, self.deadline_seconds, self.round, self.kind, self.tenant)
        return ChatRequest(*asked, on_generation)


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A model's answer as it came: `content` is text that should be JSON of the prompt's schema.

    `replay_of` is the generation that was billed, where the provider gave its answer again for nothing.
    """

    content: str
    finish_reason: str
    model: str
    provider: str | None
    generation_id: str
    usage: Usage = field(default_factory=Usage)
    sandbox: bool = False
    replay_of: str | None = None


class ChatModel(Protocol):
    async def complete(self, request: ChatRequest) -> ChatReply:
        """Ask once. Raises a `WorkerError` that says whether to retry, to pause or to give up."""
        ...


class CallPlaces(Protocol):
    """So many calls of one process at once."""

    async def enter_call(self) -> None: ...

    def leave_call(self) -> None: ...


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

    @property
    def calls(self) -> "CallLedger": ...

    async def begin(self, job_id: str, holder: str) -> Begun: ...

    async def renew(self, job_id: str, holder: str) -> bool: ...

    async def answer(self, outcome: Outcome[Any], holder: str) -> bool: ...

    async def bury(self, letter: DeadLetter, error: JobFailed, holder: str = "") -> bool: ...

    async def cancel(self, error: JobCancelled, now: float) -> bool: ...

    async def alias(self, job_id: str, alias: str) -> None:
        """However the job ends, that is stored under this id as well."""
        ...

    async def repeat(self, ending: "Outcome[Any] | JobFailed", now: float) -> bool:
        """Store an ending under the id that it names; False where there is one. For a job that ended before."""
        ...

    async def park(self, job_id: str, message: JobMessage, after_seconds: float, holder: str) -> None: ...

    async def forget_old(self, died_before: float) -> int: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One paid request, as it is put down before it is sent.

    `question` is equal for requests with equal bytes. `bound_usd` is what it can cost at most; `overdue_seconds` after
    its start it must have been settled, or its worker is gone. `generation_id` is known only to doubtful calls whose
    headers came.
    """

    id: str
    job_id: str
    kind: str
    tenant: str
    model: str
    question: str
    started_at: float
    bound_usd: float
    overdue_seconds: float
    generation_id: str = ""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the provider charged. `cache_saved_usd`: what the tokens of its prompt cache would have cost beside that.

    `is_billed` False: nothing was charged, as for a refused request.
    """

    is_billed: bool
    usage: Usage = field(default_factory=Usage)
    cache_saved_usd: float = 0.0
    generation_id: str = ""


class CallLedger(Protocol):
    """The books of paid calls: open, then settled or *maybe billed*; and sums by the UTC day that a call starts in.

    Every verb is atomic, safe to repeat (a call is counted once, however often it is settled), and waits for a store
    that is away. Only what moves a call counts: settling moves it out of the open or the maybe-billed ones, and does
    nothing for a call that is in neither.
    """

    async def open(self, call: Call) -> None:
        """Put the intent down. Returns when it is stored: only then may the request be sent."""
        ...

    async def settle(self, call: Call, settlement: Settlement) -> None:
        """What an open or maybe-billed call was charged. Those that were answered out of it are saved as much."""
        ...

    async def replayed(self, call: Call, source_id: str) -> None:
        """The call was answered out of the generation `source_id` ('' where none is named), for nothing.

        Where that generation is not in the books, an unsettled call of the same job and question is the one that was
        billed for it: it becomes maybe billed with this generation, due to be looked up at once. The saving is what
        the generation cost, counted now or when that is known.
        """
        ...

    async def doubt(self, call: Call, generation_id: str = "") -> None:
        """Maybe billed: it was sent, and its reply did not come. It counts with `bound_usd` until it is settled."""
        ...

    async def doubt_overdue(self) -> int:
        """Open calls past their time become maybe billed, some hundreds at once; how many."""
        ...

    async def claim_doubts(self, most: int) -> list[Call]:
        """Maybe-billed calls whose generation is to be looked up now, by the caller alone.

        Each comes again after a pause that doubles from `LOOKUP_BASE_SECONDS`, `LOOKUPS` times in all.
        """
        ...

    async def forget_doubts(self, older_than_seconds: float) -> int:
        """Drop doubts that nothing will clear any more, some hundreds at once; how many. The sums keep them."""
        ...


#: 2 s, 4 s, … : a generation is looked for over 68 minutes, as long as the provider could replay it.
LOOKUP_BASE_SECONDS = 2
LOOKUPS = 12


class Generations(Protocol):
    async def charged(self, generation_id: str) -> Settlement | None:
        """What a generation was charged, by the provider's records; None where they do not know it (yet)."""
        ...
