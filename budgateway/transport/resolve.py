"""Name resolution with c-ares: one query at a time for each name, and a short cache.

The system's own resolver (getaddrinfo) blocks a thread for each query, and an event loop has few: one name whose server
is down occupies them all. c-ares runs any number of queries at once. It reads /etc/hosts, /etc/resolv.conf and the
order of both in /etc/nsswitch.conf, and follows their changes; other modules of nsswitch.conf are not consulted.
"""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiodns import DNSResolver
from aiodns.error import (
    ARES_EBADNAME,
    ARES_EFORMERR,
    ARES_ENODATA,
    ARES_ENONAME,
    ARES_ENOTFOUND,
    ARES_ESERVFAIL,
    ARES_ETIMEOUT,
    DNSError,
)
from pycares import AresError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    Ask = Callable[[str], Awaitable["Addresses"]]

# An address without its port: family, text, and an IPv6 address's scope.
Address = tuple[socket.AddressFamily, str, int]
# The addresses of one answer, in the order of RFC 6724, and their TTL in seconds.
Addresses = tuple[tuple[Address, ...], float]

MIN_S = 1.0  # minimum time to cache an answer: /etc/hosts gives a TTL of 0
MAX_S = 30.0  # maximum time to cache an answer, because names move between machines
FAILED_S = 1.0  # time to cache a failure
LOOKUP_S = 10.0  # deadline of a query
MAX_WAIT_S = 0.25  # longest wait for a new answer while an old one is cached
KEPT_S = 3600.0  # an old answer is served this long while no resolver responds (RFC 8767 allows days)
MAX_ADDRESSES = 8  # addresses of one name to try
MAX_NAMES = 4096

# The name does not exist, or has no address. Other errors say nothing about the name.
_NO_SUCH_NAME = frozenset({ARES_ENOTFOUND, ARES_ENODATA, ARES_ENONAME, ARES_EBADNAME, ARES_EFORMERR})
_OF_ONE_NAME = frozenset({ARES_ETIMEOUT, ARES_ESERVFAIL})


class Unresolved(Exception):
    """Raised when a name has no address, or when no resolver answered (`silent`)."""

    def __init__(self, *, silent: bool) -> None:
        super().__init__("no resolver responds" if silent else "its name does not resolve")
        self.silent = silent


@dataclass(slots=True)
class _Known:
    """The cache entry of a name."""

    addresses: tuple[Address, ...] = ()
    failed: bool = False  # the last query failed
    silent: bool = False  # and no other query was answered meanwhile
    fresh_until: float = 0.0
    kept_until: float = 0.0
    turn: int = 0
    avoided: frozenset[Address] = frozenset()  # did not connect when another one did


