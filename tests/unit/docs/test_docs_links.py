"""Documents lead somewhere: every relative link has a file, every anchor a heading."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
OUTPUT = {"target", ".venv", ".venv-pure", ".venv-litellm", "build", "dist", "node_modules"}


def documents() -> list[Path]:
    """Every Markdown file of the checkout."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    return sorted(path for path in found if not OUTPUT & set(path.parts) and not path.parts[0].startswith(".pytest"))


def anchors(text: str) -> set[str]:
    """The headings, as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(path: Path, text: str) -> list[str]:
    """The links of a document at `path` (below the root) that lead nowhere."""
    found = []
    for connection in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", connection):
            continue
        name, _, anchor = connection.partition("#")
        target = (ROOT / path).parent / name if name else ROOT / path
        if not target.exists() or (anchor and anchor not in anchors(text if not name else target.read_text())):
            found.append(connection)
    return found


@pytest.mark.parametrize("path", documents(), ids=str)
def test_every_link_leads_somewhere(path: Path) -> None:
    assert broken(path, (ROOT / path).read_text()) == []


def test_a_broken_link_is_found() -> None:
    text = (
        "[a](nowhere.md) [b](#none) [c](#here-it-is) [d](https://example.com/x) [e](README.md#none)\n\n## Here: it is\n"
    )
    assert broken(Path("CHANGELOG.md"), text) == ["nowhere.md", "#none", "README.md#none"]


def test_the_readme_leads_to_every_page() -> None:
    # A page of one line only points to another one.
    paths = [path for path in (ROOT / "docs").glob("*.md") if len(path.read_text().splitlines()) > 1]
    pages = {f"docs/{path.name}" for path in paths}
    assert pages - set(LINK.findall((ROOT / "README.md").read_text())) == set()


def test_the_readmes_test_command_is_what_ci_runs() -> None:
    assert re.search(r"^make test\b", (ROOT / "README.md").read_text(), re.M)
    assert re.search(r"^step test make test\b", (ROOT / ".ci" / "run").read_text(), re.M)
