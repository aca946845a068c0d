"""Tokens for tests, made by hand where a library would refuse to make them so."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SECRET = "a secret of more than thirty-two bytes"
ISSUER = "https://login.example.com/"
AUDIENCE = "budgateway"
KINDS = {
    "RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "PS256": "rsa", "PS384": "rsa", "PS512": "rsa",
    "ES256": "p256", "ES384": "p384", "ES512": "p521", "EdDSA": "ed25519",
}  # fmt: skip


@cache
def private_key(kind: str, number: int = 0) -> Any:
    """A key pair of a kind; others by number."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "rsa1024":
        return rsa.generate_private_key(65537, 1024)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key({"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}[kind])


def pem(kind: str, number: int = 0) -> str:
    """The public half."""
    public = private_key(kind, number).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwk(algorithm: str, kid: str | None = None, number: int = 0, **more: Any) -> dict[str, Any]:
    """The public half as a JSON Web Key."""
    public = private_key(KINDS[algorithm], number).public_key()
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
    made.pop("key_ops", None)
    return {**made, **({} if kid is None else {"kid": kid}), **more}


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of a valid token; None leaves a claim out."""
    now = int(time.time())
    made = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 300} | changes
    return {name: value for name, value in made.items() if value is not None}


def signed(algorithm: str = "RS256", number: int = 0, header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token by the private key of the algorithm's kind."""
    # As JWS: PyJWT's JWT looks at claims, and some of ours are wrong on purpose.
    payload = json.dumps(claims(**changes)).encode()
    return jwt.PyJWS().encode(payload, private_key(KINDS[algorithm], number), algorithm, headers=header)


def own(secret: str = SECRET, **changes: Any) -> str:
    """A token under JWT_SECRET."""
    payload = json.dumps(claims(**({"iss": None, "aud": None} | changes))).encode()
    return jwt.PyJWS().encode(payload, secret.encode(), "HS256")


def forged(header: Any, payload: Any, key: bytes = SECRET.encode(), hash_name: str = "sha256") -> str:
    """An HMAC token of exactly this header and payload: JSON text as it is, or a value."""
    parts = [encoded(part if isinstance(part, str) else json.dumps(part)) for part in (header, payload)]
    signature = hmac.digest(key, ".".join(parts).encode(), getattr(hashlib, hash_name))
    return ".".join([*parts, encoded(signature)])


def encoded(data: str | bytes) -> str:
    """Base64url without padding."""
    raw = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
