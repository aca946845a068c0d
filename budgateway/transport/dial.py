"""Dialling: opens new connections to upstreams, and classifies failures."""

from __future__ import annotations

import asyncio
import errno
import ssl
from typing import TYPE_CHECKING, Any, Protocol

from budgateway.errors import (
    GatewayError,
    OutOfResources,
    ResolverUnavailable,
    UpstreamConnectError,
    UpstreamTimeout,
)
from budgateway.transport.client_cy import ClientConnection, Target
from budgateway.transport.race import SHORTAGES, connected
from budgateway.transport.resolve import Resolver, Unresolved, literal

if TYPE_CHECKING:
    from budgateway.exchange.exchange_cy import Carrier, Exchange
    from budgateway.transport.resolve import Address
    from budgateway.transport.sockets import PlainSockets


class Dialled(Protocol):
    """The receiver of a dial's result: the relay."""

    def connected(self, x: Exchange, connection: ClientConnection) -> None: ...
    def unreachable(self, x: Exchange, error: GatewayError) -> None: ...


class Dialler:
    """Connects to one provider's upstreams."""

    def __init__(self, connect_s: float, tls: ssl.SSLContext | None, resolver: Resolver | None = None) -> None:
        """`connect_s` bounds name look-up, connection and TLS together; `tls` is for `https` upstreams."""
        self._connect_s = connect_s
        self._tls = tls
        self._resolver = resolver or Resolver()

    async def dial(self, target: Target, x: Exchange, relay: Any, sockets: PlainSockets | None = None) -> None:
        """Connect, and report the result to the relay (a `Dialled` and a `Carrier`). Cancelled when the exchange ends
        first."""
        try:
            connection = await self.connect(target, relay, sockets)
        except GatewayError as error:
            relay.unreachable(x, error)
        except Exception as error:  # noqa: BLE001 - a task's edge: a defect must not leave the exchange in flight
            relay.crashed(x, error)
        else:
            relay.connected(x, connection)

    async def connect(self, target: Target, sink: Carrier, sockets: PlainSockets | None = None) -> ClientConnection:
        """Return a new connection. Raises UpstreamConnectError or UpstreamTimeout(connect) for the upstream's failures,
        OutOfResources or ResolverUnavailable for what the gateway lacks.

        A host that begins with `/` is a unix socket. Plain TCP connections belong to `sockets` if given, all others to
        the loop.
        """
        host = target.upstream.host
        addresses: list[Address] | None = None
        try:
            async with asyncio.timeout(self._connect_s):
                addresses = await self._addresses(host)
                return await self._connected(target, addresses, ClientConnection(target.pool, sink), sockets)
        except TimeoutError as error:
            if addresses is None and self._resolver.is_silent(host):
                raise _unresolved(target) from error
            what = "did not accept the connection" if addresses is not None else "has a name that was not resolved"
            raise UpstreamTimeout(
                f"upstream {target.label} {what} within {self._connect_s:g} s", phase="connect"
            ) from error
        except Unresolved as error:
            if error.silent:
                raise _unresolved(target) from error
            raise UpstreamConnectError(f"upstream {target.label}: {error}") from error
        except ssl.SSLCertVerificationError as error:
            raise UpstreamConnectError(
                f"upstream {target.label}: its certificate is not trusted ({error.verify_message.rstrip('.')})",
            ) from error
        except ssl.SSLError as error:
            raise UpstreamConnectError(f"upstream {target.label}: TLS failed ({error.reason})") from error
        except MemoryError as error:
            raise _short(target, errno.ENOMEM) from error
        except OSError as error:
            if error.errno in SHORTAGES:
                raise _short(target, error.errno) from error
            raise UpstreamConnectError(f"upstream {target.label}: {_why(error)}") from error

    async def _addresses(self, host: str) -> list[Address]:
        if host.startswith("/"):
            return []
        address = literal(host)
        return await self._resolver.addresses(host) if address is None else [address]

    async def _connected(
        self, target: Target, addresses: list[Address], connection: ClientConnection, sockets: PlainSockets | None
    ) -> ClientConnection:
        loop = asyncio.get_running_loop()
        upstream = target.upstream

        def protocol() -> Any:
            return connection

        if not addresses:
            await loop.create_unix_connection(protocol, upstream.host)
            return connection
        sock, address = await connected(addresses, upstream.port)
        self._resolver.chosen(upstream.host, address, addresses)
        if not upstream.tls and sockets is not None:
            return sockets.adopt(sock, connection)
        tls = self._tls if upstream.tls else None
        try:
            await loop.create_connection(
                protocol, sock=sock, ssl=tls, server_hostname=None if tls is None else upstream.host
            )
        except BaseException:
            sock.close()
            raise
        return connection


def _unresolved(target: Target) -> ResolverUnavailable:
    return ResolverUnavailable(
        f"upstream {target.label}: no resolver responds, so its address is unknown",
        hint="check the name servers in /etc/resolv.conf",
        retry_after_s=1.0,
    )


def _short(target: Target, number: int | None) -> OutOfResources:
    """Return the error for a lacking resource, with a hint that helps."""
    what, hint = _LACKING.get(number or 0, ("resources", ""))
    return OutOfResources(
        f"the gateway has no {what} left for a connection to upstream {target.label}", hint=hint, retry_after_s=1.0
    )


_LACKING = {
    errno.EMFILE: ("file descriptors", "raise its limit of open files (ulimit -n, LimitNOFILE)"),
    errno.ENFILE: ("file descriptors", "raise the machine's limit of open files (fs.file-max)"),
    errno.ENOMEM: ("memory", "give it more memory, or lower max_connections"),
    errno.ENOBUFS: ("memory for sockets", "give it more memory, or lower max_connections"),
    errno.EADDRNOTAVAIL: ("local ports", "widen net.ipv4.ip_local_port_range, or raise max_idle_connections"),
}


def _why(error: OSError) -> str:
    """Describe a failure without the address: messages reach clients."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionResetError):
        return "connection reset"
    return (error.strerror or "cannot connect").lower() if error.errno else "no address responds"
