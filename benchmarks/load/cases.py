"""The cases: what load each is, and which figures are read from its reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.load.rig import Report

# Of the null model's plain reply (rig/src/payload.rs).
REPLY_BYTES = 400


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load."""

    name: str
    title: str
    options: tuple[str, ...]
    # What a peer that is marked slow gets instead.
    slow_options: tuple[str, ...]
    # What processor time is divided by: completed requests, or chunks.
    units: Callable[[Report], int]
    # Latency is what counts here; the direct way is measured beside it.
    latency: bool = False
    stream: bool = False

    def arguments(self, *, slow: bool, faithful: bool, seconds: float, connections: int = 0) -> list[str]:
        """The load generator's options; `connections` in place of the case's own, where plain answers come over several."""
        options = [*(self.slow_options if slow else self.options), "--duration", str(seconds)]
        if connections and not (self.stream or self.latency):
            options += ["--connections", str(connections)]
        if faithful and not self.stream:
            options += ["--expect-bytes", str(REPLY_BYTES)]
        return options


def _requests(report: Report) -> int:
    return int(report["completed"])


def _chunks(report: Report) -> int:
    return int(report["stream"]["chunks"])


CASES: tuple[Case, ...] = (
    Case(
        name="small",
        title="300 B chat request, 400 B reply, 64 connections",
        options=("--connections", "64", "--body-bytes", "300"),
        slow_options=("--connections", "8", "--body-bytes", "300"),
        units=_requests,
    ),
    Case(
        name="large",
        title="20 KB chat request, 400 B reply, 64 connections",
        options=("--connections", "64", "--body-bytes", "20000"),
        slow_options=("--connections", "8", "--body-bytes", "20000"),
        units=_requests,
    ),
    Case(
        name="stream",
        title="128 streams, one 190 B chunk each every 2.5 ms, 400 chunks a stream",
        options=("--streams", "128", "--events", "400"),
        slow_options=("--streams", "8", "--events", "50"),
        units=_chunks,
        stream=True,
    ),
    Case(
        name="one",
        title="300 B, 1 connection",
        options=("--connections", "1", "--body-bytes", "300"),
        slow_options=("--connections", "1", "--body-bytes", "300"),
        units=_requests,
        latency=True,
    ),
    Case(
        name="rate",
        title="300 B, 300 requests a second, open loop",
        options=("--rate", "300", "--connections", "64", "--body-bytes", "300"),
        slow_options=("--rate", "30", "--connections", "64", "--body-bytes", "300"),
        units=_requests,
        latency=True,
    ),
)
