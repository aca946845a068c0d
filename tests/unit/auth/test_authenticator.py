"""The stage, compiled and interpreted: who is known, for how long, and what is remembered of them."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

import pytest
from flavours import both_flavours
from tokens import SECRET, own

from budgateway.auth.bearer import Bearers
from budgateway.auth.credential_store import CredentialSet, CredentialStore
from budgateway.auth.keys import digest_of, new_secret, start_of
from budgateway.auth.principal_header import read_principal
from budgateway.auth.roles import Roles
from budgateway.errors import Forbidden, KeysUnavailable, Unauthenticated
from budgateway.exchange.exchange_cy import Exchange
from budgateway.native import RequestHead
from budgateway.records import Allowance, ApiKey, Auth, Issuer, Permission, Secret

stage = both_flavours("budgateway.auth.authenticator_cy")
GRANTS = (Permission("chat", routes=("chat",), models=("gpt-*",)), Permission("auditor", routes=(), admin=("read",)))
KEY = new_secret()


def made(stage: ModuleType, credentials: CredentialSet | None = None, *, lists_openly: bool = False) -> Any:
    issuers = (Issuer("own", "", ("HS256",), secret=Secret(SECRET)),)
    kept = ApiKey("k", digest_of(KEY), start_of(KEY), roles=("chat",), allowance=Allowance(burst=3))
    credential_store = CredentialStore(CredentialSet({}, (kept,)) if credentials is None else credentials)
    return stage.CredentialAuthenticator(
        Bearers(issuers), credential_store, Roles(Auth(grants=GRANTS)), lists_openly
    ), credential_store


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
        (f"api-key: {KEY}", "key:k"),
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


def test_what_was_seen_in_one_header_says_nothing_about_another(stage: ModuleType) -> None:
    auth, _ = made(stage)
    token = own(roles=["chat"])
    for header in ("x-api-key", "api-key", "x-goog-api-key"):
        ask_known(auth, f"{header}: {KEY}")
        ask_known(auth, f"{header}: {token}")
    ask_known(auth, f"authorization: Bearer {token}")
    for line in (KEY, token, f"Basic {KEY}", f"Key {token}", f"Bearer{KEY}"):
        x = ask(f"authorization: {line}")
        auth.identify(x)
        assert x.principal is None, line
        assert auth.cached_plan(x) is None
    # Behind one that is no bearer token the key counts, and it is remembered as the key's.
    x = ask_known(auth, "authorization: Basic YTpi", f"api-key: {KEY}")
    assert auth.cached_plan(x) is None


def test_a_credential_is_remembered_by_header_and_value(stage: ModuleType) -> None:
    auth, _ = made(stage)
    now = time.time()
    assert auth.cached_plan(ask()).principal_class == 0
    known = auth.cached_plan(ask_known(auth, f"authorization: Bearer {KEY}"))
    assert known.principal_class > 0
    assert auth.credentials.find(True, KEY, now) is None
    for header in ("x-api-key", "api-key", "x-goog-api-key"):
        assert auth.cached_plan(ask_known(auth, f"{header}: {KEY}")) == known
    for is_key, value in ((True, KEY), (False, f"Bearer {KEY}")):
        assert auth.credentials.find(is_key, value, now)[:5] == ("key:k", "k", "", (), known.principal_class)
        assert auth.credentials.find(not is_key, value, now) is None


def test_principals_of_one_class_share_a_plan(stage: ModuleType) -> None:
    auth, _ = made(stage)

    def class_of(**claims: Any) -> int:
        plan = auth.cached_plan(ask_known(auth, f"authorization: Bearer {own(**claims)}"))
        number: int = plan.principal_class
        return number

    ada = class_of(roles=["chat"])
    assert ada == class_of(sub="bob", roles=["chat"], tenant="t", groups=["g"])
    assert len({ada, class_of(roles=["chat", "auditor"]), class_of(roles=["chat"], models=["gpt-4o"]), class_of()}) == 4


def test_a_remembered_credential_is_not_verified_again(stage: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    bearers = Counted((Issuer("own", "", ("HS256",), secret=Secret(SECRET)),))
    auth = stage.CredentialAuthenticator(bearers, CredentialStore(), Roles(Auth()), False)
    tokens = [own(sub=f"u{number}", groups=["g"], tenant="t") for number in range(stage.MAX_REMEMBERED + 10)]
    for token in tokens:
        ask_known(auth, f"x-api-key: {token}")
    verified = bearers.verified
    x = ask_known(auth, f"x-api-key: {tokens[0]}")
    assert (x.principal.id, x.principal.groups, x.principal.tenant) == ("jwt:own:u0", ("g",), "t")
    assert bearers.verified == verified


class Counted(Bearers):
    """Counts how often it is asked to verify."""

    def __init__(self, issuers: tuple[Issuer, ...]) -> None:
        super().__init__(issuers)
        self.verified = 0

    def verify(self, token: str, now: float) -> Any:
        """As the original."""
        self.verified += 1
        return super().verify(token, now)


def test_a_bad_token_is_verified_once(stage: ModuleType) -> None:
    bearers = Counted((Issuer("own", "", ("HS256",), secret=Secret(SECRET)),))
    auth = stage.CredentialAuthenticator(bearers, CredentialStore(), Roles(Auth()), False)
    forged, unfit = own()[:-4] + "AAAA", own(tenant=["not", "a", "name"])
    for token in (forged, unfit):
        before = bearers.verified
        for header in ("authorization: Bearer", "x-api-key:", "api-key:"):
            x = ask(f"{header} {token}")
            auth.identify(x)
            with pytest.raises(Unauthenticated):
                auth.authorize(x, "authenticated", "chat")
        assert bearers.verified == before + 1
    # Other keys may make another answer of it.
    auth.learn()
    auth.identify(ask(f"x-api-key: {forged}"))
    assert bearers.verified == 3


def test_a_token_of_the_future_is_good_when_its_time_comes(stage: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    auth, _ = made(stage)
    now = time.time()
    token = own(nbf=int(now) + 600, exp=int(now) + 900)
    for later, known in ((0, False), (601, True), (931, False)):
        monkeypatch.setattr(stage, "time", lambda later=later: now + later)
        x = ask(f"x-api-key: {token}")
        auth.identify(x)
        assert (x.principal is not None) is known, later


def test_tokens_that_were_rejected_are_remembered_within_bounds(stage: ModuleType) -> None:
    bearers = Counted((Issuer("own", "", ("HS256",), secret=Secret(SECRET)),))
    auth = stage.CredentialAuthenticator(bearers, CredentialStore(), Roles(Auth()), False)
    bad = [own(sub=f"u{number}")[:-4] + "AAAA" for number in range(stage.MAX_REMEMBERED + 1)]
    for token in bad:
        auth.identify(ask(f"x-api-key: {token}"))
    before = bearers.verified
    auth.identify(ask(f"x-api-key: {bad[-1]}"))
    assert bearers.verified == before
    auth.identify(ask(f"x-api-key: {bad[0]}"))
    assert bearers.verified == before + 1


def test_roles_decide(stage: ModuleType) -> None:
    auth, _ = made(stage)
    x = ask(f"x-api-key: {KEY}", model="o3")
    auth.identify(x)
    for _ in range(2):
        with pytest.raises(Forbidden) as caught:
            auth.authorize(x, "authenticated", "chat")
        assert caught.value.hint == ""
    with pytest.raises(Forbidden, match="the route"):
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


def test_the_admin_server_gets_the_principal_and_nobody_else_does(stage: ModuleType) -> None:
    auth, _ = made(stage)
    token = f"authorization: Bearer {own(roles=['auditor'], tenant='t')}"
    x = ask_known(auth, token, target="/admin/stats", method="GET")
    auth.authorize(x, "admin", "gateway")
    lines = x.principal_lines.decode().split("\r\n")
    told = read_principal([tuple(line.split(": ", 1)) for line in lines if line])  # type: ignore[misc]
    assert told is not None
    assert (told.id, told.tenant, told.roles) == ("jwt:own:ada", "t", ("auditor",))
    with pytest.raises(Forbidden, match="the action 'keys'"):
        auth.authorize(ask_known(auth, token, target="/admin/keys"), "admin", "gateway")
    x = ask_known(auth, f"x-api-key: {KEY}")
    auth.authorize(x, "authenticated", "chat")
    assert x.principal_lines is None


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
    auth, credential_store = made(stage)
    ask_known(auth, f"x-api-key: {KEY}")
    credential_store.update_credentials(CredentialSet())
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
    auth, _ = made(stage, CredentialSet(keys_missing=True))
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
