"""Key sets over HTTP: rotated, unreachable, slow, wrong; and never asked for anywhere else than where they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream
from integration.inside import Inside, inside
from integration.operated import operated
from tokens import AUDIENCE, jwk, signed
from upstreams import faults
from upstreams.faulty import Answer, FaultyUpstream, Peer
from upstreams.wire import Received, head

from budgateway.auth import credential_store
from budgateway.credentials.refresher import CredentialRefresher
from budgateway.records import Auth, Issuer

pytestmark = pytest.mark.integration

LOOPS = ("uvloop",)
A, B = jwk("RS256", "a"), jwk("RS256", "b", number=1)


class Login:
    """An OpenID-like provider whose documents a test may change at any time."""

    def __init__(self) -> None:
        self.documents: dict[str, Answer] = {}
        self.server = FaultyUpstream(self._answer)
        self.publish(A)

    def publish(self, *keys: dict[str, Any]) -> None:
        self.say("/keys", {"keys": list(keys)})

    def say(self, path: str, document: object) -> None:
        self.documents[path] = faults.raw(faults.json_bytes(document))

    async def _answer(self, peer: Peer, request: Received) -> None:
        await self.documents.get(request.target, faults.status(404))(peer, request)

    @property
    def url(self) -> str:
        return self.server.url

    def asked(self, path: str = "/keys") -> int:
        return sum(request.target == path for request in self.server.requests)

    def issuer(self, **changes: Any) -> Issuer:
        made = Issuer(
            "login", self.url, ("RS256",), audience=(AUDIENCE,), jwks_url=self.url + "/keys", refresh_s=3600.0
        )
        return replace(made, **changes)

    def token(self, kid: str | None = "a", number: int = 0, **changes: Any) -> str:
        header = None if kid is None else {"kid": kid}
        return signed(number=number, header=header, **({"iss": self.url} | changes))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An issuer may be asked again at once, unless a test says otherwise."""
    monkeypatch.setattr(credential_store, "COOLDOWN_S", 0.0)
    monkeypatch.setattr("budgateway.credentials.refresher.COOLDOWN_S", 0.0)
    monkeypatch.setattr("budgateway.credentials.refresher.RETRY_S", 0.05)


@pytest.fixture
async def login() -> AsyncIterator[Login]:
    made = Login()
    async with made.server:
        yield made


@asynccontextmanager
async def believing(issuer: Issuer, log: Path, *others: Issuer) -> AsyncIterator[Inside]:
    auth = Auth(issuers=(issuer, *others))
    async with FaultyUpstream(faults.chat()) as upstream:
        async with inside(upstream.url, log, route={"auth_required": True}, auth=auth) as gateway:
            yield gateway


async def status(gateway: Inside, token: str) -> int:
    async with Downstream(gateway.url) as client:
        return (await client.ask("GET", "/v1/x", headers=[("authorization", f"Bearer {token}")])).status


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


def keys_of(gateway: Inside) -> object:
    return gateway.plane.credential_store.credentials.key_sets.get("login")


async def test_the_first_request_waits_for_the_keys_that_are_being_read(login: Login, tmp_path: Path) -> None:
    gate = asyncio.Event()
    good = login.documents["/keys"]
    login.documents["/keys"] = faults.held(gate, good)
    async with believing(login.issuer(), tmp_path) as gateway:
        asking = asyncio.create_task(status(gateway, login.token()))
        await gateway.until(lambda: login.asked() == 1 and gateway.in_flight == 1)
        gate.set()
        assert await asking == 200
        assert login.asked() == 1
        await gateway.at_rest()


async def test_a_new_key_is_found_when_a_token_names_it(login: Login, tmp_path: Path) -> None:
    async with believing(login.issuer(), tmp_path) as gateway:
        await until(lambda: keys_of(gateway) is not None)
        assert await status(gateway, login.token()) == 200
        assert await status(gateway, login.token("b", 1)) == 401
        login.publish(A, B)
        assert await status(gateway, login.token("b", 1)) == 200
        assert await status(gateway, login.token()) == 200
        # What is withdrawn is good no more, remembered or not.
        login.publish(B)
        assert await status(gateway, login.token("c", 1)) == 401
        assert await status(gateway, login.token()) == 401
        assert await status(gateway, login.token("b", 1)) == 200


