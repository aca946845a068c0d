"""The operator's words: a model for each table of the configuration, and the JSON Schema that editors use."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from budgateway.config.schema_attempts import AttemptKeys, HoldKeys, RetriesConfig
from budgateway.config.schema_auth import AuthConfig
from budgateway.config.schema_cors import CorsConfig, RouteCors
from budgateway.config.schema_health import CircuitBreakerConfig, HealthKeys, OutlierEjectionConfig
from budgateway.config.schema_limits import PricesConfig, RateLimitingConfig
from budgateway.config.schema_redis import RedisConfig
from budgateway.config.schema_shaping import CanaryConfig, Maintenance, MirrorConfig, Pin, Shares
from budgateway.config.schema_websocket import WebSocketSwitch
from budgateway.config.words import (
    Count,
    HeaderName,
    KindName,
    Level,
    ListenHost,
    Methods,
    Path,
    Port,
    Prefix,
    Seconds,
    SecretRef,
    Size,
    Table,
    Text,
    Texts,
    endpoint_tables,
    endpoint_url,
    network,
)
from budgateway.records import LoadBalancer


class GatewayConfig(Table):
    """The gateway as a whole: where it listens, how many processes, its limits and deadlines."""

    host: ListenHost = "0.0.0.0"
    """Address to listen on."""
    port: Port = 8080
    """Port to listen on; 0 takes any free one."""
    workers: Annotated[int, Field(ge=1, le=32)] | None = None
    """Data-plane processes; they share one port and one set of limits. Default: the number of cores."""
    cpu_affinity: bool = False
    """Hold each worker to a core of its own."""
    spare_worker: bool = True
    """Keep a process ready that takes the place of a worker that dies, at once."""
    worker_timeout: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 30
    """Seconds a worker's event loop may stand still before the worker is replaced; 0 for ever, at least 2."""
    max_connections: Count = 10_000
    """Open client connections, all workers together."""
    request_timeout: Seconds = 60
    """Seconds until an upstream's first byte; the default of a route's `timeout`."""
    connect_timeout: Seconds = 2
    """Seconds to connect to an upstream."""
    chunk_timeout: Seconds = 300
    """Seconds between two reads of an answer."""
    total_timeout: Seconds = 3600
    """Seconds for a whole exchange, all attempts together."""
    keepalive_timeout: Seconds = 75
    """Seconds an idle client connection is kept."""
    head_timeout: Seconds = 10
    """Seconds in which a request's whole head must arrive."""
    drain_timeout: Seconds = 300
    """Seconds that running exchanges get when the gateway stops."""
    drain_settle: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 5
    """Seconds between not being ready and accepting no more, for balancers in front to notice."""
    watch: bool = False
    """Reload when a file of the configuration changes, or a secret or certificate that it refers to."""
    max_body_size: Size = 10 << 20
    """Largest request body, in bytes or as "10MB"; the default of a route's."""
    log_level: Level = "INFO"
    """The gateway's own messages: DEBUG, INFO, WARNING, ERROR or CRITICAL; also TRACE, WARN and FATAL."""
    access_log: Text = "stdout"
    """One JSON line an exchange: `stdout`, `stderr`, `off`, or a file's path."""
    disclose: bool = True
    """Send `x-budgateway-*` response headers: upstream, attempts, overhead."""
    trusted_proxies: list[Annotated[str, AfterValidator(network)]] = []
    """Addresses or CIDR blocks whose `X-Forwarded-For` is believed."""


class TlsConfig(Table):
    """Serve HTTPS with this certificate."""

    cert_file: Text
    """Certificate chain, PEM; relative to the file that names it."""
    key_file: Text
    """Its private key, PEM, not encrypted."""


class CacheConfig(Table):
    """Answers kept for later."""

    enabled: bool = False
    """Switch it on."""
    default_ttl: Seconds = 300
    """Seconds an answer is kept where a route says nothing."""
    max_memory: Size = 256 << 20
    """Memory for answers, in bytes or as "1GB"."""


