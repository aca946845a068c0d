"""Cost of scanning one event of a stream, next to a scan for its data in Python."""

from __future__ import annotations

import json

from pytest_benchmark.fixture import BenchmarkFixture

from budgateway._native import ModelRewriter, UsageScanner

CHUNK = {
    "id": "chatcmpl-9aXk2",
    "object": "chat.completion.chunk",
    "created": 1730000000,
    "model": "llama-3.1-8b",
    "choices": [{"index": 0, "delta": {"content": " token"}, "finish_reason": None}],
}
EVENT = b"data: " + json.dumps(CHUNK, separators=(",", ":")).encode() + b"\n\n"
NULL_USAGE = b"data: " + json.dumps({**CHUNK, "usage": None}, separators=(",", ":")).encode() + b"\n\n"
USAGE = {"prompt_tokens": 12, "completion_tokens": 34, "prompt_tokens_details": {"cached_tokens": 4}}
LAST = b"data: " + json.dumps({**CHUNK, "choices": [], "usage": USAGE}, separators=(",", ":")).encode() + b"\n\n"


def test_scan_event_compiled(benchmark: BenchmarkFixture) -> None:
    assert benchmark(UsageScanner(sse=True).feed, EVENT) == 1


def test_scan_event_with_null_usage_compiled(benchmark: BenchmarkFixture) -> None:
    assert benchmark(UsageScanner(sse=True).feed, NULL_USAGE) == 1


def test_scan_last_event_compiled(benchmark: BenchmarkFixture) -> None:
    scanner = UsageScanner(sse=True)
    benchmark(scanner.feed, LAST)
    assert scanner.usage == (12, 34, 4, 0)


def test_rename_event_compiled(benchmark: BenchmarkFixture) -> None:
    assert b'"model":"ours"' in benchmark(ModelRewriter(sse=True, model="ours").feed, EVENT)


def test_loads_event_json(benchmark: BenchmarkFixture) -> None:
    def loads(chunk: bytes) -> object:
        return [json.loads(line[5:]).get("usage") for line in chunk.splitlines() if line.startswith(b"data:")]

    assert benchmark(loads, EVENT) == [None]
