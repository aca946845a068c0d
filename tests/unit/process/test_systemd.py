"""systemd hears what it waits for."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from budgateway.process.systemd import Service, notify


def test_states_arrive_as_they_are(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        assert notify("READY=1\nSTATUS=x", environ)
        assert systemd.recv(200) == b"READY=1\nSTATUS=x"
        assert notify("RELOADING=1", environ)
        told, _, clock = systemd.recv(200).partition(b"\nMONOTONIC_USEC=")
        assert told == b"RELOADING=1"
        assert int(clock) > 0


def test_an_abstract_name_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0budgateway-test-notify")
        assert notify("STOPPING=1", {"NOTIFY_SOCKET": "@budgateway-test-notify"})
        assert systemd.recv(200) == b"STOPPING=1"


def test_nobody_listening_is_no_error(tmp_path: Path) -> None:
    assert not notify("READY=1", {})
    assert not notify("READY=1", {"NOTIFY_SOCKET": "vsock:2:1"})
    assert not notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "absent")})


def test_once_it_stops_nothing_else_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        service = Service({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        service.ready("serving", "MAINPID=7")
        service.reloading()
        service.stopping()
        service.ready("serving")  # the reload that was under way
        service.reloading()
        told = [systemd.recv(200).split(b"\n")[0] for _ in range(3)]
        assert told == [b"READY=1", b"RELOADING=1", b"STOPPING=1"]
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(200)
