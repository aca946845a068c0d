"""One upstream's health by its probes: the thresholds, and the pause until the next probe."""

from __future__ import annotations

from dataclasses import dataclass

from budgateway.records import HealthCheck

# The pause while probes fail, whatever the interval: a decision takes seconds, not minutes.
RECHECK_S = 1.0
# The pause after AWAY_AFTER failures in a row.
AWAY_S = 5.0
AWAY_AFTER = 30
# Timeout for probing an upstream that has been silent to traffic for a second: a healthy one responds at once.
SUSPECT_TIMEOUT_S = 1.0
JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one probe. `reason` is empty when it succeeded."""

    at_s: float  # wall clock
    ms: float
    status: int = 0
    reason: str = ""
    silent: bool = False  # no response at all


class ProbeState:
    """An upstream's probe state: counts results. `healthy` is None before the first one."""

    __slots__ = ("answer", "failed", "failures_in_all", "healthy", "in_row", "probes", "reason", "silent", "since_s")

    def __init__(self) -> None:
        self.healthy: bool | None = None
        self.reason = ""
        self.silent = False  # unhealthy, and traffic got no response either
        self.since_s = 0.0
        self.answer: Answer | None = None
        # consecutive results of the current kind, good or bad
        self.in_row = 0
        self.failed = False
        self.probes = 0
        self.failures_in_all = 0

    def hear(self, answer: Answer, check: HealthCheck, *, suspected: bool) -> bool:
        """Count a probe's result; True when that changed `healthy` or `silent`. An upstream `suspected` by traffic that
        does not respond to the probe is unhealthy at once: two independent failures are enough."""
        bad = bool(answer.reason)
        self.answer = answer
        self.probes += 1
        self.failures_in_all += bad
        self.in_row = self.in_row + 1 if bad == self.failed and self.probes > 1 else 1
        self.failed = bad
        before = self.healthy, self.silent
        if bad:
            agreed = suspected and answer.silent
            if self.in_row >= check.unhealthy_threshold or agreed:
                self.healthy = False
                self.reason = answer.reason
            self.silent = agreed or (self.silent and answer.silent)
        elif self.healthy is None or self.in_row >= check.healthy_threshold:
            self.healthy = True
            self.silent = False
            self.reason = ""
        if self.healthy != before[0]:
            self.since_s = answer.at_s
        return (self.healthy, self.silent) != before

    def pause_s(self, check: HealthCheck, chance: float) -> float:
        """The seconds until the next probe; `chance`, 0 to 1, sets the jitter."""
        pause_s = check.interval_s
        if self.failed or self.healthy is False:
            away = self.healthy is False and self.failed and self.in_row > AWAY_AFTER
            pause_s = min(pause_s, AWAY_S if away else RECHECK_S)
        return pause_s * (1 - JITTER + 2 * JITTER * chance)


def fault(check: HealthCheck, status: int, body: bytes) -> str:
    """The fault in a probe's response; empty when there is none."""
    if not any(first <= status <= last for first, last in check.statuses):
        return f"status {status}"
    if check.body and check.body.encode() not in body:
        return "the response lacks the expected text"
    return ""
