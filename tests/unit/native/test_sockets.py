"""The native transports over real sockets, turned by hand."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from descriptors import no_descriptors
from turned import LONG_MS, Peer, Steps, all_of, moved, pair, received, reset

from budgateway.native import Listener, Transport


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
    """The far end of the connection that `peer` is told of."""
    with pair() as (ours, theirs):
        steps.sockets.adopt(ours.fileno(), peer, 65536)
        ours.close()
        yield theirs


# ---------------------------------------------------------------- bytes


def test_bytes_come_as_they_were_sent(steps: Steps, peer: Peer, other: socket.socket) -> None:
    other.sendall(b"hello")
    steps.turn()
    assert peer.data == [b"hello"]
    assert not steps.is_ready()


def test_what_a_protocol_keeps_nobody_reads_over(steps: Steps, peer: Peer, other: socket.socket) -> None:
    """Little and much: a protocol's bytes are its own, and no room is lent for them."""
    sent = [bytes([number]) * size for number, size in enumerate((8191, 20_000, 8192, 60_000, 1, 30_000))]
    for data in sent:
        other.sendall(data)
        steps.turn()
        assert steps.sockets.lent() == 0
    assert peer.data == sent


def test_a_turn_reads_so_much_at_most(steps: Steps) -> None:
    peer = Peer()
    with pair() as (ours, theirs):
        steps.sockets.adopt(ours.fileno(), peer, 10)
        theirs.sendall(b"x" * 25)
        for _ in range(3):
            steps.turn()
        assert [len(data) for data in peer.data] == [10, 10, 5]


def test_what_is_written_in_a_turn_leaves_at_its_end(steps: Steps, peer: Peer, other: socket.socket) -> None:
    seen: list[bytes | None] = []

    def answer(data: bytes) -> None:
        peer.transport.write(b"one ")
        peer.transport.writelines((b"two ", b"three"))
        assert peer.transport.get_write_buffer_size() == 13
        seen.append(received(other))

    peer.on_data = answer
    other.sendall(b"x")
    steps.turn()
    assert seen == [None]
    assert received(other) == b"one two three"
    assert peer.transport.get_write_buffer_size() == 0


def test_what_is_written_outside_a_turn_leaves_at_once(steps: Steps, peer: Peer, other: socket.socket) -> None:
    peer.transport.write(b"one ")
    assert other.recv(100) == b"one "
    peer.transport.writelines((b"two ", b"three"))
    assert other.recv(100) == b"two three"


def test_many_pieces_of_one_turn_keep_their_order(steps: Steps, peer: Peer, other: socket.socket) -> None:
    peer.on_data = lambda _: [peer.transport.write(b"%06d" % number) for number in range(3000)] and None
    other.sendall(b"x")
    steps.turn()
    peer.transport.close()
    steps.settle()
    assert all_of(other) == b"".join(b"%06d" % number for number in range(3000))


# ---------------------------------------------------------------- back-pressure


