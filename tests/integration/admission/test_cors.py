"""Pages of other origins: preflights are the gateway's to answer, and every answer says who may read it (Fetch, CORS protocol)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from downstream import Answer, Downstream, request_bytes
from integration.fast_path import armed
from integration.inside import inside
from tokens import SECRET
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.records import Allowance, Cors, LimitRule, Maintenance, Route, Secret, WebSocket

pytestmark = pytest.mark.integration
LOOPS = ("uvloop", "asyncio")

CHAT = "/v1/chat/completions"
BODY = b'{"model":"demo","messages":[]}'
JSON = ("Content-Type", "application/json")
PAGE = "https://app.example"
NAMED = Cors((PAGE, "https://*.team.example", "http://localhost:*"))
ANY = Cors(("*",))
LOCKED: dict[str, Any] = {"jwt_secret": Secret(SECRET), "route": {"auth_required": True}}


def preflight(
    origin: str = PAGE, method: str = "POST", names: str = "authorization,content-type"
) -> list[tuple[str, str]]:
    return [
        ("Origin", origin),
        ("Access-Control-Request-Method", method),
        ("Access-Control-Request-Headers", names),
    ]


async def options(url: str, asked: Sequence[tuple[str, str]], path: str = CHAT) -> Answer:
    async with Downstream(url) as client:
        return await client.ask("OPTIONS", path, b"", list(asked))


async def post(url: str, *headers: tuple[str, str], path: str = CHAT, body: bytes = BODY) -> Answer:
    async with Downstream(url) as client:
        return await client.ask("POST", path, body, [JSON, *headers])


def allowed(answer: Answer) -> str | None:
    return answer.header("access-control-allow-origin")


async def test_a_preflight_is_answered_before_anybody_is_known_and_never_forwarded(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(
            upstream.url, tmp_path, cors=NAMED, **{**LOCKED, "route": {"auth_required": True, "cors": NAMED}}
        ) as gateway,
    ):
        answer = await options(gateway.url, preflight())
        assert answer.status == 204
        assert not answer.body
        assert answer.header("content-length") is None
        assert allowed(answer) == PAGE
        assert answer.header("access-control-allow-headers") == "authorization, content-type"
        assert "POST" in (answer.header("access-control-allow-methods") or "")
        assert answer.header("access-control-max-age") == "600"
        assert answer.header("access-control-allow-credentials") is None
        assert "origin" in (answer.header("vary") or "")
        assert answer.header("x-request-id")
        assert answer.header("date")
        # The request itself does not go through for all that; the page may read why.
        refused = await post(gateway.url, ("Origin", PAGE))
        assert (refused.status, allowed(refused)) == (401, PAGE)
        assert not upstream.requests


@pytest.mark.parametrize(
    ("origin", "is_let_in"),
    [
        (PAGE, True),
        ("HTTPS://APP.EXAMPLE", True),
        ("https://a.team.example", True),
        ("https://a.b.team.example", True),
        ("https://team.example", False),
        ("https://evil-team.example", False),
        ("https://a.team.example.evil", False),
        ("https://evil.example/.team.example", False),
        ("http://a.team.example", False),
        ("https://app.example:8443", False),
        ("https://app.example.evil", False),
        ("http://app.example", False),
        ("http://localhost", True),
        ("http://localhost:5173", True),
        ("http://localhost:5173.evil", False),
        ("http://localhost.evil:1", False),
        ("null", False),
        (f"{PAGE} https://evil.example", False),
        ("https://" + "a." * 300 + "team.example", False),
    ],
)
async def test_pages_that_are_not_named_are_not_let_in(tmp_path: Path, origin: str, is_let_in: bool) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path, cors=NAMED, route={"cors": NAMED}) as gateway,
    ):
        asked = await options(gateway.url, preflight(origin))
        assert asked.status == (204 if is_let_in else 403)
        assert allowed(asked) == (origin if is_let_in else None)
        assert len(upstream.requests) == 0
        answer = await post(gateway.url, ("Origin", origin))
        assert (answer.status, allowed(answer)) == (200, origin if is_let_in else None)
        assert answer.header("vary") == "origin"


async def test_without_cors_a_preflight_is_told_which_key_would_let_it_in(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as upstream, inside(upstream.url, tmp_path) as gateway:
        answer = await options(gateway.url, preflight())
        assert answer.status == 403
        assert answer.json()["error"]["code"] == "origin_not_allowed"
        assert "[cors] origins" in answer.json()["error"]["message"]
        assert not upstream.requests
        # What is no preflight is the upstream's, as ever; so is the answer to a page, which it cannot read.
        assert (await options(gateway.url, [("Origin", PAGE)])).status == 200
        answer = await post(gateway.url, ("Origin", PAGE))
        assert (answer.status, allowed(answer), answer.header("vary")) == (200, None, None)


@pytest.mark.parametrize("cors", [NAMED, ANY], ids=["named", "any"])
async def test_an_upstreams_own_word_never_passes(tmp_path: Path, cors: Cors) -> None:
    lines = (
        ("Access-Control-Allow-Origin", "https://up.example"),
        ("ACCESS-CONTROL-ALLOW-CREDENTIALS", "true"),
        ("access-control-expose-headers", "x-theirs"),
        ("Access-Control-Max-Age", "1"),
        ("Accept-Ranges", "bytes"),
    )
    async with FaultyUpstream(faults.raw(faults.json_bytes({}, 200, *lines))) as upstream:
        for number, settings in enumerate(({"cors": cors, "route": {"cors": cors}}, {})):
            folder = tmp_path / str(number)
            folder.mkdir()
            async with inside(upstream.url, folder, **settings) as gateway:
                answer = await post(gateway.url, ("Origin", PAGE))
                assert allowed(answer) == (None if not settings else "*" if cors is ANY else PAGE)
                assert "x-theirs" not in (answer.header("access-control-expose-headers") or "")
                assert answer.header("access-control-allow-credentials") is None
                assert answer.header("access-control-max-age") is None
                assert answer.header("accept-ranges") == "bytes"


async def test_answers_say_what_a_page_may_read(tmp_path: Path) -> None:
    cors = Cors((PAGE,), credentials=True, expose=("openai-processing-ms",))
    rule = LimitRule("all", ("address",), Allowance(requests_per_minute=1000))
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path, cors=cors, route={"cors": cors}, limit_rules=(rule,)) as gateway,
    ):
        answer = await post(gateway.url, ("Origin", PAGE))
        assert allowed(answer) == PAGE
        assert answer.header("access-control-allow-credentials") == "true"
        exposed = (answer.header("access-control-expose-headers") or "").split(", ")
        ours = {name.lower() for name, _ in answer.headers if name.lower().startswith(("x-", "rate"))}
        assert ours <= set(exposed)
        assert {"retry-after", "openai-processing-ms"} <= set(exposed)
        asked = await options(gateway.url, preflight())
        assert (allowed(asked), asked.header("access-control-allow-credentials")) == (PAGE, "true")


@pytest.mark.parametrize("cors", [NAMED, ANY], ids=["named", "any"])
@pytest.mark.parametrize("kind", ["stream", "upstream error", "no upstream", "broken"])
async def test_whatever_comes_back_a_page_may_read_it(tmp_path: Path, cors: Cors, kind: str) -> None:
    answers = {
        "stream": faults.stream(),
        "upstream error": faults.status(429),
        "no upstream": faults.garbage(),
        "broken": faults.chat(),
    }
    async with (
        FaultyUpstream(answers[kind]) as upstream,
        inside(upstream.url, tmp_path, cors=cors, route={"cors": cors}) as gateway,
    ):
        body = b'{"model":' if kind == "broken" else BODY
        answer = await post(gateway.url, ("Origin", PAGE), body=body)
        assert answer.status == {"stream": 200, "upstream error": 429, "no upstream": 502, "broken": 400}[kind]
        assert allowed(answer) == ("*" if cors is ANY else PAGE)


@pytest.mark.parametrize("cors", [NAMED, ANY], ids=["named", "any"])
@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"POST /v1/nowhere HTTP/1.1\r\nHost: a\r\nOrigin: %s\r\nContent-Length: 0\r\n\r\n", 404),
        (b"DELETE /v1/chat/completions HTTP/1.1\r\nHost: a\r\nOrigin: %s\r\n\r\n", 405),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nOrigin: %s\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\norigin:%s\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /a/../b HTTP/1.1\r\nHost: a\r\nORIGIN: %s\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nOrigin: %s\r\nx: " + b"y" * 9000 + b"\r\n\r\n", 431),
    ],
    ids=["no route", "no method", "too large", "no length", "dot segments", "long line"],
)
async def test_our_own_refusals_can_be_read_too(tmp_path: Path, cors: Cors, wire: bytes, status: int) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path, path=CHAT, cors=cors, route={"cors": cors, "methods": ("POST",)}) as gateway,
    ):
        for origin in (PAGE, "https://evil.example"):
            async with Downstream(gateway.url) as client:
                await client.send(wire.replace(b"%s", origin.encode()))
                answer = await client.answer()
            assert answer.status == status
            assert allowed(answer) == ("*" if cors is ANY else PAGE if origin == PAGE else None)
            assert answer.header("date")


async def test_limits_refuse_the_request_and_not_its_preflight(tmp_path: Path) -> None:
    rule = LimitRule("few", ("address",), Allowance(requests_per_minute=1, burst=1))
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path, cors=NAMED, route={"cors": NAMED}, limit_rules=(rule,)) as gateway,
    ):
        for _ in range(5):
            assert (await options(gateway.url, preflight())).status == 204
        assert (await post(gateway.url, ("Origin", PAGE))).status == 200
        answer = await post(gateway.url, ("Origin", PAGE))
        assert (answer.status, allowed(answer)) == (429, PAGE)
        assert "retry-after" in (answer.header("access-control-expose-headers") or "")
        assert (await options(gateway.url, preflight())).status == 204


async def test_a_route_may_say_otherwise(tmp_path: Path) -> None:
    other = Cors(("https://other.example",), methods=("POST",), headers=("content-type",), max_age_s=5)
    async with FaultyUpstream(faults.chat()) as upstream:
        async with inside(upstream.url, tmp_path, path="/v1/*", route={"cors": other}) as gateway:
            answer = await options(gateway.url, preflight("https://other.example", names="x-a, Content-Type"))
            assert answer.status == 204
            assert answer.header("access-control-allow-methods") == "POST"
            assert answer.header("access-control-allow-headers") == "content-type"
            assert answer.header("access-control-max-age") == "5"
            assert (await options(gateway.url, preflight(PAGE))).status == 403
            # Nothing is said of what no route takes, nor of our own paths.
            assert (await options(gateway.url, preflight("https://other.example"), "/elsewhere")).status == 403
            assert (await options(gateway.url, preflight("https://other.example", "GET"), "/livez")).status == 403
            assert allowed(await post(gateway.url, ("Origin", "https://other.example"))) == "https://other.example"


async def test_of_routes_told_apart_by_model_one_that_lets_in_is_enough(tmp_path: Path) -> None:
    closed = Route(name="closed", path="/v1/*", provider="p", models=("a",), auth_required=False)
    async with FaultyUpstream(faults.chat()) as upstream:
        async with inside(upstream.url, tmp_path, path="/v1/*", route={"cors": NAMED, "models": ("b",)}) as gateway:
            settings = gateway.gateway.settings
            plane = gateway.plane
            plane.commit(plane.prepare(replace(settings, routes=(closed, *settings.routes))))
            assert (await options(gateway.url, preflight())).status == 204
            for model, said in (("a", None), ("b", PAGE), ("c", PAGE)):
                answer = await post(gateway.url, ("Origin", PAGE), body=b'{"model":"%s"}' % model.encode())
                assert allowed(answer) == said, model


async def test_our_own_paths_are_open_to_pages_but_those_of_operators(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as upstream:
        for number, (cors, status) in enumerate(((NAMED, 403), (Cors((PAGE,), admin=True), 204))):
            folder = tmp_path / str(number)
            folder.mkdir()
            async with inside(upstream.url, folder, path="/v1/chat/*", cors=cors, route={"cors": cors}) as gateway:
                for path in ("/v1/models", "/v1/models/a", "/livez", "/health"):
                    assert (await options(gateway.url, preflight(method="GET"), path)).status == 204, path
                for path in ("/admin/reload-config", "/metrics"):
                    method = "POST" if path.startswith("/admin") else "GET"
                    answer = await options(gateway.url, preflight(method=method), path)
                    assert answer.status == status, path
                    assert status == 204 or "[cors] admin" in answer.json()["error"]["message"]
                async with Downstream(gateway.url) as client:
                    assert allowed(await client.ask("GET", "/livez", b"", [("Origin", PAGE)])) == PAGE


async def test_private_networks_are_opened_on_purpose(tmp_path: Path) -> None:
    asked = [*preflight(), ("Access-Control-Request-Private-Network", "true")]
    async with FaultyUpstream(faults.chat()) as upstream:
        for number, opened in enumerate((False, True)):
            cors = Cors((PAGE,), private_network=opened)
            folder = tmp_path / str(number)
            folder.mkdir()
            async with inside(upstream.url, folder, cors=cors, route={"cors": cors}) as gateway:
                answer = await options(gateway.url, asked)
                assert answer.status == 204
                assert answer.header("access-control-allow-private-network") == ("true" if opened else None)
                assert (await options(gateway.url, preflight())).header("access-control-allow-private-network") is None


async def test_what_is_asked_for_is_repeated_only_where_it_is_a_name(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path, cors=ANY, route={"cors": ANY}) as gateway,
    ):
        answer = await options(gateway.url, preflight(names="X-Stainless-OS, ,a b, c;d,authorization"))
        assert answer.header("access-control-allow-headers") == "x-stainless-os, authorization"
        assert (allowed(answer), answer.header("access-control-allow-credentials")) == ("*", None)
        bare = [(name, value) for name, value in preflight("null") if name != "Access-Control-Request-Headers"]
        answer = await options(gateway.url, bare)
        assert (answer.status, allowed(answer)) == (204, "*")
        assert answer.header("access-control-allow-headers") is None


async def test_options_about_the_server_itself_are_answered_here(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as upstream, inside(upstream.url, tmp_path) as gateway:
        async with Downstream(gateway.url) as client:
            for target in ("*", "http://a", "http://a:80"):
                await client.send(f"OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                answer = await client.answer()
                assert answer.status == 204
                assert answer.header("allow") == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
            await client.send(b"GET http://a:80/v1/x HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.answer()).status == 200
        (request,) = upstream.requests
        assert request.target == "/v1/x"


async def test_a_preflight_leaves_the_connection_as_it_is(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path, cors=NAMED, route={"cors": NAMED}) as gateway,
        Downstream(gateway.url) as client,
    ):
        asked = request_bytes("a", "OPTIONS", CHAT, b"", preflight())
        await client.send(asked + asked + request_bytes("a", "POST", CHAT, BODY, [JSON, ("Origin", PAGE)]))
        assert [(await client.answer()).status for _ in range(3)] == [204, 204, 200]
        await gateway.at_rest()
        lines = await gateway.lines(3)
        assert [line["status"] for line in lines] == [204, 204, 200]


async def test_a_handshake_from_another_page_is_refused(tmp_path: Path) -> None:
    handshake = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    route = {"cors": NAMED, "websocket": WebSocket(), "methods": ("GET",)}
    async with (
        FaultyUpstream(faults.status(426)) as upstream,
        inside(upstream.url, tmp_path, cors=NAMED, route=route) as gateway,
    ):
        host = gateway.url.removeprefix("http://")
        for origin, passes in ((PAGE, True), (None, True), (f"http://{host}", True), ("https://evil.example", False)):
            async with Downstream(gateway.url) as client:
                given = [] if origin is None else [("Origin", origin)]
                answer = await client.ask("GET", "/v1/realtime", b"", [*handshake, *given])
            assert (answer.status == 403) is not passes, origin
            assert (len(upstream.requests) == 1) is passes, origin
            upstream.requests.clear()


async def test_the_fast_path_says_the_same(tmp_path: Path) -> None:
    ours = {"x-request-id", "x-budgateway-overhead-us", "date"}

    def told(answer: Answer) -> list[tuple[str, str]]:
        return sorted((name.lower(), value) for name, value in answer.headers if name.lower() not in ours)

    for cors, is_fast in ((NAMED, False), (ANY, True)):
        for disclose in (False, True):
            folder = tmp_path / f"{is_fast}{disclose}"
            folder.mkdir()
            async with (
                FaultyUpstream(faults.chat()) as upstream,
                inside(
                    upstream.url, folder, path="/v1/*", cors=cors, route={"cors": cors}, disclose=disclose
                ) as gateway,
                Downstream(gateway.url) as client,
            ):
                fastpath = gateway.plane.fastpath
                if fastpath is None:
                    return
                plain = request_bytes("a", "POST", CHAT, BODY, [JSON])
                await client.send(plain)
                first = told(await client.answer())
                await armed(client, fastpath.native, plain)
                await client.send(plain)
                assert told(await client.answer()) == first
                for origin in (PAGE, "https://evil.example", PAGE):
                    before = fastpath.native.served()
                    asked = request_bytes("a", "POST", CHAT, BODY, [JSON, ("Origin", origin)])
                    for _ in range(3):
                        await client.send(asked)
                        answer = await client.answer()
                        assert allowed(answer) == ("*" if cors is ANY else PAGE if origin == PAGE else None)
                    assert (fastpath.native.served() > before) is is_fast


async def test_a_gateway_that_is_full_says_so_to_pages(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path, cors=ANY, route={"cors": ANY}, max_connections=1) as gateway,
        Downstream(gateway.url) as first,
    ):
        assert (await first.ask("POST", CHAT, BODY, [JSON])).status == 200
        async with Downstream(gateway.url) as second:
            answer = await second.answer()
            assert (answer.status, allowed(answer)) == (503, "*")
            assert answer.header("date")


async def test_a_closed_route_says_so_to_pages(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path, cors=NAMED, route={"cors": NAMED, "maintenance": Maintenance("m")}) as gateway,
    ):
        answer = await post(gateway.url, ("Origin", PAGE))
        assert (answer.status, allowed(answer)) == (503, PAGE)
