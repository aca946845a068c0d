"""The search for test files that need both flavours: the others load no compiled module when they are imported."""

from __future__ import annotations

import subprocess
import sys

from reach import TESTS, reaches_compiled

LOADS = """
import sys
import pytest
pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:terminal", *sys.argv[1:]])
print(*sorted(name for name in sys.modules if name.startswith("budgateway.") and name.endswith("_cy")))
"""


def test_what_is_left_out_of_the_interpreted_flavour_imports_no_compiled_module() -> None:
    files = [file for file in sorted(TESTS.rglob("test_*.py")) if not reaches_compiled(file)]
    assert len(files) > 50
    # Its conftest starts gateways for whoever asks.
    assert not any(file.is_relative_to(TESTS / "integration") for file in files)
    command = [sys.executable, "-c", LOADS, *map(str, files)]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], done.stdout


def test_a_test_of_a_compiled_module_needs_both() -> None:
    assert reaches_compiled(TESTS / "unit" / "auth" / "test_authenticator.py")
    assert reaches_compiled(TESTS / "unit" / "cli" / "test_cli.py")  # by the name of the program
