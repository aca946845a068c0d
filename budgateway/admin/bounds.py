"""Rate limit of a listener without authentication: requests per client address, at a steady rate with a burst."""

from __future__ import annotations

MAX_ADDRESSES = 1024


class Bounds:
    """GCRA (ITU-T I.371): one number per address, the time at which its burst is fully available again."""

    def __init__(self, per_minute: int, burst: int) -> None:
        self._interval_ns = 60_000_000_000 // per_minute
        self._depth_ns = self._interval_ns * burst
        self._full_at: dict[str, int] = {}

    def admit(self, address: str, now_ns: int) -> int:
        """Count the request and return 0 when it fits; else return the nanoseconds until one does."""
        full_at = max(self._full_at.get(address, 0), now_ns)
        wait_ns = full_at + self._interval_ns - now_ns - self._depth_ns
        if wait_ns > 0:
            return wait_ns
        if address not in self._full_at and len(self._full_at) >= MAX_ADDRESSES:
            busy = {other: at for other, at in self._full_at.items() if at > now_ns}
            self._full_at = {} if len(busy) >= MAX_ADDRESSES else busy
        self._full_at[address] = full_at + self._interval_ns
        return 0
