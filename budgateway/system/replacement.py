"""Atomic file replacement: written to a temporary file, then renamed. Owner, group, mode and ACL are kept."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import stat
import tempfile
from pathlib import Path

_ACCESS_LIST = "system.posix_acl_access"


def target(path: str | Path) -> Path:
    """Return the file that a path refers to: links are followed, whether or not their target exists."""
    return Path(os.path.realpath(path))


def replace_file(path: str | Path, data: bytes, *, lasting: bool = False) -> os.stat_result:
    """Write `data` to a file atomically, creating it if needed: readers see the old file or the new one, whole. Return
    the new file's stat.

    A link's target is replaced, never the link. A new file is readable by its owner only (0600); when root creates it,
    it belongs to the directory's owner. With `lasting`, it has been synced to disk on return. Raises PermissionError,
    without touching anything, when the file would change owner; OSError when it cannot be written. Blocks.
    """
    file = target(path)
    descriptor, beside = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            _keep(file, descriptor)
            stream.write(data)
            stream.flush()
            if lasting:
                os.fsync(descriptor)
            made = os.fstat(descriptor)
        Path(beside).replace(file)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    if lasting:
        # Sync the new name, too.
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return made


def open_lock(path: str | Path) -> int:
    """Open the lock file next to `path`, created if needed: a process that may replace the one may open the other."""
    file = target(path)
    lock = f"{file}.lock"
    how = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(lock, how | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        descriptor = os.open(lock, how)
        with contextlib.suppress(OSError):
            _give(descriptor, *_owner(file), file)  # root may have created it for root only
        return descriptor
    try:
        _give(descriptor, *_owner(file), file)
    except OSError:
        os.close(descriptor)
        Path(lock).unlink()
        raise
    return descriptor


def _keep(file: Path, descriptor: int) -> None:
    """Copy owner, group, mode and ACL of a file to its replacement."""
    try:
        found = file.stat()
    except FileNotFoundError:
        _give(descriptor, *_owner(file), file)
        return
    _give(descriptor, found.st_uid, found.st_gid, file)
    os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
    for name in _attributes(file):
        try:
            os.setxattr(descriptor, name, os.getxattr(file, name))
        except OSError as error:
            # Security labels are set by the system and may be lost; the access list is the owner's and must be kept.
            if name == _ACCESS_LIST:
                raise PermissionError(
                    errno.EPERM, f"{file} has an access control list that cannot be preserved"
                ) from error


def _owner(file: Path) -> tuple[int, int]:
    """Return the uid and gid of a file, or those a new one gets: root works for the directory's owner."""
    try:
        found = file.stat()
    except FileNotFoundError:
        if os.geteuid():
            return -1, -1
        found = file.parent.stat()
    return found.st_uid, found.st_gid


def _give(descriptor: int, uid: int, gid: int, file: Path) -> None:
    now = os.fstat(descriptor)
    if (uid, gid) in ((now.st_uid, now.st_gid), (-1, -1)):
        return
    try:
        os.fchown(descriptor, uid, gid)
    except OSError as error:
        raise PermissionError(
            errno.EPERM,
            f"{file} belongs to {_name(uid)}and would change owner: run this as that user, or as root",
        ) from error


def _name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def _attributes(file: Path) -> list[str]:
    try:
        return os.listxattr(file)
    except OSError:
        return []  # a file system without them
