"""Clients that keep a ledger: each asks for one exchange after the other of servers that fail by the dice, and notes what it saw."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from downstream import Answer, Downstream, request_bytes
from upstreams.ledger import DONE, ERROR, Sight, Tampered, read
from upstreams.mortal import Mortals

CHAT = "/v1/chat/completions"
JSON = ("Content-Type", "application/json")


def ask(host: str, exchange: int) -> bytes:
    """The request of an exchange: it is named in a header and in the body."""
    body = b'{"model":"demo","stream":true,"messages":[],"user":"%d"}' % exchange
    return request_bytes(host, "POST", CHAT, body, [JSON, ("X-Request-Id", str(exchange))])


def sight(exchange: int, answer: Answer, *, left: bool = False, may_tear: bool = False) -> Sight:
    """Read the outcome and events from a response; raises Tampered. `may_tear`: the gateway may be killed, so the response
    may end without an error event."""
    body = bytes(answer.body)
    if left:
        attempt, events, _ = read(exchange, body)
        return Sight("left", attempt, events, len(body))
    if answer.header("x-request-id") != str(exchange):
        raise Tampered(f"exchange {exchange} got the answer {answer.headers}")
    if answer.status != 200:
        return Sight("failed", body_bytes=len(body), code=json.loads(body)["error"]["code"])
    attempt, events, rest = read(exchange, body)
    if answer.is_complete:
        if rest not in (DONE, ERROR):
            raise Tampered(f"exchange {exchange} is whole and ends with {rest!r}")
        if rest == ERROR:
            return Sight("error", attempt, events, len(body), "upstream_error")
        return Sight("whole", attempt, events, len(body))
    if not (rest.startswith(b'data: {"error":') and rest.endswith(b"}\n\n") and rest.count(b"\n\n") == 1):
        if may_tear:
            return Sight("torn", attempt, events, len(body))
        raise Tampered(f"exchange {exchange} is cut and ends with {rest!r}")
    return Sight("cut", attempt, events, len(body), json.loads(rest[6:])["error"]["code"])


@asynccontextmanager
async def upstreams(folder: Path, seed: int, events: int, exchanges: int) -> AsyncIterator[Mortals]:
    """Three model servers in processes of their own; what they did is known when they have ended."""
    servers = Mortals(folder, seed, events, exchanges, 3)
    await servers.start()
    try:
        yield servers
    finally:
        await servers.stop()


@asynccontextmanager
async def killing(servers: Mortals, dice: Random, pause_s: float) -> AsyncIterator[None]:
    """One of them dies every so often."""
    task = asyncio.create_task(servers.kill_for_ever(dice, pause_s))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def begun(connection: Downstream, size_bytes: int) -> bool:
    """Wait for so much of an answer; False when it has come to its end before."""
    while not connection.has_answer:
        if len(connection.partial.body) >= size_bytes:
            return True
        await connection.changed()
    return False


async def client(
    url: str, numbers: Iterator[int], dice: Random, sights: dict[int, Sight], *, may_tear: bool = False
) -> None:
    """Ask for one exchange after the other on a connection that is kept for as long as it lives; one in fifteen is left."""
    exchange = next(numbers, None)
    while exchange is not None:
        async with Downstream(url) as connection:
            for _ in range(20):
                if exchange is None or connection.is_closed:
                    break
                asked_ns = time.monotonic_ns()
                await connection.send(ask(connection.host, exchange))
                left = dice.random() < 1 / 15 and await begun(connection, dice.randint(1, 9000))
                try:
                    answer = connection.partial if left else await connection.answer()
                    seen = sight(exchange, answer, left=left, may_tear=may_tear)
                    seen.wait_s = (answer.head_ns - asked_ns) / 1e9
                    is_last = left or answer.header("connection") == "close"
                except ConnectionError:
                    if not may_tear:
                        raise
                    seen = Sight("torn")
                    is_last = True
                seen.ended_s = time.monotonic()
                sights[exchange] = seen
                exchange = next(numbers, None)
                if is_last:
                    break
                connection.bytes_read.clear()
