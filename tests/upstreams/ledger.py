"""A ledger of streams: what model servers that fail by the dice send, and its join with what clients saw.

Every event names its exchange, its attempt and its place in the stream, and carries a checksum of itself. So a client can tell
an event that was lost, doubled, moved, damaged or meant for somebody else from its bytes alone. What a server (`mortal.py`) does
to an attempt follows from the seed, the exchange and the attempt; how far it came stands in its book.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any
from zlib import crc32

from upstreams.wire import chunk, head

HEAD = head(200, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")], reason="OK")
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"the engine died","type":"server_error","param":null,"code":null}}\n\n'
PAUSES_S = [0, 0, 0, 0.005]
PADS = [b"x" * size for size in (0, 3, 17, 40, 160)]

_SIZE_LINE = re.compile(rb"([0-9a-f]+)\r\n")
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
    "torn": "",  # the gateway's own process died
}


def event(exchange: int, attempt: int, place: int, pad: bytes) -> bytes:
    """One event, as it stands in the stream."""
    said = b'{"id":"%d.%d.%d","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}],"crc":' % (
        exchange, attempt, place, pad,
    )  # fmt: skip
    return b"data: %b%d}\n\n" % (said, crc32(said))


@dataclass(slots=True)
class Attempt:
    """An upstream's treatment of one request, in whole events: it sent at most `sent`, and the kernel accepted at least `least`."""

    fault: str
    events: int
    least: int = 0
    sent: int = 0
    pause_s: float = 0.0  # between its writes
    is_hasty: bool = False  # nobody waited for the gateway to read what was sent before the fault
    is_over: bool = True  # it came to its end, fault and all
    was_killed: bool = False  # its process was, some time


@dataclass(slots=True)
class Entry:
    """Progress of an attempt in bytes of its response: `begun_bytes` were written, `left_bytes` were accepted by the kernel."""

    life: int  # of the process
    begun_bytes: int
    left_bytes: int
    is_over: bool


@dataclass(slots=True)
class Sight:
    """An exchange as its client saw it: the outcome (a key of `OUTCOMES`), and the events in it."""

    end: str
    attempt: int = -1
    events: int = 0
    body_bytes: int = 0
    code: str = ""  # of the error that the gateway told
    wait_s: float = 0.0  # until the head
    ended_s: float = 0.0  # on the clock of time.monotonic


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


def plan(seed: int, mean: int, exchange: int, number: int) -> tuple[Attempt, list[bytes]]:
    """Return an upstream's plan for an attempt of an exchange, and its writes; `mean` is the length of streams in events."""
    dice = Random(f"{seed}.{exchange}.{number}")
    (fault,) = dice.choices([*FAULTS], [*FAULTS.values()])
    length, is_hasty, pause_s = dice.randint(1, 2 * mean), dice.random() < 0.5, dice.choice(PAUSES_S)
    attempt = Attempt(fault, length, is_hasty=is_hasty, pause_s=pause_s)
    events = [event(exchange, number, place, dice.choice(PADS)) for place in range(attempt.events)]
    if fault == "clean":
        attempt.least = attempt.sent = attempt.events
        return attempt, writes(HEAD + framed(b"".join([*events, DONE]), dice) + chunk(b""), dice)
    ends, at = [], 0
    for one in events:
        ends.append(at := at + len(one))
    cut = dice.choice([dice.randint(0, at), dice.choice(ends)])
    if fault == "error event":
        cut = dice.choice([0, *ends])
    attempt.least = attempt.sent = bisect_right(ends, cut)
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


def remembered(seed: int, mean: int, exchange: int, number: int, entry: Entry, was_killed: bool) -> Attempt:
    """An attempt as the book knows it: of one that did not come to its end, how much of it there was."""
    attempt, pieces = plan(seed, mean, exchange, number)
    attempt.was_killed = was_killed
    attempt.is_over = entry.is_over
    if not entry.is_over:
        wire = b"".join(pieces)[len(HEAD) :]
        attempt.least = whole_events(wire[: max(0, entry.left_bytes - len(HEAD))])
        attempt.sent = whole_events(wire[: max(0, entry.begun_bytes - len(HEAD))])
    return attempt


