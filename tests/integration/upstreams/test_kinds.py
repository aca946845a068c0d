"""Each configuration of docs/provider-integration.md is started, and its requests reach an upstream as the page says."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream
from integration.inside import inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway import load_config
from budgateway.kinds import KINDS
from budgateway.records import Fallback, HealthCheck, Mirror, Provider, Retries, Secret

pytestmark = pytest.mark.integration

PAGE = (Path(__file__).resolve().parents[3] / "docs/provider-integration.md").read_text()
SECTION = PAGE.partition("\n## Kinds\n")[2].partition("\n## ")[0]
CONFIGURATIONS = re.findall(r"^```toml\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
PROVIDERS = [name for text in CONFIGURATIONS for name in tomllib.loads(text)["providers"]]
KEYS = {kind.key_variable: f"key-of-{name}" for name, kind in KINDS.items()}
JSON = [("Content-Type", "application/json")]
PATHS = {"anthropic.messages": "/v1/messages"}


def configured(name: str, tmp_path: Path) -> Provider:
    """The provider of that name, loaded from the page."""
    text = next(text for text in CONFIGURATIONS if name in tomllib.loads(text)["providers"])
    for provider in tomllib.loads(text)["providers"]:
        text += f'\n[[routes]]\npath = "/{provider}/*"\nprovider = "{provider}"\nauth_required = false\n'
    (tmp_path / "one.toml").write_text(text)
    settings = load_config(tmp_path / "one.toml", environ=KEYS)
    return next(provider for provider in settings.providers if provider.name == name)


@pytest.fixture
def provider(request: pytest.FixtureRequest, tmp_path: Path) -> Provider:
    """The provider of the test's parameter. Loaded here, because reading files blocks the loop."""
    return configured(request.param, tmp_path)


def fields_of(provider: Provider) -> dict[str, Any]:
    """A provider's settings, for a gateway whose upstream is another."""
    names = ("kind", "api_key", "api_version", "aliases", "strip_prefix", "headers", "models")
    return {name: getattr(provider, name) for name in names}


def test_each_kind_has_a_section_and_the_missions_come_first() -> None:
    assert [KINDS[name].name for name in PROVIDERS if name in KINDS] == [
        "vllm", "sglang", "litellm", "openai", "anthropic", "gemini", "azure", "ollama", "llamacpp", "tgi",
    ]  # fmt: skip
    assert set(KINDS) <= set(PROVIDERS)


@pytest.mark.parametrize("provider", PROVIDERS, indirect=True)
async def test_a_configuration_of_the_page_serves(provider: Provider, tmp_path: Path) -> None:
    kind = KINDS[provider.kind]
    path = PATHS.get(kind.dialects[0], "/v1/chat/completions")
    model = next(iter(dict(provider.aliases)), "m")
    async with FaultyUpstream(faults.chat()) as upstream:
        options = fields_of(provider)
        async with inside(upstream.url, tmp_path, path="/v1/*", provider=options) as gateway:
            async with Downstream(gateway.url) as client:
                body = json.dumps({"model": model, "messages": []}).encode()
                assert (await client.ask("POST", path, body, JSON)).status == 200
            (request,) = upstream.requests
            headers = dict(request.headers)
            if provider.api_key is not None:
                assert headers[kind.key_header] == f"{kind.key_prefix}key-of-{provider.name}"
            if kind.key_header != "authorization":
                assert "authorization" not in headers
            for header, value in kind.headers:
                assert headers[header] == value
            assert json.loads(request.body)["model"] == provider.upstream_model(model)
            if not kind.moves:
                assert request.target == path


ROWS = {
    name: re.findall(
        r"^\| `(/\S+)` \|(?: (?:`(\S+)`)? ?\|)? (?:`(/\S+)`|the same) \|$",
        SECTION.partition(f"\n### {title}\n")[2].partition("\n### ")[0],
        re.MULTILINE,
    )
    for name, title in (("azure", "Azure"), ("gemini", "Gemini"))
}


@pytest.mark.parametrize(
    ("provider", "row"), [(name, row) for name, rows in ROWS.items() for row in rows], indirect=["provider"]
)
async def test_paths_become_what_the_tables_say(provider: Provider, row: tuple[str, str, str], tmp_path: Path) -> None:
    asked, model, expected = row
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path, path="/*", provider=fields_of(provider)) as gateway,
        Downstream(gateway.url) as client,
    ):
        told = {sent: said for said, sent in provider.aliases}
        body = json.dumps({"model": told.get(model, model or "m")}).encode()
        if provider.name == "azure" and not model:
            await client.ask("GET", asked)
        else:
            await client.ask("POST", asked, body, JSON)
        assert upstream.requests[0].target == (expected or asked)


