"""The control channel: what a supervisor and a worker say to each other, over a pair of sockets."""

from __future__ import annotations

import asyncio
import pickle
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from budgateway.auth.vault import Trust
from budgateway.records import Settings

if TYPE_CHECKING:
    import socket
    from typing import Self

MAX_UNREAD_BYTES = 64 << 20  # some hundred large configurations: more waits for nobody who is alive

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Serve:
    """To a worker, first of all, at once or after a while as a spare: what to serve, whom to believe, and in which slot and
    row it serves."""

    settings: Settings
    trust: Trust = field(default_factory=Trust)
    index: int = 0
    row: int = 0
    accepts: bool = True  # else connections wait until it is told to (Shed)
    replaces: bool = False  # one that has served: what is missing just now must not keep it from serving


@dataclass(frozen=True, slots=True)
class Ready:
    """From a worker: it accepts connections."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """From a worker that drains: it accepts connections no more."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """To a worker: build this beside what is served; answer Prepared."""

    generation: int
    settings: Settings


@dataclass(frozen=True, slots=True)
class Prepared:
    """From a worker: it could switch now, or (`problem`) why not."""

    generation: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """To a worker: serve what was prepared."""

    generation: int


@dataclass(frozen=True, slots=True)
class Abort:
    """To a worker: drop what was prepared."""

    generation: int


@dataclass(frozen=True, slots=True)
class Shed:
    """To a worker: refuse new exchanges, or (empty) take them again; accept connections, or leave them waiting."""

    reason: str
    accepts: bool = True


@dataclass(frozen=True, slots=True)
class Shedding:
    """From a worker: it refuses new exchanges for this reason, or (empty) no more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Entrust:
    """To a worker: believe these keys from now on."""

    trust: Trust


@dataclass(frozen=True, slots=True)
class Entrusted:
    """From a worker: it believes what it was entrusted with, by its number."""

    number: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """From a worker: a token names a key of this issuer that is none of ours; read its key set again."""

    issuer: str


@dataclass(frozen=True, slots=True)
class Refreshed:
    """To a worker that wanted it: an issuer's key set was read again, or could not be; news came before this."""

    issuer: str


@dataclass(frozen=True, slots=True)
class Reopen:
    """To a worker, draining or not: the access log's file was renamed; go on in a new one."""


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
    | Entrust
    | Entrusted
    | Wanted
    | Refreshed
    | Reopen
)


class Channel:
    """One end. Messages arrive in order; either end's death is the end of both."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Self:
        """Take over a connected socket."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    async def send(self, message: Message) -> None:
        """Write a message, and wait until most of it is read. ConnectionError when the other end is gone."""
        self.post(message)
        await self._writer.drain()

    def post(self, message: Message) -> None:
        """Write a message without waiting for its reader. ConnectionError when the other end is gone, TimeoutError when it
        has not read MAX_UNREAD_BYTES."""
        if self._writer.is_closing():  # uvloop has a RuntimeError of its own for what is written then
            raise ConnectionResetError("the channel is closed")
        if self._writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            raise TimeoutError("the other end reads nothing")
        data = pickle.dumps(message)
        self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> Message | None:
        """The next message; None when the other end is gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            data = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        # Pickled by our own parent or child over an inherited descriptor: an input that nobody else can reach.
        message: Message = pickle.loads(data)  # noqa: S301
        return message

    def close(self) -> None:
        """Close. Idempotent."""
        self._writer.close()
