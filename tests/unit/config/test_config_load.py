"""Loading: folders, files, the environment alone, and what wins over what."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from budgateway.config.load import load_config
from budgateway.config.resolve import cores
from budgateway.errors import ConfigError
from budgateway.records import BreakerSettings, HealthCheck, RateLimit, Secret, Settings

ROOT = Path(__file__).resolve().parents[3]
JWT = "j" * 32

# Every table and key of the configuration that the product was asked for.
MISSION = """
[gateway]
host = "0.0.0.0"
port = 8080
workers = 4
max_connections = 1000
request_timeout = 60
keepalive_timeout = 60

[rate_limiting]
enabled = true
requests_per_minute = 1000
burst_capacity = 100

[circuit_breaker]
enabled = true
failure_threshold = 5
timeout_duration = 60
half_open_max_calls = 3

[cache]
enabled = true
default_ttl = 300
max_memory = "1GB"

[redis]
pool_size = 20

[[routes]]
path = "/v1/chat/completions"
method = "POST"
provider = "vllm"
load_balancer = "least_connections"
cache_ttl = 300
rate_limit = 100
auth_required = true
timeout = 60

[providers.vllm]
name = "VLLM Provider"
endpoints = ["http://vllm-1:8000", "http://vllm-2:8000"]
health_check_path = "/health"
health_check_interval = 30
"""

MINIMAL = """
[[routes]]
path = "/v1/*"
provider = "vllm"
auth_required = false
[providers.vllm]
endpoints = ["http://localhost:8000"]
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from the checkout, whose ./config and ./.env would be read."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "one.toml") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


def problems(path: Path | str | None = None, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ=environ or {})
    return caught.value.problems


def test_the_missions_example_works_as_written(write: Callable[..., Path]) -> None:
    settings = load_config(write(MISSION), environ={"JWT_SECRET": JWT})
    assert (settings.host, settings.port, settings.workers) == ("0.0.0.0", 8080, 4)
    assert (settings.max_connections, settings.keepalive_s) == (1000, 60)
    assert settings.rate_limit == RateLimit(per_minute=1000, burst=100)
    assert settings.breaker == BreakerSettings(
        failure_threshold=5, open_s=60, half_open_max_calls=3, failure_ratio=0.5, minimum_calls=20, window_s=30
    )
    (route,) = settings.routes
    assert (route.path, route.methods, route.provider) == ("/v1/chat/completions", ("POST",), "vllm")
    assert (route.load_balancer, route.rate_limit, route.auth_required) == ("least_connections", 100, True)
    assert (route.timeouts.first_byte_s, route.cache_ttl_s, route.replay_safe) == (60, 300, True)
    (provider,) = settings.providers
    assert (provider.label, provider.kind) == ("VLLM Provider", "vllm")
    assert provider.health_check == HealthCheck(path="/health", interval_s=30, load_paths=("/metrics",))
    assert [(u.url, u.host, u.port, u.weight) for u in provider.upstreams] == [
        ("http://vllm-1:8000", "vllm-1", 8000, 1),
        ("http://vllm-2:8000", "vllm-2", 8000, 1),
    ]
    assert settings.notices == (
        "one.toml: cache.enabled has no effect in this version",
        "one.toml: cache.default_ttl has no effect in this version",
        "one.toml: cache.max_memory has no effect in this version",
        "one.toml: routes[0].cache_ttl has no effect in this version",
        "[redis] has no effect without a url (REDIS_URL), sentinels or nodes",
    )


def test_the_missions_example_needs_an_authenticator(write: Callable[..., Path]) -> None:
    (problem,) = problems(write(MISSION))
    assert problem.startswith("one.toml: routes[0].auth_required: ")
    assert "JWT_SECRET" in problem
    assert "auth_required = false" in problem


def test_the_samples_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_config(ROOT / "config", environ={})
    assert settings.host == "127.0.0.1"
    assert settings.notices == ()
    assert {provider.name for provider in settings.providers} == {"vllm", "sglang"}
    assert next(p for p in settings.providers if p.name == "sglang").upstream_model("sglang/qwen") == "qwen"
    monkeypatch.chdir(ROOT)
    assert load_config(environ={}).routes == settings.routes


