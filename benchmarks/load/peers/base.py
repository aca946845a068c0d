"""Base class of the gateways under test: how each is started, and what it does to requests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from benchmarks.load.rig import pinned
from benchmarks.load.setups import MODEL, PATH, Clients, Setup

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 10.0


class NotStarted(Exception):
    """A gateway did not come up; says what it printed."""


@dataclass(slots=True)
class Launch:
    """Settings that a peer is started with."""

    upstream: str
    port: int
    folder: Path
    setup: Setup
    # What tokens are signed with.
    secret: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def upstream_port(self) -> int:
        """The upstream's port, for those that want no URL."""
        return int(self.upstream.rsplit(":", 1)[1])

    def write(self, name: str, text: str) -> Path:
        """Put a configuration file into the peer's own folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


class Peer:
    """One gateway: one process tree, held to one core, with one worker or thread."""

    name: ClassVar[str]
    # What it does, and does not do, on the measured path: stands under the table.
    does: ClassVar[str]
    # It passes the upstream's body on byte for byte.
    faithful: ClassVar[bool] = True
    # It applies the features of a set-up; the others are the same gateway in every case.
    configurable: ClassVar[bool] = False
    # It cannot carry the standard load: its cases are smaller (see cases.py).
    slow: ClassVar[bool] = False
    # Cases it fails in whatever we do, with the reason in `does`.
    cannot: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Path | None = None
        self.url = ""
        self._probe: tuple[str, dict[str, str]] = (MODEL, {})

    # ---------------------------------------------------------------- for each peer to say

    def installed(self) -> bool:
        """It can be started on this machine."""
        raise NotImplementedError

    def version(self) -> str:
        """As it tells itself."""
        raise NotImplementedError

    def command(self, launch: Launch) -> list[str]:
        """Write the configuration and return the command that runs in the foreground."""
        raise NotImplementedError

    # ---------------------------------------------------------------- life

    @property
    def pid(self) -> int:
        """Of the root of its tree."""
        assert self._process is not None
        return self._process.pid

    def start(self, upstream: str, folder: Path, core: int, setup: Setup, clients: Clients) -> None:
        """Start it and wait until it answers; raises NotStarted."""
        folder.mkdir(parents=True, exist_ok=True)
        launch = Launch(upstream, free_port(), folder, setup, clients.secret)
        command = self.command(launch)
        self._probe = setup.model_names()[0], {**clients.headers(setup), **self.headers()}
        self._log = folder / "output.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                pinned(core, command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, "TOKIO_WORKER_THREADS": "1", **launch.environment},
                start_new_session=True,
            )
        self.url = f"http://127.0.0.1:{launch.port}{PATH}"
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise NotStarted(f"{self.name} does not answer:\n{self._last_output()}")
            time.sleep(0.2)

    def freeze(self) -> None:
        """Let it use no processor while others are measured."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it and all that it started."""
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def _answers(self) -> bool:
        model, headers = self._probe
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]}).encode()
        request = urllib.request.Request(self.url, body, {"content-type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return bool(response.status == 200 and b"usage" in response.read())
        except (urllib.error.URLError, OSError):
            return False

    def headers(self) -> dict[str, str]:
        """Headers that its clients must send."""
        return {}

    def _last_output(self) -> str:
        return "" if self._log is None else self._log.read_text(errors="replace")[-2000:]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def peer_python() -> Path | None:
    """The interpreter of the environment that holds requirements-peers.txt."""
    folder = os.environ.get("BUDGATEWAY_PEERS")
    candidates = [Path(folder) / "bin" / "python"] if folder else [beside_checkout() / "peers-venv" / "bin" / "python"]
    return next((path for path in candidates if path.exists()), None)


def beside_checkout() -> Path:
    """The folder that the checkout is in."""
    return Path(__file__).resolve().parents[4]


def module_version(python: Path, distribution: str) -> str | None:
    """The version of an installed distribution; None when it is not there."""
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def tool(name: str) -> str | None:
    """A program of the system, also where Debian keeps servers."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def first_line(command: list[str]) -> str:
    """Return the first line that a program prints, such as its version."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else "?"


def own_python() -> str:
    """The interpreter that runs the comparison."""
    return sys.executable
