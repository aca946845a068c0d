"""`[redis]`: what gateways on several hosts share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from budgateway.config.problems import shown
from budgateway.config.words import Count, Seconds, SecretRef, Table, Text
from budgateway.records import OnStoreFailure


def address(value: str) -> str:
    """`host:port`, as Sentinels and nodes are written."""
    host, colon, port = value.rpartition(":")
    if not colon or not host.strip("[]") or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"must be host:port, got {shown(value)}")
    return value


def failure_words(value: object) -> object:
    """One word is said of every feature."""
    return dict.fromkeys(FailureConfig.model_fields, value) if isinstance(value, str) else value


Address = Annotated[str, AfterValidator(address)]


class FailureConfig(Table):
    """What holds while Redis is away: `local` (this gateway decides alone), `open` or `closed`."""

    rates: OnStoreFailure = "local"
    """Requests and tokens by time."""
    concurrency: OnStoreFailure = "local"
    """Requests at once."""
    budgets: OnStoreFailure = "local"
    """Spending by period."""


class RedisConfig(Table):
    """What gateways on several hosts share."""

    url: str | None = None
    """redis://, rediss:// (TLS) or unix://; with a password it must be a reference (`env:REDIS_URL`)."""
    pool_size: Count = 20
    """Connections kept open, all workers together; each has at least one."""
    max_connections: Count = 100
    """Connections at most, all workers together: also while one set of workers follows another."""
    username: Text | None = None
    """Who we are to Redis (ACL); default what the URL says."""
    password: SecretRef | None = None
    """Where the password is; default what the URL says."""
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "budgateway"
    """Gateways of one namespace share their limits."""
    cluster: bool = False
    """It is a Redis Cluster."""
    nodes: list[Address] = []
    """Nodes of the cluster besides the URL's, as host:port."""
    sentinels: list[Address] = []
    """Sentinels as host:port: they say where the master is."""
    master: Text = "mymaster"
    """What the Sentinels call it."""
    sentinel_username: Text | None = None
    """Who we are to the Sentinels."""
    sentinel_password: SecretRef | None = None
    """Where the Sentinels' password is."""
    tls_verify: bool = True
    """Check Redis' certificate."""
    tls_ca_file: Text | None = None
    """Authorities to trust instead of the system's, PEM."""
    tls_cert_file: Text | None = None
    """Our own certificate, PEM, where Redis asks for one."""
    tls_key_file: Text | None = None
    """Its private key, PEM."""
    timeout: Seconds = 0.005
    """Seconds that a request waits for Redis at most; then `on_store_failure` holds."""
    connect_timeout: Seconds = 1
    """Seconds to connect. Nobody waits for it."""
    mode: Literal["exact", "leased"] = "exact"
    """`exact` asks Redis for each request; `leased` takes a share of each limit in advance."""
    lease_share: Annotated[float, Field(gt=0, le=0.25)] = 0.01
    """What part of a limit a worker takes in advance in leased mode."""
    replicas: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Gateways that share the limits: while Redis is away, each admits its part."""
    on_store_failure: Annotated[
        FailureConfig, BeforeValidator(failure_words, json_schema_input_type=OnStoreFailure | FailureConfig)
    ] = FailureConfig()
    """What holds while Redis is away: `local`, `open` or `closed`, for all features or each."""
