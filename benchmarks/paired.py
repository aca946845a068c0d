"""Cost of a feature per exchange: set-ups of one gateway that alternate in one process, or run each under callgrind.

The exchange goes through the compiled protocols and the whole pipeline, without sockets. Names of set-ups may begin with a
kind (`stream: ...`); the first one of a kind is the baseline for the others.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Protocol

from budgateway.app.dataplane import DataPlane


class Driven(Protocol):
    """A data plane with both its ends in hand."""

    plane: DataPlane

    def exchanges(self, count: int) -> float:
        """Microseconds of CPU that one took."""
        ...


SetUps = Mapping[str, Callable[[], Driven]]


async def paired(setups: SetUps, rounds: int, count: int) -> dict[str, list[float]]:
    """By set-up, what an exchange took in each round."""
    async with AsyncExitStack() as stack:
        driven = {}
        for name, make in setups.items():
            driven[name] = make()
            stack.push_async_callback(driven[name].plane.close)
            driven[name].exchanges(count)
        taken: dict[str, list[float]] = {name: [] for name in driven}
        for number in range(rounds):
            # Each second round backwards: what drifts, drifts for all.
            for name in list(driven) if number % 2 else reversed(driven):
                taken[name].append(driven[name].exchanges(count))
        return taken


async def alone(make: Callable[[], Driven], count: int) -> None:
    """Run one set-up by itself, for callgrind to measure."""
    one = make()
    one.exchanges(200)
    one.exchanges(count)
    await one.plane.close()


def instructions(module: str, name: str, count: int = 2000) -> float:
    """Instructions of one exchange: a long run less a short one."""
    found = []
    # Once without being counted: the first one compiles.
    subprocess.run([sys.executable, "-m", module, "--alone", name, "--count", "1"], capture_output=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        for size in (1, count + 1):
            command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
            command += [sys.executable, "-m", module, "--alone", name, "--count", str(size)]
            said = subprocess.run(
                command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "0"}
            ).stderr
            collected = re.search(r"Collected : (\d+)", said)
            assert collected is not None, said
            found.append(int(collected[1]))
    return (found[1] - found[0]) / count


def first_of(name: str, setups: SetUps) -> str:
    """Return the baseline of a set-up."""
    kind = name.partition(":")[0] if ":" in name else ""
    return next(other for other in setups if other.startswith(kind))


def run(module: str, about: str | None, setups: SetUps) -> None:
    """The command line of such a benchmark."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--count", type=int, default=1000, help="exchanges a round")
    parser.add_argument("--instructions", action="store_true", help="count instead of timing")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        asyncio.run(alone(setups[given.alone], given.count))
        return
    if given.instructions:
        counts = {name: instructions(module, name) for name in setups}
        for name, count in counts.items():
            print(f"{name:36} {count:9,.0f} instructions {count - counts[first_of(name, setups)]:+9,.0f}")
        return
    took = asyncio.run(paired(setups, given.rounds, given.count))
    print(f"{given.rounds} rounds of {given.count} exchanges each, CPU time of the process, microseconds")
    for name, values in took.items():
        more = sorted(value - bare for value, bare in zip(values, took[first_of(name, setups)], strict=True))
        low, high = more[len(more) // 4], more[len(more) * 3 // 4]
        found = f"{name:36} {statistics.median(values):6.2f}   {statistics.median(more):+5.2f}"
        print(f"{found} (half of the rounds: {low:+.2f} to {high:+.2f})")
