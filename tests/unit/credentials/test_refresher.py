"""the credential refresher: whoever reads the keys, workers end with those that were there last."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from budgateway.auth.credential_store import CredentialSet, CredentialStore
from budgateway.credentials import api_keys
from budgateway.credentials.api_keys import Changed, Keys
from budgateway.credentials.keyfile import KeyFile
from budgateway.credentials.keystore import FileKeys
from budgateway.credentials.refresher import CredentialRefresher
from budgateway.records import Auth, Settings, StoreSettings

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
        KeyFile(path).change(partial(api_keys.create, name=name, wishes={}, now=NOW))
    return path


def disabled(keys: Keys) -> list[str]:
    return [key.name for key in keys if key.disabled]


async def test_a_listing_that_overlaps_with_a_change_brings_nothing_back(
    keys_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SlowKeys(keys_file)
    monkeypatch.setattr("budgateway.credentials.refresher.opened", lambda settings: store)
    credential_store = CredentialStore()

    async def update_credentials(credentials: CredentialSet) -> None:
        credential_store.update_credentials(credentials)

    settings = Settings(auth=Auth(keys_file=keys_file))
    refresher = CredentialRefresher(settings, update_credentials)
    await refresher.open(settings)
    try:
        store.has_read.clear()
        store.go_on.clear()
        listing = asyncio.create_task(refresher.keys())
        await store.has_read.wait()
        change = asyncio.create_task(refresher.change(partial(api_keys.switch, name="a", disabled=True)))
        # The change may be made while the listing has what was there before, and must hold when both are over.
        await asyncio.wait((change,), timeout=0.2)
        store.go_on.set()
        await asyncio.gather(listing, change)
        assert disabled(credential_store.credentials.api_keys) == ["a"]
        assert disabled(await refresher.keys()) == ["a"]
    finally:
        await refresher.close()


async def test_a_change_by_somebody_else_right_behind_ours_is_noticed(
    keys_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SlowKeys(keys_file)
    monkeypatch.setattr("budgateway.credentials.refresher.opened", lambda settings: store)
    monkeypatch.setattr("budgateway.credentials.refresher.LOOK_S", 0.01)
    both = asyncio.Event()

    async def update_credentials(credentials: CredentialSet) -> None:
        if disabled(credentials.api_keys) == ["a", "b"]:
            both.set()

    settings = Settings(auth=Auth(keys_file=keys_file))
    refresher = CredentialRefresher(settings, update_credentials)
    await refresher.open(settings)
    try:
        store.after = partial(KeyFile(keys_file).change, partial(api_keys.switch, name="b", disabled=True))
        await refresher.change(partial(api_keys.switch, name="a", disabled=True))
        await asyncio.wait_for(both.wait(), 10)
    finally:
        await refresher.close()


def test_a_vault_believes_nothing_that_is_older_than_what_it_believes(keys_file: str) -> None:
    keys = KeyFile(keys_file).read()
    credential_store = CredentialStore(CredentialSet(api_keys=keys, number=1))
    credential_store.update_credentials(CredentialSet(number=3))
    credential_store.update_credentials(CredentialSet(api_keys=keys, number=2))
    assert (credential_store.credentials.api_keys, len(credential_store.ring)) == ((), 0)
    credential_store.update_credentials(CredentialSet(api_keys=keys, number=4))
    assert len(credential_store.ring) == 2


async def test_keys_that_were_never_read_are_not_said_to_stay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis is down from the start; then it breaks off what is asked of it."""
    monkeypatch.setattr("budgateway.credentials.refresher.LOOK_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store = StoreSettings(host="127.0.0.1", port=port)
    settings = Settings(auth=Auth(keys_in_redis=True), store=store)

    async def update_credentials(credentials: CredentialSet) -> None:
        pass

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR not today\r\n" * 20)
        writer.close()

    refresher = CredentialRefresher(settings, update_credentials)
    await refresher.open(settings)
    try:
        assert caplog.text.count("API keys cannot be read") == 1
        server = await asyncio.start_server(answer, "127.0.0.1", port)
        async with server:
            async with asyncio.timeout(20):
                while caplog.text.count("API keys cannot be read") < 2:
                    await asyncio.sleep(0.01)
        assert "previous ones" not in caplog.text
    finally:
        await refresher.close()
