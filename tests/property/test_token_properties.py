"""Both verifiers give one answer for every token, however it was changed and whatever JSON it holds."""

from __future__ import annotations

import json
import time
from typing import Any

from both_verifiers import OWN, is_decided_natively
from hypothesis import given
from hypothesis import strategies as st
from token_attacks import ISSUERS, by_partner
from tokens import KINDS, claims, encoded, forged, own, signed

from budgateway.auth.bearer import Bearers

NOW = time.time()
BEARERS = Bearers((OWN, *ISSUERS))
TOKENS = [own(), by_partner(), *(signed(name) for name in KINDS)]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
INK = st.text(st.sampled_from(LETTERS + LETTERS + ".=+/ \n\x00é\ud800"), max_size=6)


@st.composite
def changed(draw: st.DrawFn) -> str:
    """A valid token with a few pieces cut, replaced, doubled, or taken from another one."""
    token = draw(st.sampled_from(TOKENS))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(token)))
        end = start + draw(st.integers(0, 5))
        match draw(st.integers(0, 4)):
            case 0:
                token = token[:start] + token[end:]
            case 1:
                token = token[:start] + draw(INK) + token[end:]
            case 2:
                token = token[:start] + token[start:end] + token[start:]
            case 3:
                token = token[:start] + draw(st.sampled_from(TOKENS))[start:]
            case _:
                parts, other = token.split("."), draw(st.sampled_from(TOKENS)).split(".")
                place = draw(st.integers(0, 2))
                token = ".".join(other[at] if at == place else part for at, part in enumerate(parts[:3]))
    return token


@given(changed())
def test_a_changed_token_gets_one_answer(token: str) -> None:
    is_decided_natively(BEARERS, token, NOW)


NAMES = ["iss", "aud", "sub", "exp", "nbf", "iat", "tenant", "roles", "groups", "models", "alg", "typ", "kid", "x"]
# Text of JSON, not values: what two parsers could read differently has no value.
LEAVES = st.one_of(
    st.sampled_from(
        ["null", "true", "false", "0", "-0", "1e999", "NaN", "-Infinity", "1.5", "01", "1.", "9" * 30, "9" * 700, "1e-999",
         '""', '"a"', '"\\u0061"', '"\\ud83d"', '"\\ud83d\\ude00"', '"a\\/b"', '" a"', '"a b"', '"\x7f"', '"é"', "{}", "[]",
         '"budgateway"', '"HS256"', '"JWT"', str(int(NOW)), str(int(NOW) + 9), "[" * 70 + "]" * 70, "tru", ""]
    ),
    st.integers().map(str),
    st.floats().map(json.dumps),
    st.text(max_size=8).map(json.dumps),
    st.text(st.characters(codec="utf-8"), max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False)),
)  # fmt: skip
KEYS = st.one_of(
    st.sampled_from(NAMES).map(json.dumps), st.sampled_from(['"\\u0073ub"', '"s\\u0075b"', '"x"', '"\\ud800"'])
)


def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.lists(st.tuples(KEYS, values).map(":".join), max_size=4)
    return st.tuples(members, st.sampled_from([",", " , ", ",\n"])).map(lambda made: "{" + made[1].join(made[0]) + "}")


DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: objects(inner) | st.lists(inner, max_size=3).map(lambda made: f"[{','.join(made)}]"),
    max_leaves=6,
)


@given(st.lists(st.tuples(KEYS, DOCUMENTS).map(":".join), max_size=5), st.booleans())
def test_claims_of_any_json_get_one_answer(members: list[str], replacing: bool) -> None:
    good: dict[str, Any] = claims(iss=None, aud=None)
    if replacing:
        named = {member.partition(":")[0].strip('"') for member in members}
        good = {name: value for name, value in good.items() if name not in named}
    text = ",".join([*(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in good.items()), *members])
    token = forged({"alg": "HS256"}, "{" + text.encode(errors="replace").decode() + "}")
    is_decided_natively(BEARERS, token, time.time())


@given(objects(DOCUMENTS), st.booleans())
def test_a_header_of_any_json_gets_one_answer(text: str, good: bool) -> None:
    if good:
        text = text.replace("{", '{"alg":"HS256",' if len(text) > 2 else '{"alg":"HS256"', 1)
    is_decided_natively(
        BEARERS, forged(text.encode(errors="replace").decode(), claims(iss=None, aud=None)), time.time()
    )


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_parts_of_any_bytes_get_one_answer(header: bytes, payload: bytes) -> None:
    is_decided_natively(BEARERS, f"{encoded(header)}.{encoded(payload)}.{encoded(payload)}", NOW)
    is_decided_natively(BEARERS, f"{encoded(json.dumps({'alg': 'HS256'}))}.{encoded(payload)}.", NOW)
