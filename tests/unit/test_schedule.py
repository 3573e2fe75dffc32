"""A schedule file: what is right in it, and every fault in words."""

from pathlib import Path

import pytest

from shoal import Classify, InvalidJob, Options, ProducerSettings, SettingsError
from shoal.messages import message_of
from shoal_worker.schedule import Entry, load
from shoal_worker.settings import WorkerSettings


def read(tmp_path: Path, text: str, *, has_database: bool = False) -> list[Entry]:
    path = tmp_path / "schedule.toml"
    path.write_text(text)
    return load(path, has_database=has_database)


def faults(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(SettingsError) as error:
        read(tmp_path, text)
    return str(error.value).splitlines()


def test_an_entry_is_a_table(tmp_path: Path) -> None:
    [nightly, each_minute] = read(
        tmp_path,
        """
        [nightly]
        cron = "0 2 * * *"
        time_zone = "Europe/Berlin"
        kind = "classify"
        args = { labels = ["billing", "bug"] }
        file = "reviews.csv"
        text_column = "body"
        jitter_seconds = 300
        catch_up = "all"
        catch_up_limit = 7
        overlap = "skip"
        tenant = "support"
        lane = "bulk"

        [each-minute]
        every_seconds = 60
        kind = "summarize"
        args = { text = "It rained.", length_words = 10 }
        """,
    )
    assert str(nightly.timetable) == "0 2 * * * Europe/Berlin"
    assert (nightly.timetable.catch_up_limit, nightly.is_single) == (7, False)
    assert nightly.source(tmp_path).path == tmp_path / "reviews.csv"
    assert (str(each_minute.timetable), each_minute.is_single, each_minute.tenant) == ("every 60 s", True, None)


def test_all_faults_of_all_entries_are_named_at_once(tmp_path: Path) -> None:
    said = faults(
        tmp_path,
        """
        [first]
        cron = "61 2 * * *"
        time_zone = "Europe/Berln"
        kind = "clasify"
        lane = "slow"

        [second]
        every_seconds = 5
        time_zone = "UTC"
        kind = "classify"
        catchup = "all"
        jitter_seconds = 9
        query = "SELECT 1"
        args = { labels = ["a"], texd = "x", text = "" }

        [third]
        kind = "classify"
        file = "a.csv"
        query = "SELECT 1"
        catch_up_limit = 2
        args = { labels = ["a", "b"], text = "x" }
        text_column = "body"

        [shoal-mine]
        every_seconds = 0
        kind = "rank"
        text_column = "body"
        format = "csv"

        ["a name"]
        cron = "0 0 30 2 *"
        args = {}
        """,
    )
    assert said[0].endswith("schedule.toml: the schedule is wrong:")
    assert sorted(said[1:]) == sorted(
        f"  {line}"
        for line in (
            "first.cron: '61 2 * * *': bad minute: write a time such as '0 2 * * *'",
            "first.time_zone: 'Europe/Berln' is no time zone: write one such as Europe/Berlin",
            "first.kind: 'clasify' is no kind: write one of classify, extract, rank, summarize",
            "first.lane: Input should be 'interactive' or 'bulk'",
            "second.time_zone: is for cron only: every_seconds counts in UTC; leave it out",
            "second.catchup: no such field; did you mean catch_up?",
            "second.jitter_seconds: must be less than every_seconds (5)",
            "second.query: set SHOAL_SCHEDULE_DATABASE_URL to the Postgres that it asks",
            "second.args.texd: Extra inputs are not permitted",
            "second.args.text: is blank: give at least one visible character",
            "third.cron: give either cron or every_seconds",
            "third.query: file and query exclude each other: leave one out",
            "third.query: set SHOAL_SCHEDULE_DATABASE_URL to the Postgres that it asks",
            'third.catch_up_limit: bounds catch_up = "all": leave it out',
            "third.args.text: text_column gives the text of each job: leave one of them out",
            "shoal-mine: names that begin with shoal- are Shoal's own: choose another",
            "shoal-mine.every_seconds: Input should be greater than or equal to 1",
            "shoal-mine.text_column: names a column of file or query, and there is neither: leave it out",
            "shoal-mine.text_column: rank has no text: let columns be named as its arguments are",
            "shoal-mine.format: says what a file holds, and there is no file: leave it out",
            "shoal-mine.args.query: Field required",
            "shoal-mine.args.documents: Field required",
            "a name: a name has 1 to 100 letters, digits, dots, dashes and underscores",
            "a name.cron: '0 0 30 2 *': bad day-of-month: write a time such as '0 2 * * *'",
            "a name.kind: missing: write kind = …",
        )
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a\n", "not TOML: "),
        ("a = 1", "  a: no entry: write its fields under [a]"),
        ("[a]\ncron = '0 0 0 * * *'\nkind = 'rank'\nfile = 'a.csv'", "has not five fields: write minute hour"),
        ("[a]\nevery_seconds = '5'\nkind = 'rank'\nfile = 'a.csv'", "  a.every_seconds: Input should be a valid int"),
    ],
)
def test_what_is_no_schedule_is_refused_in_words(text: str, said: str, tmp_path: Path) -> None:
    assert said in "\n".join(faults(tmp_path, text))


def test_a_schedule_may_have_no_entry_yet(tmp_path: Path) -> None:
    assert read(tmp_path, "# [nightly]\n") == []


def test_a_schedule_that_is_not_there_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file or directory: write a schedule there, or set SHOAL_SCHEDULE"):
        load(tmp_path / "none.toml", has_database=False)


def test_the_database_of_the_queries_is_a_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SCHEDULE_DATABASE_URL", "mysql://u:secret@host/shop")
    with pytest.raises(SettingsError, match="SHOAL_SCHEDULE_DATABASE_URL: must be the URL of a Postgres") as error:
        WorkerSettings.load()
    assert "secret" not in str(error.value)


ARGS = Classify(text="t", labels=("a", "b"))


def job_id(**options: object) -> str:
    given: Options = options  # type: ignore[assignment]  # wrong ones too
    return message_of(ARGS, given, ProducerSettings(), 1_795_000_000.0).id


def test_the_same_work_is_one_job_in_each_run() -> None:
    ids = {job_id(), job_id(run="a"), job_id(run="a"), job_id(run="b"), job_id(idempotency_key="a")}
    assert len(ids) == 4


@pytest.mark.parametrize("options", [{"fresh": True}, {"idempotency_key": "k"}])
def test_a_run_excludes_other_ways_to_a_key(options: dict[str, object]) -> None:
    with pytest.raises(InvalidJob, match="run excludes"):
        job_id(run="a", **options)


@pytest.mark.parametrize("run", ["", "x" * 201, "a\0"])
def test_a_run_that_is_no_name_is_refused(run: str) -> None:
    with pytest.raises(InvalidJob, match="run must have 1 to 200 characters"):
        job_id(run=run)
