"""Plain TCP connections: served below the event loop, in an epoll set of their own."""

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

DOWNSTREAM_READ_BYTES = 64 * 1024  # a prompt of usual size fits into one read; upstream connections use READ_BYTES

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER that turns the next close into a RST


class PlainSockets:
    """The plain TCP connections of one worker. The loop watches one descriptor: the epoll set's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises NotImplementedError when the loop watches no descriptors."""
        self._loop = loop
        # No reference to this object, because the garbage collector does not see what the set holds.
        self._set = native.Sockets(loop.call_soon, loop.call_later, partial(_complain, loop))
        loop.add_reader(self._set.fileno(), self._set.turn)

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Self | None:
        """Return the sockets for a loop, or None when it watches no descriptors and must serve all connections
        itself."""
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
        """Accept connections from a bound socket until the listener is closed. They wait in the socket's queue while
        `gate` returns False; the queue lives as long as the socket."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        sock.listen(backlog)
        return self._set.listen(sock.fileno(), factory, DOWNSTREAM_READ_BYTES, gate)

    def adopt(self, sock: socket.socket, connection: ClientConnection) -> ClientConnection:
        """Serve a connected socket from now on; its descriptor then belongs to the set. OSError when there is none
        left."""
        with sock:
            self._set.adopt(sock.fileno(), connection, READ_BYTES)
        return connection

    def intercept(self, fastpath: native.FastPath) -> None:
        """Let the fast path see requests before their connection's protocol does."""
        fastpath.attach(self._set)

    def unsent(self) -> list[int]:
        """Return the unsent bytes of each connection."""
        return self._set.unsent()

    def lent(self) -> int:
        """Return the number of read buffers that exchanges hold."""
        return self._set.lent()

    def close(self) -> None:
        """Drop all connections that are left."""
        self._loop.remove_reader(self._set.fileno())
        self._set.close()


def _complain(loop: asyncio.AbstractEventLoop, what: str, error: Exception, whom: object) -> None:
    loop.call_exception_handler({"message": what, "exception": error, "transport": whom})


def reset(transport: Any) -> None:
    """Drop a connection with RST. (TLS needs none: abort sends no close_notify.)"""
    if isinstance(transport, native.Transport):
        transport.reset()
        return
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
