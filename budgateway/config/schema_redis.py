"""`[redis]`: limits and keys shared by gateways on several hosts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from budgateway.config.problems import shown
from budgateway.config.types import Count, Seconds, SecretRef, Table, Text
from budgateway.records import OnStoreFailure


def address(value: str) -> str:
    """Check `host:port`, the form of Sentinels and nodes."""
    host, colon, port = value.rpartition(":")
    if not colon or not host.strip("[]") or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"must be host:port, got {shown(value)}")
    return value


def failure_words(value: object) -> object:
    """Apply a single word to every feature."""
    return dict.fromkeys(FailureConfig.model_fields, value) if isinstance(value, str) else value


Address = Annotated[str, AfterValidator(address)]


class FailureConfig(Table):
    """Behaviour of limits while Redis is down: `local` (count in this gateway only), `open` (admit) or `closed` (refuse)."""

    rates: OnStoreFailure = "local"
    """Rates of requests and tokens."""
    concurrency: OnStoreFailure = "local"
    """Limits on exchanges in flight."""
    budgets: OnStoreFailure = "local"
    """Budgets."""


class RedisConfig(Table):
    """The Redis server that gateways on several hosts share."""

    url: str | None = None
    """redis://, rediss:// (TLS) or unix://; with a password it must be a reference (`env:REDIS_URL`)."""
    pool_size: Count = 20
    """Connections kept open, all workers together; each has at least one."""
    max_connections: Count = 100
    """Maximum connections, all workers together, including while workers are being replaced."""
    username: Text | None = None
    """User name (ACL); default: the URL's."""
    password: SecretRef | None = None
    """Reference to the password; default: the URL's."""
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "budgateway"
    """Prefix of all keys: gateways with the same namespace share their limits."""
    cluster: bool = False
    """Connect to a Redis Cluster."""
    nodes: list[Address] = []
    """Nodes of the cluster in addition to the URL's, as host:port."""
    sentinels: list[Address] = []
    """Sentinels as host:port, from which the master's address is read."""
    master: Text = "mymaster"
    """Name of the master at the Sentinels."""
    sentinel_username: Text | None = None
    """User name for the Sentinels."""
    sentinel_password: SecretRef | None = None
    """Reference to the password for the Sentinels."""
    tls_verify: bool = True
    """Verify the server's certificate."""
    tls_ca_file: Text | None = None
    """Certificate authorities to trust instead of the system's, PEM."""
    tls_cert_file: Text | None = None
    """Client certificate, PEM, if Redis requires one."""
    tls_key_file: Text | None = None
    """Private key of the client certificate, PEM."""
    timeout: Seconds = 0.005
    """Maximum seconds that a request waits for Redis; after that `on_store_failure` applies."""
    connect_timeout: Seconds = 1
    """Seconds to connect. Requests do not wait for it."""
    mode: Literal["exact", "leased"] = "exact"
    """`exact` asks Redis for each request; `leased` takes a share of each limit in advance."""
    lease_share: Annotated[float, Field(gt=0, le=0.25)] = 0.01
    """Share of a limit that a worker takes in advance in leased mode."""
    replicas: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Number of gateways that share the limits: while Redis is down, each admits its part."""
    on_store_failure: Annotated[
        FailureConfig, BeforeValidator(failure_words, json_schema_input_type=OnStoreFailure | FailureConfig)
    ] = FailureConfig()
    """Behaviour while Redis is down: `local`, `open` or `closed`, for all features or for each."""
