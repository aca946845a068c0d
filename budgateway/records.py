"""Frozen configuration records, parsed at the edge and trusted inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from budgateway.system.pem import Pem

OnStoreFailure = Literal["local", "open", "closed"]

# The methods a route may accept. TRACE and CONNECT are always refused before routing (RELIABILITY 3.8).
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# RFC 9110 9.2.2.
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})

# POSTs that compute and store nothing of value: sending one twice costs tokens, not correctness.
INFERENCE_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/rerank",
        "/v2/rerank",
        "/v1/score",
        "/v1/moderations",
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/images/generations",
        # specific to inference engines
        "/generate",
        "/rerank",
        "/score",
        "/classify",
        "/pooling",
        "/tokenize",
        "/detokenize",
    }
)


def is_inference(path: str) -> bool:
    """Return whether a client's path belongs to an inference API; a prefix before its last `/v1/` is ignored."""
    return path in INFERENCE_PATHS or path[max(path.rfind("/v1/"), 0) :] in INFERENCE_PATHS


# The role that may do everything, unless the configuration restricts it.
ADMIN = "admin"
# The issuer of tokens signed with JWT_SECRET, which need no `iss`.
OWN_ISSUER = "own"


class Secret:
    """A value that is never shown: repr, str and format give `***`; only `reveal()` returns it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value, for the one line that sends or verifies it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


class Usage(NamedTuple):
    """Tokens of one exchange, reported by the upstream."""

    tokens_in: int
    tokens_out: int
    tokens_cached: int
    tokens_reasoning: int


MAX_FILL_S = 500_000_000  # 16 years, the longest time for a burst to fill: the native core counts up to 18


@dataclass(frozen=True, slots=True)
class Cors:
    """A CORS policy: the origins whose pages may use the gateway from a browser, and how (Fetch standard)."""

    origins: tuple[str, ...]  # exact, `*` for all, or with a `*` for subdomains or the port
    methods: tuple[str, ...] = METHODS[:-1]
    headers: tuple[str, ...] = ("*",)  # allowed in requests, lower case; `*`: any
    credentials: bool = False
    max_age_s: int = 600
    expose: tuple[str, ...] = ()  # response headers, in addition to wire.cors.EXPOSED
    private_network: bool = False
    admin: bool = False  # also on the operators' own paths


@dataclass(frozen=True, slots=True)
class Allowance:
    """Limits of one key, token, user or tenant. 0: no own limit of that kind."""

    requests_per_minute: int = 0
    requests_per_hour: int = 0
    requests_per_day: int = 0
    burst: int = 0  # requests at once; 0: a tenth of the minute's
    tokens_per_minute: int = 0
    tokens_per_day: int = 0
    concurrency: int = 0  # exchanges in flight
    budget_usd: float = 0.0
    budget_period: Literal["day", "week", "month"] = "month"

    def fill_s(self) -> float:
        """Return the seconds in which the burst fills, at the slowest rate it applies to."""
        if self.requests_per_minute:
            return self.burst * 60 / self.requests_per_minute
        slow = ((self.requests_per_hour, 3600), (self.requests_per_day, 86_400))
        return max((self.burst * period_s / amount for amount, period_s in slow if amount), default=0.0)


@dataclass(frozen=True, slots=True)
class Principal:
    """The client's identity. `id` is the key for limits: a JWT subject, an API key's name, or the client's address."""

    id: str
    tenant: str = ""
    roles: tuple[str, ...] = ()
    anonymous: bool = True
    groups: tuple[str, ...] = ()
    models: tuple[str, ...] = ()  # exact names or globs; empty: whatever its roles allow
    key: str = ""  # the API key's id, if one was used
    allowance: Allowance | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines of an exchange in seconds. All run from its first byte, except `chunk_s`, which runs between two."""

    connect_s: float = 2.0
    first_byte_s: float = 60.0
    chunk_s: float = 300.0
    total_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Upstream:
    """One reachable model server. `path` is the base URL's path without a trailing slash."""

    url: str
    tls: bool
    host: str
    port: int
    path: str = ""
    weight: int = 1
    max_in_flight: int = 0  # 0: unbounded


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Health probes of a provider's upstreams, and the load they report."""

    path: str = "/health"
    interval_s: float = 30.0
    timeout_s: float = 5.0
    healthy_threshold: int = 2
    unhealthy_threshold: int = 3
    statuses: tuple[tuple[int, int], ...] = ((200, 299),)  # of a healthy answer: ranges, ends included
    body: str = ""  # text that a healthy answer contains
    generate_model: str = ""  # probe by generating a token with this model instead
    load_paths: tuple[str, ...] = ()  # where the engine reports its load; the first path that answers is used
    models_path: str = "/v1/models"  # where it lists the only models that it serves; empty: nowhere


