"""When runs are due, also on the days when clocks change."""

from datetime import UTC, datetime
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal_worker.timetable import (
    CatchUp,
    Introduce,
    LeaveOut,
    Progress,
    Resume,
    Run,
    Timetable,
    Wait,
    next_times,
    run_name,
    starts_after,
    step,
    times_after,
)

BERLIN = "Europe/Berlin"
LATE = 60.0
HOUR = 3_600
#: Other work on the machine is no fault.
patient = settings(deadline=None)
policies: st.SearchStrategy[CatchUp] = st.sampled_from(["skip", "latest", "all"])


def unix(text: str, zone: str = BERLIN, fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp())


def shown(times: list[int], zone: str = BERLIN) -> list[str]:
    return [f"{datetime.fromtimestamp(at, ZoneInfo(zone)):%d %H:%M %Z}" for at in times]


def comes(cron: str, after: str, most: int = 3) -> list[str]:
    return shown(next_times(Timetable("t", cron=cron, time_zone=BERLIN), unix(after), most))


# Clocks in Berlin: on 2026-03-29 02:00 CET becomes 03:00 CEST, on 2026-10-25 03:00 CEST becomes 02:00 CET.


def test_a_time_that_the_clock_leaps_over_comes_right_after_the_leap_and_once() -> None:
    assert comes("30 2 * * *", "2026-03-28 12:00") == ["29 03:00 CEST", "30 02:30 CEST", "31 02:30 CEST"]
    assert comes("0,30 2,3 * * *", "2026-03-29 01:00", 2) == ["29 03:00 CEST", "29 03:30 CEST"]


def test_a_time_that_the_clock_shows_twice_comes_at_the_first_of_them() -> None:
    assert comes("30 2 * * *", "2026-10-24 12:00") == ["25 02:30 CEST", "26 02:30 CET", "27 02:30 CET"]
    between = unix("2026-10-25 02:10", fold=1)
    daily = Timetable("t", cron="30 2 * * *", time_zone=BERLIN)
    assert shown(next_times(daily, between, 1)) == ["26 02:30 CET"]


def test_what_comes_each_hour_comes_each_real_hour() -> None:
    assert comes("0 * * * *", "2026-10-25 01:00", 4) == [
        "25 02:00 CEST",
        "25 02:00 CET",
        "25 03:00 CET",
        "25 04:00 CET",
    ]
    assert comes("0 * * * *", "2026-03-29 01:00", 2) == ["29 03:00 CEST", "29 04:00 CEST"]


crons = st.builds(
    "{} {} {} {} {}".format,
    st.sampled_from(["0", "30", "*/7", "5,35", "*"]),
    st.sampled_from(["*", "2", "1-3", "*/5", "3"]),
    st.sampled_from(["*", "25", "29-31"]),
    st.sampled_from(["*", "3,10"]),
    st.sampled_from(["*", "SUN", "1-5"]),
)
zones = st.sampled_from(
    ["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"]
)
moments = st.integers(unix("2026-01-01 00:00"), unix("2027-01-01 00:00"))
tables = st.one_of(
    st.builds(
        Timetable,
        name=st.sampled_from(["a", "b"]),
        cron=crons,
        time_zone=zones,
        jitter_seconds=st.sampled_from([0, 30, 300]),
        catch_up=policies,
        catch_up_limit=st.integers(1, 5),
    ),
    st.builds(
        Timetable,
        name=st.sampled_from(["a", "b"]),
        every_seconds=st.sampled_from([60, 61, 3_600, 86_400]),
        jitter_seconds=st.sampled_from([0, 30]),
        catch_up=policies,
        catch_up_limit=st.integers(1, 5),
    ),
)


@patient
@given(tables, moments)
def test_times_grow_and_none_depends_on_where_one_begins_to_count(table: Timetable, after: int) -> None:
    times = list(islice(times_after(table, after), 12))
    assert times[0] > after
    assert times == sorted(set(times))
    for place, at in enumerate(times[:-1]):
        assert next(times_after(table, at)) == times[place + 1]


