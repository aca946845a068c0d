"""Keys: weak ones, private ones and those made for something else are refused, and each is used for its own algorithm."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from tokens import KINDS, SECRET, jwk, pem, private_key, signed

from budgateway.jose.jws import parse
from budgateway.jose.key import ALGORITHMS, CURVES, HMAC_BYTES, MAX_KEYS, MAX_TRIED, RSA, Key, KeySet, KeyUnfit, verify

PUBLIC = [name for name in ALGORITHMS if name not in HMAC_BYTES]


@pytest.mark.parametrize("algorithm", PUBLIC)
def test_every_public_algorithm_verifies_by_jwk_and_by_pem(algorithm: str) -> None:
    token = parse(signed(algorithm))
    assert verify(token, KeySet([Key.from_jwk(jwk(algorithm), [algorithm])]))
    assert verify(token, KeySet.from_pem(pem(KINDS[algorithm]), [algorithm]))
    others = jwk(algorithm, number=1)
    assert not verify(token, KeySet([Key.from_jwk(others, [algorithm])]))


@pytest.mark.parametrize("algorithm", HMAC_BYTES)
def test_every_secret_algorithm_verifies(algorithm: str) -> None:
    secret = b"s" * HMAC_BYTES[algorithm]
    token = parse(jwt.encode({"sub": "a"}, secret, algorithm))
    assert verify(token, KeySet([Key.from_secret(secret, [algorithm])]))
    assert not verify(token, KeySet([Key.from_secret(b"t" * 64, [algorithm])]))


@pytest.mark.parametrize("algorithm", HMAC_BYTES)
def test_a_secret_is_as_long_as_the_hash(algorithm: str) -> None:
    with pytest.raises(KeyUnfit, match=f"{HMAC_BYTES[algorithm]}"):
        Key.from_secret(b"s" * (HMAC_BYTES[algorithm] - 1), [algorithm])


def test_rsa_keys_have_2048_bits() -> None:
    with pytest.raises(KeyUnfit, match="2048"):
        KeySet.from_pem(pem("rsa1024"), RSA)
    short = jwt.get_algorithm_by_name("RS256").to_jwk(private_key("rsa1024").public_key(), as_dict=True)
    with pytest.raises(KeyUnfit, match="2048"):
        Key.from_jwk({**short, "key_ops": ["verify"]}, RSA)


@pytest.mark.parametrize(
    "change",
    [
        {"use": "enc"}, {"use": 1}, {"key_ops": ["sign"]}, {"key_ops": "verify"}, {"key_ops": []}, {"d": "AQAB"},
        {"kty": "EC"}, {"kty": None}, {"kty": ["RSA"]}, {"alg": "RS512"}, {"alg": "none"}, {"n": "AQAB"}, {"n": None},
        {"n": ""}, {"e": "AA"}, {"e": "Ag"}, {"n": "!!"}, {"kid": 1}, {"e": None},
    ],
)  # fmt: skip
def test_a_key_that_is_not_for_verifying_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(KeyUnfit):
        Key.from_jwk(jwk("RS256") | change, ["RS256"])


@pytest.mark.parametrize("algorithm", CURVES)
def test_a_curve_goes_with_its_own_algorithm_alone(algorithm: str) -> None:
    for other in CURVES:
        if other == algorithm:
            continue
        with pytest.raises(KeyUnfit):
            Key.from_jwk(jwk(algorithm), [other])
        with pytest.raises(KeyUnfit):
            KeySet.from_pem(pem(KINDS[algorithm]), [other])


def test_a_point_off_the_curve_is_refused() -> None:
    bad = jwk("ES256")
    with pytest.raises(KeyUnfit):
        Key.from_jwk(bad | {"y": bad["x"]}, ["ES256"])


def test_a_private_key_is_refused_as_pem() -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        text = private_key("rsa").private_bytes(Encoding.PEM, form, NoEncryption()).decode()
        with pytest.raises(KeyUnfit, match="private"):
            KeySet.from_pem(text, ["RS256"])
    with pytest.raises(KeyUnfit, match="no PEM"):
        KeySet.from_pem(SECRET, ["RS256"])
    with pytest.raises(KeyUnfit):
        KeySet.from_pem("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", ["RS256"])


def test_a_pem_file_may_hold_the_next_key_too() -> None:
    keys = KeySet.from_pem(pem("rsa") + pem("rsa", 1), ["RS256"])
    assert verify(parse(signed()), keys)
    assert verify(parse(signed(number=1)), keys)


def test_a_set_leaves_out_what_it_cannot_use() -> None:
    document = {
        "keys": [
            {"kty": "oct", "k": "c2VjcmV0LXRoYXQtaXMtcHVibGlzaGVkLWJ5LW1pc3Rha2U", "kid": "shared"},
            {"kty": "new-thing"}, 1, None, jwk("RS256", "enc", use="enc"), jwk("ES256", "other"), jwk("RS256", "good"),
        ]
    }  # fmt: skip
    keys = KeySet.from_document(document, ["RS256"])
    assert [key.kid for key in keys.keys] == ["good"]
    # A shared secret in a published set is no secret, whatever the configuration says.
    with pytest.raises(KeyUnfit):
        KeySet.from_document({"keys": document["keys"][:1]}, ["HS256", "RS256"])


@pytest.mark.parametrize(
    "document", [None, [], {}, {"keys": {}}, {"keys": []}, {"keys": [{}]}, "keys", {"keys": [1] * (MAX_KEYS + 1)}]
)
def test_what_is_no_key_set_is_refused(document: object) -> None:
    with pytest.raises(KeyUnfit):
        KeySet.from_document(document, PUBLIC)


def test_a_kid_stands_for_one_key() -> None:
    with pytest.raises(KeyUnfit, match="two keys"):
        KeySet.from_document({"keys": [jwk("RS256", "a"), jwk("RS256", "a", number=1)]}, ["RS256"])


def test_a_token_is_checked_by_the_key_that_it_names() -> None:
    keys = KeySet.from_document({"keys": [jwk("RS256", "a"), jwk("RS256", "b", number=1)]}, ["RS256"])
    assert verify(parse(signed(header={"kid": "a"})), keys)
    assert not verify(parse(signed(header={"kid": "b"})), keys)
    assert not verify(parse(signed(header={"kid": "../../etc/passwd"})), keys)
    assert keys.candidates(parse(signed(header={"kid": "c"}))) == []
    assert verify(parse(signed(number=1)), keys)


def test_a_token_without_a_name_costs_a_handful_of_tries() -> None:
    keys = KeySet([Key.from_jwk(jwk("RS256"), ["RS256"]) for _ in range(20)])
    assert len(keys.candidates(parse(signed()))) == MAX_TRIED
