"""Bearer tokens: which issuer a token claims to be from, whether that is true, and whom it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from budgateway.auth.claims import judge, principal
from budgateway.jose.jws import Refused, json_object, parse
from budgateway.jose.key import Key, KeySet, KeyUnfit, verify
from budgateway.records import Issuer, Principal


class UnknownKey(Refused):
    """The key that signed it is none that we have: its issuer may have made a new one since we asked."""

    def __init__(self, issuer: str, message: str) -> None:
        super().__init__(message)
        self.issuer = issuer


class Rejected(Refused):
    """Its signature is wrong, or the claims that it covers are: only other keys could make that good. Finding out costs a
    verification, so it is worth remembering."""


class Verified(NamedTuple):
    """Who it is, and until when (seconds since the epoch) that is known."""

    principal: Principal
    expires: float


class Bearers:
    """The issuers of one configuration. Stateless but for the keys, which `learn` brings."""

    def __init__(self, issuers: Sequence[Issuer]) -> None:
        """KeyUnfit when an issuer's secret or PEM file cannot be used."""
        self._by_name = {issuer.issuer: issuer for issuer in issuers if issuer.issuer}
        self._unnamed = next((issuer for issuer in issuers if not issuer.issuer), None)
        self._keys: dict[str, KeySet] = {}
        self._fetched = {issuer.name: issuer for issuer in issuers if issuer.jwks_url or issuer.discovery_url}
        for issuer in issuers:
            if issuer.secret is not None:
                secret = issuer.secret.reveal().encode(errors="surrogateescape")
                self._keys[issuer.name] = KeySet([Key.from_secret(secret, issuer.algorithms)])
            elif issuer.public_keys:
                self._keys[issuer.name] = KeySet.from_pem(issuer.public_keys, issuer.algorithms)

    def learn(self, documents: Mapping[str, object]) -> None:
        """Take the key sets as they are now, by the issuer's name."""
        for name, issuer in self._fetched.items():
            self._keys.pop(name, None)
            try:
                if name in documents:
                    self._keys[name] = KeySet.from_document(documents[name], issuer.algorithms)
            except KeyUnfit:
                pass  # whoever fetched it has looked at it under the same rules; another configuration's is none of ours

    def verify(self, token: str, now: float) -> Verified:
        """Whose token it is. Raises Refused: UnknownKey when the issuer may have a new key, Rejected when
        only other keys could change that."""
        taken = parse(token)
        claims = json_object(taken.payload, "payload")
        issuer = self._issuer(claims.get("iss"))
        if issuer is None:
            raise Refused("its issuer is none of ours")
        if taken.algorithm not in issuer.algorithms:
            raise Refused("its alg is none of its issuer's")
        # Before any key is asked for or tried: what is no good with any key is not worth it.
        expires = judge(claims, issuer, now)
        keys = self._keys.get(issuer.name)
        if keys is None or (issuer.name in self._fetched and not keys.candidates(taken)):
            raise UnknownKey(issuer.name, "no key of its issuer has its kid")
        if not verify(taken, keys):
            raise Rejected("its signature is wrong")
        try:
            return Verified(principal(claims, issuer), expires)
        except Refused as error:
            raise Rejected(str(error)) from error

    def has_keys(self, name: str) -> bool:
        """Whether any key of an issuer is known."""
        return name in self._keys

    def _issuer(self, name: object) -> Issuer | None:
        found = self._by_name.get(name) if isinstance(name, str) else None
        # Whoever names a configured issuer is checked by its keys alone.
        return self._unnamed if found is None else found
