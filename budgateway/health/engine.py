"""Parsers for engines' reports: their load, in each engine's format, and the models they serve."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from budgateway.kinds import KINDS
from budgateway.wire.document import read_json

# The three metrics by each engine's names for them, newest first.
RUNNING = tuple(name for kind in KINDS.values() for name in kind.running)
WAITING = tuple(name for kind in KINDS.values() for name in kind.waiting)
KV_USAGE = tuple(name for kind in KINDS.values() for name in kind.kv_usage)
# Some exporters replace the colon, which Prometheus reserves for recording rules.
_NAMES = {
    spelling: (place, order)
    for place, names in enumerate((RUNNING, WAITING, KV_USAGE))
    for order, name in enumerate(names)
    for spelling in (name, name.replace(":", "_"))
}


COUNT_MAX = 1_000_000  # more requests than any engine holds


class Load(NamedTuple):
    """An engine's load: requests running and waiting, and the share of the KV cache in use, 0 to 1."""

    running: int
    waiting: int
    kv_usage: float


def read_load(body: bytes) -> Load | None:
    """Parse the load from Prometheus text or from SGLang's JSON report; None when it contains none."""
    if body.lstrip()[:1] in (b"{", b"["):
        return _from_report(body)
    return _from_metrics(body.decode("utf-8", "replace"))


def read_models(body: bytes) -> list[str] | None:
    """Return the ids of a model list; None when the body is no model list."""
    document = _json(body)
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, list):
        return None
    names = [entry.get("id") for entry in data if isinstance(entry, dict)]
    return [name for name in names if isinstance(name, str) and name and _is_text(name)]


def _from_metrics(text: str) -> Load | None:
    """Aggregate the series: requests are summed over ranks and models, the fullest cache counts."""
    found: dict[tuple[int, int], list[float]] = {}
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        key = _NAMES.get(name)
        if key is None:
            continue
        value = _number(line[line.rfind("}") + 1 :].removeprefix(name).split())
        if value is not None:
            found.setdefault(key, []).append(value)
    if not found:
        return None

    def values(place: int) -> list[float]:
        orders = sorted(order for at, order in found if at == place)
        return found[(place, orders[0])] if orders else [0.0]

    return _load(sum(values(0)), sum(values(1)), max(values(2)))


def _number(words: list[str]) -> float | None:
    """The value after a series' name; a timestamp may follow it."""
    try:
        value = float(words[0])
    except (IndexError, ValueError):
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _from_report(body: bytes) -> Load | None:
    """Parse SGLang's `/v1/loads` (an object with `loads`) or the older `/get_load` (a list by rank, whose num_reqs
    includes waiting requests)."""
    document = _json(body)
    ranks = document.get("loads") if isinstance(document, dict) else document
    if not isinstance(ranks, list):
        return None
    loads = [load for rank in ranks if isinstance(rank, dict) and (load := _of_rank(rank)) is not None]
    if not loads:
        return None
    return _load(
        sum(load.running for load in loads), sum(load.waiting for load in loads), max(load.kv_usage for load in loads)
    )


def _of_rank(rank: dict[str, Any]) -> Load | None:
    waiting = _count(rank.get("num_waiting_reqs"))
    running = _count(rank.get("num_running_reqs"))
    if running is None:
        total = _count(rank.get("num_reqs"))
        if total is None:
            return None
        running = max(0, total - (waiting or 0))
    usage = rank.get("token_usage")
    # A share of 1; an int of hundreds of digits would not fit a float.
    share = min(1, max(0, usage)) if isinstance(usage, int | float) and usage == usage else 0.0
    return _load(running, waiting or 0, share)


def _load(running: float, waiting: float, kv_usage: float) -> Load:
    """Clamp the values to the ranges that the segment stores."""
    return Load(int(min(running, COUNT_MAX)), int(min(waiting, COUNT_MAX)), min(1.0, max(0.0, kv_usage)))


def _json(body: bytes) -> object:
    """Parse an upstream's JSON as hostile input: None when it cannot be parsed, for any reason."""
    try:
        return read_json(body)
    except ValueError:
        return None


def _is_text(name: str) -> bool:
    """False for lone surrogates, which JSON can hold but UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
