"""A ledger of streams: model servers that fail by the dice, and the join of what they sent with what clients saw.

Every event names its exchange, its attempt and its place in the stream, and carries a checksum of itself. So a client can tell
an event that was lost, doubled, moved, damaged or meant for somebody else from its bytes alone. What a server does to an attempt
follows from the seed, the exchange and the attempt; what it did stands in `Rig.attempts`.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, cast
from zlib import crc32

from upstreams.wire import NotHttp, Received, RequestScanner, chunk, head

RESET = struct.pack("ii", 1, 0)  # SO_LINGER that turns the next close into a RST
HEAD = head(200, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")], reason="OK")
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"the engine died","type":"server_error","param":null,"code":null}}\n\n'
PATIENCE_S = 0.03  # turns of the event loop in which the gateway reads what was sent
PADS = [b"x" * size for size in (0, 3, 17, 40, 160)]

_EVENT = re.compile(rb'data: (\{"id":"(\d+)\.(\d+)\.(\d+)","choices":\[[^\]]*\],"crc":)(\d+)\}\n\n')

# How often each: a stall costs the deadline between two reads, the others nothing.
FAULTS = {
    "clean": 24,
    "reset": 2,
    "closed": 2,
    "half-closed": 2,
    "cut": 2,
    "bad chunk": 2,
    "stall": 1,
    "error event": 2,
}
# What the access log calls what a client saw.
OUTCOMES = {
    "whole": "complete",
    "cut": "truncated",
    "error": "truncated",
    "failed": "upstream_failed",
    "left": "client_gone",
}


def event(exchange: int, attempt: int, place: int, pad: bytes) -> bytes:
    """One event, as it stands in the stream."""
    said = b'{"id":"%d.%d.%d","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}],"crc":' % (
        exchange, attempt, place, pad,
    )  # fmt: skip
    return b"data: %b%d}\n\n" % (said, crc32(said))


@dataclass(slots=True)
class Attempt:
    """What an upstream did to one request. `sent` counts whole events."""

    fault: str
    events: int
    sent: int = 0
    is_hasty: bool = False  # nobody waited for the gateway to read what was sent before the fault


@dataclass(slots=True)
class Sight:
    """What a client saw of its exchange: how it ended (a key of `OUTCOMES`), and the events in it."""

    end: str
    attempt: int = -1
    events: int = 0
    body_bytes: int = 0
    code: str = ""  # of the error that the gateway told


class Tampered(AssertionError):
    """A client saw what nobody sent it."""


def read(exchange: int, body: bytes) -> tuple[int, int, bytes]:
    """The attempt that a stream is of, its count of events and what stands behind them; raises Tampered."""
    at, place, attempt = 0, 0, -1
    for found in _EVENT.finditer(body):
        if found.start() != at:
            break
        said, whose, which, seq, crc = found.groups()
        if crc32(said) != int(crc):
            raise Tampered(f"exchange {exchange}: corrupted: {found[0]!r}")
        if int(whose) != exchange or (int(which) != attempt and place):
            raise Tampered(f"exchange {exchange}, attempt {attempt}: crossed: {found[0]!r}")
        if int(seq) != place:
            raise Tampered(f"exchange {exchange}: event {int(seq)} in the place of {place}")
        attempt, at, place = int(which), found.end(), place + 1
    return attempt, place, body[at:]


class Rig:
    """Model servers whose answers follow from a seed, and the ledger of their attempts by exchange."""

    def __init__(self, seed: int, events: int) -> None:
        """`events` is the mean length of a stream."""
        self.seed = seed
        self.events = events
        self.attempts: defaultdict[int, list[Attempt]] = defaultdict(list)
        self.violations: list[str] = []
        self.urls: list[str] = []
        self.open: set[Server] = set()
        self._servers: list[asyncio.Server] = []

    async def start(self, servers: int) -> None:
        """Listen on so many ports."""
        for _ in range(servers):
            server = await asyncio.get_running_loop().create_server(lambda: Server(self), "127.0.0.1", 0, backlog=4096)
            self._servers.append(server)
            self.urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    async def close(self) -> None:
        """Stop listening, and drop who is left."""
        for server in self._servers:
            server.close()
        for one in list(self.open):
            one.drop()
        while self.open:
            await asyncio.sleep(0.001)

    def plan(self, exchange: int) -> tuple[Attempt, list[bytes]]:
        """The next attempt of an exchange: what it will do, and its writes."""
        number = len(self.attempts[exchange])
        dice = Random(f"{self.seed}.{exchange}.{number}")
        (fault,) = dice.choices([*FAULTS], [*FAULTS.values()])
        attempt = Attempt(fault, dice.randint(1, 2 * self.events), is_hasty=dice.random() < 0.5)
        self.attempts[exchange].append(attempt)
        events = [event(exchange, number, place, dice.choice(PADS)) for place in range(attempt.events)]
        if fault == "clean":
            events.append(DONE)
            attempt.sent = attempt.events
            return attempt, writes(HEAD + framed(b"".join(events), dice) + chunk(b""), dice)
        ends, at = [], 0
        for one in events:
            ends.append(at := at + len(one))
        cut = dice.choice([dice.randint(0, at), dice.choice(ends)])
        if fault == "error event":
            cut = dice.choice([0, *ends])
        attempt.sent = bisect_right(ends, cut)
        plain = b"".join(events)
        if fault == "error event":
            return attempt, writes(HEAD + framed(plain[:cut] + ERROR, dice) + chunk(b""), dice)
        wire = HEAD
        if fault == "bad chunk":
            bad = dice.choice([b"zz\r\n", b"\n", b"-1\r\n", b"5 \r\n"]) + b"data: x\n\n\r\n"
            wire += framed(plain[:cut], dice)
            return attempt, writes(wire + bad, dice) if attempt.is_hasty else [*writes(wire, dice), bad]
        if fault == "cut" or dice.random() < 0.5:  # a chunk says that it is longer than it is
            begun = dice.randint(0, cut)
            wire += framed(plain[:begun], dice) + b"%x\r\n" % (len(plain) + 100 - begun) + plain[begun:cut]
        else:
            wire += framed(plain[:cut], dice)
        return attempt, writes(wire, dice)


def framed(plain: bytes, dice: Random) -> bytes:
    """Chunks whose borders are the events', or anywhere."""
    if dice.random() < 0.5:
        return b"".join(chunk(one + b"\n\n") for one in plain.split(b"\n\n")[:-1]) + (
            chunk(rest) if (rest := plain.rpartition(b"\n\n")[2]) else b""
        )
    out, at, most = [], 0, dice.choice([40, 300, 4000])
    while at < len(plain):
        size = dice.randint(1, most)
        out.append(chunk(plain[at : at + size]))
        at += size
    return b"".join(out)


