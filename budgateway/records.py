"""The nouns: frozen records that the configuration becomes, parsed at the edge and trusted inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from budgateway.pem import Pem
    from budgateway.wire.cors import Cors

LoadBalancer = Literal["round_robin", "weighted", "least_connections", "random", "power_of_two", "least_load"]
OnStoreFailure = Literal["local", "open", "closed"]
ProviderKind = Literal["openai", "vllm", "sglang", "litellm"]

# What a route may take. TRACE and CONNECT are refused by the front door whatever it says (RELIABILITY 3.8).
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# RFC 9110 9.2.2.
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})

# POSTs that compute and store nothing worth keeping apart: sending one twice costs tokens, not correctness.
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
        # engines' own
        "/generate",
        "/rerank",
        "/score",
        "/classify",
        "/pooling",
        "/tokenize",
        "/detokenize",
    }
)


# The role that may do everything, unless the configuration says otherwise of it.
ADMIN = "admin"
# The issuer of tokens under JWT_SECRET, which need not say who made them.
OWN_ISSUER = "own"


class Secret:
    """A value that never shows: repr, str and format say `***`; `reveal()` is the one way out."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one line that sends or verifies it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


class Usage(NamedTuple):
    """Tokens of one exchange, as the upstream reported them."""

    tokens_in: int
    tokens_out: int
    tokens_cached: int
    tokens_reasoning: int


MAX_FILL_S = 500_000_000  # 16 years, that a burst may take to fill: the native core counts up to 18


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one key, token, user or tenant may use. 0: no limit of that kind of its own."""

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
        """Seconds that its burst takes to fill, at the slowest of the rates that it goes for."""
        if self.requests_per_minute:
            return self.burst * 60 / self.requests_per_minute
        slow = ((self.requests_per_hour, 3600), (self.requests_per_day, 86_400))
        return max((self.burst * period_s / amount for amount, period_s in slow if amount), default=0.0)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking. `id` is what limits count by: a JWT subject, a key's name, or the client's address."""

    id: str
    tenant: str = ""
    roles: tuple[str, ...] = ()
    anonymous: bool = True
    groups: tuple[str, ...] = ()
    models: tuple[str, ...] = ()  # exact names or globs; empty: whatever its roles allow
    key: str = ""  # the API key's id, where one was used
    allowance: Allowance | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines of an exchange in seconds, all running from its first byte except `chunk_s`, which runs between two."""

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
    """How upstreams are asked whether they are well, and what else is read on the way."""

    path: str = "/health"
    interval_s: float = 30.0
    timeout_s: float = 5.0
    healthy_threshold: int = 2
    unhealthy_threshold: int = 3
    statuses: tuple[tuple[int, int], ...] = ((200, 299),)  # of a good answer: first and last
    body: str = ""  # what a good answer holds
    generate_model: str = ""  # have it compute a token instead
    load_paths: tuple[str, ...] = ()  # where the engine tells its load; the first that answers is kept to


@dataclass(frozen=True, slots=True)
class Provider:
    """A named group of upstreams and how to speak to them."""

    name: str
    kind: ProviderKind
    upstreams: tuple[Upstream, ...]
    label: str = ""  # `name =` in the table: for people
    api_key: Secret | None = None
    headers: tuple[tuple[str, Secret], ...] = ()  # sent with every request, values may be secret
    forward_headers: tuple[str, ...] = ()  # additions to the allow list towards the upstream, lower case
    models: tuple[str, ...] = ()  # what it serves, as the operator lists it; empty: asked of the upstream
    aliases: tuple[tuple[str, str], ...] = ()  # (what clients say, what the upstream is told)
    strip_prefix: str = ""  # removed from the request path before the upstream's own path is put in front
    strip_model_prefix: str = ""  # `vllm/`: removed from the model's name, unless the whole name is an alias
    stream_usage: bool = True  # its streams are asked for their usage, whether or not the client asks
    health_check: HealthCheck | None = None  # none: nobody asks its upstreams how they are
    slow_start_s: float = 10.0  # until an upstream that comes back has its whole share; 0: at once
    connect_timeout_s: float = 2.0
    keepalive_s: float = 4.0  # vLLM and SGLang close at 5 s
    max_idle: int = 512  # idle connections kept to each upstream, per worker
    max_queue: int = 1024  # exchanges that wait while every upstream is at its limit, all workers together
    queue_timeout_s: float = 10.0
    tls_verify: bool = True
    tls_ca_file: str = ""
    tls_ca: Pem | None = field(default=None, compare=False)  # what it held when the configuration was read
    hold_bytes: int = 64 * 1024  # of an answer, held until it has shown that it is one; 0: passed on at once
    first_event_s: float = 0.0  # a stream's first event; then another upstream is asked. 0: half of the route's timeout

    def upstream_model(self, model: str) -> str:
        """What the upstream is told for what the client said: an alias of the whole name wins; else the prefix goes, and
        what is left may be an alias. Not for the hot path, which keeps the answer by model."""
        aliases = dict(self.aliases)
        if model in aliases:
            return aliases[model]
        bare = model.removeprefix(self.strip_model_prefix) or model
        return aliases.get(bare, bare)


FallbackReason = Literal["error", "429", "5xx", "context_length"]


@dataclass(frozen=True, slots=True)
class Fallback:
    """Where a route's exchanges go when its provider fails them."""

    provider: str
    model: str = ""  # what its upstreams are told; "": as its own settings have it


