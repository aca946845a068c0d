"""Variables as people and platforms write them; and the files that a configuration refers to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from integration.certificates import Authority
from tokens import pem

from budgateway.config.difference import refusals
from budgateway.config.load import load_config
from budgateway.config.source import ABSENT, stamp
from budgateway.errors import ConfigError

JWT = "j" * 32
MINIMAL = (
    "[[routes]]\npath = '/v1/*'\nprovider = 'vllm'\nauth_required = false\n"
    "[providers.vllm]\nendpoints = ['http://localhost:8000']\n"
)
GOOD = {
    "WORKERS": "1", "LOG_LEVEL": "info", "GATEWAY_PORT": "1", "JWT_SECRET": JWT, "REDIS_URL": "redis://x",
    "METRICS_PORT": "1", "ENABLE_METRICS": "true",
}  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str) -> Path:
        file = tmp_path / "one.toml"
        file.write_text(text)
        return file

    return write


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_PORT", "tcp://10.96.0.7:80"),
        ("METRICS_PORT", "TCP://10.96.0.7:9090"),
        ("GATEWAY_HOST", "udp://10.96.0.7:53"),
        ("WORKERS", " sctp://[fd00::7]:80 "),
    ],
)
def test_a_service_link_sets_nothing_and_is_named(write: Callable[..., Path], name: str, value: str) -> None:
    plain = load_config(write(MINIMAL), environ={})
    settings = load_config(write(MINIMAL), environ={name: value})
    assert (settings.host, settings.port, settings.metrics_port) == (plain.host, plain.port, plain.metrics_port)
    (notice,) = settings.notices
    assert notice.startswith(f"{name}={value.strip()} is ignored: ")
    assert "Kubernetes" in notice
    assert name not in settings.sources


def test_what_kubernetes_says_of_its_services_is_no_slip_of_the_finger(write: Callable[..., Path]) -> None:
    links = {}
    for service in ("GATEWAY", "REDIS", "VLLM", "METRICS", "WORKERS", "JWT", "LITELLM_ENDPOINT"):
        links |= {
            f"{service}_SERVICE_HOST": "10.96.0.7",
            f"{service}_SERVICE_PORT": "80",
            f"{service}_SERVICE_PORT_HTTP": "80",
            f"{service}_PORT_8080_TCP": "tcp://10.96.0.7:8080",
            f"{service}_PORT_8080_TCP_ADDR": "10.96.0.7",
            f"{service}_PORT_8080_TCP_PORT": "8080",
            f"{service}_PORT_8080_TCP_PROTO": "tcp",
        }
    assert load_config(write(MINIMAL), environ=links).notices == ()


@pytest.mark.parametrize(
    ("wrote", "meant"),
    [
        ("VLLM_ENDPOINT", "VLLM_ENDPOINTS"),
        ("SGLANG_ENDPOINT", "SGLANG_ENDPOINTS"),
        ("LITELLM_ENDPOINTS", "LITELLM_ENDPOINT"),
        ("VLLM_BASE_URL", "VLLM_ENDPOINTS"),
        ("GATEWAY_WORKERS", "WORKERS"),
        ("GATEWAY_LOG_LEVEL", "LOG_LEVEL"),
        ("BUDGATEWAY_PORT", "GATEWAY_PORT"),
        ("gateway_port", "GATEWAY_PORT"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("JWT_SECRET_KEY", "JWT_SECRET"),
        ("REDIS_URI", "REDIS_URL"),
        ("METRICS_PORTS", "METRICS_PORT"),
        ("ENABLE_METRIC", "ENABLE_METRICS"),
    ],
)
def test_a_variable_that_nearly_is_ours_gets_a_suggestion(write: Callable[..., Path], wrote: str, meant: str) -> None:
    line = f"environment: {wrote} is not read; did you mean {meant}?"
    assert load_config(write(MINIMAL), environ={wrote: "http://x"}).notices == (line,)
    # Whoever sets both has the other for another program.
    both = load_config(write(MINIMAL), environ={wrote: "x", meant: GOOD.get(meant, "http://x")})
    assert line not in both.notices


def test_variables_of_other_programs_are_left_alone(write: Callable[..., Path]) -> None:
    others = ("PORT", "HOST", "VLLM_PORT", "VLLM_HOST_IP", "OPENAI_BASE_URL", "XAI_API_KEY", "REDIS_HOST", "WORKDIR")
    assert load_config(write(MINIMAL), environ=dict.fromkeys((*others, "ANTHROPIC_API_KEY"), "x")).notices == ()


def test_without_a_configuration_the_suggestion_is_with_the_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config(environ={"VLLM_ENDPOINT": "http://x"})
    assert caught.value.problems[1:] == ["environment: VLLM_ENDPOINT is not read; did you mean VLLM_ENDPOINTS?"]


def test_a_number_that_python_does_not_write_can_be_replaced(write: Callable[..., Path]) -> None:
    file = write(MINIMAL + f"[gateway]\nport = [0x{'f' * 4000}]\n")
    settings = load_config(file, environ={"GATEWAY_PORT": "8088"})
    assert settings.notices == ("environment: GATEWAY_PORT replaces gateway.port = a number far too large of one.toml",)


def test_what_a_variable_replaces_is_said_and_no_secret_is(write: Callable[..., Path]) -> None:
    text = (
        "[gateway]\nhost = '127.0.0.1'\nport = 1\nlog_level = 'warn'\n[redis]\nurl = 'redis://one'\n"
        "[auth]\njwt_secret = 'env:OTHER'\n[[routes]]\npath = '/v1/*'\nprovider = 'vllm'\n"
        "[providers.vllm]\nendpoints = [{ url = 'http://a', weight = 3 }, 'http://b']\n"
    )
    environ = {
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": "2",
        "LOG_LEVEL": "error",
        "REDIS_URL": "redis://user:hidden@two",
        "JWT_SECRET": JWT,
        "VLLM_ENDPOINTS": "http://c",
    }
    notices = load_config(write(text), environ=environ).notices
    assert notices == (
        "environment: GATEWAY_PORT replaces gateway.port = 1 of one.toml",
        "environment: LOG_LEVEL replaces gateway.log_level = warn of one.toml",
        "environment: REDIS_URL replaces redis.url of one.toml",
        "environment: JWT_SECRET replaces auth.jwt_secret of one.toml",
        "environment: VLLM_ENDPOINTS replaces 2 endpoints of provider 'vllm' in one.toml, with their weights and limits",
    )


def test_what_env_file_says_is_said_to_come_from_there(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text("GATEWAY_PORT=2\nWORKERS=2\nVLLM_ENDPOINT=http://x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKERS", "1")
    settings = load_config(write("[gateway]\nport = 1\n" + MINIMAL))
    assert settings.sources[1:] == (".env", "GATEWAY_PORT", "WORKERS")
    assert settings.notices == (
        ".env: GATEWAY_PORT replaces gateway.port = 1 of one.toml",
        ".env: VLLM_ENDPOINT is not read; did you mean VLLM_ENDPOINTS?",
    )
    assert dict(settings.origins)["gateway.workers"] == "environment: WORKERS"


@pytest.mark.parametrize(
    ("wrote", "level"),
    [("warn", "WARNING"), ("Trace", "DEBUG"), ("FATAL", "CRITICAL"), (" info ", "INFO"), ("Error", "ERROR")],
)
def test_levels_have_other_names(write: Callable[..., Path], wrote: str, level: str) -> None:
    assert load_config(write(MINIMAL), environ={"LOG_LEVEL": wrote}).log_level == level


def test_every_key_without_effect_is_named_by_itself(write: Callable[..., Path]) -> None:
    file = write(MINIMAL + "[cache]\nenabled = false\nmax_memory = '1GB'\n")
    settings = load_config(file, environ={})
    assert settings.notices == ("one.toml: cache.max_memory has no effect in this version",)


def test_every_file_that_the_configuration_refers_to_is_known_as_it_was_read(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    certificate, key = map(Path, authority.server())
    for name in ("provider", "header", "jwt", "redis"):
        (tmp_path / name).write_text("redis://one" if name == "redis" else "s" * 40)
    (tmp_path / "issuer.pem").write_text(pem("rsa"))
    file = write(
        f"""
