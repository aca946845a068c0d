"""Ports for programs that cannot bind port 0 and be asked."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

# From here on the kernel gives ports to connections and to those who bind port 0 (ip(7)): one of these may be somebody's by
# the time it is used.
_LENT = Path("/proc/sys/net/ipv4/ip_local_port_range")
_END = int(_LENT.read_text().split()[0]) if _LENT.exists() else 32768
_COUNT = 16_000
# Each of pytest's processes has every 16th port to itself.
_LANES = 16


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on, and that no one else is given."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def _in_turn() -> Iterator[int]:
    """Yield the ports of this process's lane, round and round, from anywhere: another checkout may run its tests, too."""
    lane = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _LANES
    at = random.randrange(_COUNT // _LANES)
    while True:
        at = (at + 1) % (_COUNT // _LANES)
        yield _END - _COUNT + at * _LANES + lane


_ports = _in_turn()
