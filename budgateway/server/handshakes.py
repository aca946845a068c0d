"""A TLS listener whose handshakes count as connections; `ServerState` bounds their number and time."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from typing import TYPE_CHECKING

from budgateway.server.connection_cy import ServerConnection
from budgateway.server.state_cy import OUTSIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from budgateway.server.state_cy import ServerState

AT_ONCE = 16  # connections accepted in one step of the loop, so that open ones are served in between
REST_S = 0.1  # pause without descriptors or memory; connections wait in the queue meanwhile

_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = logging.getLogger("budgateway.server")


class TlsListener:
    """Accepts connections from one socket until it is closed; the socket stays its owner's.

    The event loop's own server reports a connection only when its handshake is done, so silent clients would not be
    counted.
    """

    def __init__(
        self,
        sock: socket.socket,
        backlog: int,
        server_state: ServerState,
        tls: ssl.SSLContext,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """`spawn` owns the task of each handshake, and cancels it when the process ends. NotImplementedError on a loop
        that watches no descriptors."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._server_state = server_state
        self._tls = tls
        self._spawn = spawn
        self._timer: asyncio.TimerHandle | None = None
        self._short = False
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._accept)
        sock.listen(backlog)

    def close(self) -> None:
        """Stop accepting; handshakes in progress go on. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            if not self._server_state.accepts():
                self._rest(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
                return
            try:
                client, _ = self._sock.accept()
            except BlockingIOError:
                self._short = False
                return
            except OSError as error:
                if error.errno not in _SHORT:
                    continue  # that connection is gone already (accept(2))
                self._rest(error)
                return
            self._welcome(client)

    def _welcome(self, client: socket.socket) -> None:
        held = self._server_state.admit()
        if held == OUTSIDE:
            client.close()
            return
        connection = ServerConnection(self._server_state)
        connection.place = held
        self._spawn(self._shake_hands(client, connection))

    async def _shake_hands(self, client: socket.socket, connection: ServerConnection) -> None:
        try:
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            protocol: Any = connection  # an asyncio.Protocol in all but its base class
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                client,
                ssl=self._tls,
                ssl_handshake_timeout=self._server_state.head_timeout_ns / 1e9,
            )
        except (OSError, EOFError):
            # Too slow, not TLS, or gone: the client's fault, nothing to log.
            client.close()
        except BaseException:
            client.close()
            raise
        finally:
            if connection._transport is None:
                self._server_state.leave(connection)  # the handshake did not complete

    def _rest(self, error: OSError) -> None:
        """Pause accepting. Log it once, and again only if the queue was empty in between."""
        if not self._short:
            self._short = True
            _log.error("no connection can be accepted: %s", (error.strerror or "").lower())
        self._loop.remove_reader(self._sock.fileno())
        self._timer = self._loop.call_later(REST_S, self._rested)

    def _rested(self) -> None:
        self._timer = None
        self._loop.add_reader(self._sock.fileno(), self._accept)
