"""The tables: medians with their spread, and ratios to nginx inside the run."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from benchmarks.load.cases import Case
from benchmarks.load.results import DIRECT, Results, Sample
from benchmarks.load.rig import Report
from benchmarks.load.setups import FEATURES

YARDSTICK = "nginx"
MIB = 2**20

Figure = Callable[[Sample], float | None]


def render(results: Results, cases: list[Case]) -> str:
    """Markdown: the machine, a table for each case, memory, and what each gateway does on the path."""
    streams = (
        f"; events of a stream {results.interval_us / 1e3:g} ms apart" if any(case.stream for case in cases) else ""
    )
    how = f"medians (min - max) of {results.rounds} interleaved rounds of {results.seconds:g} s{streams}"
    parts = [
        f"Machine: {results.machine}.",
        f"Gateway on one core with one worker, load and null model server on the other; {how}.",
    ]
    for case in cases:
        if case.name in results.samples:
            parts += [f"### {case.title}", _case(case, results), _features(case, results)]
    parts += ["### Memory", _memory(results)]
    versions = [f"- {name} {version}" for name, version in results.versions.items()]
    parts.append("\n".join([*versions, *(f"- {name}: did not start" for name in results.failed)]))
    return "\n\n".join(parts)


def _case(case: Case, results: Results) -> str:
    gateways = results.samples[case.name]
    columns: list[tuple[str, Figure, int, bool]] = [(f"CPU us a {case.unit}", lambda sample: sample.cpu_us, 1, True)]
    if case.stream:
        columns += [("streams/s", _of("requests_per_s"), 0, True)] if case.unit == "stream" else []
        columns += [
            ("chunks/s", _of("stream", "chunks_per_s"), 0, False),
            ("coalesced %", _coalesced, 0, False),
            ("gap p50 us", _of("stream", "gap_us", "p50"), 0, False),
            ("gap p99 us", _of("stream", "gap_us", "p99"), 0, False),
            ("first event p50 us", _of("stream", "first_event_us", "p50"), 0, False),
            ("delay p50 us", _of("stream", "delay_us", "p50"), 0, False),
            ("delay p99 us", _of("stream", "delay_us", "p99"), 0, True),
        ]
    else:
        columns += [
            ("requests/s", _of("requests_per_s"), 0, not case.latency),
            ("p50 us", _of("latency_us", "p50"), 0, case.latency),
            ("p99 us", _of("latency_us", "p99"), 0, case.latency),
        ]
    heads = ["gateway"]
    for title, _, _, ratio in columns:
        heads += [title, f"x {YARDSTICK}"] if ratio else [title]
    # Latency of an answer, or delay of a chunk.
    through = ("stream", "delay_us") if case.stream else ("latency_us",)
    if case.has_direct:
        heads += ["added p50 us", f"x {YARDSTICK}", "added p99 us", f"x {YARDSTICK}"]
    rows = []
    for name, samples in gateways.items():
        row = [_marked(name, samples)]
        for _, figure, digits, ratio in columns:
            row.append(_spread([figure(sample) for sample in samples], digits))
            if ratio:
                row.append("" if name == DIRECT else _ratio(samples, gateways.get(YARDSTICK), figure))
        if case.has_direct:
            row += _added(name, gateways, through)
        rows.append(row)
    return _table(heads, rows)


def _features(case: Case, results: Results) -> str:
    """A line for each gateway: its work in this case. Those without the set-up's features get the same requests."""
    asked = f"{case.setup.users:,} user{'s' * (case.setup.users > 1)}, {case.setup.models:,} model{'s' * (case.setup.models > 1)}"
    mine = "".join(f", {FEATURES[name]}" for name in case.setup.features) + (
        f"; {asked}" if case.setup.features else ""
    )
    does = {name: results.does[name] for name in results.samples[case.name] if name in results.does}
    lines = [f"- {name}: {text}{mine if name in results.configurable else ''}" for name, text in does.items()]
    return "\n".join(lines)


def _added(name: str, gateways: dict[str, list[Sample]], path: tuple[str, ...]) -> list[str]:
    """Latency through the gateway minus that of going direct, in the same round."""
    if name == DIRECT or DIRECT not in gateways:
        return ["", "", "", ""]

    def added(gateway: str, percentile: str) -> list[float]:
        figure = _of(*path, percentile)
        pairs = zip(gateways.get(gateway, []), gateways[DIRECT])
        return [(figure(through) or 0.0) - (figure(direct) or 0.0) for through, direct in pairs]

    row = []
    for percentile in ("p50", "p99"):
        mine, yardstick = added(name, percentile), added(YARDSTICK, percentile)
        row.append(_spread(mine, 0))
        row.append(f"{median(mine) / median(yardstick):.2f}" if yardstick and median(yardstick) > 0 else "")
    return row


def _memory(results: Results) -> str:
    rows = [
        [
            name,
            f"{requests:,}",
            f"{held.resident / MIB:.0f}",
            " + ".join(f"{each / MIB:.0f}" for each in held.each),
            f"{held.proportional / MIB:.0f}",
        ]
        for name, (requests, held) in results.memory.items()
    ]
    return _table(["gateway", "after requests", "RSS MiB", "of each process", "PSS MiB"], rows)


def _coalesced(sample: Sample) -> float | None:
    """Chunks that reached the client together with the one before: they were cheaper to pass on."""
    stream = sample.report["stream"]
    return 100 * stream["coalesced"] / stream["chunks"] if stream["chunks"] else None


def _of(*path: str) -> Figure:
    def figure(sample: Sample) -> float | None:
        value: object = sample.report
        for key in path:
            if not isinstance(value, dict) or key not in value:
                return None
            value = value[key]
        return float(value) if isinstance(value, (int, float)) else None

    return figure


def _ratio(samples: list[Sample], yardstick: list[Sample] | None, figure: Figure) -> str:
    """The median of the rounds' own ratios: the machine's phases hit both sides of each."""
    pairs = [(figure(sample), figure(other)) for sample, other in zip(samples, yardstick or [])]
    ratios = [mine / theirs for mine, theirs in pairs if mine is not None and theirs]
    return f"{median(ratios):.2f}" if ratios else ""


def _spread(values: list[float | None] | list[float], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(known), median(known), max(known)))
    return middle if len(known) == 1 else f"{middle} ({low} - {high})"


def _marked(name: str, samples: list[Sample]) -> str:
    wrong = sum(_wrong(sample.report) for sample in samples)
    return f"**{name}: {wrong} WRONG**" if wrong else name


def _wrong(report: Report) -> int:
    return int(report["started"]) - int(report["completed"])


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
