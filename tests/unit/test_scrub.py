import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_worker import errors
from shoal_worker.scrub import Storms, scrubbed, subject
from shoal_worker.sentry import level_of, slug

SECRET = "a customer's words"


def test_an_event_keeps_its_path_through_the_code_and_nothing_that_went_along_it() -> None:
    frame = {"function": "run", "lineno": 7, "in_app": True, "vars": {"text": SECRET}}
    exception = {"type": "KeyError", "value": SECRET, "stacktrace": {"frames": [frame]}, "mechanism": {"data": SECRET}}
    event: dict[str, Any] = {
        "level": "error",
        "exception": {"values": [exception]},
        "logentry": {"message": SECRET, "params": [SECRET]},
        "extra": {"sys.argv": [SECRET], "celery-job": {"kwargs": SECRET}},
        "breadcrumbs": {"values": [{"message": SECRET}]},
        "request": {"data": SECRET},
        "user": {"id": SECRET},
        "threads": {"values": [{"stacktrace": {"frames": [frame]}}]},
        "contexts": {"trace": {"trace_id": "t1", "data": {"url": SECRET}, "description": SECRET}, "other": SECRET},
        "spans": [{"op": "http", "description": SECRET, "data": {"url": SECRET, "messaging.system": "redis"}}],
    }
    safe = scrubbed(event)
    assert SECRET not in str(safe)
    assert safe["level"] == "error"
    [value] = safe["exception"]["values"]
    assert (value["type"], value["stacktrace"]["frames"]) == (
        "KeyError",
        [{"function": "run", "lineno": 7, "in_app": True}],
    )
    assert safe["contexts"]["trace"]["trace_id"] == "t1"
    assert safe["spans"] == [{"op": "http", "data": {"messaging.system": "redis"}}]


@given(st.dictionaries(st.text(), st.text().map(lambda text: f"!{text}")))
def test_fields_that_are_not_known_stay_here(fields: dict[str, str]) -> None:
    safe = scrubbed({f"x-{name}": value for name, value in fields.items()})
    assert safe == {"contexts": {}}


@pytest.mark.parametrize(
    ("message", "args", "said"),
    [
        ({"event": "worker_bug", "job_id": SECRET}, (), "worker_bug"),
        ("cannot connect to %s\nagain in %s s\n", (SECRET, 2), "cannot connect to %s again in %s s"),
        (f"made up: {SECRET}", (), "asyncio, test_scrub:1"),
    ],
)
def test_a_log_line_is_known_by_what_its_code_says(message: Any, args: Any, said: str) -> None:
    assert subject(logging.LogRecord("asyncio", logging.ERROR, __file__, 1, message, args, None)) == said


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 30)), max_size=80), st.integers(1, 5))
def test_a_storm_sends_so_many_a_window_and_counts_the_rest(steps: list[tuple[str, float]], most: int) -> None:
    storms = Storms(most, window_seconds=60.0)
    now, sent, told = 0.0, list[tuple[str, float]](), 0
    for key, pause in steps:
        now += pause
        held_back = storms.admits([key], now)
        if held_back is not None:
            sent.append((key, now))
            told += held_back
    for key, at in sent:
        # Two windows may touch: never more than twice as many in any stretch of a window's length.
        assert sum(1 for other, then in sent if other == key and at <= then < at + 60.0) <= 2 * most
    assert len(sent) + told + storms.held_back() == len(steps)


def test_fingerprints_that_are_made_up_do_not_fill_the_memory() -> None:
    storms = Storms()
    for number in range(5_000):
        storms.admits([str(number)], float(number))
    assert len(storms._windows) == 1_000


def test_what_a_job_brought_about_is_a_warning_and_all_else_an_error() -> None:
    for cause in ("misfit", "truncated", "expired", "invalid_message", "forged", "content_refused"):
        assert level_of(cause) == "warning"
    for cause in ("worker_bug", errors.WorkerKilled.cause, errors.ProviderUnavailable.cause, "reply_lost"):
        assert level_of(cause) == "error"


def test_a_monitor_has_a_name_that_sentry_takes() -> None:
    assert slug("Nightly reviews (EU) ") == "nightly-reviews-eu"
    assert len(slug("x" * 90)) == 50