class Resolver:
    """The resolver of one process, on one loop. Costs nothing until the first query."""

    def __init__(self, ask: Ask | None = None, now: Callable[[], float] = time.monotonic) -> None:
        """`ask` is c-ares unless given, and raises DNSError; `now` returns the seconds of a monotonic clock."""
        self._ask = self._ask_cares if ask is None else ask
        self._now = now
        self._dns: DNSResolver | None = None
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, tuple[asyncio.Task[None], float]] = {}  # running queries, and when they began
        self._heard = -1.0  # when a resolver last answered

    async def addresses(self, host: str) -> list[Address]:
        """Return a name's addresses in the order to try them. Unresolved when there are none."""
        known = self._known.get(host)
        if known is None or self._now() >= known.fresh_until:
            known = await self._refreshed(host, known)
        if known.failed and not (known.addresses and self._now() < known.kept_until):
            raise Unresolved(silent=known.silent)
        return _in_turn(known)

    def is_silent(self, host: str) -> bool:
        """Return whether a query for this name is running, and no resolver has answered anything since it began."""
        asking = self._asking.get(host)
        return asking is not None and self._heard <= asking[1]

    def chosen(self, host: str, address: Address, tried: list[Address]) -> None:
        """Note that `address` connected when those before it in `tried` had not: they come last until the next
        answer."""
        known = self._known.get(host)
        if known is not None and tried and tried[0] != address:
            late = tried[: tried.index(address)] if address in tried else []
            known.avoided = (known.avoided | frozenset(late)) - {address}

    async def close(self) -> None:
        """Cancel all queries. Idempotent."""
        tasks = [task for task, _ in self._asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        dns, self._dns = self._dns, None
        if dns is not None:
            await dns.close()

    # ---------------------------------------------------------------- queries

    async def _refreshed(self, host: str, known: _Known | None) -> _Known:
        asking = self._asking.get(host)
        if asking is not None:
            task = asking[0]
        else:
            began = self._now()
            task = asyncio.get_running_loop().create_task(self._look_up(host, began))
            self._asking[host] = (task, began)
            task.add_done_callback(lambda _: self._asking.pop(host, None))
        if known is not None and known.addresses and self._now() < known.kept_until:
            # An old answer is used rather than wait for a slow resolver.
            await asyncio.wait((task,), timeout=MAX_WAIT_S)
            return self._known.get(host, known)
        await asyncio.shield(task)
        return self._known.get(host, _Known(failed=True))

    async def _look_up(self, host: str, began: float) -> None:
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= MAX_NAMES:
                self._known.clear()
            known = self._known[host] = _Known()
        try:
            async with asyncio.timeout(LOOKUP_S):
                addresses, ttl = await self._ask(host)
        except (DNSError, AresError, TimeoutError, OSError) as error:
            code = error.args[0] if isinstance(error, DNSError | AresError) and error.args else ARES_ETIMEOUT
            self._failed(known, began, code)
            return
        except (UnicodeError, ValueError):
            self._failed(known, began, ARES_EBADNAME)
            return
        now = self._now()
        if ttl > 0:
            self._heard = now  # /etc/hosts gives 0
        known.addresses = tuple(dict.fromkeys(addresses))[:MAX_ADDRESSES]
        known.failed = not known.addresses
        known.silent = False
        known.avoided = frozenset()
        known.fresh_until = now + min(max(ttl, MIN_S), MAX_S)
        known.kept_until = now + KEPT_S

    def _failed(self, known: _Known, began: float, code: object) -> None:
        now = self._now()
        known.failed = True
        known.fresh_until = now + FAILED_S
        if code in _NO_SUCH_NAME:
            self._heard = now
            known.addresses = ()
            known.silent = False
        else:
            # If another name was answered meanwhile, the failure is this name's.
            known.silent = not (code in _OF_ONE_NAME and self._heard > began)

    async def _ask_cares(self, host: str) -> Addresses:
        if self._dns is None:
            self._dns = DNSResolver(loop=asyncio.get_running_loop())
        found: Any = await self._dns.getaddrinfo(host, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM)
        addresses = tuple(
            (socket.AddressFamily(node.family), node.addr[0].decode(), node.addr[3] if len(node.addr) > 3 else 0)
            for node in found.nodes
        )
        return addresses, float(min((node.ttl for node in found.nodes), default=0))


def literal(host: str) -> Address | None:
    """Return the address when `host` is one, else None; addresses are never looked up."""
    text, _, scope = host.partition("%")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        try:
            return family, text, int(scope) if scope.isdigit() else socket.if_nametoindex(scope) if scope else 0
        except OSError:
            return family, text, 0
    return None


def _in_turn(known: _Known) -> list[Address]:
    """Order the addresses as in RFC 8305 4: families alternate, beginning with the first one's. Each call starts with
    another address of each family, so that machines behind one name share new connections; those that did not connect
    come last."""
    good = [address for address in known.addresses if address not in known.avoided]
    families: dict[socket.AddressFamily, list[Address]] = {}
    for address in good:
        families.setdefault(address[0], []).append(address)
    known.turn += 1
    lists = [turned(one, known.turn - 1) for one in families.values()]
    ordered = []
    for index in range(max(map(len, lists), default=0)):
        ordered += [one[index] for one in lists if index < len(one)]
    return ordered + [address for address in known.addresses if address in known.avoided]


def turned(items: list[Address], by: int) -> list[Address]:
    """Rotate a list by `by` places."""
    by %= len(items)
    return items[by:] + items[:by]
