"""Taking over from another gateway: its sockets, its limit counts, and its role."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from typing import TYPE_CHECKING

from budgateway.admin.instance import instances, network, remove_instance
from budgateway.app.dataplane import BACKLOG, bound_socket, is_bound_to
from budgateway.errors import GatewayError
from budgateway.process.handover import METRICS, S_PER_DAY, SLOT, Named, Predecessor, Taken
from budgateway.process.worker_handle import Slot
from budgateway.system.keeper import Steps

if TYPE_CHECKING:
    import socket

    from budgateway.admin.instance import Instance
    from budgateway.limits.keeping import StateFile
    from budgateway.native import Segment
    from budgateway.records import Settings

RELEASE_S = 3.0  # for the workers of a killed predecessor to release the port

_log = logging.getLogger("budgateway.supervisor")


class StartFailed(GatewayError):
    """The gateway could not start: a port is taken, or workers die at once."""

    code = "start_failed"
    who = "operator"


class Succession:
    """The supervisor's state about its predecessor; does nothing when there is none."""

    def __init__(self, instance: Instance | None, segment: Segment, guest_row: int | None, kept: StateFile) -> None:
        """Exchanges of the predecessor count in the segment's `guest_row`; `kept` holds limit counts in a file."""
        self._predecessor = None if instance is None else Predecessor(instance)
        self._segment = segment
        self._guest_row = guest_row
        self._kept = kept
        self._following: asyncio.Task[None] | None = None  # counts of the predecessor's last exchanges
        self._is_bereaved = False  # the predecessor ended before it passed anything on
        self._steps = Steps(_log)

    async def listeners(self, settings: Settings) -> tuple[list[Slot], socket.socket | None]:
        """Return the slots, each with its listening sockets, and the socket for metrics. Inherited sockets are used
        where their address matches the configuration. Raises StartFailed."""
        inherited = self._inherited()
        await self._take_counts()
        beside = any(name == METRICS and sock.getsockname()[1] == settings.metrics_port for name, sock in inherited)
        given = [sock for name, sock in inherited if name == SLOT and is_bound_to(sock, settings.host, settings.port)]
        metrics = [
            sock for name, sock in inherited
            if name == METRICS and settings.metrics_enabled
            and is_bound_to(sock, settings.metrics_host, settings.metrics_port)
        ]  # fmt: skip
        kept = [*given, *metrics[:1]]
        for _, sock in inherited:
            if sock not in kept:
                sock.close()
        slots = await self._slots(settings, given, is_shared=bool(inherited))
        if metrics or not settings.metrics_enabled or not settings.metrics_port:
            return slots, metrics[0] if metrics else None
        try:
            return slots, bound_socket(settings.metrics_host, settings.metrics_port, shared=beside)
        except OSError as error:
            for slot in slots:
                slot.close()
            raise StartFailed(
                f"cannot listen for metrics on {settings.metrics_host}:{settings.metrics_port}: {error.strerror}",
                hint="set METRICS_PORT, or ENABLE_METRICS=false",
            ) from error

    async def _slots(self, settings: Settings, given: list[socket.socket], *, is_shared: bool) -> list[Slot]:
        slots: list[Slot] = []
        host, port = settings.host, settings.port
        try:
            for index in range(settings.workers):
                if index < len(given):
                    sock = given[index]
                else:
                    # Shared with the predecessor's socket, which may have another address.
                    sock = await self._bound(host, port, shared=index > 0 or is_shared)
                slots.append(Slot(index, sock))
                port = sock.getsockname()[1]
                # Listening from here on: connections queue until their worker is up, and none is refused.
                sock.listen(BACKLOG)
        except OSError as error:
            for slot in slots:
                slot.close()
            raise StartFailed(
                f"cannot listen on {host}:{port}: {error.strerror}", hint="set GATEWAY_PORT, or give --port"
            ) from error
        for number, sock in enumerate(given[settings.workers :]):
            slots[number % settings.workers].others.append(sock)
        return slots

    async def _bound(self, host: str, port: int, *, shared: bool) -> socket.socket:
        """Bind a new socket. The workers of a killed predecessor may hold the port until they notice, so this retries
        for RELEASE_S."""
        deadline = time.monotonic() + (RELEASE_S if self._is_bereaved else 0.0)
        while True:
            try:
                return bound_socket(host, port, shared=shared)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.05)

    @property
    def waits(self) -> bool:
        """True when workers must not accept yet, because limits must count each exchange in one gateway only."""
        return self._predecessor is not None and self._predecessor.counts

    @property
    def is_told_by_signal(self) -> bool:
        """True when the predecessor is of an earlier version, or does not answer."""
        return self._predecessor is not None and not self._predecessor.counts

    def _inherited(self) -> Named:
        """Return the predecessor's sockets; none without a predecessor, or when it ended just now."""
        if self._predecessor is None:
            return []
        try:
            self._predecessor.take()
        except (OSError, ValueError) as error:
            if any(instance.pid == self._predecessor.pid for instance in instances()):
                raise StartFailed(f"cannot take over from process {self._predecessor.pid}: {error}") from error
            _log.warning(
                "process %d ended before it handed over its sockets: starting without them", self._predecessor.pid
            )
            self._predecessor = None
            self._is_bereaved = True
            return []
        except Taken as error:
            raise StartFailed(f"cannot take over from process {self._predecessor.pid}: {error}") from error
        return self._predecessor.sockets

    async def _take_counts(self) -> None:
        """Load the limit counts from the predecessor, else from the file."""
        if self._predecessor is not None and await self._predecessor.counted(self._count):
            self._kept.look()
        else:
            self._kept.load()

    def _count(self, changes: bytes) -> None:
        """Add the predecessor's reported counts to ours."""
        with self._steps.step("adopting the predecessor's limits"):
            today = self._segment.today or int(time.time()) // S_PER_DAY
            self._segment.count_limits(changes, time.monotonic_ns(), today, guest=self._guest_row)

    async def relieve(self) -> None:
        """Make the predecessor stop accepting; this gateway accepts afterwards, even if that failed."""
        predecessor = self._predecessor
        if predecessor is None:
            return
        await predecessor.relieve(self._count)
        _log.info("process %d has stopped accepting: this process accepts", predecessor.pid)
        if self._kept.path:
            await asyncio.to_thread(self._kept.save)
        await asyncio.to_thread(remove_instance, predecessor.pid)
        self._following = asyncio.create_task(self._follow(predecessor), name="predecessor")

    async def _follow(self, predecessor: Predecessor) -> None:
        """Count the predecessor's last exchanges until it has ended."""
        try:
            await predecessor.follow(self._count)
        finally:
            if self._guest_row is not None:
                self._segment.clear_worker(self._guest_row)

    async def pass_on(self, hurry: asyncio.Event, timeout_s: float) -> None:
        """Wait for our own predecessor, if it still drains when we are relieved: its last exchanges are counted through
        us."""
        if self._following is not None and not self._following.done():
            _log.info("waiting for the predecessor's last exchanges, whose limits the successor takes over")
            hurried = asyncio.create_task(hurry.wait())
            await asyncio.wait((self._following, hurried), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()

    async def close(self) -> None:
        """Close the connection to the predecessor. Idempotent."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if self._predecessor is not None:
            self._predecessor.close()


def gateway_on(host: str, port: int) -> Instance | None:
    """Return the gateway at this address, or None. Of several on one port, the one with this host, else the newest.
    Draining ones are skipped."""
    here = (0, network())
    found = [
        instance for instance in instances() if instance.handover and not instance.draining and instance.port == port
    ]
    found = [instance for instance in found if instance.network in here]
    same = [instance for instance in found if instance.host in (host, "")]
    return next(reversed(same or found), None)
