"""Role x route x method x model: what is declared is what is decided, and nothing else."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgateway.auth.roles import MAX_DECISIONS, Patterns, Roles, Visibility, admin_action
from budgateway.records import Auth, Canary, Fallback, Mirror, Permission, Principal, Retries, Route, Tenant

ROUTES = ("chat", "embeddings", "files", "POST /v1/*")
METHODS = ("GET", "POST", "DELETE")
MODELS = ("", None, "gpt-4o", "gpt-4o-mini", "vllm/llama", "o3", "*", "gpt-4?")
GRANTS = (
    Permission("everything"),
    Permission("chatter", routes=("chat",), methods=("POST",), models=("gpt-4o", "vllm/*")),
    Permission("embedder", routes=("embeddings",), models=("text-*", "o?")),
    Permission("reader", methods=("GET",)),
    Permission("mixed", routes=("chat",), models=("o3",)),
    Permission("mixed", routes=("files", "POST /v1/*"), methods=("GET", "DELETE")),
    Permission("nothing", routes=()),
    Permission("auditor", routes=(), admin=("read", "metrics")),
)


def who(*roles: str, tenant: str = "", models: tuple[str, ...] = ()) -> Principal:
    return Principal("jwt:own:x", tenant=tenant, roles=roles, anonymous=False, models=models)


def declared(roles: tuple[str, ...], route: str, method: str, model: str | None) -> bool:
    """The declaration, read by an obvious oracle."""
    if "admin" in roles:
        return True
    for grant in GRANTS:
        if grant.role not in roles:
            continue
        routed = "*" in grant.routes or route in grant.routes
        meant = "*" in grant.methods or method in grant.methods
        if "*" in grant.models or model == "":
            modelled = True
        elif model is None:
            modelled = False
        else:
            modelled = any(fnmatchcase(model, pattern) for pattern in grant.models)
        if routed and meant and modelled:
            return True
    return False


@pytest.mark.parametrize(
    "held",
    [(), ("unknown",), ("admin",), ("chatter", "reader"), ("mixed", "embedder"), *((grant.role,) for grant in GRANTS)],
)
def test_the_matrix_is_as_declared(held: tuple[str, ...]) -> None:
    roles = Roles(Auth(grants=GRANTS))
    profile = roles.profile(who(*held))
    for route, method, model in product(ROUTES, METHODS, MODELS):
        for _ in range(2):  # decided, then remembered
            assert profile.may(route, method, model).allowed == declared(held, route, method, model), (
                route,
                method,
                model,
            )


def test_without_grants_every_known_principal_may_use_every_route() -> None:
    profile = Roles(Auth()).profile(who())
    assert all(profile.may(*case).allowed for case in product(ROUTES, METHODS, MODELS))
    assert not profile.may_operate("read").allowed
    assert Roles(Auth()).profile(who("admin")).may_operate("anything").allowed


@pytest.mark.parametrize("grants", [(), GRANTS])
def test_a_credentials_own_models_narrow(grants: tuple[Permission, ...]) -> None:
    profile = Roles(Auth(grants=grants)).profile(who("everything", "admin", models=("gpt-4o", "vllm/*")))
    allowed = [model for model in MODELS if profile.may("chat", "POST", model).allowed]
    assert allowed == ["", "gpt-4o", "vllm/llama"]
    assert not any(Roles(Auth()).profile(who(models=("",))).may("chat", "POST", m).allowed for m in MODELS[1:])


def test_a_tenant_narrows_its_own_and_gives_roles_to_those_who_have_none() -> None:
    tenants = (Tenant("t", roles=("chatter",), models=("gpt-*",)), Tenant("open"))
    roles = Roles(Auth(grants=GRANTS, tenants=tenants))
    assert roles.profile(who(tenant="t")).may("chat", "POST", "gpt-4o").allowed
    assert not roles.profile(who(tenant="t")).may("chat", "POST", "vllm/llama").allowed
    assert not roles.profile(who("reader", tenant="t")).may("chat", "POST", "gpt-4o").allowed
    assert not roles.profile(who("everything", tenant="t")).may("chat", "POST", "o3").allowed
    assert not roles.profile(who(tenant="open")).may("chat", "POST", "gpt-4o").allowed
    assert roles.profile(who("everything", tenant="elsewhere")).may("chat", "POST", "o3").allowed


def test_a_decision_says_why() -> None:
    roles = Roles(Auth(grants=GRANTS, tenants=(Tenant("t", models=("a",)),)))
    why = {
        who("chatter").roles: roles.profile(who("chatter")).may("chat", "POST", "o3").why,
        (): roles.profile(who()).may("chat", "POST", "o3").why,
        ("t",): roles.profile(who("everything", tenant="t")).may("chat", "POST", "o3").why,
        ("reader",): roles.profile(who("reader")).may("chat", "POST", "o3").why,
        ("ok",): roles.profile(who("mixed")).may("chat", "POST", "o3").why,
    }
    assert why == {
        ("chatter",): "the role 'chatter' allows the models gpt-4o, vllm/*, not the model 'o3'",
        (): "it has no roles",
        ("t",): "the tenant 't' allows the models a, not the model 'o3'",
        ("reader",): "none of its roles (reader) has POST on the route 'chat'",
        ("ok",): "granted by the role 'mixed'",
    }


@pytest.mark.parametrize(
    ("roles", "action", "allowed"),
    [
        (("admin",), "keys", True), (("auditor",), "read", True), (("auditor",), "metrics", True),
        (("auditor",), "keys", False), (("auditor",), "reload-config", False), (("everything",), "read", False),
        ((), "read", False),
    ],
)  # fmt: skip
def test_operations_need_an_admin_action(roles: tuple[str, ...], action: str, allowed: bool) -> None:
    assert Roles(Auth(grants=GRANTS)).profile(who(*roles)).may_operate(action).allowed is allowed


def test_the_admin_role_is_what_the_configuration_makes_of_it() -> None:
    roles = Roles(Auth(grants=(Permission("admin", routes=("files",), admin=("read",)),)))
    assert not roles.profile(who("admin")).may("chat", "POST", "x").allowed
    assert not roles.profile(who("admin")).may_operate("keys").allowed
    assert roles.profile(who("admin")).may_operate("read").allowed


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("GET", "/admin/stats", "read"), ("HEAD", "/admin/config", "read"), ("GET", "/admin/keys", "keys"),
        ("GET", "/admin/keys/a", "keys"), ("POST", "/admin/keys", "keys"), ("DELETE", "/admin/keys/a", "keys"),
        ("POST", "/admin/reload-config", "reload-config"), ("POST", "/admin/upstreams/v/0/drain", "upstreams"),
        ("POST", "/admin/", ""),
    ],
)  # fmt: skip
def test_the_admin_action_of_a_request(method: str, path: str, action: str) -> None:
    assert admin_action(method, path) == action


@pytest.mark.parametrize("pattern", ["gpt-4o", "gpt-*", "*", "?", "*-mini", "a?c", "[ab]*", "a.b", "", "a\nb", "(x|y)"])
def test_a_glob_is_stars_and_question_marks_and_nothing_else(pattern: str) -> None:
    names = ["gpt-4o", "gpt-4o-mini", "a", "abc", "a.b", "axb", "[ab]x", "ax", "", "a\nb", "x", "(x|y)"]
    meant = pattern.replace("[", "[[]")
    assert [Patterns([pattern]).match(name) for name in names] == [fnmatchcase(name, meant) for name in names]


def test_what_is_remembered_is_bounded() -> None:
    profile = Roles(Auth(grants=GRANTS)).profile(who("chatter"))
    for number in range(MAX_DECISIONS + 10):
        profile.may("chat", "POST", f"model-{number}")
    assert len(profile.known) <= MAX_DECISIONS


def test_a_name_or_a_glob_of_any_kind_takes_a_short_time() -> None:
    began = time.process_time()
    assert not Patterns(["*a*a*a*a*a*a*a*a*a*a*a*a*b"]).match("a" * 256)
    assert not Patterns(["a*"]).match("a" * 257)
    assert Patterns(["*"]).match("a" * 257)
    assert time.process_time() - began < 1
    profile = Roles(Auth(grants=GRANTS)).profile(who("chatter"))
    assert not profile.may("chat", "POST", "gpt-4o" * 1_000_000).allowed
    assert len(profile.may("chat", "POST", "gpt-4o" * 1_000_000).why) < 1000
    assert profile.known == {}


@given(pattern=st.text("ab*?.", max_size=12), name=st.text("ab.\n", max_size=12))
def test_a_glob_is_what_fnmatch_says(pattern: str, name: str) -> None:
    assert Patterns([pattern]).match(name) == fnmatchcase(name, pattern)


def test_models_are_shown_to_who_may_use_them() -> None:
    routes = (
        Route("chat", "/v1/chat/completions", "p", methods=("POST",)),
        Route("files", "/v1/files", "q", auth_required=False, models=("public-*",)),
    )
    roles = Roles(Auth(grants=GRANTS))
    seen = Visibility(roles, routes)
    assert [m for m in ("gpt-4o", "o3") if seen.shows(who("chatter"), "p", m)] == ["gpt-4o"]
    assert not seen.shows(None, "p", "gpt-4o")
    assert seen.shows(None, "q", "public-1")
    assert not seen.shows(who("admin"), "q", "private")
    assert not seen.shows(who("admin"), "nowhere", "gpt-4o")


def test_models_of_every_provider_of_a_route_are_shown() -> None:
    route = Route(
        "r",
        "/v1/*",
        "a",
        auth_required=False,
        split=(("a", 1), ("b", 1)),
        canary=Canary("c", 0.1),
        mirror=Mirror("d"),
        retries=Retries(fallbacks=(Fallback("e"), Fallback("f", "other"))),
    )
    seen = Visibility(Roles(Auth()), (route,))
    # A mirror answers nobody, and a fallback with a model of its own is told no other.
    assert [name for name in "abcdef" if seen.shows(None, name, "m")] == ["a", "b", "c", "e"]


def test_a_refusal_knows_whether_route_or_model_is_at_fault() -> None:
    roles = Roles(Auth(grants=GRANTS))
    assert roles.profile(who("chatter")).may("chat", "POST", "o3").of_model
    assert not roles.profile(who("chatter")).may("elsewhere", "POST", "gpt-4o").of_model
    narrow = Roles(Auth()).profile(Principal("p", models=("a",)))
    assert narrow.may("chat", "POST", "b").of_model
