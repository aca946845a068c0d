"""The cost of a reload and of a scrape for everybody else: latency of other requests, on one core with all of the gateway.

    python -m benchmarks.disturbance                            # signal, admin, watch and scrape, beside nothing
    python -m benchmarks.disturbance --cases none,signal --rounds 5 --rate 1000
    python -m benchmarks.disturbance --turns                    # the longest turns of a worker's loop, in CPU time

Supervisor, worker and reader of the configuration share one core; the load generator and the null model server have the
other. While the generator sends requests to one route in open loop, the configuration (1,000 routes, 200 providers, 400
upstreams) is written anew and reloaded, or the metrics are scraped, every 1.2 s. Cases take turns in each round, so that
a ratio compares runs of the same minute. `--turns` counts the CPU time of one worker's loop without any load, which
other processes of the machine do not change.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.load import rig

CASES = ("none", "signal", "admin", "watch", "scrape")
EVERY_S = 1.2
CORE_OF_GATEWAY, CORE_OF_RIG = 0, 1


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the configuration."""

    routes: int
    providers: int


def configuration(size: Size, url: str, port: int, number: int, *, watch: bool) -> str:
    """A configuration in which every route differs from that of another `number`."""
    lines = [
        f'[gateway]\nhost = "127.0.0.1"\nport = {port}\nworkers = 1\nwatch = {str(watch).lower()}\naccess_log = "off"',
        f"[metrics]\nport = {port + 1}",
    ]
    for at in range(size.providers):
        lines.append(
            f'[providers.p{at}]\nkind = "vllm"\nendpoints = ["{url}/u{at}-0", "{url}/u{at}-1"]\n'
            f'models = ["m{at}"]\nhealth_check_path = "/health"'
        )
    for at in range(size.routes):
        lines.append(
            f'[[routes]]\npath = "/t{at}/v1/chat/completions"\nmethod = "POST"\nprovider = "p{at % size.providers}"\n'
            f'fallback = ["p{(at + 1) % size.providers}"]\nauth_required = false\nrate_limit = {1_000_000 + number}'
        )
    return "\n".join(lines)


class Running:
    """A gateway that runs, and its configuration."""

    def __init__(self, process: subprocess.Popen[bytes], write: Callable[[], None], port: int, starts_s: float) -> None:
        self.process = process
        self.write = write
        self.url = f"http://127.0.0.1:{port}"
        self.metrics_url = f"http://127.0.0.1:{port + 1}/metrics"
        self.starts_s = starts_s

    def disturb(self, how: str) -> None:
        """Do once what a case does."""
        if how == "scrape":
            with urllib.request.urlopen(self.metrics_url) as response:
                response.read()
        elif how != "none":
            self.write()
        if how == "signal":
            self.process.send_signal(signal.SIGHUP)
        elif how == "admin":
            subprocess.run(  # as an operator does: over the admin socket
                rig.pinned(CORE_OF_RIG, [sys.executable, "-m", "budgateway", "reload", "--port", self.url.rpartition(":")[2]]),
                check=True, capture_output=True,
            )  # fmt: skip


