"""Roles: which routes and models a principal may use, and which admin operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import NamedTuple

from budgateway.records import ADMIN, Auth, Permission, Principal, Route, Tenant

MAX_DECISIONS = 256  # cached per profile; bounded, because clients choose the model's name
MAX_PROFILES = 1024
MAX_CLASSES = 4096
MAX_MODEL_CHARS = 256  # a longer name matches no glob except `*`
_BUILT_IN = Permission(role=ADMIN, admin=("*",))


class Decision(NamedTuple):
    """An authorization result, and its reason. `of_model`: the route would be allowed with another model."""

    allowed: bool
    why: str
    of_model: bool = False


class Patterns:
    """Name patterns, with `*` for any characters and `?` for one."""

    __slots__ = ("_any", "_exact", "_globs", "text")

    def __init__(self, patterns: Sequence[str]) -> None:
        self.text = ", ".join(patterns)
        self._any = "*" in patterns
        self._globs = [pattern for pattern in patterns if "*" in pattern or "?" in pattern]
        self._exact = frozenset(patterns) - frozenset(self._globs)

    @property
    def takes_all(self) -> bool:
        """True when `*` is one of the patterns."""
        return self._any

    def match(self, name: str) -> bool:
        """True when a name matches one of the patterns."""
        if self._any or name in self._exact:
            return True
        return len(name) <= MAX_MODEL_CHARS and any(fits(pattern, name) for pattern in self._globs)

    def takes(self, model: str | None) -> bool:
        """Match a request's model. Without a model ("") there is nothing to restrict. When the body hides it (None) it
        may be any, so only a principal that may use all models passes."""
        return self._any or (model == "" or (model is not None and self.match(model)))


class Profile:
    """The permissions of principals with the same roles, tenant and models. `known` caches decisions for the caller."""

    __slots__ = ("_narrowings", "_permissions", "_roles", "known")

    def __init__(
        self,
        roles: tuple[str, ...],
        permissions: Sequence[_Compiled] | None,
        narrowings: Sequence[tuple[str, Patterns]],
    ) -> None:
        """`permissions` None: none are configured, and everything is granted."""
        self._roles = roles
        self._permissions = permissions
        self._narrowings = narrowings
        self.known: dict[tuple[str, str, str | None], Decision] = {}

    def may(self, route: str, method: str, model: str | None) -> Decision:
        """Decide whether a route may be used with a model: "" for no model, None for one that cannot be seen."""
        if model is not None and len(model) > MAX_MODEL_CHARS:
            return self._decide(route, method, model)
        key = (route, method, model)
        decision = self.known.get(key)
        if decision is None:
            if len(self.known) >= MAX_DECISIONS:
                self.known.clear()
            decision = self.known[key] = self._decide(route, method, model)
        return decision

    def _decide(self, route: str, method: str, model: str | None) -> Decision:
        named = "a model that the gateway cannot see" if model is None else f"the model '{model[:MAX_MODEL_CHARS]}'"
        for whose, patterns in self._narrowings:
            if not patterns.takes(model):
                return Decision(False, f"{whose} allows the models {patterns.text or '(none)'}, not {named}", True)
        if self._permissions is None:
            return Decision(True, "no roles are configured: every authenticated principal may use every route")
        almost = ""
        for permission in self._permissions:
            if permission.covers(route, method):
                if permission.models.takes(model):
                    return Decision(True, f"granted by the role '{permission.role}'")
                almost = f"the role '{permission.role}' allows the models {permission.models.text}, not {named}"
        if almost:
            return Decision(False, almost, True)
        if not self._roles:
            return Decision(False, "it has no roles")
        return Decision(False, f"none of its roles ({', '.join(self._roles)}) has {method} on the route '{route}'")

    def may_operate(self, action: str) -> Decision:
        """Decide whether an admin action is allowed."""
        granted = [permission.role for permission in self._permissions or () if permission.admin.match(action)]
        if self._permissions is None and ADMIN in self._roles:
            granted = [ADMIN]
        if granted:
            return Decision(True, f"granted by the role '{granted[0]}'")
        has = f"its roles are {', '.join(self._roles)}" if self._roles else "it has no roles"
        return Decision(False, f"{has}, and none of them has the admin action '{action}'")

    def may_do_everything(self) -> bool:
        """True when every admin operation is allowed, including future ones."""
        if self._permissions is None:
            return ADMIN in self._roles
        return any(permission.admin.takes_all for permission in self._permissions)


class PrincipalClass:
    """Principals that no decision tells apart, except by counting each of them: their requests have the same
    permissions, and the same limits. Plans are made for classes, so that their number does not grow with the users'.

    `number` is never used again in this process' life; 0 stands for requests without a principal."""

    __slots__ = ("allowance", "models", "number", "profile", "roles")

    def __init__(self, number: int, principal: Principal, profile: Profile) -> None:
        self.number = number
        self.profile = profile
        self.roles = principal.roles
        self.models = principal.models
        self.allowance = principal.allowance


