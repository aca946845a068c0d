"""Transformation rules: what three edits of a request and one of an answer's event cost."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from budgateway.native import EventTransform, Transform

DATA = Path(__file__).resolve().parents[2] / "tests" / "data"
REQUEST = Transform(
    [
        (
            [],
            [
                ("remove", "temperature", None, None),
                ("set", "service_tier", '"flex"', None),
                ("cap", "max_tokens", "100", None),
            ],
        )
    ],
    True,
)
ANSWER = Transform([([], [("remove", "system_fingerprint", None, None)])], False)
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",%b'
    b'"choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}\n\n'
)


@pytest.mark.parametrize("name", ["chat-300.json", "chat-20k.json"])
def test_three_edits_of_a_request(benchmark: BenchmarkFixture, name: str) -> None:
    body = (DATA / name).read_bytes()
    edited = benchmark(REQUEST.apply, body, 1)
    assert b'"service_tier":"flex"' in edited[0]


@pytest.mark.parametrize("member", [b'"system_fingerprint":"fp_1",', b""])
def test_an_event(benchmark: BenchmarkFixture, member: bytes) -> None:
    event = EVENT % member
    pump = EventTransform(ANSWER, 1)
    assert benchmark(pump.feed, event) == EVENT % b""
