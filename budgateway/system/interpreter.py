"""Command line and environment of our Python processes: they import the installation, never the working directory.

`python -m` and `python -c` put the working directory first on the import path: a `uvloop.py` there would run as the
gateway. An empty or relative part of PYTHONPATH does the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

PYTHONPATH = "PYTHONPATH"


def command() -> list[str]:
    """Return the first words of a command that runs this interpreter, as isolated as this process is."""
    return [sys.executable, "-I" if sys.flags.isolated else "-P"]


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return a child's environment, without the parts of PYTHONPATH that depend on the working directory."""
    kept = dict(environ)
    if PYTHONPATH in kept:
        parts = [part for part in kept[PYTHONPATH].split(os.pathsep) if part.startswith("/")]
        kept[PYTHONPATH] = os.pathsep.join(parts)
        if not parts:
            del kept[PYTHONPATH]
    return kept


def open_standard_streams() -> None:
    """Open /dev/null for each standard stream that is closed (`>&-`). Otherwise the next socket or file would become
    standard output, here and in our children, and receive what is printed."""
    for stream in range(3):
        try:
            os.fstat(stream)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number
            os.set_inheritable(opened, True)


def leave_working_directory(*, by_module: bool) -> None:
    """Re-exec this command without the working directory on its import path, if it is on it. Must run before other
    imports.

    `by_module`: run with `-m`, which adds the working directory; a console script's path begins with its own directory,
    and only PYTHONPATH can add another. Options of the interpreter are kept. Returns when nothing has to change.
    """
    clean = environment()
    if (by_module and not sys.flags.safe_path) or clean != dict(os.environ):
        os.execve(sys.executable, [sys.executable, "-P", *sys.orig_argv[1:]], clean)  # noqa: S606 - our own interpreter
