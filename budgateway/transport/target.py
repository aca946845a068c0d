"""A target: one upstream as the relay sees it: its pool, how to dial it, how to write its request heads."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Protocol

from budgateway.errors import GatewayError, UpstreamConnectError, UpstreamTimeout
from budgateway.transport.client_cy import ClientConnection, Pool

if TYPE_CHECKING:
    from budgateway.exchange_cy import Exchange
    from budgateway.native import RequestHeadWriter
    from budgateway.records import Upstream


class Dialled(Protocol):
    """Who waits for a dial: the relay."""

    def connected(self, x: Exchange, connection: ClientConnection) -> None: ...
    def unreachable(self, x: Exchange, error: GatewayError) -> None: ...


def client_tls(verify: bool, ca_file: str) -> ssl.SSLContext:
    """The context for `https` upstreams: the system's authorities, or one file's; TLS 1.2 and up."""
    context = ssl.create_default_context(cafile=ca_file or None)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Target:
    """Belongs to a snapshot; its pool may be older, connections survive a reload."""

    __slots__ = ("_connect_s", "_tls", "label", "pool", "upstream", "writer")

    def __init__(
        self,
        upstream: Upstream,
        label: str,
        pool: Pool,
        writer: RequestHeadWriter,
        *,
        connect_s: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        """`label` names it in headers, logs and errors. An upstream whose host begins with `/` is a unix socket."""
        self.upstream = upstream
        self.label = label
        self.pool = pool
        self.writer = writer
        self._connect_s = connect_s
        self._tls = tls

    async def dial(self, x: Exchange, relay: Dialled) -> None:
        """Connect, and tell the relay how it went; cancelled when the exchange ends first."""
        try:
            connection = await self.connect(relay)
        except GatewayError as error:
            relay.unreachable(x, error)
        else:
            relay.connected(x, connection)

    async def connect(self, sink: Any) -> ClientConnection:
        """A new connection. UpstreamConnectError or UpstreamTimeout(connect) when there is none to be had."""
        loop = asyncio.get_running_loop()
        upstream = self.upstream

        def protocol() -> Any:
            return ClientConnection(self.pool, sink)

        try:
            async with asyncio.timeout(self._connect_s):
                if upstream.host.startswith("/"):
                    _, connection = await loop.create_unix_connection(protocol, upstream.host)
                else:
                    _, connection = await loop.create_connection(
                        protocol,
                        upstream.host,
                        upstream.port,
                        ssl=self._tls,
                        server_hostname=upstream.host if self._tls is not None else None,
                    )
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"upstream {self.label} did not accept the connection within {self._connect_s:g} s", phase="connect"
            ) from error
        except ssl.SSLError as error:
            raise UpstreamConnectError(f"upstream {self.label}: TLS failed ({error.reason})") from error
        except OSError as error:
            raise UpstreamConnectError(f"upstream {self.label}: {_why(error)}") from error
        assert isinstance(connection, ClientConnection)
        return connection


def _why(error: OSError) -> str:
    """What went wrong, without the address: messages reach clients."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionResetError):
        return "connection reset"
    return (
        (error.strerror or "cannot connect").lower()
        if error.errno
        else "its name does not resolve, or no address answers"
    )
