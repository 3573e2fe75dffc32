"""The jobs of a run: one, or one for each row of a file or of a query's answer."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from pydantic import SecretStr

from shoal.errors import InvalidJob, SettingsError
from shoal.files import Line, line_of
from shoal.jobs import Args
from shoal.postgres import is_away
from shoal.submission import arguments
from shoal_worker.schedule import Entry, Fault

#: So many rows of a file `shoal schedule check` looks at.
CHECKED_ROWS = 1_000
_SHOWN_FAULTS = 5
_ROWS_PER_FETCH = 500
#: The class of errors in a statement's text: syntax, names, rights.
_WRONG_QUERY = "42"


class SourceFailed(Exception):
    """The rows cannot be read: to ask again would not help. The message holds none of them."""


class SourceAway(Exception):
    """The database does not answer: to ask again may help."""


async def rows_of(entry: Entry, folder: Path, database: SecretStr | None) -> AsyncGenerator[Line]:
    """The lines of the jobs of a run, faulty ones too. Raises `SourceFailed`, `SourceAway`."""
    if entry.is_single:
        yield Line(1, {})
    elif entry.file is not None:
        for line in _file_lines(entry, folder):
            yield line
    else:
        assert database is not None
        async for line in _query_lines(entry, database):
            yield line


def job_of(entry: Entry, line: Line) -> Args[Any]:
    """A row's job: its columns over the entry's arguments. Raises `InvalidJob`."""
    if line.fault is not None:
        raise InvalidJob(line.fault)
    return arguments(entry.kind, {**entry.args, **line.values})


def _file_lines(entry: Entry, folder: Path) -> Iterator[Line]:
    try:
        yield from entry.source(folder).lines()
    except OSError as error:
        raise SourceFailed(f"{entry.file}: {error.strerror or 'cannot be read'}") from None
    except (InvalidJob, SettingsError) as error:
        raise SourceFailed(str(error)) from None


async def _query_lines(entry: Entry, database: SecretStr) -> AsyncGenerator[Line]:
    """Read in portions: an answer of millions of rows takes no memory, here or there."""
    try:
        async with await _connection(database) as connection, connection.cursor(name="shoal_beat") as cursor:
            cursor.itersize = _ROWS_PER_FETCH
            await cursor.execute(_as_json(entry))
            number = 0
            async for (row,) in cursor:
                number += 1
                yield line_of(number, row, entry.text_column)
    except psycopg.Error as error:
        raise _source_error(error) from None


async def _connection(database: SecretStr) -> psycopg.AsyncConnection:
    """What a query changes is undone: it reads."""
    connection = await psycopg.AsyncConnection.connect(
        database.get_secret_value(), connect_timeout=5, application_name="shoal beat"
    )
    await connection.set_read_only(True)
    return connection


def _as_json(entry: Entry) -> sql.Composed:
    """The query's rows as the JSON that arguments are made of: dates become strings, numerics numbers."""
    assert entry.query is not None
    query = entry.query.strip().removesuffix(";")
    return sql.SQL("SELECT to_jsonb(line) FROM (\n{}\n) AS line").format(sql.SQL(query))


def _source_error(error: psycopg.Error) -> Exception:
    """Where the query itself is wrong the server says how; its other sentences may quote what it read."""
    name = type(error).__name__
    if is_away(error):
        return SourceAway(f"the database does not answer: {name}")
    of_the_query = (error.sqlstate or "").startswith(_WRONG_QUERY)
    return SourceFailed(f"the database refuses the query: {error.diag.message_primary if of_the_query else name}")


async def faults_of(entry: Entry, folder: Path, database: SecretStr | None) -> list[Fault]:
    """What is wrong with the first rows of an entry: the first faults, and how many more. Raises `SourceAway`."""
    field = "file" if entry.file is not None else "query"
    faults: list[Fault] = []
    try:
        async with aclosing(rows_of(entry, folder, database)) as lines:
            async for line in lines:
                try:
                    job_of(entry, line)
                except InvalidJob as error:
                    faults.append(Fault(entry.name, field, f"line {line.number}: {error}"))
                if line.number >= CHECKED_ROWS:
                    break
    except SourceFailed as error:
        return [Fault(entry.name, field, str(error))]
    if more := faults[_SHOWN_FAULTS:]:
        faults[_SHOWN_FAULTS:] = [Fault(entry.name, field, f"{len(more)} more of the first {CHECKED_ROWS} lines fail")]
    return faults
