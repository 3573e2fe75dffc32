"""What workers tell of themselves, added up and read by another version."""

import json

from hypothesis import given
from hypothesis import strategies as st

from shoal.fleet import FleetView
from shoal.jobs import Usage
from shoal.reports import Minute, ModelCalls, WorkerReport
from shoal_worker.last_minute import SECONDS, LastMinute

WORKER = WorkerReport(name="w", slots=300, running=9, held=20, done_per_second=90.0, capacity_per_second=90.0)


def worker(gateway: str, *calls: ModelCalls) -> WorkerReport:
    return WORKER.model_copy(update={"gateway": gateway, "calls": calls})


def test_calls_of_workers_with_one_key_share_a_rate_and_those_of_two_keys_add_theirs() -> None:
    one, two = (ModelCalls(model="nano", in_flight=3, waiting=1, rate=rate) for rate in (10.0, 4.0))
    assert FleetView(workers=(worker("a", one), worker("a", one))).calls == (
        ModelCalls(model="nano", in_flight=6, waiting=2, rate=10.0),
    )
    [both] = FleetView(workers=(worker("a", one), worker("b", two))).calls
    assert both.rate == 14.0
    [unbound] = FleetView(workers=(worker("a", one), worker("b", ModelCalls(model="nano")))).calls
    assert unbound.rate is None


def test_what_stops_one_key_is_seen() -> None:
    well, ill = ModelCalls(model="nano"), ModelCalls(model="nano", paused_seconds=9.0, probe_seconds=0.0)
    [both] = FleetView(workers=(worker("a", well), worker("b", ill))).calls
    assert (both.paused_seconds, both.probe_seconds) == (9.0, 0.0)
    assert [calls.model for calls in FleetView(workers=(worker("a", well, ModelCalls(model="mini")),)).calls] == [
        "mini",
        "nano",
    ]


def test_a_report_of_another_version_is_read() -> None:
    older = {name: getattr(WORKER, name) for name in ("name", "slots", "running", "held")}
    older |= {"done_per_second": 90.0, "capacity_per_second": 90.0}
    assert WorkerReport.model_validate_json(json.dumps(older), extra="ignore") == WORKER
    newer = WORKER.model_dump() | {"mood": "fine", "minute": {"calls": 1, "smiles": 3}}
    assert WorkerReport.model_validate_json(json.dumps(newer), extra="ignore").minute.calls == 1


usages = st.builds(Usage, input_tokens=st.integers(0, 9), output_tokens=st.integers(0, 9), cost_usd=st.just(0.25))


@given(st.lists(st.lists(st.one_of(usages, st.sampled_from(["misfit", "throttled"])), max_size=4), max_size=150))
def test_the_last_minute_holds_what_was_told_within_it_and_nothing_else(seconds: list[list[Usage | str]]) -> None:
    minute = LastMinute()
    for now, seen in enumerate(seconds):
        for what in seen:
            if isinstance(what, str):
                minute.failed(what)
            else:
                minute.called(what, refused=what.input_tokens == 0)
        recent = [what for some in seconds[max(0, now + 1 - int(SECONDS)) : now + 1] for what in some]
        calls = [what for what in recent if isinstance(what, Usage)]
        assert minute.told(float(now)) == Minute(
            calls=len(calls),
            refused=sum(1 for usage in calls if usage.input_tokens == 0),
            cost_usd=0.25 * len(calls),
            input_tokens=sum(usage.input_tokens for usage in calls),
            output_tokens=sum(usage.output_tokens for usage in calls),
            failures={word: recent.count(word) for word in ("misfit", "throttled") if word in recent},
        )


@given(st.lists(st.dictionaries(st.sampled_from(["misfit", "expired"]), st.integers(1, 9))))
def test_minutes_add_up(failures: list[dict[str, int]]) -> None:
    summed = sum((Minute(calls=1, failures=some) for some in failures), Minute())
    assert summed.calls == len(failures)
    assert summed.failures == {
        word: number for word in ("misfit", "expired") if (number := sum(some.get(word, 0) for some in failures))
    }
