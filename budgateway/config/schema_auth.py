"""The operator's words for who may ask and what they may do: `[auth]`, its issuers, roles and tenants."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from budgateway.config.endpoint import key_url
from budgateway.config.problems import did_you_mean, shown
from budgateway.config.types import Methods, SecretRef, Table, Text, Texts, one_or_many

Algorithm = Literal[
    "HS256", "HS384", "HS512",
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)


def algorithm(value: str) -> str:
    """An algorithm of RFC 7518 or 8037; `none` is no algorithm."""
    if value not in ALGORITHMS:
        raise ValueError(
            f"no such algorithm {shown(value)}: one of {', '.join(ALGORITHMS)}{did_you_mean(value.upper(), ALGORITHMS)}"
        )
    return value


Algorithms = Annotated[
    list[Annotated[str, AfterValidator(algorithm)]],
    BeforeValidator(one_or_many, json_schema_input_type=Algorithm | list[Algorithm]),
]
KeyUrl = Annotated[str, AfterValidator(key_url)]
ClaimPath = Annotated[Text, Field(max_length=256)]
Leeway = Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)]


class ClaimsConfig(Table):
    """Names of the claims that are read from tokens; `a.b` is the claim `b` inside the claim `a`."""

    user: ClaimPath = "sub"
    """The principal, which limits count by."""
    tenant: ClaimPath = "tenant"
    """The tenant."""
    roles: ClaimPath = "roles"
    """Roles: a list, or a string that is one role; `scope`, `scopes` and `scp` are separated by spaces."""
    groups: ClaimPath = "groups"
    """Groups, which `group_roles` maps to roles."""
    models: ClaimPath = "models"
    """Models the token may use, names or globs; without the claim, those that its roles allow."""


class IssuerConfig(Table):
    """A trusted token issuer and its keys."""

    issuer: Text
    """The exact `iss` of its tokens."""
    audience: Texts
    """Accepted values of a token's `aud`; `*` also accepts tokens issued for other services."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    """Name in principals and logs; default: the issuer's host."""
    algorithms: Algorithms = []
    """Signature algorithms; default RS256, with `secret` HS256. HS algorithms cannot be combined with others."""
    secret: SecretRef | None = None
    """Reference to the shared secret, for HS256 (32 bytes or more), HS384 (48) and HS512 (64)."""
    public_key_file: Text | None = None
    """Public keys or certificates, PEM."""
    jwks_url: KeyUrl | None = None
    """URL of the JWK Set, which is refreshed regularly."""
    discovery: bool = False
    """Find the key set by OpenID Connect discovery: `<issuer>/.well-known/openid-configuration`."""
    refresh_interval: Annotated[float, Field(ge=10, le=86_400, allow_inf_nan=False)] = 300
    """Seconds between refreshes of the key set."""
    tls_ca_file: Text | None = None
    """Certificate authorities to trust instead of the system's when fetching the key set, PEM."""
    clock_skew: Leeway | None = None
    """Seconds by which the issuer's clock may differ; default: that of [auth]."""
    tenant: Text | None = None
    """The tenant of all its tokens; overrides their claim."""
    roles: Texts = []
    """Roles that every token of this issuer has."""
    group_roles: dict[Text, Texts] = {}
    """Group = the roles it grants."""
    claims: ClaimsConfig = ClaimsConfig()
    """Names of the claims to read."""


class RoleConfig(Table):
    """Permissions of a role. A role with several rules has several tables of the same name."""

    name: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,128}$")]
    """Name of the role in tokens and keys."""
    routes: Texts = ["*"]
    """Routes by name, or by path if it begins with `/`; globs; default: all."""
    methods: Methods = ["*"]
    """Methods; default: all."""
    models: Texts = ["*"]
    """Models as clients name them; globs; default: all."""
    admin: Texts = []
    """Allowed actions of the admin endpoints: `read`, `metrics`, `keys`, `reload-config` ...; `*` for all."""


class TenantConfig(Table):
    """Settings for all principals of a tenant."""

    roles: Texts = []
    """Roles of principals that have none."""
    models: Texts = []
    """Upper bound of the models its principals may use; default: those that their roles allow."""


class AuthConfig(Table):
    """Authentication and authorization."""

    jwt_secret: SecretRef | None = None
    """Reference to the HS256 secret of the gateway's own tokens (at least 32 bytes); JWT_SECRET overrides it."""
    jwt_expiration: Annotated[int, Field(ge=1, le=315_360_000)] = 3600
    """Lifetime in seconds of tokens issued by this gateway."""
    clock_skew: Leeway = 30
    """Seconds by which an issuer's clock may differ."""
    keys_file: Text | None = None
    """File of API keys (`budgateway keys`), created with the first key; a relative path is relative to this file."""
    key_store: Literal["file", "redis"] | None = None
    """Storage of API keys: `file` (`keys_file`), or `redis`, which several gateways share. Default: the file, if one is set."""
    issuers: list[IssuerConfig] = []
    """Trusted token issuers, in addition to the gateway itself."""
    roles: list[RoleConfig] = []
    """Permissions of roles; without any, every authenticated principal may use every route."""
    tenants: dict[Text, TenantConfig] = {}
    """Settings of tenants, by name."""
