"""The model that is authorised is the model that runs: bodies that are not read, forms, codings, WebSockets; access and limits."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from codings import CODINGS
from downstream import Answer, Downstream
from integration.inside import Inside, upstream_of
from tokens import SECRET, own
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.process.embedded import Gateway
from budgateway.records import (
    Allowance,
    Auth,
    LimitRule,
    ModelPrice,
    Permission,
    Provider,
    Route,
    Secret,
    Settings,
    WebSocket,
)  # fmt: skip

pytestmark = pytest.mark.integration

LOOPS = ("uvloop",)
JSON = ("content-type", "application/json")
FORM = ("content-type", "multipart/form-data; boundary=b0undary")
UPGRADE = [("connection", "Upgrade"), ("upgrade", "h2c")]
HANDSHAKE = [
    ("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
]  # fmt: skip
CHEAP, DEAR = b'{"model":"cheap","messages":[]}', b'{"model":"dear","messages":[]}'
# Of a form: `field("model", "cheap")`, and a file.
END = b"--b0undary--\r\n"


def field(name: str, value: str) -> bytes:
    return f'--b0undary\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def file(size: int) -> bytes:
    head = b'--b0undary\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return head + b"\r\n-RIFF" * (size // 7) + b"\r\n"


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(faults.chat()) as made:
        yield made


@pytest.fixture
async def gateway(upstream: FaultyUpstream, tmp_path: Path) -> AsyncIterator[Inside]:
    provider = Provider("p", "openai", (upstream_of(upstream.url),))
    settings = Settings(
        host="127.0.0.1", port=0, metrics_port=0, access_log="off", drain_s=1.0, providers=(provider,),
        routes=(
            Route("all", "/v1/*", "p"),
            Route("socket", "/v1/realtime", "p", websocket=WebSocket()),
            Route("by-model", "/by/*", "p", models=("cheap",)),
            Route("rest", "/by/*", "p"),
            Route("only", "/only/*", "p", models=("cheap",)),
        ),
        limit_rules=(
            LimitRule("dear-ones", ("user",), Allowance(requests_per_day=1), models=("dear*",), routes=("all",)),
            LimitRule("each", ("user", "model"), Allowance(requests_per_day=2, burst=2), routes=("rest",)),
        ),
        jwt_secret=Secret(SECRET), auth=Auth(grants=(Permission("poor", models=("cheap",)), Permission("rich"))),
    )  # fmt: skip
    async with Gateway(settings) as made:
        yield Inside(made, tmp_path / "none")


def who(role: str, name: str = "ada") -> tuple[str, str]:
    return ("authorization", f"Bearer {own(roles=[role], sub=name)}")


async def ask(
    gateway: Inside,
    role: str,
    body: bytes,
    *headers: tuple[str, str],
    path: str = "/v1/x",
    late: bool = False,
    name: str = "ada",
) -> Answer:
    """`late`: the body comes in pieces, behind the head."""
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}"]
    lines += [f"{key}: {value}" for key, value in (who(role, name), *headers)]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode()
    async with Downstream(gateway.url) as client:
        if not late:
            await client.send(head + body)
        else:
            await client.send(head)
            for at in range(0, len(body), 60_000):
                await asyncio.sleep(0)
                await client.send(body[at : at + 60_000])
        return await client.answer()


@pytest.mark.parametrize("headers", [[], UPGRADE, HANDSHAKE[:2]])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    "kind", ["text/plain", "", "application/json; charset=utf-16", "multipart/mixed; boundary=b0undary"]
)
async def test_what_is_not_read_is_authorised_by_no_query(
    gateway: Inside, upstream: FaultyUpstream, headers: list[tuple[str, str]], late: bool, kind: str
) -> None:
    typed = [("content-type", kind)] if kind else []
    for path in ("/v1/x?model=cheap", "/v1/x"):
        answer = await ask(gateway, "poor", DEAR, *typed, *headers, path=path, late=late)
        assert answer.status == 403, answer.body
    assert not upstream.requests
    assert (await ask(gateway, "rich", DEAR, *typed, *headers, late=late)).status == 200


@pytest.mark.parametrize("coding", [*CODINGS, "GZip", "ZSTD"])
@pytest.mark.parametrize("late", [False, True])
async def test_compressed_json_is_read_and_goes_on_decoded(
    gateway: Inside, upstream: FaultyUpstream, coding: str, late: bool
) -> None:
    pack = CODINGS[coding.lower()]
    said = ("content-encoding", coding)
    assert (await ask(gateway, "poor", pack(DEAR), JSON, said, path="/v1/x?model=cheap", late=late)).status == 403
    assert (
        await ask(gateway, "poor", pack(DEAR), JSON, said, *UPGRADE, path="/v1/x?model=cheap", late=late)
    ).status == 403
    assert not upstream.requests
    large = json.dumps({"model": "cheap", "messages": ["\u00e9" * 10_000]}).encode()
    for body in (CHEAP, large):
        answer = await ask(gateway, "poor", pack(body), JSON, said, path="/v1/x?y=%2F", late=late)
        assert answer.status == 200, answer.body
        received = upstream.requests[-1]
        assert received.body == body
        assert received.target == "/v1/x?y=%2F"
        assert "content-encoding" not in received.names
        assert ("content-length", str(len(body))) in [(key.lower(), value) for key, value in received.headers]


async def test_a_compressed_form_streams_decoded(gateway: Inside, upstream: FaultyUpstream) -> None:
    body = field("model", "cheap") + file(300_000) + END
    packed = gzip.compress(body, 0)
    answer = await ask(gateway, "poor", packed, FORM, ("content-encoding", "gzip"), late=True)
    assert answer.status == 200, answer.body
    assert upstream.requests[-1].body == body
    assert "content-encoding" not in upstream.requests[-1].names
    bad = gzip.compress(body.replace(b"cheap", b"dear"), 0)
    assert (await ask(gateway, "poor", bad, FORM, ("content-encoding", "gzip"), late=True)).status == 403


@pytest.mark.parametrize("late", [False, True])
async def test_a_coding_that_cannot_be_read_is_refused(gateway: Inside, upstream: FaultyUpstream, late: bool) -> None:
    for coding in ("compress", "gzip, gzip", "identity, gzip", "utf-8"):
        said = ("content-encoding", coding)
        packed = gzip.compress(CHEAP)
        assert (await ask(gateway, "poor", packed, JSON, said, path="/v1/x?model=cheap", late=late)).status == 403
        # A route that depends on the model says what it would read.
        for role in ("poor", "rich"):
            answer = await ask(gateway, role, packed, JSON, said, path="/only/x", late=late)
            assert answer.status == 415
            assert answer.header("accept-encoding") == "gzip, deflate, br, zstd"
    assert not upstream.requests
    said = ("content-encoding", "gzip")
    for body in (CHEAP, gzip.compress(CHEAP)[:-1], gzip.compress(CHEAP) + b"x", gzip.compress(CHEAP) * 2):
        assert (await ask(gateway, "rich", body, JSON, said, late=late)).status == 400
    bomb = gzip.compress(b'{"model":"cheap","x":"' + b" " * (9 << 20) + b'"}')
    assert (await ask(gateway, "rich", bomb, JSON, said, late=late)).status == 413
    assert not upstream.requests
    # For who may use every model it passes as it came, and so does what is of another type.
    packed = gzip.compress(CHEAP)
    for kind, coding in ((JSON, "compress"), (("content-type", "audio/wav"), "gzip")):
        answer = await ask(gateway, "rich", packed, kind, ("content-encoding", coding), late=late, name=coding)
        assert answer.status == 200
        assert upstream.requests[-1].body == packed
        assert "content-encoding" in upstream.requests[-1].names


@pytest.mark.parametrize("size", [100, 100_000, 2_000_000, 9_000_000])
async def test_the_model_may_stand_behind_the_file(gateway: Inside, upstream: FaultyUpstream, size: int) -> None:
    for fields in (
        [field("model", "cheap"), file(size)],
        [file(size), field("language", "de"), field("model", "cheap")],
    ):
        body = b"".join(fields) + END
        answer = await ask(gateway, "poor", body, FORM, late=True)
        assert answer.status == 200, answer.body
        assert upstream.requests[-1].body == body
        assert (await ask(gateway, "poor", body.replace(b"cheap", b"other"), FORM, late=True)).status == 403
    count = len(upstream.requests)
    assert (await ask(gateway, "poor", file(size) + END, FORM, late=True)).status == 403
    assert len(upstream.requests) == count


async def test_a_model_behind_more_than_is_held(
    gateway: Inside, upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one that cannot be seen: for who may use all, where the route is the same for all."""
    body = file(34 << 20) + field("model", "cheap") + END
    routes = gateway.plane.snapshot.routes
    gateway.plane.server_state.max_body_bytes = 64 << 20
    for room in routes.compiled_routes:
        room.max_body_bytes = 64 << 20
    assert (await ask(gateway, "poor", body, FORM, late=True)).status == 403
    answer = await ask(gateway, "rich", body, FORM, late=True)
    assert answer.status == 200, answer.body
    assert upstream.requests[-1].body == body
    answer = await ask(gateway, "rich", body, FORM, path="/by/x", late=True)
    assert answer.status == 400
    assert "before the file" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        DEAR + b"\r\n" + field("model", "cheap") + END,
        field("model", "cheap") + field("model", "dear") + END,
        field("model", "cheap") + field("x", "y").replace(b'name="x"', b'name*0="mod"; name*1="el"') + END,
        field("model", "cheap") + file(200_000) + field("Model", "dear") + END,
        field("model", "cheap") + file(200_000) + END + field("model", "dear"),
        field("model", "cheap"),
    ],
)
async def test_a_form_that_can_be_read_in_two_ways_is_refused(gateway: Inside, body: bytes) -> None:
    for role in ("poor", "rich"):
        assert (await ask(gateway, role, body, FORM, late=True)).status == 400


