"""HTTP/1.1 as bytes: strict reading of what a gateway sent, and framing of what an upstream answers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_HEAD_BYTES = 256 * 1024

_REQUEST_LINE = re.compile(rb"([A-Z]+) (/[!-~]*|\*|[a-z]+://[!-~]+) HTTP/1\.1")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")


class NotHttp(Exception):
    """The request breaks RFC 9112; a gateway must never send it."""


@dataclass(slots=True)
class Received:
    """One request as it stood on the wire. `raw` is head and body with their framing."""

    connection: int
    raw: bytes
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    begun_ns: int = 0
    complete_ns: int = 0

    def header(self, name: str) -> str | None:
        """The only header of that (lower-case) name, None without one; AssertionError when there are several."""
        values = [value for key, value in self.headers if key.lower() == name]
        assert len(values) <= 1, f"{name} was sent {len(values)} times: {values}"
        return values[0] if values else None

    @property
    def names(self) -> set[str]:
        """All header names, in lower case."""
        return {name.lower() for name, _ in self.headers}


def parse_head(head: bytes) -> tuple[str, str, list[tuple[str, str]]]:
    """Method, target and headers of a request head that ends in an empty line; raises NotHttp."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    if request is None:
        raise NotHttp(f"request line {first[:200]!r}")
    headers = []
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise NotHttp(f"header line {line[:200]!r}")
        headers.append((header[1].decode("ascii"), header[2].decode("latin-1")))
    names = [name.lower() for name, _ in headers]
    for single in ("host", "content-length", "transfer-encoding", "content-type"):
        if names.count(single) > 1:
            raise NotHttp(f"{single} was sent {names.count(single)} times")
    if {"transfer_encoding", "content_length"} & set(names):
        raise NotHttp("a name that servers behind CGI read as framing")
    if "host" not in names:
        raise NotHttp("no host")
    if "content-length" in names and "transfer-encoding" in names:
        raise NotHttp("both content-length and transfer-encoding")
    return request[1].decode("ascii"), request[2].decode("ascii"), headers


class RequestScanner:
    """Finds whole requests in a stream of bytes, and refuses everything a strict server would."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """The number of buffered bytes of an unfinished request."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._buffer += data

    def head(self) -> tuple[str, str, list[tuple[str, str]]] | None:
        """The head at the front, once complete; it stays there."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise NotHttp("a head without an end")
            return None
        return parse_head(bytes(self._buffer[: end + 4]))

    def take(self, connection: int) -> Received | None:
        """Take the request at the front, once it is whole."""
        head = self.head()
        if head is None:
            return None
        method, target, headers = head
        start = self._buffer.find(b"\r\n\r\n") + 4
        fields = {name.lower(): value for name, value in headers}
        if "transfer-encoding" in fields:
            if fields["transfer-encoding"] != "chunked":
                raise NotHttp(f"transfer-encoding {fields['transfer-encoding']!r}")
            decoded = decode_chunked(bytes(self._buffer), start)
            if decoded is None:
                return None
            body, end = decoded
        else:
            length = fields.get("content-length", "0")
            if not re.fullmatch("[0-9]{1,12}", length):
                raise NotHttp(f"content-length {length!r}")
            end = start + int(length)
            if len(self._buffer) < end:
                return None
            body = bytes(self._buffer[start:end])
        raw = bytes(self._buffer[:end])
        del self._buffer[:end]
        return Received(connection, raw, method, target, headers, body)


def decode_chunked(data: bytes, at: int = 0) -> tuple[bytes, int] | None:
    """The chunked body that starts at `at`, and where it ends; None when it is not whole; raises NotHttp.

    Neither extensions nor trailers are understood: a gateway sends none.
    """
    body = bytearray()
    while True:
        size = _CHUNK.match(data, at)
        if size is None:
            if len(data) - at > 10 or b"\n" in data[at:]:
                raise NotHttp(f"chunk size {data[at : at + 12]!r}")
            return None
        length, at = int(size[1], 16), size.end()
        if len(data) < at + length + 2:
            return None
        if data[at + length : at + length + 2] != b"\r\n":
            raise NotHttp("a chunk does not end where its size says")
        body += data[at : at + length]
        at += length + 2
        if length == 0:
            return bytes(body), at


def head(
    status: int, headers: Iterable[tuple[str, str]] = (), *, reason: str = "Because", version: str = "1.1"
) -> bytes:
    """A response head."""
    lines = [f"HTTP/{version} {status} {reason}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk; of no bytes it is the last one, with the end of the trailers."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(pieces: Iterable[bytes]) -> bytes:
    """A whole chunked body."""
    return b"".join(chunk(piece) for piece in pieces if piece) + chunk(b"")


def sse(*events: bytes | str) -> list[bytes]:
    """Each payload as a `data:` event."""
    return [b"data: %b\n\n" % (event.encode() if isinstance(event, str) else event) for event in events]
