"""Endpoint URLs: parsed once, strictly, into the upstreams that the transport connects to."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from budgateway.config.problems import shown
from budgateway.records import Upstream

DEFAULT_PORTS = {"http": 80, "https": 443}
# RFC 1123 2.1, and the underscores of compose and Kubernetes names.
LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST_NAME = re.compile(rf"(?=.{{1,253}}$){LABEL}(\.{LABEL})*\.?")
# RFC 3986 3.3: the characters of a path.
PATH = re.compile(r"(/([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*")


def parse_endpoint(url: str, *, weight: int = 1, max_in_flight: int = 0) -> Upstream:
    """Return the upstream at a base URL, with its `url` in canonical spelling; ValueError describes what is wrong with
    it.

    A URL with a credential, a query or a fragment is refused without showing it: keys belong in headers (RELIABILITY
    3.4).
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("not a URL: must be printable ASCII without spaces (write an international name in punycode)")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"not a URL: {str(error)[:80].lower()}") from None
    # Before any message that shows the URL: these parts may hold a password or a key.
    if "@" in (parts.netloc or url):
        raise ValueError("must hold no credentials: use api_key or headers, with a reference to the secret")
    if parts.query or "?" in url:
        raise ValueError("must have no query: keys travel in headers, other parameters with each request")
    if parts.fragment or "#" in url:
        raise ValueError("must have no fragment")
    if parts.scheme not in DEFAULT_PORTS:
        raise ValueError(f"must begin with http:// or https://, got {shown(url)}{_with_scheme(url)}")
    host = _host(parts.hostname or "", url)
    if port == 0:
        raise ValueError(f"port 0 cannot be connected to: {shown(url)}")
    path = parts.path.rstrip("/")
    if not PATH.fullmatch(path) or any(segment in (".", "..") for segment in path.split("/")):
        raise ValueError(f"has a path that cannot be sent: {shown(parts.path)}")
    default_port = DEFAULT_PORTS[parts.scheme]
    authority = f"[{host}]" if ":" in host else host
    if port not in (None, default_port):
        authority += f":{port}"
    return Upstream(
        url=f"{parts.scheme}://{authority}{path}",
        tls=parts.scheme == "https",
        host=host,
        port=port or default_port,
        path=path,
        weight=weight,
        max_in_flight=max_in_flight,
    )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a listener on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host(host: str, url: str) -> str:
    if not host:
        raise ValueError(f"names no host: {shown(url)}")
    try:
        return str(ipaddress.ip_address(host.replace("%", "?")))  # no scope: it means nothing on another machine
    except ValueError:
        # Only digits and dots is a mistyped address: a resolver would read 127.1 or 2130706433 in its own way.
        if not HOST_NAME.fullmatch(host) or re.fullmatch(r"[0-9.]+|0x[0-9a-f]+", host):
            raise ValueError(f"not a host name or an IP address: {shown(host)}") from None
    return host


def _with_scheme(url: str) -> str:
    return f"; did you mean 'http://{url[:60]}'?" if re.match(r"[A-Za-z0-9.\[\]_-]+(:\d+)?(/|$)", url) else ""


def key_url(value: str) -> str:
    """Check the URL of a key set: HTTPS, or on this machine."""
    upstream = parse_endpoint(value)
    if not upstream.tls and not is_loopback(upstream.host):
        raise ValueError(f"must begin with https:// (http:// for this machine only), got {shown(value)}")
    return value
