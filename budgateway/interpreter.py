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


def leave_working_directory(module: str) -> None:
    """Run this command again without the working directory on its path, where that is on it; called before other imports.

    `module` is what was run with `-m`, or empty for a console script. Returns where nothing had to change.
    """
    clean = environment()
    # A console script's first entry is its own folder; only PYTHONPATH can add the working directory.
    if (module and not sys.flags.safe_path) or clean != dict(os.environ):
        words = [*command(), "-m", module, *sys.argv[1:]] if module else [*command(), *sys.argv]
        os.execve(sys.executable, words, clean)  # noqa: S606 - our own interpreter
