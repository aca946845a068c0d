"""JWT claims: checks times, issuer and audience, and builds the principal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budgateway.jose.jws import Refused
from budgateway.records import Issuer, Principal

MAX_NAME_CHARS = 255  # OpenID Connect Core 2: sub
MAX_NAMES = 256  # roles, groups or models of one token
_LATEST = 253_402_300_799  # the last second of the year 9999: anything later is a mistake or an attack

_WORDS = frozenset({"scope", "scopes", "scp"})  # space-separated claims: OAuth's, Entra's and Okta's

# The models of a principal whose token lists none: no model has this name, so it may use none.
NO_MODELS = ("",)


def judge(claims: Mapping[str, Any], issuer: Issuer, now: float) -> float:
    """Return the token's expiry (seconds since the epoch, leeway included). Raises Refused when it is not valid now, or
    not for us."""
    skew = issuer.leeway_s
    expires = _moment(claims, "exp")
    if expires is None:
        raise Refused("it has no exp")
    if now >= expires + skew:
        raise Refused("it has expired")
    for name in ("nbf", "iat"):
        moment = _moment(claims, name)
        if moment is not None and moment > now + skew:
            raise Refused(f"its {name} is in the future")
    if issuer.issuer and claims.get("iss") != issuer.issuer:
        raise Refused("it is of another issuer")
    _check_audience(claims, issuer)
    return expires + skew


def principal(claims: Mapping[str, Any], issuer: Issuer) -> Principal:
    """Build the token's principal. Raises Refused when a claim that matters has the wrong type: ignoring an unreadable
    tenant would place the principal in another one."""
    paths = issuer.claims
    user = _name(_at(claims, paths.user), paths.user)
    if not user:
        raise Refused(f"it has no {paths.user}")
    groups = _names(_at(claims, paths.groups), paths.groups)
    roles = dict.fromkeys((*issuer.roles, *_names(_at(claims, paths.roles), paths.roles)))
    for group, granted in issuer.group_roles:
        if group in groups:
            roles.update(dict.fromkeys(granted))
    listed = _at(claims, paths.models)
    return Principal(
        # Two issuers may give one name to different people, and keys and addresses need ids of their own.
        id=f"jwt:{issuer.name}:{user}",
        tenant=issuer.tenant or _name(_at(claims, paths.tenant), paths.tenant),
        roles=tuple(roles),
        anonymous=False,
        groups=groups,
        models=() if listed is None else _names(listed, paths.models) or NO_MODELS,
    )


def _check_audience(claims: Mapping[str, Any], issuer: Issuer) -> None:
    if issuer.any_audience:
        return
    given = claims.get("aud", [])
    listed = given if isinstance(given, list) else [given]
    if not all(isinstance(name, str) for name in listed):
        raise Refused("its aud is not a string")
    # RFC 7519 4.1.3: a recipient that aud does not name must refuse. Without a configured audience we are never named.
    if (listed or issuer.audience) and not set(listed).intersection(issuer.audience):
        raise Refused("it is for another audience")


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519 2), None when absent. Raises Refused for anything but a number in range."""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    # The comparison also refuses NaN and infinities, and accepts integers of any size, which a conversion does not.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        raise Refused(f"its {name} is not a number of seconds")
    return float(value)


def _at(claims: Mapping[str, Any], path: str) -> object:
    """Return a claim by its name (`https://example.com/roles`) or by a dotted path (`realm_access.roles`); None when
    absent."""
    if path in claims:
        return claims[path]
    found: object = claims
    for name in path.split("."):
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found


def _name(value: object, what: str) -> str:
    """Return a name from a claim, "" when absent. A number is accepted (a tenant may be one), except for `sub`."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool) and what != "sub":
        return str(value) if abs(value) < 1 << 63 else _unreadable(what)
    # Control and formatting characters would end up in logs, metric labels and Redis keys.
    if not isinstance(value, str) or len(value) > MAX_NAME_CHARS or not value.isprintable() or value != value.strip():
        return _unreadable(what)
    return value


def _names(value: object, what: str) -> tuple[str, ...]:
    """Return a claim's list of names. A string is one name, because group names contain spaces ("Former Admins" is not
    "Admins"); only claims like `scope` are space-separated (RFC 6749 3.3)."""
    if value is None:
        return ()
    if isinstance(value, str):
        listed: object = value.split() if what.rpartition(".")[2] in _WORDS else [value]
    else:
        listed = value
    if not isinstance(listed, list) or len(listed) > MAX_NAMES:
        raise Refused(f"its {what} is not a list of names")
    return tuple(name for item in listed if (name := _name(item, what)))


def _unreadable(what: str) -> str:
    raise Refused(f"its {what} is not a printable name of at most {MAX_NAME_CHARS} characters")
