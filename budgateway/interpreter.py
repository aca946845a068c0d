"""Python as our own processes run it: the installation is executed, and nothing that lies in the working directory.

`python -m` and `python -c` put the working directory first on the import path: a `uvloop.py` there would run as the gateway.
An empty or relative part of PYTHONPATH does the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

PYTHONPATH = "PYTHONPATH"


def command() -> list[str]:
    """The first words of a command that runs this interpreter, isolated as far as this process is."""
    return [sys.executable, "-I" if sys.flags.isolated else "-P"]


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """A child's environment: no part of its PYTHONPATH depends on the working directory."""
    kept = dict(environ)
    if PYTHONPATH in kept:
        parts = [part for part in kept[PYTHONPATH].split(os.pathsep) if part.startswith("/")]
        kept[PYTHONPATH] = os.pathsep.join(parts)
        if not parts:
            del kept[PYTHONPATH]
    return kept


def open_standard_streams() -> None:
    """Have /dev/null where a standard stream is closed (`>&-`): the next socket or file would be standard output otherwise, here
    and in our children, and get what is printed."""
    for stream in range(3):
        try:
            os.fstat(stream)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(opened, True)


def leave_working_directory(*, by_module: bool) -> None:
    """Run this command again without the working directory on its import path, where that is on it; called before other imports.

    `by_module`: it was run with `-m`, which puts it there; a console script's path begins with its own folder, and only
    PYTHONPATH can add another. Options of the interpreter are kept. Returns where nothing had to change.
    """
    clean = environment()
    if (by_module and not sys.flags.safe_path) or clean != dict(os.environ):
        os.execve(sys.executable, [sys.executable, "-P", *sys.orig_argv[1:]], clean)  # noqa: S606 - our own interpreter