@contextmanager
def gateway(size: Size, url: str, port: int, *, watch: bool) -> Iterator[Running]:
    """A gateway on its core."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "one.toml"
        number = 0

        def write() -> None:
            nonlocal number
            number += 1
            new = file.with_suffix(".new")
            new.write_text(configuration(size, url, port, number, watch=watch))
            new.rename(file)

        write()
        began = time.monotonic()
        process = subprocess.Popen(
            rig.pinned(CORE_OF_GATEWAY, [sys.executable, "-m", "budgateway", "serve", "--config", file]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"XDG_RUNTIME_DIR": folder},
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/readyz")
            yield Running(process, write, port, time.monotonic() - began)
        finally:
            process.terminate()
            process.wait()


def wait_for(url: str) -> None:
    """Wait for a 200."""
    for _ in range(6000):
        try:
            with urllib.request.urlopen(url) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.005)
    raise SystemExit(f"{url} never answered 200")


def measured(binary: Path, running: Running, how: str, rate: float, seconds: float) -> dict[str, float]:
    """The latencies of other requests, in microseconds, while something happens again and again."""
    command = [binary, "run", "--rate", str(rate), "--duration", str(seconds), f"{running.url}/t7/v1/chat/completions"]
    load = subprocess.Popen(rig.pinned(CORE_OF_RIG, command), stdout=subprocess.PIPE, text=True)
    ends = time.monotonic() + seconds
    time.sleep(EVERY_S / 2)
    while time.monotonic() + EVERY_S / 2 < ends:
        next_one = time.monotonic() + EVERY_S
        running.disturb(how)
        time.sleep(max(0.0, next_one - time.monotonic()))
    text, _ = load.communicate()
    report = json.loads(text)
    if report["errors"] or report["non_2xx"]:
        raise SystemExit(f"{how}: {report['errors']} errors, {report['non_2xx']} other than 2xx")
    latency: dict[str, float] = report["latency_us"]
    return latency


def compare(options: argparse.Namespace) -> None:
    """Measure the cases in turn, and print each run and the medians."""
    size = Size(options.routes, options.providers)
    cases = options.cases.split(",")
    binary = rig.built() or rig.build()
    found: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
    with rig.upstream(binary, core=CORE_OF_RIG) as url, gateway(size, url, options.port, watch=False) as running:
        watching = gateway(size, url, options.port + 10, watch=True)
        print(f"start: {running.starts_s:.2f} s")
        with watching as watched:
            for _ in range(options.rounds):
                for case in cases:
                    one, other = (watched, running) if case == "watch" else (running, watched)
                    with stopped(other):
                        measured(binary, one, "none", options.rate, 1.0)
                        latency = measured(binary, one, case, options.rate, options.seconds)
                    found[case].append(latency)
                    print(
                        f"{case:8s} " + " ".join(f"{name} {us / 1000:7.2f}" for name, us in latency.items()), flush=True
                    )
    print("\nmedians of rounds, ms")
    for case, rounds in found.items():
        words = [f"{name} {median(one[name] for one in rounds) / 1000:7.2f}" for name in ("p50", "p99", "max")]
        if case != "none" and "none" in found:
            ratios = [one["p99"] / base["p99"] for one, base in zip(rounds, found["none"], strict=True)]
            words.append(f"p99 x {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        print(f"{case:8s} " + "  ".join(words))


@contextmanager
def stopped(running: Running) -> Iterator[None]:
    """A gateway that is not measured does nothing, and its processes neither."""
    pids = [running.process.pid, *children(running.process.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def children(pid: int) -> list[int]:
    """The child processes of one."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


async def turns(size: Size, reloads: int) -> None:
    """Reload in one worker without load, and print the CPU time of its loop's longest turns."""
    from budgateway import native
    from budgateway.app.dataplane import DataPlane, settle_memory
    from budgateway.config.load import load_config
    from budgateway.config.packing import packing, unpacking
    from budgateway.system.slices import at_once, in_slices

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "one.toml"
        file.write_text(configuration(size, "http://127.0.0.1:9", 8080, 0, watch=False))
        settings = load_config(str(file))
    plane = DataPlane(replace(settings, access_log="off"), native.Segment(1), 0, "/nowhere")
    settle_memory()
    packed = at_once(packing(settings))
    spent: list[float] = []

    async def turn() -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            spent.append(time.thread_time() - began)

    for number in range(reloads):
        spent.clear()
        turning = asyncio.create_task(turn())
        began = time.thread_time()
        successor = await in_slices(plane.preparing(await in_slices(unpacking(packed))))
        built = time.thread_time() - began
        plane.commit(successor)
        del successor
        plane._free_former()
        while plane._tasks:
            await asyncio.sleep(0)
        turning.cancel()
        longest = " ".join(f"{1e3 * seconds:.2f}" for seconds in sorted(spent, reverse=True)[:8])
        print(f"reload {number}: built in {1e3 * built:.0f} ms, {len(spent)} turns; the longest, ms: {longest}")
    await plane.close()


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--routes", type=int, default=1000)
    parser.add_argument("--providers", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--turns", action="store_true")
    options = parser.parse_args()
    if options.turns:
        asyncio.run(turns(Size(options.routes, options.providers), options.rounds))
    else:
        compare(options)


if __name__ == "__main__":
    main()