class MetricsConfig(Table):
    """Prometheus metrics on a port of their own (also at GET /metrics of the gateway)."""

    enabled: bool = True
    """Serve the metrics port."""
    host: ListenHost = "127.0.0.1"
    """Address of the metrics port."""
    port: Port = 9090
    """The metrics port; 0 for none of its own."""


class TracingConfig(Table):
    """Distributed traces."""

    enabled: bool = False
    """Switch tracing on."""
    endpoint: str | None = None
    """Where spans are sent."""
    requests: bool = False
    """A span for each request, besides those of the upstream calls."""


class RouteConfig(AttemptKeys):
    """One route: what it matches, which provider answers, and under what conditions."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["provider"]}, {"required": ["providers"]}]})

    path: Path
    """`/literal`, `{name}` for one segment, a final `*` or `{name:path}` for the rest."""
    provider: str = ""
    """The provider that answers: the name of a `[providers.X]` table. Required, unless there are `providers`."""
    providers: Shares = []
    """Several that answer in turn: names, or tables with `name` and `weight`."""
    canary: CanaryConfig | None = None
    """One that is tried with a part of the traffic."""
    pin_by: Pin | None = None
    """What keeps requests together at one provider and upstream: `header:NAME`, `user` (of the body) or `key`."""
    mirror: MirrorConfig | None = None
    """One that gets copies; its answers go nowhere."""
    maintenance: Maintenance = None
    """Refuse requests with 503: true, a message, or a table with `message` and `retry_after`."""
    name: Text | None = None
    """Its name in logs and metrics; default made of method, path and models."""
    method: Methods = []
    """One method or a list; default all."""
    host: Text | None = None
    """Host the client asks for: exact, or `*.example.com`."""
    models: Texts = []
    """Models it answers for: exact names, `prefix*`, or globs; default all."""
    headers: dict[HeaderName, str] = {}
    """Headers that must match: name = value or glob."""
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    """Higher goes first, whatever is more specific."""
    load_balancer: LoadBalancer = "round_robin"
    """How an upstream is picked."""
    rate_limit: Count | None = None
    """Requests per minute and client on this route."""
    burst_capacity: Count | None = None
    """Requests at once above `rate_limit`; default `[rate_limiting] burst_capacity` (at most `rate_limit`), else a tenth."""
    auth_required: bool = True
    """False lets anyone in."""
    timeout: Seconds | None = None
    """Seconds until the upstream's first byte; default `[gateway] request_timeout`."""
    first_byte_timeout: Seconds | None = None
    """Another name of `timeout`."""
    connect_timeout: Seconds | None = None
    """Seconds to connect; default the provider's."""
    chunk_timeout: Seconds | None = None
    """Seconds between two reads of an answer."""
    total_timeout: Seconds | None = None
    """Seconds for the whole exchange."""
    max_body_size: Size | None = None
    """Largest request body."""
    replay_safe: bool | None = None
    """A request may be sent twice; default true for the known inference paths, false elsewhere."""
    cache_ttl: Seconds | None = None
    """Seconds an answer is kept."""
    websocket: WebSocketSwitch = None
    """It answers WebSocket handshakes, and nothing else: true, or a table with its limits."""
    cors: RouteCors = None
    """Pages of other origins: their origins, or a table with the keys of `[cors]`, laid over those; false for none."""


class EndpointConfig(Table):
    """One upstream of a provider."""

    url: Annotated[str, AfterValidator(endpoint_url)]
    """Base URL: http or https, host, port, and a path if the API is not at the root."""
    weight: Annotated[int, Field(ge=1, le=65535)] = 1
    """Its share, relative to the others."""
    max_in_flight: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Exchanges it takes at once, from all workers together; 0 for no bound. Default the provider's."""


