"""README and docs/ are correct: configurations are checked, the program is run, lists are compared."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from unit.house.test_layers import LAYERS

from budgateway import load_config
from budgateway.native import (
    DURATION_BOUNDS_S,
    FIRST_BOUNDS_S,
    OVERHEAD_BOUNDS_S,
    PER_TOKEN_BOUNDS_S,
    TOKEN_BOUNDS,
    Metrics,
    Segment,
)
from budgateway.observe.metrics import (
    ProgramCollector,
    QueueCollector,
    Reloads,
    SegmentCollector,
    SpanCollector,
    UpstreamCollector,
    WorkerCollector,
)

ROOT = Path(__file__).resolve().parents[3]


def page(name: str) -> str:
    """A document's text."""
    return (ROOT / name).read_text()


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a document in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page(name), re.MULTILINE | re.DOTALL)


def test_the_first_configuration_of_the_readme_is_valid(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(blocks("README.md", "toml")[0])
    secrets = {"JWT_SECRET": "s" * 32, "OPENAI_API_KEY": "sk-x"}
    settings = load_config(tmp_path / "gateway.toml", environ=secrets)
    assert [provider.name for provider in settings.providers] == ["vllm", "openai"]
    assert settings.notices == ()


def test_the_program_with_a_gateway_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("METRICS_PORT", "0")
    text = re.search(r"## Gateway.*?```python\n(.*?)```", page("docs/python-api.md"), re.DOTALL)
    assert text
    exec(text[1], {"__name__": "__main__"})
    urls = capsys.readouterr().out.split()
    assert len(urls) == 2
    assert all(re.fullmatch(r"http://127\.0\.0\.1:\d+", url) for url in urls)


def test_the_table_of_layers_is_the_one_that_is_held() -> None:
    text = next(block for block in blocks("docs/architecture.md", "") if block.startswith(" 8  cli"))
    shown = {
        int(row[0]): set(re.findall(r"\w+", row[1])) for row in re.findall(r"^ (\d)  (.*?)(?:   .*)?$", text, re.M)
    }
    held = {layer: {room or "__init__" for room in rooms} for layer, rooms in LAYERS.items()}
    folders = {path.name.split("_cy")[0].removesuffix(".py") for path in (ROOT / "budgateway").iterdir()}
    # Rooms that nobody has built are in the test's table alone.
    assert shown == {layer: rooms & (folders | {"__init__"}) for layer, rooms in held.items()}


def test_every_metric_is_listed_and_no_other() -> None:
    text = page("docs/observability.md")
    collectors = (
        SegmentCollector(Segment(1)),
        QueueCollector(Segment(1)),
        WorkerCollector(list),
        UpstreamCollector(list),
        SpanCollector(lambda: {"kept": 0}),
        ProgramCollector("1", Reloads()),
    )
    families = {family.name: family.type for collector in collectors for family in collector.collect()}
    native = text_string_to_metric_families(Metrics(Segment(1)).render().decode())
    families |= {family.name: family.type for family in native}
    exposed = {f"{name}_total" if kind == "counter" else name for name, kind in families.items()}
    assert set(re.findall(r"`(budgateway_\w+)`", text)) == exposed


def test_the_buckets_are_those_of_the_histograms() -> None:
    text = page("docs/observability.md")
    for name, bounds in (
        ("duration", DURATION_BOUNDS_S),
        ("first byte, first token", FIRST_BOUNDS_S),
        ("time per output token", PER_TOKEN_BOUNDS_S),
        ("tokens of a request", TOKEN_BOUNDS),
        ("overhead", OVERHEAD_BOUNDS_S),
    ):
        row = re.search(rf"^\| {name} \| ([\d. ]+) \|$", text, re.M)
        assert row
        assert tuple(map(float, row[1].split())) == bounds


def test_every_field_of_the_example_line_is_explained() -> None:
    line = json.loads(blocks("docs/life-of-a-request.md", "json")[0])
    fields = page("docs/observability.md").partition("## Access lines")[2].partition("## Request ids")[0]
    explained = re.findall(
        r"`(\w+)`", "\n".join(row.split("|")[1] for row in fields.splitlines() if row.startswith("|"))
    )
    assert set(line) <= set(explained)
    source = page("native/core/src/access.rs")
    assert set(re.findall(r'[{,]\\"(\w+)\\":', source.partition("#[cfg(test)]")[0])) == set(explained)
