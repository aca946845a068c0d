"""The fast path does not copy a large body: it arrives byte by byte however the exchange ends, and its buffer is free then."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import socket
import stat
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream, request_bytes
from integration.fast_path import CHAT, JSON, Numbered, armed, ask, away, fast_gateway
from integration.inside import Inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received

import budgateway.proxy.fastpath
from budgateway.server.framing_cy import request_parser

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

MOST_LENT = 64  # read_buffers.rs
ONCE = itertools.count()


def body_of(number: int, size: int = 20_000) -> bytes:
    """A body that no other number has."""
    noise = random.Random(number).randbytes(size // 2).hex()
    return json.dumps({"model": "demo", "n": number, "p": noise}).encode()


def large(number: int, size: int = 20_000) -> bytes:
    """A request with it."""
    return request_bytes("a", "POST", CHAT, body_of(number, size), JSON)


def lent(gateway: Inside) -> int:
    """Rooms that exchanges hold."""
    sockets = gateway.plane._plain
    assert sockets is not None
    return sockets.lent()


def are_exact(upstream: FaultyUpstream, size: int = 20_000) -> bool:
    """True when every large body is the one that was sent with its number."""
    large = [request.body for request in upstream.requests if len(request.body) > size]
    return bool(large) and all(body == body_of(json.loads(body)["n"], size) for body in large)


@pytest.mark.parametrize("size", [8_000, 8_200, 20_000, 60_000])
async def test_a_large_body_is_served(size: int, tmp_path: Path) -> None:
    async with FaultyUpstream(faults.echo()) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            for number in range(5):
                await armed(client, native)
                carried = native.served()
                await client.send(large(number, size))
                assert (await client.answer()).status == 200
                assert upstream.requests[-1].body == body_of(number, size)
                # What is echoed is too long for one read, above 16 KB.
                assert native.served() == carried + (size < 16_000)
                await gateway.at_rest()
                assert lent(gateway) == 0


async def test_a_large_answer_is_served(tmp_path: Path) -> None:
    """The parser reads a filler in its place."""
    text = random.Random(1).randbytes(7_500).hex()
    async with FaultyUpstream(faults.chat(text)) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            await armed(client, native)
            for number in range(5):
                carried = native.served()
                await client.send(large(number))
                assert (await client.answer()).json()["choices"][0]["message"]["content"] == text
                assert native.served() == carried + 1
            assert are_exact(upstream)
            assert lent(gateway) == 0


# ---------------------------------------------------------------- buffers


async def test_bodies_of_one_turn_do_not_meet(tmp_path: Path) -> None:
    """Two come in one turn, the kernel takes a part of each, and others are read before it takes the rest."""
    answers = Numbered()
    peers: list[Peer] = []

    async def greet(peer: Peer) -> None:
        if peer not in peers:
            peers.append(peer)

    async with (
        FaultyUpstream(answers, greeting=greet) as upstream,
        fast_gateway(upstream, tmp_path) as (gateway, native),
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(Downstream(gateway.url)) for _ in range(3)]
        await ride_all(clients, native, upstream, answers)
        without_sweeps(gateway)
        for peer in peers:
            peer.read_no_more()
            sends_little(peer)
        carried = native.served()
        for number, client in enumerate(clients[:2], 101):
            await client.send(large(number, 60_000))
        await gateway.until(lambda: sum(map(bool, unsent(gateway))) == 2, "two that are sent in part")
        await clients[2].send(large(103, 60_000))
        await gateway.until(lambda: sum(map(bool, unsent(gateway))) == 3, "the third")
        assert len(native) == 3
        answers.let_go(101, 102, 103)
        for peer in peers:
            peer.read_on()
        for number, client in enumerate(clients, 101):
            assert (await client.answer()).json() == {"n": number}
        assert native.served() == carried + 3
        assert are_exact(upstream, 60_000)
        await gateway.at_rest()
        assert lent(gateway) == 0


async def test_so_many_rooms_are_lent_and_no_more(tmp_path: Path) -> None:
    """Further requests are served from a copy."""
    answers = Numbered()
    numbers = range(1001, 1001 + MOST_LENT + 10)
    async with (
        FaultyUpstream(answers) as upstream,
        fast_gateway(upstream, tmp_path) as (gateway, native),
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(Downstream(gateway.url)) for _ in numbers]
        await ride_all(clients, native, upstream, answers)
        without_sweeps(gateway)
        for number, client in zip(numbers, clients, strict=True):
            await client.send(large(number))
        await gateway.until(lambda: len(native) == len(numbers), "that all of them are on the fast path")
        assert lent(gateway) == MOST_LENT
        answers.let_go(*numbers)
        for number, client in zip(numbers, clients, strict=True):
            assert (await client.answer()).json() == {"n": number}
        assert are_exact(upstream)
        await gateway.at_rest()
        assert lent(gateway) == 0


@pytest.mark.parametrize("end", ["answer", "late", "clear", "leave", "reset"])
async def test_rooms_are_given_back(end: str, tmp_path: Path) -> None:
    answers = Numbered()
    async with FaultyUpstream(answers) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            number = await away(client, native, upstream, answers, request=large)
            assert (len(native), lent(gateway)) == (1, 1)
            if end in ("leave", "reset"):
                getattr(client, end)()
            else:
                if end == "late":
                    await gateway.until(lambda: gateway.in_flight == 1)  # the sweep
                    assert lent(gateway) == 0
                elif end == "clear":
                    native.fall_back()
                    assert lent(gateway) == 0
                answers.let_go(number)
                assert (await client.answer()).json() == {"n": number}
            await gateway.at_rest()
            assert (len(native), lent(gateway)) == (0, 0)
            assert are_exact(upstream)


# ---------------------------------------------------------------- what goes on elsewhere


@pytest.mark.parametrize("how", ["close", "reset", "503"])
async def test_a_large_body_is_sent_again_as_it_was(how: str, tmp_path: Path) -> None:
    """Once the fast path has given it up: the connection dies, or the answer is an error."""

    async def die(peer: Peer, request: Received) -> None:
        if how == "503":
            await faults.status(503, retry_after="0")(peer, request)
        else:
            getattr(peer, how)()

    async with FaultyUpstream(faults.chat()) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            for number in range(3):
                upstream.script(faults.chat())
                await armed(client, native)
                upstream.script(die, faults.chat("again"))
                asked, carried = len(upstream.requests), native.served()
                await client.send(large(number))
                assert (await client.answer()).json()["choices"][0]["message"]["content"] == "again"
                assert (len(upstream.requests), native.served()) == (asked + 2, carried)
                assert [one.body for one in upstream.requests[asked:]] == [body_of(number)] * 2
                await gateway.at_rest()
                assert lent(gateway) == 0


@pytest.mark.parametrize("how", ["garbage", "early"])
async def test_a_large_body_whose_answer_had_begun_is_sent_once(how: str, tmp_path: Path) -> None:
    """A malformed answer, and one that breaks off: no stale connection says anything at all."""
    answer = faults.raw(b"what?\r\n\r\n") if how == "garbage" else faults.cut(faults.chat_bytes(), at=10)
    async with FaultyUpstream(faults.chat()) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            await armed(client, native)
            upstream.script(answer, faults.chat("again"))
            asked, carried = len(upstream.requests), native.served()
            await client.send(large(1))
            assert (await client.answer()).status == 502
            assert (len(upstream.requests), native.served()) == (asked + 1, carried)
            await gateway.at_rest()
            assert lent(gateway) == 0


async def test_a_large_body_without_a_connection_is_handed_over_whole(tmp_path: Path) -> None:
    """It is taken, and there is nobody to send it to yet."""
    answers = Numbered()
    async with FaultyUpstream(answers) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client, Downstream(gateway.url) as other:
            await armed(client, native)
            await other.send(ask(9))
            await upstream.until(lambda up: json.loads(up.requests[-1].body)["n"] == 9)
            opened = len(upstream.connections)
            await client.send(large(1))
            answers.let_go(1, 9)
            assert (await client.answer()).json() == {"n": 1}
            assert (await other.answer()).json() == {"n": 9}
            assert len(upstream.connections) == opened + 1
        assert are_exact(upstream)
        await gateway.at_rest()
        assert lent(gateway) == 0


async def test_an_answer_in_two_reads_is_relayed(tmp_path: Path) -> None:
    async def in_two(peer: Peer, _: Received) -> None:
        await peer.send(wire[:9_000])
        await asyncio.sleep(0.01)
        await peer.send(wire[9_000:])

    text = random.Random(2).randbytes(6_000).hex()
    wire = faults.chat_bytes(text)
    async with FaultyUpstream(faults.chat()) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            await armed(client, native)
            upstream.script(in_two)
            carried = native.served()
            await client.send(large(1))
            assert (await client.answer()).json()["choices"][0]["message"]["content"] == text
            assert native.served() == carried
        assert are_exact(upstream)
        await gateway.at_rest()
        assert lent(gateway) == 0


# ---------------------------------------------------------------- the parser of record


class Reader:
    """llhttp, and what it was given."""

    read: list[int]

    def __init__(self, ended: Any) -> None:
        self._llhttp = request_parser(ended)

    def feed_data(self, data: bytes) -> None:
        self.read.append(len(data))
        self._llhttp.feed_data(data)


class EndsEarly(Reader):
    """Takes the head for all of it."""

    def __init__(self, ended: Any) -> None:
        super().__init__(ended)
        self._ended = ended

    def feed_data(self, data: bytes) -> None:
        super().feed_data(data)
        if len(data) < 1000:
            self._ended.on_message_complete()


class ReadsShorter(Reader):
    """Believes the body to be a byte shorter than it is said to be."""

    def feed_data(self, data: bytes) -> None:
        data = bytes(data)
        super().feed_data(data.replace(b"ength: 20", b"ength: 19"))


class ReadsLonger(Reader):
    """Believes it to be longer."""

    def feed_data(self, data: bytes) -> None:
        data = bytes(data)
        super().feed_data(data.replace(b"ength: 20", b"ength: 29"))


async def test_the_parser_reads_as_much_as_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Reader.read = []
    monkeypatch.setattr(budgateway.proxy.fastpath, "request_parser", Reader)
    async with FaultyUpstream(faults.chat()) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            await armed(client, native)
            for size in (20_000, 20_000, 30_000, 20_000, 9_000):
                Reader.read, carried = [], native.served()
                wire = unheard(large(1, size))
                await client.send(wire)
                assert (await client.answer()).status == 200
                assert native.served() == carried + 1
                body = len(body_of(1, size))
                assert Reader.read == [len(wire) - body, body]
            Reader.read, carried, wire = [], native.served(), unheard(ask(0))
            await client.send(wire)
            assert (await client.answer()).status == 200
            assert (native.served(), Reader.read) == (carried + 1, [len(wire)])


async def test_the_parser_is_not_asked_twice_about_one_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Reader.read = []
    monkeypatch.setattr(budgateway.proxy.fastpath, "request_parser", Reader)
    async with FaultyUpstream(faults.chat()) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            await armed(client, native)
            Reader.read, carried = [], native.served()
            for number, size in enumerate((20_000, 30_000, 9_000, 100_000)):
                await client.send(large(number, size))
                assert (await client.answer()).status == 200
                assert upstream.requests[-1].body == body_of(number, size)
            # The last one takes two reads: that is for the protocol, whose parser reads all.
            assert (native.served(), Reader.read) == (carried + 3, [])


@pytest.mark.parametrize("parser", [EndsEarly, ReadsShorter, ReadsLonger])
async def test_what_the_parser_reads_otherwise_does_not_ride(
    parser: Callable[[Any], Reader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small ones do, each behind one that it did not take."""
    Reader.read = []
    monkeypatch.setattr(budgateway.proxy.fastpath, "request_parser", parser)
    async with FaultyUpstream(faults.chat()) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            for number in range(3):
                await armed(client, native)
                carried, Reader.read = native.served(), []
                await client.send(unheard(large(number)))
                assert (await client.answer()).status == 200
                assert Reader.read
                assert native.served() == carried
                assert upstream.requests[-1].body == body_of(number)
                assert lent(gateway) == 0


