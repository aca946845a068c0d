"""Requests by route, in total and per second: the segment's counters, sampled periodically."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from budgateway import native

SAMPLE_S = 5.0
FALLBACK = 7  # its place among the reasons of a retry (balance.attempts_cy)
KEPT = 13  # one minute of samples, and the one before


class Rates:
    """Request rates. The owner calls `sample` every SAMPLE_S seconds."""

    def __init__(self, metrics: native.Metrics) -> None:
        self._metrics = metrics
        self._samples: deque[tuple[float, int]] = deque(maxlen=KEPT)
        self.fallbacks: dict[str, int] = {}  # exchanges that went to a fallback, by route, as of the last sample
        self.sample()

    def sample(self) -> None:
        """Record the current number of requests."""
        total = 0
        fallbacks: dict[str, int] = {}
        for row in self._metrics.collect():
            total += row.count
            if row.retries[FALLBACK]:
                fallbacks[row.route] = fallbacks.get(row.route, 0) + row.retries[FALLBACK]
        self.fallbacks = fallbacks
        self._samples.append((time.monotonic(), total))

    def document(self) -> dict[str, Any]:
        """Return totals, rates and counts by route for `GET /admin/stats`."""
        routes: dict[str, dict[str, int]] = {}
        total = errors = 0
        for row in self._metrics.collect():
            entry = routes.setdefault(row.route, {"requests": 0, "errors": 0, "tokens_in": 0, "tokens_out": 0})
            bad = sum(row.outcomes[1:])
            total += row.count
            errors += bad
            entry["requests"] += row.count
            entry["errors"] += bad
            entry["tokens_in"] += row.tokens_in
            entry["tokens_out"] += row.tokens_out
        now = time.monotonic()
        return {
            "requests": total,
            "errors": errors,
            "requests_per_s": {
                "10s": self._rate(now, total, 10.0),
                "60s": self._rate(now, total, 60.0),
            },
            "routes": routes,
        }

    def _rate(self, now: float, total: int, seconds: float) -> float:
        """Return the rate since the latest sample that is at least `seconds` old; since the oldest one when none is."""
        then, count = self._samples[0]
        for sampled, value in self._samples:
            if now - sampled < seconds:
                break
            then, count = sampled, value
        return round((total - count) / max(now - then, 0.001), 2)
