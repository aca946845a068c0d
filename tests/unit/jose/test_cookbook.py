"""RFC 7520, 7797 and 8037's examples: what a gateway can be sent verifies, and the rest is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from corpora import ABSENT
from corpora import FOLDER as CORPORA

from budgateway.jose.jws import Refused, parse
from budgateway.jose.key import ALGORITHMS, Key, KeySet, verify

FOLDER = CORPORA / "jose-cookbook"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=ABSENT)
PRIVATE = ("d", "p", "q", "dp", "dq", "qi")
GOOD = {
    "jws/4_1.rsa_v15_signature.json": "RS256",
    "jws/4_2.rsa-pss_signature.json": "PS384",
    "jws/4_3.ecdsa_signature.json": "ES512",
    "jws/4_4.hmac-sha2_integrity_protection.json": "HS256",
    "curve25519/jws.json": "EdDSA",
}
# What is signed is not in the token, or not encoded in it.
REFUSED = ("jws/4_5.signature_with_detached_content.json", "rfc7797/hmac-sha2_b64_false.json")


def example(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return found


def key_of(entry: dict[str, Any]) -> Key:
    return Key.from_jwk({name: value for name, value in entry.items() if name not in PRIVATE}, ALGORITHMS)


@pytest.mark.parametrize("name", GOOD)
def test_a_token_that_should_verify_does(name: str) -> None:
    case = example(name)
    token = parse(case["output"]["compact"])
    assert token.algorithm == GOOD[name]
    assert token.payload.decode() == case["input"]["payload"]
    assert verify(token, KeySet([key_of(case["input"]["key"])]))


@pytest.mark.parametrize("name", GOOD)
def test_its_signature_is_of_every_bit(name: str) -> None:
    case = example(name)
    token = parse(case["output"]["compact"])
    keys = KeySet([key_of(case["input"]["key"])])
    for place in (0, len(token.signature) // 2, len(token.signature) - 1):
        changed = bytearray(token.signature)
        changed[place] ^= 1
        assert not verify(token._replace(signature=bytes(changed)), keys)
    assert not verify(token._replace(signed=token.signed + b"A"), keys)
    assert not verify(token._replace(signature=token.signature[:-1]), keys)
    assert not verify(token._replace(signature=b""), keys)


@pytest.mark.parametrize("name", GOOD)
def test_another_key_of_the_same_kind_does_not_verify_it(name: str) -> None:
    token = parse(example(name)["output"]["compact"])
    mine = example(name)["input"]["key"]
    others = [key for key in (example(other)["input"]["key"] for other in GOOD) if key != mine]
    assert len(others) >= 3
    for key in others:
        assert not verify(token, KeySet([key_of(key)]))


@pytest.mark.parametrize("name", REFUSED)
def test_a_token_without_its_payload_is_refused(name: str) -> None:
    case = example(name)
    with pytest.raises(Refused):
        token = parse(case["output"]["compact"])
        if not verify(token, KeySet([key_of(case["input"]["key"])])):
            raise Refused("its signature is invalid")


def test_the_other_serializations_and_encrypted_tokens_are_refused() -> None:
    for file in sorted(Path(FOLDER).rglob("*.json")):
        output = json.loads(file.read_text()).get("output", {})
        texts = [json.dumps(output[kind]) for kind in ("json", "json_flat") if kind in output]
        if file.parent.name == "jwe" and "compact" in output:
            texts.append(output["compact"])
        for text in texts:
            with pytest.raises(Refused):
                parse(text)


def test_the_folder_is_the_one_that_was_read_before() -> None:
    found = {str(file.relative_to(FOLDER)) for file in Path(FOLDER).rglob("*.json")}
    with_compact = {
        name
        for name in found
        if "compact" in example(name).get("output", {}) and "jwe" not in name and "ecdh" not in name
    }
    assert with_compact == {*GOOD, *REFUSED}
