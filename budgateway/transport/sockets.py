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

    def listen(self, sock: socket.socket, backlog: int, factory: Callable[[], Any]) -> native.Listener:
        """Accept connections from a bound socket until the listener is closed; the socket's queue lives as long as it."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what it accepts inherits that
        sock.listen(backlog)
        return self._set.listen(sock.fileno(), factory, DOWNSTREAM_READ_BYTES)

    async def connect(self, host: str, port: int, factory: Callable[[], ClientConnection]) -> ClientConnection:
        """A connection to the first of the name's addresses that answers. OSError when none does: the first one's."""
        addresses = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        first: OSError | None = None
        for family, kind, protocol, _, address in addresses:
            with socket.socket(family, kind, protocol) as sock:
                sock.setblocking(False)
                try:
                    await self._loop.sock_connect(sock, address)
                except OSError as error:
                    first = first or error
                    continue
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = factory()
                self._set.adopt(sock.fileno(), connection, READ_BYTES)
                return connection
        raise first or OSError("the name has no address")

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