class ProviderConfig(HealthKeys, HoldKeys):
    """A named group of upstreams and how to speak to them."""

    name: Text | None = None
    """A label for people."""
    kind: KindName | None = None
    """What it speaks; default the table's name."""
    endpoints: Annotated[
        list[EndpointConfig],
        BeforeValidator(endpoint_tables, json_schema_input_type=list[str | EndpointConfig]),
    ] = []
    """Its upstreams: URLs, or tables with `url`, `weight` and `max_in_flight`."""
    api_key: SecretRef | None = None
    """Where its key is: sent as `Authorization: Bearer`."""
    headers: dict[HeaderName, str] = {}
    """Headers sent with every request: literal values, or references to secrets."""
    forward_headers: list[HeaderName] = []
    """Client headers passed on besides the allow-list."""
    models: list[Text] = []
    """Models it serves, for GET /v1/models; default asked of the upstreams."""
    aliases: dict[Text, Text] = {}
    """What clients may say = what the upstream is told."""
    strip_prefix: Prefix = ""
    """Removed from the request's path before the endpoint's own path is put in front."""
    strip_model_prefix: str | None = None
    """Removed from the model's name; default `<table>/` when a route has such models."""
    stream_usage: bool = True
    """Ask streamed chats and completions for their usage, and keep it from clients that did not ask."""
    connect_timeout: Seconds | None = None
    """Seconds to connect; default `[gateway] connect_timeout`."""
    keepalive_timeout: Seconds = 4
    """Seconds an idle connection to an upstream is kept: less than the upstream's own (vLLM, SGLang: 5)."""
    max_idle_connections: Annotated[int, Field(ge=0, le=1_000_000)] = 512
    """Idle connections kept to each upstream, a worker."""
    max_in_flight: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Exchanges each of its upstreams takes at once, from all workers together; 0 for no bound."""
    max_queue: Annotated[int, Field(ge=0, le=1_000_000)] = 1024
    """Exchanges that wait while every upstream is at its bound, in all workers together; what comes on top gets 503."""
    queue_timeout: Seconds = 10
    """Seconds an exchange waits before it gets 503."""
    tls_verify: bool = True
    """Check the certificates of https upstreams."""
    tls_ca_file: Text | None = None
    """Authorities to trust instead of the system's, PEM."""


class Configuration(Table):
    """budgateway's configuration: one TOML file, or a folder with gateway.toml, routes.toml and providers.toml."""

    gateway: GatewayConfig = GatewayConfig()
    tls: TlsConfig | None = None
    auth: AuthConfig = AuthConfig()
    cors: CorsConfig | None = None
    rate_limiting: RateLimitingConfig | None = None
    circuit_breaker: CircuitBreakerConfig | None = None
    outlier_ejection: OutlierEjectionConfig = OutlierEjectionConfig()
    retries: RetriesConfig = RetriesConfig()
    cache: CacheConfig | None = None
    redis: RedisConfig | None = None
    prices: PricesConfig | None = None
    metrics: MetricsConfig = MetricsConfig()
    tracing: TracingConfig | None = None
    routes: list[RouteConfig] = []
    providers: dict[str, ProviderConfig] = {}


# The tables that are there at most once; routes and providers are lists of tables.
SECTIONS: dict[str, type[Table]] = {
    "gateway": GatewayConfig,
    "tls": TlsConfig,
    "auth": AuthConfig,
    "cors": CorsConfig,
    "rate_limiting": RateLimitingConfig,
    "circuit_breaker": CircuitBreakerConfig,
    "outlier_ejection": OutlierEjectionConfig,
    "retries": RetriesConfig,
    "cache": CacheConfig,
    "redis": RedisConfig,
    "prices": PricesConfig,
    "metrics": MetricsConfig,
    "tracing": TracingConfig,
}
TABLES = (*SECTIONS, "routes", "providers")


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the configuration, for editors."""
    schema = Configuration.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_for_toml(schema)}


def _for_toml(node: Any) -> Any:
    """A schema without what TOML has not (null) and what only repeats the key (titles made from it)."""
    if isinstance(node, list):
        return [_for_toml(item) for item in node if item != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    kept = {
        key: _for_toml(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
    }
    if len(choices := kept.get("anyOf", [])) == 1:
        del kept["anyOf"]
        kept = {**choices[0], **kept}
    return kept