[auth]
jwt_secret = "file:jwt"
[[auth.issuers]]
issuer = "https://one.example.com"
audience = "a"
public_key_file = "issuer.pem"
[tls]
cert_file = "{certificate.name}"
key_file = "{key.name}"
[redis]
url = "file:redis"
[[routes]]
path = "/v1/*"
provider = "vllm"
[providers.vllm]
endpoints = ["https://a"]
api_key = "file:provider"
headers = {{ x-extra-key = "file:header" }}
tls_ca_file = "{authority.ca_file.name}"
"""
    )
    settings = load_config(file, environ={})
    names = ("provider", "header", "jwt", "redis", "issuer.pem", certificate.name, key.name, authority.ca_file.name)
    assert dict(settings.files) == {str(tmp_path / name): stamp(tmp_path / name) for name in (*names, file.name)}
    (tmp_path / "header").unlink()
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ={})
    assert (str(tmp_path / "header"), ABSENT) in caught.value.files


def test_a_certificate_behind_a_link_keeps_its_name_when_the_link_changes(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    found = []
    for name in ("..1", "..2"):
        (tmp_path / name).mkdir()
        certificate, key = map(Path, Authority(tmp_path / name).server())
    (tmp_path / "..data").symlink_to("..1")
    for file in (certificate, key):
        (tmp_path / file.name).symlink_to(f"..data/{file.name}")
    config = write(MINIMAL + f"[tls]\ncert_file = '{certificate.name}'\nkey_file = '{key.name}'\n")
    for target in ("..1", "..2"):
        (tmp_path / "..new").symlink_to(target)
        os.replace(tmp_path / "..new", tmp_path / "..data")
        found.append(load_config(config, environ={}))
    assert found[0].tls == found[1].tls
    assert refusals(*found) == []
    assert found[0].files != found[1].files


@pytest.mark.parametrize("call", ["chat/completions", "completions", "embeddings", "responses", "messages", "models"])
def test_an_endpoint_is_a_base_and_not_one_call(write: Callable[..., Path], call: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(MINIMAL), environ={"VLLM_ENDPOINTS": f"http://gpu:8000/v1/{call}"})
    assert caught.value.problems == [
        "environment: VLLM_ENDPOINTS: is the URL of one call: write the base, 'http://gpu:8000/v1'"
    ]


def test_a_pipe_never_changes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert stamp(tmp_path / "pipe") == ABSENT
