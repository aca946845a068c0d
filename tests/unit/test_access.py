"""The access log: a bounded buffer of whole JSON lines."""

from __future__ import annotations

import json

from budgateway._native import OUTCOME_TRUNCATED, AccessLog, RequestHead, Segment

EMPTY = ("", "", "", 0, 0, "", "", -1, 9, "", -1, False, -1, -1, -1, -1, 0, -1, -1, -1)


def test_a_line_has_these_members_in_this_order() -> None:
    segment = Segment()
    head = RequestHead.parse(b"POST /v1/chat/completions?key=secret HTTP/1.1\r\nhost: a\r\n\r\n")
    log = AccessLog(segment)
    waiting = log.append(
        1_709_210_096_007,
        head,
        "req-1",
        "10.0.0.1",
        "alice",
        segment.intern("chat"),
        segment.intern("vllm"),
        "http://vllm-1:8000",
        "llama",
        502,
        OUTCOME_TRUNCATED,
        "upstream_protocol",
        2,
        True,
        300,
        400,
        1_234_567_890,
        48_200,
        1_500_000,
        10,
        20,
        5,
    )
    block = log.drain()
    assert waiting == len(block)
    assert list(json.loads(block).items()) == [
        ("ts", "2024-02-29T12:34:56.007Z"),
        ("request_id", "req-1"),
        ("client", "10.0.0.1"),
        ("principal", "alice"),
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
        ("tokens_in", 10),
        ("tokens_out", 20),
        ("tokens_cached", 5),
    ]


def test_what_is_empty_is_left_out() -> None:
    log = AccessLog(Segment())
    log.append(0, None, *EMPTY)
    assert json.loads(log.drain()) == {"ts": "1970-01-01T00:00:00.000Z", "stream": False}


def test_a_full_buffer_drops_whole_lines_and_counts_them() -> None:
    log = AccessLog(Segment(), 1000)
    waiting = [log.append(0, None, *EMPTY) for _ in range(100)]
    assert max(waiting) <= 1000
    lines = log.drain().splitlines()
    assert all(json.loads(line) for line in lines)
    assert len(lines) + log.dropped == 100
    assert log.append(0, None, *EMPTY) < 100
    assert log.drain().count(b"\n") == 1
    assert log.drain() == b""


def test_no_text_breaks_a_line() -> None:
    log = AccessLog(Segment())
    log.append(0, None, 'a"b\\c\n\x00\x1f\x7f\u2028', "\ud800", *EMPTY[2:])
    block = log.drain()
    assert json.loads(block)["request_id"] == 'a"b\\c\n\x00\x1f\x7f\u2028'
    assert "\ufffd" in json.loads(block)["client"]
    assert not set(block[:-1]) & {*range(0x20), 0x7F}
