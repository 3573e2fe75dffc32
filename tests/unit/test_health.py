"""What `shoal health` makes of what workers tell, and what a worker measures of itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import wire
from shoal.fleet import FleetView, Lane
from shoal.reports import WorkerReport
from shoal_worker.health import verdict
from shoal_worker.progress import ProgressMeter, Pulse
from shoal_worker.slots import Load, Slots

WAITS = FleetView({"interactive": Lane(5, 5), "bulk": Lane()})
ONE = Load("interactive", "", 1, 100.0, is_pack=False)


def report(**told: object) -> WorkerReport:
    known: dict[str, object] = {"slots": 10, "running": 0, "held": 0, "done_per_second": 0, "capacity_per_second": 10}
    return WorkerReport.model_validate({"name": "7@box/ab", **known, "progress": {"node": "w@box", **told}})


@pytest.mark.parametrize(
    ("told", "ready", "live"),
    [
        ({}, True, True),
        ({"hub_silent_seconds": 9.0, "stalled_seconds": 59.0}, True, True),
        ({"hub_silent_seconds": 11.0}, False, True),
        ({"hub_silent_seconds": 61.0}, False, False),
        ({"stalled_seconds": 61.0}, False, False),
        ({"is_stopping": True, "hub_silent_seconds": 300.0}, False, True),
    ],
)
def test_one_report(told: dict[str, object], ready: bool, live: bool) -> None:
    for asked_live, is_well in ((False, ready), (True, live)):
        found = verdict(WAITS, [report(**told)], 60.0, live=asked_live)
        assert (found.is_well, "\n" in found.reason) == (is_well, False)


def test_a_queue_that_is_away_is_no_reason_to_restart_and_a_silent_worker_is() -> None:
    assert [verdict(None, [], 60.0, live=live).is_well for live in (False, True)] == [False, True]
    assert [verdict(WAITS, [], 60.0, live=live).is_well for live in (False, True)] == [False, False]


@given(silent=st.floats(0, 1e4), stalled=st.floats(0, 1e4), stopping=st.booleans(), patience=st.floats(0.1, 1e3))
def test_who_is_ready_is_live(silent: float, stalled: float, stopping: bool, patience: float) -> None:
    told = report(hub_silent_seconds=silent, stalled_seconds=stalled, is_stopping=stopping)
    is_ready, is_live = (verdict(WAITS, [told], patience, live=live).is_well for live in (False, True))
    assert is_live or not is_ready


def test_one_bad_worker_of_a_host_is_the_hosts_verdict() -> None:
    found = verdict(WAITS, [report(), report(node="w2@box", stalled_seconds=99.0)], 60.0, live=True)
    assert not found.is_well
    assert found.reason.startswith("w2@box")


def test_what_an_older_worker_tells_is_taken_for_well() -> None:
    told = report().model_dump(exclude={"progress"})
    older = WorkerReport.model_validate(told)
    assert older.host == "box"
    assert verdict(WAITS, [older], 60.0, live=True).is_well


def test_a_consumer_that_turns_is_heard_and_one_that_stands_is_timed() -> None:
    bell: list[object] = []
    progress = ProgressMeter(0.0, Slots(10), Pulse("w@box", bell.append))
    progress.measure(1.0, WAITS)
    assert [progress.measure(at, WAITS).hub_silent_seconds for at in (2.0, 3.0)] == [1.0, 2.0]
    assert len(bell) == 1
    (hear,) = bell
    assert callable(hear)
    hear()
    assert progress.measure(4.0, WAITS).hub_silent_seconds == 0.0
    assert progress.measure(5.0, WAITS).hub_silent_seconds == 1.0
    assert progress.measure(6.0, None).hub_silent_seconds == 0.0, "the queue is away: the consumer waits for it"


def test_only_room_with_a_backlog_and_nothing_taken_is_a_stall() -> None:
    slots = Slots(10)
    progress = ProgressMeter(0.0, slots, Pulse("w@box", lambda _: None))
    assert progress.measure(5.0, FleetView()).stalled_seconds == 0.0
    assert progress.measure(9.0, WAITS).stalled_seconds == 4.0
    slots.announce(ONE)
    assert progress.measure(10.0, WAITS).stalled_seconds == 0.0
    assert progress.measure(12.0, WAITS).stalled_seconds == 2.0
    slots.bound = lambda: 0  # the limits hold it
    assert slots.room(wire.QUEUE) == 0
    assert progress.measure(20.0, WAITS).stalled_seconds == 0.0
