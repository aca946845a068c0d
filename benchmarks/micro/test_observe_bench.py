"""Cost of metrics and access line at the end of an exchange, next to prometheus_client, and to json with logging."""

from __future__ import annotations

import datetime
import json

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from budgateway._native import DURATION_BOUNDS_S, AccessLog, Metrics, RequestHead, Segment

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: 300\r\n\r\n"
UNIX_MS = 1_709_210_096_007


def test_observe_native(benchmark: BenchmarkFixture) -> None:
    segment = Segment(4)
    route, provider, model = (segment.intern(name) for name in ("chat", "vllm", "llama-3-70b"))
    seen = (route, provider, model, 200, 0, 12_345_678, 15_000, 2_345_678, 300, 400, 10, 20)
    benchmark.pedantic(Metrics(segment).observe, seen, rounds=200, iterations=5000, warmup_rounds=5)


def test_observe_prometheus_client(benchmark: BenchmarkFixture) -> None:
    """One histogram of the three, and none of the counters."""
    prometheus_client = pytest.importorskip("prometheus_client")
    names = ["route", "provider", "model", "status"]
    histogram = prometheus_client.Histogram(
        "duration_seconds", "x", names, buckets=DURATION_BOUNDS_S, registry=prometheus_client.CollectorRegistry()
    )

    def observe() -> None:
        histogram.labels("chat", "vllm", "llama-3-70b", "200").observe(0.012345678)

    benchmark.pedantic(observe, rounds=100, iterations=1000, warmup_rounds=5)


def test_collect_native(benchmark: BenchmarkFixture) -> None:
    metrics = Metrics(Segment(4))
    for label in range(100):
        metrics.observe(label, 0, 0, 200, 0, 12_345_678, 15_000, 2_345_678, 300, 400, 10, 20)
    assert len(benchmark(metrics.collect)) == 100


def test_access_line_native(benchmark: BenchmarkFixture) -> None:
    segment = Segment(4)
    log = AccessLog(segment)
    head = RequestHead.parse(HEAD)
    texts = ("0123456789abcdef-42", "10.0.0.1", "principal-1")
    labels = (segment.intern("chat"), segment.intern("vllm"))
    rest = (
        "http://vllm-1:8000",
        "llama-3-70b",
        200,
        0,
        "",
        1,
        True,
        300,
        400,
        12_345_678,
        15_000,
        2_345_678,
        10,
        20,
        0,
    )
    line = (UNIX_MS, head, *texts, *labels, *rest)

    def block() -> bytes:
        for _ in range(100):
            log.append(*line)
        return log.drain()

    benchmark.extra_info["lines per round"] = 100
    assert benchmark.pedantic(block, rounds=200, iterations=10, warmup_rounds=5).count(b"\n") == 100
    assert log.dropped == 0


def test_access_line_python(benchmark: BenchmarkFixture) -> None:
    """json.dumps of a dictionary, appended to a list: cheaper than any logging call."""
    lines: list[str] = []

    def block() -> None:
        for _ in range(100):
            when = datetime.datetime.fromtimestamp(UNIX_MS / 1000, datetime.UTC)
            line = {
                "ts": when.isoformat(timespec="milliseconds"),
                "request_id": "0123456789abcdef-42",
                "client": "10.0.0.1",
                "principal": "principal-1",
                "method": "POST",
                "path": "/v1/chat/completions",
                "status": 200,
                "outcome": "complete",
                "route": "chat",
                "provider": "vllm",
                "upstream": "http://vllm-1:8000",
                "model": "llama-3-70b",
                "stream": True,
                "attempts": 1,
                "bytes_in": 300,
                "bytes_out": 400,
                "duration_ms": 12.345,
                "overhead_us": 15.0,
                "ttft_ms": 2.345,
                "tokens_in": 10,
                "tokens_out": 20,
                "tokens_cached": 0,
            }
            lines.append(json.dumps(line, separators=(",", ":")))
        lines.clear()

    benchmark.extra_info["lines per round"] = 100
    benchmark.pedantic(block, rounds=50, iterations=2, warmup_rounds=2)
