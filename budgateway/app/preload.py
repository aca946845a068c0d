"""Imports of modules that traffic needs, done before traffic: an import stalls every stream of its event loop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budgateway.records import Settings


def preload(*, keys: bool) -> None:
    """Import the remaining modules that serve requests; `keys` when public keys may have to be read.

    PyJWT's algorithms load OpenSSL's bindings: 10 MiB and up to 0.2 s, which a gateway without public keys does not
    spend.
    """
    # Its package imports this only when a thread pool is first used.
    import_module("concurrent.futures.thread")
    # The codec that resolvers and TLS use to encode host names.
    "localhost".encode("idna")
    if keys:
        from budgateway.jose.key import load_algorithms

        load_algorithms()


def reads_keys(settings: Settings) -> bool:
    """Return whether any issuer has public keys. Shared secrets need no library."""
    return any(issuer.secret is None for issuer in settings.auth.issuers)