@dataclass(frozen=True, slots=True)
class TranslationSettings:
    """The form of requests that are translated for a provider. Empty values: by its kind and address."""

    lossy: Literal["refuse", "drop"] = "refuse"  # what the upstream's dialect cannot represent
    default_max_tokens: int = 8192  # where the client sets no limit and the upstream's dialect needs one
    token_limit_field: str = ""
    reasoning_field: str = "reasoning_content"
    replay_reasoning: bool | None = None  # send earlier reasoning
    inline_system: Literal["", "keep", "fold", "hoist"] = ""  # the place of instructions amid a conversation
    tool_images: Literal["user", "inline"] = "user"  # the message that takes the images of a tool's result


@dataclass(frozen=True, slots=True)
class Provider:
    """A named group of upstreams with their connection and protocol settings."""

    name: str
    kind: str  # one of kinds.KINDS
    upstreams: tuple[Upstream, ...]
    label: str = ""  # `name =` in the table: for people
    api_key: Secret | None = None
    headers: tuple[tuple[str, Secret], ...] = ()  # sent with every request, values may be secret
    forward_headers: tuple[str, ...] = ()  # additions to the allow list towards the upstream, lower case
    models: tuple[str, ...] = ()  # the models it serves, listed by the operator; empty: read from the upstream
    aliases: tuple[tuple[str, str], ...] = ()  # (the client's model name, the upstream's)
    api_version: str = ""  # of a kind whose paths or queries have one
    strip_prefix: str = ""  # removed from the request path before the upstream's own path is prepended
    strip_model_prefix: str = ""  # `vllm/`: removed from the model's name, unless the whole name is an alias
    stream_usage: bool = True  # request usage in its streams, whether or not the client does
    health_check: HealthCheck | None = None  # None: its upstreams are not probed
    slow_start_s: float = 10.0  # until a recovered upstream gets its full share; 0: at once
    connect_timeout_s: float = 2.0
    keepalive_s: float = 4.0  # vLLM and SGLang close at 5 s
    max_idle: int = 512  # idle connections kept to each upstream, per worker
    max_queue: int = 1024  # exchanges that wait while every upstream is at its limit, all workers together
    queue_timeout_s: float = 10.0
    forward_trace: bool = True  # traceparent, tracestate and baggage go to its upstreams
    tls_verify: bool = True
    tls_ca_file: str = ""
    tls_ca: Pem | None = field(default=None, compare=False)  # the file's contents when the configuration was read
    hold_bytes: int = 64 * 1024  # of an answer, buffered until it proves to be one; 0: passed on at once
    first_event_s: float = 0.0  # time for a stream's first event before another upstream; 0: half the route's timeout
    dialects: tuple[str, ...] = ()  # names of wire.dialects that it speaks; empty: those of its kind
    translation: TranslationSettings = TranslationSettings()

    @property
    def named_aliases(self) -> tuple[str, ...]:
        """The aliases that are names, without the patterns."""
        return tuple(said for said, _ in self.aliases if not is_pattern(said))

    @property
    def alias_patterns(self) -> tuple[tuple[str, str], ...]:
        """The aliases that are patterns, the longest first."""
        patterns = [pair for pair in self.aliases if is_pattern(pair[0])]
        return tuple(sorted(patterns, key=lambda pair: -len(pair[0])))

    def upstream_label(self, number: int) -> str:
        """Return an upstream's name for headers, logs, errors, spans and the admin endpoints."""
        return self.name if len(self.upstreams) == 1 else f"{self.name}/{number}"

    def upstream_model(self, model: str) -> str:
        """Return the upstream's name for the client's model. An alias of the whole name wins; otherwise the prefix is
        removed, and the rest may be an alias. Names win over patterns, and longer patterns over shorter ones. Not for
        the hot path, which caches the result by model."""
        aliases = dict(self.aliases)
        bare = model.removeprefix(self.strip_model_prefix) or model
        for name in (model, bare):
            if name in aliases:
                return aliases[name]
        for pattern, told in self.alias_patterns:
            if fnmatchcase(model, pattern) or fnmatchcase(bare, pattern):
                return told
        return bare


