"""The worked examples of docs/development.md are the code that tests run."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def example(section: str, language: str) -> str:
    """The first block of code in a section of the page."""
    _, _, rest = (ROOT / "docs/development.md").read_text().partition(f"\n## {section}\n")
    found = re.search(rf"^```{language}\n(.*?)^```$", rest.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_the_consumer_of_ended_exchanges_is_the_one_that_the_core_compiles() -> None:
    tested = (ROOT / "native/core/tests/consumer.rs").read_text()
    written = example("A new consumer of ended exchanges", "rust").replace("crate::", "budgateway_core::")
    assert textwrap.indent(written, " " * 4) in tested


def test_every_consumer_is_in_the_list() -> None:
    core = ROOT / "native/core/src"
    _, _, listed = (core / "ledger.rs").read_text().partition("pub fn consumers(")
    signature_and_list = listed.partition("\n}\n")[0]
    implemented = {
        name
        for path in core.rglob("*.rs")
        for name in re.findall(r"^impl Consumer for (?:Arc<Mutex<)?(\w+)", path.read_text(), re.MULTILINE)
    }
    assert {"Metrics", "UsageTable", "AccessLog", "Settlement", "Repayment"} <= implemented
    assert [name for name in implemented if name not in signature_and_list] == []


def test_every_example_is_in_the_table() -> None:
    page = (ROOT / "docs/development.md").read_text()
    table = page.partition("\n## Worked examples\n")[2].partition("\n## ")[0]
    sections = [name.replace(" ", "-") for name in re.findall(r"^## A (new .+)$", page, re.MULTILINE)]
    assert re.findall(r"^\| \[.+\]\(#a-(.+?)\) \|", table, re.MULTILINE) == sections[1:]  # the first is a new package
