"""Sockets and counts from one supervisor to the next, in one process."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from budgateway.admin.instance import Instance
from budgateway.app.dataplane import bound_socket, is_bound_to
from budgateway.native import BY_USER, LimitSet, Price, Reservation, Segment
from budgateway.process.handover import METRICS, SLOT, Giver, Named, Predecessor, Taken

RULES = [("rate", BY_USER, "requests", 60, "minute", 10), ("money", BY_USER, "spend", 10_000_000, "month", 0)]
PRICE = Price(1.0, 1.0, 1.0)  # what a request is taken to need is less than a cent


class Old:
    """A gateway that hands over, without workers."""

    def __init__(self, path: Path) -> None:
        self.segment = Segment()
        self.relieved: list[int] = []
        self.sock = bound_socket("127.0.0.1", 0)
        self.giver = Giver(path, self.sockets, self.segment, self.relieve)

    def sockets(self) -> Named:
        return [(SLOT, self.sock)]

    async def relieve(self, pid: int) -> None:
        self.relieved.append(pid)


@pytest.fixture
async def old(tmp_path: Path) -> AsyncIterator[Old]:
    made = Old(tmp_path / "h")
    yield made
    await made.giver.close()
    made.sock.close()


async def taken(path: Path) -> Predecessor:
    found = Predecessor(Instance(os.getpid(), "http://localhost:1", "", str(path)))
    await asyncio.to_thread(found.take)
    return found


def spend(segment: Segment, tokens: int) -> bool:
    """Spend so many dollars, unless all are spent: whether they were."""
    limits = LimitSet(segment, 0, "r", RULES)
    today = int(time.time()) // 86_400
    answer = limits.decide("anna", "", "", "m", "", None, 0, PRICE, time.monotonic_ns(), today)
    if type(answer) is not Reservation:
        return False
    answer.settle(0, tokens * 1_000_000, time.monotonic_ns())
    return True


async def test_what_was_counted_goes_over_first_and_what_follows_later(old: Old, tmp_path: Path) -> None:
    new = Segment()

    def count(changes: bytes) -> None:
        new.count_limits(changes, time.monotonic_ns(), int(time.time()) // 86_400)

    assert spend(old.segment, 4)
    predecessor = await taken(tmp_path / "h")
    ((name, sock),) = predecessor.sockets
    assert (name, sock.getsockname()) == (SLOT, old.sock.getsockname())
    sock.close()
    assert await predecessor.counted(count)
    assert old.relieved == []
    # Between the two, and after it has stopped: 9 of 10 dollars are spent there.
    assert spend(old.segment, 3)
    await predecessor.relieve(count)
    assert old.relieved == [os.getpid()]
    assert spend(old.segment, 2)
    following = asyncio.create_task(predecessor.follow(count))
    await old.giver.close()
    await following
    assert spend(new, 1)
    assert not spend(new, 1)


async def test_one_successor_at_a_time(old: Old, tmp_path: Path) -> None:
    first = await taken(tmp_path / "h")
    assert await first.counted(lambda changes: None)
    with pytest.raises(Taken):
        await taken(tmp_path / "h")
    # It ends before it was ready: the next one may.
    first.close()
    async with asyncio.timeout(5):
        while True:
            try:
                second = await taken(tmp_path / "h")
                break
            except Taken:
                await asyncio.sleep(0.01)
    assert await second.counted(lambda changes: None)
    assert old.relieved == []
    for predecessor in (first, second):
        for _, sock in predecessor.sockets:
            sock.close()
    second.close()


async def test_one_of_an_earlier_version_gets_the_sockets(old: Old, tmp_path: Path) -> None:
    """It says nothing, and reads a list of names."""

    def take() -> tuple[list[str], int]:
        with socket.socket(socket.AF_UNIX) as giver:
            giver.settimeout(5)
            giver.connect(str(tmp_path / "h"))
            data, fds, _, _ = socket.recv_fds(giver, 64 * 1024, 64)
        for fd in fds:
            os.close(fd)
        return json.loads(data), len(fds)

    assert await asyncio.to_thread(take) == ([SLOT], 1)


async def test_a_predecessor_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    """It gives a socket, as one of an earlier version does, and its process is gone."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "h"))
    listener.listen()

    def give() -> None:
        taker, _ = listener.accept()
        with taker, socket.socket() as sock:
            socket.send_fds(taker, [json.dumps([METRICS]).encode()], [sock.fileno()])

    giving = asyncio.create_task(asyncio.to_thread(give))
    found = Predecessor(Instance(4194305, "http://localhost:1", "", str(tmp_path / "h")))
    await asyncio.to_thread(found.take)
    await giving
    assert not await found.counted(lambda changes: None)
    await found.relieve(lambda changes: None)
    await found.follow(lambda changes: None)
    for _, sock in found.sockets:
        sock.close()
    listener.close()


async def test_a_socket_whose_file_was_removed_is_made_again(old: Old, tmp_path: Path) -> None:
    (tmp_path / "h").unlink()
    old.giver.restore()
    predecessor = await taken(tmp_path / "h")
    for _, sock in predecessor.sockets:
        sock.close()
    predecessor.close()


@pytest.mark.parametrize(
    ("host", "offset", "expected"),
    [("127.0.0.1", 0, True), ("localhost", 0, True), ("127.0.0.1", 1, False), ("0.0.0.0", 0, False), ("::1", 0, False)],
)
def test_a_socket_is_taken_where_the_configuration_wants_it(host: str, offset: int, expected: bool) -> None:
    with bound_socket("127.0.0.1", 0) as sock:
        assert is_bound_to(sock, host, sock.getsockname()[1] + offset) is expected
