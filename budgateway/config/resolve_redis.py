"""Conversion of `[redis]` to StoreSettings: parses the URL, reads secrets, checks keys against each other."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from budgateway.config.problems import is_text, shown
from budgateway.records import Secret, StoreNode, StoreSettings
from budgateway.system.pem import load_pair

if TYPE_CHECKING:
    from budgateway.config.resolve import Resolver
    from budgateway.config.schema_redis import RedisConfig
    from budgateway.config.source import KeyPath

SCHEMES = ("redis", "rediss", "unix")
URL: KeyPath = ("redis", "url")


def store_settings(resolve: Resolver, table: RedisConfig, *, literal: bool, workers: int) -> StoreSettings | None:
    """Return the Redis settings, or None when no key has an address. `literal`: the URL is written in a file, and may
    hold no password."""
    problems = resolve.problems
    parts = _url(resolve, table, literal=literal)
    if parts is None and not table.sentinels and not table.nodes:
        return None
    for key, other, needed in (
        ("nodes", "cluster", table.nodes and not table.cluster),
        ("sentinel_password", "sentinels", table.sentinel_password and not table.sentinels),
        ("tls_key_file", "tls_cert_file", table.tls_key_file and not table.tls_cert_file),
        ("sentinel_username", "sentinel_password", table.sentinel_username and not table.sentinel_password),
    ):
        if needed:
            problems.add(("redis", key), f"has no effect without {other}")
    if table.cluster and table.sentinels:
        problems.add(("redis", "sentinels"), "a cluster has no Sentinels: keep one of the two")
    if table.pool_size > table.max_connections:
        problems.add(("redis", "pool_size"), f"is above max_connections ({table.max_connections})")
    if table.max_connections < 2 * workers:
        problems.add(
            ("redis", "max_connections"),
            f"{workers} workers and their successors need {2 * workers}: each has at least one connection",
        )
    if table.cluster and parts is not None and parts.path not in ("", "/", "/0"):
        problems.add(URL, "a cluster has only database 0")
    first = _node(table.nodes[0]) if table.nodes else StoreNode("127.0.0.1", 6379)
    host, port, path, database, user, password = _parts(resolve, parts, first)
    secret = resolve.secret(("redis", "password"), table.password) if table.password else password
    username = table.username or user
    if username and secret is None and table.password is None:
        problems.add(("redis", "username"), "has no effect without a password")
    sentinel_secret = (
        resolve.secret(("redis", "sentinel_password"), table.sentinel_password) if table.sentinel_password else None
    )
    tls = parts is not None and parts.scheme == "rediss"
    for key, value in (("tls_ca_file", table.tls_ca_file), ("tls_cert_file", table.tls_cert_file)):
        if value and not tls:
            problems.add(("redis", key), "has no effect without TLS: the URL must begin with rediss://")
    cert_file, key_file = _certificate(resolve, table)
    return StoreSettings(
        host=host,
        port=port,
        path=path,
        database=database,
        username=username,
        password=secret,
        namespace=table.namespace,
        cluster=table.cluster,
        nodes=tuple(_node(text) for text in table.nodes),
        sentinels=tuple(_node(text) for text in table.sentinels),
        master=table.master,
        sentinel_username=table.sentinel_username or "",
        sentinel_password=sentinel_secret,
        tls=tls,
        tls_verify=table.tls_verify,
        tls_ca_file=(ca_file := resolve.authorities(("redis", "tls_ca_file"), table.tls_ca_file)),
        tls_cert_file=cert_file,
        tls_key_file=key_file,
        tls_ca=resolve.pem(ca_file),
        tls_pair=None if (cert := resolve.pem(cert_file)) is None else (cert, resolve.pem(key_file) or cert),
        timeout_s=table.timeout,
        connect_timeout_s=table.connect_timeout,
        pool_size=table.pool_size,
        max_connections=table.max_connections,
        mode=table.mode,
        lease_share=table.lease_share,
        replicas=table.replicas,
        on_failure=tuple(table.on_store_failure.model_dump().items()),
    )


def _url(resolve: Resolver, table: RedisConfig, *, literal: bool) -> SplitResult | None:
    """Return the URL's parts; None when there is none, or a problem was noted."""
    given = table.url
    if given is None:
        return None
    if given.startswith(("env:", "file:")):
        literal = False
        secret = resolve.secret(URL, given)
        if secret is None:
            return None
        given = secret.reveal()
    if not is_text(given):
        resolve.problems.add(URL, "not UTF-8 text")
        return None
    try:
        parts = urlsplit(given)
        _ = parts.port
    except ValueError:
        resolve.problems.add(URL, "not a URL")
        return None
    if parts.scheme not in SCHEMES:
        resolve.problems.add(URL, "must begin with redis://, rediss:// or unix://")
        return None
    if literal and parts.password:
        resolve.problems.add(URL, 'must hold no password: write the reference "env:REDIS_URL" and set the variable')
        return None
    if parts.fragment or parts.query.partition("=")[0] not in ("", "db"):
        resolve.problems.add(URL, "the query and fragment have no effect: set keys of `[redis]`")
    return parts


def _parts(
    resolve: Resolver, parts: SplitResult | None, first: StoreNode
) -> tuple[str, int, str, int, str, Secret | None]:
    """Return host, port, socket path, database, user and password of a URL; without one, `first` as the address."""
    if parts is None:
        return first.host, first.port, "", 0, "", None
    unix = parts.scheme == "unix"
    text = parts.query.removeprefix("db=") if parts.query else "" if unix else parts.path.strip("/")
    if text and not (text.isascii() and text.isdigit() and int(text) < 1_000_000):
        resolve.problems.add(URL, f"the database must be a number, got {shown(text)}")
        text = ""
    if unix and not parts.path:
        resolve.problems.add(URL, "needs the path of a socket: unix:///run/redis.sock")
    password = Secret(unquote(parts.password)) if parts.password else None
    host = parts.hostname or "127.0.0.1"
    return host, parts.port or 6379, parts.path if unix else "", int(text or 0), unquote(parts.username or ""), password


def _certificate(resolve: Resolver, table: RedisConfig) -> tuple[str, str]:
    """Return the files of our client certificate and its key, checked to match; empty without."""
    if table.tls_cert_file is None:
        return "", ""
    cert_file = resolve.file(("redis", "tls_cert_file"), table.tls_cert_file)
    key_file = resolve.file(("redis", "tls_key_file"), table.tls_key_file) if table.tls_key_file else cert_file
    cert, key = resolve.pem(cert_file), resolve.pem(key_file)
    if cert is not None and key is not None:
        try:
            load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), cert, key)
        except (ssl.SSLError, OSError, ValueError):
            resolve.problems.add(("redis", "tls_cert_file"), "it and tls_key_file are not a pair of PEM files")
    return cert_file, key_file


def _node(text: str) -> StoreNode:
    host, _, port = text.rpartition(":")
    return StoreNode(host.strip("[]"), int(port))