# ---------------------------------------------------------------- helpers


async def ride_all(clients: list[Downstream], native: Any, upstream: FaultyUpstream, answers: Numbered) -> None:
    """Have the fast path serve each client, with a connection to the upstream for each."""
    first = 1 + max((json.loads(request.body)["n"] for request in upstream.requests), default=0)
    asked = len(upstream.requests)
    if len(upstream.connections) < len(clients):
        for number, client in enumerate(clients, first):
            await client.send(ask(number))
        await upstream.until(lambda up: len(up.requests) == asked + len(clients))
        answers.let_go(*range(first, first + len(clients)))
        for client in clients:
            assert (await client.answer()).status == 200
    for client in clients:
        await armed(client, native)


def unheard(wire: bytes) -> bytes:
    """The same request with a head that nobody has sent before."""
    return wire.replace(b"\r\n", b"\r\nx-once: %d\r\n" % next(ONCE), 1)


def without_sweeps(gateway: Inside) -> None:
    """Nothing is handed over because time passes."""
    timer = gateway.plane._sweep_timer
    assert timer is not None
    timer.cancel()


def unsent(gateway: Inside) -> list[int]:
    sockets = gateway.plane._plain
    assert sockets is not None
    return sockets.unsent()


def sends_little(peer: Peer) -> None:
    """Have the kernel take little at a time of what the gateway, in this very process, sends to a peer."""
    transport = peer._transport
    assert transport is not None
    ends = (transport.get_extra_info("peername"), transport.get_extra_info("sockname"))
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            # Looked at before it is copied: the copy of anything but a socket would stay open.
            if not stat.S_ISSOCK(os.fstat(int(fd)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(fd))) as ours:
                if (ours.getsockname(), ours.getpeername()) == ends:
                    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
                    return
    raise AssertionError("it has no such connection")
