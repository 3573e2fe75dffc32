"""Files of jobs: CSV, TSV, JSONL and Parquet. Read line by line, whatever their size; a line that is none is named."""

import csv
import gzip
import hashlib
import io
import sqlite3
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from pydantic_core import from_json

from shoal.errors import InvalidJob
from shoal.jobs import MAX_SUMMARY_TEXT_CHARS

Row = dict[str, Any]

SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
DELIMITERS = {"csv": ",", "tsv": "\t"}
STANDARD_INPUT = Path("-")
#: The module's own limit is 131,072. An open quote must not take in the rest of a file.
MAX_CELL_CHARS = 2 * MAX_SUMMARY_TEXT_CHARS
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 20


class Form(NamedTuple):
    """What a file holds, and whether it is gzipped."""

    name: str
    gzipped: bool = False


def form_of(path: Path, named: str | None, option: str) -> Form:
    """A file's form by its suffix, unless it is named by `option`.

    Raises `InvalidJob`, and `SettingsError` where the form needs what is not installed.
    """
    gzipped = path.suffix.lower() == ".gz"
    suffix = Path(path.stem).suffix if gzipped else path.suffix
    name = named or SUFFIXES.get(suffix.lower())
    if name is None:
        raise InvalidJob(f"{path.name}: the suffix says no format: let it be {', '.join(SUFFIXES)}, or give {option}")
    if gzipped and name == "parquet":
        raise InvalidJob(f"{path.name}: Parquet is compressed by itself: leave .gz out")
    if name == "parquet":
        import_module("shoal.parquet")
    return Form(name, gzipped)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file: a job's arguments, or the fault that makes it none. `custom_id` is the caller's name for it."""

    number: int
    values: Row
    custom_id: str | None = None
    fault: str | None = None


class Measure(NamedTuple):
    """A file as a whole. `lines` is what a progress bar may expect: a CSV cell with line breaks counts too often."""

    sha256: str
    lines: int


@dataclass(frozen=True, slots=True)
class Source:
    """A file of jobs. `text_column` names the column that holds the text; without one the columns are the arguments."""

    path: Path
    form: Form
    text_column: str | None = None

    @property
    def name(self) -> str:
        return "standard input" if self.path == STANDARD_INPUT else self.path.name

    @property
    def rereadable(self) -> bool:
        """Not so standard input and pipes: what was read of them is gone."""
        return self.path.is_file()

    def measure(self) -> Measure | None:
        """What the file is known by, in one quick pass over its bytes; None if it can be read once only.

        Raises `InvalidJob`.
        """
        if not self.rereadable:
            return None
        digest, lines, last = hashlib.sha256(), 0, b"\n"
        try:
            with _opened(self.path, self.form) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    lines += chunk.count(b"\n")
                    last = chunk[-1:]
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise InvalidJob(f"{self.name}: not a gzip file, or one that was cut") from None
        lines += last != b"\n"
        if self.form.name == "parquet":
            from shoal import parquet

            lines = parquet.row_count(self.path)
        elif self.form.name in DELIMITERS:
            lines = max(0, lines - 1)
        return Measure(digest.hexdigest(), lines)

    def lines(self) -> Iterator[Line]:
        """Each line in its order. A name that two lines share makes the second one a fault.

        Raises `InvalidJob` where the whole file lacks the column of the text.
        """
        with CustomIds() as names:
            for number, row in self._rows():
                line = Line(number, {}, fault=row) if isinstance(row, str) else line_of(number, row, self.text_column)
                first = number if line.custom_id is None else names.first_line(line.custom_id, number)
                if first != number:
                    line = Line(number, {}, line.custom_id, f"custom_id: line {first} has the same one")
                yield line

    def _rows(self) -> Iterator[tuple[int, Row | str]]:
        if self.form.name == "parquet":
            from shoal import parquet

            yield from parquet.rows(self.path, self._needed)
            return
        with _opened(self.path, self.form) as file:
            if self.form.name == "jsonl":
                yield from _json_rows(file)
            else:
                yield from self._table_rows(file)

    def _table_rows(self, file: BinaryIO) -> Iterator[tuple[int, Row | str]]:
        # What is no UTF-8 is kept as surrogates, which no argument may hold: the line fails and the others go on.
        with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            reader = csv_reader(text, DELIMITERS[self.form.name])
            header: list[str] = next(reader, [])
            self._needed(header)
            for number, cells in _table_rows(reader):
                if isinstance(cells, str):
                    yield number, f"no row: {cells}"
                elif len(cells) > len(header):
                    yield number, f"no row: {len(cells)} cells under {len(header)} columns"
                elif cells:
                    yield number, dict(zip(header, cells, strict=False))

    def _needed(self, columns: Iterable[str]) -> list[str]:
        """The columns to read of those that are there. Raises `InvalidJob`."""
        there = list(columns)
        if self.text_column is None:
            return there
        if self.text_column not in there:
            raise InvalidJob(f"{self.name}: no column {self.text_column!r}; there are: {', '.join(there)}")
        return [name for name in there if name in {self.text_column, "custom_id"}]


def _opened(path: Path, form: Form) -> BinaryIO:
    if path == STANDARD_INPUT:
        return sys.stdin.buffer
    return gzip.open(path) if form.gzipped else path.open("rb")  # type: ignore[return-value]  # it reads like one


def csv_reader(lines: Iterable[str], delimiter: str) -> Any:
    """The standard library's reader, with room for our texts. What it gives has no name there."""
    csv.field_size_limit(MAX_CELL_CHARS)
    return csv.reader(lines, delimiter=delimiter)


