"""What was read before it is checked: tables, and where each part of them came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

KeyPath = tuple[str | int, ...]
Stamp = tuple[int, int, int]  # when it was changed (ns), its size and its inode: another one, another content
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
FILES = ("gateway.toml", "routes.toml", "providers.toml")  # of a folder


@dataclass(slots=True)
class Source:
    """Unchecked tables with their places. Filled by load and environment, consumed by assemble."""

    tables: dict[str, object] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)  # path of a table -> the file it is in
    variables: dict[KeyPath, str] = field(default_factory=dict)  # path of a value -> the variable or option that set it
    files: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)  # names of variables that had a say
    folder: Path = field(default_factory=Path)
    alone: bool = False  # no files: the environment describes everything
    incomplete: bool = False  # a file could not be read: what is missing may be in there
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    stamps: dict[str, Stamp] = field(default_factory=dict)  # of each file that was looked at, before it was read

    def look_at(self, file: Path) -> None:
        """Note what a file is like, to notice later that it changed since it was read."""
        self.stamps.setdefault(str(file), stamp(file))

    def broken(self, file: str, message: str) -> None:
        """Note a file that cannot be read."""
        self.problems.append(f"{file}: {message}")
        self.incomplete = True

    def default_file(self, name: str) -> str:
        """The file that a missing table would be in: the one of that name in a folder, or the only one."""
        return Path(self.files[0]).name if len(self.files) == 1 else name

    def left_beside(self) -> list[str]:
        """Files of a folder that were not read, as one of them was named instead of the folder."""
        if len(self.files) != 1 or Path(self.files[0]).name not in FILES:
            return []
        return [name for name in FILES if name != Path(self.files[0]).name and (self.folder / name).is_file()]

    def override(self, table: str, key: str, value: object, place: str) -> None:
        """Set one key over what the files say, unless something stronger did; a table that is no table stays wrong."""
        tables = self.tables.get(table, {})
        if isinstance(tables, dict) and (table, key) not in self.variables:
            if key in tables and not place.startswith("--"):
                self._note_override(table, key, tables[key], value, place)
            self.tables[table] = {**tables, key: value}
            self.variables[table, key] = place

    def _note_override(self, table: str, key: str, before: object, value: object, place: str) -> None:
        if str(before).lower() == str(value).lower():
            return
        # A secret, or what may hold one, is not shown.
        was = f" = {before}" if (table, key) in SHOWN else ""
        file = self.places.get((table,), "the file")
        self.notices.append(f"{place} replaces {table}.{key}{was} of {file}")

    def origins(self) -> dict[KeyPath, str]:
        """For every key that was given: the file, variable or option that set it. Keys that are missing have defaults."""
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
        """Where a relative path starts: beside the file that holds it; in the working folder for a variable's."""
        return Path() if path in self.variables else self.folder


def stamp(file: Path) -> Stamp:
    """What a file is like now, behind all symbolic links: Kubernetes and cert-manager change where those lead."""
    try:
        found = file.stat()
    except (OSError, ValueError):
        return ABSENT
    if not S_ISREG(found.st_mode):
        return ABSENT  # a pipe (`/dev/stdin`) changes whenever it is read
    return found.st_mtime_ns, found.st_size, found.st_ino
