"""`shoal beat` as a process: who leads, and what becomes of runs when it is killed, away, or given nonsense."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from conftest import Kept, Sandbox, Workers, eventually
from receivers import receiver
from shoal import Classify, keys
from shoal.jobs import DeadLetter
from shoal_worker.timetable import run_name

SHOAL = [sys.executable, "-c", "from shoal.cli import main; main()"]
LABELS = ("billing", "bug")
DAY_SECONDS = 86_400


@dataclass
class Beats:
    """Beat processes on one schedule, and what they have written down."""

    environ: dict[str, str]
    folder: Path
    client: "redis.Redis"
    processes: dict[int, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def schedule(self, text: str) -> None:
        (self.folder / "schedule.toml").write_text(text)

    def start(self, **settings: object) -> int:
        """Start one; its process id."""
        given = {f"SHOAL_{name.upper()}": str(value) for name, value in settings.items()}
        with (self.folder / f"beat{len(self.processes)}.log").open("wb") as log:
            environ = {**self.environ, **given}
            process = subprocess.Popen([*SHOAL, "beat"], env=environ, cwd=self.folder, stdout=log, stderr=log)
        self.processes[process.pid] = process
        return process.pid

    def leader(self) -> int | None:
        """The leader's process id."""
        said: Any = self.client.get("shoal:beat:leader")
        return int(re.match(rb"\d+ (\d+)@", said)[1]) if said else None  # type: ignore[index]

    def at(self, name: str, what: str) -> int | None:
        """A time of an entry: `done_at` or `begun_at`."""
        value: Any = self.client.hget(f"shoal:beat:entry:{name}", what)
        return int(value) if value else None

    def last(self, name: str) -> tuple[str, int] | None:
        """Outcome and jobs of an entry's last run."""
        outcome: Any
        jobs: Any
        outcome, jobs = self.client.hmget(f"shoal:beat:entry:{name}", ["outcome", "jobs"])
        return (outcome.decode(), int(jobs)) if outcome else None

    def slept(self, name: str, since: int) -> None:
        """As if the last run had been then."""
        self.client.hset(f"shoal:beat:entry:{name}", "done_at", since)

    def is_past(self, name: str, at: int) -> bool:
        """Whether all runs of an entry until then are settled."""
        return (self.at(name, "done_at") or 0) >= at

    def log(self) -> str:
        """The events of all beats, a line each: `name=value …`."""
        texts = (path.read_text() for path in sorted(self.folder.glob("beat*.log")))
        events = (json.loads(line) for text in texts for line in text.splitlines(keepends=True) if line.endswith("\n"))
        return "".join(" ".join(f"{name}={value}" for name, value in event.items()) + "\n" for event in events)

    def jobs(self) -> set[str]:
        names: Any = self.client.keys("shoal:job:*")
        return {name.decode().removeprefix("shoal:job:") for name in names}

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(20)


@pytest.fixture
def beats(workers: Workers, client: "redis.Redis", tmp_path: Path) -> Iterator[Beats]:
    folder = tmp_path / "beat"
    folder.mkdir()
    started = Beats({**workers.environ, "SHOAL_LEASE_SECONDS": "1"}, folder, client)
    yield started
    for process in started.processes.values():
        process.kill()
        process.wait()


def job_id(name: str, scheduled_at: int, text: str, tenant: str = "") -> str:
    work = keys.fingerprint(Classify(text=text, labels=LABELS))
    return keys.job_id(keys.job_key(tenant, None, work, run_name(name, scheduled_at)))


def reviews(path: Path, texts: list[str]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "body"], *enumerate(texts)])


def run(beats: Beats, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*SHOAL, *words], env=beats.environ, cwd=beats.folder, capture_output=True, text=True, check=False, timeout=60
    )


ENTRY = """
[{name}]
kind = "classify"
args = {{ labels = ["billing", "bug"], text = "charged twice" }}
{more}
"""
ROWS = """
[{name}]
kind = "classify"
args = {{ labels = ["billing", "bug"] }}
text_column = "body"
{more}
"""


def between_hours() -> int:
    """An interval of about an hour whose next run, and last one, are minutes away."""
    return next(every for every in (3_600, 3_700) if 120 < time.time() % every < every - 120)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.chaos)])
