"""Unchecked configuration: tables, and the source of each part of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

KeyPath = tuple[str | int, ...]
Stamp = tuple[int, int, int]  # change time (ns), size and inode; another stamp means other contents
ABSENT: Stamp = (0, 0, 0)
# Values that a notice may show: no secrets, and no URLs with passwords.
SHOWN = frozenset(
    {
        ("gateway", "port"),
        ("gateway", "host"),
        ("gateway", "workers"),
        ("gateway", "log_level"),
        ("metrics", "port"),
        ("metrics", "enabled"),
    }
)
FILES = ("gateway.toml", "routes.toml", "providers.toml")  # of a configuration directory


@dataclass(slots=True)
class Source:
    """Unchecked tables with their places. Filled by load and environment, consumed by assemble."""

    tables: dict[str, object] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)  # path of a table -> its file
    variables: dict[KeyPath, str] = field(default_factory=dict)  # path of a value -> the variable or option that set it
    files: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)  # names of variables that had an effect
    folder: Path = field(default_factory=Path)
    alone: bool = False  # no files: the environment describes everything
    incomplete: bool = False  # a file could not be read, so missing tables may be in it
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    stamps: dict[str, Stamp] = field(default_factory=dict)  # of each file, from before it was read

    def look_at(self, file: Path) -> None:
        """Record a file's stamp, to detect later that it changed after it was read."""
        self.stamps.setdefault(str(file), stamp(file))

    def broken(self, file: str, message: str) -> None:
        """Note a file that cannot be read."""
        self.problems.append(f"{file}: {message}")
        self.incomplete = True

    def default_file(self, name: str) -> str:
        """Return the file to which a missing table belongs: the one of that name in a directory, or the only one."""
        return Path(self.files[0]).name if len(self.files) == 1 else name

    def left_beside(self) -> list[str]:
        """Return the files next to the one that was read, which would have been read with their directory."""
        if len(self.files) != 1 or Path(self.files[0]).name not in FILES:
            return []
        return [name for name in FILES if name != Path(self.files[0]).name and (self.folder / name).is_file()]

    def override(self, table: str, key: str, value: object, place: str) -> None:
        """Set one key over the files' value, unless a stronger source has set it. A value that is no table is left for
        the schema to report."""
        tables = self.tables.get(table, {})
        if isinstance(tables, dict) and (table, key) not in self.variables:
            if key in tables and not place.startswith("--"):
                self._note_override(table, key, tables[key], value, place)
            self.tables[table] = {**tables, key: value}
            self.variables[table, key] = place

    def _note_override(self, table: str, key: str, before: object, value: object, place: str) -> None:
        try:
            former = str(before)
        except ValueError:  # an int beyond sys.get_int_max_str_digits, which TOML can write in hexadecimal
            former = "a number far too large"
        if former.lower() == str(value).lower():
            return
        # Secrets, and values that may hold one, are not shown.
        was = f" = {former}" if (table, key) in SHOWN else ""
        file = self.places.get((table,), "the file")
        self.notices.append(f"{place} replaces {table}.{key}{was} of {file}")

    def origins(self) -> dict[KeyPath, str]:
        """Return the file, variable or option that set each given key. Missing keys have defaults."""
        found: dict[KeyPath, str] = {}

        def walk(path: KeyPath, value: object, place: str) -> None:
            place = self.variables.get(path) or self.places.get(path) or place
            items: Iterable[tuple[str | int, object]] = ()
            if isinstance(value, dict):
                items = value.items()
            elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
                items = enumerate(value)
            if path in self.variables or not items:
                if place:
                    found[path] = place
                return
            for key, item in items:
                walk((*path, key), item, place)

        walk((), self.tables, "")
        return found

    def folder_of(self, path: KeyPath) -> Path:
        """Return the directory in which a relative path starts: that of its file, or the working directory for a
        variable."""
        return Path() if path in self.variables else self.folder


def stamp(file: Path) -> Stamp:
    """Return a file's current stamp, following symbolic links: Kubernetes and cert-manager change their targets."""
    try:
        found = file.stat()
    except (OSError, ValueError):
        return ABSENT
    if not S_ISREG(found.st_mode):
        return ABSENT  # a pipe (`/dev/stdin`) changes whenever it is read
    return found.st_mtime_ns, found.st_size, found.st_ino
