"""The tables in Postgres: plain SQL files, applied in their order, each once.

Safe under concurrent starts: a lock in the database lets one go first, and the others find it done.
"""

from collections.abc import Sequence
from importlib.resources import files

import psycopg
import structlog
from pydantic import SecretStr

from shoal.errors import SettingsError
from shoal.postgres import in_words, is_certificate_fault

log = structlog.get_logger()

#: Any number will do that nobody else uses: "shoal" in ASCII.
_LOCK = 0x73686F616C
_TABLE = b"""
    CREATE SCHEMA IF NOT EXISTS shoal;
    CREATE TABLE IF NOT EXISTS shoal.migrations (
      name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
"""


def known() -> list[tuple[str, str]]:
    """Name and text of each migration, in order."""
    folder = files("shoal_worker.stores").joinpath("sql", "migrations")
    return sorted((file.name.removesuffix(".sql"), file.read_text()) for file in folder.iterdir())


def migrate(url: SecretStr) -> list[str]:
    """Apply what is missing; the names of what was applied. Raises psycopg's errors; then nothing has changed."""
    applied = []
    with psycopg.connect(url.get_secret_value(), connect_timeout=10) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        connection.execute(_TABLE)
        done = {name for (name,) in connection.execute("SELECT name FROM shoal.migrations")}
        for name, text in known():
            if name not in done:
                connection.execute(text.encode())
                connection.execute("INSERT INTO shoal.migrations (name) VALUES (%s)", (name,))
                applied.append(name)
    return applied


def missing(connection: psycopg.Connection) -> list[str]:
    """The names of the migrations that the database lacks, in their order. Raises psycopg's errors."""
    [(there,)] = connection.execute("SELECT to_regclass('shoal.migrations') IS NOT NULL").fetchall()
    done = {name for (name,) in connection.execute("SELECT name FROM shoal.migrations")} if there else set()
    return [name for name, _ in known() if name not in done]


def lacks(names: Sequence[str]) -> str:
    return f"the database lacks {', '.join(names)}"


def check(url: SecretStr) -> None:
    """Raises `SettingsError` when the database has not all the tables that this version needs.

    One that is away is no mistake: jobs wait for it. One whose certificate is not valid is.
    """
    try:
        with psycopg.connect(url.get_secret_value(), connect_timeout=10, autocommit=True) as connection:
            names = missing(connection)
    except psycopg.OperationalError as error:
        if is_certificate_fault(error):
            raise SettingsError(f"Postgres cannot be asked: {in_words(error)}") from None
        log.warning("store_is_away", error=type(error).__name__)
        return
    if names:
        raise SettingsError(f"{lacks(names)}: run `shoal migrate`")
