"""The connections that wait for work: the last one first, no longer and no more than may."""

from __future__ import annotations

from budgateway.native import Idle


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


def test_what_was_heard_last_counts_whoever_tells_it_when() -> None:
    idle = Idle(100, 8)
    assert [idle.hear(now_ns) for now_ns in (0, 7, 5, 9)] == [0, 7, 7, 9]