@dataclass(frozen=True, slots=True)
class Hedge:
    """When a second upstream is asked beside one that is slow to answer: after so long, or when so many percent of late had
    begun to answer; with both, whichever is later."""

    after_s: float = 0.0
    percentile: int = 0  # 0: after_s alone


@dataclass(frozen=True, slots=True)
class Retries:
    """When an exchange whose client has heard nothing yet is tried again."""

    max_attempts: int = 3  # on each provider
    statuses: tuple[int, ...] = (429, 502, 503, 504)  # answers that another upstream may better
    max_retry_after_s: float = 2.0  # a longer wait is the client's
    fallbacks: tuple[Fallback, ...] = ()
    fallback_on: tuple[FallbackReason, ...] = ("error", "429", "5xx")
    hedge: Hedge | None = None


@dataclass(frozen=True, slots=True)
class RetryLimit:
    """How many exchanges of a provider may be tried again: a share of them, and a few on top."""

    percent: int = 20
    reserve: int = 3


@dataclass(frozen=True, slots=True)
class WebSocket:
    """How a route's WebSockets may be used."""

    idle_s: float = 300.0  # without a byte either way, pings included; or without one of the peers reading
    max_message_bytes: int = 16 << 20  # OpenAI's realtime events carry up to 15 MiB of audio
    compression: bool = True  # permessage-deflate may be agreed upon between the two ends


@dataclass(frozen=True, slots=True)
class Canary:
    """A provider that is tried with a part of a route's traffic."""

    provider: str
    share: float = 0.0  # of the route's requests, 0 to 1
    header: str = ""  # lower case; requests with it go there whatever the share
    value: str = ""  # what it must say; empty: anything


@dataclass(frozen=True, slots=True)
class Mirror:
    """A provider that gets copies of a route's requests; its answers go nowhere."""

    provider: str
    share: float = 1.0
    max_in_flight: int = 16  # copies under way at once, per worker
    max_body_bytes: int = 1 << 20
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Maintenance:
    """A route's requests are refused."""

    message: str
    retry_after_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Route:
    """Match -> provider and settings. Empty match fields match everything."""

    name: str
    path: str
    provider: str
    host: str = ""
    methods: tuple[str, ...] = ()
    models: tuple[str, ...] = ()  # exact names, `prefix*`, or globs
    headers: tuple[tuple[str, str], ...] = ()  # (lower-case name, value or glob); all must match
    priority: int = 0
    load_balancer: LoadBalancer = "round_robin"
    rate_limit: int = 0  # requests per minute and client; 0: none of its own
    rate_burst: int = 0  # 0: the same as rate_limit's tenth, at least 1
    auth_required: bool = True
    timeouts: Timeouts = field(default_factory=Timeouts)
    max_body_bytes: int = 10 * 1024 * 1024
    replay_safe: bool = False
    replay_inference: bool = False  # replay-safe for INFERENCE_PATHS besides: the operator left the choice to us
    cache_ttl_s: int = 0
    websocket: WebSocket | None = None  # it answers WebSocket handshakes, and nothing else
    split: tuple[tuple[str, int], ...] = ()  # providers and weights; `provider` is the one with the largest
    canary: Canary | None = None
    pin_by: str = ""  # "user", "key" or "header:name": what keeps requests together at one provider and upstream
    mirror: Mirror | None = None
    maintenance: Maintenance | None = None
    retries: Retries = field(default_factory=Retries)
    stream_keepalive_s: float = 0.0  # a comment in a stream that is silent for so long; 0: none
    cors: Cors | None = None  # pages of other origins; None: none

    def answerers(self) -> tuple[str, ...]:
        """The providers that may answer: those of the split, then the canary's."""
        names = tuple(name for name, _ in self.split) or (self.provider,)
        return names if self.canary is None else (*names, self.canary.provider)

    def holds(self) -> tuple[str, ...]:
        """The providers of which one is enough to answer: those of the split, and fallbacks that are gone to when there is
        nobody. Not the canary's, which is there for a part."""
        fallbacks = self.retries.fallbacks if "error" in self.retries.fallback_on else ()
        shares = [name for name, weight in self.split if weight] or [self.provider]
        return (*shares, *(fallback.provider for fallback in fallbacks))

    def leads_to(self) -> tuple[str, ...]:
        """Every provider that it sends anything to."""
        names = (*self.answerers(), *(fallback.provider for fallback in self.retries.fallbacks))
        return names if self.mirror is None else (*names, self.mirror.provider)

    def replays(self, method: str, path: str) -> bool:
        """Whether a request may be sent twice (RELIABILITY 2.2). `path` is the client's, without the query; whatever
        stands before its last `/v1/` does not matter."""
        if method in IDEMPOTENT_METHODS or self.replay_safe:
            return True
        return self.replay_inference and (
            path in INFERENCE_PATHS or path[max(path.rfind("/v1/"), 0) :] in INFERENCE_PATHS
        )


