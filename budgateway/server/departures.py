"""Detects clients that leave while reading is paused.

An event loop does not watch a socket that it does not read: a FIN or RST behind unread bytes would be found when
reading goes on, which may be never. Such a socket is put into a separate epoll set, which watches for its end only
(EPOLLRDHUP), and the loop watches the set's descriptor.
"""

from __future__ import annotations

import contextlib
import select
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


class Watched(Protocol):
    """The object to notify: a connection's protocol."""

    def left(self) -> None:
        """Handle the peer's FIN or RST. Called once."""


class Departures:
    """The watch of one worker. Without epoll or `add_reader` it does nothing: a client's end is found when reading goes
    on."""

    def __init__(self, add_reader: Callable[[int, Callable[[], None]], object] | None = None) -> None:
        self._by_fd: dict[int, Watched] = {}
        self._fds: dict[Watched, int] = {}
        self._epoll: select.epoll | None = None
        if add_reader is not None and hasattr(select, "epoll"):
            self._epoll = select.epoll()
            add_reader(self._epoll.fileno(), self._look)

    @property
    def count(self) -> int:
        """The number of sockets watched."""
        return len(self._fds)

    def add(self, who: Watched, sock: socket.socket | None) -> None:
        """Call `who.left` when the peer of `sock` leaves."""
        if self._epoll is None or sock is None or who in self._fds:
            return
        fd = sock.fileno()
        with contextlib.suppress(OSError):  # it was closed just now
            self._epoll.register(fd, select.EPOLLRDHUP)
            self._fds[who] = fd
            self._by_fd[fd] = who

    def discard(self, who: Watched) -> None:
        """Stop watching for `who`."""
        fd = self._fds.pop(who, -1)
        # A descriptor that was closed meanwhile may have another owner by now.
        if self._epoll is not None and self._by_fd.get(fd) is who:
            del self._by_fd[fd]
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def close(self, remove_reader: Callable[[int], object]) -> None:
        """Stop watching. Idempotent."""
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
