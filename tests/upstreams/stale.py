"""An upstream that closes each kept-alive connection just as it is used again, and counts by id what it was sent."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from random import Random
from typing import Self, cast

from upstreams.faulty import RESET
from upstreams.wire import NotHttp, RequestScanner, head

_ID = re.compile(rb"\r\nx-request-id: ([^\r]*)\r\n", re.IGNORECASE)


class Stale:
    """The server. A connection answers its first request with its id, and then is closed: as the first byte of the next one
    arrives, or a few turns of the event loop after the answer."""

    def __init__(self, seed: int) -> None:
        self.dice = Random(seed)
        self.answered: Counter[str] = Counter()
        self.dropped: Counter[str] = (
            Counter()
        )  # what had arrived, wholly or in part, on a connection that was closed on it
        self.races = 0  # how often that was seen; a close that overtook the request was not
        self.violations: list[str] = []
        self.open: set[Racer] = set()
        self.url = ""
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: Racer(self), "127.0.0.1", 0, backlog=4096)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        for one in list(self.open):
            one.drop()
        while self.open:
            await asyncio.sleep(0.001)


class Racer(asyncio.Protocol):
    """One connection."""

    def __init__(self, upstream: Stale) -> None:
        self._upstream = upstream
        self._scanner = RequestScanner()
        self._transport: asyncio.Transport | None = None
        self._has_answered = False
        self._resets = upstream.dice.random() < 0.5

    def drop(self) -> None:
        """Leave at once: FIN, or RST."""
        assert self._transport is not None
        if self._resets and not self._transport.is_closing():
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance
        self._upstream.open.add(self)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if self._has_answered:
            if (found := _ID.search(data)) is not None:
                self._upstream.dropped[found[1].decode()] += 1
                self._upstream.races += 1
            self.drop()
            return
        self._scanner.feed(data)
        try:
            received = self._scanner.take(0)
        except NotHttp as error:
            self._upstream.violations.append(str(error))
            self.drop()
            return
        if received is None:
            return
        name = received.header("x-request-id") or ""
        self._upstream.answered[name] += 1
        self._has_answered = True
        answer = head(200, [("content-type", "text/plain"), ("content-length", str(len(name)))]) + name.encode()
        self._transport.write(answer)
        if self._upstream.dice.random() < 0.4:
            self._in(self._upstream.dice.randint(0, 6))

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.open.discard(self)

    def _in(self, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._in, turns - 1)
        else:
            self.drop()
