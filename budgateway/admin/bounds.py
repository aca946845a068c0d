"""Bounds of a listener that asks nobody who they are: requests by address, at a steady rate and so many at once."""

from __future__ import annotations

MAX_ADDRESSES = 1024


class Bounds:
    """GCRA (ITU-T I.371): for each address one number, the time at which it will have been idle long enough."""

    def __init__(self, per_minute: int, burst: int) -> None:
        self._interval_ns = 60_000_000_000 // per_minute
        self._depth_ns = self._interval_ns * burst
        self._full_at: dict[str, int] = {}

    def admit(self, address: str, now_ns: int) -> int:
        """0 when a request fits, and is counted; else the nanoseconds until one does."""
        full_at = max(self._full_at.get(address, 0), now_ns)
        wait_ns = full_at + self._interval_ns - now_ns - self._depth_ns
        if wait_ns > 0:
            return wait_ns
        if address not in self._full_at and len(self._full_at) >= MAX_ADDRESSES:
            busy = {other: at for other, at in self._full_at.items() if at > now_ns}
            self._full_at = {} if len(busy) >= MAX_ADDRESSES else busy
        self._full_at[address] = full_at + self._interval_ns
        return 0
