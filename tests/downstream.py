"""A raw HTTP/1.1 client: sends exactly the given bytes, and tells exactly what came back and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlsplit

import httptools


@dataclass(slots=True)
class Answer:
    """One response. `is_complete` is False when the connection ended before the body did."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    is_complete: bool = False
    head_ns: int = 0
    end_ns: int = 0

    def header(self, name: str) -> str | None:
        """The only header of that (lower-case) name, None without one; AssertionError when there are several."""
        values = [value for key, value in self.headers if key.lower() == name]
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Downstream(asyncio.Protocol):
    """One connection: `async with Downstream(url) as client: answer = await client.ask("GET", "/health")`.

    `bytes_read` holds what arrived, with its framing; `is_closed` says whether the server has closed (`was_reset`: with RST).
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.host = parts.netloc
        self.bytes_read = bytearray()
        self.was_reset = False
        self.informational: list[Answer] = []
        self._transport: asyncio.Transport | None = None
        self._answers: asyncio.Queue[Answer | None] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()
        self._lost = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._answer = Answer()
        self._whole: Answer | None = None  # the latest that is complete, until it is taken
        self._parser = httptools.HttpResponseParser(self)

    async def __aenter__(self) -> Self:
        await asyncio.get_running_loop().create_connection(lambda: self, *self._address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        await self._lost.wait()

    @property
    def address(self) -> tuple[str, int]:
        """The client's address as the server sees it."""
        assert self._transport is not None
        address: tuple[str, int] = self._transport.get_extra_info("sockname")
        return address

    @property
    def is_closed(self) -> bool:
        """True when the server has closed its side."""
        return self._closed.is_set()

    @property
    def partial(self) -> Answer:
        """The answer that is arriving now."""
        return self._answer

    async def send(self, data: bytes) -> None:
        """Write these bytes."""
        assert self._transport is not None
        self._transport.write(data)
        await self._writable.wait()

    async def ask(
        self, method: str, target: str, body: bytes | None = None, headers: Iterable[tuple[str, str]] = ()
    ) -> Answer:
        """Send a request and wait for its answer."""
        await self.send(request_bytes(self.host, method, target, body, headers))
        return await self.answer()

    async def answer(self) -> Answer:
        """The next answer, whole or (`is_complete` False) as far as it came; ConnectionError when there is none."""
        answer = await self._answers.get()
        self._whole = None
        if answer is None:
            raise (
                ConnectionResetError("reset") if self.was_reset else ConnectionAbortedError("closed without an answer")
            )
        return answer

    @property
    def has_answer(self) -> bool:
        """True when a response can be taken, or none can arrive any more."""
        return not self._answers.empty()

    async def changed(self) -> None:
        """Wait for more bytes, or the end."""
        self._changed.clear()
        await self._changed.wait()

    async def until_body(self, size_bytes: int = 1) -> Answer:
        """Wait for so much of the body that is arriving, or for all of it; what is there is returned."""
        while self._whole is None and len(self._answer.body) < size_bytes and not self.is_closed:
            self._changed.clear()
            await self._changed.wait()
        return self._whole or self._answer

    async def closed(self) -> None:
        """Wait until the server closes."""
        await self._closed.wait()

    def read_no_more(self) -> None:
        """Be a slow reader: leave everything in the kernel."""
        assert self._transport is not None
        self._transport.pause_reading()

    def receive_at_most(self, size_bytes: int) -> None:
        """Have the kernel hold little of what was not read."""
        assert self._transport is not None
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)

    def read_on(self) -> None:
        """Be a reader again."""
        assert self._transport is not None
        self._transport.resume_reading()

    def finish(self) -> None:
        """Half-close: nothing more will be sent."""
        assert self._transport is not None
        with contextlib.suppress(OSError):  # the server was quicker
            self._transport.write_eof()

    def leave(self) -> None:
        """Close at once, with FIN, or RST where something was not read."""
        assert self._transport is not None
        self._transport.abort()

    def reset(self) -> None:
        """Leave with RST, which overtakes what was written."""
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance

    def data_received(self, data: bytes) -> None:
        self.bytes_read += data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise AssertionError(f"the answer is not HTTP ({error}): {data[:200]!r}") from error
        self._changed.set()

    def eof_received(self) -> bool:
        self._end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.was_reset = isinstance(exc, ConnectionResetError)
        self._end()
        self._writable.set()
        self._lost.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        self._answer.head_ns = time.monotonic_ns()

    def on_body(self, data: bytes) -> None:
        self._answer.body += data

    def on_message_complete(self) -> None:
        answer = self._answer
        answer.is_complete, answer.end_ns = True, time.monotonic_ns()
        if 100 <= answer.status < 200:
            self.informational.append(answer)
        else:
            self._answers.put_nowait(answer)
            self._whole = answer
        self._answer = Answer()

    def _end(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        answer = self._answer
        if answer.status:
            # Without a length or chunks the end is the body's end (RFC 9112 6.3, rule 8).
            framed = {"content-length", "transfer-encoding"} & {name.lower() for name, _ in answer.headers}
            answer.is_complete, answer.end_ns = not framed, time.monotonic_ns()
            self._answers.put_nowait(answer)
        self._answers.put_nowait(None)
        self._changed.set()


def request_bytes(
    host: str, method: str, target: str, body: bytes | None = None, headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    """A request as it stands on the wire: Host, the given headers, Content-Length when there is a body."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers)]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")
