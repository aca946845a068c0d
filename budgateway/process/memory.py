"""Memory and descriptors in the supervisor: current use, limits, and when to stop accepting."""

from __future__ import annotations

import os
import resource
from pathlib import Path

# RELIABILITY 1: at 85 % of the limit new exchanges are refused; below 80 % they are accepted again.
SHED_SHARE = 0.85
RESUME_SHARE = 0.80
# At 95 % connections are not accepted either, because each costs buffers; below 90 % they are again.
CLOSE_SHARE = 0.95
OPEN_SHARE = 0.90

# Upper bound of the limit of open files to request: container runtimes offer a billion.
MAX_OPEN_FILES = 1 << 20

_PAGE = os.sysconf("SC_PAGE_SIZE")


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one. The soft limit is 1,024 in most shells, for programs that use
    select(2). Processes started from here on inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        pass  # the current limit stays; `want_of_files` warns about it


def want_of_files(max_connections: int, workers: int) -> str:
    """Return a warning when the limit of open files is too low for `max_connections`, else "". Each connection takes a
    descriptor in its worker, and another one for its upstream."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = 2 * -(-max_connections // workers)
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return ""
    return (
        f"open files: the limit of a process is {limit}, but max_connections = {max_connections} with {workers} workers needs "
        f"{needed}: further clients get 503; raise the hard limit (ulimit -Hn, LimitNOFILE) or lower max_connections"
    )


def resident(pid: int) -> int:
    """Return the bytes of memory a process holds; 0 when it is gone, or where there is no /proc."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def proportional(pid: int) -> int:
    """Return the bytes of memory a process holds, with shared pages divided among the processes that share them:
    workers share most of their imports. Walks every page: milliseconds for a GiB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    except (OSError, IndexError, ValueError, StopIteration):
        return resident(pid)


def memory_limit(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that the processes may hold together: the control group's limit, else the machine's memory."""
    limits = [os.sysconf("SC_PHYS_PAGES") * _PAGE]
    # Control groups version 2, then version 1, at their mount points in a container.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


class MemoryGuard:
    """Decides from the total memory when to shed and when to stop accepting. Hysteresis keeps it from flapping."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.is_shedding = False
        self.accepts = True

    @property
    def matters_bytes(self) -> int:
        """Memory below which no decision changes."""
        return int(self.limit_bytes * RESUME_SHARE)

    def judge(self, resident_bytes: int) -> bool:
        """Update from the memory held; return whether a decision has changed."""
        before = self.is_shedding, self.accepts
        share = resident_bytes / self.limit_bytes
        self.is_shedding = share > (RESUME_SHARE if self.is_shedding else SHED_SHARE)
        self.accepts = share < (CLOSE_SHARE if self.accepts else OPEN_SHARE)
        return before != (self.is_shedding, self.accepts)


class Heartbeat:
    """Measures how long a worker's event loop has stood still, in the watcher's own time: a gap in which the watcher
    did not run either (it was stopped, the machine was suspended) counts as one step."""

    def __init__(self) -> None:
        self._tick = 0
        self._still_s = 0.0

    def hear(self, tick: int, elapsed_s: float, step_s: float) -> float:
        """Record the worker's tick, `elapsed_s` after the last look; return the seconds for which it has not changed.
        `step_s` is the intended interval between looks. Tick 0 means that the worker has not begun."""
        if tick == 0 or tick != self._tick:
            self._tick = tick
            self._still_s = 0.0
        else:
            self._still_s += min(elapsed_s, step_s)
        return self._still_s
