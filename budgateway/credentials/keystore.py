"""Key storage for the credential refresher: a file, or Redis, where the gateways of several hosts share the keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from budgateway.credentials.api_keys import Changed, Keys, keys_of, written
from budgateway.credentials.keyfile import KeyFile
from budgateway.errors import GatewayError, StoreUnavailable
from budgateway.redis.client import Store
from budgateway.redis.reply import StoreError

if TYPE_CHECKING:
    from budgateway.records import Settings, StoreSettings

REDIS = "redis"
TIMEOUT_S = 5.0  # no client request waits for it
READY_S = 2.0
MAX_TRIES = 20  # tries of a change while others change the keys, too

# Puts or removes (an empty document) one key, unless any key has changed since the version that was read.
_CHANGE = """
if (redis.call('GET', KEYS[2]) or '0') ~= ARGV[1] then return 0 end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[2]) else redis.call('HSET', KEYS[1], ARGV[2], ARGV[3]) end
return redis.call('INCR', KEYS[2])
"""


class KeysNotWritten(GatewayError):
    """The file of API keys cannot be replaced; it is unchanged."""

    status = 409
    code = "keys_not_written"
    type = "invalid_request_error"
    who = "operator"


class KeyStore(Protocol):
    """Storage that is safe against concurrent changes. Raises OSError, ValueError or StoreUnavailable when the keys
    cannot be read now."""

    async def read(self) -> Keys: ...
    async def change(self, edit: Callable[[Keys], Changed]) -> tuple[Changed, object]:
        """Change the keys; return the change and the version that it made."""
        ...

    async def version(self) -> object: ...
    async def close(self) -> None: ...


class FileKeys:
    """Key storage in a file, read and written in a thread."""

    def __init__(self, path: str) -> None:
        self._file = KeyFile(path)

    async def read(self) -> Keys:
        return await asyncio.to_thread(self._file.read)

    async def change(self, edit: Callable[[Keys], Changed]) -> tuple[Changed, object]:
        try:
            return await asyncio.to_thread(self._file.change_noted, edit)
        except OSError as error:
            raise KeysNotWritten(f"API keys cannot be written: {error.strerror or error}") from error

    async def version(self) -> object:
        return await asyncio.to_thread(self._file.version)

    async def close(self) -> None:
        """Do nothing: no file stays open."""


class RedisKeys:
    """Key storage in a hash, `api_key:{namespace}`: one field for each key, its name, and a counter of changes next to
    it.

    The values are what a file would hold: hashes, never a secret. Changes are optimistic: a writer that was overtaken
    reads again.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._hash = f"api_key:{{{settings.namespace}}}"
        self._counter = f"{self._hash}:version"
        self._store = Store(settings)
        self._store.open()

    async def read(self) -> Keys:
        found = await self._call("HGETALL", self._hash)
        assert isinstance(found, list)
        values = found[1::2]
        try:
            documents = [json.loads(value) for value in values if isinstance(value, bytes)]
        except RecursionError as error:
            raise ValueError("a key is not JSON") from error
        return tuple(sorted(keys_of({"version": 1, "keys": documents}), key=lambda key: (key.created_s, key.name)))

    async def change(self, edit: Callable[[Keys], Changed]) -> tuple[Changed, object]:
        for _ in range(MAX_TRIES):
            version = await self.version()
            changed = edit(await self.read())
            key = changed.key
            document = json.dumps(written(key)) if any(key is kept for kept in changed.keys) else ""
            words = (_CHANGE, 2, self._hash, self._counter, version, key.name, document)
            if made := await self._call("EVAL", *words):
                return changed, str(made)
        raise StoreUnavailable("the keys are being changed by others: try again", retry_after_s=1.0)

    async def version(self) -> str:
        found = await self._call("GET", self._counter)
        return found.decode() if isinstance(found, bytes) else "0"

    async def close(self) -> None:
        await self._store.close()

    async def _call(self, *command: str | int) -> object:
        if not await self._store.ready(READY_S):
            raise StoreUnavailable(f"redis: {self._store.reason}", retry_after_s=1.0)
        try:
            return await self._store.call(*command, timeout_s=TIMEOUT_S)
        except StoreError as error:
            raise StoreUnavailable(f"redis: {error}", retry_after_s=1.0) from error


def store_name(settings: Settings) -> object:
    """Return the settings that identify the key storage: another value means another store."""
    auth = settings.auth
    return settings.store if auth.keys_in_redis else auth.keys_file


def opened(settings: Settings) -> KeyStore | None:
    """Open the key storage of a configuration; None without one. The caller must close it."""
    if settings.auth.keys_in_redis:
        return None if settings.store is None else RedisKeys(settings.store)
    return FileKeys(settings.auth.keys_file) if settings.auth.keys_file else None
