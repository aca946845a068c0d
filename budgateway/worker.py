"""A worker: one data plane in a process of its own, started by the supervisor."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import pickle
import signal
import socket
import sys

import uvloop

from budgateway import native
from budgateway.records import Settings
from budgateway.runtime import DataPlane, settle_memory

_log = logging.getLogger("budgateway.worker")


async def serve(
    settings: Settings, segment: native.Segment, index: int, sock: socket.socket, office: str, control: int
) -> None:
    """Serve until SIGTERM, or until the supervisor's end of `control` closes; then drain."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    plane = DataPlane(settings, segment, index, office)
    try:
        await plane.listen(sock)
        # Whatever arrives on the control pipe is its end: a worker without a supervisor has nobody to replace it.
        loop.add_reader(control, stop.set)
        settle_memory()
        os.write(control, b"ready\n")
        await stop.wait()
        loop.remove_reader(control)
        await plane.drain(settings.drain_s)
    finally:
        await plane.close()


def main() -> int:
    """Read what the supervisor hands over by descriptor, and serve."""
    parser = argparse.ArgumentParser(prog="budgateway.worker", description=__doc__)
    for name in ("segment", "listen", "control", "settings", "index"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--office", required=True)
    given = parser.parse_args()
    with os.fdopen(given.settings, "rb") as file:
        # Pickled by our own parent over an inherited pipe: not an input anybody else can reach.
        settings: Settings = pickle.load(file)  # noqa: S301
    logging.basicConfig(
        level=settings.log_level, format=f"%(asctime)s %(levelname)s %(name)s[{given.index}] %(message)s"
    )
    segment = native.Segment.attach(given.segment)
    sock = socket.socket(fileno=given.listen)
    sock.setblocking(False)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(settings, segment, given.index, sock, given.office, given.control))
    return 0


if __name__ == "__main__":
    sys.exit(main())