def test_every_variable_of_the_sample_is_known() -> None:
    names = re.findall(r"^#?([A-Z][A-Z_]+)=", (ROOT / ".env.sample").read_text(), re.MULTILINE)
    from budgateway.config import environment

    known = {
        *environment.VARIABLES,
        environment.JWT_SECRET,
        *environment.ENDPOINTS.values(),
        *environment.KEYS.values(),
    }
    assert set(names) == known


def test_a_folder_is_its_three_files(write: Callable[..., Path]) -> None:
    write("[gateway]\nport = 1234", "conf/gateway.toml")
    routes, providers = MINIMAL.split("[providers", 1)
    write(routes, "conf/routes.toml")
    write("[providers" + providers, "conf/providers.toml")
    settings = load_config("conf", environ={})
    assert settings.port == 1234
    assert len(settings.routes) == 1
    assert settings.sources == ("conf/gateway.toml", "conf/routes.toml", "conf/providers.toml")


def test_a_table_stands_in_one_file_only(write: Callable[..., Path]) -> None:
    write(MINIMAL, "conf/routes.toml")
    write("[providers.sglang]\nendpoints = ['http://x']", "conf/providers.toml")
    assert problems("conf") == ["providers.toml: providers: is in routes.toml already"]


def test_a_misspelt_file_is_a_problem_and_a_foreign_one_a_notice(write: Callable[..., Path]) -> None:
    write(MINIMAL, "conf/routes.toml")
    write("", "conf/tools.toml")
    assert any("tools.toml is not read" in notice for notice in load_config("conf", environ={}).notices)
    write("", "conf/provider.toml")
    assert problems("conf") == ["provider.toml: not a file of the configuration; did you mean 'providers.toml'?"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[gateway\n", "gateway.toml: not TOML: "),
        (b"a = '\xff'", "gateway.toml: not UTF-8 text"),
        (b"a = " + b"[" * 100_000, "gateway.toml: nested too deeply"),
        (b"a = " + b"9" * 5_000, "gateway.toml: not TOML: exceeds the limit"),
    ],
)
def test_a_broken_file_hides_no_other_problem(write: Callable[..., Path], content: bytes, expected: str) -> None:
    write("[[routes]]\npath = 'v1'\nprovider = 'elsewhere'\nauth_required = false", "conf/routes.toml").parent.joinpath(
        "gateway.toml"
    ).write_bytes(content)
    broken, bad_path = problems("conf")
    # The provider may be in the file that cannot be read: it is not called missing.
    assert broken.startswith(expected)
    assert bad_path.startswith("routes.toml: routes[0].path: must begin with '/'")


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_config(tmp_path / "one.toml", environ={}).routes


@pytest.mark.parametrize("path", [None, "absent", "nul\0", "empty"])
def test_nothing_to_read_says_what_to_try(path: str | None, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})
    assert len(caught.value.problems) == 1
    if path != "empty":
        assert all(
            word in caught.value.hint for word in ("serve --demo", "VLLM_ENDPOINTS", "OPENAI_API_KEY", "--config")
        )


def test_a_level_that_is_none_is_shown_as_it_was_written(write: Callable[..., Path]) -> None:
    (problem,) = problems(write("[gateway]\nlog_level = 'verbose'\n" + MINIMAL))
    assert problem.endswith("; got 'verbose'")


def test_one_file_of_a_folder_suggests_the_folder(write: Callable[..., Path]) -> None:
    for name in ("gateway.toml", "routes.toml", "providers.toml"):
        folder = write("", f"here/{name}").parent
    (problem,) = problems(folder / "gateway.toml")
    assert problem.endswith(f"; routes.toml and providers.toml next to it: name the folder, {folder}, to read all")


@pytest.fixture
def without_rights(tmp_path: Path) -> Iterator[None]:
    """Drop root's rights for a while: files of mode 0 cannot be read."""
    tmp_path.chmod(0o755)
    us = os.geteuid()
    if us == 0:
        os.seteuid(65534)
    yield
    os.seteuid(us)