def whole_events(wire: bytes) -> int:
    """Events in a chunked body that breaks off somewhere."""
    plain, at = b"", 0
    while (size := _SIZE_LINE.match(wire, at)) is not None:
        end = size.end() + int(size[1], 16)
        plain += wire[size.end() : end]
        at = end + 2
    return len(_EVENT.findall(plain))


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


def join(
    sights: Mapping[int, Sight],
    attempts: Mapping[int, list[Attempt]],
    lines: Iterable[Mapping[str, Any]],
    *,
    kills: bool = False,
    may_miss: Callable[[Sight], bool] = lambda _: False,
) -> list[str]:
    """Return the disagreements between clients, upstreams and access log. `may_miss`: a process of the gateway died, which
    cuts streams and loses lines that were not written yet."""
    wrong: list[str] = []
    logged = defaultdict(list)
    for line in lines:
        logged[int(line["request_id"])].append(line)
    for unknown in (set(logged) | set(attempts)) - set(sights):
        wrong.append(f"exchange {unknown}: nobody asked for it")
    for exchange, sight in sights.items():
        tried, told = attempts.get(exchange, []), logged[exchange]
        if len(told) != 1 and not (not told and may_miss(sight)):
            wrong.append(f"exchange {exchange}: {len(told)} lines in the access log")
            continue
        found = differences(sight, tried, kills)
        if sight.end == "torn":
            found += [] if may_miss(sight) else ["torn by nobody"]
        elif told:
            found += misreported(sight, tried, told[0], kills)
        wrong += [f"exchange {exchange}: {what}: {sight} {tried} {told}" for what in found]
    return wrong


def differences(sight: Sight, tried: list[Attempt], kills: bool) -> list[str]:
    """Return the disagreements between client and upstreams. When processes are killed, some attempts are not recorded."""
    if not tried:
        return [] if kills and sight.end in ("failed", "left", "torn") else ["no upstream was asked"]
    last = tried[-1]
    cut_down = last.was_killed and not last.is_over
    checks = {
        "tried again without need": all(one.fault != "clean" or not one.is_over for one in tried[:-1]),
        "another attempt's events": sight.attempt in (-1, len(tried) - 1),
        "more than was sent": sight.events <= last.sent,
    }
    if sight.end == "whole":
        checks["not whole"] = last.fault == "clean" and sight.events == last.events
    elif sight.end == "error":
        checks["error of its own"] = last.fault == "error event" and sight.events == last.sent
    elif sight.end == "cut":
        checks["cut for nothing"] = last.fault != "clean" or cut_down
        # A RST may throw away what the gateway had not read.
        checks["lost"] = sight.events >= last.least or (last.is_hasty and last.fault == "reset")
        if not last.was_killed:
            checks["reason"] = (last.fault == "stall") == (sight.code == "upstream_timeout")
    elif sight.end == "failed":
        checks["failed for nothing"] = (last.fault != "clean" or cut_down) and not sight.events
    return [what for what, is_so in checks.items() if not is_so]


def misreported(sight: Sight, tried: list[Attempt], line: Mapping[str, Any], kills: bool) -> list[str]:
    """Return the disagreements between client and access log."""
    ends = {OUTCOMES[sight.end]}
    if sight.end == "left":  # it may have been over just then
        ends |= {"complete", "truncated"}
    if sight.code == "no_upstream" and kills:
        ends.add("refused")
    checks = {
        "outcome": line["outcome"] in ends,
        "attempts": line["attempts"] >= len(tried) if kills else line["attempts"] == len(tried),
    }
    if sight.end != "left":
        checks["bytes"] = line["bytes_out"] == sight.body_bytes
        checks["error"] = line.get("error", "") == sight.code
    return [what for what, is_so in checks.items() if not is_so]


def tally(sights: Mapping[int, Sight], attempts: Mapping[int, list[Attempt]]) -> Counter[tuple[str, str]]:
    """Count the outcomes of each fault (of the last attempt)."""
    last = {
        exchange: "killed" if tried[-1].was_killed and not tried[-1].is_over else tried[-1].fault
        for exchange, tried in attempts.items()
    }
    return Counter((last.get(exchange, "never asked"), sight.end) for exchange, sight in sights.items())
