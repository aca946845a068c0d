"""Whose word about a client's address is believed: `X-Forwarded-For`, as far as proxies of ours wrote it."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from budgateway.server.address import parsed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from budgateway.native import RequestHead
    from budgateway.server.address import Address

MAX_HOPS = 32  # read from the right; who is further away is not looked for
MAX_REMEMBERED = 4096  # addresses of peers; forgotten all at once


class Proxies:
    """The operator's `trusted_proxies`. Each proxy adds, on the right, the address that it was spoken to from; so reading goes
    from the right for as long as a proxy of ours is speaking, and the first address that is none is the client."""

    def __init__(self, blocks: Iterable[str]) -> None:
        self._networks = [_network(block) for block in blocks]
        self._peers: dict[str, bool] = {}

    def client(self, peer: str, head: RequestHead) -> str:
        """Who asks, on a connection from `peer`. What cannot be read ends the reading: the client is then the last one whose
        address a trusted proxy vouches for."""
        trusted = self._peers.get(peer)
        if trusted is None:
            if len(self._peers) >= MAX_REMEMBERED:
                self._peers.clear()
            address = parsed(peer)
            trusted = self._peers[peer] = address is not None and self._trusts(address)
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
            if not self._trusts(address):
                break
        return client

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks if network.version == address.version)


def _network(block: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A block of addresses; one of IPv4 in IPv6's clothes is one of IPv4, as clients are."""
    network = ipaddress.ip_network(block, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network
