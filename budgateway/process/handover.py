"""Handover from one supervisor to the next: the listening sockets, the limit counts, and the moment of the switch.

Both processes share the same sockets while both live: connections that are not accepted for a moment wait in their
queues. The two talk over a unix socket in the predecessor's directory, in frames of a kind, a length and that many
bytes:

```
successor                                  predecessor
   connect                            ->
                                      <-   names of the sockets, with the sockets (no frame)
   HELLO                              ->
                                      <-   COUNTED: all that limits have counted
   READY: every worker would accept   ->   accepts no more
                                      <-   COUNTED: what changed meanwhile
                                      <-   STOPPED
                                      <-   COUNTED, again and again, until its last exchange has ended
```

A successor that ends before READY leaves the predecessor as it was. A predecessor that ends leaves its successor with
the sockets and the counts sent so far. A predecessor of an earlier version sends only the sockets and is stopped by
SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from budgateway.errors import GatewayError
from budgateway.native import LimitLedger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from budgateway.admin.instance import Instance
    from budgateway.native import Segment

MAX_SOCKETS = 64
TIMEOUT_S = 5.0
COUNT_S = 0.1  # between two reports of counts
S_PER_DAY = 86_400
METRICS = "metrics"
SLOT = "slot"
BUSY = "busy"  # instead of the sockets: another successor has them

HELLO = b"H"
COUNTED = b"C"
READY = b"R"
STOPPED = b"S"
_FRAME = struct.Struct("!cI")
MAX_FRAME = 64 * 1024 * 1024

Named = list[tuple[str, socket.socket]]

_log = logging.getLogger("budgateway.handover")


class Taken(GatewayError):
    """Another process takes over already."""

    code = "start_failed"
    who = "operator"


class Giver:
    """The predecessor's side: a unix socket in its private directory. Serves one successor at a time."""

    def __init__(
        self,
        path: Path,
        sockets: Callable[[], Named],
        segment: Segment,
        relieve: Callable[[int], Awaitable[None]],
    ) -> None:
        """`sockets` is called for each successor; each name is SLOT or METRICS. `relieve(pid)` is awaited when that
        process is ready to take over; it returns when nothing accepts here any more."""
        self._path = path
        self._sockets = sockets
        self._segment = segment
        self._relieve = relieve
        self._listener: socket.socket | None = None
        self._serving: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._is_done = False
        self._listen()

    def restore(self) -> None:
        """Listen again if the socket's file is gone and its directory exists. Raises OSError when that fails."""
        if not self._is_done and not self._path.is_socket() and self._path.parent.is_dir():
            self._stop_listening()
            self._listen()

    async def close(self) -> None:
        """Stop, after the successor has got the final counts. The file is removed with its directory. Idempotent."""
        self._is_done = True
        self._stop_listening()
        self._ended.set()
        if self._serving is not None:
            await asyncio.wait((self._serving,), timeout=TIMEOUT_S)
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
            self._serving = None

    def _listen(self) -> None:
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self._path))
            listener.listen(8)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        try:
            taker, _ = listener.accept()
        except OSError:
            return
        taker.setblocking(False)
        try:
            if self._serving is not None and not self._serving.done():
                taker.send(json.dumps([BUSY]).encode())
                taker.close()
                return
            found = self._sockets()
            names = json.dumps([name for name, _ in found]).encode()
            # A few hundred bytes: they fit into the buffer of a new connection.
            socket.send_fds(taker, [names], [sock.fileno() for _, sock in found])
        except OSError as error:
            _log.warning("a successor did not get the sockets: %s", error)
            taker.close()
            return
        self._serving = asyncio.get_running_loop().create_task(self._serve(taker), name="handover")

    async def _serve(self, taker: socket.socket) -> None:
        """Answer one successor as long as it is connected."""
        pid = _peer(taker)
        reader, writer = await asyncio.open_unix_connection(sock=taker)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if await _receive(reader) != (HELLO, b""):
                    return  # a successor of an earlier version, which needs only the sockets
            _log.info("process %d starts to take over", pid)
            ledger = LimitLedger(self._segment)
            await self._tell_counted(ledger, writer)
            if await _receive(reader) != (READY, b""):
                _log.warning("process %d ended before it had taken over: this process keeps serving", pid)
                return
            self._is_done = True  # from here on the successor does the handovers
            self._stop_listening()
            await self._relieve(pid)
            await self._tell_counted(ledger, writer)
            await _send(writer, STOPPED)
            while not self._ended.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(COUNT_S):
                        await self._ended.wait()
                await self._tell_counted(ledger, writer)
        except (OSError, TimeoutError):
            pass  # it disconnected
        except Exception:  # noqa: BLE001 - a background task's edge
            _log.exception("the handover to process %d failed", pid)
        finally:
            writer.close()

    async def _tell_counted(self, ledger: LimitLedger, writer: asyncio.StreamWriter) -> None:
        changes = ledger.changes(time.monotonic_ns(), self._segment.today or int(time.time()) // S_PER_DAY)
        if changes is not None:
            await _send(writer, COUNTED, changes)


class Predecessor:
    """The successor's side: the gateway it takes over from."""

    def __init__(self, instance: Instance) -> None:
        self.pid = instance.pid
        self.counts = False  # it reports its limit counts and stops on READY; False: it is stopped by SIGTERM
        self.sockets: Named = []
        self._path = instance.handover
        self._connection: socket.socket | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def take(self) -> None:
        """Fetch the sockets, set to non-blocking; this call blocks. Raises OSError when there are none, Taken when
        another process has them."""
        giver = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            giver.settimeout(TIMEOUT_S)
            giver.connect(self._path)
            self.sockets = _sockets_from(giver)
        except BaseException:
            giver.close()
            raise
        self._connection = giver

    async def counted(self, count: Callable[[bytes], None]) -> bool:
        """Pass all its limit counts to `count`. Returns False when it is gone, or too old to report them."""
        assert self._connection is not None
        self._connection.setblocking(False)
        self._streams = await asyncio.open_unix_connection(sock=self._connection)
        reader, writer = self._streams
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await _send(writer, HELLO)
                if (frame := await _receive(reader)) is not None and frame[0] == COUNTED:
                    count(frame[1])
                    self.counts = True
                    return True
        except (OSError, TimeoutError):
            pass
        self.close()
        return False

    async def relieve(self, count: Callable[[bytes], None]) -> None:
        """Make it stop accepting, and wait until it has; does nothing when it is gone."""
        if self._streams is not None:
            reader, writer = self._streams
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await _send(writer, READY)
                    while (frame := await _receive(reader)) is not None:
                        if frame[0] == STOPPED:
                            return
                        if frame[0] == COUNTED:
                            count(frame[1])
            except (OSError, TimeoutError):
                pass
            self.close()
        # It is of an earlier version, does not answer, or is gone.
        try:
            os.kill(self.pid, signal.SIGTERM)
        except ProcessLookupError:
            _log.warning("process %d ended during the takeover", self.pid)
        except OSError as error:
            _log.error("process %d cannot be told to stop: %s", self.pid, error)

    async def follow(self, count: Callable[[bytes], None]) -> None:
        """Pass its counts to `count` until its last exchange has ended."""
        if self._streams is None:
            return
        with suppress(OSError):
            while (frame := await _receive(self._streams[0])) is not None:
                if frame[0] == COUNTED:
                    count(frame[1])
        self.close()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
        elif self._connection is not None:
            self._connection.close()
        self._connection = None


def _sockets_from(giver: socket.socket) -> Named:
    data, fds, _, _ = socket.recv_fds(giver, 64 * 1024, MAX_SOCKETS + 1)
    taken = [socket.socket(fileno=fd) for fd in fds]
    try:
        names: Sequence[str] = json.loads(data or b"[]")
        if names == [BUSY]:
            raise Taken("another process is already taking over from it")
        if not names or len(names) != len(taken):
            raise OSError("the sockets did not all arrive")
        for sock in taken:
            sock.setblocking(False)
    except BaseException:
        for sock in taken:
            sock.close()
        raise
    return list(zip(names, taken, strict=True))


def _peer(sock: socket.socket) -> int:
    """Return the pid of the process at the other end of a unix socket."""
    found = struct.Struct("3i")
    pid: int = found.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, found.size))[0]
    return pid


async def _send(writer: asyncio.StreamWriter, kind: bytes, data: bytes = b"") -> None:
    """Write a frame. Raises ConnectionError when the other end is gone."""
    if writer.is_closing():
        raise ConnectionResetError("the connection is closed")
    writer.write(_FRAME.pack(kind, len(data)) + data)
    await writer.drain()


async def _receive(reader: asyncio.StreamReader) -> tuple[bytes, bytes] | None:
    """Return the next frame, or None when the other end is gone or sends an oversized frame."""
    try:
        kind, length = _FRAME.unpack(await reader.readexactly(_FRAME.size))
        if length > MAX_FRAME:
            return None
        return kind, await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