@patient
@given(tables, moments)
def test_a_run_starts_within_its_jitter_and_always_at_the_same_moment(table: Timetable, after: int) -> None:
    runs = list(islice(starts_after(table, after), 12))
    assert [at for at, _ in runs] == list(islice(times_after(table, after), 12))
    assert all(at <= start <= at + table.jitter_seconds for at, start in runs)
    assert runs == sorted(runs, key=lambda run: run[1])
    assert next(starts_after(table, runs[4][0])) == runs[5]


def walked(table: Timetable, done_at: int, now: float) -> tuple[list[int], int]:
    """All runs that a beat does that wakes at `now`, and how many it leaves out."""
    ran, left_out = [], 0
    while not isinstance(what := step(table, Progress(done_at), now, LATE), Wait):
        if isinstance(what, Run):
            ran.append(what.scheduled_at)
            left_out += what.left_out
            done_at = what.scheduled_at
        else:
            assert isinstance(what, LeaveOut)
            left_out, done_at = left_out + what.count, what.until
    return ran, left_out


@patient
@given(tables, moments, st.integers(0, 8 * HOUR))
def test_each_time_that_has_come_is_run_or_counted_and_none_is_run_twice(
    table: Timetable, done_at: int, slept_seconds: int
) -> None:
    now = float(done_at + slept_seconds)
    ran, left_out = walked(table, done_at, now)
    due = list(takewhile(lambda run: run[1] <= now, starts_after(table, done_at)))
    late = [at for at, start in due if now - start > LATE]
    on_time = [at for at, _ in due[len(late) :]]
    assert left_out + len(ran) == len(due)
    assert ran == sorted(set(ran))
    match table.catch_up:
        case "skip":
            assert ran == on_time
        case "latest":
            assert ran == (on_time or late[-1:])
        case "all":
            assert ran == [*late[-table.catch_up_limit :], *on_time]


@patient
@given(tables, moments, st.lists(st.integers(0, 60), min_size=1, max_size=30))
@example(Timetable("a", cron="* * * * *", jitter_seconds=300, catch_up="skip"), 1_795_000_000, [60] * 30)
def test_a_beat_that_is_never_away_for_long_misses_no_run_whatever_its_policy(
    table: Timetable, begins_at: int, naps: list[int]
) -> None:
    done_at, now, ran = begins_at, float(begins_at), []
    for nap in naps:
        now += nap
        new, left_out = walked(table, done_at, now)
        assert left_out == 0
        ran += new
        done_at = ran[-1] if ran else done_at
    assert ran == list(takewhile(lambda at: at <= done_at, times_after(table, begins_at)))


def test_a_run_that_was_begun_is_ended_first_whatever_the_policy() -> None:
    table = Timetable("t", every_seconds=60, catch_up="skip")
    assert step(table, Progress(0, 60), 1e9, LATE) == Resume(60)


def test_an_entry_that_is_new_makes_up_for_nothing() -> None:
    assert step(Timetable("t", every_seconds=60), Progress(), 1_000.7, LATE) == Introduce(1_000)


def test_with_nothing_due_one_waits_for_the_next() -> None:
    assert step(Timetable("t", every_seconds=60), Progress(60), 61.0, LATE) == Wait(120)


@pytest.mark.parametrize(("policy", "runs"), [("skip", 0), ("latest", 1), ("all", 5)])
def test_years_of_seconds_are_passed_over_in_no_time(policy: CatchUp, runs: int) -> None:
    table = Timetable("t", every_seconds=1, catch_up=policy, catch_up_limit=5)
    what = step(table, Progress(0), 1_795_000_000.5, -1.0)
    if runs == 0:
        assert what == LeaveOut(1_795_000_000, 1_795_000_000)
    else:
        assert what == Run(1_795_000_001 - runs, 1_795_000_000 - runs)


def test_a_run_is_named_by_its_time_in_utc() -> None:
    at = int(datetime(2026, 11, 25, 2, tzinfo=UTC).timestamp())
    assert run_name("nightly", at) == "nightly@2026-11-25T02:00:00Z"
