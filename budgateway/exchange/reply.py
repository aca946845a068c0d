"""Replies: responses of the gateway's own, which a stage sets on an exchange instead of having it sent upstream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Reply:
    """A status, header lines and a body. The relay writes framing, the request id, limits and `connection`.

    A reply is closed, settled and recorded like an upstream's response, but without an upstream. An exception from
    `pieces` breaks the response off, because its head has been sent.
    """

    status: int
    lines: bytes = b""  # header lines, each with its CRLF, without framing
    body: bytes = b""  # the whole body, unless there are `pieces`
    pieces: Iterator[bytes] | None = None  # the body in pieces, taken as fast as the client reads
