"""Happy Eyeballs (RFC 8305): tries a name's addresses in turn, a moment apart; the first connection wins."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from budgateway.transport.resolve import Address

DELAY_S = 0.25  # RFC 8305 5: the recommended Connection Attempt Delay

# Errors for what this process or its machine lacks.
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})


async def connected(addresses: Sequence[Address], port: int) -> tuple[socket.socket, Address]:
    """Return a connected socket and its address. OSError when no address answers: the first one's error, or that of a
    shortage, which says nothing about the address it affected."""
    if len(addresses) == 1:
        return await _connected(addresses[0], port), addresses[0]
    loop = asyncio.get_running_loop()
    waiting = list(addresses)
    trying: dict[asyncio.Task[socket.socket], Address] = {}
    failures: list[OSError] = []
    try:
        while waiting or trying:
            if waiting:
                address = waiting.pop(0)
                trying[loop.create_task(_connected(address, port))] = address
            done, _ = await asyncio.wait(
                trying, timeout=DELAY_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                try:
                    sock = task.result()
                except OSError as error:
                    del trying[task]
                    failures.append(error)
                else:
                    return sock, trying.pop(task)
    finally:
        await _call_off(trying)
    raise _worst(failures)


async def _connected(address: Address, port: int) -> socket.socket:
    family, text, scope = address
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        where = (text, port, 0, scope) if family == socket.AF_INET6 else (text, port)
        await asyncio.get_running_loop().sock_connect(sock, where)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


async def _call_off(tasks: Iterable[asyncio.Task[socket.socket]]) -> None:
    """Cancel the remaining attempts; close the socket of one that connected meanwhile."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, socket.socket):
            result.close()


def _worst(failures: Sequence[OSError]) -> OSError:
    # A machine without IPv6 has no source address: the error of another address says more.
    for error in failures:
        if error.errno in SHORTAGES and error.errno != errno.EADDRNOTAVAIL:
            return error
    for error in failures:
        if error.errno != errno.EADDRNOTAVAIL:
            return error
    return failures[0] if failures else OSError("the name has no address")
