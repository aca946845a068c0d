"""Servers in processes of their own: started, waited for, stopped, and their output shown when they fail."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 60.0  # LiteLLM imports for ten seconds on a busy machine
STOP_S = 10.0

# Nothing of the caller's surroundings decides what a server under test does: no proxies, keys, endpoints.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START")


class Server:
    """A running process and where it listens."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, url: str = "") -> None:
        self.process = process
        self.log = log
        self.url = url

    @property
    def output(self) -> str:
        """Everything it has written so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, ready: str) -> None:
        """Wait until GET on that path answers 200; raises AssertionError with the output when it never does."""
        deadline = time.monotonic() + START_S
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"exited with {self.process.returncode}:\n{self.output}")
            try:
                with opener.open(self.url + ready, timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.02)
        raise AssertionError(f"{self.url}{ready} was not ready in {START_S:.0f} s:\n{self.output}")

    def wait_for_url(self) -> None:
        """Wait for the first http URL on its output and take it as its own."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            found = re.search(r"http://[0-9.]+:\d+", self.output)
            if found:
                self.url = found[0]
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"printed no URL:\n{self.output}")


@contextmanager
def running(
    command: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Server]:
    """The process, stopped by SIGTERM (SIGKILL when that does not do) at the end, with all its children."""
    surroundings = {name: os.environ[name] for name in _KEPT if name in os.environ} | dict(env or {})
    with tempfile.TemporaryDirectory(prefix="budgateway-") as folder:
        log = Path(folder) / "output"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=surroundings,
                cwd=cwd,
                start_new_session=True,
            )
        try:
            yield Server(process, log)
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it and everything it started."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
    try:
        os.killpg(process.pid, signal.SIGKILL)  # children that outlived it
    except ProcessLookupError:
        pass
    process.wait()
