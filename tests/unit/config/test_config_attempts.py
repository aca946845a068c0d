"""Configuration of retries, fallbacks and hedging becomes records, or problems."""

from __future__ import annotations

from pathlib import Path

import pytest

from budgateway import load_config
from budgateway.errors import ConfigError
from budgateway.records import Fallback, Hedge, Retries, RetryLimit

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
hedge = { percentile = 95, after = 0.2 }
stream_keepalive = 10
"""


def test_every_key_arrives(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(TOML)
    settings = load_config(tmp_path / "gateway.toml", environ={})
    (route,) = settings.routes
    assert route.retries == Retries(
        max_attempts=2, statuses=(503,), fallbacks=(Fallback("other"), Fallback("vllm", "small")),
        fallback_on=("error", "context_length"), hedge=Hedge(0.2, 95),
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
        ("hedge = { percentile = 95, after = 0.2 }", "hedge = {}", "is empty: set after, percentile, or both"),
        ("percentile = 95", "percentile = 100", "percentile"),
        ("hedge = { percentile = 95, after = 0.2 }", 'hedge = "soon"', "hedge"),
        ("hedge = { percentile = 95, after = 0.2 }", "hedge = 0", "hedge"),
    ],
)
def test_what_cannot_be_is_a_problem(old: str, new: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(TOML.replace(old, new))
    with pytest.raises(ConfigError, match=words):
        load_config(tmp_path / "gateway.toml", environ={})


@pytest.mark.parametrize(("word", "hedge"), [("0.8", Hedge(0.8)), ('"p90"', Hedge(0.0, 90)), ('"P55"', Hedge(0.0, 55))])
def test_a_word_is_enough_to_hedge(word: str, hedge: Hedge, tmp_path: Path) -> None:
    text = TOML.replace("hedge = { percentile = 95, after = 0.2 }", f"hedge = {word}")
    (tmp_path / "gateway.toml").write_text(text)
    assert load_config(tmp_path / "gateway.toml", environ={}).routes[0].retries.hedge == hedge
