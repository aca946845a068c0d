"""One interleaved run: every gateway in turn, then all again, beside the same null model server in the same minutes.

    core 0: one gateway, one worker                core 1: load generator, null model server, this script

Gateways that are not being measured are stopped (SIGSTOP). The figure is processor time a request: the sum over all
threads of the gateway's processes of /proc/PID/task/*/schedstat, divided by completed requests. See ../README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.load import rig
from benchmarks.load.cases import CASES, Case
from benchmarks.load.peers import ALL, NotStarted, Peer
from benchmarks.load.processes import cpu_ns, cpu_ns_between, memory
from benchmarks.load.results import DIRECT, Results, Sample
from benchmarks.load.table import render

GATEWAY_CORE = 0
RIG_CORE = 1
WARM_UP_S = 1.0
MAX_SECONDS = rig.MAX_RUN_S


class Comparison:
    """Holds the upstream and the gateways while they are measured."""

    def __init__(
        self, binary: Path, peers: list[Peer], cases: list[Case], results: Results, upstream: str, connections: int = 0
    ) -> None:
        """`connections`: as many in every case that has more than one, or 0."""
        self._connections = connections
        self._binary = binary
        self._peers = peers
        self._cases = cases
        self._results = results
        self._upstream = upstream
        self._served: dict[str, int] = {}

    def start(self, folder: Path) -> None:
        """Start every gateway, and drop those that do not come up."""
        for peer in list(self._peers):
            say(f"starting {peer.name}")
            try:
                peer.start(self._upstream, folder / peer.name, GATEWAY_CORE)
            except (NotStarted, OSError) as error:
                say(str(error))
                self._results.failed[peer.name] = str(error)
                self._peers.remove(peer)
            else:
                peer.freeze()

    def stop(self) -> None:
        """End them all."""
        for peer in self._peers:
            peer.stop()

    def measure(self, rounds: int, seconds: float) -> None:
        """The rounds: every gateway, then all again."""
        for number in range(1, rounds + 1):
            if any(case.latency for case in self._cases):
                self._direct(seconds)
            for peer in self._peers:
                say(f"round {number} of {rounds}: {peer.name}")
                peer.thaw()
                try:
                    for case in self._cases:
                        if case.name not in peer.cannot:
                            self._one(peer, case, seconds)
                finally:
                    peer.freeze()

    def serve(self, requests: int, max_s: float) -> None:
        """Bring every gateway to so many requests (those that can, in that time), and read its memory."""
        for peer in self._peers:
            say(f"memory: {peer.name}")
            peer.thaw()
            give_up = time.monotonic() + max_s
            while (left := requests - self._served.get(peer.name, 0)) > 0 and time.monotonic() < give_up:
                options = ["--connections", "64", "--duration", str(MAX_SECONDS), "--requests", str(left)]
                self._load(peer, options)
            self._results.memory[peer.name] = (self._served.get(peer.name, 0), memory(peer.pid))
            peer.freeze()

    def _one(self, peer: Peer, case: Case, seconds: float) -> None:
        arguments = {"slow": peer.slow, "faithful": peer.faithful, "connections": self._connections}
        self._load(peer, case.arguments(**arguments, seconds=min(WARM_UP_S, seconds)))
        before = cpu_ns(peer.pid)
        report = self._load(peer, case.arguments(**arguments, seconds=seconds))
        spent = cpu_ns_between(before, cpu_ns(peer.pid))
        units = case.units(report)
        self._results.add(case.name, peer.name, Sample(spent / 1e3 / units if units else None, report))

    def _direct(self, seconds: float) -> None:
        url = self._upstream + "/v1/chat/completions"
        for case in self._cases:
            if case.latency:
                arguments = case.arguments(slow=False, faithful=True, seconds=seconds)
                self._results.add(
                    case.name, DIRECT, Sample(None, rig.run(self._binary, url, *arguments, core=RIG_CORE))
                )

    def _load(self, peer: Peer, options: list[str]) -> rig.Report:
        headers = [word for name, value in peer.headers().items() for word in ("--header", f"{name}: {value}")]
        report = rig.run(self._binary, peer.url, *headers, *options, core=RIG_CORE)
        self._served[peer.name] = self._served.get(peer.name, 0) + int(report["completed"])
        if report["errors"] or report["non_2xx"]:
            say(f"{peer.name}: {report['errors']} errors {report['failures']}, {report['non_2xx']} not 2xx")
        return report


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    """The machine, in a line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown processor",
    )
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{os.cpu_count()} cores of {model}, {gib:.0f} GiB, Linux {os.uname().release}, Python {python}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    names, cases = [peer.name for peer in ALL], [case.name for case in CASES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description="budgateway beside its peers.")
    parser.add_argument(
        "--peers", default=",".join(names), help=f"of: {', '.join(names)}; those not installed are left out"
    )
    parser.add_argument("--cases", default=",".join(cases), help=f"of: {', '.join(cases)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=4.0, help=f"of load for each case in each round, {MAX_SECONDS:.0f} at most"
    )
    parser.add_argument("--quick", action="store_true", help="one round of a second: does it work at all")
    parser.add_argument(
        "--memory-after", type=int, default=0, metavar="N", help="read memory after N requests to each (1000000)"
    )
    parser.add_argument("--pace", choices=("step", "spread"), default="step", help="of the null model's streams")
    parser.add_argument(
        "--delay-ms",
        type=int,
        default=0,
        metavar="N",
        help="until the null model has a plain answer; see --connections",
    )
    parser.add_argument("--connections", type=int, default=0, metavar="N", help="of the cases of plain answers (64)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here too")
    parser.add_argument("--keep", action="store_true", help="keep the gateways' configurations and output")
    options = parser.parse_args(arguments)
    options.peers, options.cases = options.peers.split(","), options.cases.split(",")
    if unknown := [*(set(options.peers) - set(names)), *(set(options.cases) - set(cases))]:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    if not 0 < options.seconds <= MAX_SECONDS or options.rounds < 1:
        parser.error(f"--seconds is above 0 and at most {MAX_SECONDS:.0f}, --rounds at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables; 0 when every request of every gateway was answered rightly."""
    options = parse(arguments)
    if (os.cpu_count() or 1) < 2 or shutil.which("taskset") is None:
        say("needs two cores and taskset: one core for the gateway, one for the load")
        return 2
    os.sched_setaffinity(0, {RIG_CORE})
    binary = rig.build()
    peers = [peer for peer in (kind() for kind in ALL) if peer.name in options.peers]
    for peer in [peer for peer in peers if not peer.installed()]:
        say(f"not installed: {peer.name}")
        peers.remove(peer)
    results = Results(
        machine=machine(),
        versions={peer.name: peer.version() for peer in peers},
        does={peer.name: peer.does for peer in peers},
        seconds=options.seconds,
        rounds=options.rounds,
    )
    cases = [case for case in CASES if case.name in options.cases]
    folder = Path(tempfile.mkdtemp(prefix="budgateway-load-"))
    with ExitStack() as stack:
        if not options.keep:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        asked = ("--pace", options.pace, "--delay-ms", str(options.delay_ms))
        url = stack.enter_context(rig.upstream(binary, *asked, core=RIG_CORE))
        comparison = Comparison(binary, peers, cases, results, url, options.connections)
        stack.callback(comparison.stop)
        comparison.start(folder)
        comparison.measure(options.rounds, options.seconds)
        comparison.serve(options.memory_after, max_s=120)
    text = render(results, cases)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.json:
        options.json.write_text(json.dumps(results.as_json(), indent=1) + "\n")
    wrong = [
        report
        for gateways in results.samples.values()
        for samples in gateways.values()
        for report in (sample.report for sample in samples)
        if report["errors"] or report["non_2xx"]
    ]
    return 1 if wrong or results.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
