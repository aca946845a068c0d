"""A port belongs to one gateway: only its own workers may share it."""

from __future__ import annotations

import errno
import socket

import pytest

from budgateway.app.dataplane import bound_socket

HOSTS = ["127.0.0.1", pytest.param("::1", marks=pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6"))]


@pytest.mark.parametrize("host", HOSTS)
def test_a_port_that_somebody_listens_on_is_refused(host: str) -> None:
    with bound_socket(host, 0) as first:
        first.listen()
        with pytest.raises(OSError, match="the port is taken") as told:
            bound_socket(host, first.getsockname()[1])
        assert told.value.errno == errno.EADDRINUSE


def test_every_address_is_taken_with_any_of_them() -> None:
    with bound_socket("127.0.0.1", 0) as first:
        first.listen()
        with pytest.raises(OSError, match="the port is taken"):
            bound_socket("0.0.0.0", first.getsockname()[1])


def test_workers_of_one_gateway_share_a_port() -> None:
    with bound_socket("127.0.0.1", 0) as first:
        first.listen()
        with bound_socket("127.0.0.1", first.getsockname()[1], shared=True) as second:
            assert second.getsockname() == first.getsockname()


def test_connections_that_linger_do_not_hold_the_port() -> None:
    with bound_socket("127.0.0.1", 0) as listener:
        listener.setblocking(True)
        listener.listen()
        address = listener.getsockname()
        with socket.create_connection(address) as client:
            server, _ = listener.accept()
            server.close()  # who closes first is left in TIME_WAIT
            assert client.recv(1) == b""
    with bound_socket("127.0.0.1", address[1]) as again:
        assert again.getsockname() == address


def test_an_address_of_another_machine_says_so_itself() -> None:
    with pytest.raises(OSError, match="assign requested address"):
        bound_socket("192.0.2.1", 8080)
