"""Cost of metrics and access line at the end of an exchange, next to prometheus_client, and to json with logging."""

from __future__ import annotations

import datetime
import json

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from budgateway.exchange.exchange_cy import COMPLETE, Exchange
from budgateway.native import DURATION_BOUNDS_S, AccessLog, Metrics, RequestHead, Segment, Tracer
from budgateway.observe.record_cy import Recorder
from budgateway.records import Principal

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: 300\r\n\r\n"
ANSWER = b'{"choices":[{"message":{"content":"%s"}}],"usage":{"prompt_tokens":12,"completion_tokens":20}}' % (
    b"a" * 200
)
UNIX_NS = 1_709_210_096_007_000_000


def exchange(segment: Segment) -> Exchange:
    """An ordinary exchange that ended well."""
    x = Exchange(RequestHead.parse(HEAD), None, "10.0.0.1", 1_000_000)
    x.request_id = "0123456789abcdef-42"
    x.model = "llama-3-70b"
    x.model_label = segment.intern(x.model)
    x.principal = Principal(id="principal-1", tenant="acme")
    x.status, x.attempts, x.request_sent = 200, 1, True
    x.body_bytes, x.bytes_out, x.document = 300, len(ANSWER), ANSWER
    x.overhead_ns, x.first_byte_ns = 15_000, 3_345_678
    return x


@pytest.mark.parametrize("access", ["with an access line", "without"])
def test_record_native(benchmark: BenchmarkFixture, access: str) -> None:
    segment = Segment(4)
    log = AccessLog(segment, 4 << 20) if access != "without" else None
    recorder = Recorder(segment, log, UNIX_NS, 1 << 20, log.drain if log else None)
    route, provider = segment.intern("chat"), segment.intern("vllm")
    seen = (exchange(segment), COMPLETE, route, provider, "http://vllm-1:8000", None, 13_345_678)
    benchmark.pedantic(recorder.record, seen, rounds=200, iterations=1000, warmup_rounds=5)
    assert log is None or log.dropped == 0


@pytest.mark.parametrize("kept", ["not sampled", "sampled"])
def test_record_traced(benchmark: BenchmarkFixture, kept: str) -> None:
    """The cost of a tracer at the end of an exchange: a look at its outcome, or its record."""
    segment = Segment(4)
    recorder = Recorder(segment, None, UNIX_NS, 1 << 20, None)
    tracer = Tracer(
        segment, (1, 2), ratio=1.0, parent="follow", keep_errors=True, keep_slower_than_ns=10**10, max_per_second=1e9,
        keeps_all=False, propagates=True, capacity_bytes=1 << 16,
    )  # fmt: skip
    recorder.ledger.follow(tracer)
    route, provider = segment.intern("chat"), segment.intern("vllm")
    x = exchange(segment)
    if kept == "sampled":
        x.trace = tracer.decide(x.head)
        x.trace.begin("vllm/1", 1_500_000, True)
    seen = (x, COMPLETE, route, provider, "http://vllm-1:8000", None, 13_345_678)

    def record() -> None:
        for _ in range(100):
            recorder.record(*seen)
        tracer.drain()

    benchmark.pedantic(record, rounds=100, iterations=10, warmup_rounds=5)


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
    segment = Segment(4)
    recorder = Recorder(segment, None, UNIX_NS, 0, None)
    for label in range(100):
        recorder.record(exchange(segment), COMPLETE, label, 0, "", None, 13_345_678)
    assert len(benchmark(Metrics(segment).collect)) == 100


def test_access_line_python(benchmark: BenchmarkFixture) -> None:
    """json.dumps of a dictionary, appended to a list: cheaper than any logging call."""
    lines: list[str] = []

    def block() -> None:
        for _ in range(100):
            when = datetime.datetime.fromtimestamp(UNIX_NS / 1e9, datetime.UTC)
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
