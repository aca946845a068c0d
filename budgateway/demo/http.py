"""Minimal HTTP/1.1 for the demo: one task per connection, one answer after the other."""

from __future__ import annotations

import asyncio
import http
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import httptools

MAX_BODY_BYTES = 64 * 1024 * 1024  # above the gateway's own default, so that the gateway's limit applies first
MAX_PIPELINED = 64


@dataclass(slots=True)
class Request:
    """A request. `headers` keeps order, spelling and repeats; `target` is the request line's, unchanged."""

    method: str = ""
    target: str = ""
    version: str = "1.1"
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    keep_alive: bool = True

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: str, default: str = "") -> str:
        """Return the first header with this name, given in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), default)


@dataclass(slots=True)
class Response:
    """An answer. A body of bytes is sent with its length, a generator of bytes chunked, as the pieces come."""

    status: int = 200
    body: bytes | AsyncGenerator[bytes, None] = b""
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list)


Handler = Callable[[Request], Awaitable[Response]]


class Connection(asyncio.Protocol):
    """A client's connection: httptools parses, a queue holds pipelined requests, one task answers in order."""

    def __init__(self, handle: Handler, open_connections: set[Connection]) -> None:
        # connection
        self._handle = handle
        self._open = open_connections
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._requests: asyncio.Queue[Request | None] = asyncio.Queue()
        self._writable = asyncio.Event()
        self._writable.set()
        self._malformed = False
        # exchange
        self._request = Request()
        self._body = bytearray()

    # uvloop's transports are not subclasses of asyncio's: the annotation narrows, nothing checks.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._open.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve(transport), name="demo connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def abort(self) -> asyncio.Task[None] | None:
        """Drop the connection now; returns the task to wait for."""
        if self._transport is not None:
            self._transport.abort()
        if self._task is not None:
            self._task.cancel()
        return self._task

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Upgrades are ignored, as RFC 9110 7.8 allows; httptools stops after the head, so this is the last request.
            self._requests.put_nowait(None)
        except httptools.HttpParserError:
            self._malformed = True
            self._requests.put_nowait(None)
        if self._requests.qsize() > MAX_PIPELINED or len(self._body) > MAX_BODY_BYTES:
            self.abort()

    def eof_received(self) -> bool:
        self._requests.put_nowait(None)
        return True  # requests that have arrived are still answered

    # httptools' callbacks

    def on_message_begin(self) -> None:
        self._request = Request()
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        self._request.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        request = self._request
        request.method = self._parser.get_method().decode("ascii")
        request.version = self._parser.get_http_version()
        request.keep_alive = self._parser.should_keep_alive()
        if request.header("expect").lower() == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self._request.body = bytes(self._body)
        self._requests.put_nowait(self._request)

    # answering

    async def _serve(self, transport: asyncio.Transport) -> None:
        """Answer until the client ends the connection, sends invalid HTTP, or disconnects."""
        while (request := await self._requests.get()) is not None:
            response = await self._handle(request)
            if not await self._send(transport, request, response):
                break
        else:
            if self._malformed:
                transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        transport.close()

    async def _send(self, transport: asyncio.Transport, request: Request, response: Response) -> bool:
        """Write one answer; return True when the connection stays open after it."""
        body, keep_alive = response.body, request.keep_alive
        chunked = not isinstance(body, bytes) and request.version != "1.0"
        if not isinstance(body, bytes) and not chunked:
            keep_alive = False  # HTTP/1.0 has no chunks: the end of the connection ends the body
        head = [
            f"HTTP/1.1 {response.status} {http.HTTPStatus(response.status).phrase}",
            f"content-type: {response.content_type}",
        ]
        if isinstance(body, bytes):
            head.append(f"content-length: {len(body)}")
        elif chunked:
            head.append("transfer-encoding: chunked")
        head.append(f"connection: {'keep-alive' if keep_alive else 'close'}")
        head += [f"{name}: {value}" for name, value in response.headers]
        transport.write("\r\n".join([*head, "", ""]).encode("latin-1"))
        if isinstance(body, bytes):
            if request.method != "HEAD":
                transport.write(body)
        elif request.method != "HEAD":
            await self._send_pieces(transport, body, chunked)
        await self._writable.wait()
        return keep_alive

    async def _send_pieces(
        self, transport: asyncio.Transport, body: AsyncGenerator[bytes, None], chunked: bool
    ) -> None:
        """Send a generated body, never faster than the client reads. A client that leaves closes the generator."""
        async with aclosing(body) as pieces:
            async for piece in pieces:
                await self._writable.wait()
                transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            transport.write(b"0\r\n\r\n")
