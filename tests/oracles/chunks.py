"""Chunked framing decoded the slow way: all of the body at once, with regular expressions."""

from __future__ import annotations

import re

SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:;[^\x00-\x08\x0a-\x1f\x7f]*)?)\r\n")
TRAILER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[^\x00-\x08\x0a-\x1f\x7f]*\r\n")
FORBIDDEN = {b"host", b"content-length", b"transfer-encoding", b"connection", b"authorization", b"cookie"}


def end(body: bytes) -> int:
    """Return the end of the message in `body`; -1 when it is malformed or not yet complete."""
    at = extensions = 0
    while True:
        line = SIZE_LINE.match(body, at)
        if not line or len(line[2]) > 256:
            return -1
        extensions += len(line[2])
        if extensions > 16 * 1024:
            return -1
        at = line.end()
        size = int(line[1], 16)
        if size == 0:
            break
        at += size
        if body[at : at + 2] != b"\r\n":
            return -1
        at += 2
    trailers = at
    while body[at : at + 2] != b"\r\n":
        trailer = TRAILER.match(body, at)
        if not trailer or trailer[1].lower() in FORBIDDEN:
            return -1
        at = trailer.end()
    return at + 2 if at - trailers <= 8192 else -1
