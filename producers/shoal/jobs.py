"""The contract: what a producer asks for and what it gets, for every kind of job.

Frozen pydantic models with a stable `kind`; JSON both ways; versioned. A producer refuses fields that it does not know,
a worker ignores them. All offsets are Unicode code points of the text as sent: `text[start:end] == quote` everywhere.
"""

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from shoal.schemas import normalised_fields

#: Version of the wire form. It grows when a field changes its meaning, not when one is added.
CONTRACT_VERSION = 1

#: The label that stands for "no label fits", when the caller allows it.
NONE_OF_THESE = "none of these"

#: About 250,000 tokens: what one call to the default model can read.
MAX_TEXT_CHARS = 1_000_000
#: Longer texts are summarized in parts.
MAX_SUMMARY_TEXT_CHARS = 4_000_000
MAX_LABELS = 500
MAX_DOCUMENTS = 1_000

#: How many attempts a job remembers, the newest of them, and how much of each one's reason: it travels with the job.
HISTORY_LENGTH = 20
HISTORY_REASON_CHARS = 300


class Wire(BaseModel):
    """Plain JSON values, frozen, unknown fields refused (a decoder may ask for `extra="ignore"`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _not_blank(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        raise ValueError("is blank: give at least one visible character")
    return value


NotBlank = BeforeValidator(_not_blank)
Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS), NotBlank]
Name = Annotated[str, Field(max_length=200), NotBlank]
Note = Annotated[str, Field(max_length=4_000)]
Confidence = Annotated[float, Field(ge=0, le=1)]


# --- Results ---------------------------------------------------------------------------------------------------


class Span(Wire):
    """A stretch of the text that was sent: code points `start` to `end`, and the words there."""

    start: int = Field(ge=0)
    end: int = Field(ge=0)
    quote: str


class ScoredLabel(Wire):
    name: str
    confidence: Confidence


class ClassifyResult(Wire):
    """The labels that fit, the surest first; empty when none of them does.

    `confidence_source` says how the confidences were obtained: "stated" is what the model said of itself.
    """

    kind: Literal["classify"] = "classify"
    labels: tuple[ScoredLabel, ...]
    confidence_source: Literal["stated"] = "stated"
    evidence: Span | None = None

    @property
    def label(self) -> str | None:
        """The surest label, or None when none fits."""
        return self.labels[0].name if self.labels else None

    @property
    def confidence(self) -> float | None:
        """The surest label's confidence, 0 to 1."""
        return self.labels[0].confidence if self.labels else None


class Grounding(StrEnum):
    """How a value stands in the text."""

    EXACT = "exact"  #: the quote stands there word for word
    NORMALISED = "normalised"  #: but for case, white space, quotation marks, hyphens or Unicode form
    UNSUPPORTED = "unsupported"  #: the model's quote is not in the text, or it gave none


class Evidence(Wire):
    """Where one extracted value stands. `path` leads to it in `data`: ("items", 0, "price").

    `start`, `end` and `quote` are None where the value is unsupported, else `text[start:end] == quote`.
    """

    path: tuple[str | int, ...]
    grounding: Grounding
    start: int | None = None
    end: int | None = None
    quote: str | None = None


class ExtractResult(Wire):
    """The object that was asked for; a field that the text does not give is None."""

    kind: Literal["extract"] = "extract"
    data: dict[str, Any]
    evidence: tuple[Evidence, ...]


class RankedDocument(Wire):
    """`index` is the document's place in the job's `documents`; `score` goes from 0 (off topic) to 3 (answers it)."""

    id: str
    index: int = Field(ge=0)
    score: float = Field(ge=0, le=3)


class RankResult(Wire):
    """Every document once, the best first. `repaired` names the ids that the model had left out or repeated."""

    kind: Literal["rank"] = "rank"
    ranking: tuple[RankedDocument, ...]
    top_k: int = Field(ge=1)
    repaired: tuple[str, ...] = ()

    @property
    def top(self) -> tuple[RankedDocument, ...]:
        """The best `top_k` documents."""
        return self.ranking[: self.top_k]


class SummarySentence(Wire):
    """One sentence of the summary, and the sentences of the text that it stands on."""

    text: str
    sources: tuple[Span, ...]


