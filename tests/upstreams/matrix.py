"""The failure matrix: what an upstream does wrong, what its client gets, what is counted; tests and a page are made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from upstreams import faults
from upstreams.faulty import Answer
from upstreams.wire import head

EVENTS = faults.chat_events("one", "two", "three")
STREAM = faults.stream_bytes(EVENTS)
GOOD = faults.chat_bytes("all is well")
BODY_AT = GOOD.index(b"\r\n\r\n") + 4
FIRST_EVENT = STREAM.index(EVENTS[1])
UNENDED = faults.stream_bytes(EVENTS[:3])  # properly framed, without finish_reason and [DONE]


@dataclass(frozen=True, slots=True)
class Row:
    """One fault. `status` is what the client gets when there is nobody else; 200 with `event` is a stream that ends with
    an error event and without a last chunk. `retried` is the reason counted when another upstream answers instead, ""
    when none is asked. `kept`: the upstream's answer ends properly, and so its connection serves on; None when that is a
    matter of how it comes in."""

    fault: str
    phase: str
    stream: bool
    answer: Callable[[], Answer]
    status: int
    outcome: str
    error: str = ""
    event: bool = False
    retried: str = "broken"
    kept: bool | None = False


def _both(fault: str, phase: str, answer: Callable[[], Answer], status: int, error: str, retried: str) -> list[Row]:
    outcome = "upstream_failed" if error else "complete"
    kept = not error or fault == "empty 200"
    return [
        Row(fault, phase, stream, answer, status, outcome, error, retried=retried, kept=kept)
        for stream in (False, True)
    ]


ROWS: tuple[Row, ...] = (
    *_both("closes at once", "before the head", lambda: faults.cut(GOOD, 0), 502, "upstream_protocol", "broken"),
    *_both("resets", "before the head", lambda: faults.cut(GOOD, 0, reset=True), 502, "upstream_protocol", "broken"),
    *_both("speaks no HTTP", "head", faults.garbage, 502, "upstream_protocol", "broken"),
    *_both("half a head", "head", lambda: faults.cut(GOOD, 20), 502, "upstream_protocol", "broken"),
    *_both("429", "head", lambda: faults.status(429), 429, "", "pressure"),
    *_both("429, `Retry-After: 30`", "head", lambda: faults.status(429, retry_after="30"), 429, "", "pressure"),
    *_both("500", "head", lambda: faults.status(500), 500, "", ""),
    *_both("502", "head", lambda: faults.status(502), 502, "", "status"),
    *_both("503", "head", lambda: faults.status(503), 503, "", "pressure"),
    *_both("504", "head", lambda: faults.status(504), 504, "", "status"),
    *_both("400", "head", lambda: faults.status(400), 400, "", ""),
    *_both("empty 200", "body", faults.empty_ok, 502, "upstream_error", "broken"),
    Row("silent", "before the head", False, faults.silent, 504, "upstream_failed", "upstream_timeout", retried=""),
    Row("silent", "before the head", True, faults.silent, 504, "upstream_failed", "upstream_timeout", retried="timeout"),
    Row("200 with an error in it", "body", False,
        lambda: faults.raw(faults.json_bytes({"error": {"message": "m", "code": 500}})),
        502, "upstream_failed", "upstream_error", kept=True),
    Row("cut", "body", False, lambda: faults.cut(GOOD, BODY_AT + 9), 502, "upstream_failed", "upstream_protocol"),
    Row("stalls", "body", False, lambda: faults.stall(GOOD, BODY_AT + 9), 504, "upstream_failed", "upstream_timeout",
        retried=""),
    Row("head, then silence", "first event", True, lambda: faults.stall(STREAM, STREAM.index(b"\r\n\r\n") + 4),
        504, "upstream_failed", "upstream_timeout", retried="timeout"),
    Row("ends before its first event", "first event", True, faults.empty_stream,
        502, "upstream_failed", "upstream_error", kept=True),
    Row("only `[DONE]`", "first event", True, lambda: faults.stream(faults.sse("[DONE]")),
        502, "upstream_failed", "upstream_error", kept=None),
    Row("an error as first event", "first event", True, faults.error_event_first,
        502, "upstream_failed", "upstream_error", kept=None),
    Row("a first event that is no JSON", "first event", True,
        lambda: faults.stream([b"data: <html>\n\n", *EVENTS]), 502, "upstream_failed", "upstream_error", kept=None),
    Row("a bad chunk from the start", "first event", True,
        lambda: faults.raw(head(200, [faults.EVENT_STREAM, faults.CHUNKED]) + b"zz\r\n"),
        502, "upstream_failed", "upstream_protocol"),
    Row("cut inside the first event", "first event", True, lambda: faults.cut(STREAM, FIRST_EVENT - 40),
        502, "upstream_failed", "upstream_protocol"),
    Row("cut at an event's end", "later", True, lambda: faults.cut(STREAM, FIRST_EVENT + len(EVENTS[1])),
        200, "truncated", "upstream_protocol", event=True, retried=""),
    Row("cut inside an event", "later", True, lambda: faults.cut(STREAM, STREAM.index(b"two")),
        200, "truncated", "upstream_protocol", event=True, retried=""),
    Row("half-closes", "later", True, lambda: faults.half_close(STREAM, STREAM.index(b"two")),
        200, "truncated", "upstream_protocol", event=True, retried=""),
    Row("stalls", "later", True, lambda: faults.stall(STREAM, STREAM.index(b"two")),
        200, "truncated", "upstream_timeout", event=True, retried=""),
    Row("a bad chunk", "later", True, faults.bad_chunk,
        200, "truncated", "upstream_protocol", event=True, retried=""),
    Row("ends without `[DONE]` and `finish_reason`", "end", True,
        lambda: faults.dribble(UNENDED, 200, 0.005), 200, "truncated", "upstream_protocol", event=True, retried="",
        kept=True),
)  # fmt: skip


def table() -> str:
    """The matrix as the page has it."""
    lines = [
        "| upstream | phase | request | client | the upstream sees | outcome, error | with another upstream |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        client = "200, an error event, cut off" if row.event else str(row.status)
        told = f"`{row.outcome}`" + (f", `{row.error}`" if row.error else "")
        other = f"its answer; `{row.retried}`" if row.retried else "the same"
        kind = "stream" if row.stream else "whole"
        seen = {True: "1 request", False: "1 request, closed", None: "1 request, closed if not at its end"}[row.kept]
        lines.append(f"| {row.fault} | {row.phase} | {kind} | {client} | {seen} | {told} | {other} |")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Hedged:
    """Two upstreams, of which the second is asked as the first one is late. `winner` answers; `whole` are answers after
    which a connection is kept."""

    first: str
    second: str
    stream: bool
    answers: tuple[Callable[[], Answer], Callable[[], Answer]]
    status: int
    winner: str = ""
    whole: tuple[Callable[[], Answer], ...] = ()


def _later(seconds: float, answer: Answer) -> Callable[[], Answer]:
    return lambda: faults.slow_head(seconds, answer)


# The second one is asked after 0.05 s.
FIRST, SECOND = faults.chat("from the first"), faults.chat("from the second")
REFUSES, FAILS = _later(0.15, faults.status(503)), _later(0.15, faults.status(500))
RESETS = _later(0.15, faults.cut(GOOD, 0, reset=True))
LIES = _later(0.15, faults.empty_ok())
SLOW_STREAM = _later(0.3, faults.raw(STREAM))

HEDGED: tuple[Hedged, ...] = (
    Hedged("silent", "answers", False, (faults.silent, _later(0.1, SECOND)), 200, "second"),
    Hedged("answers after all", "silent", False, (_later(0.3, FIRST), faults.silent), 200, "first"),
    Hedged("503", "answers later", False, (REFUSES, _later(0.3, SECOND)), 200, "second", (REFUSES,)),
    Hedged("500", "answers later", False, (FAILS, _later(0.3, SECOND)), 200, "second", (FAILS,)),
    Hedged("resets", "answers later", False, (RESETS, _later(0.3, SECOND)), 200, "second", (RESETS,)),
    Hedged("empty 200", "answers later", False, (LIES, _later(0.3, SECOND)), 200, "second", (LIES,)),
    Hedged("answers after all", "503", False, (_later(0.4, FIRST), REFUSES), 200, "first", (REFUSES,)),
    Hedged("answers after all", "resets", False, (_later(0.4, FIRST), RESETS), 200, "first", (RESETS,)),
    Hedged("503", "500, later", False, (REFUSES, _later(0.3, faults.status(500))), 500, "second", (REFUSES,)),
    Hedged("silent", "400", False, (faults.silent, lambda: faults.status(400)), 400, "second"),
    Hedged("silent", "silent", False, (faults.silent, faults.silent), 504),
    Hedged("head, then silence", "streams", True,
           (lambda: faults.stall(STREAM, STREAM.index(b"\r\n\r\n") + 4), _later(0.1, faults.raw(STREAM))), 200, "second"),
    Hedged("streams after all", "head, then silence", True,
           (SLOW_STREAM, lambda: faults.stall(STREAM, STREAM.index(b"\r\n\r\n") + 4)), 200, "first"),
    Hedged("streams after all", "half an event, then silence", True,
           (SLOW_STREAM, lambda: faults.stall(STREAM, FIRST_EVENT - 40)), 200, "first"),
    Hedged("streams after all", "an error as first event", True,
           (SLOW_STREAM, faults.error_event_first), 200, "first", (faults.error_event_first,)),
)  # fmt: skip


def hedged_table() -> str:
    """The same for two attempts at a time."""
    lines = ["| first upstream | second, tried meanwhile | request | client | cancelled |", "|---|---|---|---|---|"]
    for row in HEDGED:
        client = f"{row.status}" + (f", the {row.winner}'s" if row.winner else "")
        off = [
            name for name, answer in zip(("first", "second"), row.answers, strict=True)
            if name != row.winner and answer not in row.whole
        ]  # fmt: skip
        lines.append(
            f"| {row.first} | {row.second} | {'stream' if row.stream else 'whole'} | {client} | {', '.join(off) or '-'} |"
        )
    return "\n".join(lines)
