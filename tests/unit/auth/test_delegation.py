"""Delegation: a holder of the action `keys` gives a key what they have, and no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from budgateway.auth.delegation import Holder
from budgateway.auth.roles import Roles
from budgateway.credentials import api_keys
from budgateway.errors import Forbidden
from budgateway.records import Allowance, Auth, Permission, Principal, Tenant

NOW = 1_800_000_000.0
EVER = float("inf")
AUTH = Auth(
    grants=(
        Permission("maker", routes=("chat",), admin=("keys",)),
        Permission("most", admin=("keys", "read", "reload-config")),
        Permission("root", routes=(), admin=("read", "*")),
        Permission("chat"),
        Permission("other"),
    ),
    tenants=(Tenant("acme", roles=("chat", "maker")), Tenant("rich", roles=("other",))),
)
MAKER = Principal("jwt:own:m", roles=("maker", "chat"), anonymous=False)


def made(principal: Principal, wishes: dict[str, Any], expires: float = EVER) -> Any:
    """The key that such a holder makes."""
    holder = Holder(principal, expires, Roles(AUTH))
    key = api_keys.create((), "k", holder.completed(wishes), NOW).key
    holder.check(key)
    return key


@pytest.mark.parametrize(
    ("change", "wishes"),
    [
        ({}, {"roles": ["admin"]}), ({}, {"roles": ["chat", "other"]}), ({}, {"roles": ["root"]}), ({}, {"roles": ["most"]}),
        ({}, {"roles": ["nobody"]}), ({}, {"tenant": "acme"}), ({}, {"tenant": "rich"}), ({}, {"groups": ["g"]}),
        ({"groups": ("g",)}, {"groups": ["g", "h"]}), ({"tenant": "acme"}, {"tenant": ""}),
        ({"tenant": "acme"}, {"tenant": "rich"}), ({"tenant": "acme", "roles": ("maker",)}, {"roles": ["chat"]}),
        # Without roles of its own a key has those of its tenant.
        ({"tenant": "acme", "roles": ("maker",)}, {}), ({"tenant": "rich", "roles": ("maker",)}, {"roles": []}),
        ({"models": ("a*",)}, {"models": []}), ({"models": ("a*",)}, {"models": ["*"]}), ({"models": ("a*",)}, {"models": ["b"]}),
        ({"models": ("a*",)}, {"models": ["a1", "?"]}), ({"models": ("a?",)}, {"models": ["a*"]}),
        ({"models": ("a",)}, {"models": ["a?"]}),
        ({"allowance": Allowance(requests_per_minute=10)}, {"limits": {"requests_per_minute": 11}}),
        ({"allowance": Allowance(requests_per_minute=10)}, {"limits": {"burst": 2}}),
        ({"allowance": Allowance(requests_per_minute=100, burst=3)}, {"limits": {"burst": 10}}),
        ({"allowance": Allowance(tokens_per_day=10)}, {"limits": {"tokens_per_day": 11}}),
        ({"allowance": Allowance(concurrency=1)}, {"limits": {"concurrency": 2}}),
        ({"allowance": Allowance(budget_usd=1.0)}, {"limits": {"budget_usd": 1.5}}),
        ({"allowance": Allowance(budget_usd=1.0)}, {"limits": {"budget_usd": 1.0, "budget_period": "day"}}),
        ({"allowance": Allowance(budget_usd=1.0)}, {"limits": {"budget_period": "day"}}),
    ],
)  # fmt: skip
def test_what_they_do_not_have_they_do_not_give(change: dict[str, Any], wishes: dict[str, Any]) -> None:
    with pytest.raises(Forbidden, match="may not give a key"):
        made(replace(MAKER, **change), wishes)


@pytest.mark.parametrize(
    ("change", "wishes", "has"),
    [
        ({}, {"roles": ["chat"]}, {"roles": ("chat",)}), ({}, {}, {"roles": (), "models": (), "expires_s": 0.0}),
        ({}, {"models": ["x"], "limits": {"concurrency": 1}}, {"models": ("x",), "allowance": Allowance(concurrency=1)}),
        ({"tenant": "acme", "roles": ()}, {}, {"tenant": "acme"}), ({"groups": ("g",)}, {"groups": ["g"]}, {"groups": ("g",)}),
        ({"models": ("a*", "b")}, {}, {"models": ("a*", "b")}), ({"models": ("a*", "b")}, {"models": ["ab*", "b"]}, {}),
        ({"models": ("*",)}, {"models": ["a", "?*"]}, {}), ({"models": ("a?",)}, {"models": ["a?", "ab"]}, {}),
        ({"allowance": Allowance(requests_per_minute=10, budget_usd=2.0)}, {"limits": {"concurrency": 1}},
         {"allowance": Allowance(requests_per_minute=10, concurrency=1, budget_usd=2.0)}),
        ({"allowance": Allowance(budget_usd=2.0, budget_period="day")}, {"limits": {"budget_usd": 1.0}},
         {"allowance": Allowance(budget_usd=1.0, budget_period="day")}),
        ({"allowance": Allowance(requests_per_minute=10)}, {"limits": {"requests_per_minute": 5}}, {}),
    ],
)  # fmt: skip
def test_what_they_have_they_give_and_what_is_not_named_is_bounded_like_theirs(
    change: dict[str, Any], wishes: dict[str, Any], has: dict[str, Any]
) -> None:
    key = made(replace(MAKER, **change), wishes)
    assert {name: getattr(key, name) for name in has} == has


def test_a_key_ends_with_the_credential_that_made_it() -> None:
    end = NOW + 3600.5
    assert made(MAKER, {}, end).expires_s == NOW + 3600
    assert made(MAKER, {"expires": ""}, end).expires_s == NOW + 3600
    assert made(MAKER, {"expires": "30m"}, end).expires_s == NOW + 1800
    with pytest.raises(Forbidden, match="later"):
        made(MAKER, {"expires": "2h"}, end)


@pytest.mark.parametrize("roles", [("root",), ("maker", "root"), ("admin",)])
def test_who_may_do_everything_gives_anything(roles: tuple[str, ...]) -> None:
    root = replace(MAKER, roles=roles, models=("a",), allowance=Allowance(concurrency=1))
    key = made(root, {"roles": ["admin"], "tenant": "rich"}, NOW + 60)
    assert (key.models, key.allowance, key.expires_s) == ((), None, 0.0)


def test_without_roles_the_administrator_gives_anything() -> None:
    holder = Holder(replace(MAKER, roles=("admin",)), EVER, Roles(Auth()))
    holder.check(api_keys.create((), "k", {"roles": ["x"]}, NOW).key)
