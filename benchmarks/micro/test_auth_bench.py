"""Cost of a credential: verified at first use, and cached after that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from budgateway.auth.authenticator_cy import CredentialAuthenticator
from budgateway.auth.bearer import Bearers
from budgateway.auth.credential_store import CredentialSet, CredentialStore
from budgateway.auth.keys import digest_of, new_secret, start_of
from budgateway.auth.roles import Roles
from budgateway.exchange.exchange_cy import Exchange
from budgateway.native import RequestHead
from budgateway.records import ApiKey, Auth, Issuer, Permission, Secret

SECRET = "a secret of more than thirty-two bytes"
ISSUER = "https://login.example.com/"
PRIVATE: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
PEM = "".join(
    key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() for key in PRIVATE.values()
)
KEY = new_secret()
ISSUERS = (
    Issuer("own", "", ("HS256",), secret=Secret(SECRET)),
    Issuer("corp", ISSUER, tuple(PRIVATE), public_keys=PEM, audience=("gw",)),
)
GRANTS = (Permission("chat", routes=("chat",), methods=("POST",), models=("gpt-4o*", "vllm/*")),)


def claims(number: int = 0) -> dict[str, Any]:
    now = int(time.time())
    return {"sub": f"user-{number}", "iat": now, "exp": now + 3600, "roles": ["chat"], "tenant": "acme"}


def hs256(number: int = 0) -> str:
    return jwt.encode(claims(number), SECRET, "HS256")


def signed(algorithm: str, number: int = 0) -> str:
    if algorithm == "HS256":
        return hs256(number)
    return jwt.encode({**claims(number), "iss": ISSUER, "aud": "gw"}, PRIVATE[algorithm], algorithm)


def stage() -> CredentialAuthenticator:
    keys = (ApiKey("k", digest_of(KEY), start_of(KEY), roles=("chat",), tenant="acme"),)
    return CredentialAuthenticator(
        Bearers(ISSUERS), CredentialStore(CredentialSet({}, keys)), Roles(Auth(grants=GRANTS)), False
    )


def exchange(header: str) -> Exchange:
    head = RequestHead.parse(f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n".encode())
    assert head is not None
    x = Exchange(head, None, "127.0.0.1", time.monotonic_ns())
    x.model = "gpt-4o-mini"
    return x


def known(header: str) -> Callable[[], None]:
    """Both calls of the stage for a credential that was seen before."""
    auth, x = stage(), exchange(header)
    auth.identify(x)
    auth.authorize(x, "authenticated", "chat")
    assert x.principal is not None

    def run() -> None:
        auth.identify(x)
        auth.authorize(x, "authenticated", "chat")

    return run


@pytest.mark.parametrize(
    "header",
    [f"authorization: Bearer {hs256()}", f"authorization: Bearer {signed('RS256')}", f"x-api-key: {KEY}"],
    ids=["hs256", "rs256", "key"],
)
def test_known_credential_compiled(benchmark: Any, header: str) -> None:
    benchmark.pedantic(known(header), rounds=200, iterations=500, warmup_rounds=5)


@pytest.mark.parametrize("algorithm", ["HS256", *PRIVATE])
@pytest.mark.parametrize("way", ["native", "python"])
def test_first_token(benchmark: Any, algorithm: str, way: str) -> None:
    """The verification alone."""
    bearers = Bearers(ISSUERS)
    verify = bearers.verify if way == "native" else bearers.verify_slowly
    tokens = [signed(algorithm, number) for number in range(64)]
    turn = iter(range(10**9))
    now = time.time()
    verify(tokens[0], now)
    benchmark.pedantic(lambda: verify(tokens[next(turn) % 64], now), rounds=100, iterations=20, warmup_rounds=2)


@pytest.mark.parametrize("algorithm", ["HS256", *PRIVATE])
def test_new_credential_compiled(benchmark: Any, algorithm: str) -> None:
    """Do as `test_known_credential_compiled` does, for 64 tokens never seen before: divide by 64."""
    exchanges = [exchange(f"authorization: Bearer {signed(algorithm, number)}") for number in range(64)]

    def run(auth: CredentialAuthenticator) -> None:
        for x in exchanges:
            auth.identify(x)
            auth.authorize(x, "authenticated", "chat")

    benchmark.pedantic(run, setup=lambda: ((stage(),), {}), rounds=100, warmup_rounds=2)


def test_first_key(benchmark: Any) -> None:
    ring = stage_ring()
    benchmark.pedantic(lambda: ring.find(KEY, 0.0), rounds=100, iterations=500, warmup_rounds=2)


def stage_ring() -> Any:
    return CredentialStore(CredentialSet({}, (ApiKey("k", digest_of(KEY), start_of(KEY)),))).ring
