"""Claims: times, audience and issuer are what they must be, and a principal is made of what can be read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from budgateway.auth.claims import NO_MODELS, judge, principal
from budgateway.jose.jws import Refused
from budgateway.records import ClaimPaths, Issuer

NOW = 1_800_000_000.0
CORP = Issuer("corp", "https://login.example.com/", ("RS256",), audience=("budgateway", "api"), leeway_s=30.0)
GOOD: dict[str, Any] = {"iss": CORP.issuer, "aud": "api", "sub": "ada", "exp": int(NOW) + 60}


def with_(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (GOOD | changes).items() if value != "absent"}


def test_a_good_token_is_good_until_it_expires_and_the_clocks_may_differ() -> None:
    assert judge(GOOD, CORP, NOW) == NOW + 90
    assert judge(GOOD, CORP, NOW + 89.9) == NOW + 90
    with pytest.raises(Refused, match="expired"):
        judge(GOOD, CORP, NOW + 90)


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_token_of_the_future_is_refused(name: str) -> None:
    judge(with_(**{name: int(NOW) + 30}), CORP, NOW)
    with pytest.raises(Refused, match=name):
        judge(with_(**{name: int(NOW) + 31}), CORP, NOW)


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value",
    ["1900000000", "", None, True, [], {}, -1, 10**15, 10**400, -(10**400), float("inf"), float("nan"), [1900000000]],
)
def test_a_time_is_a_number_of_seconds(name: str, value: object) -> None:
    with pytest.raises(Refused, match=name):
        judge(with_(**{name: value}), CORP, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"exp": "absent"}, {"iss": "absent"}, {"iss": "https://login.example.com"}, {"iss": None}, {"iss": [CORP.issuer]},
        {"iss": CORP.issuer + "x"}, {"aud": "absent"}, {"aud": "apiary"}, {"aud": ["x", "y"]}, {"aud": []}, {"aud": 1},
        {"aud": ["api", 1]}, {"aud": None}, {"aud": {"api": 1}}, {"aud": ""},
    ],
)  # fmt: skip
def test_a_token_for_or_of_somebody_else_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        judge(with_(**change), CORP, NOW)


def test_any_audience_is_taken_where_the_operator_says_so() -> None:
    anyone = replace(CORP, audience=(), any_audience=True)
    for audience in ("absent", "x", ["x"]):
        judge(with_(aud=audience), anyone, NOW)


def test_without_an_audience_of_our_own_a_token_for_somebody_is_not_for_us() -> None:
    own = Issuer("own", "", ("HS256",))
    judge({"exp": int(NOW) + 1}, own, NOW)
    with pytest.raises(Refused, match="audience"):
        judge({"exp": int(NOW) + 1, "aud": "api"}, own, NOW)


def test_a_principal_is_made_of_the_claims() -> None:
    made = principal(with_(tenant="t", roles=["a", "b", "a"], groups=["g", "h"], models=["gpt-*"]), CORP)
    assert (made.id, made.tenant, made.roles, made.groups, made.models) == (
        "jwt:corp:ada", "t", ("a", "b"), ("g", "h"), ("gpt-*",),
    )  # fmt: skip
    assert not made.anonymous
    assert principal(GOOD, CORP).models == ()
    assert principal(with_(models=[]), CORP).models == NO_MODELS


def test_claims_may_be_elsewhere() -> None:
    paths = ClaimPaths("uid", "org.name", "realm_access.roles", "https://example.com/groups", "scope")
    elsewhere = replace(CORP, claims=paths)
    said = {
        "uid": 42,
        "org": {"name": "t"},
        "realm_access": {"roles": ["r"]},
        "https://example.com/groups": ["g"],
        "scope": "m1 m2",
    }
    made = principal(said, elsewhere)
    assert (made.id, made.tenant, made.roles, made.groups, made.models) == (
        "jwt:corp:42", "t", ("r",), ("g",), ("m1", "m2"),
    )  # fmt: skip
    assert principal({"uid": "x", "org": "not a table"}, elsewhere).tenant == ""


@pytest.mark.parametrize("claim", ["roles", "groups"])
def test_a_text_is_one_role_or_group_whatever_blanks_it_has(claim: str) -> None:
    made = principal(with_(**{claim: "Former Admins"}), replace(CORP, group_roles=(("Admins", ("admin",)),)))
    assert getattr(made, claim) == ("Former Admins",)
    assert "admin" not in made.roles


@pytest.mark.parametrize("path", ["scope", "scp", "access.scopes"])
def test_claims_like_scope_are_words(path: str) -> None:
    said: dict[str, Any] = {"scope": "a b", "scp": " a  b ", "access": {"scopes": "a b"}}
    made = principal(GOOD | said, replace(CORP, claims=ClaimPaths(roles=path)))
    assert made.roles == ("a", "b")


def test_an_issuer_gives_tenant_and_roles_of_its_own() -> None:
    giving = replace(CORP, tenant="fixed", roles=("base",), group_roles=(("ops", ("admin", "base")), ("x", ("y",))))
    made = principal(with_(tenant="claimed", roles=["r"], groups=["ops"]), giving)
    assert (made.tenant, made.roles) == ("fixed", ("base", "r", "admin"))


@pytest.mark.parametrize("sub", ["absent", "", None, 1, ["ada"], "a" * 256, " ada", "ada ", "a\nb", "a\x00b", "a\x7fb", "a\x85b", "a\u2028b", "a\u202eb", "\ud800"])  # fmt: skip
def test_a_subject_is_a_printable_name(sub: object) -> None:
    with pytest.raises(Refused):
        principal(with_(sub=sub), CORP)


@pytest.mark.parametrize("claim", ["tenant", "roles", "groups", "models"])
@pytest.mark.parametrize("value", [{"a": 1}, True, 1.5, [[]], ["a\nb"], [None, {}], ["x"] * 257, 10**30])
def test_a_claim_that_cannot_be_read_refuses_the_token(claim: str, value: object) -> None:
    with pytest.raises(Refused):
        principal(with_(**{claim: value}), CORP)


def test_people_of_two_issuers_are_two_people() -> None:
    assert principal(GOOD, CORP).id != principal(GOOD, replace(CORP, name="other")).id
