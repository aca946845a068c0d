"""The answer of `GET /admin/usage`: usage summed by the requested names, in a bounded number of rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from budgateway.errors import BadRequest

if TYPE_CHECKING:
    from budgateway.native import UsageTable

WORDS = ("principal", "tenant", "model", "route")
USUAL = ("principal", "model", "route")
OTHER = "other"
USUAL_ROWS = 100
MAX_ROWS = 1000
_COUNTS = ("requests", "tokens_in", "tokens_out", "tokens_cached", "tokens_reasoning", "micros", "estimated")


class UsageReport:
    """A report on the segment's usage sums, which begin when the gateway starts."""

    def __init__(self, table: UsageTable) -> None:
        self._table = table
        self._since = time.time()

    def document(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Answer a query: `by`, `top`, and a value for any of `WORDS`. Raises BadRequest for anything else."""
        if unknown := sorted(set(query) - {"by", "top", *WORDS}):
            raise BadRequest(f"no such parameter: {unknown[0]}", hint=f"by, top, {', '.join(WORDS)}")
        by = tuple(word for word in query.get("by", ",".join(USUAL)).split(",") if word)
        if not by or not set(by) <= set(WORDS):
            raise BadRequest(f"by: {', '.join(WORDS)}, or several of them with commas")
        top = query.get("top", str(USUAL_ROWS))
        if not top.isdecimal() or not 1 <= int(top) <= MAX_ROWS:
            raise BadRequest(f"top: 1 to {MAX_ROWS}")
        sums: dict[tuple[str, ...], list[int]] = {}
        total = [0] * len(_COUNTS)
        for names, counts in self._rows():
            if any(names[word] != query[word] for word in WORDS if word in query):
                continue
            _add(sums.setdefault(tuple(names[word] for word in by), [0] * len(_COUNTS)), counts)
            _add(total, counts)
        # By cost, then by tokens, then by requests: prices may be unknown.
        ranked = sorted(sums.items(), key=lambda item: (-item[1][5], -item[1][1] - item[1][2], -item[1][0], item[0]))
        shown = [dict(zip(by, names, strict=True)) | _told(counts) for names, counts in ranked[: int(top)]]
        if len(ranked) > int(top):
            rest = [0] * len(_COUNTS)
            for _, more in ranked[int(top) :]:
                _add(rest, more)
            shown.append(dict.fromkeys(by, OTHER) | _told(rest))
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._since))
        return {"since": since, "by": list(by), "usage": shown, "total": _told(total)}

    def _rows(self) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
        for principal, tenant, model, route, *counts in self._table.collect():
            names = (OTHER if principal is None else principal, tenant, model, route)
            yield dict(zip(WORDS, names, strict=True)), tuple(counts)


def _add(to: list[int], counts: tuple[int, ...] | list[int]) -> None:
    for place, count in enumerate(counts):
        to[place] += count


def _told(counts: list[int]) -> dict[str, Any]:
    told: dict[str, Any] = dict(zip(_COUNTS, counts, strict=True))
    told["cost_usd"] = told.pop("micros") / 1e6
    return told
