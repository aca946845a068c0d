"""The route table in Python: built from settings or in code, matched and explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from budgateway import RouteTable
from budgateway.config.load import load_config
from budgateway.records import Match, Route

CHAT = "/v1/chat/completions"


def route(name: str, path: str = "/v1/*", **match: object) -> Route:
    return Route(name, path, f"{name}-provider", **match)  # type: ignore[arg-type]  # any of Route's fields


def winner(table: RouteTable, method: str, path: str, **request: object) -> str | None:
    found = table.match(method, path, **request)  # type: ignore[arg-type]  # any of match's keywords
    return found.route.name if found else None


def test_a_match_has_route_provider_parameters_and_reason() -> None:
    table = RouteTable([route("file", "/v1/files/{id}/{rest:path}"), route("all")])
    found = table.match("GET", "/v1/files/f-1/content/raw?x=/y")
    assert isinstance(found, Match)
    assert found.route is table.routes[0]
    assert (found.provider, found.params) == ("file-provider", {"id": "f-1", "rest": "content/raw"})
    assert "/v1/files/{id}/{rest:path}" in found.reason


def test_no_match_is_none() -> None:
    table = RouteTable([route("chat", CHAT, methods=("POST",), models=("llama*",))])
    assert table.match("POST", "/elsewhere") is None
    assert table.match("GET", CHAT, model="llama-3") is None
    assert table.match("POST", CHAT, model="qwen") is None
    assert table.match("post", CHAT, model="llama-3") is not None


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        ({"path": CHAT}, "chat"),
        ({"path": "/v1/files"}, "all"),
        ({"path": "/v1/files", "model": "llama-3"}, "prefix"),
        ({"path": "/v1/files", "model": "llama-3.1"}, "longer prefix"),
        ({"path": "/v1/files", "model": "llama-3.1-8b"}, "exact"),
        ({"path": "/v1/files", "headers": {"X-Team": "Blue"}}, "all"),
        ({"path": "/v1/files", "headers": {"X-Team": "blue"}}, "team"),
        ({"path": "/v1/files", "headers": [("x-TEAM", "blue")]}, "team"),
        ({"path": "/v1/files", "host": "API.example.com:8080"}, "host"),
        ({"path": "/v1/files", "host": "a.b.example.com"}, "suffix"),
        ({"path": "/v1/files", "host": "[::1]:8080"}, "all"),
    ],
)
def test_the_most_specific_route_answers(request_: dict[str, object], name: str) -> None:
    table = RouteTable(
        [
            route("all"),
            route("prefix", models=("llama*",)),
            route("longer prefix", models=("llama-3.1*",)),
            route("exact", models=("llama-3.1-8b",)),
            route("team", headers=(("x-team", "blue"),)),
            route("suffix", host="*.example.com"),
            route("host", host="api.example.com"),
            route("chat", CHAT),
        ]
    )
    path = str(request_.pop("path"))
    assert winner(table, "post", path, **request_) == name


def test_priority_beats_what_is_more_specific_and_the_first_wins_among_equals() -> None:
    table = RouteTable([route("chat", CHAT), route("all", priority=1), route("again", priority=1)])
    assert winner(table, "POST", CHAT) == "all"


def test_explaining_puts_the_answer_first_among_the_matched() -> None:
    table = RouteTable([route("all"), route("post", CHAT, methods=("POST",)), route("model", models=("x",))])
    verdicts = table.explain("GET", CHAT, model="x")
    assert {verdict.route.name: verdict.matched for verdict in verdicts} == {"all": True, "post": False, "model": True}
    assert next(verdict.route.name for verdict in verdicts if verdict.matched) == winner(table, "GET", CHAT, model="x")
    assert all(verdict.why for verdict in verdicts)


def test_a_pattern_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="rule 1"):
        RouteTable([route("fine"), route("broken", "/a/*/b")])


def test_a_configuration_becomes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_config(environ={"VLLM_ENDPOINTS": "http://a", "SGLANG_ENDPOINTS": "http://b"}, path=None)
    table = RouteTable.from_settings(settings)
    assert len(table) == 2
    assert winner(table, "POST", CHAT, model="sglang/qwen") == "sglang"
    assert winner(table, "POST", CHAT, model="vllm/qwen") == "vllm"
    assert winner(table, "POST", CHAT) == "vllm"
