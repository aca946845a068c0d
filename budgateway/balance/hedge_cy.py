"""Hedging: the delay after which a second upstream gets the request, because the first one is slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgateway.native import LatencyHistogram

if TYPE_CHECKING:
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.records import Hedge


class Hedging:
    """The hedging rules of one route, in one worker, with the recent latencies to the start of a response. Streams and
    unstreamed responses are measured separately: the latter begin only when they are computed."""

    def __init__(self, rules: Hedge) -> None:
        self._after_ns = int(rules.after_s * 1e9)
        self._percentile = rules.percentile
        self._streams = LatencyHistogram()
        self._wholes = LatencyHistogram()

    def delay_ns(self, x: Exchange) -> int:
        """The nanoseconds to wait for the first attempt before hedging; -1 while unknown."""
        if not self._percentile:
            return self._after_ns
        usual_ns: int = self._latencies(x).quantile(self._percentile)
        if usual_ns < 0:
            return self._after_ns or -1
        return max(usual_ns, self._after_ns)

    def heard(self, x: Exchange, ns: int) -> None:
        """Record the latency of a response. If the hedge responded, the first attempt would have taken even longer."""
        if self._percentile:
            self._latencies(x).record(ns)

    def _latencies(self, x: Exchange) -> LatencyHistogram:
        return self._streams if x.streams else self._wholes
