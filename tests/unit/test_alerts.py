"""Rules and dashboard: they ask for figures that exist, and alert when they should and not else."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from deployed import DEPLOY, K8S, ROOT
from shoal_worker.metrics import GAUGES

RULES = DEPLOY / "prometheus" / "shoal.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "shoal.json"
LABELS = {gauge.name: gauge.label for gauge in GAUGES}
promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool here: no wheel has it")


def rules() -> list[Any]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    found: list[Any] = group["rules"]
    return found


def questions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    yield (
        "KEDA",
        yaml.safe_load((K8S / "operators" / "scaledobject.yaml").read_text())["spec"]["triggers"][0]["metadata"][
            "query"
        ],
    )


def selectors(parsed: Any) -> Iterator[Any]:
    """Every vector selector of a PromQL expression."""
    if isinstance(parsed, promql_parser.VectorSelector):
        yield parsed
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        if (inner := getattr(parsed, name, None)) is not None:
            yield from selectors(inner)
    for argument in getattr(parsed, "args", None) or []:
        yield from selectors(argument)


@pytest.mark.parametrize(("named", "expression"), list(questions()))
def test_each_question_is_promql_and_of_figures_and_labels_that_exist(named: str, expression: str) -> None:
    found = list(selectors(promql_parser.parse(expression)))
    assert found
    for selector in found:
        assert selector.name in LABELS
        assert {matcher.name for matcher in selector.matchers.matchers} <= {LABELS[selector.name]}


def test_each_legend_shows_a_label_of_its_figure() -> None:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            labels = {LABELS[one.name] for one in selectors(promql_parser.parse(target["expr"]))}
            shown = {part.partition("}}")[0] for part in target["legendFormat"].split("{{")[1:]}
            assert shown <= labels


def test_the_dashboard_shows_every_figure_there_is() -> None:
    shown = {one.name for _, expression in questions() for one in selectors(promql_parser.parse(expression))}
    assert shown >= set(LABELS)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_each_alert_leads_to_a_heading_of_the_runbook() -> None:
    headings = {line.lstrip("#").strip() for line in (DEPLOY / "README.md").read_text().splitlines() if line[:1] == "#"}
    for rule in rules():
        path, _, heading = rule["annotations"]["runbook"].partition(": ")
        assert (ROOT / path).exists()
        assert heading.partition(". ")[0].rstrip(".") in headings, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_cluster_has_the_same_rules() -> None:
    _, rule = yaml.safe_load_all((K8S / "operators" / "monitoring.yaml").read_text())
    assert rule["spec"]["groups"] == yaml.safe_load(RULES.read_text())["groups"]


def test_every_alert_is_tried_both_ways() -> None:
    trials = yaml.safe_load((RULES.parent / "shoal.test.yml").read_text())["tests"]
    tried = [trial for one in trials for trial in one["alert_rule_test"]]
    alerts = {rule["alert"] for rule in rules()}
    assert {trial["alertname"] for trial in tried if trial.get("exp_alerts")} == alerts
    assert {trial["alertname"] for trial in tried if not trial.get("exp_alerts")} == alerts


@promtool
def test_promtool_finds_each_alert_when_it_should_come_and_not_else() -> None:
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "shoal.test.yml"]):
        done = subprocess.run(["promtool", *command], cwd=RULES.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
