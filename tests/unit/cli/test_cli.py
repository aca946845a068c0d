"""The command line: what each command prints, where, and with which exit status."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import jwt
import pytest
from click.testing import CliRunner, Result

import budgateway
from budgateway import native
from budgateway.cli.main import cli
from budgateway.config import environment, schema
from budgateway.config.demo import demo_settings, moved
from budgateway.config.load import load_config
from budgateway.config.source import FILES
from budgateway.process.banner import banner, curl_line
from budgateway.records import Auth, Permission, Provider, Route, Secret, Settings, Tls

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = str(ROOT / "config")
OURS = (
    "GATEWAY_",
    "WORKERS",
    "LOG_LEVEL",
    "REDIS_",
    "VLLM_",
    "SGLANG_",
    "LITELLM_",
    "OPENAI_",
    "JWT_",
    "ENABLE_",
    "METRICS_",
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder and an environment without our variables."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(OURS):
            monkeypatch.delenv(name)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), catch_exceptions=False)


def test_check_of_the_samples_sums_them_up() -> None:
    result = run("check", "--config", SAMPLES)
    assert result.exit_code == 0
    assert result.stdout.startswith("ok: 3 routes, 2 providers, 2 upstreams")
    assert result.stderr == ""


@pytest.mark.parametrize(
    "command",
    [
        ["check"],
        ["--validate-config"],
        ["serve", "--validate-config"],
        ["serve"],
        ["routes"],
        ["routes", "match", "GET", "/"],
    ],
)
def test_a_bad_configuration_lists_every_problem_on_stderr(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[gateway]\nport = -1\n[[routes]]\npath = 'x'\nprovider = 'y'")
    if command[:2] == ["routes", "match"]:
        command = ["routes", "--config", "bad.toml", *command[1:]]
    else:
        command = [*command, "--config", "bad.toml"]
    result = run(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    assert lines[0] == "error: 3 problems in the configuration"
    assert [line.split(": ")[1] for line in lines[1:4]] == ["gateway.port", "routes[0].path", "routes[0].provider"]
    assert lines[4].startswith("hint: ")


def test_nothing_configured_says_what_to_try() -> None:
    result = run("serve")
    assert result.exit_code == 1
    assert "serve --demo" in result.stderr


def test_validate_config_needs_no_command_and_takes_none(tmp_path: Path) -> None:
    for option in ("--config", "-c"):
        result = run("--validate-config", option, SAMPLES)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == run("check", "--config", SAMPLES).stdout
    assert run("--validate-config", "--config", str(tmp_path / "absent")).exit_code == 1
    for words in (("--validate-config", "status"), ("--config", SAMPLES), ("--config", SAMPLES, "check")):
        assert run(*words).exit_code == 2
    assert run().exit_code == 2
    assert "Usage:" in run().stderr


def test_a_real_process_shows_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "budgateway", "check", "--config", "absent"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: 1 problem in the configuration\n  absent: no such file or folder\n")


def test_options_reach_the_settings() -> None:
    result = run(
        "serve", "--config", SAMPLES, "--validate-config", "--port", "70000", "--workers", "0", "--log-level", "Debug"
    )
    assert result.exit_code == 1
    assert "--port: must be at most 65535, got 70000" in result.stderr
    assert "--workers: must be at least 1, got 0" in result.stderr
    assert run("serve", "--log-level", "loud").exit_code == 2


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_version_is_an_option_as_well(option: str) -> None:
    result = run(option)
    assert (result.exit_code, result.stdout) == (0, f"budgateway {budgateway.__version__}\n")


@pytest.mark.parametrize("command", [[], ["routes"], ["keys"]])
def test_help_cuts_no_commands_summary_off(command: list[str]) -> None:
    told = run(*command, "--help").stdout
    assert "..." not in told.partition("Commands:")[2]


@pytest.mark.parametrize("url", ["localhost:8080", "gateway.example", "http://", "http://h:port", "ftp://h"])
def test_a_url_without_its_scheme_or_host_is_told_from_a_gateway_that_is_away(url: str) -> None:
    result = run("status", "--url", url)
    assert (result.exit_code, result.stderr.splitlines()) == (
        1,
        [f"error: not a gateway's URL: {url}", "hint: a gateway's URL is like http://host:8080 or https://host"],
    )


def test_demo_needs_nothing_and_takes_no_configuration() -> None:
    assert run("serve", "--demo", "--validate-config").stdout.startswith("ok: 1 route, 1 provider, 1 upstream")
    assert run("serve", "--demo", "--config", SAMPLES).exit_code == 2
    assert run("serve", "--demo", "--watch").exit_code == 2


def test_demo_heeds_where_to_listen_and_nobodys_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"GATEWAY_PORT": "81", "OPENAI_API_KEY": "k", "VLLM_ENDPOINTS": "http://x", "JWT_SECRET": "short"}
    settings = demo_settings("http://127.0.0.1:5", workers=2, environ=environ)
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 81, 2)
    assert [(p.name, p.kind, p.models, p.upstreams[0].port) for p in settings.providers] == [
        ("demo", "openai", ("demo",), 5)
    ]
    assert (settings.routes[0].auth_required, settings.jwt_secret, settings.notices) == (False, None, ())
    assert moved(settings, "http://127.0.0.1:6").providers[0].upstreams[0].url == "http://127.0.0.1:6"


def test_routes_are_a_table_or_json() -> None:
    table = run("routes", "--config", SAMPLES).stdout
    assert [word for word in ("POST", "/v1/chat/completions", "sglang/*", "power_of_two") if word not in table] == []
    facts = json.loads(run("routes", "--config", SAMPLES, "--json").stdout)
    assert [fact["provider"] for fact in facts] == ["vllm", "sglang", "vllm"]


def test_the_route_that_answers_is_printed() -> None:
    result = run("routes", "match", "post", "/v1/chat/completions", "--model", "sglang/qwen", "--config", SAMPLES)
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert (lines["route"], lines["provider"], lines["model"]) == ("/v1/* sglang/*", "sglang", "sglang/qwen -> qwen")
    assert lines["reason"]
    assert run("routes", "-c", SAMPLES, "match", "POST", "/v1/chat/completions").stdout.startswith(
        "route     POST /v1/chat"
    )


def test_every_routes_verdict_is_explained() -> None:
    result = run("routes", "match", "GET", "/v1/files", "--explain", "--header", "X-A=b", "--host", "h", "-c", SAMPLES)
    marks = [line[0] for line in result.stdout.partition("\n\n")[0].splitlines()]
    assert sorted(marks) == ["-", "-", ">"]
    assert result.stdout.endswith("\n")


def test_what_the_gateway_answers_itself_is_no_routes() -> None:
    """`/v1/*` matches the list of models, and does not get it."""
    told = "route     none of the configuration: the gateway answers this itself"
    for path in ("/v1/models", "/v1/models/m", "/health", "/metrics", "/admin/stats"):
        result = run("routes", "match", "GET", path, "-c", SAMPLES)
        assert (result.exit_code, result.stdout.splitlines()[0]) == (0, told)
    lines = run("routes", "match", "GET", "/v1/models", "--explain", "-c", SAMPLES).stdout.splitlines()
    assert [line for line in lines if line[:2] in ("> ", "+ ")] == [
        "> gateway: path matches /v1/models, method GET",
        "+ /v1/*: path matches /v1/*",
    ]
    assert run("routes", "match", "POST", "/v1/models", "-c", SAMPLES).stdout.startswith("route     /v1/*\n")


@pytest.mark.parametrize("method", ["", "method = ['GET', 'HEAD']\n"])
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/models/*", "/v1/models/a/b"),
        ("/v1/models/{id:path}", "/v1/models/a/b"),
        ("/v1/models/{id}", "/v1/models/a"),
    ],
)
def test_a_list_of_models_that_a_route_claims_is_the_routes(tmp_path: Path, method: str, path: str, asked: str) -> None:
    (tmp_path / "c.toml").write_text(
        f"[[routes]]\nname = 'mine'\npath = '{path}'\n{method}provider = 'vllm'\n"
        "auth_required = false\n[providers.vllm]\nendpoints = ['http://h']"
    )
    assert run("routes", "match", "GET", asked, "-c", "c.toml").stdout.startswith("route     mine\n")


def test_no_route_is_exit_status_1() -> None:
    result = run("routes", "match", "GET", "/elsewhere", "--model", "x", "-c", SAMPLES)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "no route answers GET /elsewhere for model 'x'\n"
    assert run("routes", "match", "GET", "/", "--header", "nonsense", "-c", SAMPLES).exit_code == 2


TRANSFORMS = """
[providers.vllm]
endpoints = ["http://localhost:8000/v1"]
aliases = { demo = "llama" }
api_key = "env:VLLM_KEY"
[[routes]]
name = "chat"
path = "/v1/chat/completions"
provider = "vllm"
auth_required = false
[[transforms]]
name = "caps"
roles = ["free"]
request.cap = { max_tokens = 10 }
request.remove = ["seed"]
[[transforms]]
name = "tools"
when = { field = "tools", is = "present" }
request.set = { x = 1 }
[[transforms]]
name = "old engine"
providers = ["vllm"]
request.set_from = { user = "principal" }
headers.set = { x-team = "search" }
response.remove = ["system_fingerprint"]
"""


def test_an_explanation_shows_what_rules_make_of_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_KEY", "sk-of-the-engine")
    (tmp_path / "one.toml").write_text(TRANSFORMS)
    (tmp_path / "body.json").write_text('{"model":"demo","max_tokens":50,"seed":1}')
    asked = [
        "routes",
        "match",
        "POST",
        "/v1/chat/completions?beta=1",
        "--body",
        str(tmp_path / "body.json"),
        "--explain",
    ]
    result = run(*asked, "--role", "free", "-c", str(tmp_path / "one.toml"))
    assert result.exit_code == 0, result.output
    explained = result.stdout.partition("reason    ")[2].splitlines()[1:]
    assert explained == [
        "transform caps (before limits)",
        '  {"model":"demo","max_tokens":10}',
        "transform tools (before limits): its condition does not hold",
        "transform old engine (for vllm)",
        '  {"model":"llama","max_tokens":10,"user":"PRINCIPAL"}',
        "answer    old engine",
        "sends     to http://localhost:8000/v1",
        "  POST /v1/chat/completions?beta=1 HTTP/1.1",
        "  host: localhost:8000",
        "  authorization: Bearer ***",
        "  x-request-id: REQUEST-ID",
        "  x-team: search",
        "  content-type: application/json",
        "  content-length: 52",
        "",
        '  {"model":"llama","max_tokens":10,"user":"PRINCIPAL"}',
        "",
    ]
    result = run(*asked, "-c", str(tmp_path / "one.toml"))
    assert "caps" not in result.stdout
    assert '"max_tokens":50' in result.stdout


def test_a_body_that_is_no_json_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text("{")
    result = run("routes", "match", "POST", "/", "--body", str(tmp_path / "body.json"), "-c", SAMPLES)
    assert result.exit_code == 2
    assert "not valid JSON" in result.output


def test_markup_in_a_name_is_text(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        "[[routes]]\nname = '[bold]x[/nope]'\npath = '/a'\nprovider = 'vllm'\nauth_required = false\n"
        "[providers.vllm]\nendpoints = ['http://h']"
    )
    assert "[bold]x[/nope]" in run("routes", "--config", "c.toml").stdout


def test_the_schema_in_docs_is_current() -> None:
    committed = json.loads((ROOT / "docs" / "config.schema.json").read_text())
    assert json.loads(run("schema").stdout) == committed, "run `budgateway schema > docs/config.schema.json`"


def test_the_schema_knows_every_table_and_says_what_each_key_means() -> None:
    schema = json.loads(run("schema").stdout)
    silent = [
        f"{name}.{key}"
        for name, table in schema["$defs"].items()
        for key, value in table.get("properties", {}).items()
        if not value.get("description")
    ]
    assert silent == []
    assert all(table["additionalProperties"] is False for table in schema["$defs"].values())


def test_the_schema_accepts_what_the_gateway_accepts() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(run("schema").stdout))
    jsonschema.Draft202012Validator.check_schema(validator.schema)
    for name in FILES:
        assert list(validator.iter_errors(tomllib.loads((ROOT / "config" / name).read_text()))) == []
    good = {
        "gateway": {"max_body_size": "10MB", "log_level": "debug"},
        "routes": [{"path": "/", "provider": "p", "method": ["get", "*"], "models": "x"}],
        "providers": {"p": {"api_key": "env:KEY", "endpoints": ["http://h", {"url": "http://h", "weight": 2}]}},
    }
    assert list(validator.iter_errors(good)) == []
    bad = {
        "gateway": {"max_body_size": "10XB", "log_level": "loud", "prot": 1},
        "routes": [{"path": "/", "method": "PSOT"}],
        "providers": {"p": {"api_key": "sk-literal"}},
    }
    assert sorted(error.json_path for error in validator.iter_errors(bad)) == sorted(
        ["$.gateway", "$.gateway.max_body_size", "$.gateway.log_level", "$.routes[0]"]
        + ["$.routes[0].method", "$.providers.p.api_key"]
    )


def test_every_key_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    parts = {part.partition("\n")[0]: part for part in text.split("\n## ")}
    missing = []
    for name, model in {**schema.SECTIONS, "routes": schema.RouteConfig, "providers": schema.ProviderConfig}.items():
        part = next(part for title, part in parts.items() if f"[{name}" in title)
        missing += [
            f"{name}.{key}"
            for key in model.model_fields
            if f"| `{key}` |" not in part and f"`{name}.{key}`" not in part
        ]
    # Documented in the text as the other name of `timeout`.
    assert missing == ["routes.first_byte_timeout"]
    variables = [
        *environment.VARIABLES,
        environment.JWT_SECRET,
        *environment.ENDPOINTS.values(),
        *environment.KEYS.values(),
    ]
    assert [name for name in variables if f"`{name}`" not in text] == []


def test_version_says_what_is_running() -> None:
    lines = dict(line.split(maxsplit=1) for line in run("version").stdout.splitlines())
    assert lines["budgateway"] == budgateway.__version__
    assert lines["native"] == f"ABI {native.ABI}, {native.BUILD_PROFILE} build"
    assert set(lines) == {"budgateway", "native", "protocols", "python", "loop"}
    assert lines["protocols"] in ("compiled", "interpreted (pure)")


def test_the_banner_has_what_a_newcomer_needs() -> None:
    settings = demo_settings("http://127.0.0.1:5", port=8081, environ={})
    text = banner(settings, version="1.2.3")
    assert text.startswith("budgateway 1.2.3\n")
    for part in (
        "http://localhost:8081/v1",
        "http://localhost:9090/metrics",
        "demo: http://127.0.0.1:5",
        "/v1/* -> demo",
    ):
        assert part in text
    assert curl_line(settings) in text
    assert '"model": "demo"' in curl_line(settings)


@pytest.mark.parametrize(
    ("sources", "grants", "line"),
    [
        (("JWT_SECRET",), (), "TOKEN=$(budgateway token)"),
        (("config/gateway.toml", "config/routes.toml", "JWT_SECRET"), (), "TOKEN=$(budgateway token)"),
        (("/etc/b g/gateway.toml", "/etc/b g/routes.toml"), (), "TOKEN=$(budgateway token --config '/etc/b g')"),
        (("one.toml",), (Permission("chat"),), "TOKEN=$(budgateway token --config one.toml --role chat)"),
    ],
)
def test_the_banner_says_how_to_make_the_token_that_its_curl_line_sends(
    sources: tuple[str, ...], grants: tuple[Permission, ...], line: str
) -> None:
    settings = Settings(
        providers=(Provider("p", "openai", ()),),
        routes=(Route("r", "/v1/*", "p"),),
        jwt_secret=Secret("s"),
        auth=Auth(grants=grants),
        sources=sources,
    )
    told = banner(settings).partition("try it, with a name from GET /v1/models for MODEL:\n")[2]
    assert told.splitlines() == [f"  {line}", f"  {curl_line(settings)}"]
    assert "budgateway token" not in banner(dataclasses.replace(settings, jwt_secret=None))


def test_the_banner_shows_no_secret_and_every_notice() -> None:
    settings = load_config(environ={"OPENAI_API_KEY": "sk-planted", "JWT_SECRET": "j" * 32, "ENABLE_TRACINGS": "true"})
    text = banner(settings)
    assert "sk-planted" not in text
    assert "jjj" not in text
    assert "environment: ENABLE_TRACINGS is not read; did you mean ENABLE_TRACING?" in text
    assert 'authorization: Bearer $TOKEN"' in text


@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("0.0.0.0", None, "http://localhost:8080"),
        ("::1", None, "http://[::1]:8080"),
        ("10.0.0.1", Tls("c", "k"), "https://10.0.0.1:8080"),
    ],
)
def test_the_curl_line_goes_where_the_gateway_listens(host: str, tls: Tls | None, url: str) -> None:
    routes = (Route("only post", "/v1/files", "p"), Route("r", "/v1/*", "p", models=("p/*",), auth_required=False))
    provider = Provider("p", "openai", (), models=("it's",), api_key=Secret("k"))
    line = curl_line(Settings(host=host, tls=tls, routes=routes, providers=(provider,)))
    assert f" {url}/v1/chat/completions " in line
    assert "p/it'\\''s" in line
    assert curl_line(Settings(routes=routes[:1])) == ""


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, budgateway; before = set(sys.modules); budgateway.RouteTable; budgateway.Match\n"
        "print([m for m in ('pydantic', 'click', 'rich', 'dotenv', 'asyncio') if m in sys.modules])\n"
        "print([m for m in before if m.startswith('budgateway.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"


def test_every_public_name_has_a_home() -> None:
    missing = [name for name in budgateway.__all__ if name != "Gateway" and getattr(budgateway, name, None) is None]
    assert missing == []
    assert set(budgateway.__all__) <= set(dir(budgateway))
    with pytest.raises(AttributeError, match="no attribute 'Gatway'"):
        _ = budgateway.Gatway


def test_a_token_is_one_that_the_gateway_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(
        "[providers.vllm]\nendpoints = ['http://one:1']\n[[routes]]\npath = '/v1/*'\nprovider = 'vllm'\n"
        "[auth]\njwt_expiration = 100\n"
    )
    monkeypatch.setenv("JWT_SECRET", "s" * 32)
    result = run("token", "--config", str(file), "--sub", "me", "--role", "admin", "--role", "user")
    claims = jwt.decode(result.stdout.strip(), "s" * 32, algorithms=["HS256"])
    assert (claims["sub"], claims["roles"], claims["exp"] - claims["iat"]) == ("me", ["admin", "user"], 100)
    shorter = run("token", "--config", str(file), "--expires", "5").stdout.strip()
    claims = jwt.decode(shorter, "s" * 32, algorithms=["HS256"])
    assert (claims["roles"], claims["exp"] - claims["iat"]) == ([], 5)


@pytest.mark.parametrize("text", [None, "[gateway]\nport = 'x'\n[auth]\nissuers = 3\n", "not TOML"])
def test_a_token_needs_the_secret_and_no_configuration(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JWT_SECRET", "s" * 32)
    monkeypatch.setenv("JWT_EXPIRATION", "100")
    options = []
    if text is not None:
        (tmp_path / "one.toml").write_text(text)
        options = ["--config", "one.toml"]
    result = run("token", *options)
    assert result.stderr == ""
    claims = jwt.decode(result.stdout.strip(), "s" * 32, algorithms=["HS256"])
    assert claims["exp"] - claims["iat"] == 100


def test_a_token_takes_the_secret_that_the_configuration_refers_to(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("f" * 32)
    (tmp_path / "one.toml").write_text("[auth]\njwt_secret = 'file:secret'\njwt_expiration = 7\n[routes]\n")
    claims = jwt.decode(run("token", "--config", "one.toml").stdout.strip(), "f" * 32, algorithms=["HS256"])
    assert claims["exp"] - claims["iat"] == 7


def test_what_keeps_the_secret_from_being_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.toml").write_text("[auth")
    result = run("token", "--config", "one.toml")
    assert result.exit_code == 1
    assert "one.toml: not TOML" in result.stderr
    monkeypatch.setenv("JWT_SECRET", "short")
    assert "too short" in run("token").stderr
    assert "no such file" in run("token", "--config", "absent.toml").stderr


def test_without_a_secret_there_is_no_token() -> None:
    result = run("token", "--config", SAMPLES)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "JWT_SECRET" in result.stderr


@pytest.mark.parametrize("command", [("status",), ("reload",), ("keys", "list"), ("keys", "create", "a")])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--port", "1", "--url", "http://localhost:1"), "--port chooses among"),
        (("--token", "t"), "--token goes with --url"),
        (("--token", "t", "--port", "1"), "--token goes with --url"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_an_error(
    command: tuple[str, ...], options: tuple[str, ...], said: str
) -> None:
    result = run(*command, *options)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize("options", [("--file", "k.json"), ("--config", SAMPLES)])
def test_keys_are_in_one_place(options: tuple[str, ...]) -> None:
    for where in (("--port", "1"), ("--url", "http://localhost:1")):
        result = run("keys", "list", *where, *options)
        assert result.exit_code == 2
        assert options[0] in result.stderr


def test_a_token_of_the_environment_is_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGATEWAY_TOKEN", "t")
    assert "no gateway" in run("status", "--port", "1").stderr


def test_without_a_gateway_its_commands_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for command in (("status",), ("reload",), ("keys", "list"), ("keys", "show", "a"), ("keys", "delete", "a")):
        result = run(*command, "--port", "1")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            "error: no gateway that this user started runs on port 1 on this machine\n"
            "hint: --url and --token reach a gateway of another user or machine\n"
        )


@pytest.mark.parametrize(
    ("models", "expected"), [(("vllm/*",), "vllm/demo"), (("gpt-4o*",), "gpt-4o"), (("*",), "demo"), (("a",), "a")]
)
def test_the_banner_names_a_model_that_the_route_takes(models: tuple[str, ...], expected: str) -> None:
    settings = demo_settings("http://127.0.0.1:5", port=8081, environ={})
    settings = dataclasses.replace(settings, routes=(dataclasses.replace(settings.routes[0], models=models),))
    assert f'"model": "{expected}"' in banner(settings)
