"""Plain TCP connections: below the event loop, in an epoll set of their own."""

from __future__ import annotations

import socket
import struct
from functools import partial
from typing import TYPE_CHECKING, Any

from budgateway import native
from budgateway.transport.client_cy import READ_BYTES

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Self

    from budgateway.transport.client_cy import ClientConnection

DOWNSTREAM_READ_BYTES = 64 * 1024  # a prompt of usual size comes in one read; of upstreams it is READ_BYTES

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER that turns the next close into a RST


class PlainSockets:
    """The plain TCP connections of one worker. The loop sees one descriptor: that of the set."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """NotImplementedError when the loop watches no descriptors."""
        self._loop = loop
        # Nothing of ours, as the collector does not see what the set holds.
        self._set = native.Sockets(loop.call_soon, loop.call_later, partial(_complain, loop))
        loop.add_reader(self._set.fileno(), self._set.turn)

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Self | None:
        """The loop's; None when it watches no descriptors, and all connections are the loop's own."""
        try:
            return cls(loop)
        except NotImplementedError:
            return None

    def listen(
        self,
        sock: socket.socket,
        backlog: int,
        factory: Callable[[], Any],
        gate: Callable[[], bool] | None = None,
    ) -> native.Listener:
        """Accept connections from a bound socket until the listener is closed; the socket's queue lives as long as it. They
        wait there while `gate` says no."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what it accepts inherits that
        sock.listen(backlog)
        return self._set.listen(sock.fileno(), factory, DOWNSTREAM_READ_BYTES, gate)

    def adopt(self, sock: socket.socket, connection: ClientConnection) -> ClientConnection:
        """Carry a connected socket from here on, whose descriptor is then the set's. OSError when there is none left."""
        with sock:
            self._set.adopt(sock.fileno(), connection, READ_BYTES)
        return connection

    def intercept(self, express: native.Express) -> None:
        """Let the express see requests before their connection's protocol does."""
        express.attach(self._set)

    def unsent(self) -> list[int]:
        """Bytes that wait, of each connection."""
        return self._set.unsent()

    def lent(self) -> int:
        """Rooms that exchanges hold, with what was read."""
        return self._set.lent()

    def close(self) -> None:
        """Drop what is left."""
        self._loop.remove_reader(self._set.fileno())
        self._set.close()


def _complain(loop: asyncio.AbstractEventLoop, what: str, error: Exception, whom: object) -> None:
    loop.call_exception_handler({"message": what, "exception": error, "transport": whom})


def reset(transport: Any) -> None:
    """Drop a connection with RST. (TLS says so by itself: abort sends no close_notify.)"""
    if isinstance(transport, native.Transport):
        transport.reset()
        return
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
