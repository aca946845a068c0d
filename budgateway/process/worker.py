"""A worker: one data plane in its own process, started by the supervisor."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import uvloop

from budgateway import native
from budgateway.app.dataplane import DataPlane, settle_memory
from budgateway.app.preload import preload, reads_keys
from budgateway.config.packing import unpacking
from budgateway.errors import GatewayError
from budgateway.process.control import (
    Abort,
    Channel,
    Commit,
    CredentialsUpdated,
    Message,
    Prepare,
    Prepared,
    Ready,
    Refreshed,
    Reopen,
    Serve,
    Shed,
    Shedding,
    Spans,
    Stopped,
    UpdateCredentials,
    Wanted,
)
from budgateway.process.fork_server import become
from budgateway.system import log
from budgateway.system.signals import ENDS, SAY_WHERE, ignore
from budgateway.system.slices import in_slices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgateway.app.dataplane import Successor

_log = logging.getLogger("budgateway.worker")


class Worker:
    """Executes the supervisor's messages until the channel closes."""

    def __init__(self, plane: DataPlane, channel: Channel) -> None:
        self._plane = plane
        self._channel = channel
        self._preparing: dict[int, asyncio.Task[None]] = {}
        self._prepared: dict[int, Successor] = {}

    async def obey(self) -> None:
        """Execute messages; return when the supervisor is gone, because a worker without one has nobody to replace
        it."""
        while (message := await self._channel.receive()) is not None:
            await self._heed(message)

    def tell_shedding(self, reason: str) -> None:
        """Report to the supervisor that new exchanges are refused, or (empty) accepted again."""
        self._plane.spawn(self._channel.send(Shedding(reason)))

    def send_spans(self, records: bytes, kept: int, dropped: int) -> None:
        """Send records of traced exchanges to the supervisor, unless it has stopped reading."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            self._channel.post(Spans(records, kept, dropped))

    def want(self, issuer: str) -> None:
        """Make the supervisor fetch an issuer's keys again."""
        self._plane.spawn(self._channel.send(Wanted(issuer)))

    async def _heed(self, message: Message) -> None:
        if isinstance(message, Prepare):
            # A task: a revoked key in the next message must not wait for it.
            self._preparing[message.generation] = self._plane.spawn(self._answer(message))
        elif isinstance(message, Commit):
            prepared = self._prepared.pop(message.generation)
            self._plane.commit(prepared)
            logging.getLogger().setLevel(prepared.settings.log_level)
        elif isinstance(message, Abort):
            if (preparing := self._preparing.pop(message.generation, None)) is not None:
                preparing.cancel()
            if (unused := self._prepared.pop(message.generation, None)) is not None:
                self._plane.discard(unused)
        elif isinstance(message, Shed):
            self._plane.shed(message.reason)
            self._plane.accept(message.accepts)
        elif isinstance(message, UpdateCredentials):
            self._plane.update_credentials(message.credentials)
            await self._channel.send(CredentialsUpdated(message.credentials.number))
        elif isinstance(message, Refreshed):
            self._plane.credential_store.refreshed(message.issuer)
        elif isinstance(message, Reopen):
            self._plane.reopen()

    async def _answer(self, message: Prepare) -> None:
        """Build a configuration while serving, and report the result."""
        problem = await self._prepare(message)
        self._preparing.pop(message.generation, None)
        with contextlib.suppress(ConnectionError):
            await self._channel.send(Prepared(message.generation, problem))

    async def _prepare(self, message: Prepare) -> str:
        try:
            settings = await in_slices(unpacking(message.packed))
            if reads_keys(settings) and not reads_keys(self._plane.snapshot.settings):
                await asyncio.to_thread(preload, keys=True)  # in a thread: streams continue meanwhile
            self._prepared[message.generation] = await in_slices(self._plane.preparing(settings))
        except (GatewayError, ValueError, OSError) as error:
            return str(error) or type(error).__name__
        except Exception as error:  # noqa: BLE001 - the edge of what an operator may send us
            # A bug must not let one worker keep the old configuration while the others switch.
            _log.exception("cannot build the configuration")
            return f"internal error ({type(error).__name__})"
        return ""


