"""Rules and dashboard: what they ask for is what we have, and promtool takes them and finds them right."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from b3_pipeline.metrics import instruments
from b3_pipeline.settings import Ports, Settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
INSTALL = "promtool is missing: apt-get install -y --no-install-recommends prometheus"


@pytest.fixture(scope="module")
def promtool() -> str:
    """Debian's promtool; where it is missing tests skip, and fail in CI."""
    found = shutil.which("promtool")
    if found:
        return found
    if os.environ.get("CI") == "true":
        pytest.fail(INSTALL)
    pytest.skip(INSTALL)


def run(promtool: str, *arguments: str, cwd: Path = DEPLOY / "prometheus") -> None:
    done = subprocess.run([promtool, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    return json.loads((DEPLOY / "grafana" / "b3_pipeline.json").read_text("utf-8"))


def expressions() -> Iterator[tuple[str, str]]:
    """(title, expression) of each target of the dashboard, with Grafana's own variables filled in."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            filled = target["expr"].replace("$__rate_interval", "5m")
            yield panel["title"], re.sub(r"\$\w+", ".*", filled)


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"\bb3_[a-z_]+", re.sub(r"\"[^\"]*\"", "", text)))


def test_the_rules_do_what_their_tests_say(promtool: str) -> None:
    run(promtool, "test", "rules", "rules_test.yml")


def test_rules_and_the_example_are_ones_that_prometheus_takes(promtool: str) -> None:
    run(promtool, "check", "rules", "rules.yml")
    run(promtool, "check", "config", "prometheus.yml")


def test_each_expression_of_the_dashboard_is_one_that_prometheus_takes(promtool: str, tmp_path: Path) -> None:
    recorded = [{"record": f"dashboard:{n}", "expr": text} for n, (_title, text) in enumerate(expressions())]
    assert len(recorded) > 20
    file = tmp_path / "dashboard.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}), "utf-8")
    run(promtool, "check", "rules", str(file))


def test_every_metric_that_rules_tests_and_dashboard_name_is_one_of_ours() -> None:
    ours = {series for one in instruments.ALL for series in one.series}
    tests = yaml.safe_load((DEPLOY / "prometheus" / "rules_test.yml").read_text("utf-8"))["tests"]
    asked = {name for rule in rules() for name in metrics_in(rule["expr"])}
    asked |= {name for test in tests for given in test["input_series"] for name in metrics_in(given["series"])}
    asked |= {name for _title, text in expressions() for name in metrics_in(text)}
    asked |= {name for v in dashboard()["templating"]["list"][1:] for name in metrics_in(v["definition"])}
    assert asked - ours - {"b3_pipeline"} == set()


def test_labels_in_rules_and_dashboard_are_those_of_the_metric() -> None:
    labels = {series: {*one.labels, "le"} for one in instruments.ALL for series in one.series}
    for text in [rule["expr"] for rule in rules()] + [text for _title, text in expressions()]:
        for name, selector in re.findall(r"\b(b3_[a-z_]+)\{([^}]*)\}", text):
            assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) <= labels[name], text
        for grouped in re.findall(r"by \(([^)]*)\)", text):
            names = metrics_in(text)
            assert all({label.strip() for label in grouped.split(",")} <= labels[name] for name in names), text


def test_every_metric_is_looked_at_by_somebody() -> None:
    looked_at = {name for _title, text in expressions() for name in metrics_in(text)}
    unseen = {one.name for one in instruments.ALL if not one.series & looked_at}
    assert unseen == set()


def test_every_rule_says_how_bad_it_is_what_it_is_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description", "what_to_do"}, rule["alert"]
        assert rule["for"], "one look is no alert"
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)


def test_every_rule_is_tested_quiet_and_firing_and_explained() -> None:
    tests = yaml.safe_load((DEPLOY / "prometheus" / "rules_test.yml").read_text("utf-8"))["tests"]
    quiet = {given["alertname"] for given in tests[0]["alert_rule_test"]}
    firing = json.dumps(tests[1:])
    explained = (DEPLOY.parent / "docs" / "alerts.md").read_text("utf-8")
    for rule in rules():
        name = rule["alert"]
        assert name in quiet
        assert name in firing or (name.startswith("B3Disk") and "B3Disk" in firing)
        assert f"`{name}`" in explained


def test_the_example_scrapes_where_we_serve_with_the_job_that_the_rules_ask_for() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    ports = Ports(Settings.model_fields["port_base"].default)
    assert targets == {
        "b3_pipeline": [f"127.0.0.1:{ports.metrics}"],
        "b3_questdb": [f"127.0.0.1:{ports.questdb_health}"],
    }
    assert 'job="b3_pipeline"' in RULES.read_text("utf-8")


def test_panels_lie_side_by_side_under_their_rows() -> None:
    board = dashboard()
    assert [panel["title"] for panel in board["panels"] if panel["type"] == "row"] == [
        "Now",
        "Collection",
        "Tables",
        "Checks",
        "Alerts",
        "The API",
    ]
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