def is_pattern(name: str) -> bool:
    """Return whether a name of models stands for several: `*` is any text, `?` any character."""
    return "*" in name or "?" in name


FallbackReason = Literal["error", "429", "5xx", "context_length"]


@dataclass(frozen=True, slots=True)
class Fallback:
    """A provider that takes over a route's exchanges when the route's provider fails."""

    provider: str
    model: str = ""  # model name sent to its upstreams; "": by the provider's own settings


@dataclass(frozen=True, slots=True)
class Hedge:
    """Hedging: the delay after which a second upstream is tried next to a slow one. The delay is fixed, or a percentile
    of recent times to the first byte; with both, the longer one."""

    after_s: float = 0.0
    percentile: int = 0  # 0: only after_s


@dataclass(frozen=True, slots=True)
class Retries:
    """Retries of an exchange while its client has received nothing."""

    max_attempts: int = 3  # on each provider
    statuses: tuple[int, ...] = (429, 502, 503, 504)  # answers for which another upstream is tried
    max_retry_after_s: float = 2.0  # a longer wait is left to the client
    fallbacks: tuple[Fallback, ...] = ()
    fallback_on: tuple[FallbackReason, ...] = ("error", "429", "5xx")
    hedge: Hedge | None = None


@dataclass(frozen=True, slots=True)
class RetryLimit:
    """The retry budget of a provider: a share of its exchanges, plus a reserve."""

    percent: int = 20
    reserve: int = 3


@dataclass(frozen=True, slots=True)
class WebSocket:
    """Limits of a route's WebSockets."""

    idle_s: float = 300.0  # without a byte either way, pings included; or without one of the peers reading
    max_message_bytes: int = 16 << 20  # OpenAI's realtime events carry up to 15 MiB of audio
    compression: bool = True  # allow the two ends to negotiate permessage-deflate


@dataclass(frozen=True, slots=True)
class Canary:
    """A provider that gets a part of a route's traffic."""

    provider: str
    share: float = 0.0  # of the route's requests, 0 to 1
    header: str = ""  # lower case; requests with it go there whatever the share
    value: str = ""  # its required value; empty: any


@dataclass(frozen=True, slots=True)
class Mirror:
    """A provider that gets copies of a route's requests; its answers are discarded."""

    provider: str
    share: float = 1.0
    max_in_flight: int = 16  # copies in flight at once, per worker
    max_body_bytes: int = 1 << 20
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Maintenance mode: a route's requests are refused."""

    message: str
    retry_after_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Route:
    """A route: match fields, provider and settings. Empty match fields match everything."""

    name: str
    path: str
    provider: str
    host: str = ""
    methods: tuple[str, ...] = ()
    models: tuple[str, ...] = ()  # exact names, `prefix*`, or globs
    headers: tuple[tuple[str, str], ...] = ()  # (lower-case name, value or glob); all must match
    priority: int = 0
    load_balancer: str = "round_robin"  # one of native.POLICIES
    rate_limit: int = 0  # requests per minute and client; 0: no limit of its own
    rate_burst: int = 0  # 0: a tenth of rate_limit, at least 1
    auth_required: bool = True
    timeouts: Timeouts = field(default_factory=Timeouts)
    max_body_bytes: int = 10 * 1024 * 1024
    replay_safe: bool = False
    replay_inference: bool = False  # replay-safe for INFERENCE_PATHS, too: the operator has left the choice to us
    cache_ttl_s: int = 0
    websocket: WebSocket | None = None  # accepts only WebSocket handshakes
    split: tuple[tuple[str, int], ...] = ()  # providers and weights; `provider` is the one with the largest
    canary: Canary | None = None
    pin_by: str = ""  # "user", "key" or "header:name": requests with the same value go to the same upstream
    mirror: Mirror | None = None
    maintenance: Maintenance | None = None
    retries: Retries = field(default_factory=Retries)
    stream_keepalive_s: float = 0.0  # a comment after this long a silence of a stream; 0: none
    cors: Cors | None = None  # pages of other origins; None: none

    def answerers(self) -> tuple[str, ...]:
        """Return the providers that may answer: those of the split, then the canary's."""
        names = tuple(name for name, _ in self.split) or (self.provider,)
        return names if self.canary is None else (*names, self.canary.provider)

    def holds(self) -> tuple[str, ...]:
        """Return the providers of which one is enough to answer: those of the split, and the fallbacks used when no
        upstream is available. The canary's is not included, because it serves only a part."""
        fallbacks = self.retries.fallbacks if "error" in self.retries.fallback_on else ()
        shares = [name for name, weight in self.split if weight] or [self.provider]
        return (*shares, *(fallback.provider for fallback in fallbacks))

    def leads_to(self) -> tuple[str, ...]:
        """Return every provider that the route sends anything to."""
        names = (*self.answerers(), *(fallback.provider for fallback in self.retries.fallbacks))
        return names if self.mirror is None else (*names, self.mirror.provider)

    def replays(self, method: str, path: str) -> bool:
        """Return whether a request may be sent twice (RELIABILITY 2.2). `path` is the client's, without the query."""
        if method in IDEMPOTENT_METHODS or self.replay_safe:
            return True
        return self.replay_inference and is_inference(path)