def test_with_leaders_killed_and_frozen_in_the_middle_no_run_is_missed_or_doubled(
    beats: Beats, workers: Workers, sandbox: Sandbox, kept: Kept, rounds: int
) -> None:
    """Twice kill -9 and once a freeze in each round, while a fan-out of 500 rows is under way."""
    workers.start()
    texts = [f"charged twice, case {number}" for number in range(500)]
    reviews(beats.folder / "reviews.csv", texts)
    all_of_them = 'catch_up = "all"\ncatch_up_limit = 10_000'
    beats.schedule(
        ENTRY.format(name="tick", more=f"every_seconds = 1\n{all_of_them}")
        + ROWS.format(name="rows", more=f'every_seconds = 2\n{all_of_them}\nfile = "reviews.csv"')
    )
    beats.start()
    first = {name: eventually(partial(beats.at, name, "done_at")) for name in ("tick", "rows")}
    beats.start()
    for how in (signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL) * rounds:
        eventually(lambda: beats.at("rows", "begun_at"), what="a run under way")
        leader = beats.leader()
        assert leader is not None
        os.kill(leader, how)
        begun_at = beats.at("rows", "begun_at")
        eventually(partial(beats.is_past, "rows", begun_at or int(time.time())), what="another leader's runs")
        assert beats.leader() != leader
        if how == signal.SIGSTOP:
            os.kill(leader, signal.SIGCONT)
        else:
            beats.start()
    beats.stop()

    def ids(what: str) -> set[str]:
        ticks = range(first["tick"] + 1, (beats.at("tick", what) or 0) + 1)
        times = range(first["rows"] // 2 * 2 + 2, (beats.at("rows", what) or 0) + 1, 2)
        one_each = {job_id("tick", at, "charged twice") for at in ticks}
        return one_each | {job_id("rows", at, text) for at in times for text in texts}

    # A run that the last stop came into is begun and not done.
    done, begun = ids("done_at"), ids("begun_at")
    assert done <= beats.jobs() <= done | begun
    eventually(lambda: kept.unfinished() == 0, 60, "the end of all jobs")
    assert kept.letters() == {}
    assert kept.answers() == sandbox.bill()["billed_calls"] == len(beats.jobs())
    begins = Counter(re.findall(r"run=(rows@\S+) event=scheduled_run_begins", beats.log()))
    assert max(begins.values()) > 1, "no run was gone on with: nothing was killed in the middle of one"


def test_what_was_missed_is_left_out_made_up_for_once_or_made_up_for(beats: Beats) -> None:
    every = between_hours()
    newest = int(time.time()) // every * every
    for policy in ("skip", "latest", "all"):
        beats.slept(policy, newest - 10 * every)
    beats.schedule(
        ENTRY.format(name="skip", more=f'every_seconds = {every}\ncatch_up = "skip"')
        + ENTRY.format(name="latest", more=f"every_seconds = {every}")
        + ENTRY.format(name="all", more=f'every_seconds = {every}\ncatch_up = "all"\ncatch_up_limit = 4')
    )
    beats.start()
    for policy in ("skip", "latest", "all"):
        eventually(partial(beats.is_past, policy, newest), what=policy)
    expected = {job_id("latest", newest, "charged twice")}
    expected |= {job_id("all", newest - back * every, "charged twice") for back in range(4)}
    assert beats.jobs() == expected
    counts = re.findall(r"entry=(\w+) count=(\d+) event=scheduled_runs_left_out", beats.log())
    assert sorted(counts) == [("all", "6"), ("latest", "9"), ("skip", "10")]


def test_a_run_is_skipped_while_jobs_of_one_before_have_not_ended(beats: Beats, workers: Workers) -> None:
    beats.schedule(ENTRY.format(name="guarded", more='every_seconds = 1\noverlap = "skip"'))
    beats.start()
    eventually(lambda: beats.log().count("outcome=skipped") >= 2, what="runs skipped")
    assert len(beats.jobs()) == 1
    workers.start()
    eventually(lambda: len(beats.jobs()) >= 2, what="a run after the end of the first")


def test_who_resigns_is_followed_at_once(beats: Beats) -> None:
    beats.schedule(ENTRY.format(name="tick", more="every_seconds = 1"))
    first = beats.start(lease_seconds=25)
    eventually(lambda: beats.leader() == first)
    second = beats.start(lease_seconds=1)
    os.kill(first, signal.SIGTERM)
    assert beats.processes[first].wait(20) == 0
    eventually(lambda: beats.leader() == second, 15, "the other one")


@pytest.mark.parametrize("results", ["postgres"], indirect=True)
def test_a_query_is_fanned_out_row_by_row(beats: Beats, workers: Workers, kept: Kept, postgres: str) -> None:
    workers.start()
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS public.reviews (id int, body text, price numeric, at date)")
        connection.execute("TRUNCATE public.reviews")
        connection.execute(
            "INSERT INTO public.reviews SELECT n, 'charged 100%, case ' || n, n, now() FROM generate_series(1, 700) n"
        )
        connection.execute("INSERT INTO public.reviews VALUES (701, NULL)")
    every = between_hours()
    beats.slept("rows", int(time.time()) // every * every - every)
    query = "SELECT body FROM public.reviews WHERE body IS NULL OR body LIKE '100%' OR body LIKE '%case%' ORDER BY id; "
    beats.schedule(ROWS.format(name="rows", more=f'every_seconds = {every}\ntenant = "shop"\nquery = """{query}"""'))
    beats.environ["SHOAL_SCHEDULE_DATABASE_URL"] = postgres
    checked = run(beats, "schedule", "check")
    assert checked.returncode == 1
    assert "rows.query: line 701: text: Input should be a valid string" in checked.stderr
    beats.start()
    eventually(lambda: beats.last("rows") == ("queued", 700), what="the run")
    assert "faulty=1 first_faulty_line=701" in beats.log()
    eventually(lambda: kept.answers() == 700, what="answers")
    assert kept.sql("SELECT DISTINCT tenant FROM shoal.jobs") == [("shop",)]
    assert "case" not in beats.log()


def test_a_database_that_is_away_is_waited_for_and_a_wrong_query_is_not(beats: Beats, postgres: str) -> None:
    every = between_hours()
    for name in ("wrong", "writes"):
        beats.slept(name, int(time.time()) // every * every - every)
    more = f'every_seconds = {every}\nquery = "%s"'
    beats.schedule(
        ROWS.format(name="wrong", more=more % "SELECT bodi FROM public.nowhere")
        + ROWS.format(name="writes", more=more % "DELETE FROM shoal.jobs RETURNING *")
    )
    beats.environ["SHOAL_SCHEDULE_DATABASE_URL"] = "postgresql://postgres@127.0.0.1:9/none"
    checked = run(beats, "schedule", "check")
    assert checked.returncode == 0
    assert "wrong.query could not be checked: the database does not answer" in checked.stderr
    beats.start()
    eventually(
        lambda: "entry=wrong error=SourceAway reason=the database does not answer: OperationalError" in beats.log(),
        what="a wait",
    )
    assert beats.last("wrong") is None
    beats.stop()
    beats.start(schedule_database_url=postgres)
    eventually(lambda: beats.last("wrong") == ("failed", 0) == beats.last("writes"), what="failed runs")
    assert 'reason=the database refuses the query: relation "public.nowhere" does not exist' in beats.log()


def test_check_names_what_is_wrong_with_files_and_lines(beats: Beats) -> None:
    reviews(beats.folder / "good.csv", ["charged twice"])
    (beats.folder / "bad.jsonl").write_text('{"text": "a bug"}\n' + '{"texts": "my secret"}\n{"text": \n' * 10)
    more = "every_seconds = 60\nfile = "
    beats.schedule(
        ROWS.format(name="good", more=f'{more}"good.csv"')
        + ROWS.format(name="gone", more=f'{more}"gone.csv"')
        + ROWS.format(name="column", more=f'{more}"good.csv"').replace('"body"', '"boddy"')
        + ROWS.format(name="suffix", more=f'{more}"good.txt"')
        + ROWS.format(name="bad", more=f'{more}"bad.jsonl"').replace('text_column = "body"', "")
    )
    checked = run(beats, "schedule", "check")
    assert checked.returncode == 1
    fault = "line {}: text: Field required; texts: Extra inputs are not permitted"
    cut = "line {}: not JSON: EOF while parsing a value at line 2 column 0"
    named = "the suffix says no format: let it be .csv, .tsv, .jsonl, .ndjson, .parquet, or give format"
    assert checked.stderr.splitlines() == [
        "error: schedule.toml: the schedule is wrong:",
        "  gone.file: gone.csv: No such file or directory",
        "  column.file: good.csv: no column 'boddy'; there are: id, body",
        f"  suffix.file: good.txt: {named}",
        *(f"  bad.file: {said.format(line)}" for line, said in enumerate((fault, cut, fault, cut, fault), 2)),
        "  bad.file: 15 more of the first 1000 lines fail",
    ]
    for name in ("gone", "column", "suffix", "bad"):
        beats.slept(name, int(time.time()) // 60 * 60 - 60)
    beats.start()
    eventually(lambda: beats.last("bad") == ("queued", 1), what="the good line of the bad file")
    for name in ("gone", "column", "suffix"):
        assert eventually(partial(beats.last, name), what=name) == ("failed", 0)
    assert "faulty=20 first_faulty_line=2" in beats.log()
    assert "secret" not in beats.log() + checked.stderr


def test_list_shows_next_runs_in_their_zone_and_the_last_one(beats: Beats) -> None:
    beats.schedule(ENTRY.format(name="nightly", more='cron = "30 2 * * *"\ntime_zone = "Asia/Kathmandu"'))
    beats.client.hset("shoal:beat:entry:nightly", mapping={"run_at": 1_795_000_000, "outcome": "queued", "jobs": 7})
    beats.environ["COLUMNS"] = "160"
    shown = run(beats, "schedule", "list", "--runs", "2")
    assert len(re.findall(r"\d{4}-\d\d-\d\d 02:30:00", shown.stdout)) == 2
    assert "30 2 * * * Asia/Kathmandu" in shown.stdout
    assert "queued, jobs: 7" in shown.stdout
    beats.environ["SHOAL_REDIS_URL"] = "redis://127.0.0.1:9/0"
    alone = run(beats, "schedule", "list")
    assert alone.returncode == 0
    assert "the queue does not answer" in alone.stderr
    assert len(re.findall(r"02:30:00", alone.stdout)) == 3


def test_once_a_day_the_log_tells_of_what_jobs_died_and_no_texts(beats: Beats) -> None:
    def bury(number: int, cause: str, days_ago: float) -> None:
        died_at = time.time() // DAY_SECONDS * DAY_SECONDS - days_ago * DAY_SECONDS
        letter = DeadLetter(
            id=f"j{number}", kind="classify", cause=cause, reason="my secret", attempts=1, died_at=died_at, raw="secret"
        )
        beats.client.hset("shoal:dead", letter.id, letter.model_dump_json())
        beats.client.zadd("shoal:dead:times", {letter.id: died_at})

    for number, (cause, days_ago) in enumerate([("misfit", 0.5), ("misfit", 0.9), ("misfit", 3), ("expired", 2)]):
        bury(number, cause, days_ago)
    beats.slept("shoal-dead-letters", int(time.time()) - 3 * DAY_SECONDS)
    beats.schedule(ENTRY.format(name="yearly", more='cron = "0 0 1 1 *"'))
    beats.start()
    eventually(lambda: beats.last("shoal-dead-letters"), what="the digest")
    assert beats.log().count("event=dead_letter_digest") == 1
    assert "new=2 kept=4 event=dead_letter_digest" in beats.log()
    assert "cause=misfit new=2 kept=3 event=dead_letters" in beats.log()
    assert "cause=expired new=0 kept=1 event=dead_letters" in beats.log()
    assert "secret" not in beats.log()


def test_each_run_is_a_check_in_at_sentry_and_a_failed_one_an_error(beats: Beats) -> None:
    every = between_hours()
    for name in ("good", "gone"):
        beats.slept(name, int(time.time()) // every * every - every)
    more = f"every_seconds = {every}"
    beats.schedule(ENTRY.format(name="good", more=more) + ROWS.format(name="gone", more=f'{more}\nfile = "gone.csv"'))
    with receiver() as received:
        beats.start(sentry_dsn=received.dsn)
        for name in ("good", "gone"):
            eventually(partial(beats.last, name), what=name)
        beats.stop()
        told = {said["monitor_slug"]: said["status"] for said in received.items("check_in")}
    assert told == {"good": "ok", "gone": "error"}
