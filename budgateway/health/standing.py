"""One upstream's standing with its probes: when answers make it unhealthy, and when the next question is due."""

from __future__ import annotations

from dataclasses import dataclass

from budgateway.records import HealthCheck

# While something is amiss, whatever the interval: a decision takes seconds, not minutes.
RECHECK_S = 1.0
# Of one that stays away.
AWAY_S = 5.0
AWAY_AFTER = 30
# Traffic heard nothing of it for a second: so does the probe, or it is answered at once.
SUSPECT_TIMEOUT_S = 1.0
JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """What a probe brought. `reason` is empty for a good one."""

    at_s: float  # of the wall clock
    ms: float
    status: int = 0
    reason: str = ""
    silent: bool = False  # no answer at all


class Standing:
    """Counts answers. `healthy` is None until there was one."""

    __slots__ = ("answer", "failed", "failures_in_all", "healthy", "in_row", "probes", "reason", "silent", "since_s")

    def __init__(self) -> None:
        self.healthy: bool | None = None
        self.reason = ""
        self.silent = False  # unhealthy, and traffic hears as little of it
        self.since_s = 0.0
        self.answer: Answer | None = None
        # answers of the present kind, good or bad, one after the other
        self.in_row = 0
        self.failed = False
        self.probes = 0
        self.failures_in_all = 0

    def hear(self, answer: Answer, check: HealthCheck, *, suspected: bool) -> bool:
        """Count an answer: whether that changed `healthy` or `silent`. One that is `suspected` by traffic and does not answer
        is unhealthy at once: two witnesses are enough."""
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
        """Until the next question; `chance` is 0 to 1."""
        pause_s = check.interval_s
        if self.failed or self.healthy is False:
            away = self.healthy is False and self.failed and self.in_row > AWAY_AFTER
            pause_s = min(pause_s, AWAY_S if away else RECHECK_S)
        return pause_s * (1 - JITTER + 2 * JITTER * chance)


def fault(check: HealthCheck, status: int, body: bytes) -> str:
    """What is wrong with an answer; empty: nothing."""
    if not any(first <= status <= last for first, last in check.statuses):
        return f"status {status}"
    if check.body and check.body.encode() not in body:
        return "the answer lacks the expected text"
    return ""
