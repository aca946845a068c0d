"""Imports of modules that traffic needs, done before traffic: an import stalls every stream of its event loop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budgateway.records import Settings


def preload(*, tokens: bool) -> None:
    """Import the remaining modules that serve requests; `tokens` when tokens may have to be verified.

    PyJWT's algorithms load OpenSSL's bindings: 10 MiB and up to 0.2 s, which a gateway without tokens does not spend.
    """
    # Its package imports this only when a thread pool is first used.
    import_module("concurrent.futures.thread")
    # The codec that resolvers and TLS use to encode host names.
    "localhost".encode("idna")
    if tokens:
        from budgateway.jose.key import load_algorithms

        load_algorithms()


def verifies_tokens(settings: Settings) -> bool:
    """Return whether any tokens are accepted."""
    return settings.jwt_secret is not None or bool(settings.auth.issuers)
