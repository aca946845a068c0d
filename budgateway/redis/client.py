"""The Redis client: one per process, connected or reconnecting. It never blocks a caller for long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING

from budgateway.redis.connection import Connection, packed
from budgateway.redis.discovery import Dialler, reason
from budgateway.redis.reply import StoreError, Waiter
from budgateway.system.keeper import keep_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgateway.records import StoreNode, StoreSettings
    from budgateway.redis.reply import Reply, Sink, Word

# Consecutive timeouts that open the breaker: a single one may be Redis forking for a snapshot.
SLOW_READS = 3
RETRY_MIN_S = 0.05
RETRY_MAX_S = 0.5
# A failure this soon after a recovery doubles the probes that must succeed before the next recovery.
RELAPSE_S = 10.0
MAX_PROBES = 8
MAX_PENDING = 20_000  # commands in flight per process
QUIET_S = 10.0  # between two log lines of the same kind

_log = logging.getLogger("budgateway.store")


class Store:
    """Sends commands to one Redis (a master, or the cluster node that has our slot).

    It is either up or down. While it is down, every command fails at once, and one task tries to recover: it finds
    Redis, connects and sends the probes, one at a time. No caller's command serves as a trial. While it is up, a
    command without an answer in time fails. It goes down when the connection ends, after three late reads in a row, or
    after an answer that shows an unfit server (read-only, out of memory, loading ...).
    """

    def __init__(
        self, settings: StoreSettings, *, connections: int = 1, should_log: Callable[[bool], bool | None] | None = None
    ) -> None:
        """`connections` is the maximum: decisions have the first one to themselves, other commands share the rest.
        Nothing happens before `open`. `should_log(is_up)` returns whether to log a change: True: log it; False: another
        worker already did; None: rate-limited."""
        self.settings = settings
        # Called on each change, with the reason for going down, or "" when up.
        self.on_change: Callable[[str], None] | None = None
        # Returns the command that a server must be able to run: its reply must not be an error.
        self.probes: Callable[[], tuple[Word, ...]] = self._write_probe
        self.is_up = False
        self.reason = "not connected yet"
        self.timeouts = 0
        self._loop = asyncio.get_running_loop()
        self._dialler = Dialler(settings)
        self._connections = connections
        self._place: StoreNode | None = None
        self._connection: Connection | None = None
        self._others: list[Connection] = []
        self._growing: asyncio.Task[None] | None = None
        self._late_in_a_row = 0
        self._out: list[bytes] = []
        self._out_sinks: list[Sink] = []
        self._flush_due = False
        self._broken = asyncio.Event()
        self._up = asyncio.Event()
        self._closed = False
        self._down_since = time.monotonic()
        self._up_since = 0.0
        self._needed = 1
        self._should_log = should_log
        self._said: dict[bool, float] = {}
        self._unsaid = True
        self._keeper: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Start connecting, and stay connected."""
        self._keeper = self._loop.create_task(keep_on("store", self._keep, _log), name="store")

    # ---------------------------------------------------------------- commands

    def submit(self, sink: Sink, *command: Word) -> None:
        """Send a command at the end of this iteration of the loop, together with all others of the iteration, in order.
        While the store is down, the sink fails at once."""
        if not self.is_up:
            sink.failed(StoreError(self.reason, "DOWN"))
            return
        self._out.append(packed(*command))
        self._out_sinks.append(sink)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write the submitted commands now."""
        self._flush_due = False
        out, self._out = self._out, []
        sinks, self._out_sinks = self._out_sinks, []
        connection = self._connection
        if not sinks:
            return
        if connection is None or not self.is_up or connection.pending > MAX_PENDING:
            error = StoreError(self.reason or "too many commands are in flight", "DOWN")
            for sink in sinks:
                sink.failed(error)
        else:
            connection.send(b"".join(out), sinks, self.settings.timeout_s)

    async def call(self, *command: Word, timeout_s: float = 0.0) -> Reply:
        """Run a command that no decision waits for (keys, cached answers). Raises StoreError. Not ordered with
        `submit`."""
        if not self.is_up or self._connection is None:
            raise StoreError(self.reason, "DOWN")
        future: asyncio.Future[Reply] = self._loop.create_future()
        connection = self._second_connection()
        if connection.pending > MAX_PENDING:
            raise StoreError("too many commands are in flight", "DOWN")
        connection.send(packed(*command), [Waiter(future)], timeout_s or self.settings.timeout_s)
        try:
            return await future
        except StoreError as error:
            self._judge(error)
            raise

    def unfit(self, code: str, message: str) -> None:
        """Take a sink's report of a server error that concerns all commands."""
        self._judge(StoreError(message, code))

    async def ready(self, timeout_s: float) -> bool:
        """Wait until the store is up, for at most `timeout_s`; return whether it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        return self.is_up

    async def close(self) -> None:
        """Send queued commands, wait briefly for replies, and disconnect. Idempotent."""
        self._closed = True
        if self._flush_due:
            self.flush()
        deadline = self._loop.time() + self.settings.timeout_s
        while self.is_up and self._connection is not None and self._connection.pending and self._loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        tasks = [task for task in (self._keeper, self._growing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.is_up = False
        self.reason = "the gateway is stopping"
        self._drop("the gateway is stopping")

    def _second_connection(self) -> Connection:
        """Return the least busy connection that decisions do not use, or theirs while there is no other. Opens another
        one when all are busy."""
        assert self._connection is not None
        best = min(self._others, key=_pending, default=self._connection)
        if (not self._others or best.pending) and len(self._others) + 1 < self._connections and self._growing is None:
            self._growing = self._loop.create_task(self._grow(), name="redis: reconnecting")
        return best

    async def _grow(self) -> None:
        place = self._place
        connection = Connection(self._ended, self._answered)
        try:
            if place is not None:
                await self._dialler.connect(place, connection)
                if self.is_up and place == self._place and not self._closed:
                    self._others.append(connection)
        except (StoreError, OSError, TimeoutError):
            pass  # the main connection determines whether Redis is up
        finally:
            self._growing = None
            if connection not in self._others:
                connection.abort("not needed")

    # ---------------------------------------------------------------- up and down

    async def _keep(self) -> None:
        """Stay connected, or reconnect. Only this task probes."""
        wait_s = 0.0
        while True:
            try:
                connection = await self._connect()
            except (StoreError, OSError, TimeoutError) as error:
                self._go_down(reason(error))
                if isinstance(error, StoreError):
                    self._dialler.heed(error)
            else:
                self._go_up(connection)
                await self._broken.wait()
                wait_s = 0.0
                if time.monotonic() - self._up_since < RELAPSE_S:
                    self._needed = min(self._needed * 2, MAX_PROBES)
                else:
                    self._needed = 1
            # Jitter, so that the workers of all hosts do not reconnect at once.
            wait_s = min(max(wait_s * 2, RETRY_MIN_S), RETRY_MAX_S)
            await asyncio.sleep(wait_s * random.uniform(0.7, 1.0))  # noqa: S311 - no secret

    async def _connect(self) -> Connection:
        """Return a connection that has answered every probe in time."""
        self._broken.clear()
        place = await self._dialler.find()
        connection = Connection(self._ended, self._answered)
        try:
            await self._dialler.connect(place, connection)
            for number in range(self._needed):
                if number:
                    await asyncio.sleep(RETRY_MIN_S)
                await self._probe(connection)
        except BaseException:
            connection.abort("given up")
            raise
        self._place = place
        return connection

    async def _probe(self, connection: Connection) -> None:
        try:
            await connection.ask(*self.probes(), timeout_s=self.settings.timeout_s)
        except StoreError as error:
            if error.code != "TIMEOUT":
                raise
            raise StoreError(f"no reply within {self.settings.timeout_s * 1e3:g} ms", "TIMEOUT") from None

    def _write_probe(self) -> tuple[Word, ...]:
        """Return a write command, because replicas and full servers refuse only writes."""
        return ("SET", f"rate_limit:{{{self.settings.namespace}}}:probe", "1", "PX", 60_000)

    def _go_up(self, connection: Connection) -> None:
        self._connection = connection
        self._late_in_a_row = 0
        self.is_up = True
        self.reason = ""
        self._up_since = time.monotonic()
        if False in self._said and not self._unsaid:
            self._say(True, "redis at %s is back after %.1f s", self._place, self._up_since - self._down_since)
        self._up.set()
        if not connection.is_open:
            self._go_down("it closed the connection")
        elif self.on_change is not None:
            self.on_change("")

    def _go_down(self, why: str) -> None:
        was_up, self.is_up = self.is_up, False
        self.reason = f"redis is down: {why}"
        self._up.clear()
        if was_up:
            self._down_since = time.monotonic()
            self._unsaid = True
        if self._unsaid:
            at = f" at {self._place}" if self._place is not None else ""
            self._unsaid = not self._say(
                False, "redis%s is down (%s): on_store_failure applies until it is back", at, why
            )
        self._broken.set()
        if was_up:
            self._drop(why)
            if self.on_change is not None:
                self.on_change(why)

    def _drop(self, why: str) -> None:
        connection, self._connection = self._connection, None
        others, self._others = self._others, []
        for one in (connection, *others):
            if one is not None:
                one.abort(why)
        if self._out_sinks:
            self.flush()

    def _ended(self, connection: Connection, why: str) -> None:
        if connection in self._others:
            self._others.remove(connection)
        elif connection is self._connection and self.is_up:
            self._go_down(why)

    def _answered(self, in_time: bool) -> None:
        if in_time:
            self._late_in_a_row = 0
            return
        self.timeouts += 1
        self._late_in_a_row += 1
        if self.is_up and self._late_in_a_row >= SLOW_READS:
            self._go_down(f"no reply within {self.settings.timeout_s * 1e3:g} ms, {SLOW_READS} times in a row")

    def _judge(self, error: StoreError) -> None:
        if error.is_unfit and self.is_up:
            self._dialler.heed(error)
            self._go_down(str(error))

    def _say(self, good: bool, text: str, *values: object) -> bool:
        """Log a change, at most once per QUIET_S and direction; return True when it was logged, here or by another
        worker."""
        now = time.monotonic()
        if now - self._said.get(good, -QUIET_S) < QUIET_S:
            return False
        mine = True if self._should_log is None else self._should_log(good)
        if mine is None:
            return False
        self._said[good] = now
        if mine:
            _log.log(logging.INFO if good else logging.WARNING, text, *values)
        return True


def _pending(connection: Connection) -> int:
    return connection.pending
