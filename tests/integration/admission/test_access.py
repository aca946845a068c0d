"""Role x route x model through a real gateway: what is declared is what happens, and /v1/models says the same (S4)."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from urllib.parse import quote

import pytest
from downstream import Downstream
from integration.inside import Inside, upstream_of
from tokens import SECRET, own
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.auth.keys import digest_of, new_secret, start_of
from budgateway.process.embedded import Gateway
from budgateway.records import ApiKey, Auth, Permission, Provider, Route, Secret, Settings, Tenant

pytestmark = pytest.mark.integration

LOOPS = ("uvloop",)
JSON = ("content-type", "application/json")
MODELS = ("gpt-4o", "gpt-4o-mini", "o3", "vllm/llama")
ROUTES = (
    Route("chat", "/v1/chat/completions", "p", methods=("POST",)),
    Route("embeddings", "/v1/embeddings", "p", methods=("POST",)),
    Route("files", "/v1/files", "p"),
    Route("open", "/v1/open", "p", models=("o3",), auth_required=False),
)
GRANTS = (
    Permission("all"),
    Permission("mini", routes=("chat",), models=("*-mini",)),
    Permission("embed", routes=("embeddings",), methods=("POST",), models=("o3", "vllm/*")),
    Permission("files", routes=("files",), methods=("GET", "DELETE")),
    Permission("auditor", routes=(), admin=("read", "metrics")),
)
# (role, route's path, method, model) -> allowed; by hand, row by row.
ALLOWED: dict[str, set[tuple[str, str, str]]] = {
    "all": {
        *product(("/v1/chat/completions", "/v1/embeddings", "/v1/files"), ("POST",), MODELS),
        *(("/v1/files", method, "") for method in ("GET", "DELETE")),
    },
    "mini": {("/v1/chat/completions", "POST", "gpt-4o-mini")},
    "embed": {("/v1/embeddings", "POST", "o3"), ("/v1/embeddings", "POST", "vllm/llama")},
    "files": {("/v1/files", "GET", ""), ("/v1/files", "DELETE", "")},
    "auditor": set(),
    "unknown": set(),
}
ALLOWED["admin"] = ALLOWED["all"]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Inside]:
    async with FaultyUpstream(faults.chat()) as upstream:
        provider = Provider("p", "openai", (upstream_of(upstream.url),), models=MODELS)
        settings = Settings(
            host="127.0.0.1", port=0, metrics_port=0, access_log="off", drain_s=1.0, providers=(provider,), routes=ROUTES,
            jwt_secret=Secret(SECRET), auth=Auth(grants=GRANTS, tenants=(Tenant("t", models=("gpt-*",)),)),
        )  # fmt: skip
        async with Gateway(settings) as made:
            yield Inside(made, tmp_path / "none")


def bearer(*roles: str, **claims: object) -> tuple[str, str]:
    return ("authorization", f"Bearer {own(roles=list(roles), **claims)}")


async def ask(client: Downstream, who: tuple[str, str] | None, path: str, method: str, model: str) -> int:
    body = json.dumps({"model": model}).encode() if model else None
    headers = [header for header in (who, JSON if model else None) if header is not None]
    return (await client.ask(method, path, body, headers)).status


async def test_the_matrix_is_as_declared(gateway: Inside) -> None:
    asked = 0
    async with Downstream(gateway.url) as client:
        for role, allowed in ALLOWED.items():
            who = bearer(role)
            for path, method, model in (
                *product(("/v1/chat/completions", "/v1/embeddings", "/v1/files"), ("POST",), MODELS),
                *product(("/v1/files",), ("GET", "DELETE", "PUT"), ("",)),
            ):
                if method == "PUT" and role in ("all", "admin"):
                    continue
                expected = 200 if (path, method, model) in allowed else 403
                for _ in range(2):
                    assert await ask(client, who, path, method, model) == expected, (role, path, method, model)
                    asked += 1
        assert await ask(client, None, "/v1/open", "POST", "o3") == 200
        assert await ask(client, bearer("unknown"), "/v1/open", "POST", "o3") == 200
        assert await ask(client, None, "/v1/files", "GET", "") == 401
    assert asked > 180


async def test_a_body_that_hides_its_model_is_for_who_may_use_all(gateway: Inside) -> None:
    hidden = json.dumps({"model": "gpt-4o"}).encode()
    plain = [("content-type", "text/plain")]
    packed = [JSON, ("content-encoding", "gzip")]
    async with Downstream(gateway.url) as client:
        for headers, body in (
            (plain, hidden),
            (packed, gzip.compress(hidden)),
            ([JSON], b"{}"),
            ([JSON], b'{"model":5}'),
        ):
            for who, expected in (
                (bearer("mini"), 403),
                (bearer("all", models=["gpt-4o-mini"]), 403),
                (bearer("all"), 200),
            ):
                answer = await client.ask("POST", "/v1/chat/completions", body, [who, *headers])
                assert answer.status == expected, (headers, body)
        twice = b'{"model":"gpt-4o-mini","model":"o3"}'
        assert (await client.ask("POST", "/v1/chat/completions", twice, [bearer("mini"), JSON])).status == 400


async def test_a_form_with_two_models_is_refused(gateway: Inside) -> None:
    field = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\n%b\r\n'
    end = b"--b--\r\n"
    form = ("content-type", "multipart/form-data; boundary=b")

    async def status(*models: bytes, size: int = 0) -> int:
        file = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n%b\r\n' % bytes(size)
        body = field % models[0] + file + b"".join(field % model for model in models[1:]) + end
        async with Downstream(gateway.url) as client:
            return (await client.ask("POST", "/v1/chat/completions", body, [bearer("mini"), form])).status

    assert await status(b"gpt-4o-mini") == 200
    assert await status(b"o3") == 403
    assert await status(b"gpt-4o-mini", b"o3") == 400
    # Behind what is held back of a form: found as it passes.
    assert await status(b"gpt-4o-mini", b"o3", size=300_000) == 400


async def test_why_is_told_to_who_may_look(gateway: Inside) -> None:
    async with Downstream(gateway.url) as client:
        for roles, told in ((["mini"], False), (["mini", "auditor"], True)):
            answer = await client.ask("POST", "/v1/chat/completions", b'{"model":"o3"}', [bearer(*roles), JSON])
            message = answer.json()["error"]["message"]
            assert answer.status == 403
            assert ("'mini' allows the models *-mini" in message) is told
            assert message.startswith("you may not use the model 'o3' on the route '")


async def test_admin_endpoints_are_granted_by_action(gateway: Inside) -> None:
    async with Downstream(gateway.url) as client:
        for roles, method, path, expected in (
            (["auditor"], "GET", "/admin/routes", 200),
            (["auditor"], "POST", "/admin/reload-config", 403), (["auditor"], "GET", "/admin/keys", 403),
            (["all"], "GET", "/admin/routes", 403), (["admin"], "POST", "/admin/reload-config", 422),
        ):  # fmt: skip
            answer = await client.ask(method, path, b"" if method == "POST" else None, [bearer(*roles)])
            assert answer.status == expected, (roles, method, path)


async def test_the_model_list_is_its_readers_own(gateway: Inside) -> None:
    async with Downstream(gateway.url) as client:

        async def seen(*headers: tuple[str, str]) -> list[str]:
            answer = await client.ask("GET", "/v1/models", headers=headers)
            return sorted(model["id"] for model in answer.json()["data"])

        assert await seen(bearer("all")) == sorted(MODELS)
        assert await seen(bearer("mini")) == ["gpt-4o-mini", "o3"]  # o3 on the open route
        assert await seen(bearer("all", tenant="t")) == ["gpt-4o", "gpt-4o-mini", "o3"]
        assert await seen(bearer("all", models=["vllm/*"])) == ["o3", "vllm/llama"]
        assert await seen() == ["o3"]
        # What a client writes into the principal header goes nowhere.
        forged = ("x-budgateway-principal", "eyJpZCI6IngiLCJ0ZW5hbnQiOiIiLCJyb2xlcyI6WyJhZG1pbiJdLCJtb2RlbHMiOltdfQ==")
        assert await seen(forged) == ["o3"]
        assert await seen(forged, bearer("mini")) == ["gpt-4o-mini", "o3"]
        assert (await client.ask("GET", "/v1/models/vllm/llama", headers=[bearer("mini")])).status == 404
        assert (await client.ask("GET", "/v1/models/vllm/llama", headers=[bearer("all")])).status == 200
        assert (await client.ask("GET", "/v1/models/gpt-4o", headers=[bearer("mini")])).status == 404
        assert (await client.ask("GET", "/v1/models/gpt-4o-mini", headers=[bearer("mini")])).status == 200
        bad = await client.ask("GET", "/v1/models", headers=[("authorization", "Bearer x.y.z")])
        assert bad.status == 401


async def test_without_open_routes_the_model_list_asks_for_a_credential(tmp_path: Path) -> None:
    provider = Provider("p", "openai", (upstream_of("http://127.0.0.1:9"),), models=MODELS)
    settings = Settings(
        host="127.0.0.1", port=0, metrics_port=0, access_log="off", providers=(provider,), jwt_secret=Secret(SECRET),
        routes=(replace(ROUTES[0], name="only"),),
    )  # fmt: skip
    async with Gateway(settings) as gateway, Downstream(gateway.url) as client:
        assert (await client.ask("GET", "/v1/models")).status == 401
        answer = await client.ask("GET", "/v1/models", headers=[bearer()])
        assert len(answer.json()["data"]) == len(MODELS)


async def test_a_route_that_has_the_path_of_the_model_list_answers_it(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as upstream:
        provider = Provider("p", "openai", (upstream_of(upstream.url),), models=MODELS)
        settings = Settings(
            host="127.0.0.1", port=0, metrics_port=0, access_log="off", providers=(provider,),
            routes=(Route("mine", "/v1/models", "p", auth_required=False),),
        )  # fmt: skip
        async with Gateway(settings) as gateway, Downstream(gateway.url) as client:
            assert (await client.ask("GET", "/v1/models")).header("x-budgateway-upstream") == "p"
            assert (await client.ask("GET", "/v1/models/o3")).header("x-budgateway-upstream") == "gateway"


async def test_a_method_that_is_not_allowed_hears_which_are(gateway: Inside) -> None:
    """RFC 9110 15.5.6."""
    async with Downstream(gateway.url) as client:
        for path, allowed in (
            ("/v1/chat/completions", "POST"),
            ("/health", "GET, HEAD"),
            ("/v1/models/x", "GET, HEAD"),
        ):
            answer = await client.ask("PUT", path, b"", [bearer("all")])
            assert (answer.status, answer.header("allow")) == (405, allowed)


async def test_a_models_name_may_come_percent_encoded(tmp_path: Path) -> None:
    provider = Provider(
        "p", "openai", (upstream_of("http://127.0.0.1:9"),), models=("模型", "my model", "50%", "org/model")
    )
    settings = Settings(
        host="127.0.0.1", port=0, metrics_port=0, access_log="off", providers=(provider,),
        routes=(Route("all", "/v1/*", "p", auth_required=False),),
    )  # fmt: skip
    async with Gateway(settings) as gateway, Downstream(gateway.url) as client:
        for name in provider.models:
            answer = await client.ask("GET", f"/v1/models/{quote(name, safe='')}")
            assert (answer.status, answer.json()["id"]) == (200, name)
        answer = await client.ask("GET", "/v1/models/%E6%A8")
        assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")


SPELLINGS = (
    "/v1//files/f", "//v1/files/f", "/v1/files//f", "/v1/files;a/f", "/v1;a=b/files/f", "/v1/%66iles/f", "/v1/%2566iles/f",
    "/v1/Files/f", "/V1/FILES/f", "/v1/files./f", "/v1/files%20/f", "/v1/files%3Bx/f", "/v1/./files/f", "/v1/x/../files/f",
    "/v1/%2e/files/f", "/v1/x/%252e%252e/files/f", "/v1%2Ffiles/f", "/v1/x%5C..%5Cfiles", "/v1/files%00/f", "/v1/%c0%ae/files/f",
)  # fmt: skip


@pytest.mark.parametrize("required", [True, False])
async def test_no_spelling_of_a_path_escapes_its_rule(tmp_path: Path, required: bool) -> None:
    """Servers merge slashes, cut parameters off, ignore case: what one of them may read as a path is for its rule."""
    async with FaultyUpstream(faults.chat()) as upstream:
        provider = Provider("p", "openai", (upstream_of(upstream.url),), models=("o3",))
        settings = Settings(
            host="127.0.0.1", port=0, metrics_port=0, access_log="off", providers=(provider,),
            routes=(
                Route("files", "/v1/files/*", "p"), Route("deep", "/v1/deep/{id}", "p"),
                Route("rest", "/v1/*", "p", auth_required=required),
            ),
            jwt_secret=Secret(SECRET), auth=Auth(grants=(Permission("some", routes=("rest",)),)),
        )  # fmt: skip
        async with Gateway(settings) as gateway, Downstream(gateway.url) as client:
            who = bearer("some")
            for path in SPELLINGS:
                async with Downstream(gateway.url) as other:
                    assert await ask(other, who, path, "POST", "o3") in (400, 403, 404), path
            for path in ("/v1/DEEP/x", "/v1/deep;a/x", "/v1/deep/x/", "/v1/deep/x;b"):
                assert await ask(client, who, path, "GET", "") in (400, 403, 404), path
            assert all(b"iles" not in connection.received for connection in upstream.connections)
            # What no other rule has goes to its own, however it is spelt.
            for path in ("/v1/other/X;y", "/v1/Other/", "/v1/a.b./c", "/v1/o%20", "/v1/models-of/Org%20Name"):
                assert await ask(client, who, path, "POST", "o3") == 200, path


async def test_a_key_has_its_own_say(tmp_path: Path) -> None:
    from budgateway.credentials.api_keys import book

    secret = new_secret()
    key = ApiKey("k", digest_of(secret), start_of(secret), tenant="t", roles=("all",), models=("gpt-4o", "o3"))
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(book((key,))))
    async with FaultyUpstream(faults.chat()) as upstream:
        provider = Provider("p", "openai", (upstream_of(upstream.url),), models=MODELS)
        settings = Settings(
            host="127.0.0.1", port=0, metrics_port=0, access_log="off", drain_s=1.0, providers=(provider,), routes=ROUTES,
            auth=Auth(grants=GRANTS, tenants=(Tenant("t", models=("gpt-*",)),), keys_file=str(file)),
        )  # fmt: skip
        async with Gateway(settings) as gateway, Downstream(gateway.url) as client:
            for header in (("x-api-key", secret), ("x-goog-api-key", secret), ("authorization", f"Bearer {secret}")):
                found = [await ask(client, header, "/v1/chat/completions", "POST", model) for model in MODELS]
                assert found == [200, 403, 403, 403]
