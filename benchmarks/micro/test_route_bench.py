"""Cost of routing among 1,000 routes, next to the routers of Starlette and werkzeug."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from budgateway._native import RequestHead, RouteTable

# 500 paths of three kinds; and 500 models behind one path, which only the native table can tell apart.
PATHS = [
    (f"/v1/svc{number}/items/{{id}}", f"/v1/svc{number}", f"/files{number}/{{rest:path}}")[number % 3]
    for number in range(500)
]
CHAT = "/v1/chat/completions"
MODELS = [(f"model-{number}", f"org-{number}/*")[number % 2] for number in range(500)]
TABLE = RouteTable(
    [("", path, ["POST"], [], [], 0) for path in PATHS] + [("", CHAT, ["POST"], [model], [], 0) for model in MODELS]
)


def head(path: str) -> RequestHead:
    parsed = RequestHead.parse(f"POST {path} HTTP/1.1\r\nHost: gateway:8080\r\nContent-Length: 300\r\n\r\n".encode())
    assert parsed is not None
    return parsed


@pytest.mark.parametrize(
    ("path", "model", "index"),
    [
        (CHAT, "model-400", 900),
        (CHAT, "org-401/llama-3-70b", 901),
        ("/v1/svc400", None, 400),
        ("/v1/svc399/items/17", None, 399),
        ("/files401/a/b/c", None, 401),
        (CHAT, "unknown", -3),
        ("/v2/nowhere", None, -1),
    ],
    ids=["exact-model", "prefix-model", "literal", "parameter", "rest", "no-model", "no-path"],
)
def test_find_native(benchmark: BenchmarkFixture, path: str, model: str | None, index: int) -> None:
    assert benchmark.pedantic(TABLE.find, (head(path), model), rounds=200, iterations=5000, warmup_rounds=5) == index


@pytest.mark.parametrize("path", ["/v1/svc400", "/v1/svc399/items/17"], ids=["literal", "parameter"])
def test_match_starlette(benchmark: BenchmarkFixture, path: str) -> None:
    routing = pytest.importorskip("starlette.routing")

    async def endpoint() -> None:
        """Never called."""

    router = routing.Router([routing.Route(route, endpoint, methods=["POST"]) for route in PATHS])
    scope = {"type": "http", "path": path, "method": "POST", "headers": []}

    def match() -> object:
        return next(route for route in router.routes if route.matches(scope)[0] is routing.Match.FULL)

    benchmark.pedantic(match, rounds=20, iterations=20, warmup_rounds=1)


@pytest.mark.parametrize("path", ["/v1/svc400", "/v1/svc399/items/17"], ids=["literal", "parameter"])
def test_match_werkzeug(benchmark: BenchmarkFixture, path: str) -> None:
    routing = pytest.importorskip("werkzeug.routing")
    patterns = [route.replace("{rest:path}", "<path:rest>").replace("{id}", "<id>") for route in PATHS]
    rules = routing.Map([routing.Rule(pattern, endpoint=pattern, methods=["POST"]) for pattern in patterns])
    adapter = rules.bind("gateway")
    benchmark.pedantic(adapter.match, (path, "POST"), rounds=50, iterations=100, warmup_rounds=1)
