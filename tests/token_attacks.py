"""Good tokens and attacks on their verification, for the tests of both verifiers and of a whole gateway."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
from tokens import AUDIENCE, ISSUER, KINDS, claims, encoded, forged, jwk, own, pem, private_key, signed

from budgateway.records import Issuer, Secret

OTHER = "https://partner.example.com"
OTHER_SECRET = "the partner's secret of more than sixty-four bytes, as HS512 asks for it"
ISSUERS = (
    Issuer(
        "corp", ISSUER, tuple(KINDS), public_keys="".join(map(pem, dict.fromkeys(KINDS.values()))), audience=(AUDIENCE,)
    ),
    Issuer("partner", OTHER, ("HS512",), secret=Secret(OTHER_SECRET), audience=(AUDIENCE, "other")),
)
NOW = int(time.time())
HS256 = {"alg": "HS256", "typ": "JWT"}
RSA_PEM = pem("rsa").encode()


def by_partner(**changes: Any) -> str:
    return jwt.encode(claims(**({"iss": OTHER} | changes)), OTHER_SECRET, "HS512")


def own_claims(**changes: Any) -> dict[str, Any]:
    return claims(**({"iss": None, "aud": None} | changes))


def unsigned(header: dict[str, Any]) -> str:
    return f"{encoded(json.dumps(header))}.{encoded(json.dumps(own_claims()))}."


def embedded() -> str:
    """Signed by a key of the attacker's own, which the header brings along."""
    key = private_key("rsa", 99)
    header = {
        "jwk": jwk("RS256", "mine", number=99),
        "kid": "mine",
        "jku": "http://127.0.0.1:1/",
        "x5u": "http://127.0.0.1:1/",
    }
    return jwt.encode(claims(), key, "RS256", headers=header)


def tampered(token: str, **changes: Any) -> str:
    head, body, signature = token.split(".")
    said = json.loads(base64.urlsafe_b64decode(body + "=="))
    return f"{head}.{encoded(json.dumps(said | changes))}.{signature}"


