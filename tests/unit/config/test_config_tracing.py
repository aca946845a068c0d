"""`[tracing]` and the variables that set it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from integration.certificates import Authority

from budgateway.config.load import load_config
from budgateway.errors import ConfigError
from budgateway.records import Secret, Settings, Tracing

MINIMAL = """
[[routes]]
path = "/v1/*"
provider = "vllm"
auth_required = false
[providers.vllm]
endpoints = ["http://localhost:8000"]
"""
ON = MINIMAL + "[tracing]\nenabled = true\n"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        file = tmp_path / "one.toml"
        file.write_text(text)
        return file

    return write


def traced(settings: Settings) -> Tracing:
    assert settings.tracing is not None
    return settings.tracing


def problems(file: Path, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ=environ)
    return "\n".join(caught.value.problems)


def test_nothing_is_traced_unless_it_is_enabled(write: Write) -> None:
    assert load_config(write(MINIMAL), environ={}).tracing is None
    off = {"ENABLE_TRACING": "false", "JAEGER_ENDPOINT": "http://localhost:14268/api/traces"}
    assert load_config(write(MINIMAL), environ=off).tracing is None


def test_the_environment_that_people_write_works(write: Write) -> None:
    environ = {
        "ENABLE_TRACING": "true",
        "JAEGER_ENDPOINT": "http://localhost:14268/api/traces",
        "ENABLE_REQUEST_TRACING": "true",
        "LOG_LEVEL": "debug",
        "METRICS_HOST": "0.0.0.0",
    }
    settings = load_config(write(MINIMAL), environ=environ)
    tracing = traced(settings)
    assert (tracing.endpoint, tracing.protocol) == ("http://localhost:14268/api/traces", "jaeger")
    assert tracing.requests
    assert (settings.log_level, settings.metrics_host, settings.notices) == ("DEBUG", "0.0.0.0", ())


@pytest.mark.parametrize(
    ("endpoint", "url", "protocol"),
    [
        ("", "http://localhost:4318/v1/traces", "otlp"),
        ("http://collector:4318/", "http://collector:4318/v1/traces", "otlp"),
        ("https://collector/otlp/v1/traces", "https://collector/otlp/v1/traces", "otlp"),
        ("http://jaeger:14268/api/traces", "http://jaeger:14268/api/traces", "jaeger"),
    ],
)
def test_the_protocol_follows_from_the_endpoint(write: Write, endpoint: str, url: str, protocol: str) -> None:
    tracing = traced(load_config(write(ON), environ={"JAEGER_ENDPOINT": endpoint}))
    assert (tracing.endpoint, tracing.protocol) == (url, protocol)


def test_a_timeline_alone_sends_nothing(write: Write) -> None:
    tracing = traced(load_config(write(MINIMAL), environ={"ENABLE_REQUEST_TRACING": "1"}))
    assert (tracing.requests, tracing.endpoint) == (True, "")


def test_opentelemetrys_variables_count_where_ours_say_nothing(write: Write) -> None:
    theirs = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-api-key=a%20b,other=c",
        "OTEL_TRACES_SAMPLER_ARG": "0.5",
        "OTEL_SERVICE_NAME": "front",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,team=a",
    }
    settings = load_config(write(ON), environ=theirs)
    tracing = traced(settings)
    assert tracing.endpoint == "http://collector:4318/v1/traces"
    assert tracing.headers == (("x-api-key", Secret("a b")), ("other", Secret("c")))
    assert (tracing.ratio, tracing.service_name) == (0.5, "front")
    assert dict(tracing.resource) == {"deployment.environment.name": "test", "team": "a"}
    assert dict(settings.origins)["tracing.ratio"] == "environment: OTEL_TRACES_SAMPLER_ARG"
    both = theirs | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://other:4318/x"}
    assert traced(load_config(write(ON), environ=both)).endpoint == "http://other:4318/x"
    ours = both | {"JAEGER_ENDPOINT": "http://jaeger:14268/api/traces"}
    assert traced(load_config(write(ON + "ratio = 0.1\n"), environ=ours)).endpoint == ours["JAEGER_ENDPOINT"]
    assert traced(load_config(write(ON + "ratio = 0.1\n"), environ=ours)).ratio == 0.1
    # They are set for every program of a machine: that alone does not enable tracing.
    assert load_config(write(MINIMAL), environ=theirs).tracing is None


@pytest.mark.parametrize(
    ("endpoint", "problem"),
    [
        ("http://localhost:4317", "OTLP over gRPC"),
        ("localhost:4318", "must begin with http://"),
        ("http://me:secret@collector:4318", "must hold no credentials"),
        ("http://collector:4318/?a=b", "no query"),
        ("http://collector:x", "not a URL"),
    ],
)
def test_a_wrong_endpoint_is_explained(write: Write, endpoint: str, problem: str) -> None:
    told = problems(write(ON), JAEGER_ENDPOINT=endpoint)
    assert problem in told
    assert "environment: JAEGER_ENDPOINT" in told
    assert "secret" not in told.replace("reference to the secret", "")


def test_headers_are_references_to_secrets(write: Write, tmp_path: Path) -> None:
    text = ON + 'tls_ca_file = "{}"\n[tracing.headers]\nauthorization = "{}"\n'
    certificate = Authority(tmp_path).ca_file
    tracing = traced(load_config(write(text.format(certificate, "env:TOKEN")), environ={"TOKEN": "Bearer x"}))
    assert tracing.headers == (("authorization", Secret("Bearer x")),)
    assert tracing.ca_file == str(certificate)
    assert "never the secret itself" in problems(write(text.format(certificate, "Bearer x")))


@pytest.mark.parametrize(
    ("variable", "own", "level"),
    [
        ("budgateway=debug", "", "DEBUG"),
        ("hyper=trace,budgateway=warn", "", "WARNING"),
        ("budgateway=off", "", "CRITICAL"),
        ("budgateway=debug", "error", "ERROR"),
        ("debug", "", "INFO"),
        ("budgateway::x=debug", "", "INFO"),
    ],
)
def test_rust_log_sets_the_level_where_log_level_does_not(write: Write, variable: str, own: str, level: str) -> None:
    settings = load_config(write(MINIMAL), environ={"RUST_LOG": variable, "LOG_LEVEL": own})
    assert settings.log_level == level


def test_a_wrong_level_of_rust_log_is_told_with_its_place(write: Write) -> None:
    assert "environment: RUST_LOG" in problems(write(MINIMAL), RUST_LOG="budgateway=loud")
