"""A circuit breaker as one would tell it: lists and clocks, nothing packed."""

from __future__ import annotations

from typing import Literal

Verdict = Literal["neutral", "success", "failure"]


class Breaker:
    """Oracle of `Selector` for one upstream; times are whole milliseconds."""

    def __init__(self, threshold: int, open_ms: int, probes: int) -> None:
        self.threshold, self.open_ms, self.limit = threshold, open_ms, probes
        self.close()

    def close(self) -> None:
        self.failures = 0
        self.opened_ms: int | None = None
        self.probing_ms: int | None = None
        # One entry a permit: None while its verdict is out.
        self.probes: list[bool | None] = []

    def open(self, now_ms: int) -> None:
        self.close()
        self.opened_ms = now_ms

    def state(self, now_ms: int) -> str:
        if self.probing_ms is not None:
            return "half_open"
        if self.opened_ms is None:
            return "closed"
        return "half_open" if now_ms >= self.opened_ms + self.open_ms else "open"

    def permit(self, now_ms: int) -> bool:
        if self.state(now_ms) != "half_open":
            return self.state(now_ms) == "closed"
        if self.probing_ms is not None and len(self.probes) < self.limit:
            self.probes.append(None)
            return True
        if self.probing_ms is None or now_ms >= self.probing_ms + self.open_ms:
            self.probing_ms = now_ms
            self.probes = [None]
            return True
        return False

    def record(self, verdict: Verdict, now_ms: int) -> None:
        if self.probing_ms is not None:
            if None not in self.probes:
                return
            self.probes.remove(None)
            if verdict == "failure":
                self.open(now_ms)
            elif verdict == "success":
                self.probes.append(True)
                if self.probes.count(True) == self.limit:
                    self.close()
        elif self.opened_ms is None:
            self.failures += verdict == "failure"
            if verdict == "success":
                self.failures = 0
            if self.failures >= self.threshold:
                self.open(now_ms)
