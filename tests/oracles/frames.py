"""WebSocket frames the slow way: all bytes of one direction at once, frame by frame (RFC 6455 5)."""

from __future__ import annotations

from dataclasses import dataclass

CLOSE_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


@dataclass(frozen=True)
class Followed:
    """The bytes that may pass, the close code (0: still open), and the number of frames that began."""

    passed: int
    ended: int
    frames: int


def follow(wire: bytes, *, masked: bool, compressed: bool, limit: int) -> Followed:
    """`passed` bytes of `wire` may go on; `ended` is a close code, or what to tell who broke the protocol."""
    at = frames = message = 0
    open_message = False
    while True:
        head = wire[at : at + 14]
        if not head:
            return Followed(at, 0, frames)
        first = head[0]
        opcode, is_final = first & 15, bool(first & 0x80)
        control = opcode >= 8
        bad = opcode not in (0, 1, 2, 8, 9, 10) or first & 0x30
        bad = bad or (first & 0x40 and not (compressed and opcode in (1, 2)))
        bad = (
            bad
            or (control and not is_final)
            or (opcode == 0 and not open_message)
            or (opcode in (1, 2) and open_message)
        )
        if bad:
            return Followed(at, 1002, frames)
        if len(head) < 2:
            return Followed(at, 0, frames)
        short = head[1] & 127
        if bool(head[1] & 0x80) != masked or (control and short > 125) or (opcode == 8 and short == 1):
            return Followed(at, 1002, frames)
        extra = {126: 2, 127: 8}.get(short, 0)
        if len(head) < 2 + extra:
            return Followed(at, 0, frames)
        length = int.from_bytes(head[2 : 2 + extra], "big") if extra else short
        if (extra == 2 and length < 126) or (extra == 8 and not 65_536 <= length < 1 << 63):
            return Followed(at, 1002, frames)
        total = length + (message if opcode == 0 else 0)
        if not control and total > limit:
            return Followed(at, 1009, frames)
        size = 2 + extra + (4 if masked else 0)
        if len(head) < size:
            return Followed(at, 0, frames)
        frames += 1
        if opcode == 8:
            payload = wire[at + size : at + size + length]
            if len(payload) < length:
                return Followed(at, 0, frames)
            if masked:
                mask = head[size - 4 : size]
                payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
            code = int.from_bytes(payload[:2], "big") if payload else 1005
            if payload and code not in CLOSE_CODES:
                return Followed(at, 1002, frames)
            return Followed(at + size + length, code, frames)
        if not control:
            message = total
            open_message = not is_final
        if len(wire) < at + size + length:
            return Followed(len(wire), 0, frames)
        at += size + length
