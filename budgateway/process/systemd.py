"""Reports the service's state to systemd (sd_notify(3)); does nothing without a NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

SEND_S = 0.2  # a service manager that does not read is not waited for


class Service:
    """One supervisor's state for systemd. Sends nothing more once it stops or another process is the service."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._is_stopping = False

    def ready(self, status: str, *facts: str) -> None:
        """Report that the service is ready; `facts` are further assignments."""
        self._tell("READY=1", f"STATUS={status}", *facts)

    def reloading(self) -> None:
        """Report that the configuration is read again; `ready` follows."""
        self._tell("RELOADING=1", "STATUS=reloading")

    def stopping(self) -> None:
        """Report the shutdown: the last message."""
        self._tell("STOPPING=1", "STATUS=draining")
        self._is_stopping = True

    def succeeded(self, pid: int) -> None:
        """Report that another process is the service from here on: the last message."""
        self._tell(f"MAINPID={pid}")
        self._is_stopping = True

    def _tell(self, *assignments: str) -> None:
        if not self._is_stopping:
            notify("\n".join(assignments), self._environ)


def notify(state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send a state such as `READY=1` to NOTIFY_SOCKET; return whether it was sent."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if state.startswith("RELOADING=1"):
        # Type=notify-reload matches this to one of several reloads.
        state += f"\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
    # An address that begins with @ is in the abstract namespace.
    name = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(SEND_S)
            sock.connect(name)
            sock.send(state.encode())
    except OSError:
        return False
    return True