def writes(wire: bytes, dice: Random) -> list[bytes]:
    """A wire cut anywhere."""
    out, at, most = [], 0, dice.choice([200, 2000, 2000, 20_000])
    while at < len(wire):
        size = dice.randint(most // 4, most)
        out.append(wire[at : at + size])
        at += size
    return out


class Server(asyncio.Protocol):
    """One accepted connection of a rig."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._scanner = RequestScanner()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._attempt: Attempt | None = None
        self._left: list[bytes] = []

    def drop(self) -> None:
        """Leave at once."""
        assert self._transport is not None
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance
        self._rig.open.add(self)

    def data_received(self, data: bytes) -> None:
        self._scanner.feed(data)
        try:
            received = self._scanner.take(0)
        except NotHttp as error:
            self._rig.violations.append(str(error))
            self.drop()
            return
        if received is not None:
            self._answer(received)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._rig.open.discard(self)

    def _answer(self, received: Received) -> None:
        exchange = received.header("x-request-id")
        assert exchange is not None
        if self._attempt is not None or b'"user":"%b"' % exchange.encode() not in received.body:
            self._rig.violations.append(f"crossed, or sent behind another: {received.raw!r}")
        self._attempt, self._left = self._rig.plan(int(exchange))
        self._left.reverse()
        self._go()

    def _go(self) -> None:
        assert self._transport is not None
        if self._attempt is None or self._transport.is_closing():
            return
        attempt = self._attempt
        if self._left:
            self._transport.write(self._left.pop())
            if attempt.fault in ("bad chunk", "reset") and not attempt.is_hasty and len(self._left) < 2:
                self._loop.call_later(PATIENCE_S, self._go)
            else:
                self._loop.call_soon(self._go)
            return
        if attempt.fault == "stall":
            return  # until the gateway leaves
        if attempt.fault == "half-closed":
            self._transport.write_eof()
            return
        self._attempt = None
        if attempt.fault == "reset":
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._transport.abort()
        elif attempt.fault not in ("clean", "error event"):
            self._transport.close()


def join(
    sights: Mapping[int, Sight], attempts: Mapping[int, list[Attempt]], lines: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Where the clients, the upstreams and the access log do not agree; empty when they do."""
    wrong: list[str] = []
    logged = defaultdict(list)
    for line in lines:
        logged[int(line["request_id"])].append(line)
    for stray in (set(logged) | set(attempts)) - set(sights):
        wrong.append(f"exchange {stray}: nobody asked for it")
    for exchange, sight in sights.items():
        tried, told = attempts.get(exchange, []), logged[exchange]
        if len(told) != 1:
            wrong.append(f"exchange {exchange}: {len(told)} lines in the access log")
            continue
        wrong += [
            f"exchange {exchange}: {what}: {sight} {tried} {told[0]}" for what in differences(sight, tried, told[0])
        ]
    return wrong


def differences(sight: Sight, tried: list[Attempt], line: Mapping[str, Any]) -> list[str]:
    """What does not agree about one exchange."""
    if not tried:
        return ["no upstream was asked"]
    last = tried[-1]
    ends = {OUTCOMES[sight.end]}
    if sight.end == "left":  # it may have been over just then
        ends |= {"complete", "truncated"}
    checks = {
        "outcome": line["outcome"] in ends,
        "attempts": line["attempts"] == len(tried),
        "tried again without need": all(one.fault != "clean" for one in tried[:-1]),
        "another attempt's events": sight.attempt in (-1, len(tried) - 1),
        "more than was sent": sight.events <= last.sent,
    }
    if sight.end != "left":
        checks["bytes"] = line["bytes_out"] == sight.body_bytes
        checks["error"] = line.get("error", "") == sight.code
    if sight.end == "whole":
        checks["not whole"] = last.fault == "clean" and sight.events == last.sent
    elif sight.end == "error":
        checks["error of its own"] = last.fault == "error event" and sight.events == last.sent
    elif sight.end == "cut":
        checks["cut for nothing"] = last.fault != "clean"
        # A RST may throw away what the gateway had not read.
        checks["lost"] = sight.events == last.sent or (last.is_hasty and last.fault == "reset")
        checks["reason"] = (last.fault == "stall") == (sight.code == "upstream_timeout")
    elif sight.end == "failed":
        checks["failed for nothing"] = last.fault != "clean" and not sight.events
    return [what for what, is_so in checks.items() if not is_so]


def tally(sights: Mapping[int, Sight], attempts: Mapping[int, list[Attempt]]) -> Counter[tuple[str, str]]:
    """How often each fault (of the last attempt) ended in each way."""
    last = {exchange: tried[-1].fault for exchange, tried in attempts.items()}
    return Counter((last.get(exchange, "never asked"), sight.end) for exchange, sight in sights.items())
