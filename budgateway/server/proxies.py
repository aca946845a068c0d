"""Trusted proxies: finds the client's address in `X-Forwarded-For`, as far as trusted proxies wrote it."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from budgateway.server.address import parsed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from budgateway.native import RequestHead
    from budgateway.server.address import Address

MAX_HOPS = 32  # hops read, from the right
MAX_REMEMBERED = 4096  # addresses of peers; all are dropped when there are more


class Proxies:
    """The operator's `trusted_proxies`. Each proxy appends the address that it got the request from; addresses are read
    from the right as long as they belong to trusted proxies, and the first other one is the client."""

    def __init__(self, blocks: Iterable[str]) -> None:
        self._networks = [_network(block) for block in blocks]
        self._peers: dict[str, bool] = {}

    def client(self, peer: str, head: RequestHead) -> str:
        """Return the client's address on a connection from `peer`. An unreadable entry ends the search: the client is
        then the last address that a trusted proxy wrote."""
        trusted = self._peers.get(peer)
        if trusted is None:
            if len(self._peers) >= MAX_REMEMBERED:
                self._peers.clear()
            address = parsed(peer)
            trusted = self._peers[peer] = address is not None and self._is_trusted(address)
        if not trusted or head.header("x-forwarded-for") is None:
            return peer
        # Several lines are one list (RFC 9110 5.3).
        written = ",".join(value for name, value in head.headers() if name == "x-forwarded-for")
        client = peer
        for hop in written.rsplit(",", MAX_HOPS)[: -MAX_HOPS - 1 : -1]:
            address = parsed(hop.strip())
            if address is None:
                break
            client = str(address)
            if not self._is_trusted(address):
                break
        return client

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._networks if network.version == address.version)


def blocks_of(proxies: Iterable[str]) -> list[str]:
    """Return `trusted_proxies` as the native core reads them: an address and a prefix length each."""
    return [str(_network(block)) for block in proxies]


def _network(block: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Parse a block of addresses; a block of IPv4-mapped addresses becomes IPv4, as client addresses do."""
    network = ipaddress.ip_network(block, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network
