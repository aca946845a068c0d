"""Model servers in processes of their own that fail by the dice (`ledger.plan`) and are killed with SIGKILL, time and again.

    python -m upstreams.mortal --port 0 --book FILE --seed 1 --events 100 --life 3

What each did is in a book that outlives it: a mapped file with a line for each attempt of each exchange, written before and after
every write to a socket. So of a server that was killed in the middle it is known what it had begun to send, and what had left it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import mmap
import os
import signal
import socket
import struct
import sys
from asyncio.subprocess import Process
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import cast

from upstreams.ledger import Attempt, Entry, plan, remembered
from upstreams.wire import NotHttp, Received, RequestScanner

RESET = struct.pack("ii", 1, 0)  # SO_LINGER that turns the next close into a RST
MAX_WAIT_S = 0.03  # turns of the event loop in which the gateway reads what was sent
MOST = 8  # attempts of an exchange: more than a gateway makes

# Of one attempt: the life of its process (0: none), bytes begun and left, whether it came to its end.
_LINE = struct.Struct("<HIIB5x")


class Book:
    """Progress of each attempt. Shared by processes: an exchange has one attempt at a time, so each line has one writer."""

    def __init__(self, path: Path, exchanges: int = 0) -> None:
        """Open it; with `exchanges`, make it for so many."""
        if exchanges:
            path.touch()
            os.truncate(path, exchanges * MOST * _LINE.size)
        with path.open("r+b") as file:
            self._lines = mmap.mmap(file.fileno(), 0)

    def count(self, exchange: int) -> int:
        """Attempts of it so far."""
        return next((number for number in range(MOST) if self.read(exchange, number) is None), MOST)

    def write(self, exchange: int, number: int, entry: Entry) -> None:
        """Note how far an attempt came."""
        at = (exchange * MOST + number) * _LINE.size
        _LINE.pack_into(self._lines, at, entry.life, entry.begun_bytes, entry.left_bytes, entry.is_over)

    def read(self, exchange: int, number: int) -> Entry | None:
        """Return the progress of an attempt; None when there was no such attempt."""
        life, begun, left, over = _LINE.unpack_from(self._lines, (exchange * MOST + number) * _LINE.size)
        return Entry(life, begun, left, bool(over)) if life else None

    def close(self) -> None:
        """Let go of it."""
        self._lines.close()


class Mortals:
    """So many servers, one of which dies now and then, and is started again."""

    def __init__(self, folder: Path, seed: int, events: int, exchanges: int, servers: int) -> None:
        """`events` is the mean length of a stream."""
        self.urls: list[str] = []
        self.kills = 0
        self.attempts: dict[int, list[Attempt]] = {}  # by exchange, once they have ended
        self._folder = folder
        self._seed = seed
        self._events = events
        self._exchanges = exchanges
        self._servers = servers
        self._book = Book(folder / "book", exchanges)
        self._running: list[tuple[Process, int, int]] = []  # and its port and life
        self._lives = 0
        self._killed: set[int] = set()

    async def start(self) -> None:
        """Have all of them listen."""
        self._running = list(await asyncio.gather(*(self._begin(0) for _ in range(self._servers))))
        self.urls = [f"http://127.0.0.1:{port}" for _, port, _ in self._running]

    async def _begin(self, port: int) -> tuple[Process, int, int]:
        self._lives += 1
        life = self._lives
        words = {"port": port, "book": self._folder / "book", "seed": self._seed, "events": self._events, "life": life}
        with (self._folder / f"life-{life}").open("wb") as said:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "upstreams.mortal", *(f"--{name}={value}" for name, value in words.items()),
                stdout=asyncio.subprocess.PIPE, stderr=said, cwd=Path(__file__).parents[1],
            )  # fmt: skip
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert line, (self._folder / f"life-{life}").read_text()
        return process, int(line), life

    async def kill(self, dice: Random, away_s: float = 0.2) -> None:
        """SIGKILL one of them; another takes its place after up to `away_s`."""
        at = dice.randrange(len(self._running))
        process, port, life = self._running[at]
        process.kill()
        self._killed.add(life)
        self.kills += 1
        await process.wait()
        await asyncio.sleep(dice.random() * away_s)
        self._running[at] = await self._begin(port)

    async def kill_for_ever(self, dice: Random, pause_s: float) -> None:
        """Kill one every so often, until cancelled."""
        while True:
            await asyncio.sleep(pause_s)
            death = asyncio.ensure_future(self.kill(dice))
            try:
                await asyncio.shield(death)
            except asyncio.CancelledError:
                await death
                raise

    async def stop(self) -> None:
        """End them all, and see what they did. AssertionError with what was said to them that is no request of ours."""
        for process, _, _ in self._running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await process.wait()
        said = {life.name: text for life in self._folder.glob("life-*") if (text := life.read_text())}
        assert not said, said
        attempts = defaultdict(list)
        for exchange in range(self._exchanges):
            for number in range(self._book.count(exchange)):
                entry = self._book.read(exchange, number)
                assert entry is not None
                attempts[exchange].append(
                    remembered(self._seed, self._events, exchange, number, entry, entry.life in self._killed)
                )
        self._book.close()
        self.attempts = attempts


# ---------------------------------------------------------------- in the process


class Server(asyncio.Protocol):
    """One accepted connection."""

    def __init__(self, book: Book, seed: int, events: int, life: int) -> None:
        self._book = book
        self._seed = seed
        self._events = events
        self._life = life
        self._scanner = RequestScanner()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._attempt: Attempt | None = None
        self._left: list[bytes] = []
        self._exchange = self._number = 0
        self._entry = Entry(life, 0, 0, False)
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._scanner.feed(data)
        try:
            received = self._scanner.take(0)
        except NotHttp as error:
            print(error, file=sys.stderr, flush=True)
            self._transport.abort()
            return
        if received is not None:
            self._answer(received)

    def _answer(self, received: Received) -> None:
        named = received.header("x-request-id")
        assert named is not None and self._transport is not None
        if b'"user":"%b"' % named.encode() not in received.body:
            print(f"crossed: {received.raw!r}", file=sys.stderr, flush=True)
        if self._attempt is not None:
            if (
                self._left
                or self._transport.get_write_buffer_size()
                or self._attempt.fault not in ("clean", "error event")
            ):
                fault, left = self._attempt.fault, len(self._left)
                print(f"behind one with {fault=}, {left=}: {received.raw!r}", file=sys.stderr, flush=True)
            else:
                # All of it has left since that was last looked at.
                assert self._look is not None
                self._look.cancel()
                self._entry.left_bytes = self._entry.begun_bytes
                self._note(is_over=True)
        self._exchange = int(named)
        self._number = self._book.count(self._exchange)
        self._attempt, self._left = plan(self._seed, self._events, self._exchange, self._number)
        self._left.reverse()
        self._entry = Entry(self._life, 0, 0, False)
        self._note()
        self._go()

    def _note(self, is_over: bool = False) -> None:
        self._entry.is_over = is_over
        self._book.write(self._exchange, self._number, self._entry)

    def _go(self) -> None:
        transport, attempt, entry = self._transport, self._attempt, self._entry
        assert transport is not None
        if attempt is None or transport.is_closing():
            return
        if self._left:
            piece = self._left.pop()
            entry.begun_bytes += len(piece)
            self._note()
            transport.write(piece)
        entry.left_bytes = entry.begun_bytes - transport.get_write_buffer_size()
        self._note()
        if self._left:
            if attempt.fault in ("bad chunk", "reset") and not attempt.is_hasty and len(self._left) < 2:
                self._loop.call_later(MAX_WAIT_S, self._go)
            else:
                self._loop.call_later(attempt.pause_s, self._go)
        elif entry.left_bytes < entry.begun_bytes:
            # Over is what the kernel has.
            self._look = self._loop.call_later(0.001, self._go)
        elif attempt.fault == "reset" and not attempt.is_hasty:
            self._loop.call_later(MAX_WAIT_S, self._end, attempt)
        else:
            self._end(attempt)

    def _end(self, attempt: Attempt) -> None:
        transport = self._transport
        assert transport is not None
        if transport.is_closing():
            return
        if attempt.fault not in ("stall", "half-closed"):
            self._attempt = None
        self._note(is_over=True)
        if attempt.fault == "half-closed":
            with contextlib.suppress(OSError):  # the gateway was quicker
                transport.write_eof()
        elif attempt.fault == "reset":
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            transport.abort()
        elif attempt.fault not in ("clean", "error event", "stall"):
            transport.close()


async def serve(port: int, book: Path, seed: int, events: int, life: int) -> None:
    """Until killed."""
    shared = Book(book)
    server = await asyncio.get_running_loop().create_server(
        lambda: Server(shared, seed, events, life), "127.0.0.1", port, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("port", "seed", "events", "life"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--book", type=Path, required=True)
    asyncio.run(serve(**vars(parser.parse_args())))
