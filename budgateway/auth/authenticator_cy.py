"""The authentication stage: verifies tokens and API keys, and decides whether a route is open to their principal."""

from __future__ import annotations

import logging
from hashlib import sha256
from time import time
from typing import TYPE_CHECKING, Any

from budgateway.auth.bearer import Rejected, UnknownKey
from budgateway.auth.principal_header import write_principal
from budgateway.auth.roles import MAX_CLASSES, admin_action
from budgateway.errors import Forbidden, KeysUnavailable, Unauthenticated
from budgateway.exchange.cached_plan import CachedIdentity
from budgateway.jose.jws import Refused
from budgateway.native import CredentialCache
from budgateway.records import Principal
from budgateway.wire.websocket import credential_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from budgateway.auth.bearer import Bearers, Verified
    from budgateway.auth.credential_store import CredentialStore
    from budgateway.auth.keys import Found
    from budgateway.auth.roles import PrincipalClass, Roles
    from budgateway.exchange.exchange_cy import Exchange

    # A credential as `CredentialCache.find` returns it: id, name of the API key, tenant, groups, class, expiry.
    Remembered = tuple[str, str, str, tuple[str, ...], int, float]

MAX_CREDENTIALS = 65_536  # that all workers together remember; those not in use are evicted first
MAX_REMEMBERED = 4096  # of these with their Python objects, per kind of header; the oldest is evicted first
# Sent by the clients of Anthropic, Azure and Google; the first one present counts.
_KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")
_UPGRADE = 8  # a flag of the native scan, as a C number
_LOOPBACK = ("127.0.0.1", "::1", "local")

_log = logging.getLogger("budgateway.auth")


class VerifiedCredential:
    """A verified credential: its principal, its expiry (seconds since the epoch) and its principal's class."""

    def __init__(self, principal: Principal, expires: float, principal_class: PrincipalClass) -> None:
        self.principal = principal
        self.id = principal.id
        self.expires = expires
        self.class_number = principal_class.number
        self.profile = principal_class.profile
        self.known = self.profile.known


def is_local(x: Exchange) -> bool:
    """True when the request comes from this machine, and not from a proxy on it for another client."""
    head = x.head
    return x.client in _LOOPBACK and head.header("x-forwarded-for") is None and head.header("forwarded") is None


class Authenticator:
    """The authenticator of a configuration without a credential source. It passes open routes, the model list and
    metrics requests from this machine, and refuses the rest with a hint."""

    def __init__(self) -> None:
        """`credentials`: the verified credentials (native.CredentialCache); None when they make no difference."""
        self.credentials: Any = None

    def identify(self, x: Exchange) -> Awaitable[None] | None:
        """Do nothing: every request is anonymous, and limits count by address."""
        return None

    def authorize(self, x: Exchange, access: str, route: str) -> None:
        """Pass open routes, the model list, and metrics requests from this machine; raise Unauthenticated otherwise.
        `access` and `route` (its name) are the route's."""
        if access == "open" or access == "models" or (access == "metrics" and is_local(x)):
            return
        raise Unauthenticated(
            "this route needs a credential, and the gateway has no way to check one",
            hint="the operator can set JWT_SECRET (32 bytes or more), [[auth.issuers]] or [auth] keys_file",
        )

    def cached_plan(self, x: Exchange) -> CachedIdentity | None:
        """Return the identity of x's credential for a cached plan; None when the header's value alone does not
        determine it, or when the request carries a principal header."""
        return None if x.principal_lines else CachedIdentity(0)

    def recall(self, x: Exchange, credential: Remembered) -> None:
        """Do nothing: there are no credentials."""

    def learn(self) -> None:
        """Adopt the credential store's current keys and drop all remembered credentials."""


