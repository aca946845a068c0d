"""Processes that stay are small.

A worker starts from records, and modules for the command line or the admin server stay out of it; the supervisor does not
know the configuration's schema.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = "import sys, budgateway.{}; print(*sys.modules)"
# The event loop, the parsers, and the resolver with what it is made of (26 ms beside 270, and 1.2 MiB, which workers share);
# everything else is ours or the standard library.
RESOLVER = {"aiodns", "pycares", "_cares", "_cffi_backend", "idna"}
WORKER = {"hiredis", "httptools", "uvloop", *RESOLVER}


@pytest.mark.parametrize(
    ("module", "third_party"), [("process.worker", WORKER), ("process.supervisor", WORKER | {"prometheus_client"})]
)
def test_a_process_imports_what_it_serves_with_and_nothing_else(module: str, third_party: set[str]) -> None:
    command = [sys.executable, "-I", "-c", SCRIPT.format(module)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
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
    assert packages - sys.stdlib_module_names == third_party | {"budgateway"}
