"""One worker's Redis parts: the connections, and the limits shared with other hosts."""

from __future__ import annotations

import os
import secrets
import socket
import time
from typing import TYPE_CHECKING

from budgateway import native
from budgateway.limits.leased import LeasedLimits
from budgateway.limits.redis_limits import RedisLimits
from budgateway.redis.client import Store

if TYPE_CHECKING:
    from budgateway.limits.demand import SharedLimits
    from budgateway.records import StoreSettings

# Workers wait this long for Redis at their start, then start without it.
START_S = 1.0
# Log lines per kind that a gateway writes about its Redis, whatever the number of workers.
LINES_PER_MINUTE = 6


class LogOnce:
    """Lets one worker per gateway log that Redis went down or came back: the first one to notice."""

    def __init__(self, segment: native.Segment, worker: int) -> None:
        self._segment = segment
        self._worker = worker
        self._lines = native.RateLimit(segment, "store: log lines", LINES_PER_MINUTE, 1)

    def __call__(self, is_up: bool) -> bool | None:
        """Return True when this worker should log the change, False when another one has, None when nobody has and the
        rate limit of log lines forbids it."""
        said = not is_up and self._others_away()
        # Set the gauge before taking from the rate limit: a worker that is refused must see whether another one logged
        # it.
        away = int(not is_up)
        self._segment.add(
            self._worker, native.GAUGE_STORE_AWAY, away - self._segment.gauge(self._worker, native.GAUGE_STORE_AWAY)
        )
        if said:
            return False
        if self._lines.take("up" if is_up else "away", 1, time.monotonic_ns()) >= 0:
            return True
        return False if is_up or self._others_away() else None

    def _others_away(self) -> bool:
        return any(
            self._segment.gauge(worker, native.GAUGE_STORE_AWAY)
            for worker in range(self._segment.workers)
            if worker != self._worker
        )


class RedisParts:
    """A worker's Redis client and shared limits, one per `[redis]` configuration. Connects in `open`, so a
    configuration that is never served connects to nothing."""

    def __init__(self, settings: StoreSettings, workers: int, should_log: LogOnce | None = None) -> None:
        self.settings = settings
        # Shared by the gateway's workers, and by their replacements during a restart.
        self.store = Store(
            settings,
            connections=max(1, min(settings.pool_size, settings.max_connections // 2) // workers),
            should_log=should_log,
        )
        self._exact = RedisLimits(
            self.store,
            namespace=settings.namespace,
            worker=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
            on_failure=dict(settings.on_failure),
            parts=workers * settings.replicas,
        )
        self._leased = LeasedLimits(self._exact, settings.lease_share) if settings.mode == "leased" else None
        self.limits: SharedLimits = self._leased or self._exact

    def open(self) -> None:
        """Begin to connect."""
        self.store.open()
        self._exact.open()
        if self._leased is not None:
            self._leased.open()

    async def ready(self) -> None:
        """Wait for Redis, for up to START_S."""
        await self.store.ready(START_S)

    async def close(self) -> None:
        """Send what is pending, and disconnect. Idempotent."""
        if self._leased is not None:
            self._leased.close()
        self._exact.close()
        await self.store.close()

    @property
    def is_idle(self) -> bool:
        """Return whether no exchange uses its limits any more."""
        return self._exact.is_idle

    def figures(self) -> tuple[tuple[int, int], ...]:
        """Return gauges of the segment and their values."""
        tally = self._exact.tally
        return (
            (native.GAUGE_STORE_AWAY, not self.store.is_up),
            (native.GAUGE_STORE_CALLS, tally.calls),
            (native.GAUGE_STORE_FALLBACKS, tally.fallbacks),
            (native.GAUGE_STORE_LOST, tally.lost),
        )
