"""The credential store: key sets and API keys as the supervisor sends them, and the wait for newer ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from budgateway.auth.keys import KeyRing

if TYPE_CHECKING:
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.records import ApiKey

MAX_WAIT_S = 2.0  # longest wait of a request whose token was signed by an unknown key
COOLDOWN_S = 10.0  # between two refreshes of one issuer: tokens with invented key ids cost nothing to make


@dataclass(frozen=True, slots=True)
class CredentialSet:
    """The keys accepted in addition to the configuration's own. The supervisor sends them to its workers as a whole."""

    key_sets: Mapping[str, object] = field(default_factory=dict)  # issuer's name -> JWK Set
    api_keys: tuple[ApiKey, ...] = ()
    keys_missing: bool = False  # API keys are configured, but could not be read so far
    number: int = field(default=0, compare=False)  # increases with every change: the larger number wins


class CredentialStore:
    """The credential store of a process; it outlives configurations. `ask` requests from the supervisor that an
    issuer's keys be read again."""

    def __init__(self, credentials: CredentialSet | None = None, ask: Callable[[str], None] | None = None) -> None:
        self.credentials = credentials or CredentialSet()
        self.ring = KeyRing(self.credentials.api_keys)
        self.ask = ask
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._asked: dict[str, float] = {}

    def update_credentials(self, credentials: CredentialSet) -> None:
        """Replace the keys; an older set than the current one is ignored."""
        if credentials.number < self.credentials.number:
            return
        if credentials.api_keys != self.credentials.api_keys:
            self.ring = KeyRing(credentials.api_keys)
        self.credentials = credentials

    def is_asking(self, issuer: str) -> bool:
        """True when a wait could bring newer keys of an issuer: a refresh is under way, or the last one was a cooldown
        ago."""
        if self.ask is None:
            return False
        asked = self._asked.get(issuer)
        return issuer in self._waiting or asked is None or asyncio.get_running_loop().time() - asked >= COOLDOWN_S

    async def newer(self, issuer: str, then: Callable[[Exchange], None], x: Exchange) -> None:
        """Wait until an issuer's keys have been read again, for at most MAX_WAIT_S, then call `then` with the
        exchange."""
        future = self._waiting.get(issuer)
        loop = asyncio.get_running_loop()
        if future is None:
            assert self.ask is not None
            future = self._waiting[issuer] = loop.create_future()
            self._asked[issuer] = loop.time()
            self.ask(issuer)
            loop.call_later(MAX_WAIT_S, self.refreshed, issuer)
        await asyncio.shield(future)
        then(x)

    def refreshed(self, issuer: str) -> None:
        """End the wait for an issuer: the supervisor has read its keys, or could not."""
        future = self._waiting.pop(issuer, None)
        if future is not None and not future.done():
            future.set_result(None)
