"""Signals in the middle of a start: none kills it, SIGTERM ends it, and what systemd is told is true."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from integration.gateways import write_configuration
from integration.operated import SECRET
from integration.processes import Server, running
from ports import free_port

pytestmark = pytest.mark.integration


@contextmanager
def starting(folder: Path, env: dict[str, str] | None = None, arguments: tuple[str, ...] = ()) -> Iterator[Server]:
    """A gateway from its first moment on."""
    port = free_port()
    config = folder / "config"
    config.mkdir(exist_ok=True)
    write_configuration(
        config, port, ["http://127.0.0.1:9"], "openai", {}, {}, {"workers": 2, "access_log": "off"}, ("/v1/*",), ""
    )
    environment = {"XDG_RUNTIME_DIR": str(folder), "JWT_SECRET": SECRET, "TMPDIR": str(folder)} | (env or {})
    command = [sys.executable, "-m", "budgateway", "serve", "--config", str(config), *arguments]
    with running(command, environment) as server:
        server.url = f"http://127.0.0.1:{port}"
        yield server


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: that of the admin socket in it may have 107 bytes, and `tmp_path` alone can have 80."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def until_held(server: Server) -> None:
    """Wait for the first thing that the gateway does: to hold signals back. What an interpreter does before that is not its own."""
    bit = 1 << (signal.SIGHUP - 1)
    status = Path(f"/proc/{server.process.pid}/status")
    deadline = time.monotonic() + 10
    while True:
        found = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if int(found["SigBlk"], 16) & bit:
            return
        assert time.monotonic() < deadline, "it never held them"


@pytest.mark.parametrize("command", ["check", "serve", "token"])
def test_a_secret_that_is_no_text_is_refused_by_every_command(command: str, folder: Path) -> None:
    environ = {b"JWT_SECRET": b"j" * 32 + b"\xff", b"VLLM_ENDPOINTS": b"http://127.0.0.1:9", b"PATH": b"/bin"}
    done = subprocess.run(
        [sys.executable, "-m", "budgateway", command],
        cwd=folder,
        env=environ,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert b"environment: JWT_SECRET: the variable JWT_SECRET is not UTF-8 text" in done.stderr
    assert b"\xff" not in done.stderr


async def test_operators_signals_do_not_kill_a_gateway_that_starts(folder: Path) -> None:
    with starting(folder) as server:
        await asyncio.to_thread(until_held, server)
        while "listening" not in server.output:
            for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                server.process.send_signal(number)
            await asyncio.sleep(0.01)
            assert server.process.poll() is None, (server.process.returncode, server.output)
        # What was asked for during the start is done after it.
        async with asyncio.timeout(20):
            while "configuration reloaded" not in server.output or " replaces " not in server.output:
                await asyncio.sleep(0.01)
        server.wait_for("/readyz")
        assert "Traceback" not in server.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.1, 0.2, 0.3, 0.5])
async def test_a_gateway_that_starts_ends_when_it_is_told_to(
    folder: Path, after_s: float, number: signal.Signals
) -> None:
    with starting(folder) as server:
        await asyncio.to_thread(until_held, server)
        await asyncio.sleep(after_s)
        server.process.send_signal(number)
        assert await asyncio.to_thread(server.process.wait, 20) == 0, server.output
        assert "Traceback" not in server.output
        assert not list(folder.glob("**/*.sock"))
        assert not list(folder.glob("**/*.json"))


async def test_systemd_never_hears_that_a_gateway_is_ready_after_it_stops(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(folder / "notify"))
        systemd.setblocking(False)
        for index in range(6):
            place = folder / str(index)
            place.mkdir()
            with starting(place, {"NOTIFY_SOCKET": str(folder / "notify")}) as server:
                await asyncio.to_thread(until_held, server)
                await asyncio.sleep(0.1 * index)
                # A reload may be under way as well.
                server.process.send_signal(signal.SIGHUP)
                server.process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(server.process.wait, 20) == 0, server.output
            told = []
            while True:
                try:
                    told.append(systemd.recv(500).split(b"\n")[0])
                except BlockingIOError:
                    break
            if b"STOPPING=1" in told:
                assert told[-1] == b"STOPPING=1", told


@pytest.mark.parametrize("where", ["absent", "file", "unwritable"])
async def test_a_runtime_directory_that_cannot_be_used_is_said_in_a_line(folder: Path, where: str) -> None:
    place = folder / where
    if where == "file":
        place.touch()
    elif where == "unwritable":
        if os.getuid() == 0:
            pytest.skip("root writes anywhere")
        place.mkdir(0o500)
    with starting(folder, {"RUNTIME_DIRECTORY": str(place)}) as server:
        assert await asyncio.to_thread(server.process.wait, 20) == 1
        assert "Traceback" not in server.output
        assert str(place) in server.output
        assert "hint: " in server.output
