"""`[rate_limiting]` and `[prices]`: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from budgateway.cli.main import cli
from budgateway.config.load import load_config
from budgateway.errors import ConfigError
from budgateway.records import Allowance, ModelPrice, RateLimit, Settings

ROUTES = """
[[routes]]
name = "chat"
path = "/v1/*"
provider = "a"
auth_required = false
[providers.a]
kind = "openai"
"""
OWN = 'endpoints = ["http://own:8000"]\n'
HOSTED = 'endpoints = ["https://api.openai.com"]\napi_key = "env:KEY"\n'


def settings(tmp_path: Path, text: str, endpoints: str = OWN) -> Settings:
    path = tmp_path / "gateway.toml"
    path.write_text(ROUTES + endpoints + text)
    return load_config(path, environ={"KEY": "k"})


def problems(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text)
    return "\n".join(caught.value.problems)


def test_a_rule_becomes_a_record(tmp_path: Path) -> None:
    (rule,) = settings(
        tmp_path,
        """
        [[rate_limiting.rules]]
        by = ["user", "model"]
        routes = ["ch*"]
        models = ["gpt-*"]
        tenants = ["acme"]
        roles = ["intern"]
        requests_per_hour = 60
        burst = 7
        tokens_per_day = 1000
        concurrency = 2
        budget_usd = 1.5
        budget_period = "week"
        """,
    ).limit_rules
    assert rule.name == "user+model; routes ch*; models gpt-*; tenants acme; roles intern"
    assert (rule.by, rule.routes, rule.models, rule.tenants, rule.roles) == (
        ("user", "model"),
        ("ch*",),
        ("gpt-*",),
        ("acme",),
        ("intern",),
    )
    assert rule.allowance == Allowance(
        requests_per_hour=60, burst=7, tokens_per_day=1000, concurrency=2, budget_usd=1.5, budget_period="week"
    )


@pytest.mark.parametrize(
    ("table", "overall"),
    [
        ("[rate_limiting]", RateLimit(1000, 100)),
        ("[rate_limiting]\nburst_capacity = 5", RateLimit(1000, 5)),
        ("[rate_limiting]\nenabled = false", None),
        ('[[rate_limiting.rules]]\nby = "global"\nconcurrency = 1', None),
        (
            '[rate_limiting]\nrequests_per_minute = 9\n[[rate_limiting.rules]]\nby = "key"\nconcurrency = 1',
            RateLimit(9, 1),
        ),
    ],
)
def test_the_rate_over_all_routes(tmp_path: Path, table: str, overall: RateLimit | None) -> None:
    assert settings(tmp_path, table).rate_limit == overall


@pytest.mark.parametrize(
    ("table", "own", "burst"),
    [
        ("", "", 60),
        ("", "burst_capacity = 7", 7),
        ("[rate_limiting]", "", 60),
        ("[rate_limiting]\nburst_capacity = 100", "", 100),
        ("[rate_limiting]\nburst_capacity = 100", "burst_capacity = 7", 7),
        ("[rate_limiting]\nburst_capacity = 1000", "", 600),
        ("[rate_limiting]\nburst_capacity = 1000", "burst_capacity = 2000", 2000),
        ("[rate_limiting]\nburst_capacity = 100\nenabled = false", "", 60),
    ],
)
def test_the_burst_of_a_routes_rate(tmp_path: Path, table: str, own: str, burst: int) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        f'[providers.a]\nkind = "vllm"\nendpoints = ["http://a"]\n{table}\n'
        f'[[routes]]\npath = "/x"\nprovider = "a"\nauth_required = false\nrate_limit = 600\n{own}\n'
    )
    (route,) = load_config(path, environ={}).routes
    assert route.rate_burst == burst
    shown = CliRunner().invoke(cli, ["routes", "match", "POST", "/x", "--explain", "-c", str(path)]).output
    assert f"600 requests a minute for each client, burst {burst}" in shown


def test_a_table_that_is_off_has_no_rules(tmp_path: Path) -> None:
    table = '[rate_limiting]\nenabled = false\n[[rate_limiting.rules]]\nby = "user"\nconcurrency = 1'
    assert settings(tmp_path, table).limit_rules == ()


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ('by = "user"', "limits nothing"),
        ('by = ["user", "user"]\nconcurrency = 1', "names something twice"),
        ('by = ["global", "user"]\nconcurrency = 1', "cannot be combined"),
        ("by = []\nconcurrency = 1", 'write "global"'),
        ('by = "user"\nconcurrency = 1\nroutes = ["chad"]', "did you mean"),
        ('by = "user"\nconcurrency = 1\nburst = 2', "no effect without a rate"),
        ('by = "user"\nconcurrency = 1\nbudget_period = "day"', "no effect without budget_usd"),
        ('by = "user"\nconcurrency = 0', "concurrency"),
        ('by = "user"\nbudget_usd = -1', "budget_usd"),
        ('by = "usr"\nconcurrency = 1', "user"),
    ],
)
def test_a_rule_that_cannot_be_meant(tmp_path: Path, rule: str, complaint: str) -> None:
    assert complaint in problems(tmp_path, f"[[rate_limiting.rules]]\n{rule}")


def test_two_rules_of_one_name_are_refused(tmp_path: Path) -> None:
    rule = '[[rate_limiting.rules]]\nby = "user"\nconcurrency = 1\n'
    assert "give it another name" in problems(tmp_path, rule + rule)


def test_a_state_file_needs_its_folder(tmp_path: Path) -> None:
    assert "there is no folder" in problems(tmp_path, '[rate_limiting]\nstate_file = "nowhere/limits.json"')
    kept = settings(tmp_path, '[rate_limiting]\nstate_file = "limits.json"').limits.state_file
    assert kept == str((tmp_path / "limits.json").resolve())


def test_prices_of_the_operators_own(tmp_path: Path) -> None:
    prices = settings(
        tmp_path, '[prices.models]\n"llama-*" = { input = 0.2, output = 0.6, max_output_tokens = 9 }'
    ).prices
    assert prices == (ModelPrice("llama-*", 0.2, 0.6, 0.2, max_output_tokens=9),)


def test_prices_that_are_known_of_a_hosted_service(tmp_path: Path) -> None:
    own = '[prices.models]\n"gpt-4o" = { input = 1 }\n'
    first, *known = settings(tmp_path, own, HOSTED).prices
    assert (first.model, first.provider, first.input) == ("gpt-4o", "", 1)
    (mini,) = [price for price in known if price.model == "gpt-4o-mini"]
    assert mini.provider == "a"
    assert 0 < mini.cached < mini.input < mini.output
    assert len({(price.provider, price.model) for price in known}) == len(known)


def test_self_hosted_models_cost_nothing_unless_said(tmp_path: Path) -> None:
    assert settings(tmp_path, "").prices == ()
    assert settings(tmp_path, "[prices]\nknown = false", HOSTED).prices == ()
