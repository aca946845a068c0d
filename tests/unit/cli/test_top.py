"""`budgateway top`: frames, and the rates between two of them."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from rich.console import Console

from budgateway.cli.top import Top, show

FACTS: dict[str, Any] = {
    "version": "1", "pid": 7, "uptime_s": 61.0, "rss_bytes": 50 << 20, "connections": 3, "in_flight": 2,
    "requests": 10, "errors": 1, "requests_per_s": {"10s": 1.0, "60s": 0.5}, "workers": [], "upstreams": [], "queues": [],
    "routes": {"chat": {"requests": 10, "errors": 1, "tokens_in": 100, "tokens_out": 50}},
}  # fmt: skip


def later(**more: int) -> dict[str, Any]:
    facts = copy.deepcopy(FACTS)
    for key, count in more.items():
        facts["routes"]["chat"][key] += count
    return facts


def shown(part: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(part)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_a_frame_has_the_rates_since_the_one_before() -> None:
    top = Top()
    first = shown(top.frame(FACTS, 100.0))
    assert "10 requests" in first
    assert "requests/s" not in first
    second = shown(top.frame(later(requests=6, errors=2, tokens_in=300, tokens_out=40), 102.0))
    assert "now 3.0 requests/s, 1.0 failed/s, 150 tokens in/s, 20 tokens out/s" in second


def test_a_gateway_that_began_anew_has_no_negative_rate() -> None:
    top = Top()
    top.frame(later(requests=50), 1.0)
    assert "now 0.0 requests/s" in shown(top.frame(FACTS, 2.0))


def test_once_prints_one_frame() -> None:
    console = Console(file=io.StringIO(), width=120)
    show(console, lambda: FACTS, once=True, sleep=lambda _: pytest.fail("waits"))
    assert console.file.getvalue().count("budgateway 1") == 1  # type: ignore[attr-defined]


def test_it_goes_on_until_it_is_interrupted() -> None:
    console = Console(file=io.StringIO(), width=120)
    answers = iter([FACTS, later(requests=1), later(requests=2)])
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    show(console, lambda: next(answers), once=False, interval_s=2.0, sleep=sleep)
    assert naps == [2.0, 2.0, 2.0]
    assert list(answers) == []