def _table_rows(reader: Any) -> Iterator[tuple[int, list[str] | str]]:
    """Each row's cells, or what is wrong with it; the reader goes on behind a fault."""
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells = str(error)
        yield reader.line_num, cells


def _json_rows(file: BinaryIO) -> Iterator[tuple[int, Row | str]]:
    for number, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            row = from_json(text.removeprefix(_BYTE_ORDER_MARK), allow_inf_nan=False)
        except ValueError as error:
            yield number, f"not JSON: {error}"
            continue
        yield number, row if isinstance(row, dict) else 'not an object: write {"text": "…"}'


def line_of(number: int, row: Row, text_column: str | None) -> Line:
    """A row as a job's arguments: it holds them itself, or in `body` as a line of an OpenAI batch does."""
    name = row.pop("custom_id", None)
    body = row.get("body")
    if name is not None and isinstance(body, dict):
        row = body
    if not _is_name(name):
        return Line(number, {}, fault="custom_id: a string is needed")
    custom_id = None if name in {None, ""} else str(name)
    if text_column is not None and text_column not in row:
        return Line(number, {}, custom_id, f"{text_column}: missing")
    if text_column is not None:
        return Line(number, {"text": row[text_column]}, custom_id)
    if "messages" in row:
        fault = 'messages: chat is no kind of job; give the arguments of one, as in "body": {"text": "…"}'
        return Line(number, {}, custom_id, fault)
    return Line(number, row, custom_id)


def _is_name(value: object) -> bool:
    if not isinstance(value, str):
        return value is None or isinstance(value, int)
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class CustomIds:
    """Which line had a name first. In a temporary database that spills to disk: millions of names take no memory."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE names (name TEXT PRIMARY KEY, line INTEGER NOT NULL) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def first_line(self, name: str, line: int) -> int:
        """The line that had the name first: this one, or an earlier one."""
        if self._database.execute("INSERT OR IGNORE INTO names VALUES (?, ?)", (name, line)).rowcount:
            return line
        [(first,)] = self._database.execute("SELECT line FROM names WHERE name = ?", (name,))
        assert isinstance(first, int)
        return first
