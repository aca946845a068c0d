"""Keys that verify tokens: made from secrets, PEM or JWK, each for certain algorithms, found by `kid`."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from budgateway.jose.jws import Compact

# RFC 7518 3.2: an HMAC key is at least as long as the hash.
HMAC_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
_HASHES = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
ALGORITHMS = (*HMAC_BYTES, *RSA, *CURVES, "EdDSA")

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192  # verification time grows with its square: a token must not cost milliseconds
MAX_KEYS = 64  # in one key set; the largest public ones have about ten
MAX_TRIED = 8  # keys tried for one token

_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)
# The curve names of `cryptography`.
_CURVE_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


# A key as raw numbers: kid, algorithms, kind, and up to two numbers (big-endian).
Numbers = tuple[str | None, tuple[str, ...], str, bytes, bytes]


class KeyUnfit(ValueError):
    """A key cannot be used. The message is for the operator who configured it."""


class Key:
    """A verification key and its algorithms. Immutable."""

    __slots__ = ("_material", "algorithms", "kid")

    def __init__(self, material: Any, algorithms: Iterable[str], kid: str | None = None) -> None:
        """`material` has the form that PyJWT's algorithms take."""
        self.kid = kid
        self.algorithms = frozenset(algorithms)
        self._material = material

    def verifies(self, token: Compact) -> bool:
        """True when this key made the token's signature. The token's algorithm must be one of `algorithms`."""
        if isinstance(self._material, bytes):
            # As PyJWT does, without importing it and all of OpenSSL's bindings.
            made = hmac.digest(self._material, token.signed, _HASHES[token.algorithm])
            return hmac.compare_digest(made, token.signature)
        try:
            return bool(_verifiers()[token.algorithm].verify(token.signed, self._material, token.signature))
        except (ValueError, TypeError):
            return False  # a signature of the wrong length, numbers out of range

    def numbers(self) -> Numbers:
        """Return the key for `native.TokenVerifier`; its kind is "" when only `verifies` can use it."""
        # Tokens with a kid beyond ASCII are left to Python, and half of a surrogate pair cannot be converted.
        kid = self.kid if self.kid is None or self.kid.isascii() else "\ufffd"
        return kid, tuple(sorted(self.algorithms)), *_numbers(self._material)

    @classmethod
    def from_secret(cls, secret: bytes, algorithms: Sequence[str]) -> Key:
        """Make a key from a shared secret. Raises KeyUnfit when it is shorter than an algorithm's hash."""
        for name in algorithms:
            if len(secret) < HMAC_BYTES[name]:
                raise KeyUnfit(f"too short: {len(secret)} bytes, {name} needs at least {HMAC_BYTES[name]}")
        return cls(secret, algorithms)

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any], algorithms: Sequence[str]) -> Key:
        """Make a key from a JSON Web Key (RFC 7517). Raises KeyUnfit when it is weak, not for verifying, or for none of
        `algorithms`."""
        operations = jwk.get("key_ops", ["verify"])
        if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
            raise KeyUnfit("it is not for verifying (use, key_ops)")
        if "d" in jwk:
            raise KeyUnfit("it is a private key: anyone who can read it can forge tokens")
        kid = jwk.get("kid")
        if kid is not None and not isinstance(kid, str):
            raise KeyUnfit("its kid is not a string")
        kind, curve = jwk.get("kty"), jwk.get("crv")
        fit = [name for name in algorithms if _suits(name, kind, curve) and jwk.get("alg", name) == name]
        if not fit:
            raise KeyUnfit(f"kty {kind!r}, crv {curve!r}, alg {jwk.get('alg')!r} suit none of {', '.join(algorithms)}")
        material = _from_jwk(fit[0], dict(jwk))
        if kind == "oct":
            return cls(material, [name for name in fit if len(material) >= HMAC_BYTES[name]] or _short(material), kid)
        _check_rsa(material)
        return cls(material, fit, kid)


class KeySet:
    """The keys of one issuer. Immutable."""

    __slots__ = ("_any", "_by_kid", "keys")

    def __init__(self, keys: Sequence[Key]) -> None:
        """Raise KeyUnfit when two keys have the same `kid`, which would be ambiguous."""
        self.keys = tuple(keys)
        self._by_kid: dict[str, Key] = {}
        for key in keys:
            if key.kid is not None:
                if key.kid in self._by_kid:
                    raise KeyUnfit(f"two keys have the kid {key.kid[:64]!r}")
                self._by_kid[key.kid] = key
        self._any = tuple(key for key in keys if key.kid is None)

    def candidates(self, token: Compact) -> Sequence[Key]:
        """Return the keys that may have signed the token: the one with its `kid`, else those without a `kid`; for a
        token without a `kid`, every key that fits its algorithm. At most MAX_TRIED; empty when none fits."""
        algorithm = token.algorithm
        if token.kid is None:
            return [key for key in self.keys if algorithm in key.algorithms][:MAX_TRIED]
        named = self._by_kid.get(token.kid)
        found = self._any if named is None else (named,)
        return [key for key in found if algorithm in key.algorithms][:MAX_TRIED]

    @classmethod
    def from_pem(cls, text: str, algorithms: Sequence[str]) -> KeySet:
        """Read public keys and certificates from concatenated PEM blocks. Raises KeyUnfit when there is none, or one is
        unusable."""
        keys = [Key(*_from_pem(found[1], found[0], algorithms)) for found in _PEM.finditer(text)]
        if not keys:
            raise KeyUnfit("it holds no PEM block")
        return cls(keys)

    @classmethod
    def from_document(cls, document: object, algorithms: Sequence[str]) -> KeySet:
        """Read a JWK Set (RFC 7517 5) from outside. Unusable keys are skipped, because an issuer may have others for
        other purposes. Shared secrets are never accepted, because in a published set they are not secret. Raises
        KeyUnfit when nothing is left."""
        listed = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(listed, list) or len(listed) > MAX_KEYS:
            raise KeyUnfit(f"it is not a key set of at most {MAX_KEYS} keys")
        public = [name for name in algorithms if name not in HMAC_BYTES]
        keys, why = [], "it is empty"
        for jwk in listed:
            try:
                keys.append(Key.from_jwk(jwk if isinstance(jwk, dict) else {}, public))
            except KeyUnfit as error:
                why = str(error)
        if not keys:
            raise KeyUnfit(f"it has no usable key: {why}")
        return cls(keys)


