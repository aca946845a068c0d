"""The timeline of one exchange, for clients: `server-timing` (W3C Server Timing)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budgateway.native import Trace

# Notes of a trace: the request is complete; a stage waits, by its number in the pipeline; the wait is over.
READY = 0
WAITED = 10


def timing_lines(trace: Trace, started_ns: int, head_ns: int, now_ns: int) -> bytes:
    """Return the header lines of an answer whose head came at `head_ns` and leaves at `now_ns`."""
    times = stages(trace.notes, trace.last_sent, started_ns, head_ns, now_ns)
    entries = ", ".join(f"{name};dur={ns / 1e6:.3f}" for name, ns in times.items())
    return f"server-timing: {entries}\r\nx-budgateway-trace-id: {trace.trace_id}\r\n".encode("ascii")


def stages(
    notes: list[tuple[int, int]], last_sent: tuple[int, int], started_ns: int, head_ns: int, now_ns: int
) -> dict[str, int]:
    """Return the nanoseconds of each stage of an exchange: reading the request, deciding, waiting (for a place at an
    upstream, a limit or a key), connecting, the upstream, and holding the answer back. They add up to its duration so
    far, but for attempts that failed, which count as the upstream's time."""
    ready_ns = wait_ns = started_ns
    waits = 0
    for kind, at_ns in notes:
        if kind == READY:
            ready_ns = at_ns
        elif kind == WAITED:
            waits += at_ns - wait_ns
        else:
            wait_ns = at_ns
    began_ns, sent_ns = (at_ns or head_ns for at_ns in last_sent)
    return {
        "read": max(0, ready_ns - started_ns),
        "plan": max(0, min(began_ns, head_ns) - ready_ns - waits),
        "queue": waits,
        "connect": max(0, sent_ns - began_ns),
        "upstream": max(0, head_ns - sent_ns),
        "hold": max(0, now_ns - head_ns),
    }