@dataclass(frozen=True, slots=True)
class Match:
    """The result of routing: the route, the path's parameters and the reason for the choice."""

    route: Route
    provider: str
    params: dict[str, str]
    reason: str


@dataclass(frozen=True, slots=True)
class Tls:
    """The listener's certificate: file names, and the files' contents when the configuration was read."""

    cert_file: str
    key_file: str
    cert: Pem | None = field(default=None, compare=False)
    key: Pem | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Requests per minute with a burst, per principal."""

    per_minute: int
    burst: int


@dataclass(frozen=True, slots=True)
class LimitRule:
    """Limits for the principals that the selectors match (empty: all), with a counter for each combination of `by`
    (empty: one for all). Names in `routes` and `models` may be globs."""

    name: str
    by: tuple[Literal["user", "key", "tenant", "model", "route", "address"], ...]
    allowance: Allowance
    routes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """Settings common to all limits."""

    headers: bool = True  # report the state of limits to clients in headers
    output_tokens: int = 1024  # assumed length of an answer when its request sets no maximum
    queue_size: int = 1000  # exchanges that wait for a lease, per worker; 0: none
    queue_timeout_s: float = 5.0
    state_file: str = ""  # keeps budgets and long-period rates over a restart; empty: none
    ipv6_prefix: int = 64  # length of the IPv6 prefix that identifies a client


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Prices of a model's tokens, in dollars per million. `model` is a name or a glob: the client's model name or, with
    `provider`, the one sent to that provider."""

    model: str
    input: float
    output: float
    cached: float
    provider: str = ""
    max_output_tokens: int = 0  # the longest output of the model; 0: unknown


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit of a body; `native.Transform` has the kinds and the meaning of the words."""

    kind: Literal["remove", "rename", "default", "set", "set_from", "cap"]
    path: str
    word: str | None = None
    other: str | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on a body. `values` are JSON texts."""

    kind: Literal["present", "absent", "in", "above", "below"]
    path: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SystemText:
    """A text for the system part of requests."""

    mode: Literal["prepend", "append", "replace"]
    text: str


@dataclass(frozen=True, slots=True)
class HeaderRule:
    """Headers to set and to remove; names in lower case."""

    set: tuple[tuple[str, Secret], ...] = ()
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.set or self.remove)


@dataclass(frozen=True, slots=True)
class TransformRule:
    """A transformation rule. Empty selectors match everything; names may be globs. With `providers` it edits what their
    upstreams are sent, for each attempt; without, what the client sent, before limits."""

    name: str
    routes: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    dialects: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    when: tuple[Condition, ...] = ()
    request: tuple[Edit, ...] = ()
    system: SystemText | None = None
    headers: HeaderRule = field(default_factory=HeaderRule)
    response: tuple[Edit, ...] = ()
    response_headers: HeaderRule = field(default_factory=HeaderRule)
    strict: bool = False  # refuse bodies that cannot be edited


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """Thresholds and times of the circuit breaker of an upstream."""

    failure_threshold: int = 5
    open_s: float = 60.0
    half_open_max_calls: int = 3
    failure_ratio: float = 0.0  # 0: only consecutive failures open it
    minimum_calls: int = 20
    window_s: float = 30.0


