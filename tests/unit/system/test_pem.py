"""Certificates as they were when the configuration was read, whatever becomes of their files."""

from __future__ import annotations

import pickle
import ssl
from pathlib import Path

import pytest
from integration.certificates import Authority

from budgateway.app.dataplane import server_tls
from budgateway.config.difference import compare, plain
from budgateway.config.load import load_config
from budgateway.records import Settings
from budgateway.redis.discovery import client_tls as store_tls
from budgateway.system.pem import Pem, trusting

CONFIG = """
[gateway]
port = 8080
[tls]
cert_file = "127.0.0.1.pem"
key_file = "127.0.0.1.key"
[redis]
url = "rediss://localhost"
tls_ca_file = "test-authority.pem"
tls_cert_file = "127.0.0.1.pem"
tls_key_file = "127.0.0.1.key"
[auth]
jwt_secret = "env:SECRET"
[[auth.issuers]]
issuer = "https://issuer"
audience = ["a"]
jwks_url = "https://issuer/keys"
tls_ca_file = "test-authority.pem"
[[routes]]
path = "/v1/*"
provider = "p"
[providers.p]
kind = "openai"
endpoints = ["https://localhost:9"]
tls_ca_file = "test-authority.pem"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Read with good files."""
    Authority(tmp_path).server()
    (tmp_path / "c.toml").write_text(CONFIG)
    return load_config(str(tmp_path / "c.toml"), environ={"SECRET": "s" * 32})


@pytest.mark.parametrize("becomes", ["half of it", None])
def test_a_worker_that_starts_later_needs_no_file(settings: Settings, tmp_path: Path, becomes: str | None) -> None:
    for file in tmp_path.iterdir():
        if becomes is None:
            file.unlink()
        else:
            file.write_text(becomes)
    told: Settings = pickle.loads(pickle.dumps(settings))
    context = server_tls(told)
    assert context is not None
    (provider,) = told.providers
    assert provider.tls_ca is not None
    assert trusting(provider.tls_ca).cert_store_stats()["x509_ca"] == 1
    assert told.store is not None
    assert store_tls(told.store) is not None
    (issuer,) = told.auth.issuers
    assert issuer.ca is not None
    assert trusting(issuer.ca).cert_store_stats()["x509_ca"] == 1


def test_nothing_shows_what_is_in_a_key(settings: Settings) -> None:
    assert settings.tls is not None
    assert "PRIVATE" not in repr(settings) + str(plain(settings))
    assert plain(settings.tls) == {"cert_file": settings.tls.cert_file, "key_file": settings.tls.key_file}


def test_a_renewal_is_no_change_of_settings(settings: Settings, tmp_path: Path) -> None:
    Authority(tmp_path).server()
    renewed = load_config(str(tmp_path / "c.toml"), environ={"SECRET": "s" * 32})
    assert settings.tls is not None
    assert renewed.tls is not None
    assert renewed.tls.cert != settings.tls.cert
    assert not compare(settings, renewed)


def test_what_is_no_certificate_is_refused() -> None:
    with pytest.raises(ssl.SSLError):
        trusting(Pem(b"half of it"))
