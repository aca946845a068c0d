"""The credential refresher: keeps issuers' key sets and API keys up to date in the workers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from budgateway.auth.credential_store import COOLDOWN_S, CredentialSet
from budgateway.credentials.keysets import fetch_key_set
from budgateway.credentials.keystore import opened, store_name
from budgateway.errors import ConfigError, GatewayError, StoreUnavailable
from budgateway.system.keeper import keep_on
from budgateway.transport.resolve import Resolver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from budgateway.credentials.api_keys import Changed, Keys
    from budgateway.credentials.keystore import KeyStore
    from budgateway.records import Issuer, Settings

LOOK_S = 0.5  # between two checks of the API keys
RETRY_S = 5.0  # after an issuer's keys could not be read, doubled each time
MAX_RETRY_S = 60.0

_log = logging.getLogger("budgateway.custodian")


class KeysClosed(GatewayError):
    """The gateway has no storage for API keys."""

    status = 409
    code = "no_keys"
    type = "invalid_request_error"
    who = "operator"


class CredentialRefresher:
    """The gateway's only credential refresher, in its supervisor. `update_credentials` sends changes to the workers; it
    is awaited."""

    def __init__(self, settings: Settings, update_credentials: Callable[[CredentialSet], Awaitable[None]]) -> None:
        self.credentials = CredentialSet()
        self._update_credentials = update_credentials
        self._watches: dict[Issuer, _Watch] = {}
        self._documents: dict[str, object] = {}
        self._keys: Keys = ()
        self._store_name = store_name(settings)
        self._store: KeyStore | None = None
        self._seen: object = None
        self._store_failed = ""
        self._missing = False
        # One reader at a time, which publishes its result before the next one reads: an older result never replaces a
        # newer one.
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._resolver = Resolver()

    async def open(self, settings: Settings) -> None:
        """Read the API keys, and start refreshing them and the key sets. Raises ConfigError when the keys cannot be
        read; an unavailable Redis is logged, not raised."""
        try:
            await self._open_store(settings)
        except (OSError, ValueError) as error:
            raise _unreadable(settings, error) from error
        self.credentials = CredentialSet({}, self._keys, self._missing)
        self._watch_issuers(settings)
        self._task = asyncio.get_running_loop().create_task(
            keep_on("checking API keys for changes", self._look, _log), name="keys"
        )

    async def look_at(self, settings: Settings) -> None:
        """Check whether a reload could be applied. Raises ConfigError when its keys file cannot be read."""
        if store_name(settings) != self._store_name and not settings.auth.keys_in_redis:
            store = opened(settings)
            try:
                if store is not None:
                    await store.read()
            except (OSError, ValueError) as error:
                raise _unreadable(settings, error) from error

    async def adopt(self, settings: Settings) -> None:
        """Apply a reload that `look_at` has checked."""
        self._watch_issuers(settings)
        async with self._turn:
            if store_name(settings) != self._store_name:
                try:
                    await self._open_store(settings)
                except (OSError, ValueError) as error:
                    _log.error("API keys cannot be read: %s", _why(error))
            await self._tell()

    async def wanted(self, issuer: str) -> None:
        """Read an issuer's key set again, unless that just happened: a worker saw a key that is not in it."""
        for watch in self._watches.values():
            if watch.issuer.name == issuer:
                await watch.refresh()

    async def close(self) -> None:
        """Stop refreshing. Idempotent."""
        tasks = [watch.task for watch in self._watches.values()] + ([] if self._task is None else [self._task])
        self._watches = {}
        self._task = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._resolver.close()
        if self._store is not None:
            await self._store.close()
            self._store = None

    # ---------------------------------------------------------------- API keys

    async def keys(self) -> Keys:
        """Read, publish and return all API keys as they are now. Raises KeysClosed when there is no storage for
        them."""
        async with self._turn:
            store = self._opened()
            # The version first: a change in between may already show in the keys, and shows in the version the next
            # time.
            version = await store.version()
            self._keys = await store.read()
            self._seen, self._missing = version, False
            await self._tell()
            return self._keys

    async def change(self, edit: Callable[[Keys], Changed]) -> Changed:
        """Change the API keys; when this returns, the workers have them."""
        async with self._turn:
            changed, self._seen = await self._opened().change(edit)
            self._keys, self._missing = changed.keys, False
            await self._tell()
        return changed

    def _opened(self) -> KeyStore:
        if self._store is None:
            raise KeysClosed("this gateway keeps no API keys", hint='set [auth] keys_file = "keys.json"')
        return self._store

    async def _open_store(self, settings: Settings) -> None:
        """Open the configuration's key storage and read the keys. Redis may be unavailable; a file must be readable."""
        before, self._store = self._store, opened(settings)
        self._store_name = store_name(settings)
        if before is not None:
            await before.close()
        # Assigned only when complete: a key set may be published in between.
        keys: Keys = ()
        seen: object = None
        missing = False
        try:
            if self._store is not None:
                seen = await self._store.version()
                keys = await self._store.read()
        except StoreUnavailable as error:
            seen, missing = None, True
            self._store_failed = _why(error)  # so that the next look does not repeat it
            _log.error("API keys cannot be read: %s", error)
        finally:
            self._keys, self._seen, self._missing = keys, seen, missing

    async def _look(self) -> None:
        """Poll for changes that others made to the API keys."""
        while True:
            await asyncio.sleep(LOOK_S)
            async with self._turn:
                try:
                    if self._store is None or (version := await self._store.version()) == self._seen:
                        continue
                    self._keys = await self._store.read()
                    self._seen, self._missing = version, False
                except (OSError, ValueError, StoreUnavailable) as error:
                    if (why := _why(error)) != self._store_failed:
                        self._store_failed = why
                        stay = "" if self._missing else "; the previous ones stay in use"
                        _log.error("API keys cannot be read: %s%s", why, stay)
                    continue
                except Exception:  # noqa: BLE001 - a background task's edge: the next look may do better
                    _log.exception("API keys cannot be read")
                    continue
                self._store_failed = ""
                _log.info("API keys were reloaded: %d", len(self._keys))
                await self._tell()

    # ---------------------------------------------------------------- key sets

    def _watch_issuers(self, settings: Settings) -> None:
        """Keep watching unchanged issuers, start watching new ones, and drop those that are gone."""
        wanted = [issuer for issuer in settings.auth.issuers if issuer.jwks_url or issuer.discovery_url]
        for issuer in list(self._watches):
            if issuer not in wanted:
                self._watches.pop(issuer).task.cancel()
                self._documents.pop(issuer.name, None)
        for issuer in wanted:
            if issuer not in self._watches:
                self._watches[issuer] = _Watch(issuer, self._learned, self._resolver)

    async def _learned(self, issuer: Issuer, document: Mapping[str, object]) -> None:
        if self._documents.get(issuer.name) != document:
            self._documents[issuer.name] = document
            await self._tell()

    async def _tell(self) -> None:
        credentials = CredentialSet(dict(self._documents), self._keys, self._missing, self.credentials.number + 1)
        if credentials != self.credentials:
            self.credentials = credentials
            await self._update_credentials(credentials)


