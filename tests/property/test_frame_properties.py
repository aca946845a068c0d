"""The frame scanner passes what the slow oracle passes, however the bytes are cut, and ends where and why it ends."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from oracles import frames

from budgateway._native import FrameScanner

LIMIT = 300


@st.composite
def written(draw: st.DrawFn, masked: bool) -> bytes:
    """One frame: mostly right, now and then wrong in one way."""
    opcode = draw(st.sampled_from([0, 0, 1, 1, 2, 8, 9, 10, 3, 11]))
    bits = draw(st.sampled_from([0x80, 0x80, 0x80, 0x00, 0xC0, 0xA0, 0x90]))
    payload = draw(st.binary(max_size=140) | st.sampled_from([b"", b"\x03\xe8", b"\x03\xedx", b"\x0f\xa0bye", b"\x03"]))
    form = draw(st.sampled_from([0, 0, 0, 0, 2, 8]))
    length = len(payload)
    if form == 8:
        size = bytes((127,)) + struct.pack("!Q", length)
    elif form == 2 or length > 125:
        size = bytes((126,)) + struct.pack("!H", length)
    else:
        size = bytes((length,))
    if masked != draw(st.sampled_from([False] * 15 + [True])):
        mask = draw(st.binary(min_size=4, max_size=4))
        size = bytes((size[0] | 0x80,)) + size[1:] + mask
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes((bits | opcode,)) + size + payload


def wires(masked: bool) -> st.SearchStrategy[bytes]:
    whole = st.lists(written(masked), max_size=6).map(b"".join)
    return whole | st.tuples(whole, st.integers(0, 400)).map(lambda cut: cut[0][: cut[1]]) | st.binary(max_size=40)


def check(wire: bytes, pieces: list[bytes], *, masked: bool, compressed: bool) -> None:
    want = frames.follow(wire, masked=masked, compressed=compressed, limit=LIMIT)
    scanner = FrameScanner(masked, compressed, LIMIT)
    passed = b""
    for piece in pieces:
        out = scanner.feed(piece)
        passed += out or b""
        if out is not None and out == piece:
            assert out is piece
    assert passed == wire[: want.passed]
    assert (scanner.ended, scanner.frames) == (want.ended, want.frames)
    if scanner.error is not None:
        assert scanner.between_frames


@given(st.data(), st.booleans(), st.booleans(), st.integers(1, 60))
def test_the_scanner_is_the_oracle(data: st.DataObject, masked: bool, compressed: bool, step: int) -> None:
    wire = data.draw(wires(masked))
    for size in (step, max(len(wire), 1)):
        pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
        check(wire, pieces, masked=masked, compressed=compressed)


def test_a_64_bit_length_is_read_whole() -> None:
    scanner = FrameScanner(False, False, 1 << 40)
    head = b"\x82\x7f" + struct.pack("!Q", 70_000)
    assert scanner.feed(head[:9]) is None
    assert scanner.feed(head[9:] + b"x" * 1000) == head + b"x" * 1000
    assert not scanner.between_frames
    assert FrameScanner(False, False, 1 << 40).feed(b"\x82\x7f" + struct.pack("!Q", 1 << 41)) is None