def verify(token: Compact, keys: KeySet) -> bool:
    """True when one of the keys made the token's signature."""
    return any(key.verifies(token) for key in keys.candidates(token))


def sign(claims: Mapping[str, object], secret: bytes) -> str:
    """Return an HS256 token signed with our own secret."""
    import jwt

    return jwt.encode(dict(claims), secret, algorithm="HS256")


def load_algorithms() -> None:
    """Import everything that is needed to read keys and verify tokens. Blocks for up to 0.2 s."""
    for module in (
        "cryptography.hazmat.backends.openssl.backend",
        "cryptography.hazmat.primitives.serialization",
        "cryptography.x509",
    ):
        import_module(module)
    _verifiers()


def _verifiers() -> Mapping[str, Any]:
    """Return PyJWT's algorithms by name. They are imported at first use, because they load all of OpenSSL's
    bindings."""
    if not _LOADED:
        from jwt.algorithms import get_default_algorithms

        loaded = get_default_algorithms()
        _LOADED.update({name: loaded[name] for name in ALGORITHMS})
    return _LOADED


_LOADED: dict[str, Any] = {}


def _numbers(material: Any) -> tuple[str, bytes, bytes]:
    """Return the kind of a key, and its numbers: the secret; modulus and exponent; the point."""
    if isinstance(material, bytes):
        return "oct", material, b""
    if hasattr(material, "public_numbers"):
        found = material.public_numbers()
        if hasattr(found, "n"):
            return "RSA", *(number.to_bytes((number.bit_length() + 7) // 8, "big") for number in (found.n, found.e))
        curve, size = _CURVE_NAMES.get(found.curve.name, ""), (found.curve.key_size + 7) // 8
        return curve, b"\x04" + found.x.to_bytes(size, "big") + found.y.to_bytes(size, "big"), b""
    if hasattr(material, "public_bytes_raw") and len(point := material.public_bytes_raw()) == 32:
        return "Ed25519", point, b""
    return "", b"", b""


def _suits(algorithm: str, kind: object, curve: object) -> bool:
    """True when an algorithm works with keys of this `kty` and `crv`."""
    if algorithm in HMAC_BYTES:
        return kind == "oct"
    if algorithm in RSA:
        return kind == "RSA"
    if algorithm in CURVES:
        return kind == "EC" and curve == CURVES[algorithm]
    return kind == "OKP" and curve in ("Ed25519", "Ed448")


def _from_jwk(algorithm: str, jwk: dict[str, Any]) -> Any:
    import jwt

    try:
        return _verifiers()[algorithm].from_jwk(jwk)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        # The original message may quote the key.
        raise KeyUnfit(f"it is not a valid {jwk.get('kty')} key") from error


def _from_pem(label: str, block: str, algorithms: Sequence[str]) -> tuple[Any, list[str]]:
    """Return a PEM block's key, and the algorithms that it fits."""
    if "PRIVATE" in label:
        raise KeyUnfit("it holds a private key: verifying needs only the public key")
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from cryptography.x509 import load_pem_x509_certificate

    try:
        data = block.encode("ascii")
        key = load_pem_x509_certificate(data).public_key() if "CERTIFICATE" in label else load_pem_public_key(data)
    except (ValueError, TypeError) as error:
        raise KeyUnfit(f"its {label.lower()} cannot be read") from error
    kind, curve = "", ""
    if isinstance(key, rsa.RSAPublicKey):
        kind = "RSA"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        kind, curve = "EC", _CURVE_NAMES.get(key.curve.name, key.curve.name)
    elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        kind, curve = "OKP", "Ed25519"
    fit = [name for name in algorithms if _suits(name, kind, curve)]
    if not fit:
        raise KeyUnfit(f"its {kind or 'unknown'} key suits none of {', '.join(algorithms)}")
    _check_rsa(key)
    return key, fit


def _check_rsa(key: Any) -> None:
    numbers = getattr(key, "public_numbers", None)
    if numbers is None or not hasattr(found := numbers(), "e"):
        return
    if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise KeyUnfit(f"an RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, this one {key.key_size}")
    if found.e < 3 or found.e % 2 == 0 or found.e.bit_length() > 32:
        raise KeyUnfit("its RSA exponent is not a common one")


def _short(secret: bytes) -> list[str]:
    raise KeyUnfit(f"too short: {len(secret)} bytes")
