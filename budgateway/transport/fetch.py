"""The gateway's own requests to upstreams, over the ordinary transport."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic_ns
from typing import TYPE_CHECKING

from budgateway.errors import GatewayError, UpstreamProtocolError
from budgateway.exchange.exchange_cy import Exchange
from budgateway.exchange.handler_cy import ExchangeHandler
from budgateway.native import CHUNKED, BodyPump, RequestHead

if TYPE_CHECKING:
    from budgateway.native import ResponseHead
    from budgateway.transport.client_cy import Target

MAX_BODY_BYTES = 4 * 1024 * 1024

_log = logging.getLogger("budgateway.fetch")


class _Collected(ExchangeHandler):
    """A handler that collects a response."""

    def __init__(self, done: asyncio.Future[tuple[int, bytes]], label: str, max_bytes: int) -> None:
        self._done = done
        self._label = label
        self._max_bytes = max_bytes
        self._status = 0
        self._parts: list[bytes] = []
        self._size = 0

    def response(self, x: Exchange, head: ResponseHead, now_ns: int) -> None:
        self._status = head.status
        self.response_end(x, head.body(), now_ns)

    def response_head(self, x: Exchange, head: ResponseHead, now_ns: int) -> BodyPump:
        self._status = head.status
        return BodyPump(bool(head.flags & CHUNKED), False, 0)

    def response_data(self, x: Exchange, out: bytes) -> None:
        self._parts.append(out)
        self._size += len(out)
        if self._size > self._max_bytes and not self._done.done():
            self._done.set_exception(UpstreamProtocolError(f"upstream {self._label}: the response is too large"))

    def response_flush(self, x: Exchange) -> None:
        """Do nothing: no head is held back."""

    def response_end(self, x: Exchange, out: bytes | None, now_ns: int) -> None:
        if out is not None:
            self.response_data(x, out)
        if not self._done.done():
            self._done.set_result((self._status, b"".join(self._parts)))

    def lost(self, x: Exchange, error: GatewayError) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    def crashed(self, x: Exchange, error: Exception) -> None:
        _log.error("a response of upstream %s could not be parsed", self._label, exc_info=error)
        self.lost(x, UpstreamProtocolError(f"upstream {self._label}: its response could not be parsed"))

    def upstream_writable(self, x: Exchange, ok: bool) -> None:
        """Do nothing: our requests are written whole."""


async def fetch(
    target: Target, path: str, timeout_s: float, body: bytes | None = None, *, max_bytes: int = MAX_BODY_BYTES
) -> tuple[int, bytes]:
    """GET `path`, or POST `body` (JSON) to it; return status and body. Raises GatewayError without an answer,
    TimeoutError when it takes longer than `timeout_s`."""
    done: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
    lines = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: budgateway\r\naccept: */*\r\n"
    if body is not None:
        lines += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    head = RequestHead.parse(f"{lines}\r\n".encode())
    assert head is not None
    x = Exchange(head, None, "local", monotonic_ns())
    x.target = target
    async with asyncio.timeout(timeout_s):
        connection = await target.dialler.connect(target, _Collected(done, target.label, max_bytes))
        try:
            length = -1 if body is None else len(body)
            connection.send(x, target.write_head(head, "budgateway", length), body, False, True)
            return await done
        finally:
            connection.abort()
