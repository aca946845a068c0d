"""The cases: what load each is, and which figures are read from its reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.load.rig import Report
from benchmarks.load.setups import BARE, EVERYTHING, Setup

# Of the null model's plain reply (rig/src/payload.rs).
REPLY_BYTES = 400


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load."""

    name: str
    title: str
    options: tuple[str, ...]
    # What a peer that is marked slow gets instead.
    slow_options: tuple[str, ...]
    # What processor time is divided by: completed requests, or chunks.
    units: Callable[[Report], int]
    # The word for one of them.
    unit: str = "request"
    setup: Setup = BARE
    # Latency is what counts here.
    latency: bool = False
    stream: bool = False

    @property
    def has_direct(self) -> bool:
        """Going direct is measured as well: what a gateway adds is the difference."""
        return self.latency or self.stream

    def arguments(self, *, slow: bool, faithful: bool, seconds: float, connections: int = 0) -> list[str]:
        """The load generator's options; `connections` in place of the case's own, where plain answers come over several."""
        options = [*(self.slow_options if slow else self.options), "--duration", str(seconds)]
        if connections and not (self.stream or self.latency):
            options += ["--connections", str(connections)]
        if faithful and not self.stream:
            options += ["--expect-bytes", str(REPLY_BYTES)]
        return options

    def spread(self, users: Sequence[int], models: Sequence[int]) -> list[Case]:
        """The case for each number of users with each number of models; itself where its clients have no token."""
        if "jwt" not in self.setup.features:
            return [self]
        setups = [replace(self.setup, users=some, models=names) for some in users for names in models]
        return [self._over(setup) for setup in setups]

    def _over(self, setup: Setup) -> Case:
        counts = {"users": setup.users, "models": setup.models}
        several = {word: count for word, count in counts.items() if count > 1}
        name = "-".join([self.name, *(f"{count}-{word}" for word, count in several.items())])
        title = ", ".join([self.title, *(f"{count:,} {word}" for word, count in several.items())])
        return replace(self, name=name, title=title, setup=setup)


def _requests(report: Report) -> int:
    return int(report["completed"])


def _chunks(report: Report) -> int:
    return int(report["stream"]["chunks"])


def _plain(name: str, title: str, *features: str, body_bytes: int = 300, extra: tuple[str, ...] = ()) -> Case:
    options = ("--body-bytes", str(body_bytes), *extra)
    return Case(
        name=name,
        title=title,
        options=("--connections", "64", *options),
        slow_options=("--connections", "8", *options),
        units=_requests,
        setup=Setup(features),
    )


def _streams(name: str, title: str, *features: str, events: int, chunks: bool) -> Case:
    """Streams of so many events: processor time by chunk, or by stream."""
    return Case(
        name=name,
        title=title,
        options=("--streams", "128", "--events", str(events)),
        slow_options=("--streams", "8", "--events", str(min(events, 50))),
        units=_chunks if chunks else _requests,
        unit="chunk" if chunks else "stream",
        stream=True,
        setup=Setup(features),
    )


def _one(name: str, title: str, *features: str) -> Case:
    options = ("--connections", "1", "--body-bytes", "300")
    return Case(name, title, options, options, _requests, latency=True, setup=Setup(features))


def _rate(name: str, title: str, *features: str, rate: int) -> Case:
    options = ("--connections", "64", "--body-bytes", "300")
    return Case(
        name=name,
        title=title,
        options=("--rate", str(rate), *options),
        slow_options=("--rate", "30", *options),
        units=_requests,
        latency=True,
        setup=Setup(features),
    )


_LIMITED = ("jwt", "limits")

# Without credentials: one anonymous client.
STANDARD: tuple[Case, ...] = (
    _plain("small", "300 B chat request, 400 B reply, 64 connections"),
    _plain("large", "20 KB chat request, 400 B reply, 64 connections", body_bytes=20_000),
    _streams("stream", "128 streams, one 190 B chunk an interval, 400 chunks a stream", events=400, chunks=True),
    _one("one", "300 B, 1 connection"),
    _rate("rate", "300 B, 300 requests a second, open loop", rate=300),
)

# What deployments switch on, one by one and together.
EVERYDAY: tuple[Case, ...] = (
    _plain("jwt", "300 B, JWT and limits by user", *_LIMITED),
    _plain("concurrency", "300 B, JWT and limits by user, concurrency too", *_LIMITED, "concurrency"),
    _plain("alias", "300 B, JWT and limits by user, an alias", *_LIMITED, "alias"),
    _plain("budget", "300 B, JWT and limits by user, a budget", *_LIMITED, "budget"),
    _plain("proxies", "300 B, JWT and limits by user, trusted proxies", *_LIMITED, "proxies"),
    _plain("everything", "300 B, everything on", *EVERYTHING),
    _plain("everything-large", "20 KB, everything on", *EVERYTHING, body_bytes=20_000),
    _streams("event", "128 streams of one event", events=1, chunks=False),
    _streams("event-everything", "128 streams of one event, everything on", *EVERYTHING, events=1, chunks=False),
    _streams("events", "128 streams of 20 events", events=20, chunks=False),
    _streams("events-everything", "128 streams of 20 events, everything on", *EVERYTHING, events=20, chunks=False),
    _streams("stream-everything", "128 streams of 400 chunks, everything on", *EVERYTHING, events=400, chunks=True),
    _plain("close", "300 B, a connection for each request", extra=("--close",)),
    _plain("close-jwt", "300 B, a connection for each request, JWT and limits by user", *_LIMITED, extra=("--close",)),
    _one("one-everything", "300 B, 1 connection, everything on", *EVERYTHING),
    _rate("rate-jwt", "300 B, 1,000 requests a second, open loop, JWT and limits by user", *_LIMITED, rate=1_000),
)

CASES: tuple[Case, ...] = STANDARD + EVERYDAY

# Names for several cases at once.
GROUPS: dict[str, tuple[Case, ...]] = {"standard": STANDARD, "everyday": EVERYDAY, "all": CASES}


def named(words: Sequence[str]) -> list[Case]:
    """The cases and groups of these names, in the order of the tables; raises KeyError with a name that there is not."""
    known = {case.name: (case,) for case in CASES} | GROUPS
    wanted = {case.name for word in words for case in known[word]}
    return [case for case in CASES if case.name in wanted]
