"""Cards: how an operator's commands find the gateways of this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from budgateway.admin import card as places
from budgateway.admin.card import Card, CardIndex, cards, folder, folders
from budgateway.admin.client import AdminClient, Unreachable, local_gateway
from budgateway.admin.folder import OFFICE, Folder

URL = "http://localhost:8080"


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Folder]:
    """The folder of a gateway that runs: this process."""
    base = tmp_path / "sockets"
    base.mkdir()
    made = Folder(str(base))
    yield made
    made.close()


@pytest.fixture
def nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no gateway, and the folder that this process' variables name."""
    monkeypatch.setattr(places, "TEMPORARY", tmp_path / "tmp")
    monkeypatch.setattr(places, "USERS", tmp_path / "users")
    monkeypatch.setattr(places, "SERVICES", (tmp_path / "services", "*"))
    monkeypatch.setattr(places, "temporary", lambda: tmp_path / "own-tmp")
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "budgateway"


def a_card(held: Folder, url: str = URL, pid: int = 0) -> Card:
    return Card(pid or os.getpid(), url, str(held.path / OFFICE))


def test_a_card_is_found_while_the_lock_of_its_gateway_is_held(tmp_path: Path, held: Folder) -> None:
    here = tmp_path / "cards"
    assert cards(here) == []
    card = a_card(held)
    (file,) = CardIndex([here]).leave(card)
    assert cards(here) == [card]
    assert here.stat().st_mode & 0o777 == 0o700
    # Of another PID name space, too.
    foreign = dataclasses.replace(card, pid=4194305)
    CardIndex([here]).leave(foreign)
    assert cards(here) == [card, foreign]
    held.close()
    assert cards(here) == []
    assert not file.exists()


def test_a_process_with_the_number_of_a_dead_gateway_is_not_the_gateway(tmp_path: Path) -> None:
    here, dead = tmp_path / "cards", tmp_path / "budgateway-dead"
    dead.mkdir()
    (dead / "lock").touch()
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            CardIndex([here]).leave(Card(other.pid, URL, str(dead / OFFICE)))
            assert cards(here) == []
            # Its folder was removed meanwhile.
            CardIndex([here]).leave(Card(other.pid, URL, str(tmp_path / "gone" / OFFICE)))
            assert cards(here) == []
        finally:
            other.kill()


def test_torn_cards_are_passed_over(tmp_path: Path, held: Folder) -> None:
    here = tmp_path / "cards"
    CardIndex([here]).leave(a_card(held))
    (here / "1.json").write_text('{"pid"')
    assert [card.pid for card in cards(here)] == [os.getpid()]


def test_the_card_of_an_earlier_version_counts_while_its_socket_is_there(tmp_path: Path) -> None:
    import socket

    here = tmp_path / "cards"
    here.mkdir(mode=0o700)
    office = tmp_path / "office.sock"
    text = json.dumps({"pid": os.getpid(), "url": URL, "office": str(office), "handover": "/h"})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(office))
        (here / f"{os.getpid()}.json").write_text(text)
        assert cards(here) == [Card(os.getpid(), URL, str(office), "/h")]
    office.unlink()
    assert cards(here) == []


def test_a_folder_that_others_can_write_is_not_believed(tmp_path: Path, held: Folder) -> None:
    here = tmp_path / "cards"
    here.mkdir()
    here.chmod(0o777)
    assert CardIndex([here]).leave(a_card(held)) == []
    (here / "1.json").write_text(json.dumps(dataclasses.asdict(a_card(held))))
    assert cards(here) == []


def test_the_folder_is_the_services_then_the_users_then_our_own() -> None:
    both = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": "/run/user/1"}
    assert folder(both) == Path("/run/a/budgateway")
    assert folder({"XDG_RUNTIME_DIR": "/run/user/1"}) == Path("/run/user/1/budgateway")
    assert folder({}).name == f"budgateway-{os.getuid()}"
    assert folders(both)[:2] == [Path("/run/a/budgateway"), Path("/run/user/1/budgateway")]


def test_a_gateway_is_found_whatever_the_variables_say(
    held: Folder, nowhere_else: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = CardIndex()
    card = a_card(held)
    assert nowhere_else / f"{os.getpid()}.json" in index.leave(card)
    for environ in ({}, {"XDG_RUNTIME_DIR": str(tmp_path / "other")}, {"RUNTIME_DIRECTORY": str(tmp_path / "third")}):
        for name in ("XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        assert local_gateway() == card
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))
    index.remove()
    assert not [*tmp_path.rglob("*.json")]


def test_one_gateway_is_chosen_and_several_are_told_apart(held: Folder, nowhere_else: Path) -> None:
    with pytest.raises(Unreachable, match="no gateway"):
        local_gateway()
    first = a_card(held)
    CardIndex([nowhere_else]).leave(first)
    assert local_gateway() == first
    second = a_card(held, "http://localhost:8081", pid=1)
    CardIndex([nowhere_else]).leave(second)
    with pytest.raises(Unreachable, match="2 gateways"):
        local_gateway()
    assert local_gateway(8081) == second
    with pytest.raises(Unreachable, match="port 9"):
        local_gateway(9)


def test_a_gateway_that_drains_counts_where_there_is_no_other(held: Folder, nowhere_else: Path) -> None:
    old = CardIndex([nowhere_else])
    old.leave(a_card(held, pid=7))
    old.drain()
    assert local_gateway(8080).draining
    CardIndex([nowhere_else]).leave(a_card(held, pid=8))
    assert local_gateway().pid == local_gateway(8080).pid == 8


def test_a_card_that_was_removed_is_left_again(tmp_path: Path, held: Folder) -> None:
    here = tmp_path / "cards"
    index = CardIndex([here])
    (file,) = index.leave(a_card(held))
    file.unlink()
    here.rmdir()
    index.restore()
    assert cards(here) == [a_card(held)]
    index.remove()
    index.restore()
    assert cards(here) == []


def test_no_answer_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no answer from"):
        AdminClient(office=str(tmp_path / "absent")).call("GET", "/admin/stats")
