"""Tokens are read strictly: everything that two readers could take for different things is refused."""

from __future__ import annotations

import json

import pytest
from tokens import claims, encoded, forged, own

from budgateway.jose.jws import MAX_TOKEN_BYTES, Refused, json_object, parse

HEADER = {"alg": "HS256", "typ": "JWT"}


def test_a_token_is_taken_apart() -> None:
    token = own()
    taken = parse(token)
    assert (taken.algorithm, taken.kid) == ("HS256", None)
    assert json.loads(taken.payload)["sub"] == "ada"
    assert taken.signed.decode() == token.rpartition(".")[0]
    assert len(taken.signature) == 32


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token + "=",
        lambda token: token + "==",
        lambda token: token.replace(".", "=.", 1),
        lambda token: token + ".",
        lambda token: "." + token,
        lambda token: token.replace(".", "", 1),
        lambda token: token + "\n",
        lambda token: " " + token,
        lambda token: token[:5] + " " + token[5:],
        lambda token: token[:5] + "\u0130" + token[5:],
        lambda token: token[:5] + "+" + token[6:],
        lambda token: token[:5] + "/" + token[6:],
        lambda token: token[:5] + "\x00" + token[5:],
        lambda token: token + "." + token,
        lambda token: "",
        lambda token: ".",
        lambda token: "..",
        lambda token: "é" + token,
    ],
)  # fmt: skip
def test_what_is_not_exactly_three_parts_of_base64url_is_refused(change) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Refused):
        parse(change(own()))


def test_one_signature_has_one_spelling() -> None:
    token = own()
    # 32 bytes leave two bits of the last character without meaning.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twins = [token[:-1] + alphabet[alphabet.index(token[-1]) ^ bits] for bits in (1, 2, 3)]
    for twin in twins:
        with pytest.raises(Refused):
            parse(twin)


def test_eight_kibibytes_and_no_more() -> None:
    fits = forged(HEADER, "x" * (6 * 1024 - 100))
    assert len(fits) < MAX_TOKEN_BYTES
    parse(fits)
    with pytest.raises(Refused):
        parse(forged(HEADER, "x" * 6 * 1024))


@pytest.mark.parametrize("name", ["crit", "zip", "b64", "enc", "epk", "apu", "apv", "p2s", "p2c"])
def test_a_header_that_changes_what_is_signed_is_refused(name: str) -> None:
    with pytest.raises(Refused, match=name):
        parse(forged({**HEADER, name: ["x"]}, claims()))


@pytest.mark.parametrize(
    "header",
    [
        "[]", "null", "1", "{", '{"alg":"HS256"', '{"alg":"HS256"}x', '{"alg":"HS256","alg":"none"}', '{"alg":null}',
        '{"alg":["HS256"]}', '{"alg":1}', "{}", '{"alg":"HS256","kid":1}', '{"alg":"HS256","kid":{}}',
        '{"alg":"HS256","kid":"a\\u0000b"}', '{"alg":"HS256","kid":"' + "k" * 257 + '"}', '{"alg":"HS256","typ":1}',
        '{"alg":"HS256","typ":"dpop+jwt"}', '{"alg":"HS256","typ":"logout+jwt"}', '{"alg":"HS256","cty":"JWT"}',
        '{"alg":"HS256","n":NaN}', '{"alg":"HS256","n":Infinity}', '{"alg":"HS256","n":1e999}', '{"a":' * 900,
        "\ufeff{}",
    ],
)  # fmt: skip
def test_a_header_of_another_kind_is_refused(header: str) -> None:
    with pytest.raises(Refused):
        parse(forged(header, claims()))


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
def test_the_types_of_access_tokens_are_taken(kind: str) -> None:
    parse(forged({"alg": "HS256", "typ": kind}, claims()))


def test_keys_in_the_header_are_not_looked_at() -> None:
    taken = parse(
        forged(
            {**HEADER, "jwk": {"kty": "oct", "k": encoded("x")}, "jku": "http://evil", "x5u": "http://evil"}, claims()
        )
    )
    assert not hasattr(taken, "jwk")
    assert taken.kid is None


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":2}', '{"a":{"b":1,"b":2}}', '{"a":[{"b":1,"b":1}]}', '{"a":NaN}', '{"a":-Infinity}', '{"a":1e400}',
        "[]", '"x"', "", "{", "[" * 5000, '{"a":' + "9" * 5000 + "}", '{"a":01}', "{'a':1}",
    ],
)  # fmt: skip
def test_json_that_two_parsers_could_read_differently_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        json_object(text.encode(), "payload")


@pytest.mark.parametrize("data", [b'{"a":"\xff"}', '{"a":1}'.encode("utf-16"), '{"a":1}'.encode("utf-32-le")])
def test_json_is_utf_8(data: bytes) -> None:
    with pytest.raises(Refused):
        json_object(data, "payload")
