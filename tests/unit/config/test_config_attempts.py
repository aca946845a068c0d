"""What the operator says of further attempts becomes records, or problems."""

from __future__ import annotations

from pathlib import Path

import pytest

from budgateway import load_config
from budgateway.errors import ConfigError
from budgateway.records import Fallback, Retries, RetryLimit

TOML = """
[retries]
percent = 50
reserve = 1
[providers.vllm]
endpoints = ["http://a:1"]
hold_bytes = "1MB"
first_event_timeout = 5
[providers.other]
kind = "openai"
endpoints = ["http://b:1"]
[[routes]]
path = "/v1/*"
provider = "vllm"
auth_required = false
max_attempts = 2
retry_on = [503]
fallback = ["other", { provider = "vllm", model = "small" }]
fallback_on = ["error", "context_length"]
stream_keepalive = 10
"""


def test_every_key_arrives(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(TOML)
    settings = load_config(tmp_path / "gateway.toml", environ={})
    (route,) = settings.routes
    assert route.retries == Retries(
        max_attempts=2, statuses=(503,), fallbacks=(Fallback("other"), Fallback("vllm", "small")),
        fallback_on=("error", "context_length"),
    )  # fmt: skip
    assert (route.stream_keepalive_s, settings.retry_limit) == (10.0, RetryLimit(50, 1))
    provider = next(provider for provider in settings.providers if provider.name == "vllm")
    assert (provider.hold_bytes, provider.first_event_s) == (1 << 20, 5.0)
    assert settings.notices == ()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"other", {', '"othr", {', "othr"),
        ("retry_on = [503]", "retry_on = [200]", "retry_on"),
        ('"context_length"]', '"contxt"]', "fallback_on"),
    ],
)
def test_what_cannot_be_is_a_problem(old: str, new: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(TOML.replace(old, new))
    with pytest.raises(ConfigError, match=words):
        load_config(tmp_path / "gateway.toml", environ={})