class _Watch:
    """One issuer's key set, read periodically and on request, never twice at the same time."""

    def __init__(
        self,
        issuer: Issuer,
        learned: Callable[[Issuer, Mapping[str, object]], Awaitable[None]],
        resolver: Resolver,
    ) -> None:
        self.issuer = issuer
        self._learned = learned
        self._resolver = resolver
        self._reading: asyncio.Task[bool] | None = None
        self._read_at = float("-inf")
        self._failed = ""
        self._was_read = False
        name = f"keys of issuer {issuer.name}"
        self.task = asyncio.get_running_loop().create_task(keep_on(name, self._run, _log), name=name)

    async def refresh(self) -> bool:
        """Read the key set, or wait for the read under way; return whether it succeeded. Does not read within the
        cooldown."""
        loop = asyncio.get_running_loop()
        if self._reading is None:
            if loop.time() - self._read_at < COOLDOWN_S:
                return not self._failed
            self._reading = loop.create_task(self._read())
        return await asyncio.shield(self._reading)

    async def _run(self) -> None:
        retry_s = RETRY_S
        try:
            while True:
                if await (self._reading or self._begin()):
                    retry_s = RETRY_S
                    await asyncio.sleep(self.issuer.refresh_s)
                else:
                    await asyncio.sleep(min(retry_s, self.issuer.refresh_s))
                    retry_s = min(2 * retry_s, MAX_RETRY_S)
        finally:
            if self._reading is not None:
                self._reading.cancel()

    def _begin(self) -> asyncio.Task[bool]:
        self._reading = asyncio.get_running_loop().create_task(self._read())
        return self._reading

    async def _read(self) -> bool:
        try:
            document = await fetch_key_set(self.issuer, self._resolver)
        except (GatewayError, TimeoutError, ValueError) as error:
            why = "no response in time" if isinstance(error, TimeoutError) else str(error)
            if why != self._failed:
                self._failed = why
                stay = "; the previous ones stay in use" if self._was_read else ""
                _log.error("keys of issuer %s: %s%s", self.issuer.name, why, stay)
            return False
        except Exception:  # noqa: BLE001 - a background task's edge: the next reading may do better
            _log.exception("keys of issuer %s", self.issuer.name)
            self._failed = "internal error"
            return False
        else:
            if self._failed:
                _log.info("keys of issuer %s: refreshed", self.issuer.name)
            self._failed = ""
            self._was_read = True
            await self._learned(self.issuer, document)
            return True
        finally:
            self._read_at = asyncio.get_running_loop().time()
            self._reading = None


def _unreadable(settings: Settings, error: Exception) -> ConfigError:
    return ConfigError([f"auth.keys_file: {settings.auth.keys_file}: {_why(error)}"])


def _why(error: Exception) -> str:
    return (error.strerror or "unreadable").lower() if isinstance(error, OSError) else str(error)