async def serve(
    segment: native.Segment, listening: Sequence[Sequence[int]], admin: str, control: int, wakeup_fds: Sequence[int]
) -> None:
    """Wait for the Serve message, which names one of the `listening` slots, each with its sockets, and serve. Drain on
    SIGTERM, or when the supervisor's end of `control` closes; a second signal cuts the drain short."""
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    for number in ENDS:
        loop.add_signal_handler(number, signalled)
    channel = await Channel.over(socket.socket(fileno=control))
    first = await channel.receive()
    for index, descriptors in enumerate(listening):
        # A socket stays open as long as any process holds it, so close those of the other slots.
        if not isinstance(first, Serve) or index != first.index:
            for descriptor in descriptors:
                os.close(descriptor)
    if not isinstance(first, Serve):
        channel.close()
        return
    sockets = [socket.socket(fileno=descriptor) for descriptor in listening[first.index]]
    settings, index = first.settings, first.index
    log.begin(settings.log_level, f"[{index}]")
    if settings.cpu_affinity and hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[index % len(cpus)]})
    try:
        plane = DataPlane(settings, segment, first.row, admin, wakeup_fds, first.credentials, patient=first.replaces)
    except (GatewayError, OSError, ValueError) as why:
        # Usually a file that cannot be read or written: its name and the reason are all that an operator can use.
        _log.error("cannot serve: %s", why)
        channel.close()
        raise SystemExit(1) from None
    try:
        plane.accept(first.accepts)
        for sock in sockets:
            sock.setblocking(False)
            await plane.listen(sock)
        settle_memory()
        await channel.send(Ready())
        worker = Worker(plane, channel)
        plane.on_shedding = worker.tell_shedding
        plane.on_spans = worker.send_spans
        loop.add_signal_handler(signal.SIGUSR1, plane.reopen)
        plane.credential_store.ask = worker.want
        obeying = loop.create_task(worker.obey())
        stopping = loop.create_task(stop.wait())
        await asyncio.wait((obeying, stopping), return_when=asyncio.FIRST_COMPLETED)
        if obeying.done() and (error := obeying.exception()) is not None:
            raise error
        stop.set()
        plane.stop_listening()
        with contextlib.suppress(ConnectionError):
            await channel.send(Stopped())
        await plane.drain(plane.snapshot.settings.drain_s, hurry)
        obeying.cancel()
        await asyncio.gather(obeying, stopping, return_exceptions=True)
    finally:
        await plane.close()
        channel.close()


def descriptors(word: str) -> list[int]:
    """Parse the descriptors of a slot's sockets: `5,6`."""
    return [int(number) for number in word.split(",")]


def main() -> int:
    """Parse the descriptors passed by the supervisor, import everything, and serve on request."""
    parser = argparse.ArgumentParser(prog="budgateway.worker", description=__doc__)
    parser.add_argument("--segment", type=int, required=True)
    parser.add_argument("--listening", type=descriptors, nargs="+", required=True)
    parser.add_argument("--wakeup-fds", type=int, nargs="+", required=True)
    parser.add_argument("--admin", required=True)
    parser.add_argument("--keys", action="store_true", help="public keys will be read")
    told = parser.add_mutually_exclusive_group(required=True)
    told.add_argument("--control", type=int, help="file descriptor of one worker's control channel")
    told.add_argument(
        "--fork-server", type=int, help="file descriptor that receives the control channel of each worker to fork"
    )
    given = parser.parse_args()
    # The supervisor sends this signal to a hung worker before it kills it, to log its stack.
    faulthandler.register(SAY_WHERE)
    ignore()
    preload(keys=given.keys)
    gc.collect()
    gc.freeze()
    control = given.control if given.fork_server is None else become(socket.socket(fileno=given.fork_server))
    segment = native.Segment.attach(given.segment)  # after the fork: each worker has its own shard of the counters
    with contextlib.suppress(KeyboardInterrupt, ConnectionError):
        uvloop.run(serve(segment, given.listening, given.admin, control, given.wakeup_fds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
