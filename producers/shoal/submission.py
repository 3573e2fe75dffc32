"""A file on its way through the queue: from its lines to the rows of its answers, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from shoal.answers import InOrder, Place
from shoal.errors import InvalidJob, JobFailed
from shoal.files import Line, Row
from shoal.jobs import KINDS, Args
from shoal.journal import Journal
from shoal.results import Answer

#: With `--ordered`, lines on their way or held back: so many windows.
HELD_WINDOWS = 2

Job = tuple[Place, Args[Any]]


class Client(Protocol):
    """What is needed of `Shoal`."""

    def stream(self, jobs: Iterable[Job], *, window: int, fresh: bool) -> Iterator[tuple[Place, Answer]]: ...


@dataclass(slots=True)
class Submission:
    """What is asked of each line, where the answers go, and how far it has come."""

    kind: str
    common: Row
    lines: Iterator[Line]
    journal: Journal
    order: InOrder | None = None
    moved: Callable[[], None] = lambda: None
    lines_read: int = 0
    ended: bool = False
    cost_usd: float = 0.0

    def run(self, client: Client, *, window: int, fresh: bool) -> None:
        """Answer each line that has no row. A stream ends early when too much is held back, and a new one follows."""
        while not self.ended:
            for place, answer in client.stream(self._jobs(), window=window, fresh=fresh):
                self._take(place, answer)

    def _jobs(self) -> Iterator[Job]:
        """The lines that are jobs. One that is none fails by itself, and the others go on."""
        while not (self.order and self.order.full):
            line = next(self.lines, None)
            if line is None:
                self.ended = True
                return
            self.lines_read += 1
            if line.number in self.journal.answered:
                self.moved()
                continue
            if self.order:
                self.order.begin(line.number)
            place = Place(line.number, line.custom_id)
            try:
                args = self._args(line)
            except InvalidJob as error:
                self._take(place, JobFailed(f"line {line.number}: {error}", cause="invalid_arguments"))
            else:
                yield place, args

    def _args(self, line: Line) -> Args[Any]:
        if line.fault is not None:
            raise InvalidJob(line.fault)
        return arguments(self.kind, {**self.common, **line.values})

    def _take(self, place: Place, answer: Answer) -> None:
        if not isinstance(answer, JobFailed):
            self.cost_usd += answer.usage.cost_usd
        row = self.journal.layout.shaped(place, answer)
        for due in [row] if self.order is None else self.order.due(place.line, row):
            self.journal.write(due)
        self.moved()


def arguments(kind: str, values: Row) -> Args[Any]:
    """A kind's arguments. Raises `InvalidJob` naming each field that is wrong."""
    try:
        return KINDS[kind].model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        said = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
        raise InvalidJob("; ".join(said)) from None
