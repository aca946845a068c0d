"""The control channel: messages between the supervisor and a worker, over a socket pair."""

from __future__ import annotations

import asyncio
import pickle
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from budgateway.auth.credential_store import CredentialSet
from budgateway.config.packing import Packed
from budgateway.records import Settings

if TYPE_CHECKING:
    import socket
    from typing import Self

MAX_UNREAD_BYTES = 64 << 20  # some hundred large configurations: a reader this far behind is dead

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Serve:
    """To a worker, its first message, sent at once or after it has waited: the settings, the credentials, and the slot
    and row to serve in."""

    settings: Settings
    credentials: CredentialSet = field(default_factory=CredentialSet)
    index: int = 0
    row: int = 0
    accepts: bool = True  # False: connections wait until a Shed message sets it
    replaces: bool = False  # a worker that has served: a temporarily missing resource must not stop this one


@dataclass(frozen=True, slots=True)
class Ready:
    """From a worker: it is ready to serve."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """From a draining worker: it accepts no more connections."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """To a worker: build this configuration next to the current one, and answer Prepared. The worker goes on to heed
    other messages meanwhile."""

    generation: int
    packed: Packed = field(repr=False)  # with secrets


@dataclass(frozen=True, slots=True)
class Prepared:
    """From a worker: it could switch now, or (`problem`) the reason why not."""

    generation: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """To a worker: serve what was prepared."""

    generation: int


@dataclass(frozen=True, slots=True)
class Abort:
    """To a worker: drop what was prepared, or stop preparing it."""

    generation: int


@dataclass(frozen=True, slots=True)
class Shed:
    """To a worker: refuse new exchanges, or (empty) accept them again; accept connections, or leave them queued."""

    reason: str
    accepts: bool = True


@dataclass(frozen=True, slots=True)
class Shedding:
    """From a worker: it refuses new exchanges for this reason, or (empty) accepts them again."""

    reason: str


@dataclass(frozen=True, slots=True)
class UpdateCredentials:
    """To a worker: use these credentials from now on."""

    credentials: CredentialSet


@dataclass(frozen=True, slots=True)
class CredentialsUpdated:
    """From a worker: it uses the credentials of this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """From a worker: a token names an unknown key of this issuer; fetch its key set again."""

    issuer: str


@dataclass(frozen=True, slots=True)
class Refreshed:
    """To a worker that sent Wanted: the fetch of an issuer's key set ended, successfully or not. A new key set is sent
    before this."""

    issuer: str


@dataclass(frozen=True, slots=True)
class Spans:
    """From a worker: records of traced exchanges, their number, and the number of those that it had to drop."""

    records: bytes
    kept: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Reopen:
    """To a worker, draining or not: the access log's file was renamed; open a new one."""


Message = (
    Serve
    | Ready
    | Stopped
    | Prepare
    | Prepared
    | Commit
    | Abort
    | Shed
    | Shedding
    | UpdateCredentials
    | CredentialsUpdated
    | Wanted
    | Refreshed
    | Spans
    | Reopen
)


class Channel:
    """One end of the channel. Messages arrive in order; when either end is closed, both are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Self:
        """Create a channel over a connected socket, and take ownership of it."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    async def send(self, message: Message) -> None:
        """Write a message, and wait until most of it is read. Raises ConnectionError when the other end is gone."""
        self.post(message)
        await self._writer.drain()

    def post(self, message: Message) -> None:
        """Write a message without waiting for its reader. Raises ConnectionError when the other end is gone,
        TimeoutError when it has more than MAX_UNREAD_BYTES to read."""
        if self._writer.is_closing():  # uvloop would raise a RuntimeError for a write
            raise ConnectionResetError("the channel is closed")
        if self._writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            raise TimeoutError("the other end reads nothing")
        data = pickle.dumps(message)
        self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> Message | None:
        """Return the next message, or None when the other end is gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            data = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        # Pickled by our own parent or child over an inherited descriptor: nobody else can write to it.
        message: Message = pickle.loads(data)  # noqa: S301
        return message

    def close(self) -> None:
        """Close. Idempotent."""
        self._writer.close()
