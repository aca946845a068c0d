"""The difference between two configurations, for operators, and the changes that need a restart."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Container, Generator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from budgateway.config.source import FILES, Stamp, stamp
from budgateway.errors import ConfigError
from budgateway.records import Provider, Route, Secret, Settings
from budgateway.system.slices import at_once

_log = logging.getLogger("budgateway.reload")

# Settings that are fixed for the process's lifetime: each owns a socket, a process or a file. field -> key.
FIXED = {
    "host": "gateway.host",
    "port": "gateway.port",
    "workers": "gateway.workers",
    "access_log": "gateway.access_log",
    "metrics_enabled": "metrics.enabled",
    "metrics_host": "metrics.host",
    "metrics_port": "metrics.port",
}
# Not settings: their origin, and what is compared separately.
_APART = frozenset({"providers", "routes", "notices", "sources", "files", "origins"})


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of one kind of thing, by name. `changed` lists fields, never their values, which may be secret."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def document(self) -> dict[str, Any]:
        """Return the changes for JSON."""
        return {
            "added": list(self.added),
            "removed": list(self.removed),
            "changed": [{"name": name, "fields": list(fields)} for name, fields in self.changed],
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between two configurations. Upstreams are by URL, settings are (name, before, after)."""

    routes: Changes
    providers: Changes
    upstreams: Changes
    settings: tuple[tuple[str, object, object], ...]

    def __bool__(self) -> bool:
        return bool(self.routes or self.providers or self.upstreams or self.settings)

    def __str__(self) -> str:
        """Return one line for the log."""
        parts = []
        for noun, changes in (("route", self.routes), ("provider", self.providers), ("upstream", self.upstreams)):
            for sign, count in (("+", len(changes.added)), ("-", len(changes.removed)), ("~", len(changes.changed))):
                if count:
                    parts.append(f"{sign}{count} {noun}{'s' if count != 1 else ''}")
        parts += [name for name, _, _ in self.settings]
        return ", ".join(parts) or "nothing changed"

    def document(self) -> dict[str, Any]:
        """Return the difference for JSON."""
        return {
            "changed": bool(self),
            "routes": self.routes.document(),
            "providers": self.providers.document(),
            "upstreams": self.upstreams.document(),
            "settings": [{"name": name, "before": before, "after": after} for name, before, after in self.settings],
        }


class FileWatch:
    """Detects changed files: other contents, replaced (editors, config maps, renewed certificates), new or gone."""

    def __init__(self, sources: Iterable[str], files: Iterable[tuple[str, Stamp]] = ()) -> None:
        """`sources`: configuration sources; files among them are watched, with their companion files. `files`: the
        files that were read, with their stamps at that time."""
        self._seen: dict[Path, Stamp] = {}
        self.follow(sources, files)

    def follow(self, sources: Iterable[str], files: Iterable[tuple[str, Stamp]]) -> None:
        """Watch these from now on. Known stamps of a file are kept, so each change is reported once."""
        as_read = {Path(name): found for name, found in files}
        tables = {Path(name) for name in sources if name.endswith(".toml")}
        beside = {file.parent / name for file in tables if file.name in FILES for name in FILES}
        seen = {}
        for file in tables | beside | as_read.keys() | {Path(".env")}:
            known = self._seen.get(file)
            if known is None:
                known = as_read[file] if file in as_read else stamp(file)
            seen[file] = known
        self._seen = seen

    def changed(self) -> bool:
        """Return whether anything changed since the last call. Blocks: reads the file system."""
        before, self._seen = self._seen, {file: stamp(file) for file in self._seen}
        return self._seen != before


class Origin:
    """The source of the configuration: how to read it again, and the files it was read from."""

    def __init__(self, load: Callable[[], Settings], settings: Settings) -> None:
        """`load` reads the configuration (it may block); `settings` are its previous result."""
        self._load = load
        self._sources = settings.sources
        self._files = settings.files
        self._watch = FileWatch(self._sources, self._files)

    async def read(self) -> Settings:
        """Read the current configuration. Raises ConfigError with every problem, GatewayError when it cannot be
        read."""
        try:
            settings = await asyncio.to_thread(self._load)
        except ConfigError as error:
            # Watch files it refers to, too: they may be created later.
            self._files = tuple((dict(self._files) | dict(error.files)).items())
            raise
        self._sources, self._files = settings.sources, settings.files
        return settings

    def changed(self) -> bool:
        """Return whether one of its files changed since the last call. Blocks."""
        self._watch.follow(self._sources, self._files)
        return self._watch.changed()


def compare(before: Settings, after: Settings) -> Difference:
    """Return the difference between two configurations."""
    return at_once(comparing(before, after))


def comparing(before: Settings, after: Settings) -> Generator[None, None, Difference]:
    """Do what `compare` does, one record in a step."""
    return Difference(
        routes=(yield from _changes(_by_name(before.routes), _by_name(after.routes))),
        providers=(yield from _changes(_by_name(before.providers), _by_name(after.providers))),
        upstreams=(yield from _changes(_upstreams(before), _upstreams(after))),
        settings=tuple(
            (name, plain(getattr(before, name)), plain(getattr(after, name)))
            for name in _fields(before, after, besides=_APART)
        ),
    )


@asynccontextmanager
async def refusals_logged(what: str) -> AsyncIterator[None]:
    """Log why a configuration change is refused, whatever started it: a signal, the admin API or a file."""
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            _log.error("%s refused: %s", what, problem)
        raise


def refusals(before: Settings, after: Settings) -> list[str]:
    """Return the changes that need a restart, each with its key; empty when there are none."""
    problems = [
        f"{key}: changing {getattr(before, name)} to {getattr(after, name)} needs a restart of the gateway"
        for name, key in FIXED.items()
        if getattr(before, name) != getattr(after, name)
    ]
    if before.tls != after.tls:
        # A new certificate under the same names is read; new names may mean HTTP instead of HTTPS.
        problems.append("tls: other files need a restart of the gateway (changed contents of the same files do not)")
    return problems


def plain(value: object) -> Any:
    """Return a record as JSON values; secrets become `***`."""
    if isinstance(value, Secret):
        return repr(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.compare}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value


def _changes(before: Mapping[str, object], after: Mapping[str, object]) -> Generator[None, None, Changes]:
    changed = []
    for name, record in after.items():
        if name in before and (fields := tuple(_fields(before[name], record))):
            changed.append((name, fields))
        yield
    return Changes(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed=tuple(changed),
    )


def _fields(before: object, after: object, besides: Container[str] = ()) -> Iterable[str]:
    assert dataclasses.is_dataclass(before)
    for field in dataclasses.fields(before):
        if field.compare and field.name not in besides and getattr(before, field.name) != getattr(after, field.name):
            yield field.name


def _by_name(records: Iterable[Route | Provider]) -> dict[str, object]:
    return {record.name: record for record in records}


def _upstreams(settings: Settings) -> dict[str, object]:
    return {upstream.url: upstream for provider in settings.providers for upstream in provider.upstreams}