@dataclass(frozen=True, slots=True)
class Match:
    """A route found: the route, the path's parameters and why it won."""

    route: Route
    provider: str
    params: dict[str, str]
    reason: str


@dataclass(frozen=True, slots=True)
class Tls:
    """The listener's certificate: by file, and what the files held when the configuration was read."""

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
    """Limits for whomever the selectors choose (empty: everybody), counted apart for each combination of `by` (empty: all
    together). Names in `routes` and `models` may be globs."""

    name: str
    by: tuple[Literal["user", "key", "tenant", "model", "route", "address"], ...]
    allowance: Allowance
    routes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """How limits behave, whatever they are."""

    headers: bool = True  # tell clients how they stand
    output_tokens: int = 1024  # what an answer is taken to need when its request does not say
    queue_size: int = 1000  # exchanges that wait for a lease, a worker; 0: none does
    queue_timeout_s: float = 5.0
    state_file: str = ""  # where budgets and long rates are kept over a restart; empty: nowhere
    ipv6_prefix: int = 64  # bits of an IPv6 address that say whose it is


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What a model's tokens cost, in dollars for a million. `model` is a name or a glob: what clients say or, where a
    provider is named, what that one is told."""

    model: str
    input: float
    output: float
    cached: float
    provider: str = ""
    max_output_tokens: int = 0  # the most it writes; 0: unknown


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When an upstream is given a rest."""

    failure_threshold: int = 5
    open_s: float = 60.0
    half_open_max_calls: int = 3
    failure_ratio: float = 0.0  # 0: failures in a row alone open it
    minimum_calls: int = 20
    window_s: float = 30.0


@dataclass(frozen=True, slots=True)
class OutlierSettings:
    """When an upstream is passed over for a while."""

    consecutive_failures: int = 5
    ejection_s: float = 10.0
    max_ejection_s: float = 300.0
    max_percent: int = 50


