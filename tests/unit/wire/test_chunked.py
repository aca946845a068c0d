"""Chunked framing of our own: what is framed is found again."""

from __future__ import annotations

from typing import Any

from flavours import both_flavours
from hypothesis import given
from hypothesis import strategies as st

chunked = both_flavours("budgateway.wire.chunked_cy")


def test_one_chunk(chunked: Any) -> None:
    assert chunked.chunk(b"0123456789abcdef") == b"10\r\n0123456789abcdef\r\n"


def test_a_body_with_its_last_chunk(chunked: Any) -> None:
    assert chunked.unchunk(b"3\r\na\r\n\r\n2\r\nbc\r\n0\r\n\r\n") == b"a\r\nbc"
    assert chunked.unchunk(b"") == b""


@given(pieces=st.lists(st.binary(min_size=1)))
def test_pieces_come_back(chunked: Any, pieces: list[bytes]) -> None:
    assert chunked.unchunk(b"".join(chunked.chunk(piece) for piece in pieces)) == b"".join(pieces)
