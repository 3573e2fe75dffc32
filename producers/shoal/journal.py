"""The output of `shoal submit`: rows are appended to it, and after a stop they say what is left to do.

Beside the output stands `OUTPUT.state`, which tells whose answers they are. An output that cannot be appended to
(Parquet, gzip) is kept as `OUTPUT.partial` until all its rows are there.
"""

import contextlib
import fcntl
import gzip
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from shoal.answers import Answered, Layout, failed, kept_row, written
from shoal.errors import InvalidJob
from shoal.files import Form, Row

_STATE_VERSION = 1
_START_ANEW = "name another output, or begin anew with --restart"


class Claim(NamedTuple):
    """Whose answers an output holds. `input_sha256` is None for what can be read once only."""

    input_sha256: str | None
    asked_sha256: str
    ordered: bool


class Journal:
    """Rows that are appended to a file, and the lines that have one."""

    def __init__(self, file: BinaryIO, layout: Layout, answered: Answered) -> None:
        self._file = file
        self.layout = layout
        self.answered = answered

    def write(self, row: Row) -> None:
        self._file.write(self.layout.rows.encoded(row))
        self._file.flush()
        self.answered.add(row["line"], failed=failed(row))

    def sync(self) -> None:
        """Let what is written outlive a power cut."""
        if self._file.seekable():
            os.fsync(self._file.fileno())


@dataclass(frozen=True, slots=True)
class Output:
    """A file of answers and what stands beside it."""

    path: Path
    form: Form
    layout: Layout

    @property
    def packed(self) -> bool:
        """Whether rows cannot be appended to it."""
        return self.form.gzipped or self.form.name == "parquet"

    @property
    def journal(self) -> Path:
        return self._beside("partial") if self.packed else self.path

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{suffix}")

    @contextlib.contextmanager
    def opened(self, claim: Claim, *, restart: bool, retry_failed: bool) -> Iterator[Journal]:
        """The journal of the rows so far, made whole; the output, when all its rows are there.

        Raises `InvalidJob` if they are somebody else's.
        """
        with self._beside("state").open("a+b") as state:
            self._lock(state)
            found = _got(state)
            self._check(claim, found, restart=restart)
            if restart:
                self.path.unlink(missing_ok=True)
                self.journal.unlink(missing_ok=True)
                _sync_folder(self.path)
            if found != claim:
                _put(state, claim)
            self._unpack()
            file, answered = self._continued(retry_failed=retry_failed)
            with file:
                _sync_folder(self.path)
                yield Journal(file, self.layout, answered)
                os.fsync(file.fileno())
            self._pack()

    def _lock(self, state: BinaryIO) -> None:
        """Held as long as the file is open; it ends with its process, however that ends."""
        try:
            fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidJob(f"another `shoal submit` is writing {self.path.name}: wait for it or stop it") from None

    def _check(self, claim: Claim, found: Claim | None, *, restart: bool) -> None:
        """Raise `InvalidJob` if there are rows that are not to be added to. What is not ours is never thrown away."""
        if not any(path.exists() and self._has_rows(path) for path in (self.path, self.journal)):
            return
        if found is None:
            self._beside("state").unlink()
            raise InvalidJob(f"{self.path.name} is there, and no output of `shoal submit`: name another, or remove it")
        if not restart and (fault := difference(claim, found)):
            raise InvalidJob(f"{self.path.name} {fault}: {_START_ANEW}")

    def _has_rows(self, path: Path) -> bool:
        """Whether there is more than a header, or the beginning of one."""
        header = self.layout.rows.header
        return path.stat().st_size > len(header) or not header.startswith(path.read_bytes())

    def _unpack(self) -> None:
        """Make the rows of a finished output a journal again."""
        if not self.packed or self.journal.exists() or not self.path.exists():
            return
        new = self._beside("new")
        with new.open("wb") as file:
            if self.form.gzipped:
                with gzip.open(self.path) as packed:
                    shutil.copyfileobj(packed, file)
            else:
                from shoal import parquet

                for _, row in parquet.rows(self.path, lambda names: names):
                    file.write(self.layout.rows.encoded({**dict.fromkeys(self.layout.columns), **row}))
        _replace(new, self.journal)

    def _continued(self, *, retry_failed: bool) -> tuple[BinaryIO, Answered]:
        file = self.journal.open("a+b")
        file.seek(0)
        try:
            found = written(file, self.layout.rows, retry_failed=retry_failed)
        except InvalidJob as error:
            file.close()
            raise InvalidJob(f"{self.journal.name}: {error}: {_START_ANEW}") from None
        if found.spoilt:
            file.close()
            self._rewrite(retry_failed=retry_failed)
            return self.journal.open("a+b"), found.answered
        file.truncate(found.end)
        if not found.end:
            file.write(self.layout.rows.header)
        return file, found.answered

    def _rewrite(self, *, retry_failed: bool) -> None:
        """The journal without the rows that do not stay."""
        rows, new = self.layout.rows, self._beside("new")
        with self.journal.open("rb") as old, new.open("wb") as file:
            for record in rows.records(old):
                if record == rows.header or kept_row(record, rows, retry_failed=retry_failed) is not None:
                    file.write(record)
        _replace(new, self.journal)

    def _pack(self) -> None:
        """Make a finished journal the output."""
        if not self.packed:
            return
        new, rows = self._beside("new"), self.layout.rows
        with self.journal.open("rb") as file:
            if self.form.gzipped:
                with gzip.open(new, "wb") as packed:
                    shutil.copyfileobj(file, packed)
            else:
                from shoal import parquet

                parquet.write(new, self.layout.columns, (rows.decoded(record) for record in rows.records(file)))
        _replace(new, self.path)
        self.journal.unlink()


def terminal(layout: Layout) -> Journal:
    """Rows to standard output, where nobody reads them back."""
    sys.stdout.buffer.write(layout.rows.header)
    return Journal(sys.stdout.buffer, layout, Answered())


def difference(claim: Claim, found: Claim) -> str | None:
    """Why rows that are there cannot be gone on with; None if they can."""
    if claim.input_sha256 is None:
        return "has rows already, and the input can be read once only, so that nobody knows where it was left"
    if claim.input_sha256 != found.input_sha256:
        return "has the answers of another input, or of this one as it was before a change"
    if claim.asked_sha256 != found.asked_sha256:
        return "has answers to other arguments"
    if claim.ordered != found.ordered:
        return f"was begun {'with' if found.ordered else 'without'} --ordered"
    return None


def _got(state: BinaryIO) -> Claim | None:
    state.seek(0)
    try:
        fields: dict[str, Any] = json.loads(state.read())
        return Claim(**{name: fields[name] for name in Claim._fields}) if fields["version"] == _STATE_VERSION else None
    except (ValueError, LookupError, TypeError):
        return None


def _put(state: BinaryIO, claim: Claim) -> None:
    state.truncate(0)
    state.write(json.dumps({"version": _STATE_VERSION, **claim._asdict()}).encode() + b"\n")
    state.flush()
    os.fsync(state.fileno())


def _replace(new: Path, old: Path) -> None:
    """Put a new file in an old one's place so that one of both is there at any moment."""
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(old)
    _sync_folder(old)


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
