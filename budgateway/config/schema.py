"""A model for each table of the configuration, and the JSON Schema that editors use."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from budgateway.config.schema_attempts import AttemptKeys, HoldKeys, RetriesConfig
from budgateway.config.schema_auth import AuthConfig
from budgateway.config.schema_cors import CorsConfig, RouteCors
from budgateway.config.schema_health import CircuitBreakerConfig, HealthKeys, OutlierEjectionConfig
from budgateway.config.schema_limits import PricesConfig, RateLimitingConfig
from budgateway.config.schema_redis import RedisConfig
from budgateway.config.schema_shaping import CanaryConfig, Maintenance, MirrorConfig, Pin, Shares
from budgateway.config.schema_tracing import TracingConfig
from budgateway.config.schema_transforms import DropParams, TransformConfig
from budgateway.config.schema_websocket import WebSocketSwitch
from budgateway.config.types import (
    Count,
    DialectName,
    HeaderName,
    KindName,
    Level,
    ListenHost,
    Methods,
    Path,
    PolicyName,
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


class GatewayConfig(Table):
    """The gateway as a whole: its address, its processes, its limits and timeouts."""

    host: ListenHost = "0.0.0.0"
    """Address to listen on."""
    port: Port = 8080
    """Port to listen on; 0 takes any free one."""
    workers: Annotated[int, Field(ge=1, le=32)] | None = None
    """Data-plane processes; they share one port and one set of limits. Default: the number of cores."""
    cpu_affinity: bool = False
    """Pin each worker to its own core."""
    spare_worker: bool = True
    """Keep a process ready that replaces a worker as soon as it dies."""
    worker_timeout: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 30
    """Seconds a worker's event loop may be blocked before the worker is replaced; 0 disables it, else at least 2."""
    max_connections: Count = 10_000
    """Maximum open client connections, all workers together."""
    request_timeout: Seconds = 60
    """Seconds until an upstream's first byte; the default of a route's `timeout`."""
    connect_timeout: Seconds = 2
    """Seconds to connect to an upstream."""
    chunk_timeout: Seconds = 300
    """Seconds between two reads of a response."""
    total_timeout: Seconds = 3600
    """Seconds for a whole exchange, all attempts together."""
    keepalive_timeout: Seconds = 75
    """Seconds an idle client connection is kept."""
    head_timeout: Seconds = 10
    """Seconds in which a request's whole head must arrive."""
    drain_timeout: Seconds = 300
    """Seconds that exchanges in flight have to finish when the gateway stops."""
    drain_settle: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 5
    """Seconds between reporting not ready and closing the listener, for load balancers in front to notice."""
    watch: bool = False
    """Reload when a file of the configuration changes, or a secret or certificate that it refers to."""
    max_body_size: Size = 10 << 20
    """Largest request body, in bytes or as "10MB"; the default of a route's."""
    log_level: Level = "INFO"
    """Level of the gateway's own log: DEBUG, INFO, WARNING, ERROR or CRITICAL; also TRACE, WARN and FATAL."""
    access_log: Text = "stdout"
    """Destination of the access log, one JSON line per exchange: `stdout`, `stderr`, `off`, or a file's path."""
    disclose: bool = True
    """Send `x-budgateway-*` response headers: upstream, attempts, overhead."""
    trusted_proxies: list[Annotated[str, AfterValidator(network)]] = []
    """Addresses or CIDR blocks whose `X-Forwarded-For` is trusted."""


class TlsConfig(Table):
    """Serve HTTPS with this certificate."""

    cert_file: Text
    """Certificate chain, PEM; a relative path is relative to the file that names it."""
    key_file: Text
    """Its private key, PEM, not encrypted."""


class CacheConfig(Table):
    """The response cache."""

    enabled: bool = False
    """Enable the cache."""
    default_ttl: Seconds = 300
    """Seconds a response is kept, for routes without `cache_ttl`."""
    max_memory: Size = 256 << 20
    """Memory for responses, in bytes or as "1GB"."""


