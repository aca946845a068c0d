"""Instance files, by which the command line finds the gateways that run on this machine."""

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

from budgateway.admin.runtime_dir import LOCK, temporary

# Created by systemd for `RuntimeDirectory=budgateway`, and for other names that begin with it.
SERVICES = Path("/run"), "budgateway*/budgateway"
USERS = Path("/run/user")
TEMPORARY = Path("/tmp")  # noqa: S108 - of those who set no variable; only a folder of our own there is believed


@dataclass(frozen=True, slots=True)
class Instance:
    """A running gateway: its process, its URL for clients, its admin socket, and its handover socket."""

    pid: int
    url: str
    admin: str
    handover: str = ""
    host: str = ""  # as configured; the URL is for clients
    draining: bool = False  # accepts no new connections: another gateway may have its address
    network: int = 0  # inode of the network namespace that it listens in; 0: unknown

    @property
    def port(self) -> int | None:
        """The port it listens on; None when the URL has none."""
        try:
            return urlsplit(self.url).port
        except ValueError:
            return None


def runtime_directory(environ: Mapping[str, str] = os.environ) -> str | None:
    """systemd's RUNTIME_DIRECTORY (the first, if several), or None when not run as a service."""
    return environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or None


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the instance folder that the environment selects: in the service's directory, in the user's, else in a
    temporary one."""
    base = runtime_directory(environ) or environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "budgateway" if base else _of_ours(_temporary())


def folders(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Return every folder where a gateway of this user may have written its instance file, whatever its environment:
    first those of this process's environment, then those that every gateway uses."""
    named = [folder(environ)]
    if base := environ.get("XDG_RUNTIME_DIR"):
        named.append(Path(base) / "budgateway")
    return list(dict.fromkeys([*named, _of_ours(_temporary()), *_always(), *sorted(SERVICES[0].glob(SERVICES[1]))]))


class InstanceIndex:
    """The instance file of this process, one copy in each folder where commands search."""

    def __init__(self, within: Sequence[Path] | None = None) -> None:
        """`within`: the folders; by default those of this process's environment, and those where commands search
        without any."""
        self._within = within
        self._instance: Instance | None = None
        self._turn = threading.Lock()

    def leave(self, instance: Instance) -> list[Path]:
        """Write or rewrite the instance file; return the paths that could be written. A gateway runs without any."""
        with self._turn:
            self._instance = instance
            return [file for place in self._places() if (file := _written(place, instance)) is not None]

    def restore(self) -> None:
        """Rewrite the copies that are missing or changed. May be called in a thread."""
        with self._turn:
            if self._instance is not None:
                for place in self._places():
                    if _read(place / f"{self._instance.pid}.json") != self._instance:
                        _written(place, self._instance)

    def drain(self) -> None:
        """Mark this gateway as draining: it accepts no new connections and offers no handover."""
        if self._instance is not None:
            self.leave(dataclasses.replace(self._instance, draining=True, handover=""))

    def remove(self) -> None:
        """Delete the instance file. Idempotent."""
        with self._turn:
            instance, self._instance = self._instance, None
            if instance is not None:
                remove_instance(instance.pid, self._places())

    def _places(self) -> Sequence[Path]:
        if self._within is not None:
            return self._within
        return list(dict.fromkeys([folder(), *_always()]))


def remove_instance(pid: int, within: Sequence[Path] | None = None) -> None:
    """Delete a process's instance file from every folder."""
    for place in folders() if within is None else within:
        if _is_ours(place):
            try:
                (place / f"{pid}.json").unlink(missing_ok=True)
            except OSError:
                continue


def instances(within: Path | None = None) -> list[Instance]:
    """Return the instance files of running gateways, ordered by process id; delete those of dead ones."""
    found: dict[int, Instance] = {}
    for place in folders() if within is None else [within]:
        for instance in instances_in(place):
            found.setdefault(instance.pid, instance)
    return [found[pid] for pid in sorted(found)]


def instances_in(place: Path) -> list[Instance]:
    """Return the instance files of running gateways in one folder; delete those of dead ones."""
    found = []
    for file in sorted(place.glob("*.json")) if _is_ours(place) else ():
        instance = _read(file)
        if instance is None:
            continue
        if _runs(instance):
            found.append(instance)
        else:
            try:
                file.unlink(missing_ok=True)
            except OSError:
                continue
    return found


def network() -> int:
    """Return the inode of this process's network namespace; 0 where there are none."""
    try:
        return Path("/proc/self/ns/net").stat().st_ino
    except OSError:
        return 0


def _always() -> list[Path]:
    """Return the folders where every gateway of this user writes an instance file, whatever its environment."""
    of_user = USERS / str(os.getuid())
    return [*([of_user / "budgateway"] if of_user.is_dir() else ()), _of_ours(TEMPORARY)]


def _temporary() -> Path:
    try:
        return temporary()
    except OSError:
        return TEMPORARY  # no temporary directory is writable


def _of_ours(base: Path) -> Path:
    return base / f"budgateway-{os.getuid()}"


def _written(place: Path, instance: Instance) -> Path | None:
    file = place / f"{instance.pid}.json"
    beside = place / f".{instance.pid}.new"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(place):
            return None
        # Written whole, then renamed: a command may read it at any moment.
        written = dataclasses.asdict(instance)
        written["office"] = written.pop("admin")  # the name in the files of earlier builds
        beside.write_text(json.dumps(written))
        beside.replace(file)
    except OSError:
        return None
    return file


def _read(file: Path) -> Instance | None:
    try:
        given = json.loads(file.read_text())
        return Instance(
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
    """True when the folder can be trusted. In a shared directory another user may have created it to mislead our
    operator."""
    try:
        found = path.lstat()
        above = path.parent.parent
    except OSError:
        return False
    if os.getuid() == 0 and above == SERVICES[0] and path.parent.name.startswith("budgateway"):
        return stat.S_ISDIR(found.st_mode)  # only root can have made its parent
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _runs(instance: Instance) -> bool:
    """True when a gateway holds the lock next to its admin socket. The process id alone proves nothing: it may belong
    to another process by now, or to one in another namespace. Without a lock file (a gateway of an earlier version, a
    cleaned folder) both the process and the socket must exist."""
    admin = Path(instance.admin)
    try:
        lock = os.open(admin.parent / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return _lives(instance.pid) and admin.is_socket()
    except OSError:
        return False
    try:
        # A shared lock: two commands that look at the same time do not take each other for the gateway.
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
