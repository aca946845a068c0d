"""The native verifier of tokens: it gives Python's answer to the letter, or none, and none is rare."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import jwt
import pytest
from both_verifiers import OWN, answer, is_decided_natively
from corpora import ABSENT, FOLDER
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from token_attacks import ATTACKS, GOOD, ISSUERS
from tokens import AUDIENCE, ISSUER, KINDS, claims, encoded, forged, jwk, own, pem, signed

from budgateway.auth.bearer import Bearers, Rejected, UnknownKey, Verified
from budgateway.jose.jws import Refused
from budgateway.jose.key import HMAC_BYTES
from budgateway.records import ClaimPaths, Issuer, Secret

NOW = time.time()  # when the attacks were made
HS256 = {"alg": "HS256", "typ": "JWT"}
CONFIGURED = Bearers((OWN, *ISSUERS))
# What only Python decides among the good ones: letters beyond ASCII, and a curve that is not verified natively.
LEFT_TO_PYTHON = {"a user of other letters", "corp ES512"}


def payload(**changes: Any) -> dict[str, Any]:
    return claims(**({"iss": None, "aud": None} | changes))


def raw_signature(token: str) -> bytes:
    return jwt.utils.base64url_decode(token.rpartition(".")[2])


@pytest.mark.parametrize("name", GOOD)
def test_a_good_token_is_good_for_both(name: str) -> None:
    token = GOOD[name]()
    assert answer(CONFIGURED.verify, token, time.time())[0] is Verified
    assert is_decided_natively(CONFIGURED, token, time.time()) == (name not in LEFT_TO_PYTHON)


def test_an_attack_is_refused_by_both_for_the_same_reason() -> None:
    left = []
    for name, token in ATTACKS.items():
        if not is_decided_natively(CONFIGURED, token, NOW):
            left.append(name)
        assert issubclass(answer(CONFIGURED.verify, token, NOW)[0], Refused), name
    # Huge integers, deep nesting, halves of surrogate pairs and characters beyond ASCII.
    assert len(left) <= 8, left


@pytest.mark.parametrize(
    "text",
    [
        "[]", "null", "1", "{", "", " ", "{}", '{"alg":"HS256"', '{"alg":"HS256"}x', '{"alg":"HS256","alg":"none"}',
        '{"alg":null}', '{"alg":["HS256"]}', '{"alg":1}', '{"alg":"HS256","kid":1}', '{"alg":"HS256","kid":{}}',
        '{"alg":"HS256","kid":null}', '{"alg":"HS256","kid":""}', '{"alg":"HS256","kid":"a\\u0000b"}',
        '{"alg":"HS256","kid":"' + "k" * 256 + '"}', '{"alg":"HS256","kid":"' + "k" * 257 + '"}',
        '{"alg":"HS256","kid":"\\u00e9"}', '{"alg":"HS256","kid":"\u2028"}', '{"alg":"HS256","kid":"\\ud800"}',
        '{"alg":"HS256","typ":1}', '{"alg":"HS256","typ":null}', '{"alg":"HS256","typ":"JWT "}',
        '{"alg":"HS256","typ":"dpop+jwt"}', '{"alg":"HS256","typ":"JOSE"}', '{"alg":"HS256","typ":"\u212aWT"}',
        '{"alg":"HS256","cty":"JWT"}', '{"alg":"HS256","cty":"json"}', '{"alg":"HS256","cty":null}',
        '{"alg":"HS256","n":NaN}', '{"alg":"HS256","n":Infinity}', '{"alg":"HS256","n":-Infinity}',
        '{"alg":"HS256","n":1e999}', '{"alg":"HS256","n":-1e999}', '{"alg":"HS256","n":1e-999}',
        '{"alg":"HS256","n":1e999,"n":1}', '{"alg":"HS256","n":1e999', '{"a":' * 900, "\ufeff{}",
        '{"alg":"HS256","a\\u0062":1,"ab":2}', '{"alg":"HS256","a\\/b":1,"a/b":2}', '{"\\u0061lg":"HS256"}',
        '{"alg":"\\u0048S256"}', '{"alg":"HS256","x":"\\ud83d\\ude00","y":"\\ud83d"}', '{"alg":"HS256","x":"\\q"}',
        '{"alg":"HS256","x":"\\u12"}', '{"alg":"HS256","x":"\t"}', '{"alg":"HS256","x":"\x7f"}', '{"alg":"HS256",}',
        '{"alg":"HS256","n":01}', '{"alg":"HS256","n":1.}', '{"alg":"HS256","n":.5}', '{"alg":"HS256","n":1e}',
        '{"alg":"HS256","n":-}', '{"alg":"HS256","n":+1}', '{"alg":"HS256","n":0x1}', '{"alg":"HS256","n":tru}',
        '{"alg":"HS256","n":' + "9" * 5000 + "}", '{"alg":"HS256","n":' + "9" * 4000 + "}",
        '{"alg":"HS256","n":' + "9" * 400 + ".5e+}", "{'alg':1}", '\r\n\t {"alg" : "HS256" }\n', '{"alg":"HS256"}\x0b',
        '{"alg":"HS256"}\u00a0', '{"alg":"HS256"}\x00',
        *('{"alg":"HS256","' + name + '":null}' for name in ("crit", "zip", "b64", "enc", "epk", "apu", "apv", "p2s")),
    ],
)  # fmt: skip
def test_a_header_and_a_payload_are_read_alike(text: str) -> None:
    is_decided_natively(CONFIGURED, forged(text, payload()), time.time())
    is_decided_natively(CONFIGURED, forged(HS256, text), time.time())
    # As part of claims that are good but for it.
    good = json.dumps(payload())
    is_decided_natively(CONFIGURED, forged(HS256, f"{good[:-1]}, {text[1:]}"), time.time())
    is_decided_natively(CONFIGURED, forged(HS256, f'{good[:-1]}, "x": [{text}]}}'), time.time())


@pytest.mark.parametrize(
    "data", [b'{"sub":"\xff"}', b'{"sub":"\xed\xa0\x80"}', '{"a":1}'.encode("utf-16"), b"\xef\xbb\xbf{}"]
)
def test_bytes_that_are_not_utf_8_are_refused_alike(data: bytes) -> None:
    for token in (f"{encoded(json.dumps(HS256))}.{encoded(data)}.AAAA", f"{encoded(data)}.{encoded('{}')}.AAAA"):
        assert is_decided_natively(CONFIGURED, token, time.time())


@pytest.mark.parametrize("size", [8192, 8193])
@pytest.mark.parametrize("letter", ["A", "é"])
def test_the_longest_token_is_the_same(size: int, letter: str) -> None:
    token = f"{encoded(json.dumps(HS256))}."
    is_decided_natively(CONFIGURED, token + letter * (size - len(token)), time.time())


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 42, 1.5, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 10**30, -0.0, 1e308, "", " ", "a", " a",
    "a b", "a  b ", "a\tb", "a\x1cb", "a\x7fb", "é", "\u202e", "\u00a0", "x" * 255, "x" * 256, [], [None], ["a", "a"],
    ["b", "", None, 7], [True], [1.5], [["a"]], ["a\n"], ["x"] * 256, ["x"] * 257, {}, {"a": 1}, {"name": "n"},
    {"roles": ["r"], "groups": "g"}, "w " * 257, "Former Admins", "ops", ["ops", "é"],
]  # fmt: skip
PATHS = (
    ClaimPaths(),
    ClaimPaths("sub", "tenant.name", "realm.roles", "https://example.com/groups", "scope"),
    ClaimPaths("uid", "org", "scp", "a.b.groups", "access.scopes"),
)


@pytest.mark.parametrize("paths", PATHS)
@pytest.mark.parametrize("giving", [False, True])
def test_claims_become_the_same_principal(paths: ClaimPaths, giving: bool) -> None:
    issuer = replace(OWN, claims=paths, roles=("base",) if giving else (), tenant="fixed" if giving else "",
                     group_roles=(("ops", ("admin", "base")), ("g", ("y",))))  # fmt: skip
    bearers = Bearers((issuer,))
    names = {"sub", "uid", "tenant", "roles", "groups", "models", "org", "realm", "scope", "scp", "access", "a.b.groups",
             "https://example.com/groups"}  # fmt: skip
    decided = [
        is_decided_natively(bearers, forged(HS256, payload(uid="u") | {name: value}), time.time())
        for name in sorted(names)
        for value in VALUES
    ]
    assert sum(decided) > len(decided) * 0.8


@pytest.mark.parametrize(
    "text",
    ["NOW", "NOW.5", "-0", "0", "0.0", "1e9", "1.9e9", "1E+9", "253402300799", "253402300799.5", "253402300800",
     "9007199254740993", "9223372036854775807", "9223372036854775808", "-1", "-0.5", '"1"', "null", "true", "[]",
     "1" * 5000, "1" * 400, "NOWe0", "NOW.000"],
)  # fmt: skip
@pytest.mark.parametrize("leeway", [30.0, 0.0, 7.5])
def test_times_are_compared_alike(text: str, leeway: float) -> None:
    bearers = Bearers((replace(OWN, leeway_s=leeway),))
    now = float(int(time.time()))
    for name in ("exp", "nbf", "iat"):
        for shift in (-31, -30, -1, 0, 1, 30, 31):
            number = text.replace("NOW", str(int(now) + shift))
            made = {key: value for key, value in payload().items() if key != name}
            token = forged(HS256, f'{json.dumps(made)[:-1]}, "{name}": {number}}}')
            is_decided_natively(bearers, token, now)


@pytest.mark.parametrize("audience", [(), (AUDIENCE,), ("a", "b")])
@pytest.mark.parametrize("any_audience", [False, True])
def test_audiences_are_compared_alike(audience: tuple[str, ...], any_audience: bool) -> None:
    bearers = Bearers((replace(OWN, audience=audience, any_audience=any_audience),))
    for value in (
        "",
        "a",
        AUDIENCE,
        "é",
        [],
        ["a"],
        ["x", "b"],
        ["x"],
        ["a", 1],
        [1],
        None,
        1,
        True,
        {},
        {"a": 1},
        [["a"]],
    ):
        made = payload() | {"aud": value}
        assert is_decided_natively(bearers, forged(HS256, made), time.time())


def test_issuers_are_found_alike() -> None:
    bearers = Bearers((replace(OWN, issuer="https://a"), OWN, replace(OWN, name="second"), *ISSUERS))
    for value in ("https://a", "https://a/", "", None, 1, ["https://a"], {}, ISSUER, "é"):
        assert is_decided_natively(bearers, forged(HS256, payload() | {"iss": value}), time.time())
    named = Bearers((replace(OWN, issuer="https://a"),))
    for value in ("https://a", "x", None):
        assert is_decided_natively(named, forged(HS256, payload() | {"iss": value}), time.time())


@pytest.mark.parametrize("algorithm", KINDS)
def test_a_changed_signature_is_rejected_by_both(algorithm: str) -> None:
    head, body, _ = signed(algorithm).split(".")
    signature = raw_signature(signed(algorithm))
    bearers = Bearers(ISSUERS)
    changed = [
        b"",
        bytes(len(signature)),
        b"\xff" * len(signature),
        signature[:-1],
        signature + b"\0",
        b"\0" + signature,
    ]
    for place in (0, 1, len(signature) // 2, len(signature) - 1):
        flipped = bytearray(signature)
        flipped[place] ^= 0x80
        changed.append(bytes(flipped))
    for one in changed:
        is_decided_natively(bearers, f"{head}.{body}.{encoded(one)}", time.time())
        assert answer(bearers.verify, f"{head}.{body}.{encoded(one)}", time.time())[0] is Rejected


@pytest.mark.parametrize(("algorithm", "order"), [
    ("ES256", 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551),
    ("ES384", 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973),
])  # fmt: skip
def test_the_numbers_of_an_ecdsa_signature_have_one_range(algorithm: str, order: int) -> None:
    bearers, token = Bearers(ISSUERS), signed(algorithm)
    signature, signed_text = raw_signature(token), token.rpartition(".")[0]
    half = len(signature) // 2
    r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    top = (1 << half * 8) - 1
    for one, other, good in [
        (r, s, True), (r, order - s, True), (0, s, False), (r, 0, False), (order, s, False), (r, order, False),
        (top, s, False), (r, top, False), (0, 0, False), (1, 1, False), (r, min(s + order, top), False),
    ]:  # fmt: skip
        changed = encoded(one.to_bytes(half, "big") + other.to_bytes(half, "big"))
        assert is_decided_natively(bearers, f"{signed_text}.{changed}", time.time())
        assert (answer(bearers.verify, f"{signed_text}.{changed}", time.time())[0] is Verified) == good
    # DER is another encoding, which JWS does not have (RFC 7518 3.4).
    assert decode_dss_signature(encode_dss_signature(r, s)) == (r, s)
    assert is_decided_natively(bearers, f"{signed_text}.{encoded(encode_dss_signature(r, s))}", time.time())


def test_ed25519_signatures_are_judged_alike_at_their_edges() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    token = signed("EdDSA")
    signature, signed_text = raw_signature(token), token.rpartition(".")[0]
    larger = signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    bearers = Bearers(ISSUERS)
    assert is_decided_natively(bearers, f"{signed_text}.{encoded(larger)}", time.time())
    assert answer(bearers.verify, f"{signed_text}.{encoded(larger)}", time.time())[0] is Rejected
    # Points of small order, and encodings that are not canonical: as public key and in the signature.
    points = [
        (1).to_bytes(32, "little"), bytes(32), (2**255 - 20).to_bytes(32, "little"), (2**255 - 19).to_bytes(32, "little"),
        (2**255 - 18).to_bytes(32, "little"), (2**256 - 1).to_bytes(32, "little"), bytes([1, *[0] * 30, 128]),
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
    ]  # fmt: skip
    issuer = Issuer("small", ISSUER, ("EdDSA",), jwks_url="https://x", audience=(AUDIENCE,))
    for key in points:
        bearers = Bearers((issuer,))
        bearers.learn({"small": {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": encoded(key)}]}})
        for point in points:
            for number in (0, 1, order):
                changed = encoded(point + number.to_bytes(32, "little"))
                is_decided_natively(bearers, f"{signed_text}.{changed}", time.time())


@pytest.mark.parametrize("bits", [2048, 2049, 2055, 3072, 4096])
@pytest.mark.parametrize("exponent", [3, 65537])
def test_rsa_keys_of_every_size_verify(bits: int, exponent: int) -> None:
    if bits == 4096 and exponent == 3:
        pytest.skip("takes long to generate")
    key = rsa.generate_private_key(exponent, bits)
    text = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    names = [name for name in KINDS if KINDS[name] == "rsa"]
    bearers = Bearers((Issuer("corp", ISSUER, tuple(names), public_keys=text, audience=(AUDIENCE,)),))
    for name in names:
        token = jwt.encode(claims(), key, name)
        assert is_decided_natively(bearers, token, time.time())
        assert answer(bearers.verify, token, time.time())[0] is Verified
        assert is_decided_natively(bearers, signed(name), time.time())


@pytest.mark.parametrize("algorithm", HMAC_BYTES)
@pytest.mark.parametrize("size", [64, 128, 129, 500])
def test_secrets_of_every_size_verify(algorithm: str, size: int) -> None:
    secret = "s" * size
    bearers = Bearers((Issuer("own", "", (algorithm,), secret=Secret(secret)),))
    token = jwt.encode(payload(), secret, algorithm)
    assert is_decided_natively(bearers, token, time.time())
    assert answer(bearers.verify, token, time.time())[0] is Verified
    assert is_decided_natively(bearers, jwt.encode(payload(), secret + "x", algorithm), time.time())


def test_keys_that_are_not_verified_natively_are_left_to_python() -> None:
    key = ed448.Ed448PrivateKey.generate()
    text = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    bearers = Bearers((Issuer("corp", ISSUER, ("EdDSA",), public_keys=text + pem("ed25519"), audience=(AUDIENCE,)),))
    token = jwt.encode(claims(), key, "EdDSA")
    assert not is_decided_natively(bearers, token, time.time())
    assert answer(bearers.verify, token, time.time())[0] is Verified
    # The first key of two is one of them, and so every token has to be shown to Python.
    assert not is_decided_natively(bearers, signed("EdDSA"), time.time())
    assert answer(bearers.verify, signed("EdDSA"), time.time())[0] is Verified


def test_fetched_keys_count_from_the_moment_they_are_learnt() -> None:
    issuer = Issuer("corp", ISSUER, ("RS256", "ES256"), jwks_url="https://x", audience=(AUDIENCE,))
    bearers = Bearers((issuer, OWN))
    first, second = signed(header={"kid": "a"}), signed(number=1, header={"kid": "b"})

    def kinds() -> list[type]:
        for token in (first, second, own()):
            assert is_decided_natively(bearers, token, time.time())
        return [answer(bearers.verify, token, time.time())[0] for token in (first, second, own())]

    assert kinds() == [UnknownKey, UnknownKey, Verified]
    bearers.learn({"corp": {"keys": [jwk("RS256", "a")]}})
    assert kinds() == [Verified, UnknownKey, Verified]
    bearers.learn({"corp": {"keys": [jwk("RS256", "b", number=1)]}})
    assert kinds() == [UnknownKey, Verified, Verified]
    bearers.learn({"corp": {"keys": [jwk("RS256"), jwk("RS256", number=1), jwk("ES256", "e")]}})
    assert kinds() == [Verified, Verified, Verified]
    bearers.learn({})
    assert kinds() == [UnknownKey, UnknownKey, Verified]


def test_at_most_eight_keys_are_tried() -> None:
    for count, kind in ((7, Verified), (8, Rejected)):
        bearers = Bearers((Issuer("corp", ISSUER, ("ES256",), jwks_url="https://x", audience=(AUDIENCE,)),))
        others = [ec.generate_private_key(ec.SECP256R1()).public_key() for _ in range(count)]
        to_jwk = jwt.get_algorithm_by_name("ES256").to_jwk
        bearers.learn({"corp": {"keys": [*(to_jwk(key, as_dict=True) for key in others), jwk("ES256")]}})
        assert is_decided_natively(bearers, signed("ES256"), time.time())
        assert answer(bearers.verify, signed("ES256"), time.time())[0] is kind


def test_a_kid_beyond_ascii_is_compared_by_python() -> None:
    bearers = Bearers((Issuer("corp", ISSUER, ("ES256",), jwks_url="https://x", audience=(AUDIENCE,)),))
    kids = ["\ud800", "\ufffd", "?", "é", "\\ud800"]
    bearers.learn({"corp": {"keys": [jwk("ES256", kid, number=at) for at, kid in enumerate(kids)]}})
    for at, kid in enumerate(kids):
        token = signed("ES256", header={"kid": kid}, number=at)
        assert is_decided_natively(bearers, token, time.time()) == kid.isascii()
        assert answer(bearers.verify, token, time.time())[0] is (Refused if kid == "\ud800" else Verified)


COOKBOOK = FOLDER / "jose-cookbook"


@pytest.mark.skipif(not COOKBOOK.is_dir(), reason=ABSENT)
def test_the_cookbooks_tokens_are_refused_alike() -> None:
    for file in sorted(COOKBOOK.rglob("*.json")):
        for output in json.loads(file.read_text()).get("output", {}).values():
            is_decided_natively(CONFIGURED, output if isinstance(output, str) else json.dumps(output), NOW)


@pytest.mark.skipif(not COOKBOOK.is_dir(), reason=ABSENT)
@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("jws/4_1.rsa_v15_signature.json", "RS256"), ("jws/4_2.rsa-pss_signature.json", "PS384"),
        ("jws/4_3.ecdsa_signature.json", "ES512"), ("curve25519/jws.json", "EdDSA"),
    ],
)  # fmt: skip
def test_the_cookbooks_keys_verify_alike(name: str, algorithm: str) -> None:
    key = json.loads((COOKBOOK / name).read_text())["input"]["key"]
    public = {name: value for name, value in key.items() if name in ("kty", "kid", "crv", "x", "y", "n", "e")}
    bearers = Bearers((Issuer("corp", ISSUER, (algorithm,), jwks_url="https://x", audience=(AUDIENCE,)),))
    bearers.learn({"corp": {"keys": [public]}})
    token = jwt.encode(claims(), jwt.get_algorithm_by_name(algorithm).from_jwk(key), algorithm)
    assert is_decided_natively(bearers, token, time.time()) == (algorithm != "ES512")
    assert answer(bearers.verify, token, time.time())[0] is Verified
    assert answer(bearers.verify, token[:-4] + "AAAA", time.time())[0] is Rejected
    is_decided_natively(bearers, token[:-4] + "AAAA", time.time())


ORDINARY: dict[str, dict[str, Any]] = {
    "keycloak": {
        "jti": "0e6bc4c1", "typ": "Bearer", "azp": "web", "session_state": "5ab", "acr": "1", "scope": "openid profile",
        "allowed-origins": ["https://a.example.com"], "realm_access": {"roles": ["offline_access", "chat"]},
        "resource_access": {"account": {"roles": ["manage-account", "view-profile"]}}, "email_verified": True,
        "name": "Åsa Öberg", "preferred_username": "asa", "groups": ["/ml/team", "/staff"],
    },
    "entra": {
        "aio": "E2ZgYEj", "idtyp": "app", "oid": "d0f3", "rh": "0.AXoA", "roles": ["Chat.Use"], "scp": "Chat.Use User.Read",
        "tid": "72f988bf-86f1-41af-91ab-2d7cd011db47", "uti": "x", "ver": "2.0", "nbf": int(NOW) - 5, "azpacr": "1",
    },
    "auth0": {
        "azp": "my_client_id", "scope": "openid email", "permissions": ["read:models", "use:chat"],
        "https://example.com/roles": ["chat"], "org_id": "org_1", "gty": "password",
    },
    "okta": {"ver": 1, "jti": "AT.0mP4J", "cid": "nmdP1", "uid": "00u", "scp": ["openid", "chat"], "auth_time": int(NOW)},
    "gitlab": {"namespace_id": "72", "project_id": "20", "user_access_levels": None, "runner_id": 1, "environment": "é"},
}  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "EdDSA"])
def test_an_ordinary_token_is_never_left_to_python(name: str, algorithm: str) -> None:
    issuer = replace(ISSUERS[0], claims=ClaimPaths(roles="realm_access.roles", tenant="tid", models="models"))
    assert is_decided_natively(
        Bearers((issuer,)), signed(algorithm, header={"kid": "k1"}, **ORDINARY[name]), time.time()
    )
    assert answer(Bearers((issuer,)).verify, signed(algorithm, **ORDINARY[name]), time.time())[0] is Verified