class Roles:
    """The permissions of one configuration, and the profile that results for each principal."""

    def __init__(self, auth: Auth, limited_tenants: Iterable[str] = ()) -> None:
        """`limited_tenants`: the tenants with limits of their own."""
        permissions = auth.grants
        if permissions and not any(permission.role == ADMIN for permission in permissions):
            permissions = (*permissions, _BUILT_IN)
        self._permissions = [_Compiled(permission) for permission in permissions] if permissions else None
        self._tenants = {tenant.name: tenant for tenant in auth.tenants}
        self._profiles: dict[tuple[tuple[str, ...], str, tuple[str, ...]], Profile] = {}
        # Tenants that make a difference; all others are alike.
        self.tenants = frozenset((*self._tenants, *limited_tenants))
        self._classes: dict[tuple[object, ...], PrincipalClass] = {}
        self._numbers = count(1)

    def class_of(self, principal: Principal) -> PrincipalClass:
        """Return a principal's class."""
        tenant = principal.tenant if principal.tenant in self.tenants else ""
        key = (principal.roles, tenant, principal.models, principal.allowance, principal.key != "")
        found = self._classes.get(key)
        if found is None:
            if len(self._classes) >= MAX_CLASSES:
                self._classes.clear()
            found = PrincipalClass(next(self._numbers), principal, self.profile(principal))
            self._classes[key] = found
        return found

    def profile(self, principal: Principal) -> Profile:
        """Return a principal's permissions; principals with equal permissions share one object."""
        key = (principal.roles, principal.tenant if principal.tenant in self._tenants else "", principal.models)
        found = self._profiles.get(key)
        if found is None:
            if len(self._profiles) >= MAX_PROFILES:
                self._profiles.clear()
            found = self._profiles[key] = self._made(*key)
        return found

    def effective(self, roles: tuple[str, ...], tenant: str) -> tuple[str, ...]:
        """Return the roles that count: a principal's own, else its tenant's."""
        return roles or self._tenants.get(tenant, Tenant("")).roles

    def _made(self, roles: tuple[str, ...], tenant: str, models: tuple[str, ...]) -> Profile:
        its = self._tenants.get(tenant, Tenant(""))
        roles = self.effective(roles, tenant)
        narrowings = []
        if models:
            narrowings.append(("its credential", Patterns(models)))
        if its.models:
            narrowings.append((f"the tenant '{tenant}'", Patterns(its.models)))
        mine = (
            None
            if self._permissions is None
            else [permission for permission in self._permissions if permission.role in roles]
        )
        return Profile(roles, mine, narrowings)


class _Compiled:
    """A permission, compiled for matching."""

    __slots__ = ("_routes", "admin", "methods", "models", "role")

    def __init__(self, permission: Permission) -> None:
        self.role = permission.role
        self._routes = frozenset(permission.routes)
        self.methods = Patterns(permission.methods)
        self.models = Patterns(permission.models)
        self.admin = Patterns(permission.admin)

    def covers(self, route: str, method: str) -> bool:
        """True when the permission is for a route, by its name, and a method. Routes are not matched as globs, because
        a name may contain a star."""
        return ("*" in self._routes or route in self._routes) and self.methods.match(method)


def admin_action(method: str, path: str) -> str:
    """Return an admin request's action as a permission's `admin` names it: `read`, or the operation's name."""
    operation = path.removeprefix("/admin/").partition("/")[0]
    # Reading everything else does not include the list of keys.
    return "read" if method in ("GET", "HEAD") and operation != "keys" else operation


class Visibility:
    """The models that a principal may see: those that some route would accept from it."""

    def __init__(self, roles: Roles, routes: Iterable[Route]) -> None:
        self._roles = roles
        self._routes: dict[str, list[tuple[Route, Patterns, str]]] = {}
        for route in routes:
            # Clients list models in order to POST to them.
            method = "POST" if not route.methods or "POST" in route.methods else route.methods[0]
            entry = (route, Patterns(route.models or ("*",)), method)
            # A fallback with a model of its own does not serve the requested one.
            fallbacks = (one.provider for one in route.retries.fallbacks if not one.model)
            for provider in dict.fromkeys((*route.answerers(), *fallbacks)):
                self._routes.setdefault(provider, []).append(entry)

    def shows(self, principal: Principal | None, provider: str, model: str) -> bool:
        """True when the principal may use a provider's model on any route; None is a request without a credential."""
        for route, patterns, method in self._routes.get(provider, ()):
            if not patterns.match(model):
                continue
            if not route.auth_required:
                return True
            if principal is not None and self._roles.profile(principal).may(route.name, method, model).allowed:
                return True
        return False


def fits(pattern: str, name: str) -> bool:
    """True when a name matches a glob, in at most len(pattern) * len(name) steps; a regular expression with several
    stars can take far longer. On a mismatch the last star takes one character more."""
    at = place = 0
    star, taken = -1, 0
    while place < len(name):
        if at < len(pattern) and pattern[at] == "*":
            star, taken = at, place
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", name[place]):
            at += 1
            place += 1
        elif star >= 0:
            taken += 1
            at, place = star + 1, taken
        else:
            return False
    return pattern[at:].strip("*") == ""
