"""Cards: how the gateways that run on this machine are found by their operator."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from budgateway.admin.folder import temporary

TEMPORARY = Path("/tmp")  # noqa: S108 - only a folder of our own there is believed


@dataclass(frozen=True, slots=True)
class Card:
    """A running gateway: its process, where clients reach it, its back office's socket, and the one that hands over."""

    pid: int
    url: str
    office: str
    handover: str = ""


# What systemd makes of `RuntimeDirectory=budgateway`.
SERVICE = Path("/run/budgateway/budgateway")


def runtime_directory(environ: Mapping[str, str] = os.environ) -> str | None:
    """The folder that systemd gives the service; None for who is none."""
    return environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or None


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where cards are: in the service's folder, the user's, else one of our own."""
    base = runtime_directory(environ) or environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "budgateway" if base else _temporary() / f"budgateway-{os.getuid()}"


def _temporary() -> Path:
    try:
        return temporary()
    except OSError:
        return TEMPORARY  # there is none that can be written to


def leave_card(url: str, office: str, within: Path | None = None, *, handover: str = "") -> Path | None:
    """Write the card of this process; None when that cannot be: a gateway runs without one."""
    within = within or folder()
    try:
        within.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(within):
            return None
        card = within / f"{os.getpid()}.json"
        card.write_text(json.dumps({"pid": os.getpid(), "url": url, "office": office, "handover": handover}))
    except OSError:
        return None
    return card


def cards(within: Path | None = None) -> list[Card]:
    """The cards of gateways that are alive, by process; those of the dead are removed. Root finds the service's too."""
    folders = [within or folder()]
    if within is None and os.getuid() == 0:
        folders.append(SERVICE)
    found = []
    for file in (file for place in folders if _is_ours(place) for file in place.glob("*.json")):
        try:
            given = json.loads(file.read_text())
            card = Card(int(given["pid"]), str(given["url"]), str(given["office"]), str(given.get("handover", "")))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if _lives(card.pid):
            found.append(card)
        else:
            file.unlink(missing_ok=True)
    return sorted(found, key=lambda card: card.pid)


def _is_ours(path: Path) -> bool:
    """In a folder for everybody somebody else may have made ours, to be told where our operator goes."""
    try:
        found = path.lstat()
    except OSError:
        return False
    if path == SERVICE and os.getuid() == 0:
        return stat.S_ISDIR(found.st_mode)  # only root can have made its parent
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
