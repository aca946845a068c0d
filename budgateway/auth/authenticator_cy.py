"""Bearer tokens: who is asking, and whether a route is open to them."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from budgateway.errors import Forbidden, Unauthenticated
from budgateway.records import Principal

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from budgateway.exchange_cy import Exchange
    from budgateway.records import Secret

MAX_TOKEN_BYTES = 8 * 1024  # the head's own line limit
MAX_REMEMBERED = 4096  # verified tokens; the oldest are forgotten first
_LOOPBACK = ("127.0.0.1", "::1", "local")


class Authenticator:
    """No authenticator is configured: open routes are open, everything else is refused with what to do about it."""

    def identify(self, x: Exchange) -> Awaitable[None] | None:
        """Nobody can be known; limits count by address."""
        return None

    def authorize(self, x: Exchange, access: str) -> None:
        """Let open routes pass, and the machine's own operator look at metrics. `access` is the route's."""
        if access == "open" or (access == "metrics" and x.client in _LOOPBACK):
            return
        raise Unauthenticated(
            "this route needs a credential, and the gateway has no way to check one",
            hint="the operator can set JWT_SECRET (32 bytes or more)",
        )


class TokenAuthenticator(Authenticator):
    """HS256 tokens under one secret. A verified token is remembered until it expires, so that it costs a lookup."""

    def __init__(self, secret: Secret) -> None:
        import jwt  # only who checks tokens pays for it: the library brings all of OpenSSL's bindings along

        self._decode = jwt.decode
        self._invalid = jwt.InvalidTokenError
        self._secret = secret
        self._remembered: dict[str, tuple[Principal, float]] = {}

    def identify(self, x: Exchange) -> Awaitable[None] | None:
        """Note the principal of a bearer token. Without one, or with one that is not ours (every OpenAI client sends
        something), the request stays anonymous until a route asks."""
        given = x.head.header("authorization")
        if given is None:
            return None
        known = self._remembered.get(given)
        if known is not None and known[1] > time():
            x.principal = known[0]
        else:
            x.principal = self._verify(given)
        if x.principal is not None:
            x.limit_key = x.principal.id
        return None

    def authorize(self, x: Exchange, access: str) -> None:
        """Unauthenticated without a principal where one is needed, Forbidden without the role."""
        if access == "open":
            return
        principal = x.principal
        if principal is None:
            if access == "metrics" and x.client in _LOOPBACK:
                return
            if x.head.header("authorization") is None:
                raise Unauthenticated("a bearer token is required")
            # One message for expired, foreign and forged: the difference helps only who should not know it.
            raise Unauthenticated("the credential is not valid")
        if access in ("admin", "metrics") and "admin" not in principal.roles:
            raise Forbidden("this needs the role 'admin'")

    def _verify(self, given: str) -> Principal | None:
        scheme, _, token = given.partition(" ")
        if scheme.lower() != "bearer" or len(token) > MAX_TOKEN_BYTES:
            return None
        try:
            claims = self._decode(
                token, self._secret.reveal(), algorithms=["HS256"], options={"require": ["exp", "sub"]}
            )
        except self._invalid:
            return None
        roles = claims.get("roles", [])
        principal = Principal(
            id=claims["sub"],
            tenant=str(claims.get("tenant", "")),
            roles=tuple(role for role in roles if isinstance(role, str)) if isinstance(roles, list) else (),
            anonymous=False,
        )
        if len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[given] = (principal, float(claims["exp"]))
        return principal
