"""Several addresses of one name: who is asked when, who wins, and which failure counts."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from budgateway.transport import race
from budgateway.transport.race import connected
from budgateway.transport.resolve import Address


@contextmanager
def swallowing(host: str) -> Iterator[int]:
    """A port where connections are neither made nor refused: its queue is full."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind((host, 0))
        full.listen(0)
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        yield full.getsockname()[1]


@contextmanager
def listening(host: str, port: int = 0) -> Iterator[int]:
    with socket.create_server((host, port)) as server:
        yield server.getsockname()[1]


def four(last: int) -> Address:
    return (socket.AF_INET, f"127.0.0.{last}", 0)


async def race_to(addresses: list[Address], port: int) -> tuple[str, float]:
    began = time.monotonic()
    sock, address = await connected(addresses, port)
    with sock:
        assert sock.getpeername()[0] == address[1]
        return address[1], time.monotonic() - began


async def test_an_address_that_swallows_costs_a_quarter_of_a_second() -> None:
    with swallowing("127.0.0.2") as port, listening("127.0.0.3", port):
        assert (await race_to([four(2)] * 2 + [four(3)], port))[0] == "127.0.0.3"
        winner, took_s = await race_to([four(2), four(3)], port)
    assert winner == "127.0.0.3"
    assert took_s >= 0.2


async def test_after_a_refusal_the_next_one_is_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "DELAY_S", 3600)
    with listening("127.0.0.3") as port:
        winner, _ = await race_to([four(2), four(3)], port)
    assert winner == "127.0.0.3"


async def test_both_families_are_tried() -> None:
    with listening("127.0.0.1") as port:
        assert (await race_to([(socket.AF_INET6, "::1", 0), four(1)], port))[0] == "127.0.0.1"


async def test_when_all_refuse_so_does_it() -> None:
    with listening("127.0.0.1") as port:
        pass
    with pytest.raises(ConnectionRefusedError):
        await connected([four(1), four(2)], port)


async def test_who_gives_up_leaves_nothing_open() -> None:
    with swallowing("127.0.0.2") as port, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.6):
            await connected([four(2), four(2), four(2)], port)


@pytest.mark.parametrize(
    ("failures", "counts"),
    [
        ([errno.ECONNREFUSED, errno.EMFILE], errno.EMFILE),
        ([errno.ECONNREFUSED, errno.ENETUNREACH], errno.ECONNREFUSED),
        # No IPv6 here, and the IPv4 address refused: that is an answer.
        ([errno.EADDRNOTAVAIL, errno.ECONNREFUSED], errno.ECONNREFUSED),
        ([errno.EADDRNOTAVAIL, errno.EADDRNOTAVAIL], errno.EADDRNOTAVAIL),
    ],
)
def test_a_shortage_counts_more_than_a_refusal(failures: list[int], counts: int) -> None:
    assert race._worst([OSError(number, "") for number in failures]).errno == counts
