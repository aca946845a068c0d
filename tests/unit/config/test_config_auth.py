"""`[auth]`: what it becomes, and that every mistake in it is said with its place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tokens import SECRET, own, pem

from budgateway import load_config
from budgateway.cli.main import cli
from budgateway.errors import ConfigError
from budgateway.records import Auth, ClaimPaths, Settings

BASE = """
[providers.vllm]
endpoints = ["http://h"]
[[routes]]
name = "chat"
path = "/v1/chat/completions"
provider = "vllm"
[[routes]]
path = "/v1/*"
provider = "vllm"
"""
ENVIRON = {"CORP_SECRET": "s" * 32, "SHORT": "s" * 31, "JWT_SECRET": SECRET}


def load(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "corp.pem").write_text(pem("rsa"))
    (tmp_path / "weak.pem").write_text(pem("rsa1024"))
    (tmp_path / "one.toml").write_text(text + BASE)
    return load_config(tmp_path / "one.toml", environ=ENVIRON)


def issuer(more: str, audience: str = 'audience = "gw"') -> str:
    return f'[[auth.issuers]]\nissuer = "https://corp.example/realm"\n{audience}\n{more}\n'


def test_an_issuer_becomes_a_record(tmp_path: Path) -> None:
    text = issuer(
        'public_key_file = "corp.pem"\nalgorithms = ["RS256", "PS256"]\nclock_skew = 5\ntenant = "t"\nroles = "a"\n'
        'group_roles = { ops = ["b", "c"] }\nclaims = { user = "email", roles = "realm_access.roles" }'
    )
    (made,) = load(tmp_path, text).auth.issuers
    assert (made.name, made.issuer, made.algorithms) == (
        "corp.example",
        "https://corp.example/realm",
        ("RS256", "PS256"),
    )
    assert (made.audience, made.any_audience, made.leeway_s, made.tenant) == (("gw",), False, 5.0, "t")
    assert made.public_keys == pem("rsa")
    assert (made.roles, made.group_roles) == (("a",), (("ops", ("b", "c")),))
    assert made.claims == ClaimPaths(user="email", roles="realm_access.roles")
    (by_discovery,) = load(tmp_path, issuer("discovery = true")).auth.issuers
    assert by_discovery.discovery_url == "https://corp.example/realm/.well-known/openid-configuration"
    assert by_discovery.algorithms == ("RS256",)
    (by_secret,) = load(tmp_path, issuer('secret = "env:CORP_SECRET"')).auth.issuers
    assert (by_secret.algorithms, repr(by_secret.secret)) == (("HS256",), "***")
    (any_audience,) = load(tmp_path, issuer("discovery = true", 'audience = "*"')).auth.issuers
    assert (any_audience.audience, any_audience.any_audience) == ((), True)
    (local,) = load(tmp_path, issuer('jwks_url = "http://127.0.0.1:9/keys"')).auth.issuers
    assert local.jwks_url == "http://127.0.0.1:9/keys"


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        (issuer(""), "auth.issuers[0]", "needs one of secret, public_key_file, jwks_url, discovery"),
        (issuer('discovery = true\nsecret = "env:CORP_SECRET"'), "auth.issuers[0]", "secret and discovery"),
        (issuer('secret = "env:SHORT"'), "auth.issuers[0].secret", "too short: 31 bytes, HS256 needs at least 32"),
        (issuer('secret = "env:CORP_SECRET"\nalgorithms = "HS512"'), "auth.issuers[0].secret", "at least 64"),
        (issuer('secret = "literally"'), "auth.issuers[0].secret", "never the secret itself"),
        (
            issuer('secret = "env:CORP_SECRET"\nalgorithms = ["HS256", "RS256"]'),
            "auth.issuers[0].algorithms",
            "never both",
        ),
        (
            issuer('secret = "env:CORP_SECRET"\nalgorithms = "RS256"'),
            "auth.issuers[0].algorithms",
            "do not go with secret",
        ),
        (issuer('public_key_file = "corp.pem"\nalgorithms = "HS256"'), "auth.issuers[0].algorithms", "public_key_file"),
        (issuer('discovery = true\nalgorithms = "none"'), "auth.issuers[0].algorithms[0]", "no such algorithm"),
        (issuer('discovery = true\nalgorithms = "rs256"'), "auth.issuers[0].algorithms[0]", "did you mean 'RS256'"),
        (issuer('public_key_file = "weak.pem"'), "auth.issuers[0].public_key_file", "2048"),
        (issuer('public_key_file = "one.toml"'), "auth.issuers[0].public_key_file", "no PEM block"),
        (issuer('public_key_file = "gone.pem"'), "auth.issuers[0].public_key_file", "no such file"),
        (issuer('public_key_file = "corp.pem"\nalgorithms = "ES256"'), "auth.issuers[0].public_key_file", "suits none"),
        (issuer('jwks_url = "http://corp.example/keys"'), "auth.issuers[0].jwks_url", "https://"),
        (issuer('jwks_url = "http://169.254.169.254/"'), "auth.issuers[0].jwks_url", "https://"),
        (issuer('jwks_url = "https://u:p@corp.example/keys"'), "auth.issuers[0].jwks_url", "no credentials"),
        (issuer('jwks_url = "file:///etc/passwd"'), "auth.issuers[0].jwks_url", "http"),
        (issuer("discovery = true", "audience = []"), "auth.issuers[0].audience", "must name at least one"),
        (issuer("discovery = true", 'audience = ["*", "x"]'), "auth.issuers[0].audience", "leave out"),
        (issuer("discovery = true", ""), "auth.issuers[0].audience", "is required"),
        (issuer("discovery = true") * 2, "auth.issuers[1].issuer", "issuers[0]'s already"),
        (issuer("discovery = true\nclock_skew = 601"), "auth.issuers[0].clock_skew", "at most 600"),
        (issuer("discovery = true\naudiences = 1"), "auth.issuers[0].audiences", "did you mean 'audience'"),
        (
            '[[auth.issuers]]\nissuer = "corp"\naudience = "x"\ndiscovery = true\n',
            "auth.issuers[0].issuer",
            "discovery needs a URL",
        ),
        ('[[auth.roles]]\nname = "r"\nroutes = ["chatt"]\n', "auth.roles[0].routes[0]", "did you mean 'chat'"),
        ('[[auth.roles]]\nname = "r"\nroutes = ["/v2/*"]\n', "auth.roles[0].routes[0]", "no route is called '/v2/*'"),
        ('[[auth.roles]]\nname = "r"\nmethods = ["FETCH"]\n', "auth.roles[0].methods[0]", "no such method"),
        ('[[auth.roles]]\nname = "a b"\n', "auth.roles[0].name", ""),
        ('[[auth.roles]]\nname = "r"\n[auth.tenants.t]\nroles = ["q"]\n', "auth.tenants.t.roles[0]", "no role 'q'"),
        (
            '[[auth.roles]]\nname = "chat"\n' + issuer('discovery = true\nroles = "chta"'),
            "auth.issuers[0].roles[0]",
            "'chat'",
        ),
        ('[auth]\nkeys_file = "no/such/folder.json"\n', "auth.keys_file", "cannot be a file"),
    ],
)
def test_a_mistake_is_said_with_its_place(tmp_path: Path, text: str, place: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert len(caught.value.problems) == 1, caught.value.problems
    (problem,) = caught.value.problems
    assert f"{place}:" in problem
    assert says in problem
    assert ENVIRON["CORP_SECRET"] not in problem


def test_a_role_means_routes_by_name_and_by_path(tmp_path: Path) -> None:
    text = "".join(
        f'[[auth.roles]]\nname = "r{number}"\nroutes = {patterns}\n'
        for number, patterns in enumerate((["chat"], ["c*"], ["/v1/*"], ["/v1/chat/completions"], ["*"], []))
    )
    routes = [grant.routes for grant in load(tmp_path, text).auth.grants]
    assert routes == [("chat",), ("chat",), ("chat", "/v1/*"), ("chat",), ("*",), ()]


def test_something_must_be_able_to_check_a_credential(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(BASE)
    with pytest.raises(ConfigError, match="nothing can authenticate"):
        load_config(tmp_path / "one.toml", environ={})
    for text in ('[auth]\nkeys_file = "keys.json"\n', issuer('jwks_url = "https://x/y"')):
        (tmp_path / "one.toml").write_text(text + BASE)
        assert load_config(tmp_path / "one.toml", environ={}).auth != Auth()


def test_there_is_no_secret_that_nobody_set(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(BASE.replace('provider = "vllm"', 'provider = "vllm"\nauth_required = false'))
    settings = load_config(tmp_path / "one.toml", environ={})
    assert settings.jwt_secret is None
    assert settings.auth == Auth()


# ---------------------------------------------------------------- the commands


def run(tmp_path: Path, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [*words, "-c", str(tmp_path / "one.toml")], env=ENVIRON)
    return result.exit_code, result.output


ACCESS = """
[auth]
keys_file = "keys.json"
[[auth.roles]]
name = "chat"
routes = ["chat"]
models = ["gpt-*"]
[[auth.roles]]
name = "auditor"
routes = []
admin = ["read"]
"""


def test_access_is_explained(tmp_path: Path) -> None:
    load(tmp_path, ACCESS)
    ask = ("check-access", "POST", "/v1/chat/completions")
    status, told = run(tmp_path, *ask, "--model", "gpt-4o", "--role", "chat")
    assert (status, "route      chat" in told, "allowed: granted by the role 'chat'" in told) == (0, True, True)
    status, told = run(tmp_path, *ask, "--model", "o3", "--role", "chat")
    assert (status, "denied: the role 'chat' allows the models gpt-*, not the model 'o3'" in told) == (1, True)
    status, told = run(tmp_path, *ask, "--role", "chat")
    assert (status, "a model that the gateway cannot see" in told) == (1, True)
    assert run(tmp_path, *ask, "--model", "gpt-4o", "--token", own(roles=["chat"], sub="ada"))[0] == 0
    assert "the token is refused: it has expired" in run(tmp_path, *ask, "--token", own(exp=1))[1]
    assert "denied: it needs a credential" in run(tmp_path, *ask)[1]
    assert run(tmp_path, "check-access", "GET", "/nowhere", "--role", "chat")[0] == 1
    assert run(tmp_path, "check-access", "GET", "/admin/stats", "--role", "auditor")[0] == 0
    assert run(tmp_path, "check-access", "POST", "/admin/keys", "--role", "auditor")[0] == 1
    assert run(tmp_path, *ask, "--role", "chat", "--token", "x")[0] == 2


def test_access_to_the_gateways_own_paths_is_explained(tmp_path: Path) -> None:
    load(tmp_path, ACCESS)

    def decided(path: str, *words: str) -> tuple[int, str]:
        status, told = run(tmp_path, "check-access", "GET", path, *words)
        assert "route      none of the configuration: the gateway answers this itself" in told
        return status, told.rpartition("decision   ")[2].strip()

    assert decided("/health") == (0, "allowed: the route is open to anyone")
    assert decided("/v1/models") == (1, "denied: it needs a credential")
    assert decided("/v1/models", "--role", "chat") == (0, "allowed: it lists the models that this principal may use")
    assert decided("/metrics") == (1, "denied: it needs a credential, except from this machine")
    assert decided("/metrics", "--role", "admin") == (0, "allowed: granted by the role 'admin'")
    assert decided("/metrics", "--role", "chat")[0] == 1
    assert decided("/admin/stats", "--role", "auditor") == (0, "allowed: granted by the role 'auditor'")


def test_keys_are_managed_in_the_file_of_the_configuration(tmp_path: Path) -> None:
    load(tmp_path, ACCESS)
    status, told = run(tmp_path, "keys", "create", "build", "--role", "chat", "--model", "gpt-4o", "--expires", "30d")
    assert status == 0
    secret = next(line for line in told.splitlines() if line.startswith("bg-"))
    ask = ("check-access", "POST", "/v1/chat/completions", "--key", secret, "--model")
    assert [run(tmp_path, *ask, model)[0] for model in ("gpt-4o", "gpt-4", "o3")] == [0, 1, 1]
    status, told = run(tmp_path, "keys", "list")
    assert ("build" in told, "active" in told, secret[:8] in told, secret in told) == (True, True, True, False)
    assert "denied" not in run(tmp_path, "keys", "update", "build", "--model", "gpt-*")[1]
    assert run(tmp_path, *ask, "gpt-4")[0] == 0
    rotated = run(tmp_path, "keys", "rotate", "build")[1]
    assert run(tmp_path, *ask, "gpt-4")[1] == "error: the key is unknown, disabled or expired\n"
    assert rotated.startswith("bg-")
    assert "disabled" in run(tmp_path, "keys", "disable", "build")[1]
    assert "active" in run(tmp_path, "keys", "enable", "build")[1]
    assert run(tmp_path, "keys", "delete", "build") == (0, "deleted build\n")
    assert run(tmp_path, "keys", "show", "build") == (1, "error: no key is called 'build'\n")
    assert "a key's name is" in run(tmp_path, "keys", "create", "a b")[1]
    (tmp_path / "keys.json").write_text("{")
    assert "the keys cannot be read" in run(tmp_path, "keys", "list")[1]


def test_a_token_says_what_it_was_asked_to(tmp_path: Path) -> None:
    load(tmp_path, ACCESS)
    words = ("--sub", "ada", "--role", "chat", "--tenant", "t", "--model", "gpt-4o", "--group", "g")
    status, told = run(tmp_path, "token", *words)
    assert status == 0
    status, told = run(
        tmp_path, "check-access", "POST", "/v1/chat/completions", "--token", told.strip(), "--model", "gpt-4"
    )
    assert "principal  jwt:own:ada of tenant t" in told
    assert "its credential allows the models gpt-4o" in told


def test_no_command_imports_what_it_does_not_need() -> None:
    import subprocess

    script = "import sys, budgateway.cli.main; print('jwt' in sys.modules, 'cryptography' in sys.modules, 'pydantic' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout == "False False False\n"
