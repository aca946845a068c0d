"""The priority of processes that help the ones that serve."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# A tenth of a core beside a process that would use all of it: a reload of a thousand routes still ends within seconds.
NICENESS = 10

# sched(7): without a CPU controller the kernel shares a core out among sessions, and niceness counts only within one.
AUTOGROUP = Path("/proc/self/autogroup")


def give_way() -> None:
    """Let this process, and its session where that has a share of its own, give way to others. Idempotent, final: an
    ordinary user cannot raise a priority."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
    if os.getsid(0) == os.getpid():  # else the session is others', too
        with contextlib.suppress(OSError):
            AUTOGROUP.write_text(str(NICENESS))
