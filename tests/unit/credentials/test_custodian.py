"""The custodian: whoever reads the keys, workers end with those that were there last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from budgateway.auth.vault import Trust, Vault
from budgateway.credentials import keybook
from budgateway.credentials.custodian import Custodian
from budgateway.credentials.keybook import Changed, Keys
from budgateway.credentials.keyfile import KeyFile
from budgateway.credentials.keystore import FileKeys
from budgateway.records import Auth, Settings

NOW = 1_800_000_000.0


class SlowKeys(FileKeys):
    """A file that was read is handed over late, and one that was changed is changed by somebody else at once."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.has_read = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.after: Callable[[], object] = lambda: None

    async def read(self) -> Keys:
        """Read at once, return when that may be."""
        keys = await super().read()
        self.has_read.set()
        await self.go_on.wait()
        return keys

    async def change(self, edit: Callable[[Keys], Changed]) -> tuple[Changed, object]:
        """Change, and let somebody else change it again."""
        made = await super().change(edit)
        self.after()
        return made


@pytest.fixture
def keys_file(tmp_path: Path) -> str:
    path = str(tmp_path / "keys.json")
    for name in ("a", "b"):
        KeyFile(path).change(partial(keybook.create, name=name, wishes={}, now=NOW))
    return path


def disabled(keys: Keys) -> list[str]:
    return [key.name for key in keys if key.disabled]


async def test_a_listing_that_overlaps_with_a_change_brings_nothing_back(
    keys_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SlowKeys(keys_file)
    monkeypatch.setattr("budgateway.credentials.custodian.opened", lambda settings: store)
    vault = Vault()

    async def entrust(trust: Trust) -> None:
        vault.entrust(trust)

    settings = Settings(auth=Auth(keys_file=keys_file))
    custodian = Custodian(settings, entrust)
    await custodian.open(settings)
    try:
        store.has_read.clear()
        store.go_on.clear()
        listing = asyncio.create_task(custodian.keys())
        await store.has_read.wait()
        change = asyncio.create_task(custodian.change(partial(keybook.switch, name="a", disabled=True)))
        # The change may be made while the listing has what was there before, and must hold when both are over.
        await asyncio.wait((change,), timeout=0.2)
        store.go_on.set()
        await asyncio.gather(listing, change)
        assert disabled(vault.trust.api_keys) == ["a"]
        assert disabled(await custodian.keys()) == ["a"]
    finally:
        await custodian.close()


async def test_a_change_by_somebody_else_right_behind_ours_is_noticed(
    keys_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SlowKeys(keys_file)
    monkeypatch.setattr("budgateway.credentials.custodian.opened", lambda settings: store)
    monkeypatch.setattr("budgateway.credentials.custodian.LOOK_S", 0.01)
    both = asyncio.Event()

    async def entrust(trust: Trust) -> None:
        if disabled(trust.api_keys) == ["a", "b"]:
            both.set()

    settings = Settings(auth=Auth(keys_file=keys_file))
    custodian = Custodian(settings, entrust)
    await custodian.open(settings)
    try:
        store.after = partial(KeyFile(keys_file).change, partial(keybook.switch, name="b", disabled=True))
        await custodian.change(partial(keybook.switch, name="a", disabled=True))
        await asyncio.wait_for(both.wait(), 10)
    finally:
        await custodian.close()


def test_a_vault_believes_nothing_that_is_older_than_what_it_believes(keys_file: str) -> None:
    keys = KeyFile(keys_file).read()
    vault = Vault(Trust(api_keys=keys, number=1))
    vault.entrust(Trust(number=3))
    vault.entrust(Trust(api_keys=keys, number=2))
    assert (vault.trust.api_keys, len(vault.ring)) == ((), 0)
    vault.entrust(Trust(api_keys=keys, number=4))
    assert len(vault.ring) == 2
