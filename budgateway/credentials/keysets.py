"""Fetches an issuer's key set from where its operator configured it, and from nowhere else."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from budgateway.app.wiring import targets_of
from budgateway.config.endpoint import key_url, parse_endpoint
from budgateway.jose.jws import Refused, json_object
from budgateway.jose.key import KeySet, KeyUnfit
from budgateway.records import Provider
from budgateway.transport.fetch import fetch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from budgateway.records import Issuer
    from budgateway.transport.resolve import Resolver

TIMEOUT_S = 5.0
MAX_BYTES = 256 * 1024  # the largest public sets have some tens of kilobytes


async def fetch_key_set(issuer: Issuer, resolver: Resolver | None = None) -> Mapping[str, object]:
    """Return the key set, checked under the issuer's own rules. Raises GatewayError, TimeoutError or ValueError with
    the reason.

    No redirect is followed. The URL that discovery returns must be on the issuer's own host: a document that can send
    us anywhere would open the operator's network to its author.
    """
    url = issuer.jwks_url
    if not url:
        found = await _document(issuer, issuer.discovery_url, resolver)
        if found.get("issuer") != issuer.issuer:
            raise ValueError("the discovery document belongs to another issuer")
        named = found.get("jwks_uri")
        if not isinstance(named, str):
            raise ValueError("the discovery document names no key set")
        try:
            url = key_url(named)
        except ValueError as error:
            raise ValueError(f"the discovery document's jwks_uri {error}") from None
        here, there = parse_endpoint(issuer.discovery_url), parse_endpoint(url)
        if (here.host, here.tls) != (there.host, there.tls):
            raise ValueError(f"the discovery document leads to another host ({there.host}): set jwks_url to allow it")
    document = await _document(issuer, url, resolver)
    try:
        KeySet.from_document(document, issuer.algorithms)
    except KeyUnfit as error:
        raise ValueError(f"the key set cannot be used: {error}") from None
    return document


async def _document(issuer: Issuer, url: str, resolver: Resolver | None) -> Mapping[str, object]:
    """Fetch a JSON object from a URL."""
    upstream = parse_endpoint(url)
    path = upstream.path or "/"
    provider = Provider(
        name=f"keys of {issuer.name}",
        kind="openai",
        upstreams=(dataclasses.replace(upstream, path=""),),
        connect_timeout_s=TIMEOUT_S,
        tls_ca_file=issuer.ca_file,
        tls_ca=issuer.ca,
    )
    (target,) = targets_of(provider, {}, resolver=resolver)
    status, body = await fetch(target, path, TIMEOUT_S, max_bytes=MAX_BYTES)
    if status != 200:
        raise ValueError(f"{url} answered with status {status}")
    try:
        return json_object(body, "the answer")
    except Refused as error:
        raise ValueError(f"{url}: {error}") from None
