"""Memory as the supervisor sees it: what all processes hold, what they may hold, and when to take no more."""

from __future__ import annotations

import os
from pathlib import Path

# RELIABILITY 1: at 85 % of the limit new exchanges are refused; below 80 % they are taken again.
SHED_SHARE = 0.85
RESUME_SHARE = 0.80

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 when it is gone, or where there is no /proc."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


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
    """Says when to shed. Told the sum; hysteresis keeps it from flapping."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.is_shedding = False

    def judge(self, resident_bytes: int) -> bool:
        """Whether new exchanges are to be refused now."""
        share = RESUME_SHARE if self.is_shedding else SHED_SHARE
        self.is_shedding = resident_bytes > self.limit_bytes * share
        return self.is_shedding
