"""Client addresses: one spelling for each client, however it connects, and the network that limits count it by."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

MAX_REMEMBERED = 4096  # addresses; all are dropped when there are more
IPV6_PREFIX = 64  # the least that one customer gets (RFC 6177): its 2^64 addresses count as one client

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def plain_address(text: str) -> str:
    """Normalize an address from the system, to compare, count and log it: an IPv4-mapped one becomes IPv4, and an IPv6
    zone is dropped, because it is local to this machine."""
    if text.startswith("::ffff:") and "." in text:
        return text[7:]
    return text.partition("%")[0]


def client_of(transport: asyncio.BaseTransport) -> str:
    """Return the peer's address of an accepted connection, or "local" on a unix socket."""
    peer = transport.get_extra_info("peername")
    return plain_address(peer[0]) if isinstance(peer, tuple) else "local"


def parsed(text: str) -> Address | None:
    """Parse an address as proxies write it: with a port or without, IPv6 in brackets or not; None for anything else."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or (None if address.scope_id else address)
    return address


class Networks:
    """Maps client addresses to what limits count: IPv6 addresses with the same first `prefix` bits are one client."""

    def __init__(self, prefix: int = IPV6_PREFIX) -> None:
        self._prefix = prefix
        self._known: dict[str, str] = {}

    def of(self, client: str) -> str:
        """Return what a client's address counts as: itself, or its network (`2001:db8:1:2::/64`)."""
        if ":" not in client:
            return client
        found = self._known.get(client)
        if found is None:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            found = self._known[client] = self._network(client)
        return found

    def _network(self, client: str) -> str:
        try:
            address = ipaddress.IPv6Address(client)
        except ValueError:
            return client
        # All link-local addresses begin alike.
        if address.is_loopback or address.is_link_local or self._prefix == 128:
            return client
        return str(ipaddress.IPv6Network((address, self._prefix), strict=False))
