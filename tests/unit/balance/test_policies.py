"""A balancing policy is one Rust file and its line in the list: whatever needs its name takes it from there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from budgateway.config.schema import RouteConfig
from budgateway.native import POLICIES, Segment, Selector

ROOT = Path(__file__).resolve().parents[3]
SELECT = ROOT / "native" / "core" / "src" / "select"
LIST = SELECT / "policies.rs"
DEVELOPMENT = (ROOT / "docs" / "development.md").read_text()
EXAMPLE = "first_byte"

# Files that choose a policy, as a user of the gateway does.
USES = {
    "budgateway/records.py": {"round_robin"},
    "budgateway/config/schema.py": {"round_robin"},
    "budgateway/config/demo.py": {"least_connections"},
    "budgateway/config/environment.py": {"least_connections"},
    "budgateway/admin/health.py": {"round_robin"},
}


def listed() -> list[str]:
    """The names in the list, without those of the tests."""
    entries = re.search(r"^policies! \{\n(.*?)^\}", LIST.read_text(), re.MULTILINE | re.DOTALL)
    assert entries is not None
    return re.findall(r"^    (\w+)::\w+,$", entries[1], re.MULTILINE)


def test_the_list_is_what_is_exported() -> None:
    assert list(POLICIES) == listed()


def test_every_policy_is_a_file_and_nothing_else_is_one() -> None:
    files = {file.stem for file in (SELECT / "policies").iterdir()}
    # Routes can name neither the pins' policy nor those of the core's tests.
    assert files == {*POLICIES, EXAMPLE, "noted", "rendezvous"}


def test_a_policy_is_named_in_its_file_and_its_line_only() -> None:
    sources = [
        *(
            file
            for file in (ROOT / "native").rglob("*.rs")
            if not file.stem.endswith("tests") and "target" not in file.parts
        ),
        *(file for file in (ROOT / "budgateway").rglob("*") if file.suffix in {".py", ".pyi", ".pxd"}),
    ]
    assert len(sources) > 300
    found: dict[str, set[str]] = {}
    for file in sources:
        text = file.read_text()
        names = {name for name in POLICIES if re.search(rf'"{name}"|\b{name}::{camel(name)}\b', text)}
        if names and file != LIST:
            found[str(file.relative_to(ROOT))] = names
    assert found == USES


def camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def test_the_example_on_the_page_is_the_one_that_the_cores_tests_compile() -> None:
    section = DEVELOPMENT.partition("\n## A new balancing policy\n")[2].partition("\n## ")[0]
    code, line = re.findall(r"```rust\n(.*?)```", section, re.DOTALL)
    assert code == (SELECT / "policies" / f"{EXAMPLE}.rs").read_text()
    assert f"    #[cfg(test)] {line.strip()}\n" in LIST.read_text()
    assert {*re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)} == {"turns", "load_reports", "request", "outcome"}


def test_configuration_and_errors_take_the_names_from_the_list() -> None:
    values = RouteConfig.model_json_schema()["properties"]["load_balancer"]["enum"]
    assert values == list(POLICIES)
    with pytest.raises(ValidationError):
        RouteConfig(path="/", load_balancer="fastest")
    *others, last = POLICIES
    with pytest.raises(ValueError, match=f"^unknown policy 'fastest': {', '.join(others)} or {last}$"):
        Selector(Segment(), 0, "fastest", [])


def test_needs_are_those_of_the_policy() -> None:
    segment = Segment()
    for name, needs in POLICIES.items():
        assert Selector(segment, 0, name, []).needs == needs
    assert {name for name in POLICIES if "load_reports" in POLICIES[name]} == {"least_load"}
    assert {name for name in POLICIES if "turns" in POLICIES[name]} == {"round_robin", "weighted"}
