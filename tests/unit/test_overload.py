"""Memory: what processes hold, what they may, and when the gateway takes no more."""

from __future__ import annotations

import os
from pathlib import Path

from budgateway.overload import MemoryGuard, memory_limit, resident


def test_this_process_holds_some_memory_and_a_dead_one_none() -> None:
    assert resident(os.getpid()) > 1 << 20
    assert resident(2**22 + 1) == 0


def test_the_limit_is_the_control_groups_where_it_has_one(tmp_path: Path) -> None:
    machine = memory_limit(tmp_path)
    assert machine > 1 << 20
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) == machine
    (tmp_path / "memory.max").write_text("1048576\n")
    assert memory_limit(tmp_path) == 1048576


def test_version_1_of_control_groups_counts_too(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("2097152\n")
    assert memory_limit(tmp_path) == 2097152


def test_shedding_begins_at_85_percent_and_ends_below_80() -> None:
    guard = MemoryGuard(1000)
    assert [guard.judge(held) for held in (850, 851, 849, 801, 800, 840)] == [False, True, True, True, False, False]
