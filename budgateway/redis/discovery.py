"""Redis discovery: the server at the URL, a Sentinel's master, or the cluster node that has our slot."""

from __future__ import annotations

import asyncio
import binascii
import os
import ssl
from typing import TYPE_CHECKING

from budgateway.records import StoreNode
from budgateway.redis.connection import Connection
from budgateway.redis.reply import StoreError
from budgateway.system.pem import load_pair, trusting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from budgateway.records import StoreSettings
    from budgateway.redis.reply import Reply

SLOTS = 16384


def slot_of(key: str) -> int:
    """Return a key's cluster slot: CRC16 (XMODEM) of its hash tag, or of the whole key (Redis cluster
    specification)."""
    start = key.find("{")
    end = key.find("}", start + 1)
    if start >= 0 and end > start + 1:
        key = key[start + 1 : end]
    return binascii.crc_hqx(key.encode(), 0) % SLOTS


class Dialler:
    """Opens connections that are ready for commands: server found, encrypted, authenticated, database selected."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._tls = client_tls(settings)
        self._slot = slot_of(f"{{{settings.namespace}}}")
        # The node that the last MOVED named, queried first the next time.
        self._hint: StoreNode | None = None

    def heed(self, error: StoreError) -> None:
        """Remember the node that a MOVED error names for our slot."""
        parts = str(error).split()
        if error.code == "MOVED" and len(parts) == 3:
            host, _, port = parts[2].rpartition(":")
            if host and port.isdigit():
                self._hint = StoreNode(host, int(port))

    async def find(self) -> StoreNode:
        """Return Redis's current address. Raises StoreError or OSError when no source has it."""
        settings = self._settings
        if settings.sentinels:
            return await self._first(settings.sentinels, self._ask_sentinel)
        own = StoreNode(settings.host, settings.port, settings.path)
        if settings.cluster:
            return await self._first(
                [*([self._hint] if self._hint else []), own, *settings.nodes],
                self._ask_node,
            )
        return own

    async def connect(self, place: StoreNode, connection: Connection) -> Connection:
        """Connect `connection` to an address, log in and select the database."""
        settings = self._settings
        await self._open(place, connection)
        password = settings.password
        if password is not None:
            user = (settings.username,) if settings.username else ()
            await connection.ask("AUTH", *user, password.reveal(), timeout_s=settings.connect_timeout_s)
        if settings.database:
            await connection.ask("SELECT", settings.database, timeout_s=settings.connect_timeout_s)
        return connection

    async def _open(self, place: StoreNode, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._settings.connect_timeout_s):
            if place.path:
                await loop.create_unix_connection(lambda: connection, place.path)
            elif self._tls is None:
                await loop.create_connection(lambda: connection, place.host, place.port)
            else:
                await loop.create_connection(
                    lambda: connection, place.host, place.port, ssl=self._tls, server_hostname=place.host
                )

    async def _first(
        self, places: Sequence[StoreNode], ask: Callable[[StoreNode, Connection], Awaitable[StoreNode]]
    ) -> StoreNode:
        reasons: list[str] = []
        for place in places:
            connection = Connection(_ended, _answered)
            try:
                return await ask(place, connection)
            except (StoreError, OSError, TimeoutError) as error:
                reasons.append(f"{place}: {reason(error)}")
            finally:
                connection.abort("asked")
        raise StoreError("; ".join(reasons), "DOWN")

    async def _ask_sentinel(self, place: StoreNode, connection: Connection) -> StoreNode:
        settings = self._settings
        timeout_s = settings.connect_timeout_s
        await self._open(place, connection)
        if settings.sentinel_password is not None:
            user = (settings.sentinel_username,) if settings.sentinel_username else ()
            await connection.ask("AUTH", *user, settings.sentinel_password.reveal(), timeout_s=timeout_s)
        found = await connection.ask("SENTINEL", "get-master-addr-by-name", settings.master, timeout_s=timeout_s)
        if not isinstance(found, list) or len(found) != 2:
            raise StoreError(f"the sentinel knows no master named {settings.master!r}", "DOWN")
        return StoreNode(_text(found[0]), int(_text(found[1])))

    async def _ask_node(self, place: StoreNode, connection: Connection) -> StoreNode:
        await self.connect(place, connection)
        ranges = await connection.ask("CLUSTER", "SLOTS", timeout_s=self._settings.connect_timeout_s)
        for entry in ranges if isinstance(ranges, list) else ():
            if (
                isinstance(entry, list)
                and _int(entry[0]) <= self._slot <= _int(entry[1])
                and isinstance(entry[2], list)
            ):
                # An empty host is the queried node itself, which does not know its own address.
                return StoreNode(_text(entry[2][0]) or place.host, _int(entry[2][1]))
        raise StoreError(f"no node has slot {self._slot}", "CLUSTERDOWN")


def client_tls(settings: StoreSettings) -> ssl.SSLContext | None:
    """Return the TLS context for Redis and its Sentinels, or None."""
    if not settings.tls:
        return None
    context = trusting(settings.tls_ca or settings.tls_ca_file, verify=settings.tls_verify)
    if settings.tls_cert_file:
        files = settings.tls_cert_file, settings.tls_key_file or settings.tls_cert_file
        load_pair(context, *(settings.tls_pair or files))
    return context


def reason(error: BaseException) -> str:
    """Return the reason for a failure in words, without secrets."""
    if isinstance(error, StoreError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no response in time"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or 'failed').lower().replace('_', ' ')}"
    if isinstance(error, OSError):
        # asyncio and uvloop have different messages for the same errno.
        text = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
        return text.lower() or type(error).__name__
    return type(error).__name__


def _text(reply: Reply) -> str:
    return reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)


def _int(reply: Reply) -> int:
    return reply if isinstance(reply, int) else -1


def _ended(_connection: Connection, _reason: str) -> None:
    pass


def _answered(_in_time: bool) -> None:
    pass
