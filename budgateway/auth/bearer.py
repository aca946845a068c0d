"""Bearer tokens: finds a token's issuer, verifies the signature and returns the principal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from budgateway import native
from budgateway.auth.claims import judge, principal
from budgateway.jose.jws import Refused, json_object, parse
from budgateway.jose.key import Key, KeySet, KeyUnfit, verify
from budgateway.records import Issuer, Principal


class UnknownKey(Refused):
    """The signing key is unknown; the issuer may have published it since its keys were last read."""

    def __init__(self, issuer: str, message: str) -> None:
        super().__init__(message)
        self.issuer = issuer


class Rejected(Refused):
    """The signature is wrong, or the signed claims are unusable: only other keys could change that. The result is worth
    remembering, because finding out costs a verification."""


class Verified(NamedTuple):
    """A token's principal, and its expiry (seconds since the epoch)."""

    principal: Principal
    expires: float


_REFUSALS = {native.TOKEN_REFUSED: Refused, native.TOKEN_REJECTED: Rejected}


class Bearers:
    """The issuers of one configuration. Stateless except for the keys that `learn` sets."""

    def __init__(self, issuers: Sequence[Issuer]) -> None:
        """Load the issuers' secrets and PEM keys. Raises KeyUnfit when one cannot be used."""
        self._by_name = {issuer.issuer: issuer for issuer in issuers if issuer.issuer}
        self._unnamed = next((issuer for issuer in issuers if not issuer.issuer), None)
        self._keys: dict[str, KeySet] = {}
        self._issuers = tuple(issuers)
        self._fetched = {issuer.name: issuer for issuer in issuers if issuer.jwks_url or issuer.discovery_url}
        for issuer in issuers:
            if issuer.secret is not None:
                secret = issuer.secret.reveal().encode(errors="surrogateescape")
                self._keys[issuer.name] = KeySet([Key.from_secret(secret, issuer.algorithms)])
            elif issuer.public_keys:
                self._keys[issuer.name] = KeySet.from_pem(issuer.public_keys, issuer.algorithms)
        self.native = self._verifier()

    def learn(self, documents: Mapping[str, object]) -> None:
        """Replace the fetched key sets, given by issuer name."""
        for name, issuer in self._fetched.items():
            self._keys.pop(name, None)
            try:
                if name in documents:
                    self._keys[name] = KeySet.from_document(documents[name], issuer.algorithms)
            except KeyUnfit:
                pass  # the fetcher checked it under the same rules; one for another configuration is not ours
        if self._fetched:
            self.native = self._verifier()

    def verify(self, token: str, now: float) -> Verified:
        """Return the token's principal and expiry. Raises Refused: UnknownKey when the issuer may have a new key,
        Rejected when only other keys could change the result."""
        found = self.native.verify(token, now)
        if found is None:
            return self.verify_slowly(token, now)
        if len(found) == 6:
            name, tenant, roles, groups, models, expires = found
            return Verified(Principal(name, tenant, roles, False, groups, models), expires)
        kind, name, message = found
        if kind == native.TOKEN_UNKNOWN_KEY:
            raise UnknownKey(name, message)
        raise _REFUSALS[kind](message)

    def verify_slowly(self, token: str, now: float) -> Verified:
        """Do the same as `verify` without native code, for the tokens that it leaves to Python."""
        taken = parse(token)
        claims = json_object(taken.payload, "payload")
        issuer = self._issuer(claims.get("iss"))
        if issuer is None:
            raise Refused("its issuer is not trusted")
        if taken.algorithm not in issuer.algorithms:
            raise Refused("its alg is not allowed for its issuer")
        # Before any key is fetched or tried: a token that no key could make valid is not worth the cost.
        expires = judge(claims, issuer, now)
        keys = self._keys.get(issuer.name)
        if keys is None or (issuer.name in self._fetched and not keys.candidates(taken)):
            raise UnknownKey(issuer.name, "its issuer has no key with its kid")
        if not verify(taken, keys):
            raise Rejected("its signature is invalid")
        try:
            return Verified(principal(claims, issuer), expires)
        except Refused as error:
            raise Rejected(str(error)) from error

    def has_keys(self, name: str) -> bool:
        """True when any key of the issuer is known."""
        return name in self._keys

    def _verifier(self) -> native.TokenVerifier:
        """Return the native verifier for the current keys."""
        keys = {name: [key.numbers() for key in known.keys] for name, known in self._keys.items()}
        return native.TokenVerifier([(issuer, keys.get(issuer.name)) for issuer in self._issuers])

    def _issuer(self, name: object) -> Issuer | None:
        found = self._by_name.get(name) if isinstance(name, str) else None
        # A token that names a configured issuer is checked with that issuer's keys only.
        return self._unnamed if found is None else found
