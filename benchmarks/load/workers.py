"""Two workers beside one: requests a second through a gateway, and where the processors' time went.

    python -m benchmarks.load.workers                # rounds of 6 s, one and two workers in turn

The generator and the null model server share the machine's cores with the gateway, so the share of each is printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.load import processes, rig

PATH = "/v1/chat/completions"
CONFIGURATION = """
[gateway]
host = "127.0.0.1"
port = {port}
workers = {workers}
spare_worker = false
access_log = "off"
[metrics]
enabled = false
[[routes]]
path = "/v1/*"
provider = "openai"
auth_required = false
load_balancer = "least_connections"
[providers.openai]
endpoints = ["{url}"]
"""


@contextmanager
def gateway(url: str, workers: int, port: int) -> Iterator[tuple[int, str]]:
    """A gateway that is ready: its supervisor's process, and its URL."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "one.toml").write_text(CONFIGURATION.format(port=port, workers=workers, url=url))
        command = [sys.executable, "-m", "budgateway", "serve", "--config", f"{folder}/one.toml"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"XDG_RUNTIME_DIR": folder})
        try:
            ready(f"http://127.0.0.1:{port}/readyz")
            yield process.pid, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def ready(url: str) -> None:
    """Wait for a 200."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def measured(binary: Path, pid: int, url: str, seconds: float, connections: int) -> dict[str, float]:
    """One run: requests a second, microseconds of a core for each, and the share of all cores that went where."""
    before, began = processes.cpu_ns(pid), time.monotonic()
    report = rig.run(binary, url + PATH, "--duration", str(seconds), "--connections", str(connections))
    elapsed = time.monotonic() - began
    spent_s = processes.cpu_ns_between(before, processes.cpu_ns(pid)) / 1e9
    if report["errors"] or report["non_2xx"]:
        raise SystemExit(f"not all were right: {report}")
    cores = (os.cpu_count() or 1) * elapsed
    return {
        "requests_per_s": report["requests_per_s"],
        "us_each": spent_s * 1e6 / report["completed"],
        "gateway": 100 * spent_s / cores,
        "generator": 100 * report["own_cpu_s"] / cores,
        "p50_ms": report["latency_us"]["p50"] / 1e3,
        "p99_ms": report["latency_us"]["p99"] / 1e3,
    }


def main() -> int:
    """Print one line a run and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--port", type=int, default=18_480)
    given = parser.parse_args()
    binary = rig.built() or rig.build()
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with rig.upstream(binary) as url, gateway(url, 1, given.port) as one, gateway(url, 2, given.port + 1) as two:
        for pid, target in (one, two):
            measured(binary, pid, target, 1, given.connections)  # warm
        for _ in range(given.rounds):
            for workers, (pid, target) in ((1, one), (2, two)):
                row = measured(binary, pid, target, given.seconds, given.connections)
                found[workers].append(row)
                print(workers, {name: round(value, 1) for name, value in row.items()}, flush=True)
    for workers, rows in found.items():
        print(f"{workers} workers, medians:", {name: round(median(row[name] for row in rows), 1) for name in rows[0]})
    ratios = [two["requests_per_s"] / one["requests_per_s"] for one, two in zip(found[1], found[2], strict=True)]
    print(f"two beside one, in each round: {sorted(round(ratio, 2) for ratio in ratios)}, median {median(ratios):.2f}")
    print(f"load average: {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
