"""Notices clients that leave while they are not read.

An event loop that does not read a socket does not look at it either: a FIN or RST behind bytes that wait would be found when
reading goes on, which may be never. So such a socket is put into an epoll set of its own, for its end alone (EPOLLRDHUP), and
that set is one more descriptor that the loop looks at.
"""

from __future__ import annotations

import contextlib
import select
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


class Watched(Protocol):
    """Who is watched for."""

    def left(self) -> None:
        """The peer sends no more: its FIN or RST is here. Told once."""


class Watch:
    """One per worker. Without epoll, or `add_reader`, it sees nothing, and who left is found when reading goes on."""

    def __init__(self, add_reader: Callable[[int, Callable[[], None]], object] | None = None) -> None:
        self._by_fd: dict[int, Watched] = {}
        self._fds: dict[Watched, int] = {}
        self._epoll: select.epoll | None = None
        if add_reader is not None and hasattr(select, "epoll"):
            self._epoll = select.epoll()
            add_reader(self._epoll.fileno(), self._look)

    @property
    def count(self) -> int:
        """How many are watched for."""
        return len(self._fds)

    def add(self, who: Watched, sock: socket.socket | None) -> None:
        """Tell `who` when the peer of `sock` leaves."""
        if self._epoll is None or sock is None or who in self._fds:
            return
        fd = sock.fileno()
        with contextlib.suppress(OSError):  # it was closed just now
            self._epoll.register(fd, select.EPOLLRDHUP)
            self._fds[who] = fd
            self._by_fd[fd] = who

    def discard(self, who: Watched) -> None:
        """Watch for it no more."""
        fd = self._fds.pop(who, -1)
        # A descriptor that was closed meanwhile may be somebody else's by now.
        if self._epoll is not None and self._by_fd.get(fd) is who:
            del self._by_fd[fd]
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def close(self, remove_reader: Callable[[int], object]) -> None:
        """See nothing any more. Idempotent."""
        if self._epoll is not None:
            remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _look(self) -> None:
        if self._epoll is None:
            return
        for fd, _ in self._epoll.poll(0):
            who = self._by_fd.get(fd)
            if who is not None:
                self.discard(who)
                who.left()
