"""What the fault matrix must know of a store: how it is reached, and what it holds. One class a store.

A further store is a further `Store` in `STORES`; the matrix and the soak then run on it.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psycopg
import redis
from pydantic import SecretStr

from conftest import Kept
from postgres_server import Postgres
from shoal import wire
from shoal.jobs import DeadLetter
from shoal_worker import services
from shoal_worker.stores.migrations import migrate


class StoreAway(Exception):
    """The store did not answer: the fault may be that."""


@dataclass(frozen=True)
class Spent:
    """Calls by the store's own ledger."""

    billed: int
    maybe_billed: int


class Server:
    """A server process that can be killed, frozen and started again on the same port and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = services.free_port()
        self.tree = services.Services(os.environ, folder)

    def start(self) -> str:
        """Raises `ServiceFailed`."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        return self.tree.started[0].process.pid

    def kill(self) -> None:
        service = self.tree.started.pop()
        service.process.kill()
        service.process.wait()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        while self.tree.started:
            self.kill()


class Valkey(Server):
    def start(self) -> str:
        return services.start_valkey(self.tree, self.port, self.folder)

    def forget(self) -> None:
        """Remove its data; it must not run."""
        shutil.rmtree(self.folder / "appendonlydir")


class Store(Protocol):
    """The queue and the store of one cell. All that looks raises `StoreAway`."""

    name: str
    valkey: Valkey
    redis_url: str

    def settings(self) -> dict[str, str]:
        """What producers and workers are told, as `SHOAL_*` settings in lower case."""
        ...

    def answers(self, job_ids: Iterable[str]) -> dict[str, bytes]:
        """The stored records of those jobs that have one, failures included."""
        ...

    def announced(self) -> list[tuple[str, bytes]]:
        """Job ids and records announced since this was last asked."""
        ...

    def letters(self) -> dict[str, DeadLetter]:
        """All dead letters, by job id."""
        ...

    def unsettled(self) -> int:
        """How many messages wait, are parked or are unacknowledged."""
        ...

    def spent(self) -> Spent:
        """Calls that are still open count as maybe billed: their worker may be gone."""
        ...

    def recover(self) -> bool:
        """What a person does after the queue has lost its data; whether that brings the jobs back."""
        ...

    def stop(self) -> None: ...


class RedisStore:
    """Queue and results on one Valkey."""

    name = "redis"

    def __init__(self, folder: Path) -> None:
        self.valkey = Valkey(folder)
        self.redis_url = self.valkey.start()
        # No retries: the watcher looks again by itself, and must not hang while the server is frozen.
        self.client: Any = redis.Redis.from_url(self.redis_url, socket_timeout=1, socket_connect_timeout=1, retry=None)
        self._announcements: Any = None
        self.kept = Kept(self.redis_url, None)

    def settings(self) -> dict[str, str]:
        return {"redis_url": self.redis_url}

    def answers(self, job_ids: Iterable[str]) -> dict[str, bytes]:
        ids = list(job_ids)
        with _away():
            found = self.client.mget([wire.result_record(job_id) for job_id in ids]) if ids else []
        return {job_id: record for job_id, record in zip(ids, found, strict=True) if record is not None}

    def announced(self) -> list[tuple[str, bytes]]:
        said: list[tuple[str, bytes]] = []
        try:
            with _away():
                if self._announcements is None:
                    self._announcements = self.client.pubsub(ignore_subscribe_messages=True)
                    self._announcements.psubscribe(f"{wire.RESULT_PREFIX}*")
                while self._announcements.connection.can_read(timeout=0):
                    if one := self._announcements.get_message(timeout=0):
                        said.append((one["channel"].decode().removeprefix(wire.RESULT_PREFIX), one["data"]))
        except StoreAway:
            self._announcements = None
            if not said:
                raise
        return said

    def letters(self) -> dict[str, DeadLetter]:
        with _away():
            return {job_id: DeadLetter.model_validate_json(text) for job_id, text in self.kept.letters().items()}

    def unsettled(self) -> int:
        with _away(), self.client.pipeline() as asked:
            asked.llen(wire.QUEUE).llen(wire.BULK_QUEUE).hlen("unacked").zcard(wire.parked(wire.QUEUE)).llen(
                wire.UNDECODABLE
            )
            return sum(asked.execute())

    def spent(self) -> Spent:
        with _away():
            cost = self.kept.cost()
            return Spent(cost.billed_calls, cost.maybe_calls + self.kept.open_calls())

    def recover(self) -> bool:
        return False

    def stop(self) -> None:
        self.client.close()
        self.valkey.stop()


class PostgresStore(RedisStore):
    """The queue on a Valkey, jobs and results on a Postgres."""

    name = "postgres"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # Not in the test's folder, which only its owner may enter: the server may be another user's.
        self.postgres = Postgres(Path(tempfile.mkdtemp(prefix="shoal-postgres-")), settings=("max_connections=30",))
        self.postgres.create()
        self.postgres.start()
        migrate(SecretStr(self.postgres.url))
        self.kept = Kept(self.redis_url, self.postgres.url)
        self._listener: psycopg.Connection | None = None

    def settings(self) -> dict[str, str]:
        return {"redis_url": self.redis_url, "result_url": self.postgres.url}

    def answers(self, job_ids: Iterable[str]) -> dict[str, bytes]:
        with _away(), psycopg.connect(self.postgres.url, connect_timeout=2, autocommit=True) as connection:
            rows = connection.execute(
                "SELECT job_id, coalesce(exact, record::text) FROM shoal.endings WHERE job_id = ANY(%s)",
                (list(job_ids),),
            )
            return {job_id: record.encode() for job_id, record in rows}

    def announced(self) -> list[tuple[str, bytes]]:
        try:
            with _away():
                if self._listener is None:
                    self._listener = psycopg.connect(self.postgres.url, connect_timeout=2, autocommit=True)
                    self._listener.execute("LISTEN shoal_endings")
                notices = self._listener.notifies(timeout=0)
                ids = [job_id for notice in notices for job_id in notice.payload.split(",")]
                records = self.answers(ids) if ids else {}
                return [(job_id, records[job_id]) for job_id in ids]
        except StoreAway:
            self._unlisten()
            raise

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._listener = None

    def unsettled(self) -> int:
        with _away():
            [(in_outbox,)] = self.kept.sql("SELECT count(*) FROM shoal.jobs WHERE due_at IS NOT NULL")
        return super().unsettled() + int(in_outbox)

    def recover(self) -> bool:
        environ = {**os.environ, **{f"SHOAL_{name.upper()}": value for name, value in self.settings().items()}}
        command = [sys.executable, "-c", "from shoal.cli import main; main()", "recover"]
        subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL, timeout=60)
        return True

    def stop(self) -> None:
        super().stop()
        self._unlisten()
        if self.postgres.process is not None and self.postgres.process.poll() is None:
            self.postgres.send(signal.SIGCONT)
            self.postgres.stop(signal.SIGQUIT)
        shutil.rmtree(self.postgres.folder, ignore_errors=True)


@contextlib.contextmanager
def _away() -> Any:
    try:
        yield
    except (redis.RedisError, psycopg.Error, OSError) as error:
        raise StoreAway(type(error).__name__) from None


STORES: dict[str, Callable[[Path], Store]] = {"redis": RedisStore, "postgres": PostgresStore}
