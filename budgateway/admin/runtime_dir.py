"""The runtime directory with a gateway's unix sockets, created at start and removed at the end."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import threading
from pathlib import Path

# Where `tempfile` looks, except the working directory.
VARIABLES = ("TMPDIR", "TEMP", "TMP")
SYSTEMS = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 - folders are made there with mkdtemp
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - as above

PREFIX = "budgateway-"
LOCK = "lock"
# Our folders never hold anything else; a folder that does is not ours.
ADMIN_SOCKET = "admin.sock"
HANDOVER = "handover.sock"
_OURS = frozenset({LOCK, ADMIN_SOCKET, HANDOVER})


class RuntimeDir:
    """A directory of mode 0700. Holds a lock for the gateway's lifetime; children do not inherit it."""

    def __init__(self, within: str | None = None) -> None:
        """Create a directory in `within` (else where temporary files are) and remove those that dead gateways left
        there. Raises OSError when it cannot."""
        base = Path(within) if within else temporary()
        sweep(base)
        self.path, self._lock = _made_in(base)
        self._turn = threading.Lock()

    def restore(self) -> bool:
        """Recreate the directory under the same path when a cleaner of temporary files removed it or its lock; return
        whether it did. Raises OSError when it cannot, for example because another user created one there. May be called
        in a thread."""
        with self._turn:
            if self._lock < 0 or _is_at(self._lock, self.path / LOCK):
                return False
            self._make_again()
            return True

    def _make_again(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(errno.EPERM, f"{self.path} belongs to another user")
        lock, before = _locked(self.path), self._lock
        self._lock = lock
        os.close(before)

    def close(self) -> None:
        """Remove the directory. Idempotent."""
        with self._turn:
            shutil.rmtree(self.path, ignore_errors=True)
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1


def _made_in(base: Path) -> tuple[Path, int]:
    """Create a folder; return its path and the descriptor that holds its lock.

    A gateway that starts at the same moment may find the lock file before it is locked, take the folder for a dead
    gateway's and remove it; then another folder is created.
    """
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        try:
            lock = _locked(path)
        except (BlockingIOError, FileNotFoundError):
            continue
        if _is_at(lock, path / LOCK):
            return path, lock
        os.close(lock)


def _is_at(descriptor: int, path: Path) -> bool:
    """True when an open file is the one at a path."""
    ours = os.fstat(descriptor)
    try:
        there = path.lstat()
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _locked(folder: Path) -> int:
    """Lock a folder and return the descriptor that holds the lock."""
    lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def temporary() -> Path:
    """Return a writable directory for temporary files. Raises OSError when there is none.

    It is never the working directory, the last resort of `tempfile`: on a read-only root without /tmp it is shared
    memory.
    """
    try:
        found = Path(tempfile.gettempdir())
    except FileNotFoundError:
        found = Path()
    named = [os.environ.get(name, "") for name in VARIABLES]
    if str(found) in {*SYSTEMS, *(os.path.abspath(name) for name in named if name.startswith("/"))}:  # noqa: PTH100
        return found
    if os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        return SHARED_MEMORY
    raise FileNotFoundError(errno.ENOENT, f"none of {', '.join(SYSTEMS)} and {SHARED_MEMORY} is writable")


def sweep(base: Path) -> list[Path]:
    """Remove the folders of this user's gateways that were killed, those whose lock is free; return their paths."""
    removed = []
    for folder in base.glob(f"{PREFIX}*"):
        try:
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            if not {entry.name for entry in folder.iterdir()} <= _OURS:
                continue
            # A folder without a lock is still being created, or is not ours.
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its gateway is running
        else:
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
        finally:
            os.close(lock)
    return removed
