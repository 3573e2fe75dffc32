"""Files of answers: how a row is shaped, how it is written, and how it is read back after a stop."""

import csv
import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, Protocol

from pydantic_core import from_json

from shoal.errors import InvalidJob, JobFailed
from shoal.files import DELIMITERS, Form, Row, csv_reader
from shoal.jobs import RESULTS
from shoal.results import Answer

BATCH = "openai-batch"

#: What a table shows of a result beside its fields.
_PROPERTIES: dict[str, dict[str, type]] = {"classify": {"label": str, "confidence": float}}


class Place(NamedTuple):
    """Where a job stands in its file."""

    line: int
    custom_id: str | None = None


class Rows(Protocol):
    """A file of rows that can be appended to. `header` is its first record, empty if it has none."""

    header: bytes

    def encoded(self, row: Row) -> bytes:
        """A row as one record."""

    def decoded(self, record: bytes) -> Row:
        """The row of a record. Raises `ValueError`."""

    def records(self, file: BinaryIO) -> Iterator[bytes]:
        """The complete records of a file, header included; an end that was torn off is left out."""


class JsonRows:
    """JSONL."""

    header = b""

    def encoded(self, row: Row) -> bytes:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode(errors="backslashreplace")

    def decoded(self, record: bytes) -> Row:
        row: Row = from_json(record)
        return row

    def records(self, file: BinaryIO) -> Iterator[bytes]:
        return (record for record in file if record.endswith(b"\n"))


class TableRows:
    """CSV and TSV, with quotes as the standard library's `csv` sets them."""

    def __init__(self, columns: list[str], delimiter: str) -> None:
        self._columns = columns
        self._delimiter = delimiter
        self._writer = csv.writer(_Echo(), delimiter=delimiter)
        self.header = self._record(columns)

    def encoded(self, row: Row) -> bytes:
        return self._record([row[name] for name in self._columns])

    def decoded(self, record: bytes) -> Row:
        try:
            cells = next(csv_reader([record.decode()], self._delimiter))
            row: Row = dict(zip(self._columns, cells, strict=True))
            return {**row, "line": int(row["line"])}
        except csv.Error as error:
            raise ValueError(str(error)) from None

    def records(self, file: BinaryIO) -> Iterator[bytes]:
        """A line break ends a record unless a quote is open, and then the quotes so far are an odd number."""
        pieces, in_quotes = list[bytes](), False
        for piece in file:
            pieces.append(piece)
            in_quotes ^= piece.count(b'"') % 2 == 1
            if not in_quotes and piece.endswith(b"\n"):
                yield b"".join(pieces)
                pieces.clear()

    def _record(self, cells: list[Any]) -> bytes:
        # Rows of the writer's own end in "\r\n", else it leaves a "\r" in a cell without quotes (before Python 3.13).
        text: str = self._writer.writerow(cells)
        return (text.removesuffix("\r\n") + "\n").encode(errors="backslashreplace")


class _Echo:
    def write(self, text: str) -> str:
        return text


@dataclass(frozen=True, slots=True)
class Layout:
    """How answers become rows. `columns` are those of a flat table with their types; none elsewhere."""

    shaped: Callable[[Place, Answer], Row]
    rows: Rows
    columns: dict[str, type]


def layout_of(form: Form, kind: str) -> Layout:
    """The layout of an output. A form that cannot be appended to is kept as JSONL until all its rows are there."""
    if form.name == "jsonl":
        return Layout(json_row, JsonRows(), {})
    if form.name == BATCH:
        return Layout(batch_row, JsonRows(), {})
    columns = columns_of(kind)
    delimiter = DELIMITERS.get(form.name)
    rows = TableRows(list(columns), delimiter) if delimiter else JsonRows()
    return Layout(lambda place, answer: flat_row(place, answer, columns), rows, columns)


def columns_of(kind: str) -> dict[str, type]:
    """The flat table of a kind: numbers and strings as they are, all else as JSON."""
    result = RESULTS[kind].model_fields["result"].annotation
    assert result is not None
    fields = {name: field.annotation for name, field in result.model_fields.items() if name != "kind"}
    return {
        "line": int,
        "custom_id": str,
        "job_id": str,
        "status": str,
        **_PROPERTIES.get(kind, {}),
        **{name: known if known in {int, float} else str for name, known in fields.items()},
        "cost_usd": float,
        "error_cause": str,
        "error_reason": str,
    }


