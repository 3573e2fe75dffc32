"""Each metric has one name and one meaning, and the runbook knows them all."""

import re
from pathlib import Path

from shoal.fleet import FleetView, Lane
from shoal.overview import Overview
from shoal.reports import Minute, ModelCalls, WorkerReport
from shoal_worker.metrics import DEAD, GAUGES, RESULTS_UP, UP, samples

RUNBOOK = Path(__file__).parents[2] / "deploy" / "README.md"
WORKER = WorkerReport(
    name="w",
    slots=1,
    running=1,
    held=1,
    done_per_second=1.0,
    capacity_per_second=1.0,
    calls=(ModelCalls(model="nano", rate=1.0),),
    minute=Minute(failures={"misfit": 1}),
)


def test_the_runbooks_table_names_exactly_the_metrics_there_are_with_their_labels() -> None:
    table = [line for line in RUNBOOK.read_text().splitlines() if line.startswith("| `shoal_")]
    named = [name for line in table for name in re.findall(r"`(shoal_[a-z_]+(?:{\w+})?)`", line.split("|")[1])]
    known = [f"{gauge.name}{{{gauge.label}}}" if gauge.label else gauge.name for gauge in GAUGES]
    assert sorted(named) == sorted(known)
    assert len({gauge.name for gauge in GAUGES}) == len({gauge.meaning for gauge in GAUGES}) == len(GAUGES)


def test_every_gauge_has_a_sample_when_there_is_something_of_all() -> None:
    view = FleetView({"bulk": Lane(1, 50)}, workers=(WORKER,))
    sampled = list(samples(Overview(view, {"misfit": 2})))
    assert {gauge for gauge, _, _ in sampled} == set(GAUGES)
    assert all(bool(label) == bool(gauge.label) for gauge, label, _ in sampled)
    assert len({(gauge.name, label) for gauge, label, _ in sampled}) == len(sampled)


def test_what_does_not_answer_is_told_and_has_no_figures() -> None:
    assert list(samples(None)) == [(UP, "", 0.0)]
    without = {gauge: number for gauge, _, number in samples(Overview(FleetView(), None))}
    assert (without[UP], without[RESULTS_UP]) == (1.0, 0.0)
    assert DEAD not in without