class SummarizeResult(Wire):
    """The summary, and what each of its sentences stands on. `parts` is how many pieces the text was read in."""

    kind: Literal["summarize"] = "summarize"
    summary: str
    sentences: tuple[SummarySentence, ...]
    parts: int = Field(ge=1, default=1)


Result = ClassifyResult | ExtractResult | RankResult | SummarizeResult
R = TypeVar("R", bound=Result)
R_co = TypeVar("R_co", bound=Result, covariant=True)


# --- Arguments -------------------------------------------------------------------------------------------------


class Args(Wire, Generic[R_co]):
    """What a producer asks for. `kind` is the wire name: stable, never taken from the class name."""

    kind: ClassVar[str]


class Label(Wire):
    name: Name
    description: Note = ""


def _as_labels(value: object) -> object:
    if isinstance(value, dict):
        return [{"name": name, "description": text} for name, text in value.items()]
    if isinstance(value, (list, tuple)):
        return [{"name": item} if isinstance(item, str) else item for item in value]
    return value


class Classify(Args[ClassifyResult]):
    """Choose among labels. `labels`: names, or a mapping of name to description.

    `many` allows several labels for a text, `none_of_these` allows none.
    """

    kind = "classify"
    text: Text
    labels: Annotated[tuple[Label, ...], BeforeValidator(_as_labels), Field(min_length=1, max_length=MAX_LABELS)]
    many: bool = False
    none_of_these: bool = False

    @model_validator(mode="after")
    def _labels_make_a_choice(self) -> Self:
        names = [label.name for label in self.labels]
        if len(set(names)) != len(names):
            raise ValueError("labels repeat a name: give each label once")
        if NONE_OF_THESE in names:
            raise ValueError(f"labels must not hold {NONE_OF_THESE!r}: set none_of_these=True instead")
        if len(names) == 1 and not (self.many or self.none_of_these):
            raise ValueError(
                "labels hold one name only, so there is nothing to choose: add one or set none_of_these=True"
            )
        return self


class Extract(Args[ExtractResult]):
    """Take values out of a text. `fields`: a JSON Schema of an object, or a pydantic model.

    Values come with their quote and its offsets; those that the text does not give are None.
    """

    kind = "extract"
    text: Text
    fields: Annotated[dict[str, Any], BeforeValidator(normalised_fields)]
    instructions: Note = ""


class Document(Wire):
    id: Name
    text: Text


def _as_documents(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [{"id": str(place), "text": item} if isinstance(item, str) else item for place, item in enumerate(value)]
    return value


class Rank(Args[RankResult]):
    """Order documents by how well they serve a query. `documents`: strings (their place is the id), or id and text.

    `criterion` says what "better" means, where it is not plain relevance.
    """

    kind = "rank"
    query: Annotated[str, Field(max_length=20_000), NotBlank]
    documents: Annotated[
        tuple[Document, ...], BeforeValidator(_as_documents), Field(min_length=1, max_length=MAX_DOCUMENTS)
    ]
    top_k: int = Field(default=10, ge=1)
    criterion: Note = ""

    @model_validator(mode="after")
    def _documents_can_be_told_apart(self) -> Self:
        ids = [document.id for document in self.documents]
        if len(set(ids)) != len(ids):
            raise ValueError("documents repeat an id: give each document its own")
        if sum(len(document.text) for document in self.documents) > MAX_TEXT_CHARS:
            raise ValueError(f"documents hold more than {MAX_TEXT_CHARS} characters together: send fewer or shorter")
        return self


class Summarize(Args[SummarizeResult]):
    """Say it shorter. `length_words` is what to aim at; `language` None keeps the text's own."""

    kind = "summarize"
    text: Annotated[str, Field(max_length=MAX_SUMMARY_TEXT_CHARS), NotBlank]
    length_words: int = Field(default=100, ge=10, le=2_000)
    focus: Note = ""
    style: Literal["prose", "bullets"] = "prose"
    language: Annotated[str, Field(max_length=40)] | None = None


KINDS: dict[str, type[Args[Any]]] = {c.kind: c for c in (Classify, Extract, Rank, Summarize)}


# --- The message and the outcome ---------------------------------------------------------------------------------


class Usage(Wire):
    """What the provider counted and charged, over all calls made for the job, failed ones included."""

    input_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    calls: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in Usage.model_fields})


