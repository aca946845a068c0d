"""`[auth]` from tables to records: reads secrets and key files, checks keys, and roles against the routes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from budgateway.config.endpoint import key_url
from budgateway.config.problems import Problems, did_you_mean, shown
from budgateway.config.resolve import MAX_SECRET_BYTES, Resolver
from budgateway.config.schema_auth import AuthConfig, IssuerConfig, RoleConfig
from budgateway.config.source import KeyPath
from budgateway.jose.key import HMAC_BYTES, Key, KeySet, KeyUnfit
from budgateway.records import ADMIN, OWN_ISSUER, Auth, ClaimPaths, Issuer, Permission, Route, Secret, Tenant

DISCOVERY_PATH = "/.well-known/openid-configuration"  # OpenID Connect Discovery 1.0, 4
_SOURCES = ("secret", "public_key_file", "jwks_url", "discovery")


class AuthResolver:
    """Turns `[auth]` into its record. Notes every problem and continues."""

    def __init__(self, resolver: Resolver, routes: Sequence[Route]) -> None:
        self._resolver = resolver
        self._problems: Problems = resolver.problems
        self._routes = routes

    def auth(self, table: AuthConfig, *, has_store: bool) -> Auth:
        """Return the record, as far as it is valid. `has_store`: Redis is configured."""
        issuers = [self._issuer(index, entry, table) for index, entry in enumerate(table.issuers)]
        self._check_twice("issuers", "issuer", [entry.issuer for entry in table.issuers])
        self._check_twice("issuers", "name", [issuer.name for issuer in issuers])
        known = {role.name for role in table.roles} | {ADMIN}
        if table.roles:
            self._check_roles(table, known)
        return Auth(
            issuers=tuple(issuers),
            grants=tuple(self._grant(index, role) for index, role in enumerate(table.roles)),
            tenants=tuple(
                Tenant(name, tuple(tenant.roles), tuple(tenant.models)) for name, tenant in table.tenants.items()
            ),
            keys_file=self._keys_file(table),
            keys_in_redis=self._in_redis(table, has_store),
            leeway_s=table.clock_skew,
        )

    # ------------------------------------------------------------ issuers

    def _issuer(self, index: int, table: IssuerConfig, auth: AuthConfig) -> Issuer:
        here: KeyPath = ("auth", "issuers", index)
        algorithms = tuple(dict.fromkeys(table.algorithms)) or (("HS256",) if table.secret else ("RS256",))
        sources = [name for name in _SOURCES if getattr(table, name)]
        if len(sources) != 1 and not self._problems.within(here):
            found = f", not {' and '.join(sources)}" if sources else ""
            self._problems.add(here, f"needs one of {', '.join(_SOURCES)}{found}")
        # A public key used as a shared secret would let anyone sign tokens.
        elif sources and any((name in HMAC_BYTES) != (sources == ["secret"]) for name in algorithms):
            self._problems.add(
                (*here, "algorithms"),
                f"{', '.join(algorithms)} do not go with {sources[0]}: "
                "HS256, HS384 and HS512 take a secret, all others public keys, and never both",
            )
            algorithms = ()
        secret, public_keys = self._keys(here, table, algorithms)
        return Issuer(
            name=table.name or self._named(here, table.issuer),
            issuer=table.issuer,
            algorithms=algorithms,
            secret=secret,
            public_keys=public_keys,
            jwks_url=table.jwks_url or "",
            discovery_url=self._discovery(here, table),
            audience=tuple(name for name in table.audience if name != "*"),
            any_audience=self._takes_any(here, table),
            leeway_s=auth.clock_skew if table.clock_skew is None else table.clock_skew,
            refresh_s=table.refresh_interval,
            ca_file=(ca_file := self._resolver.authorities((*here, "tls_ca_file"), table.tls_ca_file)),
            ca=self._resolver.pem(ca_file),
            claims=ClaimPaths(**table.claims.model_dump()),
            tenant=table.tenant or "",
            roles=tuple(table.roles),
            group_roles=tuple((group, tuple(roles)) for group, roles in table.group_roles.items()),
        )

    def _keys(self, here: KeyPath, table: IssuerConfig, algorithms: Sequence[str]) -> tuple[Secret | None, str]:
        """Return the secret or the PEM text; note keys that do not fit the algorithms."""
        if table.secret is not None:
            path: KeyPath = (*here, "secret")
            secret = self._resolver.secret(path, table.secret)
            if secret is not None and algorithms:
                self._weigh(path, lambda: Key.from_secret(secret.reveal().encode(errors="surrogateescape"), algorithms))
            return secret, ""
        if table.public_key_file is not None:
            path = (*here, "public_key_file")
            file = self._resolver.file(path, table.public_key_file)
            try:
                text = Path(file).read_bytes()[:MAX_SECRET_BYTES].decode()
            except (OSError, ValueError):
                self._problems.add(path, f"cannot read {shown(table.public_key_file)}")
                return None, ""
            if algorithms:
                self._weigh(path, lambda: KeySet.from_pem(text, algorithms))
            return None, text
        return None, ""

    def _weigh(self, path: KeyPath, make: Callable[[], object]) -> None:
        try:
            make()
        except KeyUnfit as error:
            self._problems.add(path, str(error))

    def _named(self, here: KeyPath, issuer: str) -> str:
        """Return a name made of the issuer's host."""
        host = re.sub(r"^[a-z]+://", "", issuer).partition("/")[0]
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", host)[:64]
        if not name or name == OWN_ISSUER:
            self._problems.add((*here, "name"), f"is required, because none can be derived from {shown(issuer)}")
        return name

    def _discovery(self, here: KeyPath, table: IssuerConfig) -> str:
        if not table.discovery:
            return ""
        url = table.issuer.rstrip("/") + DISCOVERY_PATH
        try:
            key_url(url)
        except ValueError as error:
            self._problems.add((*here, "issuer"), f"discovery needs a URL: {error}")
        return url

    def _takes_any(self, here: KeyPath, table: IssuerConfig) -> bool:
        if "*" in table.audience and len(table.audience) > 1:
            self._problems.add((*here, "audience"), '"*" accepts every audience: leave out the others')
        if not table.audience:
            self._problems.add(
                (*here, "audience"), 'must name at least one; "*" also accepts tokens for other services'
            )
        return "*" in table.audience

    # ------------------------------------------------------------ roles and tenants

    def _grant(self, index: int, table: RoleConfig) -> Permission:
        """Return a role's rule. Route patterns are expanded to names, so that a name with a star in it stands only for
        itself."""
        here: KeyPath = ("auth", "roles", index)
        names: dict[str, None] = {}
        for number, pattern in enumerate(table.routes):
            matched = [route.name for route in self._routes if pattern == "*" or _is_meant(route, pattern)]
            if not matched and self._routes:
                known = [route.name for route in self._routes] + [route.path for route in self._routes]
                self._problems.add(
                    (*here, "routes", number), f"no route is called {shown(pattern)}{did_you_mean(pattern, known)}"
                )
            names.update(dict.fromkeys(matched))
        return Permission(
            role=table.name,
            routes=("*",) if "*" in table.routes else tuple(names),
            methods=("*",) if "*" in table.methods else tuple(table.methods),
            models=tuple(table.models),
            admin=tuple(table.admin),
        )

    def _check_roles(self, table: AuthConfig, known: set[str]) -> None:
        """Note roles that are granted but not defined."""
        given: list[tuple[KeyPath, str]] = []
        for index, issuer in enumerate(table.issuers):
            here: KeyPath = ("auth", "issuers", index)
            given += [((*here, "roles", number), role) for number, role in enumerate(issuer.roles)]
            for group, roles in issuer.group_roles.items():
                given += [((*here, "group_roles", group, number), role) for number, role in enumerate(roles)]
        for name, tenant in table.tenants.items():
            given += [(("auth", "tenants", name, "roles", number), role) for number, role in enumerate(tenant.roles)]
        for path, role in given:
            if role not in known:
                self._problems.add(path, f"no role {shown(role)}{did_you_mean(role, sorted(known))}")

    def _check_twice(self, table: str, key: str, values: Sequence[str]) -> None:
        first: dict[str, int] = {}
        for index, value in enumerate(values):
            before = first.setdefault(value, index)
            if value and before != index and not self._problems.within(("auth", table, index)):
                self._problems.add(("auth", table, index, key), f"{shown(value)} is {table}[{before}]'s already")

    # ------------------------------------------------------------ keys

    def _keys_file(self, table: AuthConfig) -> str:
        """Return the absolute path of a file that exists or can be created."""
        if table.keys_file is None:
            return ""
        path: KeyPath = ("auth", "keys_file")
        file = self._resolver.beside(path, table.keys_file)
        if file.is_dir() or not file.parent.is_dir():
            self._problems.add(path, f"cannot be a file: {shown(str(file))}")
        return str(file)

    def _in_redis(self, table: AuthConfig, has_store: bool) -> bool:
        """Return whether API keys are stored in Redis; note a problem when there is none."""
        path: KeyPath = ("auth", "key_store")
        if table.key_store == "redis" and table.keys_file is not None:
            self._problems.add(path, "keys_file contradicts it: keep one of the two")
        elif table.key_store == "redis" and not has_store and not self._problems.within(("redis",)):
            self._problems.add(path, 'is "redis", but Redis is not configured: write [redis] url = "env:REDIS_URL"')
        elif table.key_store == "file" and table.keys_file is None:
            self._problems.add(path, 'is "file", but keys_file names none')
        return table.key_store == "redis"


def _is_meant(route: Route, pattern: str) -> bool:
    """Return whether a role's pattern matches a route, by name or by path."""
    if pattern == route.name or (pattern.startswith("/") and pattern == route.path):
        return True
    glob = re.compile("".join(".*" if char == "*" else "." if char == "?" else re.escape(char) for char in pattern))
    return bool(glob.fullmatch(route.path if pattern.startswith("/") else route.name))


def authenticates(table: AuthConfig) -> bool:
    """Return whether any way to authenticate clients is configured."""
    return bool(table.jwt_secret or table.issuers or table.keys_file or table.key_store)