class MetricsConfig(Table):
    """Prometheus metrics on a separate port (also served at GET /metrics of the gateway)."""

    enabled: bool = True
    """Serve metrics on the separate port."""
    host: ListenHost = "127.0.0.1"
    """Address of the metrics port."""
    port: Port = 9090
    """The metrics port; 0 for no separate port."""


class RouteConfig(AttemptKeys):
    """One route: the requests it matches, the providers behind it, and their limits."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["provider"]}, {"required": ["providers"]}]})

    path: Path
    """`/literal`, `{name}` for one segment, a final `*` or `{name:path}` for the rest."""
    provider: str = ""
    """The provider behind the route: the name of a `[providers.X]` table. Required unless `providers` is set."""
    providers: Shares = []
    """Several providers that share the traffic: names, or tables with `name` and `weight`."""
    canary: CanaryConfig | None = None
    """A provider that is tried with part of the traffic."""
    pin_by: Pin | None = None
    """The value that pins requests to one provider and upstream: `header:NAME`, `user` (of the body) or `key`."""
    mirror: MirrorConfig | None = None
    """A provider that gets copies of requests; its responses are discarded."""
    maintenance: Maintenance = None
    """Refuse requests with 503: true, a message, or a table with `message` and `retry_after`."""
    name: Text | None = None
    """Name in logs and metrics; by default made from method, path and models."""
    method: Methods = []
    """One method or a list; default: all."""
    host: Text | None = None
    """Host that the client requests: exact, or `*.example.com`."""
    models: Texts = []
    """Models that the route matches: exact names, `prefix*`, or globs; default: all."""
    headers: dict[HeaderName, str] = {}
    """Headers that must match: name = value or glob."""
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    """Routes of higher priority are tried first, even before more specific ones."""
    load_balancer: PolicyName = "round_robin"
    """Policy that picks an upstream."""
    rate_limit: Count | None = None
    """Requests a minute, per client, on this route."""
    burst_capacity: Count | None = None
    """Burst above `rate_limit`, in requests; default `[rate_limiting] burst_capacity` (at most `rate_limit`), else a tenth."""
    auth_required: bool = True
    """Require a credential; false admits anyone."""
    timeout: Seconds | None = None
    """Seconds until the upstream's first byte; default `[gateway] request_timeout`."""
    first_byte_timeout: Seconds | None = None
    """Another name for `timeout`."""
    connect_timeout: Seconds | None = None
    """Seconds to connect to an upstream; default: the provider's."""
    chunk_timeout: Seconds | None = None
    """Seconds between two reads of a response; default `[gateway] chunk_timeout`."""
    total_timeout: Seconds | None = None
    """Seconds for the whole exchange; default `[gateway] total_timeout`."""
    max_body_size: Size | None = None
    """Largest request body; default `[gateway] max_body_size`."""
    replay_safe: bool | None = None
    """A request may safely be sent twice; default: true for the known inference paths, false elsewhere."""
    cache_ttl: Seconds | None = None
    """Seconds a response is kept in the cache."""
    websocket: WebSocketSwitch = None
    """Accept WebSocket handshakes, and no other requests: true, or a table with limits."""
    cors: RouteCors = None
    """CORS: a list of origins, or a table of `[cors]` keys that override it; false allows no other origin."""


class EndpointConfig(Table):
    """One upstream of a provider."""

    url: Annotated[str, AfterValidator(endpoint_url)]
    """Base URL: http or https, host, port, and a path if the API is not at the root."""
    weight: Annotated[int, Field(ge=1, le=65535)] = 1
    """Share of the traffic, relative to the provider's other upstreams."""
    max_in_flight: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Maximum exchanges in flight, all workers together; 0 for no limit. Default: the provider's."""


