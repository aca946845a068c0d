"""Fixtures of all tests: corpora, hypothesis profiles, and the checks that nothing leaks or blocks."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import inspect
import io
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import FrameType

import hypothesis
import pytest
import pytest_timeout
from blockbuster import blockbuster_ctx
from corpora import ABSENT, FOLDER
from flavours import PURE, is_compiled
from ports import free_port as a_free_port
from reach import reaches_compiled

import budgateway

hypothesis.settings.register_profile("dev", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=200, derandomize=True, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

# How long what a test left open may take to close: a transport closes on a later turn of the loop.
SETTLE_S = 1.0
# How long a loop that was stopped may take to notice: a coroutine that never awaits does not.
STOP_S = 3.0

TESTS = Path(__file__).resolve().parent
# One for each checkout and user; it stays.
LOCK = Path(tempfile.gettempdir(), f"budgateway-tests-{os.getuid()}-{sha256(bytes(TESTS)).hexdigest()[:12]}")

TIMER = pytest.StashKey[pytest_timeout.Settings]()
STUCK = pytest.StashKey[str]()


def pytest_report_header() -> list[str]:
    """Say which build is under test, before anybody believes the result."""
    package = Path(budgateway.__file__).parent
    flavour = "interpreted" if PURE else "compiled"
    return [f"budgateway: {package} ({flavour})", f"corpora: {FOLDER if FOLDER.is_dir() else ABSENT}"]


def pytest_sessionstart() -> None:
    """A pure run that finds compiled modules would prove nothing."""
    package = Path(budgateway.__file__).parent
    stray = [path.name for path in package.rglob("*_cy.*") if is_compiled(path)]
    if PURE and stray:
        raise pytest.UsageError(f"BUDGATEWAY_PURE=1, but {package} has compiled modules: {', '.join(stray)}")


def pytest_collection_finish() -> None:
    """Thousands of collected tests are garbage to nobody: a collection that looks at them takes a third of a second."""
    gc.collect()
    gc.freeze()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put the leak checks around every test, outside all its other fixtures."""
    if isinstance(item, pytest.Function):
        item.fixturenames.insert(0, "nothing_leaks" if inspect.iscoroutinefunction(item.obj) else "sockets_close")
    if item.get_closest_marker("integration"):
        item.fixturenames.insert(0, "loop_never_blocks")
    # To find out takes seconds.
    if "compiled" in item.config.option.markexpr and reaches_compiled(item.path):
        item.add_marker("compiled")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Give the machine to one test marked `alone`: of several processes (pytest-xdist) the others wait, before their
    timers start.

    A process takes its turn (the file's first byte) before the machine (the second), and keeps the turn while it waits:
    processes that share the machine would otherwise never leave it free. The locks are POSIX's, which belong to a process:
    a copy of the descriptor, in a test that copies descriptors, holds none.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    with LOCK.open("a+b") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX, 1, 0)
        fcntl.lockf(lock, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH, 1, 1)
        fcntl.lockf(lock, fcntl.LOCK_UN, 1, 0)
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: pytest_timeout.Settings) -> Iterator[None]:
    """End a test that hangs in its loop by stopping the loop.

    pytest-timeout raises from the signal's handler. A callback's exceptions are logged and lost, and uvloop calls the handler
    from a callback of its own; a cancellation may be lost, too.
    """
    done = yield
    if signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, None):
        return done  # it has a thread for that
    fail = signal.getsignal(signal.SIGALRM)
    item.stash[TIMER] = settings

    def ring(number: int, frame: FrameType | None) -> None:
        if pytest_timeout.is_debugging():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            fail(number, frame)
        signal.setitimer(signal.ITIMER_REAL, STOP_S)
        loop.call_soon_threadsafe(loop.stop)
        if STUCK in item.stash:
            fail(number, frame)
        text = io.StringIO(f"the test takes longer than its {settings.timeout:g} s: its loop was stopped\n")
        text.seek(0, io.SEEK_END)
        for task in asyncio.all_tasks():
            task.print_stack(limit=4, file=text)
        item.stash[STUCK] = text.getvalue()

    signal.signal(signal.SIGALRM, ring)
    return done


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Say where a stopped loop's tasks were, instead of how it was stopped."""
    if call.excinfo is None:
        return
    if TIMER in item.stash:
        signal.setitimer(signal.ITIMER_REAL, 0)  # or it may interrupt pytest itself
    if STUCK in item.stash:
        failed = pytest.fail.Exception(item.stash[STUCK], pytrace=False)
        call.excinfo = pytest.ExceptionInfo.from_exception(failed.with_traceback(call.excinfo.tb))
        del item.stash[STUCK]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Time what a failed test leaves behind anew: pytest-timeout's timer went with the failure."""
    if TIMER in item.stash and not signal.getitimer(signal.ITIMER_REAL)[0]:
        item.config.hook.pytest_timeout_set_timer(item=item, settings=item.stash[TIMER])


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder with the corpora; the test is skipped where there is none."""
    if not FOLDER.is_dir():
        pytest.skip(ABSENT)
    return FOLDER


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that finds ports. Prefer to bind port 0 and ask; this is for programs that cannot."""
    return a_free_port


@pytest.fixture
async def nothing_leaks() -> AsyncIterator[None]:
    """Fail the test that leaves a task running or a socket open."""
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    yield
    deadline = asyncio.get_running_loop().time() + SETTLE_S
    while True:
        leaked_tasks = {task for task in asyncio.all_tasks() - tasks if not task.done()}
        leaked_tasks.discard(asyncio.current_task())
        now = open_sockets()
        leaked_sockets = now - sockets
        # By number, not by name: uvloop makes itself a new pair each time it runs.
        if not leaked_tasks and len(now) <= len(sockets):
            return
        if asyncio.get_running_loop().time() > deadline:
            break
        gc.collect()
        await asyncio.sleep(0.01)
    pytest.fail(f"the test leaked tasks {sorted(map(repr, leaked_tasks))} and sockets {sorted(leaked_sockets)}")


@pytest.fixture
def sockets_close() -> Iterator[None]:
    """Fail the test without a loop of its own that leaves a socket open."""
    sockets = open_sockets()
    yield
    if open_sockets() - sockets:
        gc.collect()
        assert open_sockets() <= sockets, "the test left sockets open"


@pytest.fixture
def loop_never_blocks() -> Iterator[None]:
    """Fail a test in which budgateway's own code makes a blocking call on the event loop.

    Compiled functions have no frames for blockbuster to see; `make test-pure` runs the same tests where they do.
    """
    with blockbuster_ctx(str(budgateway.__name__)) as guard:
        # Start and end of a process, when there is nobody to wait.
        for function in guard.functions.values():
            function.can_block_in("budgateway/process/embedded.py", {"start", "stop"})
        yield


def open_sockets() -> set[str]:
    """The inodes of this process's open sockets; empty where there is no /proc."""
    if sys.platform != "linux":
        return set()
    found = set()
    for entry in os.scandir("/proc/self/fd"):
        try:
            target = os.readlink(entry.path)
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found
