"""Cards: how an operator's commands find the gateways of this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from budgateway.admin import instance as connection_count
from budgateway.admin.client import AdminClient, Unreachable, local_gateway
from budgateway.admin.instance import Instance, InstanceIndex, folder, folders, instances
from budgateway.admin.runtime_dir import ADMIN_SOCKET, RuntimeDir

URL = "http://localhost:8080"


@pytest.fixture
def held(tmp_path: Path) -> Iterator[RuntimeDir]:
    """The folder of a gateway that runs: this process."""
    base = tmp_path / "sockets"
    base.mkdir()
    made = RuntimeDir(str(base))
    yield made
    made.close()


@pytest.fixture
def nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no gateway, and the folder that this process' variables name."""
    monkeypatch.setattr(connection_count, "TEMPORARY", tmp_path / "tmp")
    monkeypatch.setattr(connection_count, "USERS", tmp_path / "users")
    monkeypatch.setattr(connection_count, "SERVICES", (tmp_path / "services", "*"))
    monkeypatch.setattr(connection_count, "temporary", lambda: tmp_path / "own-tmp")
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "budgateway"


def an_instance(held: RuntimeDir, url: str = URL, pid: int = 0) -> Instance:
    return Instance(pid or os.getpid(), url, str(held.path / ADMIN_SOCKET))


def test_a_card_is_found_while_the_lock_of_its_gateway_is_held(tmp_path: Path, held: RuntimeDir) -> None:
    here = tmp_path / "cards"
    assert instances(here) == []
    instance = an_instance(held)
    (file,) = InstanceIndex([here]).leave(instance)
    assert instances(here) == [instance]
    assert here.stat().st_mode & 0o777 == 0o700
    # Of another PID name space, too.
    foreign = dataclasses.replace(instance, pid=4194305)
    InstanceIndex([here]).leave(foreign)
    assert instances(here) == [instance, foreign]
    held.close()
    assert instances(here) == []
    assert not file.exists()


def test_a_process_with_the_number_of_a_dead_gateway_is_not_the_gateway(tmp_path: Path) -> None:
    here, dead = tmp_path / "cards", tmp_path / "budgateway-dead"
    dead.mkdir()
    (dead / "lock").touch()
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            InstanceIndex([here]).leave(Instance(other.pid, URL, str(dead / ADMIN_SOCKET)))
            assert instances(here) == []
            # Its folder was removed meanwhile.
            InstanceIndex([here]).leave(Instance(other.pid, URL, str(tmp_path / "gone" / ADMIN_SOCKET)))
            assert instances(here) == []
        finally:
            other.kill()


def test_torn_cards_are_passed_over(tmp_path: Path, held: RuntimeDir) -> None:
    here = tmp_path / "cards"
    InstanceIndex([here]).leave(an_instance(held))
    (here / "1.json").write_text('{"pid"')
    assert [instance.pid for instance in instances(here)] == [os.getpid()]


def test_the_card_of_an_earlier_version_counts_while_its_socket_is_there(tmp_path: Path) -> None:
    import socket

    here = tmp_path / "cards"
    here.mkdir(mode=0o700)
    admin = tmp_path / "admin.sock"
    text = json.dumps({"pid": os.getpid(), "url": URL, "office": str(admin), "handover": "/h"})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(admin))
        (here / f"{os.getpid()}.json").write_text(text)
        assert instances(here) == [Instance(os.getpid(), URL, str(admin), "/h")]
    admin.unlink()
    assert instances(here) == []


def test_a_folder_that_others_can_write_is_not_believed(tmp_path: Path, held: RuntimeDir) -> None:
    here = tmp_path / "cards"
    here.mkdir()
    here.chmod(0o777)
    assert InstanceIndex([here]).leave(an_instance(held)) == []
    (here / "1.json").write_text(json.dumps(dataclasses.asdict(an_instance(held))))
    assert instances(here) == []


def test_the_folder_is_the_services_then_the_users_then_our_own() -> None:
    both = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": "/run/user/1"}
    assert folder(both) == Path("/run/a/budgateway")
    assert folder({"XDG_RUNTIME_DIR": "/run/user/1"}) == Path("/run/user/1/budgateway")
    assert folder({}).name == f"budgateway-{os.getuid()}"
    assert folders(both)[:2] == [Path("/run/a/budgateway"), Path("/run/user/1/budgateway")]


def test_a_gateway_is_found_whatever_the_variables_say(
    held: RuntimeDir, nowhere_else: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = InstanceIndex()
    instance = an_instance(held)
    assert nowhere_else / f"{os.getpid()}.json" in index.leave(instance)
    for environ in ({}, {"XDG_RUNTIME_DIR": str(tmp_path / "other")}, {"RUNTIME_DIRECTORY": str(tmp_path / "third")}):
        for name in ("XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        assert local_gateway() == instance
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))
    index.remove()
    assert not [*tmp_path.rglob("*.json")]


def test_one_gateway_is_chosen_and_several_are_told_apart(held: RuntimeDir, nowhere_else: Path) -> None:
    with pytest.raises(Unreachable, match="no gateway"):
        local_gateway()
    first = an_instance(held)
    InstanceIndex([nowhere_else]).leave(first)
    assert local_gateway() == first
    second = an_instance(held, "http://localhost:8081", pid=1)
    InstanceIndex([nowhere_else]).leave(second)
    with pytest.raises(Unreachable, match="2 gateways"):
        local_gateway()
    assert local_gateway(8081) == second
    with pytest.raises(Unreachable, match="port 9"):
        local_gateway(9)


def test_a_gateway_that_drains_counts_where_there_is_no_other(held: RuntimeDir, nowhere_else: Path) -> None:
    old = InstanceIndex([nowhere_else])
    old.leave(an_instance(held, pid=7))
    old.drain()
    assert local_gateway(8080).draining
    InstanceIndex([nowhere_else]).leave(an_instance(held, pid=8))
    assert local_gateway().pid == local_gateway(8080).pid == 8


def test_a_card_that_was_removed_is_left_again(tmp_path: Path, held: RuntimeDir) -> None:
    here = tmp_path / "cards"
    index = InstanceIndex([here])
    (file,) = index.leave(an_instance(held))
    file.unlink()
    here.rmdir()
    index.restore()
    assert instances(here) == [an_instance(held)]
    index.remove()
    index.restore()
    assert instances(here) == []


def test_no_answer_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no answer from"):
        AdminClient(admin=str(tmp_path / "absent")).call("GET", "/admin/stats")
