"""`Gateway` takes settings, or the path of a configuration; anything else is refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from budgateway import ConfigError, Gateway

TEXT = """
[gateway]
host = "127.0.0.1"
port = 0
access_log = "off"
[metrics]
enabled = false
[providers.a]
kind = "vllm"
endpoints = ["http://127.0.0.1:1"]
[[routes]]
path = "/v1/*"
provider = "a"
auth_required = false
"""


@pytest.mark.parametrize("kind", [str, Path])
async def test_a_path_is_read(tmp_path: Path, kind: type) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(TEXT)
    for given in (path, tmp_path):
        gateway = Gateway(kind(given))
        assert [route.path for route in gateway.settings.routes] == ["/v1/*"]
    async with gateway:
        assert gateway.url.startswith("http://127.0.0.1:")


def test_what_is_wrong_with_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(TEXT + "colour = 1\n")
    with pytest.raises(ConfigError, match=r"routes\[0\]\.colour"):
        Gateway(tmp_path / "gateway.toml")


def test_anything_else_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="Settings or the path of a configuration, not dict"):
        Gateway({})  # type: ignore[arg-type]
