"""A container with a read-only root file system, and no folder for temporary files: it works, or says why not in a line."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from integration.processes import running
from ports import free_port

TEMPORARY = ("/tmp", "/var/tmp")


def _hiding(*folders: str) -> list[str]:
    """The beginning of a command for which nobody may write to these folders, and nothing is in them."""
    mounts = " && ".join(f"mount -t tmpfs -o ro none {shlex.quote(folder)}" for folder in folders)
    return ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]


def _may_mount() -> bool:
    command = [*_hiding("/tmp"), "true"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


pytestmark = [pytest.mark.integration, pytest.mark.skipif(not _may_mount(), reason="no right to mount anything")]


def _command(port: int, *hidden: str) -> tuple[list[str], dict[str, str]]:
    command = [*_hiding(*hidden), sys.executable, "-m", "budgateway", "serve", "--port", str(port), "--workers", "1"]
    return command, {"VLLM_ENDPOINTS": "http://127.0.0.1:9", "ENABLE_METRICS": "false", "TMPDIR": ""}


def test_without_a_folder_for_temporary_files_shared_memory_serves() -> None:
    port = free_port()
    with running(*_command(port, *TEMPORARY), cwd=Path("/")) as server:
        server.url = f"http://127.0.0.1:{port}"
        server.wait_for("/readyz")
        assert list(Path("/dev/shm").glob("budgateway-*"))
        assert not list(Path("/").glob("budgateway-*"))
        assert "Traceback" not in server.output
    assert not list(Path("/dev/shm").glob("budgateway-*/admin.sock"))


def test_with_no_folder_at_all_a_line_says_so() -> None:
    with running(*_command(free_port(), *TEMPORARY, "/dev/shm"), cwd=Path("/")) as server:
        assert server.process.wait(30) == 1
        first, hint = server.output.splitlines()
        assert first.startswith("budgateway: cannot make a folder for sockets: none of /tmp, ")
        assert "TMPDIR" in hint
