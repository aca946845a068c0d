"""The access log: a bounded buffer of whole JSON lines."""

from __future__ import annotations

import json

from books import Books

from budgateway._native import OUTCOME_TRUNCATED, AccessLog, RequestHead, Segment

USAGE = b'{"usage":{"prompt_tokens":10,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":5}}}'


def test_a_line_has_these_members_in_this_order() -> None:
    segment = Segment()
    head = RequestHead.parse(b"POST /v1/chat/completions?key=secret HTTP/1.1\r\nhost: a\r\n\r\n")
    log = AccessLog(segment)
    waiting = Books(segment, log, 1_709_210_096_006_000_000).enter(
        head=head,
        answer=USAGE,
        request_id="req-1",
        client="10.0.0.1",
        principal="alice",
        tenant="acme",
        route=segment.intern("chat"),
        provider=segment.intern("vllm"),
        upstream="http://vllm-1:8000",
        model="llama",
        status=502,
        outcome=OUTCOME_TRUNCATED,
        error="upstream_protocol",
        attempts=2,
        is_stream=True,
        bytes_in=300,
        bytes_out=400,
        started_ns=1_000_000,
        first_ns=2_500_000,
        ended_ns=1_235_567_890,
        overhead_ns=48_200,
    )
    block = log.drain()
    assert waiting == len(block)
    assert list(json.loads(block).items()) == [
        ("ts", "2024-02-29T12:34:56.007Z"),
        ("request_id", "req-1"),
        ("client", "10.0.0.1"),
        ("principal", "alice"),
        ("tenant", "acme"),
        ("method", "POST"),
        ("path", "/v1/chat/completions"),
        ("status", 502),
        ("outcome", "truncated"),
        ("error", "upstream_protocol"),
        ("route", "chat"),
        ("provider", "vllm"),
        ("upstream", "http://vllm-1:8000"),
        ("model", "llama"),
        ("stream", True),
        ("attempts", 2),
        ("bytes_in", 300),
        ("bytes_out", 400),
        ("duration_ms", 1234.567),
        ("overhead_us", 48.2),
        ("ttft_ms", 1.5),
        ("tpot_ms", 64.898),
        ("tokens_in", 10),
        ("tokens_out", 20),
        ("tokens_cached", 5),
        ("tokens_reasoning", 0),
    ]


def test_what_is_empty_is_left_out() -> None:
    log = AccessLog(segment := Segment())
    Books(segment, log).enter()
    numbers = ["attempts", "bytes_in", "bytes_out", "duration_ms", "overhead_us"]
    numbers += ["tokens_in", "tokens_out", "tokens_cached", "tokens_reasoning"]
    assert json.loads(log.drain()) == {
        "ts": "1970-01-01T00:00:00.000Z",
        "status": 0,
        "outcome": "complete",
        "stream": False,
        **dict.fromkeys(numbers, 0),
    }


def test_a_full_buffer_drops_whole_lines_and_counts_them() -> None:
    log = AccessLog(segment := Segment(), 1000)
    books = Books(segment, log)
    waiting = [books.enter() for _ in range(100)]
    assert max(waiting) <= 1000
    lines = log.drain().splitlines()
    assert all(json.loads(line) for line in lines)
    assert len(lines) + log.dropped == 100
    assert books.enter() == len(lines[0]) + 1
    assert log.drain().count(b"\n") == 1
    assert log.drain() == b""


def test_no_text_breaks_a_line() -> None:
    log = AccessLog(segment := Segment())
    Books(segment, log).enter(request_id='a"b\\c\n\x00\x1f\x7f\u2028', client="\ud800")
    block = log.drain()
    assert json.loads(block)["request_id"] == 'a"b\\c\n\x00\x1f\x7f\u2028'
    assert "\ufffd" in json.loads(block)["client"]
    assert not set(block[:-1]) & {*range(0x20), 0x7F}
