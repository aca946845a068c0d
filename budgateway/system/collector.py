"""Python's garbage collector in a process that serves for months: short collections, and hardly ever a full one."""

from __future__ import annotations

import gc

# Objects of a young collection, such collections of a middle one, and middle ones of a full one. A collection takes
# 0.15 us for each object: 0.3 ms, 1.5 ms, and far more for a full one, which is due after 50 million objects.
COLLECT = (2_000, 5, 5_000)


def settle() -> None:
    """Freeze the objects of the start out of the collector, and bound its pauses from then on. What a reload builds is
    no cycle, and is freed when it is replaced."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT)
