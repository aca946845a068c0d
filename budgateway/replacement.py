"""Files that are replaced whole: written beside, then moved into place. Owner, group, mode and access list stay what they were."""

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
    """The file that a path means: a link is followed, wherever it leads and whether or not something is there."""
    return Path(os.path.realpath(path))


def replace_file(path: str | Path, data: bytes, *, lasting: bool = False) -> os.stat_result:
    """Put `data` in the place of a file, or make it; readers see the old one or the new one, whole. What the new one is.

    A link's target is replaced, never the link. A file that is made is readable by its owner alone (0600), who is its folder's
    when root makes it. `lasting`: it outlasts a power failure from here on. PermissionError, and nothing was touched, when
    it would become another user's; OSError when it cannot be written. Blocks.
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
        # The name, too.
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return made


def open_lock(path: str | Path) -> int:
    """The file beside `path` that its writers lock, made if need be: whoever may replace the one may open the other."""
    file = target(path)
    lock = f"{file}.lock"
    how = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(lock, how | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        descriptor = os.open(lock, how)
        with contextlib.suppress(OSError):
            _give(descriptor, *_owner(file), file)  # root may have made it for nobody but root
        return descriptor
    try:
        _give(descriptor, *_owner(file), file)
    except OSError:
        os.close(descriptor)
        Path(lock).unlink()
        raise
    return descriptor


def _keep(file: Path, descriptor: int) -> None:
    """Give what will replace a file everything but the contents of it."""
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
            # Labels are the system's own business; who may read the file is its owner's.
            if name == _ACCESS_LIST:
                raise PermissionError(errno.EPERM, f"{file} has an access list that cannot be kept") from error


def _owner(file: Path) -> tuple[int, int]:
    """User and group that a file belongs to, or would: root works for whoever has the folder."""
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
            f"{file} belongs to {_name(uid)}, and would be taken from it: run this as that user, or as root",
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
