"""A gateway under operation: its folder, its admin server, its workers; and clients that count errors."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from downstream import Downstream
from integration.gateways import write_configuration
from integration.processes import Server, running
from ports import free_port
from upstreams import faults
from upstreams.faulty import Answer, Peer
from upstreams.wire import Received, chunk, head

from budgateway.admin.client import AdminClient, Unreachable

SECRET = "a secret of more than thirty-two bytes"
CHAT = "/v1/chat/completions"
JSON = [("content-type", "application/json")]
PLAIN_BODY = b'{"model":"demo","messages":[]}'
STREAM_BODY = b'{"model":"demo","stream":true,"stream_options":{"include_usage":true},"messages":[]}'
ENDLESS_BODY = b'{"model":"demo","stream":true,"stream_options":{"include_usage":true},"messages":[],"n":1}'  # of a stream that does not go on
EVENTS = faults.chat_events("one", "two", "three")


class Operated:
    """A running gateway and the means to operate it."""

    def __init__(
        self,
        server: Server,
        folder: Path,
        runtime: Path,
        options: dict[str, Any],
        command: list[str],
        environment: dict[str, str],
    ) -> None:
        self.serve = command
        self.environment = environment
        self.server = server
        self.url = server.url
        self.folder = folder
        self._runtime = runtime
        self._options = options
        self._admin_path = ""

    async def call(self, method: str, path: str) -> tuple[int, Any]:
        """Call the admin server over its socket."""
        return await asyncio.to_thread(self._ask, method, path)

    def _ask(self, method: str, path: str) -> tuple[int, Any]:
        if not self._admin_path:
            # Read as it lies there: of another PID name space it would pass for a dead gateway's. Left a moment after
            # the gateway is ready.
            deadline = time.monotonic() + 20
            while not (found := list((self._runtime / "budgateway").glob("*.json"))):
                assert time.monotonic() < deadline, "the gateway left no card"
                time.sleep(0.01)
            (instance,) = found
            self._admin_path = json.loads(instance.read_text())["office"]
        return AdminClient(admin=self._admin_path).call(method, path)

    async def stats(self) -> dict[str, Any]:
        status, facts = await self.call("GET", "/admin/stats")
        assert status == 200
        found: dict[str, Any] = facts
        return found

    async def metrics(self) -> str:
        """Return the metrics, as Prometheus would scrape them."""
        async with Downstream(self.url) as client:
            return (await client.ask("GET", "/metrics")).body.decode()

    async def pids(self) -> list[int]:
        """Of the workers that serve."""
        return [worker["pid"] for worker in (await self.stats())["workers"] if worker["state"] == "ready"]

    async def until(self, holds: Callable[[dict[str, Any]], bool], timeout_s: float = 15.0) -> float:
        """Wait until the statistics say so: the seconds it took."""
        began = time.monotonic()
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    if holds(await self.stats()):
                        return time.monotonic() - began
                except Unreachable:
                    pass
                await asyncio.sleep(0.005)

    def configure(self, urls: list[str], **changes: Any) -> None:
        """Write another configuration over the one that is served."""
        options = self._options | changes
        options["settings"] = self._options["settings"] | options["settings"]
        write_configuration(
            self.folder, int(self.url.rpartition(":")[2]), urls, options["kind"], options["provider"],
            options["route"], options["settings"], options["paths"], options["extra"],
        )  # fmt: skip

    @asynccontextmanager
    async def successor(self, *words: str) -> AsyncIterator[Server]:
        """Another gateway of the same configuration, told (`--take-over`) to take this one's place, or on its own; ready when
        the context begins."""
        context = running([*self.serve, *words], self.environment)
        server = await asyncio.to_thread(context.__enter__)
        try:
            async with asyncio.timeout(20):
                while "listening" not in server.output:
                    assert server.process.poll() is None, server.output
                    await asyncio.sleep(0.02)
            yield server
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)

    async def command(self, *words: str) -> tuple[int, str]:
        """Run `budgateway` as this gateway's operator would: exit status, and what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "budgateway", *words,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={"PATH": os.environ["PATH"]} | self.environment,
        )  # fmt: skip
        printed, _ = await process.communicate()
        return process.returncode or 0, printed.decode()

    def signal(self, number: signal.Signals) -> None:
        """To the supervisor."""
        self.server.process.send_signal(number)

    async def ended(self, timeout_s: float = 20.0) -> int:
        """Wait for the supervisor's end: its status."""
        return await asyncio.to_thread(self.server.process.wait, timeout_s)


