"""The files of `deploy`: generated, well-formed, and about metrics that exist."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from promql_parser import parse

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
FILES: dict[str, str] = runpy.run_path(str(DEPLOY / "generate.py"))["files"]()
DASHBOARDS = {name: json.loads(text) for name, text in FILES.items() if name.endswith(".json")}
ALERTS = yaml.safe_load(FILES["prometheus/rules/alerts.yml"])["groups"][0]["rules"]
RULES = yaml.safe_load(FILES["prometheus/rules/recording.yml"])["groups"][0]["rules"]
VARIABLES = {"$job": ".*", "$instance": ".*", "$route": ".*", "$model": ".*", "$__rate_interval": "1m"}


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression, with its place; the dashboards' variables are replaced."""
    for name, dashboard in DASHBOARDS.items():
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                text = target["expr"]
                for variable, value in VARIABLES.items():
                    text = text.replace(variable, value)
                yield f"{name}: {panel['title']} {target['refId']}", text
    for rule in (*ALERTS, *RULES):
        yield rule.get("alert") or rule["record"], rule["expr"]


EXPRESSIONS = list(expressions())


def test_the_committed_files_are_those_that_are_generated() -> None:
    there = {
        str(path.relative_to(DEPLOY)): path.read_text()
        for folder in ("prometheus", "grafana")
        for path in (DEPLOY / folder).rglob("*")
        if path.is_file()
    }
    assert there.keys() == FILES.keys(), "run `python deploy/generate.py`"
    assert [name for name, text in FILES.items() if there[name] != text] == [], "run `python deploy/generate.py`"


@pytest.mark.parametrize(("place", "text"), EXPRESSIONS, ids=[place for place, _ in EXPRESSIONS])
def test_an_expression_parses_and_names_what_there_is(place: str, text: str) -> None:
    parse(text)
    page = (ROOT / "docs/observability.md").read_text()
    recorded = {rule["record"] for rule in RULES}
    for name in set(re.findall(r"[a-z]+:budgateway\w*:\w+|budgateway_\w+", text)):
        listed = {name, re.sub("_(bucket|count|sum)$", "", name)}
        assert any(f"`{one}`" in page for one in listed) or name in recorded or f"`{name.rsplit('_', 1)[0]}`" in page, (
            name
        )


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_well_formed(name: str) -> None:
    dashboard = DASHBOARDS[name]
    panels: list[dict[str, Any]] = dashboard["panels"]
    assert len(panels) <= 16
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        covered = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not covered & cells, f"{panel['title']} overlaps"
        cells |= covered
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        targets = panel["targets"]
        assert [target["refId"] for target in targets] == [chr(ord("A") + n) for n in range(len(targets))]
        assert all(target["legendFormat"] for target in targets)
        assert {panel["datasource"]["uid"], *(target["datasource"]["uid"] for target in targets)} == {"${datasource}"}
        for target in targets:
            assert not re.search(r"\[\d+[smhd]\]", target["expr"]), "ranges are $__rate_interval"
            assert target["exemplar"] is not target["instant"]
    text = json.dumps(panels)
    for variable in dashboard["templating"]["list"]:
        assert f"${variable['name']}" in text or f"${{{variable['name']}}}" in text, f"{variable['name']} is not used"
        assert variable["type"] == "datasource" or (variable["multi"] and variable["includeAll"])


def test_every_alert_says_what_to_do() -> None:
    headings = set(re.findall(r"^## (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE))
    assert {alert["alert"] for alert in ALERTS} == headings
    for alert in ALERTS:
        notes = alert["annotations"]
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert notes["summary"]
        assert notes["description"].endswith((".", "why.", "problem, with file and key."))
        assert notes["runbook_url"] == f"docs/runbooks.md#{alert['alert'].lower()}"


def test_every_alert_is_tested_both_ways() -> None:
    tests = [yaml.safe_load(text) for name, text in FILES.items() if "/tests/" in name]
    assert len(tests) == len(ALERTS)
    for test in tests:
        assert {bool(one["promql_expr_test"][0]["exp_samples"]) for one in test["tests"]} == {True, False}


def test_promtool_accepts_the_rules_and_their_tests() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool (Debian: prometheus)")
    folder = DEPLOY / "prometheus"
    for words in (
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "rules/recording.yml", "rules/alerts.yml"],
        ["test", "rules", *sorted(str(path) for path in (folder / "rules/tests").glob("*.yml"))],
    ):
        told = subprocess.run([promtool, *words], cwd=folder, capture_output=True, text=True, check=False, timeout=59)
        assert told.returncode == 0, told.stdout + told.stderr
