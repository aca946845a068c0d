"""Telling systemd how far we are (sd_notify(3)); nothing happens where nobody listens."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

SEND_S = 0.2  # a service manager that reads nothing is not waited for


class Service:
    """What systemd is told of one supervisor: once it stops, or another one is the service, it says no more."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._is_stopping = False

    def ready(self, status: str, *facts: str) -> None:
        """It serves; `facts` are further assignments."""
        self._tell("READY=1", f"STATUS={status}", *facts)

    def reloading(self) -> None:
        """It reads its configuration again; `ready` follows."""
        self._tell("RELOADING=1", "STATUS=reloading")

    def stopping(self) -> None:
        """It ends: the last thing that is told."""
        self._tell("STOPPING=1", "STATUS=draining")
        self._is_stopping = True

    def succeeded(self, pid: int) -> None:
        """Another process is the service from here on: the last thing that is told."""
        self._tell(f"MAINPID={pid}")
        self._is_stopping = True

    def _tell(self, *assignments: str) -> None:
        if not self._is_stopping:
            notify("\n".join(assignments), self._environ)


def notify(state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send `READY=1` and the like to NOTIFY_SOCKET; whether there was one that took it."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if state.startswith("RELOADING=1"):
        # Type=notify-reload wants to know which of several reloads this is the answer to.
        state += f"\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
    # An address that begins with @ is in the abstract name space.
    name = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(SEND_S)
            sock.connect(name)
            sock.send(state.encode())
    except OSError:
        return False
    return True
