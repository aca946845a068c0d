"""`[cors]` and a route's `cors`: what is read, what is laid over what, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from budgateway.config.load import load_config
from budgateway.errors import ConfigError
from budgateway.records import Cors, Settings

PAGE = 'origins = ["https://app.example"]'


def settings(tmp_path: Path, cors: str = "", *routes: str) -> Settings:
    path = tmp_path / "c.toml"
    text = '[providers.a]\nkind = "vllm"\nendpoints = ["http://a"]\n'
    if cors:
        text += f"[cors]\n{cors}\n"
    for number, route in enumerate(routes or ("",)):
        text += f'[[routes]]\npath = "/{number}"\nprovider = "a"\nauth_required = false\n{route}\n'
    path.write_text(text)
    return load_config(path, environ={})


def problems(tmp_path: Path, cors: str = "", *routes: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, cors, *routes)
    return [problem.removeprefix("c.toml: ") for problem in caught.value.problems]


def test_nobody_is_let_in_without_origins(tmp_path: Path) -> None:
    for cors in ("", "origins = []"):
        found = settings(tmp_path, cors)
        assert (found.cors, found.routes[0].cors) == (None, None)


def test_every_key_becomes_a_field(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        """
        origins = ["HTTPS://App.Example:443", "https://*.team.example", "http://localhost:*", "null", "tauri://localhost"]
        methods = ["post", "GET"]
        headers = ["Authorization", "Content-Type"]
        max_age = 0
        expose = "X-One"
        private_network = true
        admin = true
        """,
    )
    origins = ("https://app.example", "https://*.team.example", "http://localhost:*", "null", "tauri://localhost")
    names = ("authorization", "content-type")
    assert found.cors == Cors(origins, ("POST", "GET"), names, False, 0, ("x-one",), True, True)


def test_a_route_lays_its_own_over_that_of_all(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        f"{PAGE}\nmax_age = 5\nadmin = true",
        "",
        "cors = true",
        "cors = false",
        'cors = "https://other.example"',
        "cors = { credentials = true, max_age = 6 }",
    )
    page = ("https://app.example",)
    assert [route.cors for route in found.routes] == [
        Cors(page, max_age_s=5, admin=True),
        Cors(page, max_age_s=5, admin=True),
        None,
        Cors(("https://other.example",), max_age_s=5),
        Cors(page, credentials=True, max_age_s=6),
    ]
    (alone,) = settings(tmp_path, "", 'cors = { origins = "*" }').routes
    assert alone.cors == Cors(("*",))


@pytest.mark.parametrize(
    ("cors", "route", "problem"),
    [
        ('origins = "*"\ncredentials = true', "", "cors.origins[0]: '*' with credentials would let any page"),
        (
            'origins = ["https://a", "null"]\ncredentials = true',
            "",
            "cors.origins[1]: 'null' with credentials would let any page in a sandboxed frame",
        ),
        (PAGE, 'cors = { origins = ["*"], credentials = true }', "routes[0].cors.origins[0]: '*' with credentials"),
        ('origins = "*"', "cors = { credentials = true }", "routes[0].cors.origins[0]: '*' with credentials"),
        (f'{PAGE}\ncredentials = true\nexpose = "*"', "", "cors.expose: '*' does not work with credentials"),
        ("credentials = true", "", "cors.credentials: has no effect without origins"),
        ("", "cors = true", "routes[0].cors: allows no page: neither it nor [cors] names origins"),
        ("", "cors = { max_age = 5 }", "routes[0].cors.max_age: has no effect without origins"),
        (PAGE, "cors = { admin = true }", "routes[0].cors.admin: unknown key"),
        (f"{PAGE}\norigin = 1", "", "cors.origin: unknown key"),
        (f"{PAGE}\nmax_age = -1", "", "cors.max_age: "),
        (f'{PAGE}\nheaders = ["a b"]', "", "cors.headers[0]: not a header's name"),
        (f'{PAGE}\nmethods = ["FETCH"]', "", "cors.methods[0]: no such method"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, cors: str, route: str, problem: str) -> None:
    (found,) = problems(tmp_path, cors, route)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        ("https://app.example/", "an origin has no path"),
        ("https://app.example/x", "an origin has no path"),
        ("app.example", "must be scheme, host and port"),
        ("https://user@app.example", "must be scheme, host and port"),
        ("https://app.example:port", "must be scheme, host and port"),
        ("https://*", "a * stands for all names below a domain"),
        ("https://app.*.example", "a * stands for all names below a domain"),
        ("https://*app.example", "a * stands for all names below a domain"),
        ("", "must be scheme, host and port"),
    ],
)
def test_an_origin_is_what_browsers_send(tmp_path: Path, origin: str, words: str) -> None:
    (found,) = problems(tmp_path, f'origins = ["{origin}"]')
    assert found.startswith(f"cors.origins[0]: {words}")


def test_names_are_spelled_as_browsers_spell_them(tmp_path: Path) -> None:
    found = settings(
        tmp_path, 'origins = ["https://Bücher.example:8443", "http://[::1]:80", "vscode-webview://*"]'
    ).cors
    assert found is not None
    assert found.origins == ("https://xn--bcher-kva.example:8443", "http://[::1]", "vscode-webview://*")