@pytest.mark.parametrize("key", ["Model", "MODEL", "mode\\u004c", "Max_tokens", "\\u017ftream", "max_to\\u212aens"])
async def test_a_member_in_other_letters_is_refused(gateway: Inside, upstream: FaultyUpstream, key: str) -> None:
    body = f'{{"model":"cheap","messages":[],"{key}":"dear"}}'.encode()
    for _ in range(3):
        assert (await ask(gateway, "poor", CHEAP, JSON)).status == 200
        assert (await ask(gateway, "poor", body, JSON)).status == 400
    # On one connection, where what is common takes the fast path.
    async with Downstream(gateway.url) as client:
        for _ in range(4):
            assert (await client.ask("POST", "/v1/x", CHEAP, [who("poor"), JSON])).status == 200
            assert (await client.ask("POST", "/v1/x", body, [who("poor"), JSON])).status == 400
    assert {request.body for request in upstream.requests} == {CHEAP}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/x?model=dear",
        "/v1/x?x=1&mode%6c=dear",
        "/v1/models/dear/x",
        "/v1/deployments/dear/chat",
        "/v1/x;v?MODEL=dear",
    ],
)
async def test_another_model_in_the_target_is_one_that_cannot_be_seen(
    gateway: Inside, upstream: FaultyUpstream, path: str
) -> None:
    async with Downstream(gateway.url) as client:
        for _ in range(4):
            assert (await client.ask("POST", "/v1/x", CHEAP, [who("poor"), JSON])).status == 200
            assert (await client.ask("POST", path, CHEAP, [who("poor"), JSON])).status == 403
            assert (await client.ask("POST", path.replace("dear", "cheap"), CHEAP, [who("poor"), JSON])).status in (
                200,
                403,
            )
        assert (await client.ask("POST", path, CHEAP, [who("rich"), JSON])).status == 200
        assert (await client.ask("POST", path, b"", [who("poor")])).status == 403
        # 404: of the gateway's own list of models.
        assert (await client.ask("GET", path, None, [who("poor")])).status in (200, 404)
    assert (await ask(gateway, "poor", CHEAP, JSON, path="/v1/x?model=cheap")).status == 200
    assert (await ask(gateway, "poor", CHEAP, JSON, path="/v1/deployments/cheap/chat")).status == 200