async def test_it_is_read_again_by_itself(login: Login, tmp_path: Path) -> None:
    async with believing(login.issuer(refresh_s=0.05), tmp_path) as gateway:
        await until(lambda: login.asked() > 3)
        login.publish(B)
        await until(lambda: keys_of(gateway) == {"keys": [B]})
        assert await status(gateway, login.token("b", 1)) == 200


async def test_many_who_wait_ask_once(login: Login, tmp_path: Path) -> None:
    async with believing(login.issuer(), tmp_path) as gateway:
        await until(lambda: keys_of(gateway) is not None)
        gate = asyncio.Event()
        login.documents["/keys"] = faults.held(gate, faults.raw(faults.json_bytes({"keys": [A, B]})))
        asking = [asyncio.create_task(status(gateway, login.token("b", 1, sub=f"u{n}"))) for n in range(20)]
        await gateway.until(lambda: gateway.in_flight == 20 and login.asked() == 2)
        gate.set()
        assert await asyncio.gather(*asking) == [200] * 20
        assert login.asked() == 2


async def test_made_up_key_names_are_asked_for_once_in_a_while(
    login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credential_store, "COOLDOWN_S", 3600.0)
    async with believing(login.issuer(), tmp_path) as gateway:
        await until(lambda: keys_of(gateway) is not None)
        for number in range(50):
            assert await status(gateway, login.token(f"made-up-{number}")) == 401
        assert login.asked() == 2
        # And what is no good with any key asks nobody at all.
        monkeypatch.setattr(credential_store, "COOLDOWN_S", 0.0)
        for changes in ({"exp": 1}, {"aud": "x"}, {"nbf": 10**10}):
            assert await status(gateway, login.token("other", **changes)) == 401
        assert login.asked() == 2


BROKEN: dict[str, Answer] = {
    "500": faults.status(500),
    "404": faults.status(404),
    "a redirect": faults.raw(head(302, [("location", "http://127.0.0.1:9/keys"), ("content-length", "0")])),
    "no JSON": faults.raw(faults.json_bytes({"keys": []})[:-1] + b"x"),
    "HTML": faults.raw(head(200, [("content-type", "text/html"), ("content-length", "6")]) + b"<html>"),
    "names twice": faults.raw(head(200, [("content-length", "24")]) + b'{"keys":[],"keys":[{}]} '),
    "no keys": faults.raw(faults.json_bytes({"keys": []})),
    "a list": faults.raw(faults.json_bytes([A])),
    "keys for something else": faults.raw(faults.json_bytes({"keys": [{**B, "use": "enc"}]})),
    "two of one name": faults.raw(faults.json_bytes({"keys": [A, {**B, "kid": "a"}]})),
    "a private key": faults.raw(faults.json_bytes({"keys": [{**B, "d": "AQAB"}]})),
    "a shared secret": faults.raw(faults.json_bytes({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}]})),
    "far too large": faults.raw(faults.json_bytes({"keys": [A, B], "x": "y" * 300_000})),
    "cut off": faults.cut(faults.json_bytes({"keys": [A, B]}), at=150),
    "not HTTP": faults.garbage(),
}


async def test_whatever_an_issuer_answers_its_keys_from_before_stay(
    login: Login, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "budgateway.custodian")
    async with believing(login.issuer(), tmp_path) as gateway:
        await until(lambda: keys_of(gateway) is not None)
        for name, broken in BROKEN.items():
            login.documents["/keys"] = broken
            asked = login.asked()
            assert await status(gateway, login.token("b", 1)) == 401, name
            assert login.asked() == asked + 1, name
            assert await status(gateway, login.token(sub=name)) == 200, name
        assert caplog.text.count("the previous ones stay in use") >= len(BROKEN) - 2
        login.publish(A, B)
        assert await status(gateway, login.token("b", 1)) == 200
        assert "refreshed" in caplog.text


