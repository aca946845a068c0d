"""The output of `budgateway status`: the admin API's statistics as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def print_status(console: Console, facts: dict[str, Any]) -> None:
    """Print `facts`, the document of GET /admin/stats."""
    for part in status_of(facts):
        console.print(part)


def status_of(facts: dict[str, Any]) -> list[RenderableType]:
    """Return the parts of the output, from top to bottom."""
    rates = facts["requests_per_s"]
    parts: list[RenderableType] = [
        Text(
            f"budgateway {facts['version']}  pid {facts['pid']}  up {_duration(facts['uptime_s'])}  "
            f"{_size(facts['rss_bytes'])}  {facts['connections']} connections  {facts['in_flight']} in flight"
        ),
        Text(
            f"{facts['requests']} requests ({rates['10s']:.1f}/s over 10 s, {rates['60s']:.1f}/s over a minute), "
            f"{facts['errors']} failed"
        ),
    ]
    workers = _table("worker", "pid", "state", "up", "memory", "connections", "in flight", "restarts")
    for worker in facts["workers"]:
        workers.add_row(
            str(worker["worker"]),
            str(worker["pid"]),
            worker["state"] + (", sheds" if worker["shedding"] else "") + ("" if worker["accepts"] else ", full"),
            _duration(worker["uptime_s"]),
            _size(worker["rss_bytes"]),
            str(worker["connections"]),
            str(worker["in_flight"]),
            str(worker["restarts"]),
        )
    parts.append(workers)
    upstreams = _table("upstream", "url", "state", "in flight", "weight", "probe", "engine")
    for upstream in facts["upstreams"]:
        upstreams.add_row(
            escape(upstream["name"]),
            escape(upstream["url"]),
            _state(upstream),
            str(upstream["in_flight"]),
            str(upstream["weight"]),
            _probe(upstream["probe"]),
            _engine(upstream["engine"]),
        )
    parts.append(upstreams)
    if any(queue["queued"] or queue["refused"] for queue in facts["queues"]):
        queues = _table("queue of", "waiting", "queued", "served", "timed out", "left", "refused")
        for queue in facts["queues"]:
            counts = (str(queue[key]) for key in ("waiting", "queued", "served", "timed_out", "left", "refused"))
            queues.add_row(escape(queue["provider"]), *counts)
        parts.append(queues)
    routes = _table("route", "requests", "failed", "tokens in", "tokens out")
    for name, counts in facts["routes"].items():
        routes.add_row(escape(name), *(str(counts[key]) for key in ("requests", "errors", "tokens_in", "tokens_out")))
    if facts["routes"]:
        parts.append(routes)
    return parts


def _state(upstream: dict[str, Any]) -> str:
    """Format a state: `up`, `starting (40 %)`, `unhealthy: connection refused`."""
    state = str(upstream["state"])
    if state == "starting":
        return f"{state} ({upstream['share']:.0%})"
    return f"{state}: {escape(upstream['reason'])}" if upstream["reason"] else state


def _probe(probe: dict[str, Any] | None) -> str:
    """Format the last probe's result: `200 in 2 ms`."""
    if probe is None or probe["at"] is None:
        return "-"
    return f"{probe['status'] or 'none'} in {probe['ms']:.0f} ms"


def _engine(engine: dict[str, Any] | None) -> str:
    """Format an engine's load: `12 run, 3 wait, KV 81%`."""
    if engine is None:
        return "-"
    return f"{engine['running']} run, {engine['waiting']} wait, KV {engine['kv_usage']:.0%}"


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _duration(seconds: float) -> str:
    """Format a duration: `42 s`, `3 min`, `5.2 h`, `2.1 d`."""
    for size, unit in ((86400, "d"), (3600, "h")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _size(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"
