"""API keys in a file: read whole, rewritten and moved into place, one writer at a time."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

from budgateway.credentials.api_keys import Changed, Keys, book, keys_of
from budgateway.system.replacement import open_lock, replace_file

MAX_BYTES = 256 << 20


class KeyFile:
    """The keys file. It is created with the first key, readable only by its owner (0600), and then keeps its owner,
    group and mode, whoever changes a key. Raises PermissionError when it could not."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def read(self) -> Keys:
        """Return all keys, none while the file does not exist. Raises OSError or ValueError when it cannot be read."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return ()
        if len(data) > MAX_BYTES:
            raise ValueError("it is too large")
        try:
            document = json.loads(data)
        except RecursionError as error:
            raise ValueError("it is not JSON") from error
        return keys_of(document)

    def change(self, edit: Callable[[Keys], Changed]) -> Changed:
        """Replace the keys with the result of `edit`. Readers see the old file or the new one, whole."""
        return self.change_noted(edit)[0]

    def change_noted(self, edit: Callable[[Keys], Changed]) -> tuple[Changed, object]:
        """Change the keys as `change` does; also return the version that this made, because the file may have another
        one by now."""
        # A separate lock file: each change replaces the keys file itself.
        lock = open_lock(self._path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            changed = edit(self.read())
            data = json.dumps(book(changed.keys), indent=1).encode() + b"\n"
            return changed, _version(replace_file(self._path, data, lasting=True))
        finally:
            os.close(lock)

    def version(self) -> object:
        """Return the file's current version (mtime, size, inode); None when the file cannot be examined."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return _version(found)


def _version(found: os.stat_result) -> object:
    return found.st_mtime_ns, found.st_size, found.st_ino
