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
from benchmarks.load.cases import CASES, GROUPS, Case, named
from benchmarks.load.peers import ALL, NotStarted, Peer
from benchmarks.load.processes import cpu_ns, cpu_ns_between, memory
from benchmarks.load.results import DIRECT, Results, Sample
from benchmarks.load.setups import BARE, MAX_MODELS, PATH, Clients, Setup
from benchmarks.load.table import render

GATEWAY_CORE = 0
RIG_CORE = 1
WARM_UP_S = 1.0
MAX_SECONDS = rig.MAX_RUN_S


class Comparison:
    """Holds the upstream and the gateways while they are measured.

    A configurable gateway is started once for each set-up among the cases, the others once in all.
    """

    def __init__(
        self,
        binary: Path,
        kinds: list[type[Peer]],
        cases: list[Case],
        results: Results,
        upstream: str,
        folder: Path,
        connections: int = 0,
    ) -> None:
        """`connections`: as many in every case that has more than one, or 0."""
        self._connections = connections
        self._binary = binary
        self._kinds = kinds
        self._cases = cases
        self._results = results
        self._upstream = upstream
        self._folder = folder
        self._clients = Clients(folder)
        self._peers: dict[tuple[str, Setup], Peer] = {}
        self._served: dict[Peer, int] = {}

    def start(self) -> None:
        """Start every gateway, and drop those that do not come up."""
        for kind in list(self._kinds):
            for number, setup in enumerate(dict.fromkeys(_setup(kind, case) for case in self._cases)):
                say(f"starting {kind.name} {setup.label()}".rstrip())
                peer = kind()
                try:
                    folder = self._folder / f"{kind.name}-{number}"
                    peer.start(self._upstream, folder, GATEWAY_CORE, setup, self._clients)
                except (NotStarted, OSError) as error:
                    say(str(error))
                    self._drop(kind, str(error))
                    break
                self._peers[kind.name, setup] = peer
                peer.freeze()

    def _drop(self, kind: type[Peer], reason: str) -> None:
        self._results.failed[kind.name] = reason
        self._kinds.remove(kind)
        for place in [place for place in self._peers if place[0] == kind.name]:
            self._peers.pop(place).stop()

    def stop(self) -> None:
        """End them all."""
        for peer in self._peers.values():
            peer.stop()

    def measure(self, rounds: int, seconds: float) -> None:
        """The rounds: in each, every case of every gateway, those of one case one after another."""
        for number in range(1, rounds + 1):
            for case in self._cases:
                say(f"round {number} of {rounds}: {case.name}")
                if case.has_direct:
                    self._direct(case, number, seconds)
                for kind in self._kinds:
                    if case.name not in kind.cannot:
                        peer = self._peers[kind.name, _setup(kind, case)]
                        peer.thaw()
                        try:
                            self._one(peer, case, number, seconds)
                        finally:
                            peer.freeze()

    def serve(self, requests: int, max_s: float) -> None:
        """Bring every gateway to so many requests (those that can, in that time), and read its memory."""
        for (name, setup), peer in self._peers.items():
            label = f"{name} ({setup.label()})" if setup.label() else name
            say(f"memory: {label}")
            peer.thaw()
            give_up = time.monotonic() + max_s
            while (left := requests - self._served.get(peer, 0)) > 0 and time.monotonic() < give_up:
                options = ["--connections", "64", "--duration", str(MAX_SECONDS), "--requests", str(left)]
                # Another order each time, and in none the one of a round.
                self._load(peer, setup, options, seed=1_000 + self._served.get(peer, 0))
            self._results.memory[label] = (self._served.get(peer, 0), memory(peer.pid))
            peer.freeze()

    def _one(self, peer: Peer, case: Case, number: int, seconds: float) -> None:
        arguments = {"slow": peer.slow, "faithful": peer.faithful, "connections": self._connections}
        # A round's order is the same for all gateways, and the warm-up's another one.
        warm_up = case.arguments(**arguments, seconds=min(WARM_UP_S, seconds))
        self._load(peer, case.setup, warm_up, seed=2 * number)
        before = cpu_ns(peer.pid)
        report = self._load(peer, case.setup, case.arguments(**arguments, seconds=seconds), seed=2 * number + 1)
        spent = cpu_ns_between(before, cpu_ns(peer.pid))
        units = case.units(report)
        self._results.add(case.name, peer.name, Sample(spent / 1e3 / units if units else None, report))

    def _direct(self, case: Case, number: int, seconds: float) -> None:
        url = self._upstream + PATH
        options = case.arguments(slow=False, faithful=True, seconds=seconds)
        options += self._clients.options(case.setup, {}, seed=2 * number + 1)
        self._results.add(case.name, DIRECT, Sample(None, rig.run(self._binary, url, *options, core=RIG_CORE)))

    def _load(self, peer: Peer, setup: Setup, options: list[str], seed: int) -> rig.Report:
        options = [*options, *self._clients.options(setup, peer.headers(), seed)]
        report = rig.run(self._binary, peer.url, *options, core=RIG_CORE)
        self._served[peer] = self._served.get(peer, 0) + int(report["completed"])
        if report["errors"] or report["non_2xx"]:
            say(f"{peer.name}: {report['errors']} errors {report['failures']}, {report['non_2xx']} not 2xx")
        return report


