"""Hedging: when a second upstream is asked beside a first one that is slow to answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgateway.native import Pace

if TYPE_CHECKING:
    from budgateway.exchange_cy import Exchange
    from budgateway.records import Hedge


class Hedging:
    """The rules of one route, in one worker, and what they go by: how long answers took to begin of late. Those that come
    whole begin when they are computed, streams with their first word: of each kind there is a measure."""

    def __init__(self, rules: Hedge) -> None:
        self._after_ns = int(rules.after_s * 1e9)
        self._percentile = rules.percentile
        self._streams = Pace()
        self._wholes = Pace()

    def delay_ns(self, x: Exchange) -> int:
        """How long the exchange's first answer may take to begin; -1 while that is not known."""
        if not self._percentile:
            return self._after_ns
        usual_ns: int = self._pace(x).quantile(self._percentile)
        if usual_ns < 0:
            return self._after_ns or -1
        return max(usual_ns, self._after_ns)

    def heard(self, x: Exchange, ns: int) -> None:
        """An answer began after so long. If it was the second's, the first would have taken longer."""
        if self._percentile:
            self._pace(x).hear(ns)

    def _pace(self, x: Exchange) -> Pace:
        return self._streams if x.streams else self._wholes