@pytest.mark.parametrize("path", [None, "config", "config/gateway.toml"])
def test_what_may_not_be_read_is_not_called_absent(
    path: str | None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "config"
    folder.mkdir(mode=0o700)
    (folder / "gateway.toml").touch()
    folder.chmod(0)
    request.getfixturevalue("without_rights")
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})
    assert caught.value.problems == [f"{path or 'config'}: permission denied"]


def test_a_dotenv_that_cannot_be_read_is_a_problem(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / ".env").write_bytes(b"WORKERS=\xff")
    with pytest.raises(ConfigError, match=r"^\.env: not UTF-8 text$"):
        load_config()
    (tmp_path / ".env").chmod(0)
    request.getfixturevalue("without_rights")
    with pytest.raises(ConfigError, match=r"^\.env: permission denied$"):
        load_config()


def test_the_environment_wins_over_files_and_options_over_both(write: Callable[..., Path]) -> None:
    file = write("[gateway]\nport = 1\nworkers = 1\nlog_level = 'error'\n" + MINIMAL)
    environ = {"GATEWAY_PORT": "2", "WORKERS": "2", "LOG_LEVEL": "debug", "GATEWAY_HOST": "::1", "METRICS_PORT": ""}
    settings = load_config(file, environ=environ, port=3)
    assert (settings.port, settings.workers, settings.log_level, settings.host) == (3, 2, "DEBUG", "::1")
    assert settings.metrics_port == 9090, "an empty variable counts as unset"
    assert "LOG_LEVEL" in settings.sources


def test_every_key_says_what_set_it(write: Callable[..., Path]) -> None:
    write("[gateway]\nport = 1234\nworkers = 2\n[metrics]\nenabled = false\n", "conf/gateway.toml")
    write('[[routes]]\npath = "/v1/*"\nprovider = "vllm"\nauth_required = false\n', "conf/routes.toml")
    folder = write(
        '[providers.vllm]\nendpoints = ["http://a"]\naliases = {"x.y" = "z"}\n', "conf/providers.toml"
    ).parent
    environ = {"WORKERS": "3", "VLLM_ENDPOINTS": "http://b"}
    assert dict(load_config(folder, environ=environ, port=99).origins) == {
        "gateway.port": "--port",
        "gateway.workers": "environment: WORKERS",
        "metrics.enabled": "gateway.toml",
        "routes[0].path": "routes.toml",
        "routes[0].provider": "routes.toml",
        "routes[0].auth_required": "routes.toml",
        "providers.vllm.endpoints": "environment: VLLM_ENDPOINTS",
        "providers.vllm.aliases.'x.y'": "providers.toml",
    }


