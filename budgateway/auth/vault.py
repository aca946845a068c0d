"""The vault: key sets and API keys as the supervisor hands them over, and the wait for newer ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from budgateway.auth.keys import KeyRing

if TYPE_CHECKING:
    from budgateway.exchange_cy import Exchange
    from budgateway.records import ApiKey

PATIENCE_S = 2.0  # of a request whose token was signed by a key that nobody has seen yet
COOLDOWN_S = 10.0  # between two questions about one issuer: tokens with made-up key names are free to make


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom to believe, besides what the configuration says. Handed from the supervisor to its workers, whole."""

    key_sets: Mapping[str, object] = field(default_factory=dict)  # issuer's name -> JWK Set
    api_keys: tuple[ApiKey, ...] = ()
    keys_missing: bool = False  # there are API keys, but they could not be read so far
    number: int = field(default=0, compare=False)  # counts up: of two, the one with the larger number holds


class Vault:
    """One in a process, whatever the configuration. `ask` tells the supervisor that an issuer's keys should be read."""

    def __init__(self, trust: Trust | None = None, ask: Callable[[str], None] | None = None) -> None:
        self.trust = trust or Trust()
        self.ring = KeyRing(self.trust.api_keys)
        self.ask = ask
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._asked: dict[str, float] = {}

    def entrust(self, trust: Trust) -> None:
        """Believe this from now on; what is older than what is believed changes nothing."""
        if trust.number < self.trust.number:
            return
        if trust.api_keys != self.trust.api_keys:
            self.ring = KeyRing(trust.api_keys)
        self.trust = trust

    def is_asking(self, issuer: str) -> bool:
        """Whether a wait for an issuer's newer keys could bring any: one is under way, or none was for a while."""
        if self.ask is None:
            return False
        asked = self._asked.get(issuer)
        return issuer in self._waiting or asked is None or asyncio.get_running_loop().time() - asked >= COOLDOWN_S

    async def newer(self, issuer: str, then: Callable[[Exchange], None], x: Exchange) -> None:
        """Wait until an issuer's keys were read again, or for as long as a client can be kept waiting; `then` goes on
        with the exchange."""
        future = self._waiting.get(issuer)
        loop = asyncio.get_running_loop()
        if future is None:
            assert self.ask is not None
            future = self._waiting[issuer] = loop.create_future()
            self._asked[issuer] = loop.time()
            self.ask(issuer)
            loop.call_later(PATIENCE_S, self.refreshed, issuer)
        await asyncio.shield(future)
        then(x)

    def refreshed(self, issuer: str) -> None:
        """The supervisor has read an issuer's keys, or could not."""
        future = self._waiting.pop(issuer, None)
        if future is not None and not future.done():
            future.set_result(None)
