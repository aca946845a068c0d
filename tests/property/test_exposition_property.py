"""The rendered text of the metrics says what the tables hold, as prometheus_client's parser reads it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from typing import Any

import pytest
from books import Books
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from budgateway.native import (
    DURATION_BOUNDS_S,
    FIRST_BOUNDS_S,
    OVERHEAD_BOUNDS_S,
    PER_TOKEN_BOUNDS_S,
    TOKEN_BOUNDS,
    Metrics,
    Segment,
)

OUTCOMES = ("complete", "refused", "upstream_failed", "truncated", "client_gone")
REASONS = ("connect", "stale", "broken", "timeout", "pressure", "status", "hedge", "fallback")
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\x1f"), min_size=1, max_size=12)
TIMES = st.integers(0, 10**12)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

EXCHANGE = st.fixed_dictionaries(
    {
        "route": NAMES, "provider": NAMES, "model_label": NAMES, "status": st.sampled_from([200, 204, 400, 429, 502]),
        "outcome": st.integers(0, 4), "retries": st.integers(0, (1 << 62) - 1), "is_stream": st.integers(0, 1),
        "error": st.sampled_from(["", "limited", "who"]), "bytes_in": st.integers(0, 1 << 40), "bytes_out": st.integers(0, 1 << 40), "first_ns": TIMES, "ended_ns": TIMES,
        "overhead_ns": TIMES, "tokens": st.tuples(st.integers(0, 1 << 21), st.integers(0, 1 << 21)),
    }
)  # fmt: skip


def filled(exchanges: Iterable[dict[str, Any]]) -> Metrics:
    segment = Segment(1)
    books = Books(segment)
    for exchange in exchanges:
        numbers = dict(exchange)
        tokens_in, tokens_out = numbers.pop("tokens")
        for name in ("route", "provider"):
            numbers[name] = segment.intern(numbers[name])
        numbers["model_label"] = segment.intern_model(numbers["model_label"])
        answer = b'{"usage":{"prompt_tokens":%d,"completion_tokens":%d}}' % (tokens_in, tokens_out)
        books.enter(answer=answer, error=numbers.pop("error"), **numbers)
    return Metrics(segment)


def expected(metrics: Metrics) -> Samples:
    """Every sample that the tables imply; those of nothing are left out."""
    found: Samples = {}

    def add(name: str, value: float, **labels: str) -> None:
        if value:
            found[name, frozenset(labels.items())] = value

    def histogram(name: str, tally: tuple[list[int], float], bounds: Iterable[float], **labels: str) -> None:
        counts, total = tally
        if not sum(counts):
            return
        for number, bound in enumerate((*bounds, float("inf"))):
            found[f"{name}_bucket", frozenset({**labels, "le": bound}.items())] = sum(counts[: number + 1])  # type: ignore[arg-type]
        found[f"{name}_count", frozenset(labels.items())] = sum(counts)
        found[f"{name}_sum", frozenset(labels.items())] = total

    for series in metrics.collect():
        labels = {
            "route": series.route,
            "provider": series.provider,
            "model": series.model,
            "status": str(series.status),
        }
        add("budgateway_requests_total", series.count, **labels)
        for name, count in list(zip(OUTCOMES, series.outcomes, strict=True))[1:]:
            add("budgateway_errors_total", count, **labels, outcome=name)
        for kind in ("in", "out", "cached", "reasoning"):
            add("budgateway_tokens_total", getattr(series, f"tokens_{kind}"), **labels, kind=kind)
        for direction in ("in", "out"):
            add("budgateway_body_bytes_total", getattr(series, f"bytes_{direction}"), **labels, direction=direction)
        for reason, count in zip(REASONS, series.retries, strict=True):
            add("budgateway_retries_total", count, **labels, reason=reason)
        add("budgateway_cost_usd_total", series.cost_micros / 1e6, **labels)
    for times in metrics.times():
        labels = {"route": times.route, "provider": times.provider, "model": times.model}
        histogram("budgateway_request_duration_seconds", times.plain, DURATION_BOUNDS_S, **labels, stream="false")
        histogram("budgateway_request_duration_seconds", times.stream, DURATION_BOUNDS_S, **labels, stream="true")
        histogram("budgateway_first_byte_seconds", times.first_byte, FIRST_BOUNDS_S, **labels)
        histogram("budgateway_time_to_first_token_seconds", times.first_token, FIRST_BOUNDS_S, **labels)
        histogram("budgateway_time_per_output_token_seconds", times.per_token, PER_TOKEN_BOUNDS_S, **labels)
        for kind, tally in zip(("in", "out"), times.tokens, strict=True):
            histogram("budgateway_request_tokens", tally, TOKEN_BOUNDS, **labels, kind=kind)
    for route, code, count in metrics.refusals():
        add("budgateway_refusals_total", count, route=route, code=code)
    for route, tally in metrics.overheads():
        histogram("budgateway_overhead_seconds", tally, OVERHEAD_BOUNDS_S, route=route)
    return found


def read(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels: dict[str, Any] = dict(sample.labels)
            if "le" in labels:
                labels["le"] = float(labels["le"])
            key = (sample.name, frozenset(labels.items()))
            assert key not in found, f"{key} twice"
            if not sample.name.startswith("budgateway_table_"):
                found[key] = sample.value
    return found


@given(st.lists(EXCHANGE, max_size=8))
def test_the_text_says_what_the_tables_hold(exchanges: list[dict[str, Any]]) -> None:
    metrics = filled(exchanges)
    text = metrics.render().decode()
    wanted = expected(metrics)
    found = read(text)
    assert found.keys() == wanted.keys()
    assert all(found[key] == pytest.approx(value) for key, value in wanted.items())


def test_promtool_finds_nothing_to_complain_about() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool (Debian: prometheus)")
    one = {
        "error": "", "route": 'a"b\\c', "provider": "p", "model_label": "m", "status": 200, "outcome": 0, "is_stream": 1, "first_ns": 10**8,
        "ended_ns": 10**9, "overhead_ns": 10**5, "tokens": (10, 20),
    }  # fmt: skip
    told = subprocess.run(
        [promtool, "check", "metrics"], input=filled([one]).render(), capture_output=True, check=False, timeout=60
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, b"", b"")
