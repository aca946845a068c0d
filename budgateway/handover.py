"""Handing the listening sockets of one supervisor to the next, so that an upgrade refuses nobody.

The sockets are the same ones in both processes while both live: no queue is lost when the old one lets go.
"""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_SOCKETS = 64
TIMEOUT_S = 5.0
METRICS = "metrics"
SLOT = "slot"

Named = list[tuple[str, socket.socket]]


class Giver:
    """The old supervisor's side: whoever connects to `path` gets the sockets. The folder keeps others out."""

    def __init__(self, path: Path, sockets: Callable[[], Named]) -> None:
        """`sockets` are asked for anew each time; each is SLOT or METRICS."""
        self._sockets = sockets
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._give)

    def close(self) -> None:
        """Stop. The file goes with its folder."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()

    def _give(self) -> None:
        try:
            taker, _ = self._listener.accept()
        except OSError:
            return
        with taker:
            taker.settimeout(TIMEOUT_S)
            found = self._sockets()
            names = json.dumps([name for name, _ in found]).encode()
            try:
                socket.send_fds(taker, [names], [sock.fileno() for _, sock in found])
            except OSError:
                pass  # it went away again


def take(path: str) -> Named:
    """The sockets of the supervisor behind `path`. OSError when it gives none. Blocks, briefly."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as giver:
        giver.settimeout(TIMEOUT_S)
        giver.connect(path)
        data, fds, _, _ = socket.recv_fds(giver, 64 * 1024, MAX_SOCKETS)
    names: Sequence[str] = json.loads(data or b"[]")
    taken = [(name, socket.socket(fileno=fd)) for name, fd in zip(names, fds, strict=False)]
    for _, sock in taken:
        sock.setblocking(False)
    if len(names) != len(fds):
        for _, sock in taken:
            sock.close()
        raise OSError("the sockets did not all arrive")
    return taken
