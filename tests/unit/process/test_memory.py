"""Memory: what processes hold, what they may, and when the gateway takes no more."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from budgateway.process.memory import Heartbeat, MemoryGuard, memory_limit, proportional, resident, want_of_files
from budgateway.process.worker_handle import respawn_delay_s
from budgateway.process.worker_pool import WorkerPool


def test_this_process_holds_some_memory_and_a_dead_one_none() -> None:
    assert resident(os.getpid()) > 1 << 20
    assert resident(2**22 + 1) == 0
    assert 1 << 20 < proportional(os.getpid()) < resident(os.getpid())
    assert proportional(2**22 + 1) == 0


async def test_what_processes_share_is_counted_once_where_it_matters() -> None:
    worker_pool = WorkerPool(1, lambda work: work.close())
    try:
        most = await worker_pool.held_bytes(1 << 60)
        assert 1 << 20 < await worker_pool.held_bytes(1 << 20) < most
    finally:
        worker_pool.close()


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


def in_a_process(soft: int, hard: int, code: str) -> str:
    """Return the output of a program that may have so many open files."""
    script = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); {code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(("soft", "hard"), [(100, 200), (200, 200)])
def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one(soft: int, hard: int) -> None:
    code = "from budgateway.process.memory import raise_open_files as r; r(); print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    assert in_a_process(soft, hard, code) == "(200, 200)"


def test_a_limit_that_is_too_low_is_said_with_its_numbers() -> None:
    code = "from budgateway.process.memory import want_of_files as w; print(w(1000, 2))"
    said = in_a_process(999, 999, code)
    assert said.startswith(
        "open files: the limit of a process is 999, but max_connections = 1000 with 2 workers needs 1000"
    )
    assert "LimitNOFILE" in said
    assert in_a_process(1000, 1000, code) == ""
    assert want_of_files(10, 1) == "" or resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 20


def test_shedding_begins_at_85_percent_and_ends_below_80() -> None:
    assert states(850, 851, 849, 801, 800, 840) == "open shed shed shed open open"


def test_accepting_ends_at_95_percent_and_begins_below_90() -> None:
    assert states(949, 950, 949, 900, 899, 940) == "shed closed closed closed shed shed"
    assert states(1200, 100) == "closed open"


def states(*held: int) -> str:
    guard = MemoryGuard(1000)
    found, before = [], "open"
    for number in held:
        changed = guard.judge(number)
        found.append("shed" if guard.accepts and guard.is_shedding else "open" if guard.accepts else "closed")
        assert changed == (found[-1] != before)
        before = found[-1]
    return " ".join(found)


def test_a_loop_that_stands_still_is_noticed_and_one_that_turns_is_not() -> None:
    heart = Heartbeat()
    assert [heart.hear(tick, 1.0, 2.0) for tick in (0, 0, 5, 5, 5, 6, 6)] == [0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 1.0]


def test_time_in_which_the_watcher_did_not_run_is_one_step() -> None:
    """The machine was suspended, or the supervisor stopped: the workers may have had no turn either."""
    heart = Heartbeat()
    heart.hear(5, 1.0, 2.0)
    assert heart.hear(5, 3600.0, 2.0) == 2.0
    assert heart.hear(6, 1.0, 2.0) == 0.0


@pytest.mark.parametrize(
    ("deaths", "pause_s"), [(0, 0), (1, 0), (3, 0), (4, 0.1), (5, 0.2), (6, 0.4), (10, 5), (9999, 5)]
)
def test_only_who_dies_young_again_and_again_is_waited_with(deaths: int, pause_s: float) -> None:
    assert respawn_delay_s(deaths) == pause_s
