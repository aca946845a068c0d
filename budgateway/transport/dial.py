"""Dialling: how a new connection to an upstream comes about, or fails to."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Protocol

from budgateway.errors import GatewayError, UpstreamConnectError, UpstreamTimeout
from budgateway.pem import trusting
from budgateway.transport.client_cy import ClientConnection, Target

if TYPE_CHECKING:
    from budgateway.exchange_cy import Carrier, Exchange
    from budgateway.pem import Pem
    from budgateway.transport.sockets import PlainSockets


class Dialled(Protocol):
    """Who waits for a dial: the relay."""

    def connected(self, x: Exchange, connection: ClientConnection) -> None: ...
    def unreachable(self, x: Exchange, error: GatewayError) -> None: ...


def client_tls(verify: bool, authorities: Pem | str) -> ssl.SSLContext:
    """The context for `https` upstreams: these authorities, or the system's; TLS 1.2 and up."""
    context = trusting(authorities)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Dialler:
    """Connects to one provider's upstreams."""

    def __init__(self, connect_s: float, tls: ssl.SSLContext | None) -> None:
        """`connect_s` bounds name look-up, connection and TLS together; `tls` is for `https` upstreams."""
        self._connect_s = connect_s
        self._tls = tls

    async def dial(self, target: Target, x: Exchange, relay: Any, sockets: PlainSockets | None = None) -> None:
        """Connect, and tell the relay how it went (a Dialled and a Carrier); cancelled when the exchange ends first."""
        try:
            connection = await self.connect(target, relay, sockets)
        except GatewayError as error:
            relay.unreachable(x, error)
        except Exception as error:  # noqa: BLE001 - a task's edge: a defect must not leave the exchange in flight
            relay.crashed(x, error)
        else:
            relay.connected(x, connection)

    async def connect(self, target: Target, sink: Carrier, sockets: PlainSockets | None = None) -> ClientConnection:
        """A new connection. UpstreamConnectError or UpstreamTimeout(connect) when there is none to be had.

        An upstream whose host begins with `/` is a unix socket. Plain TCP connections are those `sockets`', if there are
        any; all others are the loop's.
        """
        loop = asyncio.get_running_loop()
        upstream = target.upstream

        def protocol() -> Any:
            return ClientConnection(target.pool, sink)

        try:
            async with asyncio.timeout(self._connect_s):
                if upstream.host.startswith("/"):
                    _, connection = await loop.create_unix_connection(protocol, upstream.host)
                elif not upstream.tls and sockets is not None:
                    connection = await sockets.connect(upstream.host, upstream.port, protocol)
                else:
                    tls = self._tls if upstream.tls else None
                    _, connection = await loop.create_connection(
                        protocol,
                        upstream.host,
                        upstream.port,
                        ssl=tls,
                        server_hostname=None if tls is None else upstream.host,
                    )
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"upstream {target.label} did not accept the connection within {self._connect_s:g} s", phase="connect"
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise UpstreamConnectError(
                f"upstream {target.label}: its certificate is not trusted ({error.verify_message.rstrip('.')})",
            ) from error
        except ssl.SSLError as error:
            raise UpstreamConnectError(f"upstream {target.label}: TLS failed ({error.reason})") from error
        except OSError as error:
            raise UpstreamConnectError(f"upstream {target.label}: {_why(error)}") from error
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