def _setup(kind: type[Peer], case: Case) -> Setup:
    """The set-up that a gateway of this kind is started with for a case."""
    return case.setup if kind.configurable else BARE


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
    names = [peer.name for peer in ALL]
    known = [*GROUPS, *(case.name for case in CASES)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description="budgateway beside its peers.")
    parser.add_argument(
        "--peers", default=",".join(names), help=f"of: {', '.join(names)}; those not installed are left out"
    )
    parser.add_argument("--cases", default="standard", help=f"of: {', '.join(known)} (standard)")
    parser.add_argument(
        "--users",
        default="1",
        metavar="N[,N]",
        help="principals that requests are spread over, in cases with JWT; with several numbers each case for each",
    )
    parser.add_argument(
        "--models", default="1", metavar="N[,N]", help="names of models that the route serves, the same way"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=4.0, help=f"of load for each case in each round, {MAX_SECONDS:.0f} at most"
    )
    parser.add_argument("--quick", action="store_true", help="one round of a second: does it work at all")
    parser.add_argument(
        "--memory-after", type=int, default=0, metavar="N", help="read memory after N requests to each (1000000)"
    )
    parser.add_argument(
        "--interval-us", type=int, default=2_500, metavar="N", help="between two events of the null model's streams"
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
    if unknown := [*(set(options.peers) - set(names)), *(set(options.cases) - set(known))]:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    try:
        users, models = ([int(word) for word in words.split(",")] for words in (options.users, options.models))
    except ValueError:
        parser.error("--users and --models take numbers")
    if min(users + models) < 1 or max(models) > MAX_MODELS:
        parser.error(f"--users and --models are at least 1, --models at most {MAX_MODELS}")
    options.cases = [spread for case in named(options.cases) for spread in case.spread(users, models)]
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
    kinds = [kind for kind in ALL if kind.name in options.peers]
    for kind in [kind for kind in kinds if not kind().installed()]:
        say(f"not installed: {kind.name}")
        kinds.remove(kind)
    results = Results(
        machine=machine(),
        versions={kind.name: kind().version() for kind in kinds},
        does={kind.name: kind.does for kind in kinds},
        configurable=frozenset(kind.name for kind in kinds if kind.configurable),
        seconds=options.seconds,
        rounds=options.rounds,
        interval_us=options.interval_us,
    )
    cases: list[Case] = options.cases
    folder = Path(tempfile.mkdtemp(prefix="budgateway-load-"))
    with ExitStack() as stack:
        if not options.keep:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        asked = ["--pace", options.pace, "--delay-ms", str(options.delay_ms)]
        asked += ["--interval-us", str(options.interval_us)]
        url = stack.enter_context(rig.upstream(binary, *asked, core=RIG_CORE))
        comparison = Comparison(binary, kinds, cases, results, url, folder, options.connections)
        stack.callback(comparison.stop)
        comparison.start()
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
