"""Signals before a process can answer them: operators' are held back, and none of them ends a process that starts."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence

# By default each ends the process. Whoever signals a whole unit or group (`systemctl kill`, `pkill`) reaches children too.
OPERATORS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
ENDS = (signal.SIGTERM, signal.SIGINT)
# Has a worker say where it stands (faulthandler): none that an operator would send.
SAY_WHERE = signal.SIGRTMIN


def hold(words: Sequence[str]) -> None:
    """The first thing that a command line with `serve` in it does: operators' signals wait until `release`; SIGTERM and SIGINT end
    the process at once and with status 0, as nothing was begun that had to be ended. Idempotent."""
    if "serve" in words:
        signal.pthread_sigmask(signal.SIG_BLOCK, OPERATORS)
        for number in ENDS:
            signal.signal(number, _leave)


def hold_all() -> None:
    """Signals wait until `release`: while a gateway is built, and when all of it has ended."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (*OPERATORS, *ENDS))


def release() -> None:
    """Every handler is in place: what waited is delivered."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*OPERATORS, *ENDS))


def ignore() -> None:
    """In a child of the gateway: operators' signals are meant for its parent. Those that came since it was started are
    forgotten."""
    for number in OPERATORS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OPERATORS)


@contextlib.contextmanager
def shielding() -> Iterator[None]:
    """A child started within has operators' signals blocked from its first moment, until it says otherwise."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OPERATORS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave(_number: int, _frame: object) -> None:
    os._exit(0)
