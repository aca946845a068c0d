"""The rig: finds or builds `budgateway-load`, starts its null model server, runs its load generator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NAME = "budgateway-load"

# One run's load takes at most this long; the rest is for connecting and for the last answers.
MAX_RUN_S = 15.0
GRACE_S = 60.0

Report = dict[str, Any]


class RigError(Exception):
    """The rig could not do its work."""


def built() -> Path | None:
    """The release binary, where cargo puts it; None when there is none."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    binary = target / "release" / NAME
    return binary if binary.exists() else None


def build() -> Path:
    """Bring the release binary up to date and return it."""
    if shutil.which("cargo") is None:
        raise RigError(f"{NAME} is not built and there is no cargo to build it with")
    subprocess.run(["cargo", "build", "--quiet", "--release", "--locked", "--package", NAME], cwd=ROOT, check=True)
    binary = built()
    if binary is None:
        raise RigError(f"cargo built no {NAME}")
    return binary


def pinned(core: int | None, command: Sequence[str | Path]) -> list[str]:
    """The command, held to one core."""
    words = [str(word) for word in command]
    return words if core is None else ["taskset", "--cpu-list", str(core), *words]


@contextmanager
def upstream(binary: Path, *options: str, core: int | None = None) -> Iterator[str]:
    """The null model server, while the context lasts: its URL, without a path."""
    process = subprocess.Popen(pinned(core, [binary, "upstream", *options]), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise RigError(f"{NAME} upstream did not start: {line!r}")
        yield line.removeprefix("listening on ").strip()
    finally:
        process.kill()
        process.communicate()


def run(binary: Path, url: str, *options: str, core: int | None = None) -> Report:
    """One run of the load generator: its report, whether all went well or not. Raises RigError when it could not run."""
    command = pinned(core, [binary, "run", *options, url])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MAX_RUN_S + GRACE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise RigError(f"{NAME} run did not end: {' '.join(command)}") from error
    if done.returncode not in (0, 1):
        raise RigError(f"{' '.join(command)}: {done.stderr.strip()}")
    report: Report = json.loads(done.stdout)
    return report