@asynccontextmanager
async def operated(
    urls: list[str],
    *,
    workers: int = 2,
    extra: str = "",
    env: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    before: Sequence[str] = (),
    **given: Any,
) -> AsyncIterator[Operated]:
    """A ready gateway of several workers before these upstreams."""
    settings = {"workers": workers, "access_log": "off"} | given.pop("settings", {})
    options: dict[str, Any] = {"kind": "openai", "provider": {}, "route": {}, "paths": ("/v1/*",), "extra": extra}
    options |= {"settings": settings} | given
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="budgateway-operated-") as temporary:
        folder, runtime = Path(temporary) / "config", Path(temporary) / "run"
        folder.mkdir()
        runtime.mkdir()
        write_configuration(
            folder, port, urls, options["kind"], options["provider"], options["route"], options["settings"],
            options["paths"], options["extra"],
        )  # fmt: skip
        command = [*before, sys.executable, "-m", "budgateway", "serve", "--config", str(folder), *arguments]
        environment = {"XDG_RUNTIME_DIR": str(runtime), "JWT_SECRET": SECRET} | dict(env or {})
        context = running(command, environment)
        server = await asyncio.to_thread(context.__enter__)
        try:
            server.url = f"http://127.0.0.1:{port}"
            await asyncio.to_thread(server.wait_for, "/readyz")
            yield Operated(server, folder, runtime, options, command, environment)
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)


def model_server(gate: asyncio.Event) -> Answer:
    """Plain requests are answered at once; streams begin, and go on when the gate opens."""

    async def answer(peer: Peer, request: Received) -> None:
        if b'"stream"' not in request.body:
            await peer.send(faults.chat_bytes())
            return
        await peer.send(head(200, [faults.EVENT_STREAM, faults.CHUNKED], reason="OK") + chunk(EVENTS[0]))
        if request.body == ENDLESS_BODY:
            await peer.gone()
        await gate.wait()
        for event in EVENTS[1:]:
            await peer.send(chunk(event))
        await peer.send(chunk(b""))

    return answer


class Streams:
    """Open event streams, each on a connection of its own."""

    def __init__(self, clients: list[Downstream]) -> None:
        self.clients = clients

    async def ends(self) -> Counter[str]:
        """Count the endings of the streams: whole, told (an error event), cut."""
        found: Counter[str] = Counter()
        for client in self.clients:
            try:
                answer = await client.answer()
            except ConnectionError:
                found["cut"] += 1
                continue
            if answer.is_complete and bytes(answer.body) == b"".join(EVENTS):
                found["whole"] += 1
            elif not answer.is_complete and b'"code": "draining"' in answer.body:
                found["told"] += 1
            else:
                found["cut"] += 1
        return found


@asynccontextmanager
async def streams(url: str, count: int, body: bytes = STREAM_BODY) -> AsyncIterator[Streams]:
    """So many streams, each past its first event."""
    clients = [Downstream(url) for _ in range(count)]
    try:
        for client in clients:
            await client.__aenter__()
            lines = [f"POST {CHAT} HTTP/1.1", "Host: gateway", "Content-Type: application/json"]
            lines.append(f"Content-Length: {len(body)}")
            await client.send("\r\n".join([*lines, "", ""]).encode() + body)
        for client in clients:
            await client.until_body(len(EVENTS[0]))
        yield Streams(clients)
    finally:
        for client in clients:
            await client.__aexit__(None, None, None)


class Clients:
    """Loops that send plain requests, each on a new connection, and count how they end."""

    def __init__(self, url: str, count: int) -> None:
        self.ends: Counter[str] = Counter()
        self._url = url
        self._count = count
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._loop()) for _ in range(self._count)]
        return self

    def stop(self) -> None:
        """Begin no more."""
        self._stop = True

    async def __aexit__(self, *error: object) -> None:
        self.stop()
        await asyncio.gather(*self._tasks)

    async def _loop(self) -> None:
        while not self._stop:
            self.ends[await once(self._url)] += 1


async def once(url: str) -> str:
    """One request on a connection of its own: its status, or `refused`, `reset`, `closed`, `cut`."""
    client = Downstream(url)
    try:
        await client.__aenter__()
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "reset"
    try:
        async with asyncio.timeout(20):
            answer = await client.ask("POST", CHAT, PLAIN_BODY, JSON)
        return str(answer.status) if answer.is_complete else "cut"
    except ConnectionResetError:
        return "reset"
    except ConnectionError:
        return "closed"
    finally:
        await client.__aexit__(None, None, None)


def open_files(pid: int) -> int:
    """Return the number of open descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def is_alive(pid: int) -> bool:
    """True while a process runs; false for a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
