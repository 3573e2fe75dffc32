"""Files of jobs: CSV and JSONL in, JSONL out. Read and written line by line, whatever their size."""

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shoal.errors import InvalidJob, JobFailed
from shoal.jobs import Outcome

Row = dict[str, Any]


def rows(path: Path, text_column: str | None, common: Row) -> Iterator[tuple[int, Row]]:
    """Each line's number and its job's arguments, laid over the common ones. Raises `InvalidJob` naming the line."""
    read = _csv_rows if path.suffix.lower() in {".csv", ".tsv"} else _jsonl_rows
    for line, row in read(path):
        if text_column is None:
            yield line, {**common, **row}
        elif row.get(text_column):
            yield line, {**common, "text": row[text_column]}
        else:
            raise InvalidJob(f"{path.name}, line {line}: no column {text_column!r}; there are: {', '.join(row)}")


def _csv_rows(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        for row in reader:
            yield reader.line_num, row


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except ValueError as error:
                raise InvalidJob(f"{path.name}, line {line}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise InvalidJob(f'{path.name}, line {line}: an object is needed, as in {{"text": "…"}}')
            yield line, row


def line_count(path: Path) -> int:
    """How many rows a file has, for the progress bar."""
    if path.suffix.lower() in {".csv", ".tsv"}:
        return sum(1 for _ in _csv_rows(path))
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def answer_row(line: int, answer: Outcome[Any] | JobFailed) -> Row:
    """One line of the output."""
    if isinstance(answer, JobFailed):
        return {"line": line, "job_id": answer.job_id, "error": {"cause": answer.cause, "reason": answer.reason}}
    return {"line": line, **answer.model_dump(mode="json")}


@contextlib.contextmanager
def writer(path: Path | None) -> Iterator[Callable[[Row], None]]:
    """Writes rows as JSONL to a file or to standard output."""
    with contextlib.ExitStack() as stack:
        file = sys.stdout if path is None else stack.enter_context(path.open("w", encoding="utf-8"))
        yield lambda row: print(json.dumps(row, ensure_ascii=False), file=file)


def json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
