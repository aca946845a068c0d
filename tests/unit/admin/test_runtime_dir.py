"""Folders of sockets: removed with their gateway, or by the next one; nothing else is ever touched."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from budgateway.admin import runtime_dir
from budgateway.admin.runtime_dir import LOCK, VARIABLES, RuntimeDir, sweep, temporary

CHILD = """
import os, subprocess, sys
from budgateway.admin.runtime_dir import RuntimeDir
folder = RuntimeDir(sys.argv[1])
(folder.path / "admin.sock").touch()
print(folder.path, flush=True)
# A child must not hold the lock for it.
if len(sys.argv) > 2:
    subprocess.Popen(["sleep", "3"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""


def killed(base: Path, *extra: str) -> Path:
    """The folder that a gateway left."""
    command = [sys.executable, "-c", CHILD, str(base), *extra]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        left = Path(child.stdout.readline().strip())
        assert left.is_dir()
        assert sweep(base) == [], "its gateway lives"
        child.communicate("go\n")
    return left


def test_what_a_killed_gateway_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = killed(tmp_path)
    assert left.is_dir()
    living = RuntimeDir(str(tmp_path))
    assert [*tmp_path.iterdir()] == [living.path]
    assert living.path.stat().st_mode & 0o777 == 0o700
    assert sweep(tmp_path) == []
    living.close()
    living.close()
    assert [*tmp_path.iterdir()] == []


def test_what_is_not_such_a_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "budgateway-0").mkdir()
    (tmp_path / "budgateway-config").mkdir()
    (tmp_path / "budgateway-config" / LOCK).touch()
    (tmp_path / "budgateway-config" / "gateway.toml").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / LOCK).touch()
    (tmp_path / "budgateway-link").symlink_to(tmp_path / "other")
    (tmp_path / "budgateway-file").touch()
    before = sorted(tmp_path.rglob("*"))
    assert sweep(tmp_path) == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_process_that_outlives_its_gateway_does_not_keep_the_folder(tmp_path: Path) -> None:
    left = killed(tmp_path, "with a child")
    assert sweep(tmp_path) == [left]


@pytest.mark.parametrize("name", ["TMPDIR", "TEMP", "TMP"])
def test_variables_say_where_temporary_files_are(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in VARIABLES:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, f"{tmp_path}/")
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert temporary() == tmp_path


def test_the_working_directory_is_no_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    # As tempfile finds it on a read-only root file system, when nothing else can be written to.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shared = tmp_path / "shm"
    monkeypatch.setattr(runtime_dir, "SHARED_MEMORY", shared)
    with pytest.raises(FileNotFoundError, match="is writable"):
        temporary()
    shared.mkdir()
    assert temporary() == shared


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    made = RuntimeDir(str(tmp_path))
    assert not made.restore()
    shutil.rmtree(made.path)
    assert made.restore()
    assert made.path.stat().st_mode & 0o777 == 0o700
    assert sweep(tmp_path) == [], "its lock is held"
    (made.path / LOCK).unlink()
    assert made.restore()
    assert not made.restore()
    assert sweep(tmp_path) == []
    # Somebody else may make one there; root's is nobody else's.
    shutil.rmtree(made.path)
    made.path.mkdir(mode=0o777)
    made.path.chmod(0o777)
    with pytest.raises(PermissionError):
        made.restore()
    made.close()
    assert not made.restore()
    assert not made.path.exists()


def test_gateways_that_start_at_the_same_moment_leave_each_other_their_folders(tmp_path: Path) -> None:
    """Each looks for dead gateways' folders while the others make theirs."""
    failures: list[str] = []

    def start_and_stop() -> None:
        for _ in range(200):
            try:
                runtime_dir = RuntimeDir(str(tmp_path))
                if not (runtime_dir.path / LOCK).exists():
                    failures.append("removed")
                runtime_dir.close()
            except OSError as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=start_and_stop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