class Attempt(Wire):
    """An attempt that ended without an answer. `number` is the attempt's own; times are Unix seconds.

    Snoozed attempts share a number with the one that follows, for a snooze costs none. `worker` is the process.
    """

    number: int = Field(ge=1)
    began_at: float
    ended_at: float
    cause: str
    reason: str
    worker: str


Lane = Literal["interactive", "bulk"]
#: No store holds a NUL in a name.
_STORABLE = r"^[^\x00]+$"


class JobMessage(Wire):
    """What travels through the queue.

    `key` is what the job is known by (its idempotency key), `fingerprint` what it asks for: two enqueues of one
    key must agree on it. Times are Unix seconds. `model` None leaves the choice to the worker's settings.
    """

    version: int = Field(default=CONTRACT_VERSION, ge=1)
    id: str = Field(min_length=1, max_length=100, pattern=_STORABLE)
    key: str = Field(min_length=1, max_length=600, pattern=_STORABLE)
    fingerprint: str = Field(min_length=1, max_length=100, pattern=_STORABLE)
    kind: str
    args: dict[str, Any]
    model: str | None = None
    tenant: str = ""
    #: "interactive" jobs are served first, "bulk" ones fill what is left.
    lane: Lane = "interactive"
    enqueued_at: float
    expires_at: float
    #: How much more room answers get than is usual for the job: 2 doubles it.
    cap_factor: float = Field(default=1.0, gt=0, le=64)
    attempt: int = Field(default=1, ge=1)
    snoozes: int = Field(default=0, ge=0)
    #: How often the model must have been asked anew: it counts failures, but not lost replies.
    round: int = Field(default=0, ge=0)
    spent: Usage = Usage()
    #: The last attempts, the newest at the end.
    history: tuple[Attempt, ...] = ()

    def remembering(self, attempt: Attempt) -> Self:
        """The message with one more attempt in its history, which stays within its bounds."""
        short = attempt.model_copy(update={"reason": attempt.reason[:HISTORY_REASON_CHARS]})
        return self.model_copy(update={"history": (*self.history, short)[-HISTORY_LENGTH:]})

    def arguments(self) -> Args[Any]:
        """The typed arguments; fields of newer producers are ignored. Raises pydantic's ValidationError."""
        return KINDS[self.kind].model_validate(self.args, extra="ignore")


class Outcome(Wire, Generic[R]):
    """An answer and what it took.

    `queue_seconds` from enqueueing to the start of the attempt that answered, `run_seconds` that attempt's own.
    `sandbox` marks answers that no model made.
    """

    version: int = CONTRACT_VERSION
    job_id: str
    kind: str
    result: R
    usage: Usage
    model: str
    provider: str | None = None
    generation_ids: tuple[str, ...] = ()
    attempts: int = Field(ge=1)
    queue_seconds: float = Field(ge=0)
    run_seconds: float = Field(ge=0)
    finished_at: float
    sandbox: bool = False


RESULTS: dict[str, type[Outcome[Any]]] = {
    "classify": Outcome[ClassifyResult],
    "extract": Outcome[ExtractResult],
    "rank": Outcome[RankResult],
    "summarize": Outcome[SummarizeResult],
}


class Status(StrEnum):
    """Where a job stands."""

    AVAILABLE = "available"  #: in the queue
    RUNNING = "running"  #: a worker works on it
    RETRYABLE = "retryable"  #: waits for its next attempt
    COMPLETED = "completed"  #: answered
    CANCELLED = "cancelled"  #: somebody cancelled it
    DISCARDED = "discarded"  #: given up: a dead letter


class DeadLetter(Wire):
    """A job that Shoal gave up, as it was. `message` is None where the message could not be read; then `raw` is it.

    `history` has the last attempts, the newest at the end; none where no attempt came to an end.
    """

    id: str
    kind: str
    cause: str
    reason: str
    attempts: int = Field(ge=0)
    died_at: float
    history: tuple[Attempt, ...] = ()
    message: dict[str, Any] | None = None
    raw: str | None = None
