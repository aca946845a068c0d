"""Modules that traffic needs, imported before there is any: an import stalls every stream of its event loop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budgateway.records import Settings


def preload(*, tokens: bool) -> None:
    """Import what serves requests beyond what is imported already; `tokens` when some may have to be verified.

    PyJWT's algorithms bring OpenSSL's bindings: 10 MiB and up to 0.2 s, which a gateway without tokens does not spend.
    """
    # Which its package imports when the first thread is asked for.
    import_module("concurrent.futures.thread")
    # The codec that resolvers and TLS encode host names with.
    "localhost".encode("idna")
    if tokens:
        from budgateway.jose.key import load_algorithms

        load_algorithms()


def verifies_tokens(settings: Settings) -> bool:
    """Whether anybody's tokens are believed."""
    return settings.jwt_secret is not None or bool(settings.auth.issuers)
