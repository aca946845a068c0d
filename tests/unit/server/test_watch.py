"""Clients that leave while nobody reads them."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

import pytest

from budgateway.server.watch import Watch

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
    watch = Watch(loop.add_reader)
    with ours, theirs:
        watch.add(who, ours)
        theirs.send(b"unread")
        assert not loop.turn()
        theirs.shutdown(socket.SHUT_WR)
        assert loop.turn()
        assert not loop.turn()
        assert (who.times, watch.count) == (1, 0)
        # Told before it was asked again, it is told again.
        watch.add(who, ours)
        assert loop.turn()
        assert who.times == 2
    watch.close(loop.remove_reader)
    watch.close(loop.remove_reader)
    assert loop.fd == -1


def test_who_is_read_again_is_not_watched() -> None:
    loop, who, (ours, theirs) = Loop(), Client(), socket.socketpair()
    watch = Watch(loop.add_reader)
    with ours, theirs:
        watch.add(who, ours)
        watch.discard(who)
        theirs.close()
        assert not loop.turn()
    watch.discard(who)
    watch.close(loop.remove_reader)
    assert not who.times


def test_a_descriptor_may_change_hands() -> None:
    loop, first, second = Loop(), Client(), Client()
    watch = Watch(loop.add_reader)
    one, their_one = socket.socketpair()
    fd = one.fileno()
    watch.add(first, one)
    one.close()
    two, their_two = socket.socketpair()
    assert two.fileno() == fd  # the lowest that is free
    with two, their_two, their_one:
        watch.add(second, two)
        watch.discard(first)
        assert watch.count == 1
        their_two.close()
        assert loop.turn()
    assert (first.times, second.times) == (0, 1)
    watch.close(loop.remove_reader)


def test_without_a_loop_nothing_is_seen() -> None:
    watch, who, (ours, theirs) = Watch(), Client(), socket.socketpair()
    with ours, theirs:
        watch.add(who, ours)
        assert watch.count == 0
        watch.discard(who)


def test_a_connection_without_a_socket_is_not_watched() -> None:
    loop, who = Loop(), Client()
    watch = Watch(loop.add_reader)
    watch.add(who, None)
    assert watch.count == 0
    watch.close(loop.remove_reader)