def test_variables_and_options_are_named_in_problems(write: Callable[..., Path]) -> None:
    environ = {"GATEWAY_PORT": "80a", "ENABLE_METRICS": "perhaps", "JWT_SECRET": "short", "VLLM_ENDPOINTS": "host:80"}
    with pytest.raises(ConfigError) as caught:
        load_config(write(MINIMAL), environ=environ, workers=0)
    assert caught.value.problems == [
        "environment: GATEWAY_PORT: must be a whole number, got '80a'",
        "--workers: must be at least 1, got 0",
        "environment: ENABLE_METRICS: must be true or false, got 'perhaps'",
        "environment: JWT_SECRET: too short: 5 bytes, must be at least 32 (openssl rand -hex 32)",
        "environment: VLLM_ENDPOINTS: must begin with http:// or https://, got 'host:80'; did you mean 'http://host:80'?",
    ]


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("JWT_SECRET", b"j" * 32 + b"\xff", "the variable JWT_SECRET is not UTF-8 text"),
        ("REDIS_URL", b"redis://:pass\xffword@host", "not UTF-8 text"),
    ],
)
def test_a_secret_that_is_no_text_is_refused_by_name(
    variable: str, value: bytes, problem: str, write: Callable[..., Path]
) -> None:
    """As the process's environment has them: `os.environ` decodes other bytes to surrogates."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(MINIMAL), environ={variable: os.fsdecode(value)})
    assert caught.value.problems == [f"environment: {variable}: {problem}"]


def test_dotenv_fills_in_what_the_process_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(
        "VLLM_ENDPOINTS=http://dotenv\nGATEWAY_PORT=81\nJWT_SECRET='${HOME}" + "j" * 32 + "'\n"
    )
    monkeypatch.setenv("GATEWAY_PORT", "82")
    for name in ("GATEWAY_HOST", "OPENAI_API_KEY", "JWT_SECRET", "VLLM_ENDPOINTS"):
        monkeypatch.delenv(name, raising=False)
    settings = load_config()
    assert settings.port == 82
    assert settings.providers[0].upstreams[0].url == "http://dotenv"
    assert settings.jwt_secret == Secret("${HOME}" + "j" * 32), "values of .env are taken as they are"


def alone(**environ: str) -> Settings:
    return load_config(environ=environ)


def test_one_provider_from_the_environment_alone() -> None:
    settings = alone(OPENAI_API_KEY="sk-1")
    (provider,), (route, realtime) = settings.providers, settings.routes
    assert (realtime.path, realtime.websocket is not None) == ("/v1/realtime", True)
    assert (provider.upstreams[0].url, provider.api_key) == ("https://api.openai.com", Secret("sk-1"))
    assert (route.path, route.models, route.provider, provider.strip_model_prefix) == ("/v1/*", (), "openai", "")
    assert settings.sources == ("OPENAI_API_KEY",)


def test_an_open_gateway_stays_on_this_machine_until_told_otherwise() -> None:
    settings = alone(OPENAI_API_KEY="sk-1")
    assert settings.host == "127.0.0.1"
    assert not settings.routes[0].auth_required
    assert any("GATEWAY_HOST" in notice for notice in settings.notices)
    told = alone(OPENAI_API_KEY="sk-1", GATEWAY_HOST="0.0.0.0")
    assert told.host == "0.0.0.0"
    assert any("may use the key of openai" in notice for notice in told.notices)
    locked = alone(OPENAI_API_KEY="sk-1", JWT_SECRET=JWT)
    assert locked.host == "0.0.0.0"
    assert locked.routes[0].auth_required
    assert not locked.notices


def test_several_providers_from_the_environment_alone() -> None:
    settings = alone(
        OPENAI_API_KEY="k",
        LITELLM_ENDPOINT="http://l:4000/",
        SGLANG_ENDPOINTS="http://s",
        VLLM_ENDPOINTS=" http://a , http://b,",
    )
    assert [(route.provider, route.models) for route in settings.routes] == [
        ("vllm", ()),
        ("sglang", ("sglang/*",)),
        ("litellm", ("litellm/*",)),
        ("openai", ("openai/*",)),
        ("openai", ()),  # realtime
    ]
    assert [u.url for u in settings.providers[0].upstreams] == ["http://a", "http://b"]
    assert [provider.strip_model_prefix for provider in settings.providers] == [
        "vllm/",
        "sglang/",
        "litellm/",
        "openai/",
    ]


def test_variables_replace_endpoints_and_make_a_provider_that_a_route_names(write: Callable[..., Path]) -> None:
    file = write(
        MINIMAL + "[providers.vllm.aliases]\na = 'b'\n[[routes]]\npath='/s'\nprovider='sglang'\nauth_required=false"
    )
    settings = load_config(
        file, environ={"VLLM_ENDPOINTS": "http://x", "SGLANG_ENDPOINTS": "http://y", "OPENAI_API_KEY": "k"}
    )
    vllm, sglang = settings.providers
    assert (vllm.upstreams[0].url, vllm.aliases, sglang.upstreams[0].url) == ("http://x", (("a", "b"),), "http://y")
    # OPENAI_API_KEY is on many machines for other reasons.
    assert settings.notices == ("environment: VLLM_ENDPOINTS replaces 1 endpoint of provider 'vllm' in one.toml",)
    unused = load_config(write(MINIMAL), environ={"SGLANG_ENDPOINTS": "http://y"})
    assert unused.notices == ("SGLANG_ENDPOINTS has no effect: no route goes to provider 'sglang'",)


def test_workers_are_as_many_as_cores_within_the_control_groups_quota(tmp_path: Path) -> None:
    usable = cores(tmp_path)
    assert 1 <= usable <= 32
    for written, expected in (
        ("max 100000", usable),
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("9900000 100000", usable),
        ("", usable),
    ):
        (tmp_path / "cpu.max").write_text(written)
        assert cores(tmp_path) == expected, written
