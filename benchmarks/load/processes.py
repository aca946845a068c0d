"""CPU time and memory of a tree of processes, read from /proc."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
KIB = 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Of all processes together, in bytes. Resident counts a shared page once a process, proportional once in all."""

    resident: int
    proportional: int
    # Resident bytes of each process, the root first: a gateway's worker is one of them.
    each: tuple[int, ...] = ()


def tree(root: int) -> list[int]:
    """The process and all that descend from it, now."""
    found = [root]
    for pid in found:
        for task in _tasks(pid):
            found.extend(int(child) for child in _read(task / "children").split())
    return found


def cpu_ns(root: int) -> dict[Path, int]:
    """Nanoseconds on a processor, by thread, of the whole tree.

    schedstat counts what stat's clock ticks miss: at 15 microseconds a request a tick is 600 of them.
    """
    times = {}
    for pid in tree(root):
        for task in _tasks(pid):
            fields = _read(task / "schedstat").split()
            if fields:
                times[task] = int(fields[0])
    return times


def cpu_ns_between(before: dict[Path, int], after: dict[Path, int]) -> int:
    """Return the CPU time between two readings, including threads that started in between."""
    return sum(spent - before.get(task, 0) for task, spent in after.items())


def memory(root: int) -> Memory:
    """Return the memory of the tree."""
    proportional, each = 0, []
    for pid in tree(root):
        for line in _read(PROC / str(pid) / "smaps_rollup").splitlines():
            name, _, rest = line.partition(":")
            if name == "Rss":
                each.append(int(rest.split()[0]) * KIB)
            elif name == "Pss":
                proportional += int(rest.split()[0]) * KIB
    return Memory(sum(each), proportional, tuple(each))


def _tasks(pid: int) -> list[Path]:
    try:
        return list((PROC / str(pid) / "task").iterdir())
    except OSError:  # it ended
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it ended
        return ""
