"""The checks that guard every test do catch what they are for: a project of bad tests, run under our conftest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent

BAD = """
import asyncio, gc, socket, time, warnings
import pytest
from budgateway import errors

async def test_leaks_a_task():
    global kept
    kept = asyncio.create_task(asyncio.sleep(60))

async def test_leaks_a_socket():
    global server
    server = socket.socket()

def test_leaks_without_a_loop():
    global other
    other = socket.socket()

async def test_ends_what_it_started():
    task = asyncio.create_task(asyncio.sleep(60))
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    server.close()
    await server.wait_closed()
    task.cancel()

@pytest.fixture
async def listening():
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    yield server
    server.close()
    await server.wait_closed()

async def test_a_fixture_may_hold_a_socket_during_the_test(listening):
    pass

blocking = compile("def call():\\n    import time\\n    time.sleep(0.001)", errors.__file__, "exec")
exec(blocking)

@pytest.mark.integration
async def test_blocks_the_loop():
    call()

async def test_may_block_when_it_is_no_integration_test():
    call()

def test_warns():
    warnings.warn("old", DeprecationWarning)

@pytest.mark.soak
def test_takes_an_hour():
    raise AssertionError
"""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What pytest's summary says of each bad test, by name: one line for the test, one for its teardown."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "test_bad.py").write_text(BAD)
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-c", str(TESTS.parent / "pyproject.toml")]
    run = subprocess.run(
        [*command, "--rootdir", str(folder), "-p", "no:cacheprovider", "-rA", "-v", str(folder)],
        env={**os.environ, "PYTHONPATH": str(TESTS), "COLUMNS": "500"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    found: dict[str, list[str]] = {}
    for line in run.stdout.partition("short test summary info")[2].splitlines():
        if "::" in line:
            found.setdefault(line.partition("::")[2].split()[0], []).append(line)
    assert found, run.stdout + run.stderr
    return found


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test_leaks_a_task", 'leaked tasks ["<Tas'),
        ("test_leaks_a_socket", "and sockets ['socket:"),
        ("test_leaks_without_a_loop", "left sockets open"),
        ("test_blocks_the_loop", "Blocking call to time.sleep"),
        ("test_warns", "DeprecationWarning: old"),
    ],
)
def test_a_bad_test_is_caught(verdicts: dict[str, list[str]], name: str, reason: str) -> None:
    assert any(line.startswith(("FAILED", "ERROR")) and reason in line for line in verdicts[name]), verdicts[name]


@pytest.mark.parametrize(
    "name",
    [
        "test_ends_what_it_started",
        "test_a_fixture_may_hold_a_socket_during_the_test",
        "test_may_block_when_it_is_no_integration_test",
    ],
)
def test_a_good_test_is_left_alone(verdicts: dict[str, list[str]], name: str) -> None:
    assert [line.split()[0] for line in verdicts[name]] == ["PASSED"]


def test_soak_tests_run_only_when_asked(verdicts: dict[str, list[str]]) -> None:
    assert "test_takes_an_hour" not in verdicts