def json_row(place: Place, answer: Answer) -> Row:
    """A row of JSONL: the outcome, or the job's error, after its line and the caller's name for it, if there is one."""
    named = {"line": place.line} if place.custom_id is None else place._asdict()
    if isinstance(answer, JobFailed):
        return {**named, "job_id": answer.job_id, "error": {"cause": answer.cause, "reason": answer.reason}}
    return {**named, **answer.model_dump(mode="json")}


def batch_row(place: Place, answer: Answer) -> Row:
    """A row as OpenAI's batches give them, and its line. The body of the response is the outcome."""
    named: Row = {"id": answer.job_id, **place._asdict()}
    if isinstance(answer, JobFailed):
        return {**named, "response": None, "error": {"code": answer.cause, "message": answer.reason}}
    body = answer.model_dump(mode="json")
    return {**named, "response": {"status_code": 200, "request_id": answer.job_id, "body": body}, "error": None}


def flat_row(place: Place, answer: Answer, columns: dict[str, type]) -> Row:
    """A row of a table: every column, None where it has no value."""
    row: Row = {**dict.fromkeys(columns), **place._asdict(), "job_id": answer.job_id}
    if isinstance(answer, JobFailed):
        return {**row, "status": "failed", "error_cause": answer.cause, "error_reason": answer.reason}
    fields = {name: getattr(answer.result, name) for name in _PROPERTIES.get(answer.kind, {})}
    fields |= {name: value for name, value in answer.result.model_dump(mode="json").items() if name in columns}
    cells = {name: _cell(value) for name, value in fields.items()}
    return {**row, **cells, "status": "completed", "cost_usd": answer.usage.cost_usd}


def _cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


def failed(row: Row) -> bool:
    """Whether a row of any layout tells of a failure."""
    return bool(row.get("error")) or row.get("status") == "failed"


class Answered:
    """Which lines have a row: a byte for each line of the file."""

    def __init__(self) -> None:
        self._lines = bytearray()
        self.rows = 0
        self.failed = 0

    def __contains__(self, line: int) -> bool:
        return line < len(self._lines) and self._lines[line] == 1

    def add(self, line: int, *, failed: bool) -> None:
        if line >= len(self._lines):
            self._lines.extend(bytes(max(line + 1 - len(self._lines), len(self._lines))))
        self._lines[line] = 1
        self.rows += 1
        self.failed += failed


@dataclass(frozen=True, slots=True)
class Written:
    """What a file of answers holds. `end` is where its last complete record ends; `spoilt` tells of records to drop."""

    answered: Answered
    end: int
    spoilt: bool


def written(file: BinaryIO, rows: Rows, *, retry_failed: bool) -> Written:
    """Read a file of answers back. Raises `InvalidJob` if it has another header."""
    answered, end, spoilt = Answered(), 0, False
    for record in rows.records(file):
        if end or not rows.header:
            row = kept_row(record, rows, retry_failed=retry_failed)
            if row is None:
                spoilt = True
            else:
                answered.add(row["line"], failed=failed(row))
        elif record != rows.header:
            raise InvalidJob("its first line names other columns than this version writes")
        end += len(record)
    return Written(answered, end, spoilt)


def kept_row(record: bytes, rows: Rows, *, retry_failed: bool) -> Row | None:
    """The row of a record that stays: not one that a power cut has spoilt, nor a failed one to be asked again."""
    try:
        row = rows.decoded(record)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("line"), int):
        return None
    return None if retry_failed and failed(row) else row


class InOrder:
    """Holds rows back until all lines before theirs have one. `most` bounds how many lines are on their way or held."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: deque[int] = deque()
        self._held: dict[int, Row] = {}

    @property
    def full(self) -> bool:
        return len(self._begun) >= self._most

    def begin(self, line: int) -> None:
        self._begun.append(line)

    def due(self, line: int, row: Row) -> Iterator[Row]:
        """The rows whose turn it is, now that a line has its own."""
        self._held[line] = row
        while self._begun and self._begun[0] in self._held:
            yield self._held.pop(self._begun.popleft())
