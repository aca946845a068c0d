"""PEM files kept in memory, so that a process started later serves what was read, whatever happened to the files."""

from __future__ import annotations

import os
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pem:
    """The contents of a file of certificates or keys. Its repr hides them."""

    __slots__ = ("_contents",)

    def __init__(self, contents: bytes) -> None:
        self._contents = contents

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pem) and self._contents == other._contents

    def __hash__(self) -> int:
        return hash(self._contents)

    @contextmanager
    def as_file(self) -> Iterator[str]:
        """Yield a path from which OpenSSL can read the contents while the block runs; they are never written to a
        disk."""
        fd = os.memfd_create("pem", os.MFD_CLOEXEC)
        try:
            left = memoryview(self._contents)
            while left:
                left = left[os.write(fd, left) :]
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)


def read_pem(path: str) -> Pem:
    """Return a file's contents. Raises OSError when it cannot be read."""
    with open(path, "rb") as file:  # noqa: PTH123 - workers import no pathlib for this
        return Pem(file.read())


def load_pair(context: ssl.SSLContext, cert: Pem | str, key: Pem | str) -> None:
    """Load a certificate and its key, in memory or from files. Raises ssl.SSLError, OSError or ValueError when they do
    not match or cannot be read."""
    with _path(cert) as cert_path, _path(key) as key_path:
        # An explicit password keeps OpenSSL from asking for one on the terminal.
        context.load_cert_chain(cert_path, key_path, password="")


def trusting(authorities: Pem | str, *, verify: bool = True) -> ssl.SSLContext:
    """Return a client context that trusts these authorities, in memory or a file; the system's for "". Without `verify`
    any certificate is good. Raises ssl.SSLError or OSError when the file holds no certificates."""
    if authorities:
        with _path(authorities) as path:
            context = ssl.create_default_context(cafile=path)
    else:
        context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def _path(source: Pem | str) -> Iterator[str]:
    if isinstance(source, str):
        yield source
    else:
        with source.as_file() as path:
            yield path