GOOD = {
    "own": own,
    "partner": by_partner,
    "partner, second audience": lambda: by_partner(aud=["x", "other"]),
    **{f"corp {name}": (lambda name=name: signed(name)) for name in KINDS},
    "within the skew": lambda: signed(exp=int(time.time()) - 5, nbf=int(time.time()) + 5),
    "a kid that nobody knows, under a file of keys": lambda: signed(header={"kid": "x"}),
    "a user of other letters": lambda: own(sub="Åsa Öberg 東京"),
}
ATTACKS = {
    # no signature, or another's
    **{f"alg {name}": unsigned({"alg": name}) for name in ("none", "None", "NONE", "nOnE", "", "HS256", "null")},
    "alg none, signed": forged({"alg": "none"}, own_claims()),
    "no alg": unsigned({"typ": "JWT"}),
    "empty signature": own().rpartition(".")[0] + ".",
    "signature of zeros": own().rpartition(".")[0] + "." + encoded(bytes(32)),
    "another secret": own("another secret of more than 32 bytes!"),
    "the empty secret": forged(HS256, own_claims(), b""),
    "tampered": tampered(own(), sub="root"),
    "tampered roles": tampered(own(), roles=["admin"]),
    "another hash": forged({"alg": "HS512"}, own_claims(), hash_name="sha512"),
    "a hash cut short": own()[:-8],
    # confusion of algorithms and issuers
    "public key as secret": forged(HS256, claims(), RSA_PEM),
    "public key as secret, without its last newline": forged(HS256, claims(), RSA_PEM.strip()),
    "public key as secret, kid": forged({**HS256, "kid": "corp"}, claims(), RSA_PEM),
    "our secret for an issuer with keys": own(iss=ISSUER, aud=AUDIENCE),
    "our secret for the partner": own(iss=OTHER, aud=AUDIENCE),
    "the partner's secret for ours": jwt.encode(own_claims(), OTHER_SECRET, "HS256"),
    "the partner's secret for corp": jwt.encode(claims(), OTHER_SECRET, "HS512"),
    "the partner, another of its algorithms": jwt.encode(claims(iss=OTHER), OTHER_SECRET, "HS256"),
    "corp's key for the partner": signed(iss=OTHER),
    "corp's key without an issuer": signed(iss=None, aud=None),
    "corp's key for a list of issuers": signed(iss=[ISSUER]),
    "another key": signed(number=7),
    "RS for PS": forged({"alg": "PS256"}, claims(), RSA_PEM),
    "a key that the token brings": embedded(),
    # kid
    **{f"kid {kid[:12]!r}": forged({**HS256, "kid": kid}, own_claims(), b"") for kid in ("../../dev/null", "' OR 1=1 --", "/dev/null", "a\u0000b", "k" * 300)},
    "kid is a list": forged({**HS256, "kid": ["x"]}, own_claims()),
    "kid is a number": forged({**HS256, "kid": 0}, own_claims()),
    # header
    **{f"header {name}": forged({**HS256, name: value}, own_claims()) for name, value in {
        "crit": ["exp"], "zip": "DEF", "b64": False, "enc": "A128GCM", "cty": "JWT", "typ": "dpop+jwt",
    }.items()},
    "header twice": forged('{"alg":"none","alg":"HS256"}', own_claims()),
    "header is a list": forged("[]", own_claims()),
    "header is no JSON": forged("{", own_claims()),
    "header is deep": forged('{"alg":"HS256","x":' + "[" * 2000 + "]" * 2000 + "}", own_claims()),
    # claims
    "expired": own(exp=NOW - 3600),
    "expired by the skew": own(exp=NOW - 31),
    "not yet": own(nbf=NOW + 3600),
    "issued tomorrow": own(iat=NOW + 86400),
    "no exp": own(exp=None),
    "no sub": own(sub=None),
    "wrong audience": signed(aud="other"),
    "no audience": signed(aud=None),
    "an audience where we have none": own(aud=AUDIENCE),
    "wrong issuer": signed(iss="https://evil.example.com/"),
    "issuer without its slash": signed(iss=ISSUER.rstrip("/")),
    **{f"exp {text[:20]}": forged(HS256, f'{{"sub":"a","exp":{text}}}') for text in (
        '"9999999999"', "NaN", "Infinity", "-Infinity", "1e999", "true", "null", "[]", "{}", "-1", "1" * 5000, "99999999999999",
    )},
    **{f"sub {text!r}": forged(HS256, f'{{"exp":{NOW + 60},"sub":{text}}}') for text in (
        '""', "1", "null", '["a"]', '"a\\nb"', '"a\\u0000"', '"\\u202e"', '"\\ud800"', '"' + "a" * 300 + '"', '" a"',
    )},
    "claims twice": forged(HS256, f'{{"sub":"a","exp":{NOW + 60},"roles":[],"roles":["admin"]}}'),
    "claims twice, inside": forged(HS256, f'{{"sub":"a","exp":{NOW + 60},"x":{{"a":1,"a":2}}}}'),
    "claims are a list": forged(HS256, "[]"),
    "claims are text": forged(HS256, '"sub"'),
    "claims are nothing": forged(HS256, ""),
    "claims are no UTF-8": f"{encoded(json.dumps(HS256))}.{encoded(bytes([255, 254]))}.{encoded(bytes(32))}",
    "claims are deep": forged(HS256, f'{{"sub":"a","exp":{NOW + 60},"x":' + "[" * 2500 + "]" * 2500 + "}"),
    "a tenant that is no name": own(tenant=["t"]),
    "roles that are no names": own(roles={"admin": True}),
    "models that are no names": own(models=[1.5]),
    # spelling
    "padded": own() + "=",
    "padded inside": own().replace(".", "=.", 1),
    "a space in it": own()[:20] + " " + own()[20:],
    "two parts": ".".join(own().split(".")[:2]),
    "four parts": own() + ".x",
    "five parts": own() + ".x.y",
    "dots": "..",
    "a token in a token": forged({**HS256, "cty": "JWT"}, own()),
    "letters of another alphabet": own()[:20] + "\xe9" + own()[21:],
    "standard base64": own()[:20] + "+/" + own()[22:],
    "7 KiB of A": "A" * 7000,
    "7 KiB of dots": "." * 7000,
    "of one byte": "x",
    "a quoted one": f'"{own()}"',
    "a key that was never made": "bg-" + "A" * 43,
}  # fmt: skip
