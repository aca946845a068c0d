"""Records of traced exchanges, as the native core writes them (`native/core/src/trace/record.rs`)."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_LENGTH = Struct("<I")
_IDS = Struct(">16s16s")
_NUMBERS = Struct("<4QqQQQ10QHBBB")
_TEXT = Struct("<H")
_ATTEMPT = Struct("<4QHBB")
_NOTE = Struct("<BQ")
_TEXTS = 13

_IS_STREAM = 1
_IS_ESTIMATED = 2
_HAS_COST = 4
_IS_HTTP_10 = 8
_IS_ASKED = 16

OUTCOMES = ("complete", "refused", "upstream_failed", "truncated", "client_gone")
SAMPLED_BY = ("", "parent", "ratio", "error", "slow", "debug")
# Reasons for which an attempt is given up: those of balance.attempts_cy, then that another attempt was faster.
REASONS = ("connect", "stale", "broken", "timeout", "pressure", "status", "hedge", "fallback", "hedge_lost")

# Notes: the request is complete; a stage waits, by its number in the pipeline; a fallback was chosen.
READY = 0
LIMIT_WAIT = 3
QUEUED = 4
WAITED = 10
FELL_BACK = 11


class Attempt(NamedTuple):
    """One sending of a request. Times are monotonic nanoseconds, 0 for unknown; `reason` is empty for the last one."""

    span: int
    began_ns: int
    sent_ns: int
    ended_ns: int
    status: int
    reason: str
    is_reused: bool
    upstream: str


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """One traced exchange. `epoch_ns` plus a time is wall-clock time."""

    trace_id: int
    link_trace_id: int
    parent: int
    server: int
    call: int
    link_span: int
    epoch_ns: int
    started_ns: int
    first_ns: int
    ended_ns: int
    overhead_ns: int
    attempt_count: int
    retries: int
    bytes_in: int
    bytes_out: int
    tokens_in: int
    tokens_out: int
    tokens_cached: int
    tokens_reasoning: int
    cost_micros: int | None
    status: int
    outcome: str
    sampled_by: str
    is_stream: bool
    is_estimated: bool
    is_http_10: bool
    is_asked: bool
    route: str
    provider: str
    model: str
    upstream: str
    method: str
    path: str
    host: str
    request_id: str
    client: str
    principal: str
    tenant: str
    error: str
    user_agent: str
    attempts: tuple[Attempt, ...]
    notes: tuple[tuple[int, int], ...]


def split(block: bytes) -> list[bytes]:
    """Return the records of a block, each without its length."""
    found, at = [], 0
    while at < len(block):
        (length,) = _LENGTH.unpack_from(block, at)
        at += _LENGTH.size
        found.append(block[at : at + length])
        at += length
    return found


def read(record: bytes) -> TraceRecord:
    """Decode one record."""
    trace_id, link_trace_id = _IDS.unpack_from(record, 0)
    *numbers, status, outcome, by, flags = _NUMBERS.unpack_from(record, _IDS.size)
    at = _IDS.size + _NUMBERS.size
    texts, at = _texts(record, at, _TEXTS)
    attempts, notes = [], []
    count, at = record[at], at + 1
    for _ in range(count):
        span, began_ns, sent_ns, ended_ns, got, reason, is_reused = _ATTEMPT.unpack_from(record, at)
        (upstream,), at = _texts(record, at + _ATTEMPT.size, 1)
        named = REASONS[reason - 1] if 0 < reason <= len(REASONS) else ""
        attempts.append(Attempt(span, began_ns, sent_ns, ended_ns, got, named, bool(is_reused), upstream))
    count, at = record[at], at + 1
    for _ in range(count):
        notes.append(_NOTE.unpack_from(record, at))
        at += _NOTE.size
    cost = numbers.pop()
    fields: tuple[Any, ...] = (
        int.from_bytes(trace_id),
        int.from_bytes(link_trace_id),
        *numbers,
        cost if flags & _HAS_COST else None,
        status,
        OUTCOMES[outcome],
        SAMPLED_BY[by],
        bool(flags & _IS_STREAM),
        bool(flags & _IS_ESTIMATED),
        bool(flags & _IS_HTTP_10),
        bool(flags & _IS_ASKED),
        *texts,
        tuple(attempts),
        tuple(notes),
    )
    return TraceRecord(*fields)


def records(block: bytes) -> Iterator[TraceRecord]:
    """Decode the records of a block."""
    return map(read, split(block))


def _texts(record: bytes, at: int, count: int) -> tuple[list[str], int]:
    found = []
    for _ in range(count):
        (length,) = _TEXT.unpack_from(record, at)
        at += _TEXT.size
        found.append(record[at : at + length].decode(errors="replace"))
        at += length
    return found, at
