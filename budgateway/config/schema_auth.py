"""The operator's words for who may ask and what they may do: `[auth]`, its issuers, roles and tenants."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from budgateway.config.endpoint import key_url
from budgateway.config.problems import did_you_mean, shown
from budgateway.config.words import Methods, SecretRef, Table, Text, Texts, one_or_many

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
    """Which claims say what; `a.b` is the claim `b` inside the claim `a`."""

    user: ClaimPath = "sub"
    """Who it is: what limits count by."""
    tenant: ClaimPath = "tenant"
    """The tenant."""
    roles: ClaimPath = "roles"
    """Roles: a list, or a text that is one; `scope`, `scopes` and `scp` are words between blanks."""
    groups: ClaimPath = "groups"
    """Groups, which `group_roles` makes roles of."""
    models: ClaimPath = "models"
    """Models it may use, names or globs; without the claim whatever its roles allow."""


class IssuerConfig(Table):
    """Who makes tokens that are believed, and with which keys."""

    issuer: Text
    """What a token's `iss` must be, to the letter."""
    audience: Texts
    """What a token's `aud` must name, one of these; `*` believes tokens that were made for other services, too."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    """Its name in principals and logs; default the issuer's host."""
    algorithms: Algorithms = []
    """How its tokens are signed; default RS256, with `secret` HS256. HS and the others never go together."""
    secret: SecretRef | None = None
    """Where the shared secret is, for HS256 (32 bytes or more), HS384 (48) and HS512 (64)."""
    public_key_file: Text | None = None
    """Its public keys or certificates, PEM."""
    jwks_url: KeyUrl | None = None
    """Its key set (JWK Set), read again and again."""
    discovery: bool = False
    """Find the key set by OpenID Connect discovery: `<issuer>/.well-known/openid-configuration`."""
    refresh_interval: Annotated[float, Field(ge=10, le=86_400, allow_inf_nan=False)] = 300
    """Seconds between two readings of the key set."""
    tls_ca_file: Text | None = None
    """Authorities to trust instead of the system's when reading it, PEM."""
    clock_skew: Leeway | None = None
    """Seconds by which its clock may be off; default that of [auth]."""
    tenant: Text | None = None
    """The tenant of all its tokens, whatever they say."""
    roles: Texts = []
    """Roles that each of its tokens has."""
    group_roles: dict[Text, Texts] = {}
    """Group = the roles that it brings."""
    claims: ClaimsConfig = ClaimsConfig()
    """Which claims say what."""


class RoleConfig(Table):
    """What a role may do. A role that needs several rules is written several times."""

    name: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,128}$")]
    """What tokens and keys call it."""
    routes: Texts = ["*"]
    """Routes by name, or by path when it begins with `/`; globs; default all."""
    methods: Methods = ["*"]
    """Methods; default all."""
    models: Texts = ["*"]
    """Models as clients say them; globs; default all."""
    admin: Texts = []
    """What it may do in the back office: `read`, `metrics`, `keys`, `reload-config` ...; `*` for everything."""


class TenantConfig(Table):
    """What goes for everybody of a tenant."""

    roles: Texts = []
    """Roles of those who have none of their own."""
    models: Texts = []
    """Models that its members may use at all; default whatever their roles allow."""


class AuthConfig(Table):
    """Who may ask, and what they may do."""

    jwt_secret: SecretRef | None = None
    """Where the HS256 secret of the gateway's own tokens is (at least 32 bytes); JWT_SECRET in the environment wins."""
    jwt_expiration: Annotated[int, Field(ge=1, le=315_360_000)] = 3600
    """Seconds a token made by this gateway is good for."""
    clock_skew: Leeway = 30
    """Seconds by which an issuer's clock may be off."""
    keys_file: Text | None = None
    """API keys (`budgateway keys`); relative to the file that names it, made when the first key is."""
    key_store: Literal["file", "redis"] | None = None
    """Where API keys are: in `keys_file`, or in Redis, where several gateways share them. Default: the file, if one is named."""
    issuers: list[IssuerConfig] = []
    """Whose tokens are believed, besides the gateway's own."""
    roles: list[RoleConfig] = []
    """What roles may do; without any, every known principal may use every route."""
    tenants: dict[Text, TenantConfig] = {}
    """What goes for everybody of a tenant, by its name."""
