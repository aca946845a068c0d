"""Addresses: one for each client, however it connects, and the network that limits count it by."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

MAX_REMEMBERED = 4096  # addresses; forgotten all at once
IPV6_PREFIX = 64  # what one customer has at least (RFC 6177): 2^64 addresses of one client are one client

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def plain_address(text: str) -> str:
    """An address as the system tells it, as it is compared, counted and logged: an IPv4 client of a socket for both is an
    IPv4 client, and a zone is this machine's business."""
    if text.startswith("::ffff:") and "." in text:
        return text[7:]
    return text.partition("%")[0]


def client_of(transport: asyncio.BaseTransport) -> str:
    """Who is at the other end of a connection that was accepted: an address, or "local" behind a unix socket."""
    peer = transport.get_extra_info("peername")
    return plain_address(peer[0]) if isinstance(peer, tuple) else "local"


def parsed(text: str) -> Address | None:
    """An address as proxies write them: with a port or without, IPv6 in brackets or not; None for anything else."""
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
    """Which addresses limits count as one: those of IPv6 that begin with the same `prefix` bits."""

    def __init__(self, prefix: int = IPV6_PREFIX) -> None:
        self._prefix = prefix
        self._known: dict[str, str] = {}

    def of(self, client: str) -> str:
        """What a client's address counts as: itself, or its network (`2001:db8:1:2::/64`)."""
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
        # All of a link's addresses begin alike.
        if address.is_loopback or address.is_link_local or self._prefix == 128:
            return client
        return str(ipaddress.IPv6Network((address, self._prefix), strict=False))