async def test_an_issuer_that_does_not_answer_keeps_nobody_waiting_for_long(
    login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credential_store, "MAX_WAIT_S", 0.2)
    async with believing(login.issuer(), tmp_path) as gateway:
        await until(lambda: keys_of(gateway) is not None)
        login.documents["/keys"] = faults.silent()
        async with asyncio.timeout(5):
            assert await status(gateway, login.token("b", 1)) == 401
        assert await status(gateway, login.token()) == 200
        await gateway.at_rest()


async def test_a_client_that_leaves_takes_its_wait_along(login: Login, tmp_path: Path) -> None:
    async with believing(login.issuer(), tmp_path) as gateway:
        await until(lambda: keys_of(gateway) is not None)
        gate = asyncio.Event()
        login.documents["/keys"] = faults.held(gate, faults.raw(faults.json_bytes({"keys": [A, B]})))
        async with Downstream(gateway.url) as client:
            token = login.token("b", 1)
            await client.send(f"GET /v1/x HTTP/1.1\r\nhost: x\r\nx-api-key: {token}\r\n\r\n".encode())
            await gateway.until(lambda: gateway.in_flight == 1)
            other = asyncio.create_task(status(gateway, token))
            await gateway.until(lambda: gateway.in_flight == 2)
        await gateway.until(lambda: gateway.in_flight == 1)
        gate.set()
        assert await other == 200
        await gateway.at_rest()


async def test_while_there_never_were_keys_a_token_may_be_good_for_all_we_know(login: Login, tmp_path: Path) -> None:
    login.documents["/keys"] = faults.status(503)
    async with believing(login.issuer(), tmp_path) as gateway:
        async with Downstream(gateway.url) as client:
            answer = await client.ask("GET", "/v1/x", headers=[("x-api-key", login.token())])
            assert (answer.status, answer.json()["error"]["code"]) == (503, "keys_unavailable")
            assert answer.header("retry-after") is not None
            # An attack stays one.
            assert await status(gateway, login.token(exp=1)) == 401
        login.publish(A)
        await until(lambda: keys_of(gateway) is not None)
        assert await status(gateway, login.token()) == 200


# ---------------------------------------------------------------- discovery, and where nobody is asked

WELL_KNOWN = "/.well-known/openid-configuration"


async def test_discovery_finds_the_keys(login: Login, tmp_path: Path) -> None:
    login.say(WELL_KNOWN, {"issuer": login.url, "jwks_uri": login.url + "/keys", "other": 1})
    async with believing(login.issuer(jwks_url="", discovery_url=login.url + WELL_KNOWN), tmp_path) as gateway:
        await until(lambda: keys_of(gateway) is not None)
        assert await status(gateway, login.token()) == 200


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"issuer": "https://other.example", "jwks_uri": "{other}/keys"}, "another issuer"),
        ({"issuer": "{login}", "jwks_uri": "http://localhost:1/keys"}, "another host"),
        ({"issuer": "{login}", "jwks_uri": "https://127.0.0.1/keys"}, "another host"),
        ({"issuer": "{login}", "jwks_uri": "http://169.254.169.254/latest"}, "https://"),
        ({"issuer": "{login}", "jwks_uri": "file:///etc/passwd"}, "http"),
        ({"issuer": "{login}", "jwks_uri": "http://user:secret@127.0.0.1/keys"}, "credentials"),
        ({"issuer": "{login}", "jwks_uri": ["{login}/keys"]}, "names no key set"),
        ({"issuer": "{login}"}, "names no key set"),
        ([], "not a JSON object"),
    ],
)
async def test_discovery_leads_nowhere_else(
    login: Login, tmp_path: Path, caplog: pytest.LogCaptureFixture, document: object, why: str
) -> None:
    async with FaultyUpstream(faults.raw(faults.json_bytes({"keys": [A]}))) as other:
        said = json.dumps(document).replace("{login}", login.url).replace("{other}", other.url)
        login.say(WELL_KNOWN, json.loads(said))
        issuer = login.issuer(jwks_url="", discovery_url=login.url + WELL_KNOWN)
        async with believing(issuer, tmp_path) as gateway:
            await until(lambda: login.asked(WELL_KNOWN) > 0 and why in caplog.text)
            assert await status(gateway, login.token()) == 503
        assert login.asked() == 0
        assert other.requests == []


