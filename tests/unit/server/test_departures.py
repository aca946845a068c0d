"""Clients that leave while nobody reads them."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

import pytest

from budgateway.server.departures import Departures

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll here")


class Loop:
    """Of an event loop, what a watch needs."""

    def __init__(self) -> None:
        self.fd = -1
        self.look: Callable[[], None] = lambda: None

    def add_reader(self, fd: int, look: Callable[[], None]) -> None:
        self.fd, self.look = fd, look

    def remove_reader(self, fd: int) -> None:
        assert fd == self.fd
        self.fd = -1

    def turn(self) -> bool:
        """Run one turn; true when there was something to read."""
        ready = bool(select.select([self.fd], [], [], 0)[0])
        if ready:
            self.look()
        return ready


class Client:
    def __init__(self) -> None:
        self.times = 0

    def left(self) -> None:
        self.times += 1


def test_an_end_is_told_once_and_data_is_not() -> None:
    loop, who, (ours, theirs) = Loop(), Client(), socket.socketpair()
    departures = Departures(loop.add_reader)
    with ours, theirs:
        departures.add(who, ours)
        theirs.send(b"unread")
        assert not loop.turn()
        theirs.shutdown(socket.SHUT_WR)
        assert loop.turn()
        assert not loop.turn()
        assert (who.times, departures.count) == (1, 0)
        # Told before it was asked again, it is told again.
        departures.add(who, ours)
        assert loop.turn()
        assert who.times == 2
    departures.close(loop.remove_reader)
    departures.close(loop.remove_reader)
    assert loop.fd == -1


def test_who_is_read_again_is_not_watched() -> None:
    loop, who, (ours, theirs) = Loop(), Client(), socket.socketpair()
    departures = Departures(loop.add_reader)
    with ours, theirs:
        departures.add(who, ours)
        departures.discard(who)
        theirs.close()
        assert not loop.turn()
    departures.discard(who)
    departures.close(loop.remove_reader)
    assert not who.times


def test_a_descriptor_may_change_hands() -> None:
    loop, first, second = Loop(), Client(), Client()
    departures = Departures(loop.add_reader)
    one, their_one = socket.socketpair()
    fd = one.fileno()
    departures.add(first, one)
    one.close()
    two, their_two = socket.socketpair()
    assert two.fileno() == fd  # the lowest that is free
    with two, their_two, their_one:
        departures.add(second, two)
        departures.discard(first)
        assert departures.count == 1
        their_two.close()
        assert loop.turn()
    assert (first.times, second.times) == (0, 1)
    departures.close(loop.remove_reader)


def test_without_a_loop_nothing_is_seen() -> None:
    departures, who, (ours, theirs) = Departures(), Client(), socket.socketpair()
    with ours, theirs:
        departures.add(who, ours)
        assert departures.count == 0
        departures.discard(who)


def test_a_connection_without_a_socket_is_not_watched() -> None:
    loop, who = Loop(), Client()
    departures = Departures(loop.add_reader)
    departures.add(who, None)
    assert departures.count == 0
    departures.close(loop.remove_reader)
