"""Bodies with a content coding, made by hand where the standard library has no encoder: stored, not compressed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable


def brotli(text: bytes) -> bytes:
    """One stored meta-block (RFC 7932 9.2) of 1 to 65,536 bytes in a window of 64 KiB, and an empty last one."""
    return ((len(text) - 1) << 4 | 1 << 20).to_bytes(3, "little") + text + b"\x03"


def zstd(text: bytes) -> bytes:
    """One frame (RFC 8878 3.1.1) with its size, of one raw block of 128 KiB at most."""
    block = 1 | len(text) << 3
    return b"\x28\xb5\x2f\xfd\xa0" + len(text).to_bytes(4, "little") + block.to_bytes(3, "little") + text


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli,
    "zstd": zstd,
}
