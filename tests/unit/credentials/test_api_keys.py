"""The book of keys: each operation, what it refuses, and that a file of it can be trusted."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from budgateway.auth.keys import KeyRing
from budgateway.credentials import api_keys
from budgateway.credentials.api_keys import Changed, KeyExists, Keys, KeyUnknown
from budgateway.credentials.keyfile import KeyFile
from budgateway.errors import BadRequest
from budgateway.records import Allowance

NOW = 1_800_000_000.0
WISHES: dict[str, Any] = {
    "tenant": "acme",
    "roles": ["chat", "chat", "ops"],
    "groups": ["g"],
    "models": ["gpt-*"],
    "expires": "30d",
    "note": "of the build machine",
    "limits": {"requests_per_minute": 60, "budget_usd": 12.5, "budget_period": "day"},
}


def test_a_key_is_made_with_what_is_wished() -> None:
    made = api_keys.create((), "build", WISHES, NOW)
    key = made.key
    assert (key.tenant, key.roles, key.groups, key.models) == ("acme", ("chat", "ops"), ("g",), ("gpt-*",))
    assert key.expires_s == NOW + 30 * 86_400
    assert key.allowance == Allowance(requests_per_minute=60, budget_usd=12.5, budget_period="day")
    assert KeyRing(made.keys).find(made.secret, NOW) is not None


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "é", "a" * 65, "a\n", "..", "*"])
def test_a_name_is_a_plain_word(name: str) -> None:
    with pytest.raises(BadRequest, match="name"):
        api_keys.create((), name, {}, NOW)


@pytest.mark.parametrize(
    "wishes",
    [
        {"rolez": ["a"]}, {"roles": "a"}, {"roles": [1]}, {"roles": [""]}, {"roles": ["a\n"]}, {"models": ["m"] * 65},
        {"tenant": 1}, {"tenant": "t\x00"}, {"note": "n" * 256}, {"expires": "soon"}, {"expires": 5}, {"expires": "5y"},
        {"limits": []}, {"limits": {"rpm": 1}}, {"limits": {"burst": -1}}, {"limits": {"burst": 1.5}},
        {"limits": {"burst": True}}, {"limits": {"budget_period": "year"}}, {"limits": {"budget_usd": "1"}},
        {"digest": "0" * 64}, {"disabled": True}, {"name": "x"},
        {"expires": "1970-01-01"}, {"expires": "1970-01-01T00:00:00.9Z"}, {"expires": "1969-12-31T23:59:59Z"},
        {"expires": "0226-12-31"}, {"expires": "0001-01-01T00:00:00+12:00"}, {"expires": "9999-12-31T23:59:59-12:00"},
        {"expires": "999999w"}, {"expires": "10000-01-01"}, {"expires": "226-12-31"}, {"expires": 0}, {"expires": False},
        {"limits": {"requests_per_minute": 0}}, {"limits": {"requests_per_day": 0}}, {"limits": {"burst": 0}},
        {"limits": {"tokens_per_minute": 0}}, {"limits": {"concurrency": 0}}, {"limits": {"budget_usd": 0}},
        {"limits": {"budget_usd": 0.0}}, {"limits": {"budget_usd": 1e-9}}, {"limits": {"budget_usd": float("nan")}},
        {"limits": {"budget_usd": float("inf")}}, {"limits": {"budget_usd": 10**400}}, {"limits": {"budget_usd": 10_000_001}},
        {"limits": {"requests_per_minute": 10**9 + 1}}, {"limits": {"tokens_per_day": 10**400}}, {"limits": {"concurrency": 10**9}},
        {"limits": {"requests_per_day": 1, "burst": 10**9}}, {"limits": {"budget_period": ["day"]}},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(wishes: dict[str, Any]) -> None:
    keys = api_keys.create((), "k", {}, NOW).keys
    with pytest.raises(BadRequest):
        api_keys.create((), "k", wishes, NOW)
    with pytest.raises(BadRequest):
        api_keys.update(keys, "k", wishes, NOW)


def test_two_keys_have_two_names_and_an_unknown_one_is_said_to_be() -> None:
    keys = api_keys.create((), "k", {}, NOW).keys
    with pytest.raises(KeyExists):
        api_keys.create(keys, "k", {}, NOW)
    for operation in (
        partial(api_keys.update, wishes={}, now=NOW),
        partial(api_keys.rotate, grace_s=0, now=NOW),
        partial(api_keys.switch, disabled=True),
        api_keys.delete,
    ):
        with pytest.raises(KeyUnknown):
            operation(keys, name="other")


def test_a_rotation_keeps_the_old_secret_for_its_grace_alone() -> None:
    first = api_keys.create((), "k", {"roles": ["r"]}, NOW)
    second = api_keys.rotate(first.keys, "k", 60, NOW)
    ring = KeyRing(second.keys)
    assert ring.find(first.secret, NOW + 59) is not None
    assert ring.find(first.secret, NOW + 60) is None
    assert ring.find(second.secret, NOW + 60) is not None
    assert second.key.roles == ("r",)
    third = api_keys.rotate(second.keys, "k", 0, NOW)
    for old in (first.secret, second.secret):
        assert KeyRing(third.keys).find(old, NOW) is None
    with pytest.raises(BadRequest):
        api_keys.rotate(third.keys, "k", -1, NOW)


def test_a_key_is_switched_off_and_on_and_forgotten() -> None:
    made = api_keys.create(api_keys.create((), "other", {}, NOW).keys, "k", {}, NOW)
    off = api_keys.switch(made.keys, "k", True)
    assert KeyRing(off.keys).find(made.secret, NOW) is None
    on = api_keys.switch(off.keys, "k", False)
    assert KeyRing(on.keys).find(made.secret, NOW) is not None
    gone = api_keys.delete(on.keys, "k")
    assert [key.name for key in gone.keys] == ["other"]


def test_nothing_that_is_shown_tells_a_secret_or_its_hash() -> None:
    made = api_keys.rotate(api_keys.create((), "k", WISHES, NOW).keys, "k", 60, NOW)
    told = json.dumps(api_keys.shown(made.key, NOW))
    for hidden in (made.secret, made.secret[8:], made.key.digest, made.key.old_digest):
        assert hidden not in told
    assert api_keys.shown(made.key, NOW)["state"] == "active"
    assert api_keys.shown(made.key, NOW + 31 * 86_400)["state"] == "expired"


def test_a_book_is_read_as_it_was_written() -> None:
    keys = api_keys.create((), "a", WISHES, NOW).keys
    keys = api_keys.rotate(api_keys.create(keys, "b", {}, NOW).keys, "b", 60, NOW).keys
    keys = api_keys.switch(keys, "a", True).keys
    assert api_keys.keys_of(json.loads(json.dumps(api_keys.book(keys)))) == keys


@pytest.mark.parametrize(
    ("expires", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1.0), ("1999-12-31", 946_598_400.0), ("9999-12-31T23:59:59Z", 253_402_300_799.0),
        ("2030-01-01T00:00:00.7Z", 1_893_456_000.0), ("2030-01-01T02:00:00+02:00", 1_893_456_000.0), ("0s", NOW), ("", 0.0),
        (None, 0.0),
    ],
)  # fmt: skip
def test_an_end_is_exact_and_read_as_it_was_written(expires: str | None, seconds: float) -> None:
    made = api_keys.create((), "k", {"expires": expires}, NOW)
    assert made.key.expires_s == seconds
    assert api_keys.keys_of(json.loads(json.dumps(api_keys.book(made.keys)))) == made.keys
    is_over = 0 < seconds <= NOW
    assert (KeyRing(made.keys).find(made.secret, NOW) is None) is is_over
    assert api_keys.shown(made.key, NOW)["state"] == ("expired" if is_over else "active")


def test_the_end_of_a_grace_is_read_as_it_was_written() -> None:
    made = api_keys.rotate(api_keys.create((), "k", {}, NOW).keys, "k", 1.5, NOW + 0.25)
    assert made.key.old_until_s == NOW + 2
    assert api_keys.keys_of(api_keys.book(made.keys)) == made.keys


@pytest.mark.parametrize(
    "kept", ["1970-01-01T00:00:00Z", "1969-07-20T20:17:40Z", "0226-12-31T00:00:00Z", "226-12-31T00:00:00Z"]
)
def test_a_key_whose_end_is_kept_as_long_ago_is_over(kept: str) -> None:
    book = api_keys.book(api_keys.create((), "k", {}, NOW).keys)
    book["keys"][0] |= {"expires": kept, "old_digest": "0" * 64, "old_until": kept}
    keys = api_keys.keys_of(book)
    assert api_keys.shown(keys[0], NOW)["state"] == "expired"
    assert all(ends <= NOW for _, ends in KeyRing(keys)._by_digest.values())
    assert api_keys.keys_of(api_keys.book(api_keys.switch(keys, "k", True).keys))


def test_an_end_of_the_last_years_can_be_kept_in_any_zone() -> None:
    book = api_keys.book(api_keys.create((), "k", {}, NOW).keys)
    book["keys"][0] |= {"expires": "9999-12-31T23:59:59-12:00"}
    keys = api_keys.keys_of(book)
    assert api_keys.keys_of(api_keys.book(keys)) == keys


@pytest.mark.parametrize(
    "change",
    [
        lambda book: [], lambda book: {}, lambda book: book | {"version": 2}, lambda book: book | {"keys": {}},
        lambda book: book | {"keys": [1]}, lambda book: book | {"keys": [{}]},
        lambda book: book | {"keys": book["keys"] * 2},
        lambda book: book | {"keys": [book["keys"][0] | {"digest": "x"}]},
        lambda book: book | {"keys": [book["keys"][0] | {"rolez": ["admin"]}]},
        lambda book: book | {"keys": [book["keys"][0] | {"roles": "admin"}]},
        lambda book: book | {"keys": [book["keys"][0] | {"expires": "never"}]},
        lambda book: book | {"keys": [book["keys"][0] | {"expires": 0}]},
        lambda book: book | {"keys": [book["keys"][0] | {"disabled": "yes"}]},
        lambda book: book | {"keys": [book["keys"][0] | {"disabled": 1}]},
        lambda book: book | {"keys": [book["keys"][0] | {"limits": {"requests_per_minute": 0}}]},
        lambda book: book | {"keys": [book["keys"][0] | {"name": 1}]},
    ],
)  # fmt: skip
def test_a_book_that_is_none_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    book = api_keys.book(api_keys.create((), "k", {}, NOW).keys)
    api_keys.keys_of(book)
    with pytest.raises(ValueError):
        api_keys.keys_of(change(book))


# ---------------------------------------------------------------- the file


def test_a_file_comes_into_being_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    store = KeyFile(str(path))
    assert store.read() == ()
    assert store.version() is None
    old = os.umask(0)
    try:
        made = store.change(partial(api_keys.create, name="k", wishes=WISHES, now=NOW))
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert store.read() == made.keys
    assert made.secret not in path.read_text()
    path.chmod(0o640)  # an operator's own wish
    store.change(partial(api_keys.switch, name="k", disabled=True))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_each_change_is_another_version(tmp_path: Path) -> None:
    store = KeyFile(str(tmp_path / "keys.json"))
    versions = []
    for number in range(5):
        store.change(partial(api_keys.create, name=f"k{number}", wishes={}, now=NOW))
        versions.append(store.version())
    assert len(set(versions)) == 5


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    store = KeyFile(str(tmp_path / "keys.json"))
    store.change(partial(api_keys.create, name="k", wishes={}, now=NOW))
    before = (tmp_path / "keys.json").read_bytes()
    with pytest.raises(KeyExists):
        store.change(partial(api_keys.create, name="k", wishes={}, now=NOW))
    assert (tmp_path / "keys.json").read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"keys.json", "keys.json.lock"}


def test_changes_at_the_same_time_are_one_after_the_other(tmp_path: Path) -> None:
    path = str(tmp_path / "keys.json")

    def add(number: int) -> Changed:
        return KeyFile(path).change(partial(api_keys.create, name=f"k{number}", wishes={}, now=NOW))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(24)))
    assert {key.name for key in KeyFile(path).read()} == {f"k{number}" for number in range(24)}


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[]", b"[" * 100_000, b'{"version":1,"keys":null}'])
def test_a_file_that_is_no_book_is_a_value_error_and_stays(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(data)

    def edit(keys: Keys) -> Changed:
        return api_keys.create(keys, "k", {}, NOW)

    for work in (KeyFile(str(path)).read, partial(KeyFile(str(path)).change, edit)):
        with pytest.raises(ValueError):
            work()
    assert path.read_bytes() == data
