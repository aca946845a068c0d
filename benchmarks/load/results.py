"""The results of one run: samples by case and gateway, with the machine they were taken on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.load import rig
from benchmarks.load.processes import Memory

DIRECT = "direct"


@dataclass(slots=True)
class Sample:
    """One case of one gateway in one round."""

    cpu_us: float | None
    report: rig.Report


@dataclass(slots=True)
class Results:
    """All that was measured: samples by case, then gateway, in the order of the rounds."""

    machine: str
    versions: dict[str, str]
    does: dict[str, str]
    # Gateways that have the features of a case's set-up on.
    configurable: frozenset[str]
    seconds: float
    rounds: int
    # Between two events of a stream.
    interval_us: int = 0
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    # By gateway: requests served before, and what it holds.
    memory: dict[str, tuple[int, Memory]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, case: str, gateway: str, sample: Sample) -> None:
        """Keep one sample."""
        self.samples.setdefault(case, {}).setdefault(gateway, []).append(sample)

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "machine": self.machine,
            "versions": self.versions,
            "seconds": self.seconds,
            "rounds": self.rounds,
            "interval_us": self.interval_us,
            "failed": self.failed,
            "memory": {
                name: {
                    "requests": requests,
                    "rss_bytes": held.resident,
                    "pss_bytes": held.proportional,
                    "rss_bytes_each": held.each,
                }
                for name, (requests, held) in self.memory.items()
            },
            "samples": {
                case: {
                    gateway: [{"cpu_us": sample.cpu_us, "report": sample.report} for sample in samples]
                    for gateway, samples in gateways.items()
                }
                for case, gateways in self.samples.items()
            },
        }
