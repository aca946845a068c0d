"""The checks that guard every test do catch what they are for: a project of bad tests, run under our conftest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]

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

# Each on both loops.
LOOPS = """
import asyncio, uvloop

def pytest_configure(config):
    ours = config.pluginmanager.get_plugin("conftest")
    ours.STOP_S, ours.SETTLE_S = 0.5, 0.1

def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
"""
HANGING = """
import asyncio, time
import pytest

brief = pytest.mark.timeout(0.5)

@brief
async def test_waits_for_ever():
    await asyncio.Event().wait()

async def deaf():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

@brief
async def test_loses_its_cancellation():
    async with asyncio.TaskGroup() as group:
        group.create_task(deaf())

@brief
async def test_is_in_a_callback():
    def spin():
        loop.call_soon(spin)
        time.sleep(0.01)
    loop = asyncio.get_running_loop()
    loop.call_soon(spin)
    await asyncio.Event().wait()

@brief
async def test_never_awaits():
    while True:
        pass

@pytest.fixture
async def endless():
    yield
    await asyncio.Event().wait()

@brief
async def test_is_torn_down_for_ever(endless):
    pass

@brief
async def test_fails_and_is_torn_down_for_ever(endless):
    assert 0

@pytest.mark.timeout(20)
async def test_takes_as_long_as_its_mark_allows():
    await asyncio.sleep(0.7)
"""


def judged(folder: Path, limit_s: float) -> dict[str, list[str]]:
    """Return pytest's summary of each bad test, by name: one line for the test, one for its teardown."""
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-c", str(TESTS.parent / "pyproject.toml")]
    run = subprocess.run(
        [*command, "--rootdir", str(folder), "-p", "no:cacheprovider", "-rA", "-v", str(folder)],
        env={**os.environ, "PYTHONPATH": str(TESTS), "COLUMNS": "500"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=limit_s,
    )
    found: dict[str, list[str]] = {}
    for line in run.stdout.partition("short test summary info")[2].splitlines():
        if "::" in line:
            found.setdefault(line.partition("::")[2].split()[0], []).append(line)
    assert found, run.stdout + run.stderr
    return found


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "test_bad.py").write_text(BAD)
    return judged(folder, 50)


@pytest.fixture(scope="module")
def hangs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("hanging")
    (folder / "conftest.py").write_text(LOOPS)
    (folder / "test_hanging.py").write_text(HANGING)
    return judged(folder, 50)


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


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    "name",
    [
        "test_waits_for_ever",
        "test_loses_its_cancellation",
        "test_is_in_a_callback",
        "test_never_awaits",
        "test_is_torn_down_for_ever",
        "test_fails_and_is_torn_down_for_ever",
    ],
)
def test_a_test_that_hangs_is_ended(hangs: dict[str, list[str]], name: str, loop: str) -> None:
    lines = hangs[f"{name}[{loop}]"]
    assert any(
        line.startswith(("FAILED", "ERROR")) and "the test takes longer than its 0.5 s" in line for line in lines
    ), lines


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_slow_test_has_the_time_of_its_mark(hangs: dict[str, list[str]], loop: str) -> None:
    lines = hangs[f"test_takes_as_long_as_its_mark_allows[{loop}]"]
    assert [line.split()[0] for line in lines] == ["PASSED"]
