"""Writes the files of `deploy/prometheus` and `deploy/grafana`: `python deploy/generate.py [--runbooks URL]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))

from dashboards import DASHBOARDS, dashboard
from rules import ALERTS, alerts, prometheus, recording, tests

RUNBOOKS = "docs/runbooks.md"
HEADER = "# Written by deploy/generate.py; change that, and run it.\n"


def files(runbooks: str = RUNBOOKS) -> dict[str, str]:
    """Return every file by its path in `deploy`. `runbooks` is the URL of docs/runbooks.md where your alerts can reach it."""
    found = {
        "prometheus/prometheus.yml": _yaml(prometheus()),
        "prometheus/rules/recording.yml": _yaml(recording()),
        "prometheus/rules/alerts.yml": _yaml(alerts(runbooks)),
        "grafana/provisioning/datasources/prometheus.yml": _yaml(
            {
                "apiVersion": 1,
                "datasources": [
                    {"name": "Prometheus", "type": "prometheus", "access": "proxy", "url": "http://localhost:9091"}
                ],
            }
        ),
        "grafana/provisioning/dashboards/budgateway.yml": _yaml(
            {
                "apiVersion": 1,
                "providers": [
                    {
                        "name": "budgateway",
                        "type": "file",
                        "options": {"path": "/var/lib/grafana/dashboards/budgateway"},
                    }
                ],
            }
        ),
    }
    for alert in ALERTS:
        name = "-".join(filter(None, (alert.name, alert.window)))
        found[f"prometheus/rules/tests/{name}.yml"] = _yaml(tests(alert))
    for one in DASHBOARDS:
        found[f"grafana/dashboards/{one.uid}.json"] = json.dumps(dashboard(one), indent=2) + "\n"
    return found


def _yaml(document: Any) -> str:
    return HEADER + yaml.safe_dump(document, sort_keys=False, width=1000)


def main() -> None:
    """Write all files, and remove those that are no longer written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runbooks", default=RUNBOOKS, help="URL of docs/runbooks.md, for the alerts' runbook_url")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent, help="the folder to write into")
    given = parser.parse_args()
    written = files(given.runbooks)
    for name, text in written.items():
        path = given.to / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for folder in ("prometheus", "grafana"):
        for path in (given.to / folder).rglob("*"):
            if path.is_file() and str(path.relative_to(given.to)) not in written:
                path.unlink()


if __name__ == "__main__":
    main()
