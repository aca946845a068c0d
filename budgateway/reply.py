"""Replies: answers of the gateway's own, which a stage puts into an exchange instead of letting it go to an upstream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Reply:
    """A status, a head and a body. Framing, the request id, limits and `connection` are the relay's to write.

    It is closed, settled and recorded like an upstream's answer, with no upstream. An exception of `pieces` before the
    client has been sent anything becomes a 500; later it breaks the answer off.
    """

    status: int
    lines: bytes = b""  # header lines, each ended by CRLF, without framing
    body: bytes = b""  # whole, unless there are pieces
    pieces: Iterator[bytes] | None = None  # the body piece by piece, asked for as fast as the client reads
