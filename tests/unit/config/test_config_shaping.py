"""A route's `providers`, `canary`, `pin_by`, `mirror`, `maintenance` and `websocket`: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from budgateway.cli.main import cli
from budgateway.config.load import load_config
from budgateway.errors import ConfigError
from budgateway.records import Canary, Maintenance, Mirror, Route, WebSocket

PROVIDERS = "".join(f'[providers.{name}]\nkind = "vllm"\nendpoints = ["http://{name}"]\n' for name in "abcd")


def routes(tmp_path: Path, text: str) -> tuple[Route, ...]:
    path = tmp_path / "gateway.toml"
    path.write_text(f'[[routes]]\npath = "/v1/*"\nauth_required = false\n{text}\n{PROVIDERS}')
    return load_config(path, environ={}).routes


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        routes(tmp_path, text)
    return [problem.partition(": ")[2] for problem in caught.value.problems]


def test_all_of_it_becomes_records(tmp_path: Path) -> None:
    (route,) = routes(
        tmp_path,
        """
        providers = ["a", { name = "b", weight = 3 }]
        canary = { provider = "c", share = 0.01, header = "X-Canary" }
        pin_by = "header:X-Session"
        mirror = { provider = "d", max_body_size = "2KB" }
        maintenance = "closed"
        """,
    )
    assert (route.provider, route.split) == ("b", (("a", 1), ("b", 3)))
    assert route.canary == Canary("c", 0.01, "x-canary", "")
    assert route.pin_by == "header:x-session"
    assert route.mirror == Mirror("d", max_body_bytes=2048)
    assert route.maintenance == Maintenance("closed")
    assert (route.answerers(), route.leads_to()) == (("a", "b", "c"), ("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("text", "websocket"),
    [
        ("websocket = true", WebSocket()),
        ("websocket = false", None),
        ('websocket = { idle_timeout = 5, max_message_size = "1KB", compression = false }', WebSocket(5, 1024, False)),
    ],
)
def test_a_websocket_is_a_get(tmp_path: Path, text: str, websocket: WebSocket | None) -> None:
    (route,) = routes(tmp_path, f'provider = "a"\n{text}')
    assert route.websocket == websocket
    assert route.methods == (("GET",) if websocket else ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "routes[0].provider: is required"),
        ('provider = "a"\nproviders = ["b"]', "routes[0].provider: conflicts with providers: keep one of the two"),
        ('providers = ["a", "x"]', "routes[0].providers[1].name: no provider 'x'"),
        ('providers = ["a", "a"]', "routes[0].providers[1].name: 'a' is listed already: use weight"),
        (
            'providers = [{ name = "a", weight = 0 }]',
            "routes[0].providers: all weights are 0: no provider would answer",
        ),
        (
            'providers = [{ name = "a", wieght = 1 }]',
            "routes[0].providers[0].wieght: unknown key; did you mean 'weight'?",
        ),
        (
            'provider = "a"\ncanary = { provider = "a", share = 1 }',
            "routes[0].canary.provider: answers this route anyway",
        ),
        (
            'provider = "a"\ncanary = { provider = "b" }',
            "routes[0].canary: gets no traffic: set share, header, or both",
        ),
        (
            'provider = "a"\ncanary = { provider = "b", share = 5, header = "x" }',
            "routes[0].canary.share: must be at most 1, got 5",
        ),
        ('provider = "a"\npin_by = "cookie"', "routes[0].pin_by: must be user, key or header:NAME"),
        ('provider = "a"\nmirror = { provider = "z" }', "routes[0].mirror.provider: no provider 'z'"),
        ('provider = "a"\nmethod = "POST"\nwebsocket = true', "routes[0].method: a WebSocket handshake is a GET"),
        (
            'provider = "a"\nwebsocket = { idle_timout = 1 }',
            "routes[0].websocket.idle_timout: unknown key; did you mean",
        ),
        (
            'provider = "a"\nwebsocket = true\nmirror = { provider = "b" }',
            "routes[0].mirror: a WebSocket cannot be copied",
        ),
    ],
)
def test_what_does_not_fit_together_is_said(tmp_path: Path, text: str, expected: str) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(expected), found


def test_every_provider_that_is_named_has_a_route(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    shares = 'providers = ["a", "b"]\ncanary = { provider = "c", share = 0.1 }\nmirror = { provider = "d" }'
    path.write_text(f'[[routes]]\npath = "/v1/*"\nauth_required = false\n{shares}\n{PROVIDERS}')
    assert not [notice for notice in load_config(path, environ={}).notices if "has no route" in notice]


def test_routes_match_explains_it(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    shares = 'providers = ["a", "b"]\ncanary = { provider = "c", share = 0.1, header = "x-c" }\npin_by = "header:x-s"'
    path.write_text(
        f'[[routes]]\npath = "/v1/*"\nauth_required = false\nmirror = {{ provider = "d" }}\n{shares}\n{PROVIDERS}'
    )

    def said(*headers: str) -> list[str]:
        options = [part for header in headers for part in ("--header", header)]
        result = CliRunner().invoke(cli, ["routes", "match", "POST", "/v1/x", "-c", str(path), *options])
        assert result.exit_code == 0, result.output
        return result.output.splitlines()

    plain = said()
    assert "canary    c: 10 % of the requests, or header x-c" in plain
    assert "split     a 45 %, b 45 %" in plain
    assert "pinned    by header x-s" in plain
    assert "mirror    d: 100 % of the requests" in plain
    assert not [line for line in plain if line.startswith("answers")]
    assert "answers   c, unless all of its upstreams are down" in said("x-c=1")
    answers = {line for number in range(40) for line in said(f"x-s={number}") if line.startswith("answers")}
    assert {line.split()[1] for line in answers} == {"a,", "b,", "c,"}
