"""The schedule file: TOML, one table an entry. Every fault is named with its entry and field, all at once."""

import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSimError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shoal.errors import SettingsError
from shoal.files import Source, form_of
from shoal.jobs import KINDS, Lane
from shoal_worker.timetable import MOST_RUNS, CatchUp, Timetable, next_times

MAX_NAME_CHARS = 100
#: Entries of Shoal's own.
OWN_PREFIX = "shoal-"
_MAX_SECONDS = 366 * 86_400


class Fault(NamedTuple):
    """What is wrong with an entry; `field` '' for the entry itself."""

    entry: str
    field: str
    said: str

    def __str__(self) -> str:
        return f"  {self.entry}.{self.field}: {self.said}" if self.field else f"  {self.entry}: {self.said}"


class Entry(BaseModel):
    """One table of the schedule: when, and the job or the rows to make jobs of."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(max_length=MAX_NAME_CHARS, pattern=r"^[\w.-]+$")
    kind: str
    args: dict[str, Any] = {}
    cron: str | None = None
    every_seconds: int | None = Field(default=None, ge=1, le=_MAX_SECONDS)
    time_zone: str = "UTC"
    jitter_seconds: int = Field(default=0, ge=0, le=86_400)
    catch_up: CatchUp = "latest"
    catch_up_limit: int = Field(default=100, ge=1, le=MOST_RUNS)
    overlap: Literal["allow", "skip"] = "allow"
    #: A file of rows, relative to the schedule's folder; `format` where its suffix does not say it.
    file: str | None = None
    format: Literal["csv", "tsv", "jsonl", "parquet"] | None = None
    query: str | None = None
    text_column: str | None = None
    tenant: str | None = Field(default=None, max_length=100, pattern=r"^[\w.@-]*$")
    lane: Lane | None = None

    @field_validator("kind")
    @classmethod
    def _is_a_kind(cls, value: str) -> str:
        if value not in KINDS:
            raise ValueError(f"{value!r} is no kind: write one of {', '.join(KINDS)}")
        return value

    @field_validator("time_zone")
    @classmethod
    def _is_a_time_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, OSError, ValueError):
            raise ValueError(f"{value!r} is no time zone: write one such as Europe/Berlin") from None
        return value

    @field_validator("cron")
    @classmethod
    def _is_a_cron_expression(cls, value: str) -> str:
        if len(value.split()) != 5:
            raise ValueError(
                f"{value!r} has not five fields: write minute hour day-of-month month day-of-week, as in '0 2 * * *'"
            )
        try:
            comes = next_times(Timetable("", cron=value), 0, 1)
        except CronSimError as error:
            raise ValueError(f"{value!r}: {str(error).lower()}: write a time such as '0 2 * * *'") from None
        if not comes:
            raise ValueError(f"{value!r} never comes: write a time such as '0 2 * * *'")
        return value

    @property
    def timetable(self) -> Timetable:
        return Timetable(
            name=self.name,
            cron=self.cron,
            every_seconds=self.every_seconds,
            time_zone=self.time_zone,
            jitter_seconds=self.jitter_seconds,
            catch_up=self.catch_up,
            catch_up_limit=self.catch_up_limit,
        )

    @property
    def is_single(self) -> bool:
        """Whether a run is one job."""
        return self.file is None and self.query is None

    def source(self, folder: Path) -> Source:
        """The entry's file. Raises `InvalidJob`, `SettingsError`."""
        assert self.file is not None
        path = folder / self.file
        return Source(path, form_of(path, self.format, "format"), self.text_column)


def load(path: Path, *, has_database: bool) -> list[Entry]:
    """The entries of a schedule, which may be none. Raises `SettingsError` that lists every fault."""
    tables = _tables(path)
    entries: list[Entry] = []
    faults: list[Fault] = []
    for name, table in tables.items():
        found, entry = _read(name, table, has_database=has_database)
        faults += found
        entries += [entry] if entry else []
    if faults:
        raise SettingsError("\n".join([f"{path}: the schedule is wrong:", *map(str, faults)]))
    return entries


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        said = f"{path}: {error.strerror}: write a schedule there, or set SHOAL_SCHEDULE_FILE to where it is"
        raise SettingsError(said) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not TOML: {error}") from None


def _read(name: str, table: Any, *, has_database: bool) -> tuple[list[Fault], Entry | None]:
    if not isinstance(table, dict):
        return [Fault(name, "", f"no entry: write its fields under [{name}]")], None
    found = (*_conflicts(table, has_database=has_database), *_argument_faults(table))
    faults = [Fault(name, field, said) for field, said in found]
    if name.startswith(OWN_PREFIX):
        faults.append(Fault(name, "", f"names that begin with {OWN_PREFIX} are Shoal's own: choose another"))
    try:
        entry = Entry(**{**table, "name": name})
    except ValidationError as error:
        return [*faults, *(_in_words(name, fault) for fault in error.errors(include_input=False))], None
    return faults, entry


def _conflicts(table: dict[str, Any], *, has_database: bool) -> Iterator[tuple[str, str]]:
    """What fields say together."""
    if ("cron" in table) == ("every_seconds" in table):
        yield "cron", "give either cron or every_seconds"
    if "time_zone" in table and "cron" not in table:
        yield "time_zone", "is for cron only: every_seconds counts in UTC; leave it out"
    if "file" in table and "query" in table:
        yield "query", "file and query exclude each other: leave one out"
    if "format" in table and "file" not in table:
        yield "format", "says what a file holds, and there is no file: leave it out"
    if "text_column" in table and not {"file", "query"} & table.keys():
        yield "text_column", "names a column of file or query, and there is neither: leave it out"
    if "catch_up_limit" in table and table.get("catch_up") != "all":
        yield "catch_up_limit", 'bounds catch_up = "all": leave it out'
    if "query" in table and not has_database:
        yield "query", "set SHOAL_SCHEDULE_DATABASE_URL to the Postgres that it asks"
    jitter, every = table.get("jitter_seconds"), table.get("every_seconds")
    if isinstance(jitter, int) and isinstance(every, int) and jitter >= every > 0:
        yield "jitter_seconds", f"must be less than every_seconds ({every})"


def _in_words(name: str, fault: Any) -> Fault:
    if fault["loc"][:1] == ("name",):
        said = f"a name has 1 to {MAX_NAME_CHARS} letters, digits, dots, dashes and underscores"
        return Fault(name, "", said)
    field = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, Entry.model_fields.keys() - {"name"}, n=1)
        return Fault(name, field, "no such field" + (f"; did you mean {near[0]}?" if near else ": leave it out"))
    if fault["type"] == "missing":
        return Fault(name, field, f"missing: write {field} = …")
    return Fault(name, field, fault["msg"].removeprefix("Value error, "))


def _argument_faults(table: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Of a single job all that is wrong; of a fan-out what no row can mend."""
    kind, args = table.get("kind"), table.get("args", {})
    if kind not in KINDS or not isinstance(args, dict):
        return
    try:
        KINDS[kind].model_validate(args)
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False):
            if fault["type"] != "missing" or not {"file", "query"} & table.keys():
                yield ".".join(map(str, ("args", *fault["loc"]))), fault["msg"].removeprefix("Value error, ")
    if "text_column" in table and "text" in args:
        yield "args.text", "text_column gives the text of each job: leave one of them out"
    if "text_column" in table and "text" not in KINDS[kind].model_fields:
        yield "text_column", f"{kind} has no text: let columns be named as its arguments are"
