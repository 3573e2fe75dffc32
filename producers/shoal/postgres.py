"""Postgres for many coroutines at once: one pool, and calls of one statement that leave together.

While one statement is on its way, further calls gather and become the next one: under load a hundred jobs share a
round trip and a commit, alone a job waits for nobody. Every statement here is safe to repeat, because a lost reply is
asked again.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from pydantic import SecretStr

#: Most calls in one statement, and most characters in it.
MAX_CALLS = 150
MAX_CHARS = 4_000_000
CONNECT_SECONDS = 5
#: A server that is gone without a word is given up after this long.
TCP_SECONDS = 15
#: No statement of ours takes a second; one that waits longer than this is ended by the server.
STATEMENT_SECONDS = 30

Row = tuple[Any, ...]

#: What is no fault of the statement: a server that restarts, is full, has no connection left, or is read-only.
_AWAY_STATES = frozenset({psycopg.errors.ReadOnlySqlTransaction.sqlstate})


def statement(package: str, name: str) -> str:
    """The text of `sql/<name>.sql` of a package."""
    return files(package).joinpath("sql", f"{name}.sql").read_text()


def is_away(error: BaseException) -> bool:
    """Whether asking again later may help."""
    if isinstance(error, psycopg.Error) and error.sqlstate in _AWAY_STATES:
        return True
    return isinstance(error, (psycopg.OperationalError, OSError))


def in_words(error: BaseException) -> str:
    """The first line of what the driver says: why it was not reached, or the server's words.

    Not for errors of the URL itself, which is in them with its password.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


def is_certificate_fault(error: BaseException) -> bool:
    """Whether the server's certificate was not taken, or could not be checked. libpq has no code for it."""
    return isinstance(error, psycopg.OperationalError) and "certificate" in str(error)


class Database:
    """One pool of connections, opened at the first use, on the loop of the first use."""

    def __init__(self, url: SecretStr, *, max_connections: int = 8) -> None:
        self._url = url.get_secret_value()
        self._max_connections = max_connections
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection] | None = None
        self._was_connected = False

    async def connect(self) -> psycopg.AsyncConnection:
        """A connection beside the pool, for listening."""
        return await psycopg.AsyncConnection.connect(self._url, autocommit=True, **_options())

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection]:
        """A connection for some statements. Raises psycopg's errors."""
        if self._pool is None:
            self._pool = AsyncConnectionPool(
                self._url,
                kwargs={"autocommit": True, **_options()},
                min_size=1,
                max_size=self._max_connections,
                timeout=CONNECT_SECONDS,
                open=False,
                name="shoal",
            )
            await self._pool.open()
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(self._pool.connection())
            except PoolTimeout:
                if not self._was_connected:
                    # The pool tells only its log why; a connection of our own raises it.
                    await (await self.connect()).close()
                raise
            self._was_connected = True
            yield connection

    async def rows(self, sql: str, values: Mapping[str, Any]) -> list[Row]:
        """Run one statement; the rows it gives, none for one that gives none."""
        async with self.connection() as connection:
            cursor = await connection.execute(sql.encode(), values)
            return await cursor.fetchall() if cursor.description else []

    def grouped(self, sql: str, columns: Sequence[str], **constants: float) -> "Grouped":
        """One statement as a verb for many coroutines."""

        async def run(arrays: dict[str, Any]) -> list[Row]:
            return await self.rows(sql, {**arrays, **constants})

        return Grouped(columns, run)

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._pool.close()


def _options() -> dict[str, Any]:
    return {
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": TCP_SECONDS,
        "tcp_user_timeout": TCP_SECONDS * 1000,
        "options": f"-c statement_timeout={STATEMENT_SECONDS}s -c idle_in_transaction_session_timeout=60s",
        "application_name": "shoal",
    }


class Grouped:
    """One statement for the calls of many coroutines: each column goes as one array, rows come back by their id.

    `columns` names the values of a call, the id first. No id is twice in one statement.
    """

    def __init__(self, columns: Sequence[str], run: Callable[[dict[str, Any]], Awaitable[list[Row]]]) -> None:
        self._columns = tuple(columns)
        self._run = run
        self._waiting: deque[tuple[Row, asyncio.Future[Row | None]]] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def call(self, *values: Any) -> Row | None:
        """The row with this call's id, if the statement gives one. Raises psycopg's errors."""
        future: asyncio.Future[Row | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((values, future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return await future

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                await self._send(list(self._next_batch()))
        finally:
            self._sender = None

    def _next_batch(self) -> Iterator[tuple[Row, asyncio.Future[Row | None]]]:
        ids: set[str] = set()
        chars = 0
        later = []
        while self._waiting and len(ids) < MAX_CALLS and (chars < MAX_CHARS):
            values, future = self._waiting.popleft()
            if values[0] in ids:
                later.append((values, future))
                continue
            ids.add(values[0])
            chars += sum(len(value) for value in values if isinstance(value, str))
            yield values, future
        self._waiting.extendleft(reversed(later))

    async def _send(self, batch: list[tuple[Row, "asyncio.Future[Row | None]"]]) -> None:
        try:
            rows = await self._rows([values for values, _ in batch])
        except Exception as error:  # noqa: BLE001 it belongs to who called
            if len(batch) == 1 or is_away(error):
                _settle(batch, error)
                return
            # One of them is what the server refuses; it must not take the others with it.
            for one in batch:
                await self._send([one])
        except BaseException:
            _settle(batch, psycopg.OperationalError("given up while it was sent"))
            raise
        else:
            found = {row[0]: row for row in rows}
            for values, future in batch:
                if not future.done():
                    future.set_result(found.get(values[0]))

    async def _rows(self, calls: list[Row]) -> list[Row]:
        return await self._run(dict(zip(self._columns, map(list, zip(*calls, strict=True)), strict=True)))


def _settle(batch: list[tuple[Row, "asyncio.Future[Row | None]"]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)


def storable(text: str) -> str:
    """A text as Postgres can hold it: without NUL and without half surrogate pairs."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def exact_or_json(text: str) -> tuple[str, str | None]:
    r"""JSON text as JSONB can hold it, and the text itself where that is not the same: JSONB knows no `\u0000`."""
    if "\\u" not in text:
        return text, None
    return json.dumps(_storable(json.loads(text)), ensure_ascii=False), text


def _storable(value: Any) -> Any:
    match value:
        case str():
            return storable(value)
        case list():
            return [_storable(item) for item in value]
        case dict():
            return {storable(name): _storable(item) for name, item in value.items()}
        case _:
            return value