@dataclass(frozen=True, slots=True)
class OutlierSettings:
    """Thresholds and times of outlier ejection of an upstream."""

    consecutive_failures: int = 5
    ejection_s: float = 10.0
    max_ejection_s: float = 300.0
    max_percent: int = 50


@dataclass(frozen=True, slots=True)
class Tracing:
    """Tracing: which exchanges are traced, and where their spans are sent."""

    endpoint: str = ""  # the whole URL; empty: spans are made of no exchange, only timelines
    protocol: Literal["otlp", "jaeger"] = "otlp"
    headers: tuple[tuple[str, Secret], ...] = ()
    ratio: float = 0.01  # of exchanges without a parent to follow
    parent: Literal["follow", "link", "ignore"] = "follow"
    keep_errors: bool = True
    keep_slower_than_s: float = 10.0  # 0: none is kept for that
    max_per_second: float = 50.0  # all workers together
    service_name: str = "budgateway"
    resource: tuple[tuple[str, str], ...] = ()
    principal: bool = True  # spans say who asked
    requests: bool = False  # every exchange has a timeline
    ca_file: str = ""
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class StoreNode:
    """The address of a Redis server, a Sentinel or a cluster node."""

    host: str
    port: int
    path: str = ""  # a unix socket, instead of host and port

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Redis: addresses, credentials, TLS, timeouts and failure behaviour."""

    host: str = "127.0.0.1"
    port: int = 6379
    path: str = ""  # a unix socket, instead of host and port
    database: int = 0
    username: str = ""
    password: Secret | None = None
    namespace: str = "budgateway"  # gateways with the same name share their limits; also the cluster's hash tag
    cluster: bool = False
    nodes: tuple[StoreNode, ...] = ()  # more nodes from which to discover the cluster
    sentinels: tuple[StoreNode, ...] = ()
    master: str = "mymaster"  # its name in Sentinel
    sentinel_username: str = ""
    sentinel_password: Secret | None = None
    tls: bool = False
    tls_verify: bool = True
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    tls_ca: Pem | None = field(default=None, compare=False)
    tls_pair: tuple[Pem, Pem] | None = field(default=None, compare=False)  # certificate and key
    timeout_s: float = 0.005  # RELIABILITY L2: the latency a slow Redis may add to a request
    connect_timeout_s: float = 1.0
    pool_size: int = 20  # connections of all processes together
    max_connections: int = 100
    mode: Literal["exact", "leased"] = "exact"
    lease_share: float = 0.01  # share of a limit that a worker holds in leased mode
    replicas: int = 1  # gateways that share the limits: without Redis, each admits only its part
    on_failure: tuple[tuple[str, OnStoreFailure], ...] = ()  # (feature, behaviour when Redis fails); else local


@dataclass(frozen=True, slots=True)
class ClaimPaths:
    """Names of a token's claims, dotted for a claim inside another (`realm_access.roles`)."""

    user: str = "sub"
    tenant: str = "tenant"
    roles: str = "roles"
    groups: str = "groups"
    models: str = "models"


@dataclass(frozen=True, slots=True)
class Issuer:
    """A trusted token issuer and its keys: exactly one of the four key sources is set."""

    name: str  # our name for it, in principals and logs
    issuer: str  # required value of `iss`; empty: not checked (JWT_SECRET's own)
    algorithms: tuple[str, ...]
    secret: Secret | None = None
    public_keys: str = ""  # PEM
    jwks_url: str = ""
    discovery_url: str = ""  # OpenID Connect's discovery document, which holds the URL of the key set
    audience: tuple[str, ...] = ()
    any_audience: bool = False  # accept tokens for other services: the operator has allowed it
    leeway_s: float = 30.0  # allowed clock difference
    refresh_s: float = 300.0  # interval between fetches of the key set
    ca_file: str = ""  # certificate authorities for fetching it
    ca: Pem | None = field(default=None, compare=False)  # the file's contents when the configuration was read
    claims: ClaimPaths = field(default_factory=ClaimPaths)
    tenant: str = ""  # of all its tokens, whatever their claims
    roles: tuple[str, ...] = ()  # that each of its tokens has
    group_roles: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (group, the roles it grants)