@dataclass(frozen=True, slots=True)
class StoreNode:
    """Where a Redis, a Sentinel or a node of a cluster listens."""

    host: str
    port: int
    path: str = ""  # a unix socket, in place of both

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Redis: where it is, who we are to it, and how long anybody waits for it."""

    host: str = "127.0.0.1"
    port: int = 6379
    path: str = ""  # a unix socket, in place of host and port
    database: int = 0
    username: str = ""
    password: Secret | None = None
    namespace: str = "budgateway"  # gateways of one name share their limits; also the cluster's hash tag
    cluster: bool = False
    nodes: tuple[StoreNode, ...] = ()  # more places to ask about the cluster
    sentinels: tuple[StoreNode, ...] = ()
    master: str = "mymaster"  # as the Sentinels call it
    sentinel_username: str = ""
    sentinel_password: Secret | None = None
    tls: bool = False
    tls_verify: bool = True
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    tls_ca: Pem | None = field(default=None, compare=False)
    tls_pair: tuple[Pem, Pem] | None = field(default=None, compare=False)  # of certificate and key
    timeout_s: float = 0.005  # RELIABILITY L2: what a slow Redis may add to a request
    connect_timeout_s: float = 1.0
    pool_size: int = 20  # connections of all processes together
    max_connections: int = 100
    mode: Literal["exact", "leased"] = "exact"
    lease_share: float = 0.01  # of a limit, that a worker holds in leased mode
    replicas: int = 1  # gateways that share the limits: what one of them may admit alone is a part
    on_failure: tuple[tuple[str, OnStoreFailure], ...] = ()  # (feature, what then); else local


@dataclass(frozen=True, slots=True)
class ClaimPaths:
    """Where a token says what: names of claims, dotted for a claim inside another (`realm_access.roles`)."""

    user: str = "sub"
    tenant: str = "tenant"
    roles: str = "roles"
    groups: str = "groups"
    models: str = "models"


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who makes tokens that we believe, and with which keys: exactly one of the four sources is set."""

    name: str  # ours, in principals and logs
    issuer: str  # what `iss` must be; empty: not looked at (JWT_SECRET's own)
    algorithms: tuple[str, ...]
    secret: Secret | None = None
    public_keys: str = ""  # PEM
    jwks_url: str = ""
    discovery_url: str = ""  # OpenID Connect's document, which says where the key set is
    audience: tuple[str, ...] = ()
    any_audience: bool = False  # tokens for other services are as good: the operator said so
    leeway_s: float = 30.0  # between its clock and ours
    refresh_s: float = 300.0  # between two readings of its key set
    ca_file: str = ""  # authorities to trust when asking for it
    ca: Pem | None = field(default=None, compare=False)  # what it held when the configuration was read
    claims: ClaimPaths = field(default_factory=ClaimPaths)
    tenant: str = ""  # of all its tokens, whatever they say
    roles: tuple[str, ...] = ()  # that each of its tokens has
    group_roles: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (group, the roles that it brings)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a role may do: routes by name (`*` for all), methods and models by name or glob, operations of the admin API."""

    role: str
    routes: tuple[str, ...] = ("*",)
    methods: tuple[str, ...] = ("*",)
    models: tuple[str, ...] = ("*",)
    admin: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tenant:
    """What goes for all principals of a tenant. Its models narrow theirs; its roles are for those who have none."""

    name: str
    roles: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as it is kept: never its secret, only the SHA-256 of it. Times in seconds since the epoch, 0 for none."""

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
    old_digest: str = ""  # of the secret before the last rotation,
    old_until_s: float = 0.0  # which is still good until then


@dataclass(frozen=True, slots=True)
class Auth:
    """Who is believed, and who may do what. Without grants every known principal may use every route."""

    issuers: tuple[Issuer, ...] = ()
    grants: tuple[Grant, ...] = ()
    tenants: tuple[Tenant, ...] = ()
    keys_file: str = ""  # API keys; empty: none are kept there
    keys_in_redis: bool = False  # but in the store
    leeway_s: float = 30.0  # between our clock and that of another gateway under the same JWT_SECRET


@dataclass(frozen=True, slots=True)
class Settings:
    """One whole configuration, validated: what `load_config` returns and every process is built from."""

    host: str = "0.0.0.0"
    port: int = 8080
    workers: int = 1
    tls: Tls | None = None
    max_connections: int = 10_000  # open downstream connections, per gateway
    keepalive_s: float = 75.0  # idle downstream connections
    head_timeout_s: float = 10.0
    max_body_bytes: int = 10 * 1024 * 1024
    drain_s: float = 300.0
    settle_s: float = 5.0  # not ready, but still accepting: until balancers in front have noticed
    watch: bool = False  # reload when the files change
    cpu_affinity: bool = False  # a core for each worker
    spare_worker: bool = True  # a process that waits to take a dead worker's place
    worker_timeout_s: float = 30.0  # a worker whose event loop stands still for so long is replaced; 0: never
    disclose: bool = True  # x-budgateway-* response headers
    trusted_proxies: tuple[str, ...] = ()
    log_level: str = "INFO"
    access_log: str = "stdout"  # stdout, stderr, off, or a file's path
    metrics_enabled: bool = True
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9090  # 0: none of its own
    rate_limit: RateLimit | None = None
    limit_rules: tuple[LimitRule, ...] = ()
    limits: LimitSettings = field(default_factory=LimitSettings)
    prices: tuple[ModelPrice, ...] = ()  # the first that matches counts
    breaker: BreakerSettings | None = None
    outliers: OutlierSettings | None = None
    panic_percent: int = 50  # with fewer of a provider's upstreams available, doubtful ones are used, too
    store: StoreSettings | None = None
    retry_limit: RetryLimit = field(default_factory=RetryLimit)
    cors: Cors | None = None  # where no route says otherwise
    jwt_secret: Secret | None = None
    jwt_expiration_s: int = 3600
    auth: Auth = field(default_factory=Auth)
    providers: tuple[Provider, ...] = ()
    routes: tuple[Route, ...] = ()
    notices: tuple[str, ...] = ()  # accepted but without effect in this version; printed at start
    sources: tuple[str, ...] = ()  # files and variables it came from, for the banner
    # each file that was read, secrets and certificates among them, as it was: change time, size, inode (config.source.Stamp)
    files: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    origins: tuple[tuple[str, str], ...] = ()  # (key path, file, variable or option that set it)
