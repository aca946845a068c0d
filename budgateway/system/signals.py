"""Signals during startup: operators' signals are held back, so that none ends a process before it can handle them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence

# Each ends the process by default. A signal to a whole unit or group (`systemctl kill`, `pkill`) reaches children too.
OPERATORS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
ENDS = (signal.SIGTERM, signal.SIGINT)
# Makes a worker write its stack (faulthandler); a signal that no operator sends.
SAY_WHERE = signal.SIGRTMIN


def hold(words: Sequence[str]) -> None:
    """Prepare a command line that contains `serve`, before anything else: operators' signals wait until `release`;
    SIGTERM and SIGINT exit at once with status 0, because nothing has been started yet. Idempotent."""
    if "serve" in words:
        signal.pthread_sigmask(signal.SIG_BLOCK, OPERATORS)
        for number in ENDS:
            signal.signal(number, _leave)


def hold_all() -> None:
    """Block all signals until `release`: while a gateway is built, and after it has ended."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (*OPERATORS, *ENDS))


def release() -> None:
    """Unblock all signals and deliver the pending ones; every handler must be installed."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*OPERATORS, *ENDS))


def ignore() -> None:
    """Ignore operators' signals in a child of the gateway, because they are meant for its parent. Pending ones are
    dropped."""
    for number in OPERATORS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OPERATORS)


@contextlib.contextmanager
def shielding() -> Iterator[None]:
    """Start children within this block with operators' signals blocked from the beginning, until they unblock them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OPERATORS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave(_number: int, _frame: object) -> None:
    os._exit(0)