@dataclass(frozen=True, slots=True)
class Permission:
    """Permissions of a role: routes by name (`*` for all), methods and models by name or glob, operations of the admin
    API."""

    role: str
    routes: tuple[str, ...] = ("*",)
    methods: tuple[str, ...] = ("*",)
    models: tuple[str, ...] = ("*",)
    admin: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tenant:
    """Settings for all principals of a tenant. Its models restrict theirs; its roles apply to principals without
    any."""

    name: str
    roles: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as stored: never the secret, only its SHA-256. Times in seconds since the epoch, 0 for none."""

    name: str
    digest: str  # hexadecimal
    start: str  # its first characters, for people
    created_s: float = 0.0
    expires_s: float = 0.0
    disabled: bool = False
    tenant: str = ""
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    allowance: Allowance | None = None
    note: str = ""
    old_digest: str = ""  # digest of the secret before the last rotation,
    old_until_s: float = 0.0  # which stays valid until then


@dataclass(frozen=True, slots=True)
class Auth:
    """Token issuers, roles and tenants. Without grants every known principal may use every route."""

    issuers: tuple[Issuer, ...] = ()
    grants: tuple[Permission, ...] = ()
    tenants: tuple[Tenant, ...] = ()
    keys_file: str = ""  # file of API keys; empty: none
    keys_in_redis: bool = False  # API keys are stored in Redis
    leeway_s: float = 30.0  # between our clock and that of another gateway under the same JWT_SECRET


@dataclass(frozen=True, slots=True)
class Settings:
    """One complete, validated configuration: returned by `load_config`, and used to build every process."""

    host: str = "0.0.0.0"
    port: int = 8080
    workers: int = 1
    tls: Tls | None = None
    max_connections: int = 10_000  # open downstream connections, per gateway
    keepalive_s: float = 75.0  # idle downstream connections
    head_timeout_s: float = 10.0
    max_body_bytes: int = 10 * 1024 * 1024
    drain_s: float = 300.0
    settle_s: float = 5.0  # not ready, but still accepting: until load balancers in front have noticed
    watch: bool = False  # reload when the files change
    cpu_affinity: bool = False  # one core for each worker
    spare_worker: bool = True  # a fork server, so that workers start within milliseconds
    worker_timeout_s: float = 30.0  # a worker whose event loop hangs this long is replaced; 0: never
    disclose: bool = True  # x-budgateway-* response headers
    trusted_proxies: tuple[str, ...] = ()
    log_level: str = "INFO"
    access_log: str = "stdout"  # stdout, stderr, off, or a file's path
    metrics_enabled: bool = True
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9090  # 0: no port of its own
    tracing: Tracing | None = None  # None: nothing is traced
    rate_limit: RateLimit | None = None
    limit_rules: tuple[LimitRule, ...] = ()
    limits: LimitSettings = field(default_factory=LimitSettings)
    prices: tuple[ModelPrice, ...] = ()  # the first match counts
    breaker: BreakerSettings | None = None
    outliers: OutlierSettings | None = None
    panic_percent: int = 50  # with fewer of a provider's upstreams available, doubtful ones are used, too
    store: StoreSettings | None = None
    retry_limit: RetryLimit = field(default_factory=RetryLimit)
    cors: Cors | None = None  # for routes without their own
    jwt_secret: Secret | None = None
    jwt_expiration_s: int = 3600
    auth: Auth = field(default_factory=Auth)
    providers: tuple[Provider, ...] = ()
    routes: tuple[Route, ...] = ()
    transforms: tuple[TransformRule, ...] = ()  # in the order in which they apply
    notices: tuple[str, ...] = ()  # accepted but without effect in this version; printed at start
    sources: tuple[str, ...] = ()  # files and variables it came from, for the banner
    # each file that was read, secrets and certificates among them, with its state then: change time, size, inode
    # (config.source.Stamp)
    files: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    origins: tuple[tuple[str, str], ...] = ()  # (key path, file, variable or option that set it)
