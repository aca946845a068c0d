"""API keys in a file: read whole, written anew and moved into place, one writer at a time."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from budgateway.auth.keybook import Changed, Keys, book, keys_of

MAX_BYTES = 256 << 20


class KeyFile:
    """The file comes into being with its first key, readable by nobody else (0600)."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def read(self) -> Keys:
        """All keys, none while there is no file. OSError or ValueError when it cannot be read."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return ()
        if len(data) > MAX_BYTES:
            raise ValueError("it is too large")
        try:
            document = json.loads(data)
        except RecursionError as error:
            raise ValueError("it is no JSON") from error
        return keys_of(document)

    def change(self, edit: Callable[[Keys], Changed]) -> Changed:
        """Replace the keys by what `edit` makes of them; readers see the old file or the new one, whole."""
        return self.change_noted(edit)[0]

    def change_noted(self, edit: Callable[[Keys], Changed]) -> tuple[Changed, object]:
        """The same, with the version that this change made: the file may be another one by now."""
        # A lock of its own: the file itself is another one after each change.
        lock = os.open(self._path.with_name(self._path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            changed = edit(self.read())
            return changed, self._write(json.dumps(book(changed.keys), indent=1).encode() + b"\n")
        finally:
            os.close(lock)

    def version(self) -> object:
        """Of the file as it is now."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return _version(found)

    def _write(self, data: bytes) -> object:
        # mkstemp's mode is 0600, and stays: what replaces the file has never been readable by others.
        descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
                version = _version(os.fstat(stream.fileno()))
            os.replace(name, self._path)  # noqa: PTH105
        except BaseException:
            os.unlink(name)  # noqa: PTH108
            raise
        # The name, too, must outlast a power failure.
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return version


def _version(found: os.stat_result) -> object:
    return found.st_mtime_ns, found.st_size, found.st_ino