class CredentialAuthenticator(Authenticator):
    """The authenticator for tokens and API keys. A verified credential is remembered until it expires, so that later
    requests cost one lookup."""

    def __init__(
        self, bearers: Bearers, credential_store: CredentialStore, roles: Roles, lists_openly: bool, *, workers: int = 1
    ) -> None:
        """`lists_openly`: requests without a credential may use some route, and so see its models. `workers`: the
        number of processes that share MAX_CREDENTIALS."""
        self._bearers = bearers
        self._credential_store = credential_store
        self._roles = roles
        self._lists_openly = lists_openly
        self.credentials: CredentialCache = CredentialCache(max(1, MAX_CREDENTIALS // workers), sorted(roles.tenants))
        # The latest of them with their Python objects, keyed by the header's value, in separate tables: a key is not a
        # valid `Authorization` value without `Bearer`.
        self._by_authorization: dict[str, VerifiedCredential] = {}
        self._by_key: dict[str, VerifiedCredential] = {}
        self._classes: dict[int, PrincipalClass] = {}
        self._rejected: dict[bytes, None] = {}
        self.learn()

    def learn(self) -> None:
        """Adopt the credential store's current keys and drop all remembered credentials."""
        self._bearers.learn(self._credential_store.credentials.key_sets)
        self.credentials.learn(self._bearers.native)
        self._by_authorization = {}
        self._by_key = {}
        self._rejected = {}

    def identify(self, x: Exchange) -> Awaitable[None] | None:
        """Set the exchange's verified credential and principal from its credential. Without one, or with one that is
        not ours (every OpenAI client sends something), the request stays anonymous until a route needs a principal. A
        returned awaitable waits for an issuer's new keys."""
        verified: VerifiedCredential | None
        given: str | None = x.head.header("authorization")
        if given is not None:
            verified = self._by_authorization.get(given)
        else:
            given = self._key(x)
            if given is None:
                return None
            verified = self._by_key.get(given)
        if verified is None or verified.expires <= time():
            return self._look(x, True)
        x.verified = verified
        x.principal = verified.principal
        x.limit_key = verified.id
        return None

    def cached_plan(self, x: Exchange) -> CachedIdentity | None:
        """Return the class of x's principal for a cached plan; None when the header's value alone does not determine
        the principal, or when the request carries a principal header."""
        if x.principal_lines:
            return None
        given: str | None = x.head.header("authorization")
        if given is not None:
            known = self._by_authorization.get(given)
        else:
            given = self._key(x)
            known = None if given is None else self._by_key.get(given)
        if known is not x.verified or (given is not None and known is None):
            # Another header holds the credential, or this one's value is not one of ours.
            return None
        return CachedIdentity(0 if known is None else known.class_number)

    def _key(self, x: Exchange) -> str | None:
        """Return the value of the first key header present, else the credential in a WebSocket handshake."""
        given: str | None
        for name in _KEY_HEADERS:
            given = x.head.header(name)
            if given is not None:
                return given
        # A browser's WebSocket cannot set headers.
        return credential_of(x.head) if x.flags & _UPGRADE else None

    def look_again(self, x: Exchange) -> None:
        """Repeat `identify` after the wait for new keys; never waits again."""
        self._look(x, False)

    def authorize(self, x: Exchange, access: str, route: str) -> None:
        """Raise Unauthenticated (KeysUnavailable while keys are missing) without a principal where one is needed,
        Forbidden when the principal lacks the permission. Sets the principal header for requests to the admin
        server."""
        if access == "open":
            return
        verified: VerifiedCredential | None = x.verified
        if verified is None:
            if access == "metrics" and is_local(x):
                return
            if access == "models" and self._lists_openly and not self._is_credential_given(x):
                return
            raise self._unknown(x)
        if access == "authenticated":
            # "": no model, because there is no body; None: the body may name one that the gateway cannot see.
            model = x.model if x.model else None if x.hides_model else ""
            decision = verified.known.get((route, x.head.method, model))
            if decision is None:
                decision = verified.profile.may(route, x.head.method, model)
            if not decision[0]:
                what = f"the route '{route}'"
                if decision[2]:
                    what = f"the model '{x.model[:256]}' on {what}" if x.model else f"{what} with a model unseen"
                raise self._forbidden(verified, f"you may not use {what}", decision[1])
            return
        if access != "models":
            action = "metrics" if access == "metrics" else admin_action(x.head.method, x.head.path)
            decision = verified.profile.may_operate(action)
            if not decision[0]:
                raise self._forbidden(
                    verified, f"this needs the role 'admin', or one with the action '{action}'", decision[1]
                )
        x.principal_lines = write_principal(verified.principal, verified.expires)

    def _look(self, x: Exchange, may_wait: bool) -> Awaitable[None] | None:
        """Verify the exchange's credential, and remember it when it is valid."""
        known, given, token = self._credential(x)
        if not token:
            return None
        now = time()
        verified: VerifiedCredential | None = known.get(given)
        if verified is not None and verified.expires <= now:
            verified = None
        is_key = known is self._by_key
        if verified is None:
            remembered: Remembered | None = self.credentials.find(is_key, given, now)
            verified = None if remembered is None else self._recalled(remembered)
            if verified is not None:
                self._keep(known, given, verified)
        if verified is None:
            try:
                found = self._find(token, now)
            except UnknownKey as error:
                if may_wait and self._credential_store.is_asking(error.issuer):
                    return self._credential_store.newer(error.issuer, self.look_again, x)
                _log.debug("a token was refused: %s", error)
                return None
            except Refused as error:
                _log.debug("a token was refused: %s", error)
                return None
            if found is None:
                return None
            verified = self._remember(is_key, given, found.principal, found.expires)
            self._keep(known, given, verified)
        x.verified = verified
        x.principal = verified.principal
        x.limit_key = verified.id
        return None

    def _remember(self, is_key: bool, given: str, principal: Principal, expires: float) -> VerifiedCredential:
        """Return a credential that was just verified; the fast path knows it from now on."""
        principal_class = self._roles.class_of(principal)
        number = principal_class.number
        if number not in self._classes:
            if len(self._classes) >= MAX_CLASSES:
                self._classes.clear()
            self._classes[number] = principal_class
            if principal_class.allowance is None and not principal.key:
                self.credentials.name_class(principal.roles, principal.tenant, principal.models, number)
        who = (principal.id, principal.key, principal.tenant, principal.groups)
        self.credentials.insert(is_key, given, who, number, expires)
        return VerifiedCredential(principal, expires, principal_class)

    def _recalled(self, remembered: Remembered) -> VerifiedCredential | None:
        """Return the Python object of a remembered credential; None when its class was forgotten."""
        name, key, tenant, groups, number, expires = remembered
        known: PrincipalClass | None = self._classes.get(number)
        if known is None:
            return None
        principal = Principal(name, tenant, known.roles, False, groups, known.models, key, known.allowance)
        return VerifiedCredential(principal, expires, known)

    def _keep(self, known: dict[str, VerifiedCredential], given: str, verified: VerifiedCredential) -> None:
        if len(known) >= MAX_REMEMBERED:
            del known[next(iter(known))]
        known[given] = verified

    def recall(self, x: Exchange, credential: Remembered) -> None:
        """Set the exchange's verified credential and principal from one that was found in `credentials`."""
        verified = self._recalled(credential)
        if verified is None:
            # Its class was forgotten; what it may do was decided already.
            name, key, tenant, groups, _, expires = credential
            principal = Principal(name, tenant, (), False, groups, (), key)
            verified = VerifiedCredential(principal, expires, self._roles.class_of(principal))
        x.verified = verified
        x.principal = verified.principal
        x.limit_key = verified.id

    def _find(self, token: str, now: float) -> Verified | Found | None:
        """Return the principal and expiry of a credential; None for an unknown key. Raises Refused for an invalid
        token: a token is verified once, and rejected from memory as long as the keys stay the same."""
        # A key has no dots, a token always has two.
        if "." not in token:
            return self._credential_store.ring.find(token, now)
        if self._rejected and _digest(token) in self._rejected:
            raise Rejected("it was rejected before")
        try:
            return self._bearers.verify(token, now)
        except Rejected:
            if len(self._rejected) >= MAX_REMEMBERED:
                del self._rejected[next(iter(self._rejected))]
            self._rejected[_digest(token)] = None
            raise

    def _credential(self, x: Exchange) -> tuple[dict[str, VerifiedCredential], str, str]:
        """Return the table that remembers the credential, the header's value, and the credential in it: a bearer token,
        else the key headers' value."""
        given = x.head.header("authorization")
        if given is not None and given[:7].lower() == "bearer ":
            return self._by_authorization, given, given[7:].strip()
        given = self._key(x)
        if given is None:
            return self._by_key, "", ""
        return self._by_key, given, given[7:].strip() if given[:7].lower() == "bearer " else given

    def _is_credential_given(self, x: Exchange) -> bool:
        """True when a credential was sent; clients without one send an empty value."""
        return bool(self._credential(x)[2])

    def _unknown(self, x: Exchange) -> Exception:
        token = self._credential(x)[2]
        if not token:
            return Unauthenticated("a credential is required: a bearer token or an API key")
        if "." in token:
            try:
                self._find(token, time())
            except UnknownKey as error:
                if not self._bearers.has_keys(error.issuer):
                    return KeysUnavailable(
                        "the keys of the token's issuer are not available at the moment", retry_after_s=5.0
                    )
            except Refused:
                pass
        elif self._credential_store.credentials.keys_missing:
            return KeysUnavailable("the API keys are not available at the moment", retry_after_s=5.0)
        # One message for unknown, expired, foreign and forged credentials: the difference would help only attackers.
        return Unauthenticated("the credential is not valid")

    def _forbidden(self, verified: VerifiedCredential, message: str, why: str) -> Exception:
        # Only operators may see how roles are defined.
        return Forbidden(message, hint=why if verified.profile.may_operate("read").allowed else "")


def _digest(token: str) -> bytes:
    """Return what is remembered of a rejected token: tokens are long, and anyone can invent any number of them."""
    return sha256(token.encode("utf-8", "surrogatepass")).digest()
