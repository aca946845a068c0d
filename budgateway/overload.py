"""Memory and descriptors as the supervisor sees them: what processes hold, what they may hold, and when to take no more."""

from __future__ import annotations

import os
import resource
from pathlib import Path

# RELIABILITY 1: at 85 % of the limit new exchanges are refused; below 80 % they are taken again.
SHED_SHARE = 0.85
RESUME_SHARE = 0.80
# At 95 % not even connections are accepted, as each costs buffers; below 90 % they are again.
CLOSE_SHARE = 0.95
OPEN_SHARE = 0.90

# Open files of one process that are asked for at most: container runtimes offer a billion.
MAX_OPEN_FILES = 1 << 20

_PAGE = os.sysconf("SC_PAGE_SIZE")


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one: the soft one is 1,024 in most shells, for programs that use
    select(2). Processes that are started from here on inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        pass  # what it is will have to do, and is said


def want_of_files(max_connections: int, workers: int) -> str:
    """What is to be said about a limit of open files that is below what so many connections need; "" for nothing. Each
    takes a descriptor of its worker, and another one for its upstream."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = 2 * -(-max_connections // workers)
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return ""
    return (
        f"open files: each process may have {limit}, and max_connections = {max_connections} with {workers} workers needs "
        f"{needed}: further clients get 503; raise the hard limit (ulimit -Hn, LimitNOFILE) or lower max_connections"
    )


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 when it is gone, or where there is no /proc."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def proportional(pid: int) -> int:
    """The same with what several processes share divided among them, as workers share most of what they imported. Walks
    every page: milliseconds for a GiB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    except (OSError, IndexError, ValueError, StopIteration):
        return resident(pid)


def memory_limit(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that the processes may hold together: the control group's limit, else the machine's memory."""
    limits = [os.sysconf("SC_PHYS_PAGES") * _PAGE]
    # Version 2, then version 1 of control groups, as they are mounted in a container.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


class MemoryGuard:
    """Says when to shed, and when to accept no more. Told the sum; hysteresis keeps it from flapping."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.is_shedding = False
        self.accepts = True

    @property
    def matters_bytes(self) -> int:
        """Below this nothing is decided."""
        return int(self.limit_bytes * RESUME_SHARE)

    def judge(self, resident_bytes: int) -> bool:
        """Take note of what is held; whether anything is to be done otherwise than before."""
        before = self.is_shedding, self.accepts
        share = resident_bytes / self.limit_bytes
        self.is_shedding = share > (RESUME_SHARE if self.is_shedding else SHED_SHARE)
        self.accepts = share < (CLOSE_SHARE if self.accepts else OPEN_SHARE)
        return before != (self.is_shedding, self.accepts)


class Heartbeat:
    """For how long a worker's event loop has stood still, by the watcher's own time: what passes while the watcher does not
    run either (it was stopped, the machine was suspended) counts for one step."""

    def __init__(self) -> None:
        self._tick = 0
        self._still_s = 0.0

    def hear(self, tick: int, elapsed_s: float, step_s: float) -> float:
        """Take note of what the worker says, `elapsed_s` after it was last looked at: seconds it has said the same.
        `step_s` is how long it should be between two looks. 0 says nothing: the worker has not begun."""
        if tick == 0 or tick != self._tick:
            self._tick = tick
            self._still_s = 0.0
        else:
            self._still_s += min(elapsed_s, step_s)
        return self._still_s
