"""The log line of an exchange at level DEBUG: who asked, what was decided, and each attempt with its times."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budgateway.exchange.exchange_cy import Exchange

_log = logging.getLogger("budgateway.exchange")
_OUTCOMES = ("complete", "refused", "upstream_failed", "truncated", "client_gone")
# Reasons of balance.attempts_cy, then that another attempt was faster.
_REASONS = ("connect", "stale", "broken", "timeout", "pressure", "status", "hedge", "fallback", "hedge lost")


def explain(x: Exchange, outcome: int, now_ns: int) -> None:
    """Log an exchange that ended now, in one line. No headers, no bodies, no query: they hold secrets."""
    if not _log.isEnabledFor(logging.DEBUG):
        return
    words = [f"{x.head.method} {x.head.path}", f"by {_who(x)}"]
    if x.route is None:
        words.append("no route")
    else:
        words.append(f"route {x.route.name!r}: {_why(x)}")
        if x.model:
            words.append(f"model {x.model!r}")
        words.append(f"limits: {_limits(x)}")
        words.append(f"provider {x.destination.provider!r}, {x.route.record.load_balancer}")
    words += _attempts(x, now_ns)
    took_ms = (now_ns - x.started_ns) / 1e6
    error = f" ({x.error})" if x.error else ""
    words.append(
        f"{_OUTCOMES[outcome]} {x.status}{error} in {took_ms:.1f} ms, of which {x.overhead_ns // 1000} us ours"
    )
    _log.debug("exchange %s: %s", x.request_id, "; ".join(words))


def _who(x: Exchange) -> str:
    principal = x.principal
    if principal is None:
        return f"nobody known, {x.client}"
    tenant = f" of tenant {principal.tenant!r}" if principal.tenant else ""
    roles = f", roles {' '.join(principal.roles)}" if principal.roles else ""
    return f"{principal.id}{tenant}{roles}"


def _why(x: Exchange) -> str:
    record = x.route.record
    found = [" ".join((*record.methods, record.path))]
    if record.host:
        found.append(f"host {record.host}")
    if record.models:
        found.append(f"models {', '.join(record.models)}")
    found += [f"{name} {value}" for name, value in record.headers]
    return " and ".join(found)


def _limits(x: Exchange) -> str:
    """Return what the limits of requests and tokens have left, as clients are told."""
    if x.reservation is None:
        return "none"
    parts = []
    for what, state in (("requests", x.reservation.requests), ("tokens", x.reservation.tokens)):
        if state is not None:
            _, left, until_ns = state
            parts.append(f"{left} {what} left, all of them in {until_ns / 1e9:.0f} s")
    return ", ".join(parts) or "none of requests or tokens"


def _attempts(x: Exchange, now_ns: int) -> list[str]:
    if x.trace is None:
        return []
    found = []
    for number, (upstream, began_ns, sent_ns, ended_ns, status, reason) in enumerate(x.trace.attempts, 1):
        begins = (began_ns - x.started_ns) / 1e6
        sent = f", sent after {(sent_ns - began_ns) / 1e6:.1f} ms" if sent_ns else ", not sent"
        ends = f", {((ended_ns or now_ns) - began_ns) / 1e6:.1f} ms"
        given_up = f", given up: {_REASONS[reason - 1]}{f' {status}' if status else ''}" if reason else ""
        found.append(f"attempt {number}: {upstream} at {begins:.1f} ms{sent}{ends}{given_up}")
    return found