async def test_no_header_of_a_token_and_no_redirect_leads_anywhere(login: Login, tmp_path: Path) -> None:
    async with FaultyUpstream(faults.raw(faults.json_bytes({"keys": [jwk("RS256", "evil", number=9)]}))) as evil:
        login.documents["/keys"] = faults.raw(head(302, [("location", evil.url + "/keys"), ("content-length", "0")]))
        async with believing(login.issuer(), tmp_path) as gateway:
            for header in (
                {"jku": evil.url + "/keys"},
                {"x5u": evil.url + "/keys"},
                {"jwk": jwk("RS256", "evil", number=9)},
            ):
                token = signed(number=9, header={"kid": "evil", **header}, iss=login.url)
                assert await status(gateway, token) == 503
        assert evil.requests == []
        assert evil.connections == []


async def test_two_issuers_never_take_each_others_keys(login: Login, tmp_path: Path) -> None:
    second = Login()
    async with second.server:
        second.publish({**B, "kid": "a"})
        async with believing(login.issuer(), tmp_path, second.issuer(name="second")) as gateway:
            await until(lambda: len(gateway.plane.credential_store.credentials.key_sets) == 2)
            assert await status(gateway, login.token("a")) == 200
            assert await status(gateway, second.token("a", 1)) == 200
            assert await status(gateway, login.token("a", 1)) == 401
            assert await status(gateway, second.token("a")) == 401


# ---------------------------------------------------------------- processes


async def test_workers_get_keys_at_their_start_and_news_as_they_come(login: Login) -> None:
    extra = (
        f'[[auth.issuers]]\nname = "login"\nissuer = "{login.url}"\naudience = "{AUDIENCE}"\n'
        f'jwks_url = "{login.url}/keys"\nrefresh_interval = 10\n'
    )
    async with FaultyUpstream(faults.chat()) as upstream:
        async with operated([upstream.url], extra=extra, route={"auth_required": True}, workers=2) as gateway:

            async def statuses(token: str) -> set[int]:
                found = set()
                for _ in range(8):
                    async with Downstream(gateway.url) as client:
                        answer = await client.ask("GET", "/v1/x", headers=[("x-api-key", token)])
                        found.add(answer.status)
                return found

            assert await statuses(login.token()) == {200}
            (before,) = {login.asked()}
            assert before == 1
            # A reload that changes the issuer reads its keys anew, and one that does not, does not.
            assert (await gateway.call("POST", "/admin/reload-config"))[0] == 200
            assert login.asked() == 1
            gateway.configure([upstream.url], extra=extra.replace("refresh_interval = 10", "refresh_interval = 11"))
            assert (await gateway.call("POST", "/admin/reload-config"))[0] == 200
            await until(lambda: login.asked() == 2)
            assert await statuses(login.token()) == {200}


async def test_a_refresher_closes_without_leaving_a_task() -> None:
    from budgateway.records import Settings

    login = Login()
    async with login.server:
        told: list[object] = []

        async def update_credentials(credentials: object) -> None:
            told.append(credentials)

        settings = Settings(auth=Auth(issuers=(login.issuer(),)))
        refresher = CredentialRefresher(settings, update_credentials)
        before = asyncio.all_tasks()
        await refresher.open(settings)
        await until(lambda: len(told) == 1)
        await refresher.close()
        await refresher.close()
        assert {task for task in asyncio.all_tasks() - before if "keys" in task.get_name()} == set()
