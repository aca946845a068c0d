"""The native transports over real sockets, turned by hand: no loop, so that every step is one the test takes."""

from __future__ import annotations

import resource
import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from budgateway.native import Listener, Sockets, Transport

LONG_MS = 10_000
BRIEF_MS = 50  # for what must not happen
RESET = struct.pack("ii", 1, 0)


class Steps:
    """What a loop would run later, run when the test says so, and the sets' complaints."""

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
        poll = select.poll()
        poll.register(self.sockets.fileno(), select.POLLIN)
        return bool(poll.poll(milliseconds))

    def turn(self) -> None:
        """One turn of the set, once there is something to do, and one step of the loop behind it."""
        assert self.is_ready(LONG_MS)
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
        steps = self.soon[:]
        self.soon.clear()
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


def received(sock: socket.socket) -> bytes | None:
    """What is there now; None: nothing is."""
    ready, _, _ = select.select([sock], [], [], 0)
    return sock.recv(1 << 20) if ready else None


def all_of(sock: socket.socket) -> bytes:
    """Everything up to the end."""
    whole = b""
    while data := sock.recv(1 << 20):
        whole += data
    return whole


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


# ---------------------------------------------------------------- bytes


def test_bytes_come_as_they_were_sent(steps: Steps, peer: Peer, other: socket.socket) -> None:
    other.sendall(b"hello")
    steps.turn()
    assert peer.data == [b"hello"]
    assert not steps.is_ready()


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


def test_a_peer_that_reads_slowly_pauses_the_protocol(steps: Steps, peer: Peer, other: socket.socket) -> None:
    peer.transport.set_write_buffer_limits(high=100_000)
    data = bytes(range(256)) * 65536
    half = len(data) // 2
    peer.transport.write(data[:half])
    peer.transport.write(data[half:])
    assert peer.told == ["pause"]
    waits = peer.transport.get_write_buffer_size()
    assert 100_000 < waits < len(data)
    whole = b""
    while peer.told == ["pause"]:
        whole += other.recv(1 << 20)
        if steps.is_ready(0):
            steps.turn()
    assert peer.told == ["pause", "resume"]
    assert peer.transport.get_write_buffer_size() <= 25_000
    peer.transport.close()
    assert peer.transport.is_closing()
    while len(whole) < len(data):
        whole += other.recv(1 << 20)
        if steps.is_ready(0):
            steps.turn()
    assert whole == data
    steps.settle()
    assert (peer.told, peer.error) == (["pause", "resume", "lost"], None)
    assert other.recv(1) == b""


def test_a_pause_leaves_bytes_where_they_are(steps: Steps, peer: Peer, other: socket.socket) -> None:
    peer.transport.pause_reading()
    assert not peer.transport.is_reading()
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


def test_a_reset_is_heard_while_nothing_is_read(steps: Steps, peer: Peer, other: socket.socket) -> None:
    peer.transport.pause_reading()
    reset(other)
    steps.turn()
    assert peer.told == ["lost"]
    assert isinstance(peer.error, ConnectionResetError)


def test_what_a_peer_said_before_it_reset_is_read(steps: Steps, peer: Peer, other: socket.socket) -> None:
    other.sendall(b"413")
    peer.transport.pause_reading()
    other.shutdown(socket.SHUT_RD)
    reset_of = other.detach()
    with socket.socket(fileno=reset_of) as sock:
        reset(sock)
    peer.transport.write(b"more of the upload")
    peer.transport.write(b"and more")
    assert peer.transport.get_write_buffer_size() == 0
    steps.turn()
    assert peer.told == ["lost"]
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
        whole += other.recv(1 << 20)
        if steps.is_ready(0):
            steps.turn()
    assert (whole == data, other.recv(100)) == (True, b"")
    assert "lost" not in peer.told
    other.sendall(b"thanks")
    steps.turn()
    assert peer.data == [b"thanks"]


def test_an_aborted_connection_drops_what_it_wrote(steps: Steps, peer: Peer, other: socket.socket) -> None:
    def answer(_: bytes) -> None:
        peer.transport.write(b"never")
        peer.transport.abort()
        peer.transport.write(b"never")

    peer.on_data = answer
    other.sendall(b"x")
    assert steps.is_ready(LONG_MS)
    steps.sockets.turn()
    assert peer.told == []  # not from inside a call of the protocol's own
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


def test_what_stops_the_program_stops_the_turn(steps: Steps, peer: Peer, other: socket.socket) -> None:
    def stop(_: bytes) -> None:
        peer.transport.write(b"the last")
        raise KeyboardInterrupt

    peer.on_data = stop
    other.sendall(b"x")
    assert steps.is_ready(LONG_MS)
    with pytest.raises(KeyboardInterrupt):
        steps.sockets.turn()
    assert steps.complaints == []


def test_an_event_never_reaches_a_successor(steps: Steps) -> None:
    """Two connections have something to say in the same turn; whoever is heard first puts a third in the other's place."""
    with pair() as (ours, theirs), pair() as (mine, yours), pair() as (fresh, _):
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


# ---------------------------------------------------------------- listeners


@contextmanager
def listening(steps: Steps, peers: list[Peer]) -> Iterator[tuple[Listener, socket.socket]]:
    def factory() -> Peer:
        peers.append(Peer())
        return peers[-1]

    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        server.setblocking(False)
        listener = steps.sockets.listen(server.fileno(), factory, 65536)
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
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
        try:
            steps.turn()
            assert not steps.is_ready()
            (rest,) = steps.later
            rest[1]()
            steps.turn()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (peers, rest[0], len(steps.later)) == ([], 0.1, 2)
        assert [what for what, _ in steps.complaints] == ["no connection can be accepted"]
        steps.later[1][1]()
        steps.turn()
        client.sendall(b"at last")
        steps.turn()
        assert peers[0].data == [b"at last"]


def test_numbers_that_are_no_sockets_are_refused(steps: Steps, tmp_path: Any) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        steps.sockets.adopt(-1, Peer(), 65536)
    with open(tmp_path / "file", "wb") as file, pytest.raises(OSError, match="not permitted"):
        steps.sockets.adopt(file.fileno(), Peer(), 65536)
    assert steps.complaints == []
