"""Processor time and memory of a tree of processes, as the load comparison reads them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

# By path: the checkout itself stays off the path of the tests.
ROOT = Path(__file__).parents[3]
SPEC = importlib.util.spec_from_file_location("load_processes", ROOT / "benchmarks" / "load" / "processes.py")
assert SPEC is not None and SPEC.loader is not None
processes = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = processes  # dataclasses look their module up
SPEC.loader.exec_module(processes)

pytestmark = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="no /proc/PID/schedstat here")

# A parent that waits for a child whose thread spins for 0.2 s of processor time, says so, and waits to be told to end.
CHILD = """
import sys, threading, time
def spin():
    while time.thread_time() < 0.2: pass
thread = threading.Thread(target=spin); thread.start(); thread.join()
print("spun", flush=True)
sys.stdin.read()
"""
PARENT = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {CHILD!r}]).returncode)"


def test_a_child_of_the_process_is_counted() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdin is not None
        assert parent.stdout.readline() == b"spun\n"
        assert len(processes.tree(parent.pid)) == 2
        held = processes.memory(parent.pid)
        assert 5_000_000 < held.proportional <= held.resident
        assert len(held.each) == 2 and sum(held.each) == held.resident
        assert processes.cpu_ns(parent.pid)
        parent.stdin.close()


def test_time_between_counts_threads_born_since() -> None:
    old, new = Path("/proc/1/task/1"), Path("/proc/1/task/2")
    assert processes.cpu_ns_between({old: 100}, {old: 130, new: 7}) == 37


def test_a_process_that_ended_cost_nothing_more() -> None:
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    assert processes.cpu_ns(ended.pid) == {}
    assert processes.memory(ended.pid) == processes.Memory(0, 0)
