"""Chunked framing of what we write ourselves (RFC 9112 7.1)."""

from __future__ import annotations


def chunk(data: bytes) -> bytes:
    """Return one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def unchunk(framed: bytes) -> bytes:
    """Return the data of whole chunks. They are ours, so that nothing is checked; the last chunk is empty."""
    parts = []
    at = 0
    while at < len(framed):
        start = framed.index(b"\r\n", at) + 2
        end = start + int(framed[at : start - 2], 16)
        parts.append(framed[start:end])
        at = end + 2
    return b"".join(parts)
