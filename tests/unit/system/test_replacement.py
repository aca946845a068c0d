"""Files that are replaced keep what they had but for their contents, or are left as they are."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from budgateway.credentials import api_keys
from budgateway.credentials.keyfile import KeyFile
from budgateway.system.replacement import open_lock, replace_file

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")


def owner(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def by_nobody(work: Callable[[], object]) -> str:
    """Run it as a user who is not root: what it raises, in words."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        said = ""
        try:
            work()
        except OSError as error:
            said = f"{type(error).__name__}: {error.strerror}"
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        said = stream.read()
    os.waitpid(pid, 0)
    return said


def test_a_file_that_is_made_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = replace_file(tmp_path / "new", b"data")
    finally:
        os.umask(before)
    assert (tmp_path / "new").read_bytes() == b"data"
    assert owner(tmp_path / "new") == (os.geteuid(), tmp_path.stat().st_gid, 0o600)
    assert made.st_ino == (tmp_path / "new").stat().st_ino


@pytest.mark.parametrize("mode", [0o400, 0o640, 0o664])
def test_its_mode_stays(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "file"
    file.touch()
    file.chmod(mode)
    replace_file(file, b"data", lasting=True)
    assert (file.read_bytes(), owner(file)[2]) == (b"data", mode)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to("there/file")
    for data in (b"one", b"two"):  # made, and replaced
        replace_file(link, data)
        assert link.is_symlink()
        assert (tmp_path / "there" / "file").read_bytes() == data
    # Whoever comes by the link and whoever comes by the name wait for each other.
    for path in (link, tmp_path / "there" / "file"):
        os.close(open_lock(path))
    assert sorted(entry.name for entry in (tmp_path / "there").iterdir()) == ["file", "file.lock"]


def test_extended_attributes_stay(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    try:
        os.setxattr(file, "user.note", b"mine")
    except OSError:
        pytest.skip("the file system has none")
    replace_file(file, b"data")
    assert os.getxattr(file, "user.note") == b"mine"


@as_root
def test_its_owner_stays_when_root_replaces_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.chown(file, NOBODY, 1234)
    file.chmod(0o640)
    replace_file(file, b"data")
    assert owner(file) == (NOBODY, 1234, 0o640)


@as_root
def test_what_root_makes_is_the_folders_owners(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    KeyFile(str(tmp_path / "keys.json")).change(partial(api_keys.create, name="k", wishes={}, now=0))
    assert owner(tmp_path / "keys.json") == (NOBODY, NOBODY, 0o600)
    # The gateway can go on with both.
    assert owner(tmp_path / "keys.json.lock") == (NOBODY, NOBODY, 0o600)
    os.chown(tmp_path / "keys.json.lock", 0, 0)
    KeyFile(str(tmp_path / "keys.json")).change(partial(api_keys.switch, name="k", disabled=True))
    assert owner(tmp_path / "keys.json.lock") == (NOBODY, NOBODY, 0o600)


@as_root
def test_what_would_become_another_users_is_refused_and_untouched(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if parent.name.startswith(("pytest-", "popen-")):  # one more where several processes share the tests
            parent.chmod(0o755)
    keys = KeyFile(str(tmp_path / "keys.json"))
    keys.change(partial(api_keys.create, name="k", wishes={}, now=0))
    (tmp_path / "keys.json").chmod(0o644)
    (tmp_path / "keys.json.lock").unlink()
    before = (tmp_path / "keys.json").read_bytes(), owner(tmp_path / "keys.json")
    for work in (
        partial(keys.change, partial(api_keys.switch, name="k", disabled=True)),
        partial(replace_file, tmp_path / "keys.json", b"data"),
    ):
        said = by_nobody(work)
        assert said.startswith("PermissionError: ")
        assert "keys.json belongs to user root" in said
    assert ((tmp_path / "keys.json").read_bytes(), owner(tmp_path / "keys.json")) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]
