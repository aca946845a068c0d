"""The connections that wait for work: the last one first, no longer and no more than may."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from turned import Peer, Steps, moved, pair

from budgateway.native import Idle


@pytest.fixture
def steps() -> Iterator[Steps]:
    made = Steps()
    yield made
    made.sockets.close()
    made.step()


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def other(steps: Steps, peer: Peer) -> Iterator[socket.socket]:
    """The upstream's end of the connection that `peer` is told of, of which ten bytes are read at a time."""
    with pair() as (ours, theirs):
        steps.sockets.adopt(ours.fileno(), peer, 10)
        ours.close()
        yield theirs


def waiting(idle: Idle, now_ns: int) -> list[object]:
    """All that can be had."""
    found = []
    while (one := idle.pop(now_ns)) is not None:
        found.append(one)
    return found


def test_who_was_used_last_is_used_first() -> None:
    idle = Idle(100, 8)
    assert [idle.push(name, None, at) for at, name in enumerate("abc")] == [True] * 3
    assert len(idle) == 3
    assert waiting(idle, 50) == ["c", "b", "a"]
    assert len(idle) == 0


def test_no_more_wait_than_may() -> None:
    idle = Idle(100, 2)
    assert [idle.push(name, None, 0) for name in "abc"] == [True, True, False]
    assert waiting(idle, 1) == ["b", "a"]
    assert not Idle(100, 0).push("a", None, 0)


def test_who_has_waited_too_long_is_let_go() -> None:
    idle = Idle(100, 8)
    for at, name in ((0, "a"), (10, "b"), (20, "c")):
        idle.push(name, None, at)
    assert idle.stale(99) == []
    assert idle.stale(110) == ["a", "b"]
    assert idle.pop(119) == "c"
    idle.push("d", None, 20)
    # None is had that an upstream may be closing; the sweep lets it go.
    assert (idle.pop(120), len(idle), idle.stale(120)) == (None, 1, ["d"])


def test_one_that_is_lost_waits_no_more() -> None:
    idle = Idle(100, 8)
    names = [object(), object(), object()]
    for name in names:
        idle.push(name, None, 0)
    idle.remove(names[1])
    idle.remove(object())
    assert waiting(idle, 1) == [names[2], names[0]]


def test_nobody_waits_once_it_is_closed() -> None:
    idle = Idle(100, 8)
    idle.push("a", None, 0)
    idle.push("b", None, 0)
    assert idle.close() == ["a", "b"]
    assert not idle.push("c", None, 0)
    assert len(idle) == 0


# ---------------------------------------------------------------- what the exchange before has left


def test_one_from_which_more_may_come_is_not_had(steps: Steps, peer: Peer, other: socket.socket) -> None:
    """It would be taken for the next answer."""
    idle = Idle(100, 8)
    idle.push("lower", None, 0)
    idle.push("upper", peer.transport, 0)
    other.sendall(b"0123456789too much")
    steps.turn()
    assert peer.data == [b"0123456789"]
    assert (idle.pop(1), idle.pop(1), len(idle)) == ("lower", None, 1)
    steps.turn()
    assert peer.data == [b"0123456789", b"too much"]
    assert idle.pop(1) == "upper"


def test_one_that_was_read_to_the_last_byte_is_had_once_that_is_known(
    steps: Steps, peer: Peer, other: socket.socket
) -> None:
    idle = Idle(100, 8)
    idle.push("a", peer.transport, 0)
    other.sendall(b"0123456789")
    steps.turn()
    assert idle.pop(1) is None
    steps.turn()
    assert idle.pop(1) == "a"


def test_one_that_ends_behind_its_answer_is_not_had(steps: Steps, peer: Peer, other: socket.socket) -> None:
    idle = Idle(100, 8)
    idle.push("a", peer.transport, 0)
    other.sendall(b"answer")
    other.shutdown(socket.SHUT_WR)
    steps.turn()
    assert (peer.data, peer.told, idle.pop(1)) == ([b"answer"], [], None)
    steps.turn()
    assert (peer.told, idle.pop(1)) == (["eof", "lost"], None)


def test_one_to_which_something_is_unsent_is_not_had(steps: Steps, peer: Peer, other: socket.socket) -> None:
    """An upstream need not read a request to its end to answer it, and who knows what it takes the rest for."""
    idle = Idle(100, 8)
    idle.push("a", peer.transport, 0)
    peer.transport.write(bytes(16 << 20))
    assert idle.pop(1) is None
    left = 16 << 20
    while left:
        left -= len(moved(steps, other))
    assert (peer.told[-1], idle.pop(1)) == ("resume", "a")


def test_what_was_heard_last_counts_whoever_tells_it_when() -> None:
    idle = Idle(100, 8)
    assert [idle.hear(now_ns) for now_ns in (0, 7, 5, 9)] == [0, 7, 7, 9]