def test_the_tables_of_paths_are_found() -> None:
    assert (len(ROWS["azure"]), len(ROWS["gemini"])) == (4, 4)


@pytest.mark.parametrize(
    ("provider", "asked", "target"),
    [
        ("anthropic", "/v1/chat/completions", "/v1/messages"),
        ("gemini", "/v1/messages", "/v1beta/models/gpt-4o:generateContent"),
        ("azure", "/v1/messages", "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21"),
        ("tgi", "/v1/messages", "/v1/chat/completions"),
    ],
    indirect=["provider"],
)
async def test_translated_requests_have_the_paths_and_keys_of_the_kind(
    provider: Provider, asked: str, target: str, tmp_path: Path
) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path, path="/v1/*", provider=fields_of(provider)) as gateway,
        Downstream(gateway.url) as client,
    ):
        message = {"role": "user", "content": "hi"}
        body = json.dumps({"model": "gpt-4o", "max_tokens": 5, "messages": [message]}).encode()
        await client.ask("POST", asked, body, JSON)
        (request,) = upstream.requests
        assert request.target == target
        headers = dict(request.headers)
        kind = KINDS[provider.kind]
        assert headers[kind.key_header] == f"{kind.key_prefix}key-of-{provider.name}"
        assert all(headers[name] == value for name, value in kind.headers)


@pytest.mark.parametrize("provider", ["azure"], indirect=True)
async def test_a_model_that_fits_no_path_is_refused(provider: Provider, tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path, path="/*", provider=fields_of(provider)) as gateway,
        Downstream(gateway.url) as client,
    ):
        answer = await client.ask("POST", "/v1/embeddings", b'{"model": "../e/1"}', JSON)
        assert (answer.status, answer.json()["error"]["param"]) == (400, "model")
        assert not upstream.requests


async def test_a_fallback_and_a_mirror_have_the_paths_of_their_kind(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.status(503)) as first,
        FaultyUpstream(faults.chat()) as azure,
        inside(
            first.url,
            tmp_path,
            path="/v1/*",
            beside={"/azure": azure.url},
            kinds={"/azure": "azure"},
            route={
                "mirror": Mirror("/azure"),
                "retries": Retries(fallbacks=(Fallback("/azure", "deployment"),)),
            },
        ) as gateway,
        Downstream(gateway.url) as client,
    ):
        answer = await client.ask("POST", "/v1/chat/completions", b'{"model":"m"}', JSON)
        assert answer.status == 200
        await azure.until(lambda up: len(up.requests) == 2)
        targets = sorted(request.target for request in azure.requests)
        assert targets == [
            "/openai/deployments/deployment/chat/completions?api-version=",
            "/openai/deployments/m/chat/completions?api-version=",
        ]
        await gateway.at_rest()


@pytest.mark.parametrize(
    ("name", "path", "models_path"),
    [
        ("vllm", "/health", "/v1/models"),
        ("openai", "/v1/models", "/v1/models"),
        ("anthropic", "/v1/models", ""),
        ("gemini", "/v1beta/openai/models", ""),
        ("azure", "/openai/models?api-version=2024-10-21", ""),
        ("ollama", "/api/version", ""),
        ("llamacpp", "/health", "/v1/models"),
        ("tgi", "/health", "/v1/models"),
    ],
)
def test_probes_and_lists_are_the_kinds(name: str, path: str, models_path: str, tmp_path: Path) -> None:
    check = configured(name, tmp_path).health_check
    assert isinstance(check, HealthCheck)
    assert (check.path, check.models_path, check.load_paths) == (path, models_path, KINDS[name].load_paths)


def test_the_keys_of_hosted_apis_go_to_their_hosts_only(tmp_path: Path) -> None:
    for name in ("anthropic", "gemini"):
        assert configured(name, tmp_path).api_key == Secret(f"key-of-{name}")
        (tmp_path / "one.toml").write_text(
            f'[providers.{name}]\nendpoints = ["http://localhost:9"]\n[[routes]]\npath = "/*"\nprovider = "{name}"\n'
            "auth_required = false\n"
        )
        (provider,) = load_config(tmp_path / "one.toml", environ=KEYS).providers
        assert provider.api_key is None
