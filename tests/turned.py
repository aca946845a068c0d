"""Native transports turned by hand: no loop, so that every step is one the test takes."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from budgateway.native import Sockets, Transport

LONG_MS = 10_000
BRIEF_MS = 50  # for what must not happen
RESET = struct.pack("ii", 1, 0)


class Steps:
    """Callbacks that a loop would run later, run by the test instead; and the errors that the sets report."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.complaints: list[tuple[str, Exception]] = []
        self.sockets = Sockets(
            self.soon.append,
            lambda seconds, step: self.later.append((seconds, step)),
            lambda what, error, whom: self.complaints.append((what, error)),
        )

    def is_ready(self, milliseconds: int = BRIEF_MS) -> bool:
        """True when there is work: the kernel reports an event, or the last turn was not finished."""
        if self.sockets.turn in self.soon:
            return True
        poll = select.poll()
        poll.register(self.sockets.fileno(), select.POLLIN)
        return bool(poll.poll(milliseconds))

    def turn(self) -> None:
        """One turn of the set, once there is something to do, and one step of the loop behind it."""
        assert self.is_ready(LONG_MS)
        self.soon[:] = [step for step in self.soon if step != self.sockets.turn]
        self.sockets.turn()
        self.step()

    def settle(self) -> None:
        """Turns until nothing is left to do."""
        self.step()
        for _ in range(100):
            if not self.is_ready():
                return
            self.turn()
        pytest.fail("the set is never done")

    def step(self) -> None:
        """Run the callbacks that a loop would run now, except turns, which the test runs."""
        steps = [step for step in self.soon if step != self.sockets.turn]
        self.soon[:] = [step for step in self.soon if step == self.sockets.turn]
        for step in steps:
            step()


class Peer:
    """A protocol that writes down what it is told; `on_data` may do more."""

    def __init__(self, on_data: Callable[[bytes], None] | None = None, stays: bool = False) -> None:
        self.on_data = on_data
        self.stays = stays
        self.transport: Any = None
        self.data: list[bytes] = []
        self.told: list[str] = []
        self.error: Exception | None = None

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data.append(data)
        if self.on_data is not None:
            self.on_data(data)

    def eof_received(self) -> bool:
        self.told.append("eof")
        return self.stays

    def connection_lost(self, error: Exception | None) -> None:
        self.told.append("lost")
        self.error = error

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def left(self) -> None:
        self.told.append("left")


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of one TCP connection: ours, which does not block, and the other."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as theirs:
        ours, _ = server.accept()
        with ours:
            ours.setblocking(False)
            theirs.settimeout(LONG_MS / 1000)
            yield ours, theirs


def received(sock: socket.socket) -> bytes | None:
    """Return the bytes that can be read now; None if there are none."""
    ready, _, _ = select.select([sock], [], [], 0)
    return sock.recv(1 << 20) if ready else None


def moved(steps: Steps, sock: socket.socket) -> bytes:
    """Wait until the set or the socket is ready, run a turn if it is the set, and return the bytes that can be read."""
    select.select([steps.sockets.fileno(), sock], [], [], LONG_MS / 1000)
    if steps.is_ready(0):
        steps.turn()
    return received(sock) or b""


def all_of(sock: socket.socket) -> bytes:
    """Everything up to the end."""
    whole = b""
    while data := sock.recv(1 << 20):
        whole += data
    return whole


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()