@pytest.mark.parametrize("query", ["", "?model=", "?x=1"])
async def test_a_socket_without_a_model_is_for_who_may_use_all(gateway: Inside, query: str) -> None:
    async with Downstream(gateway.url) as client:
        for role, path, expected in (
            ("poor", "/v1/realtime" + query, 403),
            ("poor", "/v1/realtime?model=dear", 403),
            ("poor", "/v1/realtime?Model=cheap", 400),
            ("poor", "/v1/realtime?model=cheap&model=dear", 400),
            ("poor", "/v1/realtime?x=1;model=cheap", 400),
            # The upstream answers 200: no socket, but it was asked.
            ("poor", "/v1/realtime?model=cheap", 200),
            ("rich", "/v1/realtime" + query, 200),
        ):
            answer = await client.ask("GET", path, None, [who(role), *HANDSHAKE])
            assert answer.status == expected, (role, path, answer.body)
        # Elsewhere an upgrade is ignored, and there is no model where there is no body.
        assert (await client.ask("GET", "/v1/files?model=dear", None, [who("poor"), *HANDSHAKE])).status == 200


async def test_what_is_not_seen_counts_in_every_limit_by_model(gateway: Inside) -> None:
    plain = ("content-type", "text/plain")
    assert (await ask(gateway, "rich", DEAR, plain)).status == 200
    for body, kind in ((DEAR, plain), (DEAR, JSON), (b"{}", JSON)):
        assert (await ask(gateway, "rich", body, kind)).status == 429
    assert (await ask(gateway, "rich", CHEAP, JSON)).status == 200
    # By model: all that is not seen is one.
    for status in (200, 200, 429):
        assert (await ask(gateway, "rich", DEAR, plain, path="/by/x", name="eve")).status == status
    assert (await ask(gateway, "rich", DEAR, JSON, path="/by/x", name="eve")).status == 200


async def test_what_is_not_seen_costs_what_all_models_do(upstream: FaultyUpstream, tmp_path: Path) -> None:
    settings = Settings(
        host="127.0.0.1", port=0, metrics_port=0, access_log="off", drain_s=1.0,
        providers=(Provider("p", "openai", (upstream_of(upstream.url),)),),
        routes=(Route("all", "/v1/*", "p", auth_required=False),),
        prices=(ModelPrice("cheap", 0.0, 0.0, 0.0), ModelPrice("*", 1e6, 1e6, 1e6)),
        limit_rules=(LimitRule("money", ("address",), Allowance(budget_usd=1.0, budget_period="day")),),
    )  # fmt: skip
    async with Gateway(settings) as made:
        inside = Inside(made, tmp_path / "none")
        assert (await ask(inside, "rich", CHEAP, JSON)).status == 200
        assert (await ask(inside, "rich", DEAR, ("content-type", "text/plain"))).status in (200, 429)
        assert (await ask(inside, "rich", DEAR, ("content-type", "text/plain"))).status == 429
