"""`budgateway top`: a running gateway's numbers in the terminal, once a second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from budgateway.cli.report import status_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

INTERVAL_S = 1.0


class Top:
    """Frames of live numbers. Rates are those since the frame before."""

    def __init__(self) -> None:
        self._before: dict[str, Any] | None = None
        self._before_s = 0.0

    def frame(self, facts: dict[str, Any], now_s: float) -> Group:
        """Return one frame of `facts`, the document of GET /admin/stats, read at `now_s`."""
        parts = status_of(facts)
        if self._before is not None and now_s > self._before_s:
            parts.insert(1, self._rates(facts, self._before, now_s - self._before_s))
        self._before, self._before_s = facts, now_s
        return Group(*parts)

    def _rates(self, facts: dict[str, Any], before: dict[str, Any], elapsed_s: float) -> Text:
        def rate(*keys: str) -> float:
            grown: int = sum(counts[key] for counts in facts["routes"].values() for key in keys)
            grown -= sum(counts[key] for counts in before["routes"].values() for key in keys)
            return max(0.0, grown / elapsed_s)  # a gateway that began anew counts from zero

        return Text(
            f"now {rate('requests'):.1f} requests/s, {rate('errors'):.1f} failed/s, "
            f"{rate('tokens_in'):.0f} tokens in/s, {rate('tokens_out'):.0f} tokens out/s"
        )


def show(
    console: Console,
    read: Callable[[], dict[str, Any]],
    *,
    once: bool,
    interval_s: float = INTERVAL_S,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show the document that `read` returns, until interrupted; with `once`, print one frame. `read` ends the program
    itself when the gateway does not answer."""
    top = Top()
    first = top.frame(read(), time.monotonic())
    if once:
        console.print(first)
        return
    with Live(first, console=console, screen=console.is_terminal, auto_refresh=False) as live:
        try:
            while True:
                sleep(interval_s)
                live.update(top.frame(read(), time.monotonic()), refresh=True)
        except KeyboardInterrupt:
            pass
