"""Redis replies: values, errors, and the sinks that receive either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

Word = str | bytes | int | float
Reply = bytes | int | list["Reply"] | None

# Errors of an unfit server: nothing was done, and a retry on this connection is pointless. Other errors (NOSCRIPT,
# WRONGTYPE, ERR) concern only the one command.
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
    """A command has no reply. `code` is DOWN, LOST (sent, and it may or may not have run), TIMEOUT (the same), or the
    first word of the server's error."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code or message.partition(" ")[0]

    @property
    def is_unfit(self) -> bool:
        """True when the server as a whole cannot serve us."""
        return self.code in UNFIT


class Sink(Protocol):
    """Receiver of one reply. It owns no connection: exactly one of `done` and `failed` is called, once, from the
    loop."""

    def done(self, reply: Reply) -> None:
        """Take a reply that came in time."""

    def failed(self, error: StoreError) -> None:
        """Take an error, from the server or because there is no reply."""

    def late(self, reply: Reply | StoreError) -> None:
        """Take a reply that came after `failed` with TIMEOUT."""


class Waiter:
    """A sink that sets a future. When the future is cancelled the reply is dropped; it never reaches the next
    command."""

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
