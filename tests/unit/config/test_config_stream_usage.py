"""The choice of providers whose streams are asked for usage."""

from __future__ import annotations

from pathlib import Path

import pytest

from budgateway import load_config
from budgateway.errors import ConfigError

ROUTE = '[[routes]]\npath = "/v1/*"\nprovider = "p"\nauth_required = false\n'


@pytest.mark.parametrize("kind", ["openai", "vllm", "sglang", "litellm"])
@pytest.mark.parametrize(
    ("keys", "asks", "notices"),
    [
        ("", True, 0),
        ("stream_usage = true", True, 0),
        ("stream_usage = false", False, 0),
        # What comes compressed cannot be read.
        ('forward_headers = ["Accept-Encoding"]', False, 0),
        ('headers = { accept-encoding = "gzip" }', False, 0),
        ('forward_headers = ["accept-encoding"]\nstream_usage = true', False, 1),
        ('forward_headers = ["accept-encoding"]\nstream_usage = false', False, 0),
    ],
)
def test_all_are_unless_it_is_said_otherwise(kind: str, keys: str, asks: bool, notices: int, tmp_path: Path) -> None:
    provider = f'[providers.p]\nkind = "{kind}"\nendpoints = ["http://a:1"]\n{keys}\n'
    (tmp_path / "gateway.toml").write_text(provider + ROUTE)
    settings = load_config(tmp_path / "gateway.toml", environ={"GATEWAY_HOST": "127.0.0.1"})
    assert settings.providers[0].stream_usage is asks
    assert [notice for notice in settings.notices if "stream_usage of 'p'" in notice] == list(settings.notices)
    assert len(settings.notices) == notices


def test_it_is_true_or_false(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(
        f'[providers.p]\nkind = "openai"\nendpoints = ["http://a:1"]\nstream_usage = "yes"\n{ROUTE}'
    )
    with pytest.raises(ConfigError, match=r"providers\.p\.stream_usage: must be true or false"):
        load_config(tmp_path / "gateway.toml", environ={})
