"""Other paths for some requests, where a kind of server has them (`kinds.kind.Move`)."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgateway.kinds.kind import Move


class Paths:
    """The moves of one provider."""

    def __init__(self, moves: Sequence[Move], api_version: str) -> None:
        self._moves = tuple(
            (move.path, move.to, move.query.replace("{api_version}", quote(api_version, safe=""))) for move in moves
        )

    def target(self, path: str, query: str, model: str) -> str | None:
        """Return the target in place of a path and query; None when it stays. `model` is the upstream's name for the
        model, which may be empty."""
        for known, to, added in self._moves:
            rest = _rest(path, known)
            if rest is None or ("{model}" in to and not model):
                continue
            moved = to.removesuffix("*") + rest if to.endswith("*") else to
            moved = moved.replace("{model}", quote(model, safe=""))
            queries = "&".join(part for part in (query, added) if part)
            return f"{moved}?{queries}" if queries else moved
        return None


def _rest(path: str, known: str) -> str | None:
    """Return what the asterisk of a known path stands for, empty without one; None when the path is another."""
    if known.endswith("*"):
        start = known.removesuffix("*")
        return path.removeprefix(start) if path.startswith(start) else None
    return "" if path == known else None
