"""What comes back from the store, and to whom: replies, reasons for there being none, and sinks that take either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

Word = str | bytes | int | float
Reply = bytes | int | list["Reply"] | None

# The server said no: nothing was done, and asking again on this connection is in vain. What else it says (NOSCRIPT,
# WRONGTYPE, ERR) is about the one command.
UNFIT = frozenset(
    {
        "READONLY",  # a replica
        "LOADING",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "MOVED",
        "ASK",
        "TRYAGAIN",
        "MISCONF",
        "OOM",
        "BUSY",
        "NOAUTH",
        "NOPERM",
        "WRONGPASS",
        "NOREPLICAS",
    }
)


class StoreError(Exception):
    """There is no reply. `code` says why: DOWN, LOST (sent, and nobody knows whether it was done), TIMEOUT (the same), or
    the first word of what the server said."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code or message.partition(" ")[0]

    @property
    def is_unfit(self) -> bool:
        """Whether the server as a whole cannot serve us."""
        return self.code in UNFIT


class Sink(Protocol):
    """Who waits for a reply. It owns no connection: exactly one of `done` and `failed` is called, once, from the loop."""

    def done(self, reply: Reply) -> None:
        """The reply came in time."""

    def failed(self, error: StoreError) -> None:
        """There is none, or an error."""

    def late(self, reply: Reply | StoreError) -> None:
        """After `failed` with TIMEOUT: the reply came all the same."""


class Waiter:
    """A sink for somebody who awaits a future. Cancelling the future leaves the reply to nobody, never to the next one."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[Reply]) -> None:
        self._future = future

    def done(self, reply: Reply) -> None:
        if not self._future.done():
            self._future.set_result(reply)

    def failed(self, error: StoreError) -> None:
        if not self._future.done():
            self._future.set_exception(error)

    def late(self, reply: Reply | StoreError) -> None:
        pass
