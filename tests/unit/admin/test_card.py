"""Cards: how an operator's commands find the gateways of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from budgateway.admin.card import Card, cards, folder, leave_card
from budgateway.admin.client import AdminClient, Unreachable, local_gateway


def test_a_card_is_found_while_its_process_lives(tmp_path: Path) -> None:
    here = tmp_path / "cards"
    assert cards(here) == []
    card = leave_card("http://localhost:8080", "/run/x.sock", here)
    assert card is not None
    assert cards(here) == [Card(os.getpid(), "http://localhost:8080", "/run/x.sock")]
    assert here.stat().st_mode & 0o777 == 0o700


def test_cards_of_the_dead_and_torn_ones_are_passed_over(tmp_path: Path) -> None:
    here = tmp_path / "cards"
    leave_card("http://localhost:8080", "/run/x.sock", here)
    (here / "4194305.json").write_text('{"pid": 4194305, "url": "http://x", "office": "/y"}')
    (here / "1.json").write_text('{"pid"')
    assert [card.pid for card in cards(here)] == [os.getpid()]
    assert not (here / "4194305.json").exists()


def test_a_folder_that_others_can_write_is_not_believed(tmp_path: Path) -> None:
    here = tmp_path / "cards"
    here.mkdir()
    here.chmod(0o777)
    assert leave_card("http://localhost:8080", "/run/x.sock", here) is None
    (here / "1.json").write_text(f'{{"pid": {os.getpid()}, "url": "http://x", "office": "/y"}}')
    assert cards(here) == []


def test_the_folder_is_the_services_then_the_users_then_our_own() -> None:
    both = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": "/run/user/1"}
    assert folder(both) == Path("/run/a/budgateway")
    assert folder({"XDG_RUNTIME_DIR": "/run/user/1"}) == Path("/run/user/1/budgateway")
    assert folder({}).name == f"budgateway-{os.getuid()}"


def test_one_gateway_is_chosen_and_several_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(Unreachable, match="no gateway"):
        local_gateway()
    leave_card("http://localhost:8080", "/run/x.sock")
    assert local_gateway().office == "/run/x.sock"
    other = tmp_path / "budgateway" / "1.json"
    other.write_text('{"pid": 1, "url": "http://localhost:8081", "office": "/run/y.sock"}')
    with pytest.raises(Unreachable, match="2 gateways"):
        local_gateway()
    assert local_gateway(8081).office == "/run/y.sock"
    with pytest.raises(Unreachable, match="port 9"):
        local_gateway(9)


def test_no_answer_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no answer from"):
        AdminClient(office=str(tmp_path / "absent")).call("GET", "/admin/stats")