def test_a_peer_that_reads_slowly_pauses_the_protocol(steps: Steps, peer: Peer) -> None:
    data, high = bytes(range(256)) * 65536, 1 << 20
    # Of such a pair the kernel holds little, and acknowledges at once.
    ours, other = socket.socketpair()
    with ours, other:
        ours.setblocking(False)
        steps.sockets.adopt(ours.fileno(), peer, 65536)
        ours.close()
        peer.transport.set_write_buffer_limits(high=high)
        peer.transport.write(data[: len(data) // 2])
        peer.transport.write(data[len(data) // 2 :])
        assert peer.told == ["pause"]
        assert high < peer.transport.get_write_buffer_size() < len(data)
        whole = b""
        while peer.told == ["pause"]:
            assert peer.transport.get_write_buffer_size() > high // 4
            whole += moved(steps, other)
        assert peer.told == ["pause", "resume"]
        assert 0 < peer.transport.get_write_buffer_size() <= high // 4
        peer.transport.close()
        assert peer.transport.is_closing()
        while len(whole) < len(data):
            whole += moved(steps, other)
        assert whole == data
        steps.settle()
        assert (peer.told, peer.error) == (["pause", "resume", "lost"], None)
        assert other.recv(1) == b""


def test_a_protocol_says_how_much_is_too_much(steps: Steps, peer: Peer, other: socket.socket) -> None:
    data = bytes(16 << 20)
    peer.transport.set_write_buffer_limits(high=len(data))
    peer.transport.write(data)
    assert 65536 < peer.transport.get_write_buffer_size() < len(data)
    assert steps.sockets.unsent() == [peer.transport.get_write_buffer_size()]
    assert peer.told == []


def test_what_waits_is_not_overtaken(steps: Steps, peer: Peer, other: socket.socket) -> None:
    data = bytes(16 << 20)
    peer.transport.write(data)
    # The kernel has room again, and that has not been looked at.
    whole, left = b"", len(data) - peer.transport.get_write_buffer_size()
    while len(whole) < left:
        whole += other.recv(1 << 20)
    assert steps.is_ready(LONG_MS)
    peer.transport.write(b"behind")
    peer.transport.close()
    while len(whole) < len(data) + len(b"behind"):
        whole += moved(steps, other)
    assert whole == data + b"behind"


def test_a_pause_leaves_bytes_where_they_are(steps: Steps, peer: Peer, other: socket.socket) -> None:
    peer.transport.pause_reading()
    other.sendall(b"later")
    assert not steps.is_ready()
    peer.transport.resume_reading()
    steps.turn()
    assert peer.data == [b"later"]


# ---------------------------------------------------------------- ends


def test_a_peer_that_leaves_while_nothing_is_read_is_told_of_once(
    steps: Steps, peer: Peer, other: socket.socket
) -> None:
    peer.transport.pause_reading()
    other.sendall(b"unread")
    other.close()
    steps.turn()
    assert peer.told == ["left"]
    assert not steps.is_ready()
    peer.transport.pause_reading()
    steps.turn()
    assert peer.told == ["left", "left"]
    peer.told.pop()
    peer.transport.resume_reading()
    steps.turn()
    steps.turn()
    assert peer.data == [b"unread"]
    assert peer.told == ["left", "eof", "lost"]


def test_a_protocol_need_not_care_who_leaves(steps: Steps) -> None:
    class Careless(Peer):
        left: Any = property()  # raises AttributeError, as if it were not there

    peer = Careless()
    with pair() as (ours, theirs):
        steps.sockets.adopt(ours.fileno(), peer, 65536)
        peer.transport.pause_reading()
        theirs.close()
        steps.turn()
        assert peer.told == []
        assert steps.complaints == []


@pytest.mark.parametrize("writes", [(), (b"more of the upload", b"and more")])
def test_a_reset_is_heard_while_nothing_is_read(
    steps: Steps, peer: Peer, other: socket.socket, writes: tuple[bytes, ...]
) -> None:
    peer.transport.pause_reading()
    reset(other)
    for data in writes:
        peer.transport.write(data)
    assert peer.transport.get_write_buffer_size() == 0
    steps.turn()
    assert peer.told == ["lost"]
    assert isinstance(peer.error, ConnectionResetError)


@pytest.mark.parametrize("waits", [False, True])
def test_what_a_peer_said_before_it_reset_is_read(steps: Steps, peer: Peer, other: socket.socket, waits: bool) -> None:
    if waits:
        peer.transport.write(bytes(16 << 20))
        peer.told.clear()
    other.sendall(b"413")
    reset(other)
    peer.transport.write(b"more of the upload")
    steps.turn()
    assert peer.data == [b"413"]
    assert peer.transport.get_write_buffer_size() == 0
    steps.turn()
    assert [what for what in peer.told if what != "resume"] == ["lost"]
    assert isinstance(peer.error, ConnectionResetError)


def test_an_end_closes_the_connection(steps: Steps, peer: Peer, other: socket.socket) -> None:
    other.shutdown(socket.SHUT_WR)
    steps.turn()
    assert peer.told == ["eof", "lost"]
    assert other.recv(1) == b""


def test_a_protocol_may_stay_behind_its_peers_end(steps: Steps, peer: Peer, other: socket.socket) -> None:
    peer.stays = True
    other.shutdown(socket.SHUT_WR)
    steps.turn()
    assert peer.told == ["eof"]
    assert not steps.is_ready()
    peer.transport.write(b"still here")
    assert other.recv(100) == b"still here"
    peer.transport.close()
    steps.step()
    assert peer.told == ["eof", "lost"]


def test_an_end_follows_all_that_was_written(steps: Steps, peer: Peer, other: socket.socket) -> None:
    data = b"z" * (16 << 20)
    peer.transport.write(data)
    peer.transport.write_eof()
    peer.transport.write(b"not this")
    whole = b""
    while len(whole) < len(data):
        whole += moved(steps, other)
    assert (whole == data, other.recv(100)) == (True, b"")
    assert "lost" not in peer.told
    assert not steps.is_ready()
    other.sendall(b"thanks")
    steps.turn()
    assert peer.data == [b"thanks"]


def test_an_aborted_connection_drops_what_it_wrote(steps: Steps, peer: Peer, other: socket.socket) -> None:
    def answer(_: bytes) -> None:
        peer.transport.write(b"never")
        peer.transport.abort()
        peer.transport.abort()
        peer.transport.write(b"never")

    peer.on_data = answer
    other.sendall(b"x")
    assert steps.is_ready(LONG_MS)
    steps.sockets.turn()
    assert peer.told == []  # not from inside a call of the protocol's own
    assert len(steps.soon) == 1
    steps.step()
    assert (peer.told, peer.error) == (["lost"], None)
    assert other.recv(100) == b""


def test_a_reset_is_no_end(steps: Steps, peer: Peer, other: socket.socket) -> None:
    peer.transport.reset()
    steps.step()
    with pytest.raises(ConnectionResetError):
        other.recv(1)


# ---------------------------------------------------------------- defects and successors


def test_a_defect_ends_one_connection(steps: Steps) -> None:
    def defect(_: bytes) -> None:
        raise ValueError("a defect")

    peers = [Peer(defect), Peer()]
    with pair() as (ours, theirs), pair() as (mine, yours):
        steps.sockets.adopt(ours.fileno(), peers[0], 65536)
        steps.sockets.adopt(mine.fileno(), peers[1], 65536)
        theirs.sendall(b"x")
        yours.sendall(b"y")
        while not peers[1].data or not peers[0].told:
            steps.turn()
        assert [(what, str(error)) for what, error in steps.complaints] == [("data_received failed", "a defect")]
        assert (peers[0].told, peers[1].told, peers[1].data) == (["lost"], [], [b"y"])


def test_a_protocol_that_cannot_begin_loses_its_connection(steps: Steps) -> None:
    class Defect(Peer):
        def connection_made(self, transport: Transport) -> None:
            raise ValueError("a defect")

    peer = Defect()
    with pair() as (ours, theirs):
        steps.sockets.adopt(ours.fileno(), peer, 65536)
        ours.close()
        steps.step()
        assert theirs.recv(1) == b""
    assert [(what, str(error)) for what, error in steps.complaints] == [("connection_made failed", "a defect")]
    assert peer.told == ["lost"]


def test_what_stops_the_program_stops_the_turn(steps: Steps, peer: Peer, other: socket.socket) -> None:
    beside = Peer()

    def stop(_: bytes) -> None:
        beside.transport.write(b"the last")
        raise KeyboardInterrupt

    peer.on_data = stop
    with pair() as (ours, theirs):
        steps.sockets.adopt(ours.fileno(), beside, 65536)
        other.sendall(b"x")
        assert steps.is_ready(LONG_MS)
        with pytest.raises(KeyboardInterrupt):
            steps.sockets.turn()
        assert steps.complaints == []
        assert theirs.recv(100) == b"the last"
        beside.transport.write(b"and no turn any more")
        assert theirs.recv(100) == b"and no turn any more"


def test_an_event_never_reaches_a_successor(steps: Steps) -> None:
    """Two connections have something to say in the same turn; whoever is heard first puts a third in the other's place."""
    with pair() as (ours, theirs), pair() as (mine, yours), pair() as (fresh, far):
        peers: list[Peer] = []
        successor = Peer()

        def replace(_: bytes) -> None:
            replaced = next(peer for peer in peers if not peer.data)
            replaced.transport.abort()
            steps.step()  # its descriptor is closed
            steps.sockets.adopt(fresh.fileno(), successor, 65536)
            # A reset that was meant for the one before would end it.
            successor.transport.pause_reading()

        peers += [Peer(replace), Peer(replace)]
        for sock, peer in ((ours, peers[0]), (mine, peers[1])):
            steps.sockets.adopt(sock.fileno(), peer, 65536)
            sock.close()
        for sock in (theirs, yours):
            sock.sendall(b"x")
            sock.shutdown(socket.SHUT_RDWR)
        steps.turn()
        assert [len(peer.data) for peer in peers] in ([1, 0], [0, 1])
        steps.settle()
        assert successor.told == []
        successor.transport.resume_reading()
        far.sendall(b"its own")
        steps.turn()
        assert successor.data == [b"its own"]


# ---------------------------------------------------------------- listeners


@contextmanager
def listening(
    steps: Steps, peers: list[Peer], made: Callable[[], Peer] = Peer, gate: Callable[[], bool] | None = None
) -> Iterator[tuple[Listener, socket.socket]]:
    def factory() -> Peer:
        peers.append(made())
        return peers[-1]

    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        server.setblocking(False)
        listener = steps.sockets.listen(server.fileno(), factory, 65536, gate)
        yield listener, server
        listener.close()


def test_a_listener_accepts_sixteen_at_a_time(steps: Steps) -> None:
    peers: list[Peer] = []
    with listening(steps, peers) as (_, server):
        clients = [socket.create_connection(server.getsockname()) for _ in range(20)]
        steps.turn()
        assert len(peers) == 16
        steps.turn()
        assert len(peers) == 20
        names = {peer.transport.get_extra_info("peername") for peer in peers}
        assert names == {client.getsockname() for client in clients}
        assert {peer.transport.get_extra_info("sockname") for peer in peers} == {server.getsockname()}
        assert peers[0].transport.get_extra_info("sslcontext", "none") == "none"
        for client in clients:
            client.close()


def test_a_closed_listener_leaves_the_queue_to_others(steps: Steps) -> None:
    peers: list[Peer] = []
    with listening(steps, peers) as (listener, server):
        listener.close()
        with socket.create_connection(server.getsockname()):
            assert not steps.is_ready()
            accepted, _ = server.accept()
            accepted.close()
        assert peers == []


def test_without_descriptors_connections_wait(steps: Steps) -> None:
    peers: list[Peer] = []
    with listening(steps, peers) as (_, server), socket.create_connection(server.getsockname()) as client:
        with no_descriptors():
            steps.turn()
            assert not steps.is_ready()
            (rest,) = steps.later
            rest[1]()
            steps.turn()
        assert (peers, rest[0], len(steps.later)) == ([], 0.1, 2)
        assert [what for what, _ in steps.complaints] == ["no connection can be accepted"]
        steps.later[1][1]()
        steps.turn()
        client.sendall(b"at last")
        steps.turn()
        assert peers[0].data == [b"at last"]
        # Another time, another complaint.
        with socket.create_connection(server.getsockname()), no_descriptors():
            steps.turn()
        assert len(steps.complaints) == 2


def test_behind_a_gate_connections_wait(steps: Steps) -> None:
    peers: list[Peer] = []
    with listening(steps, peers, gate=lambda: len(peers) < 2) as (_, server):
        clients = [socket.create_connection(server.getsockname()) for _ in range(3)]
        steps.turn()
        assert (len(peers), [rest for rest, _ in steps.later]) == (2, [0.1])
        assert [what for what, _ in steps.complaints] == ["no connection can be accepted"]
        assert not steps.is_ready()
        steps.later[0][1]()
        steps.turn()
        # As long as the shortage lasts it is said once.
        assert (len(peers), len(steps.later), len(steps.complaints)) == (2, 2, 1)
        peers.clear()
        steps.later[1][1]()
        steps.turn()
        assert len(peers) == 1
        for client in clients:
            client.close()


def test_a_connection_without_a_protocol_ends_alone(steps: Steps) -> None:
    peers: list[Peer] = []
    kinds: Iterator[Any] = iter((None, Peer))

    def made() -> Peer:
        return next(kinds)()

    with listening(steps, peers, made) as (_, server):
        with socket.create_connection(server.getsockname()) as first, socket.create_connection(server.getsockname()):
            steps.turn()
            assert first.recv(1) == b""
    assert len(peers) == 1
    assert [what for what, _ in steps.complaints] == ["a connection could not be taken"]


def test_numbers_that_are_no_sockets_are_refused(steps: Steps, tmp_path: Any) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        steps.sockets.adopt(-1, Peer(), 65536)
    with open(tmp_path / "file", "wb") as file, pytest.raises(OSError, match="not permitted"):
        steps.sockets.adopt(file.fileno(), Peer(), 65536)
    assert steps.complaints == []
    assert steps.sockets.unsent() == []


def test_another_protocol_hears_all_that_follows(steps: Steps, peer: Peer, other: socket.socket) -> None:
    successor = Peer()
    peer.transport.set_protocol(successor)
    other.sendall(b"upgraded")
    other.shutdown(socket.SHUT_WR)
    steps.turn()
    steps.turn()
    assert (peer.data, peer.told) == ([], [])
    assert (successor.data, successor.told) == ([b"upgraded"], ["eof", "lost"])
