"""A worker is small: it starts from records, and what only the command line or the back office needs stays out of it."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = "import sys, budgateway.worker; print(*sys.modules)"
# The event loop and the parsers; everything else is ours or the standard library.
THIRD_PARTY = {"hiredis", "httptools", "uvloop"}


def test_a_worker_imports_what_it_serves_with_and_nothing_else() -> None:
    told = subprocess.run([sys.executable, "-I", "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=30)
    started = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    # An editable install has an import hook of its own, loaded at the interpreter's start.
    packages = {name.partition(".")[0] for name in told.stdout.split()}
    packages -= {name.partition(".")[0] for name in started.stdout.split()}
    packages -= {name for name in packages if name.startswith(("_cython_", "cython_"))}
    assert packages - sys.stdlib_module_names == THIRD_PARTY | {"budgateway"}
