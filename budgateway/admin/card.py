"""Cards: how the gateways that run on this machine are found by their operator."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import stat
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from budgateway.admin.folder import LOCK, temporary

# What systemd makes of `RuntimeDirectory=budgateway`, and of other names that begin so.
SERVICES = Path("/run"), "budgateway*/budgateway"
USERS = Path("/run/user")
TEMPORARY = Path("/tmp")  # noqa: S108 - of those who set no variable; only a folder of our own there is believed


@dataclass(frozen=True, slots=True)
class Card:
    """A running gateway: its process, where clients reach it, its back office's socket, and the one that hands over."""

    pid: int
    url: str
    office: str
    handover: str = ""
    host: str = ""  # as it is configured, where the URL is for clients
    draining: bool = False  # it accepts no more: another gateway may have its address
    network: int = 0  # the name space that it listens in; 0: not known

    @property
    def port(self) -> int | None:
        """Where it listens."""
        try:
            return urlsplit(self.url).port
        except ValueError:
            return None


def runtime_directory(environ: Mapping[str, str] = os.environ) -> str | None:
    """The folder that systemd gives the service; None for who is none."""
    return environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or None


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where this process' variables have cards: in the service's folder, the user's, else one of our own."""
    base = runtime_directory(environ) or environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "budgateway" if base else _of_ours(_temporary())


def folders(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Everywhere that a gateway of this user may have left its card, whatever variables it was started with: first where
    those of this process say, then where each leaves one besides."""
    named = [folder(environ)]
    if base := environ.get("XDG_RUNTIME_DIR"):
        named.append(Path(base) / "budgateway")
    return list(dict.fromkeys([*named, _of_ours(_temporary()), *_always(), *sorted(SERVICES[0].glob(SERVICES[1]))]))


class CardIndex:
    """The card of this process, in each folder where commands look for it."""

    def __init__(self, within: Sequence[Path] | None = None) -> None:
        """`within`: where; by default where this process' variables have cards, and where commands look without any."""
        self._within = within
        self._card: Card | None = None
        self._turn = threading.Lock()

    def leave(self, card: Card) -> list[Path]:
        """Write it, or write it anew: the files that could be written. A gateway runs without any."""
        with self._turn:
            self._card = card
            return [file for place in self._places() if (file := _written(place, card)) is not None]

    def restore(self) -> None:
        """Write it again where it is not any more. May be called in a thread."""
        with self._turn:
            if self._card is not None:
                for place in self._places():
                    if _read(place / f"{self._card.pid}.json") != self._card:
                        _written(place, self._card)

    def drain(self) -> None:
        """Let commands see that this gateway accepts no more."""
        if self._card is not None:
            self.leave(dataclasses.replace(self._card, draining=True, handover=""))

    def remove(self) -> None:
        """Take it back. Idempotent."""
        with self._turn:
            card, self._card = self._card, None
            if card is not None:
                remove_card(card.pid, self._places())

    def _places(self) -> Sequence[Path]:
        if self._within is not None:
            return self._within
        return list(dict.fromkeys([folder(), *_always()]))


def remove_card(pid: int, within: Sequence[Path] | None = None) -> None:
    """Remove a process' card wherever it is."""
    for place in folders() if within is None else within:
        if _is_ours(place):
            try:
                (place / f"{pid}.json").unlink(missing_ok=True)
            except OSError:
                continue


def cards(within: Path | None = None) -> list[Card]:
    """The cards of gateways that run, by process; those of the dead are removed."""
    found: dict[int, Card] = {}
    for place in folders() if within is None else [within]:
        for card in cards_in(place):
            found.setdefault(card.pid, card)
    return [found[pid] for pid in sorted(found)]


def cards_in(place: Path) -> list[Card]:
    """The same of one folder."""
    found = []
    for file in sorted(place.glob("*.json")) if _is_ours(place) else ():
        card = _read(file)
        if card is None:
            continue
        if _runs(card):
            found.append(card)
        else:
            try:
                file.unlink(missing_ok=True)
            except OSError:
                continue
    return found


def network() -> int:
    """The number of the name space that this process listens in; 0 where there are none."""
    try:
        return Path("/proc/self/ns/net").stat().st_ino
    except OSError:
        return 0


def _always() -> list[Path]:
    """Where each gateway of this user leaves a card, whatever its variables say."""
    of_user = USERS / str(os.getuid())
    return [*([of_user / "budgateway"] if of_user.is_dir() else ()), _of_ours(TEMPORARY)]


def _temporary() -> Path:
    try:
        return temporary()
    except OSError:
        return TEMPORARY  # there is none that can be written to


def _of_ours(base: Path) -> Path:
    return base / f"budgateway-{os.getuid()}"


def _written(place: Path, card: Card) -> Path | None:
    file = place / f"{card.pid}.json"
    beside = place / f".{card.pid}.new"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(place):
            return None
        # Whole or not at all: a command may look at any moment.
        beside.write_text(json.dumps(dataclasses.asdict(card)))
        beside.replace(file)
    except OSError:
        return None
    return file


def _read(file: Path) -> Card | None:
    try:
        given = json.loads(file.read_text())
        return Card(
            int(given["pid"]),
            str(given["url"]),
            str(given["office"]),
            str(given.get("handover", "")),
            str(given.get("host", "")),
            bool(given.get("draining", False)),
            int(given.get("network", 0)),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_ours(path: Path) -> bool:
    """In a folder for everybody somebody else may have made ours, to be told where our operator goes."""
    try:
        found = path.lstat()
        above = path.parent.parent
    except OSError:
        return False
    if os.getuid() == 0 and above == SERVICES[0] and path.parent.name.startswith("budgateway"):
        return stat.S_ISDIR(found.st_mode)  # only root can have made its parent
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _runs(card: Card) -> bool:
    """Whether a gateway holds the lock that lies beside its office's socket: its number may be another process' by now, or a
    process' of another name space. Without a lock (of a gateway of an earlier version, in a folder that was cleaned) both
    the process and the socket must be there."""
    office = Path(card.office)
    try:
        lock = os.open(office.parent / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return _lives(card.pid) and office.is_socket()
    except OSError:
        return False
    try:
        # Shared: of two commands that look at the same time neither takes the other for the gateway.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
