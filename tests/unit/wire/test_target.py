"""Models in a target: the query's of a WebSocket, and those that some upstreams prefer to the body's."""

from __future__ import annotations

import pytest

from budgateway._native import TARGET_MODEL, RequestHead
from budgateway.errors import BadRequest
from budgateway.wire.target import query_model, target_agrees


@pytest.mark.parametrize(
    ("query", "model"),
    [
        ("", None),
        ("model=", None),
        ("model=a", "a"),
        ("x=1&mod%65l=a%2Fb+c", "a/b c"),
        ("models=a", None),
        ("x=1;y=2&model=a", "a"),
        ("model=%E6%A8%A1", "\u6a21"),
    ],
)
def test_the_model_of_a_query(query: str, model: str | None) -> None:
    assert query_model(query) == model


@pytest.mark.parametrize(
    "query",
    [
        "model=a&model=b",
        "model=a&model=a",
        "model=a&Model=b",
        "Model=a",
        "model[]=a",
        "%20model=a",
        "x=1;model=a",
        "model=a;x=1",
        "model=%ff",
        "model=a%00b",
        "model=a%0Ab",
        "model=a%zz",
        "model=\xe9",
    ],
)
def test_a_query_that_readers_differ_about_is_refused(query: str) -> None:
    with pytest.raises(BadRequest):
        query_model(query)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/chat/completions",
        "/v1/chat/completions?api-version=1",
        "/v1/chat/completions?model=m/x",
        "/openai/deployments/m/x/chat/completions?api-version=1",
        "/v1/models/m%2fx:generate",
        "/v1/engines/m/x/completions",
        "/v1/models",
    ],
)
def test_a_target_that_names_the_same_model_or_none_agrees(target: str) -> None:
    path, _, query = target.partition("?")
    assert target_agrees(path, query, "m/x")


@pytest.mark.parametrize(
    "target",
    [
        "/v1/chat/completions?model=dear",
        "/v1/chat/completions?x=1&mode%6c=dear",
        "/v1/chat/completions?MODEL=m",
        "/v1/chat/completions?model=m&model=dear",
        "/v1/chat/completions?x;model=dear",
        "/openai/deployments/dear/chat/completions",
        "/openai/Deployments/dear/chat/completions",
        "/openai/%64eployments/dear/chat/completions",
        "/v1/engines/m2/completions",
        "/v1beta/models/dear:generateContent",
        "/model/dear/invoke",
    ],
)
def test_another_model_in_the_target_does_not(target: str) -> None:
    path, _, query = target.partition("?")
    assert not target_agrees(path, query, "m")
    head = RequestHead.parse(f"POST {target} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    assert head is not None
    assert head.flags & TARGET_MODEL


@pytest.mark.parametrize("target", ["/", "/v1/chat/completions", "/v1/responses?api-version=2", "/v1/models"])
def test_what_is_common_is_not_looked_at(target: str) -> None:
    head = RequestHead.parse(f"POST {target} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    assert head is not None
    assert not head.flags & TARGET_MODEL
