"""docs/routes.md and docs/python-api.md say what is so: their examples are run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from budgateway import Route, RouteTable
from budgateway.routing.builtin import own_routes

DOCS = Path(__file__).resolve().parents[3] / "docs"
ROUTES = (DOCS / "routes.md").read_text()
ROW = re.compile(
    r"^\| `(?P<method>[A-Z]+) (?P<path>\S+)`(?: with `(?P<name>[\w-]+): (?P<value>\S+)`)?(?: to `(?P<host>\S+)`)? "
    r"\| (?:`(?P<model>\S+)`)? ?\| `?(?P<answers>\w+)`? \|",
    re.MULTILINE,
)
ROWS = [match.groupdict() for match in ROW.finditer(ROUTES)]


def documented_table() -> RouteTable:
    text = re.search(r"```toml\n(.*?)```", ROUTES, re.DOTALL)
    assert text
    configured = [
        Route(
            entry["name"],
            entry["path"],
            entry["provider"],
            host=entry.get("host", ""),
            methods=(entry["method"],) if "method" in entry else (),
            models=tuple(entry.get("models", ())),
            headers=tuple(entry.get("headers", {}).items()),
            priority=entry.get("priority", 0),
        )
        for entry in tomllib.loads(text[1])["routes"]
    ]
    return RouteTable([*configured, *(route for route, _ in own_routes(configured))])


def test_every_row_is_read() -> None:
    assert len(ROWS) == len([line for line in ROUTES.splitlines() if re.match(r"\| `(GET|POST) ", line)]) > 10


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['method']} {row['path']} {row['model']} {row['answers']}")
def test_the_documented_route_answers(row: dict[str, str | None]) -> None:
    headers = {row["name"]: row["value"] or ""} if row["name"] else None
    found = documented_table().match(
        row["method"] or "", row["path"] or "", model=row["model"], host=row["host"] or "", headers=headers
    )
    assert (found.route.name if found else "none") == row["answers"]


def test_the_python_example_gives_what_its_comments_say() -> None:
    text = re.search(r"## RouteTable.*?```python\n(.*?)```", (DOCS / "python-api.md").read_text(), re.DOTALL)
    assert text
    code = text[1].replace('table = RouteTable.from_settings(load_config("config"))\n', "")
    names: dict[str, object] = {}
    claims = re.findall(r"^(match\.\S+)\s+# (.*)$", code, re.MULTILINE)
    exec(code, names)
    assert len(claims) == 4
    assert {claim: repr(eval(claim, names)) for claim, _ in claims} == dict(claims)
