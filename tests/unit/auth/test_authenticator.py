"""The stage, compiled and interpreted: who is known, for how long, and what is remembered of them."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

import pytest
from flavours import both_flavours
from tokens import SECRET, own

from budgateway.auth.bearer import Bearers
from budgateway.auth.keys import digest_of, new_secret, start_of
from budgateway.auth.roles import Roles
from budgateway.auth.vault import Trust, Vault
from budgateway.auth.vouch import vouched_for
from budgateway.errors import Forbidden, KeysUnavailable, Unauthenticated
from budgateway.exchange_cy import Exchange
from budgateway.native import RequestHead
from budgateway.records import Allowance, ApiKey, Auth, Grant, Issuer, Secret

stage = both_flavours("budgateway.auth.authenticator_cy")
GRANTS = (Grant("chat", routes=("chat",), models=("gpt-*",)), Grant("auditor", routes=(), admin=("read",)))
KEY = new_secret()


def made(stage: ModuleType, trust: Trust | None = None, *, lists_openly: bool = False) -> Any:
    issuers = (Issuer("own", "", ("HS256",), secret=Secret(SECRET)),)
    kept = ApiKey("k", digest_of(KEY), start_of(KEY), roles=("chat",), allowance=Allowance(burst=3))
    vault = Vault(Trust({}, (kept,)) if trust is None else trust)
    return stage.CredentialAuthenticator(Bearers(issuers), vault, Roles(Auth(grants=GRANTS)), lists_openly), vault


def ask(*headers: str, target: str = "/v1/chat", method: str = "POST", model: str = "gpt-4o") -> Any:
    lines = "".join(f"{line}\r\n" for line in headers)
    head = RequestHead.parse(f"{method} {target} HTTP/1.1\r\nhost: x\r\n{lines}\r\n".encode())
    assert head is not None
    x: Any = Exchange(head, None, "10.0.0.1", time.monotonic_ns())
    x.model = model
    x.body_done = True
    return x


def test_a_principal_is_put_into_the_exchange(stage: ModuleType) -> None:
    auth, _ = made(stage)
    for line, who in (
        (f"authorization: Bearer {own(roles=['chat'])}", "jwt:own:ada"),
        (f"x-api-key: {KEY}", "key:k"),
        (f"x-goog-api-key: {KEY}", "key:k"),
        (f"authorization: Bearer {KEY}", "key:k"),
    ):
        for _ in range(2):
            x = ask(line)
            assert auth.identify(x) is None
            assert (x.principal.id, x.limit_key) == (who, who)
            auth.authorize(x, "authenticated", "chat")
    assert x.principal.allowance == Allowance(burst=3)


def test_who_is_not_known_stays_an_address_until_a_route_asks(stage: ModuleType) -> None:
    auth, _ = made(stage)
    for lines in ((), ("authorization: Bearer nobody",), ("authorization: Basic x",), (f"x-api-key: {own(exp=1)}",)):
        x = ask(*lines)
        assert auth.identify(x) is None
        assert (x.principal, x.limit_key) == (None, "10.0.0.1")
        auth.authorize(x, "open", "chat")
        for access in ("authenticated", "admin", "metrics", "models"):
            with pytest.raises(Unauthenticated):
                auth.authorize(x, access, "chat")


def test_roles_decide(stage: ModuleType) -> None:
    auth, _ = made(stage)
    x = ask(f"x-api-key: {KEY}", model="o3")
    auth.identify(x)
    for _ in range(2):
        with pytest.raises(Forbidden) as caught:
            auth.authorize(x, "authenticated", "chat")
        assert caught.value.hint == ""
    with pytest.raises(Forbidden, match="this route"):
        auth.authorize(ask_known(auth, f"x-api-key: {KEY}", model=""), "authenticated", "files")
    auditor = ask_known(auth, f"authorization: Bearer {own(roles=['auditor'])}", model="o3")
    with pytest.raises(Forbidden) as caught:
        auth.authorize(auditor, "authenticated", "chat")
    assert "none of its roles (auditor)" in caught.value.hint


def ask_known(auth: Any, *lines: str, **about: str) -> Any:
    x = ask(*lines, **about)
    auth.identify(x)
    assert x.principal is not None
    return x


def test_the_office_is_told_who_asks_and_nobody_else_is(stage: ModuleType) -> None:
    auth, _ = made(stage)
    token = f"authorization: Bearer {own(roles=['auditor'], tenant='t')}"
    x = ask_known(auth, token, target="/admin/stats", method="GET")
    auth.authorize(x, "admin", "gateway")
    lines = x.vouched.decode().split("\r\n")
    told = vouched_for([tuple(line.split(": ", 1)) for line in lines if line])  # type: ignore[misc]
    assert told is not None
    assert (told.id, told.tenant, told.roles) == ("jwt:own:ada", "t", ("auditor",))
    with pytest.raises(Forbidden, match="the action 'keys'"):
        auth.authorize(ask_known(auth, token, target="/admin/keys"), "admin", "gateway")
    x = ask_known(auth, f"x-api-key: {KEY}")
    auth.authorize(x, "authenticated", "chat")
    assert x.vouched is None


def test_the_model_list_is_open_where_a_route_is(stage: ModuleType) -> None:
    auth, _ = made(stage, lists_openly=True)
    auth.authorize(ask(), "models", "gateway")
    auth.authorize(ask("authorization: Bearer "), "models", "gateway")
    with pytest.raises(Unauthenticated):
        auth.authorize(ask("authorization: Bearer nobody"), "models", "gateway")


def test_metrics_are_for_this_machine(stage: ModuleType) -> None:
    auth, _ = made(stage)
    x = ask()
    x.client = "127.0.0.1"
    auth.authorize(x, "metrics", "gateway")
    with pytest.raises(Unauthenticated):
        auth.authorize(x, "admin", "gateway")


def test_what_the_vault_no_longer_holds_is_forgotten(stage: ModuleType) -> None:
    auth, vault = made(stage)
    ask_known(auth, f"x-api-key: {KEY}")
    vault.entrust(Trust())
    auth.learn()
    x = ask(f"x-api-key: {KEY}")
    auth.identify(x)
    assert x.principal is None


def test_what_is_remembered_is_bounded(stage: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    auth, _ = made(stage)
    tokens = [own(sub=f"u{number}") for number in range(stage.MAX_REMEMBERED + 10)]
    for token in tokens:
        ask_known(auth, f"x-api-key: {token}")
    ask_known(auth, f"x-api-key: {tokens[0]}")


def test_keys_that_could_not_be_read_are_no_wrong_keys(stage: ModuleType) -> None:
    auth, _ = made(stage, Trust(keys_missing=True))
    x = ask(f"x-api-key: {KEY}")
    auth.identify(x)
    with pytest.raises(KeysUnavailable):
        auth.authorize(x, "authenticated", "chat")


def test_without_a_way_to_check_it_says_so(stage: ModuleType) -> None:
    auth = stage.Authenticator()
    x = ask(f"x-api-key: {KEY}")
    assert auth.identify(x) is None
    for access in ("authenticated", "admin", "metrics"):
        with pytest.raises(Unauthenticated) as caught:
            auth.authorize(x, access, "chat")
        assert "JWT_SECRET" in caught.value.hint
    auth.authorize(x, "open", "chat")
    auth.learn()