class ProviderConfig(HealthKeys, HoldKeys):
    """A named group of upstreams and how to speak to them."""

    name: Text | None = None
    """A display name."""
    kind: KindName | None = None
    """Kind of model server; default: the table's name."""
    endpoints: Annotated[
        list[EndpointConfig],
        BeforeValidator(endpoint_tables, json_schema_input_type=list[str | EndpointConfig]),
    ] = []
    """The provider's upstreams: URLs, or tables with `url`, `weight` and `max_in_flight`."""
    api_key: SecretRef | None = None
    """Reference to the provider's API key, which is sent as `Authorization: Bearer`."""
    headers: dict[HeaderName, str] = {}
    """Headers sent with every request: literal values, or references to secrets."""
    forward_headers: list[HeaderName] = []
    """Client headers to forward in addition to the allow-list."""
    models: list[Text] = []
    """Models it serves, for GET /v1/models; default: as the upstreams list them."""
    aliases: dict[Text, Text] = {}
    """Model name that clients use, or a pattern of names (`claude-*`) = model name that is sent upstream."""
    api_version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    """Version of the API, for kinds that name it in each request (azure)."""
    strip_prefix: Prefix = ""
    """Prefix to remove from the request's path before the endpoint's own path is prepended."""
    strip_model_prefix: str | None = None
    """Prefix to remove from the model's name; default `<table>/` when a route has such models."""
    stream_usage: bool = True
    """Request usage in streamed chats and completions, and remove it for clients that did not request it."""
    dialects: list[DialectName] = []
    """Dialects it speaks; requests in others are translated to the first that can be. Default: those of its kind."""
    lossy: Literal["refuse", "drop"] = "refuse"
    """Handling of fields that its dialect cannot represent: `refuse` the request, or `drop` the field and name it."""
    default_max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 8192
    """Limit of an answer's tokens in translated requests that have none, where its dialect needs one."""
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """Member that limits tokens in translated requests; default: `max_completion_tokens` for api.openai.com."""
    reasoning_field: Literal["reasoning_content", "reasoning"] = "reasoning_content"
    """Member of messages that takes earlier reasoning in translated requests."""
    replay_reasoning: bool | None = None
    """Send earlier reasoning in translated requests; default: except to api.openai.com."""
    inline_system: Literal["keep", "fold", "hoist"] | None = None
    """Place of instructions amid a translated conversation: where they are, in a user's turn, or in front of it all."""
    tool_images: Literal["user", "inline"] = "user"
    """Message that takes the images of a tool's result: a `user` message behind it, or the tool's message (`inline`)."""
    drop_params: DropParams = []
    """Members of requests that its upstreams are not sent, or "unsupported": those that the kind is known to refuse."""
    connect_timeout: Seconds | None = None
    """Seconds to connect; default `[gateway] connect_timeout`."""
    keepalive_timeout: Seconds = 4
    """Seconds an idle connection to an upstream is kept: less than the upstream's own timeout (vLLM, SGLang: 5)."""
    max_idle_connections: Annotated[int, Field(ge=0, le=1_000_000)] = 512
    """Idle connections that each worker keeps to each upstream."""
    max_in_flight: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Maximum exchanges in flight at each upstream, all workers together; 0 for no limit."""
    max_queue: Annotated[int, Field(ge=0, le=1_000_000)] = 1024
    """Exchanges that may wait while every upstream is at its maximum, all workers together; further ones get 503."""
    queue_timeout: Seconds = 10
    """Seconds an exchange waits before it gets 503."""
    forward_trace: bool = True
    """Send `traceparent`, `tracestate` and `baggage` to its upstreams."""
    tls_verify: bool = True
    """Verify the certificates of https upstreams."""
    tls_ca_file: Text | None = None
    """Certificate authorities to trust instead of the system's, PEM."""


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
    transforms: list[TransformConfig] = []
    providers: dict[str, ProviderConfig] = {}


# The tables that occur at most once; routes, transforms and providers are lists of tables.
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
TABLES = (*SECTIONS, "routes", "transforms", "providers")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the configuration, for editors."""
    schema = Configuration.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_for_toml(schema)}


def _for_toml(node: Any) -> Any:
    """Return a schema without null, which TOML lacks, and without titles that repeat their key."""
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
