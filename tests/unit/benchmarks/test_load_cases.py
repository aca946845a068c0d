"""The cases of the load comparison: their set-ups, their clients, and the gateway's configuration for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jwt
import pytest

from budgateway import load_config
from budgateway.records import Settings

ROOT = Path(__file__).parents[3]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The benchmarks' modules; the checkout is last on the path, so that an installed gateway is the one that is tested."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    from benchmarks.load import cases, setups
    from benchmarks.load.peers import base, budgateway

    yield SimpleNamespace(cases=cases, setups=setups, base=base, budgateway=budgateway)
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


def test_a_case_with_tokens_is_spread_over_users_and_models(load: SimpleNamespace) -> None:
    (everything,) = load.cases.named(["everything"])
    names = [case.name for case in everything.spread([1, 2_000], [1, 30])]
    assert names == ["everything", "everything-30-models", "everything-2000-users", "everything-2000-users-30-models"]
    last = everything.spread([2_000], [30])[0]
    assert (last.setup.users, last.setup.models, last.setup.features) == (2_000, 30, everything.setup.features)
    assert last.options == everything.options
    (small,) = load.cases.named(["small"])
    assert small.spread([1, 2_000], [1, 30]) == [small]


def test_groups_name_several_cases_in_the_order_of_the_tables(load: SimpleNamespace) -> None:
    assert [case.name for case in load.cases.named(["jwt", "standard"])][-2:] == ["rate", "jwt"]
    assert load.cases.named(["all"]) == list(load.cases.CASES)
    assert len({case.name for case in load.cases.CASES}) == len(load.cases.CASES)
    with pytest.raises(KeyError):
        load.cases.named(["nothing"])


def test_each_user_has_a_token_of_its_own(load: SimpleNamespace, tmp_path: Path) -> None:
    clients = load.setups.Clients(tmp_path)
    options = clients.options(load.setups.Setup(load.setups.EVERYTHING, users=20, models=3), {}, seed=7)
    tokens = Path(options[options.index("--tokens") + 1]).read_text().split()
    subjects = {jwt.decode(token, clients.secret, algorithms=["HS256"])["sub"] for token in tokens}
    assert len(tokens) == len(subjects) == 20
    names = Path(options[options.index("--models") + 1]).read_text().split()
    assert len(names) == 3 and {len(name) for name in names} == {len(load.setups.MODEL)}
    assert len(load.setups.ALIAS) == len(load.setups.MODEL)
    assert options[options.index("--seed") + 1] == "7"
    assert "x-forwarded-for: 203.0.113.7" in options


def test_a_gateway_with_a_credential_of_its_own_gets_no_other(load: SimpleNamespace, tmp_path: Path) -> None:
    clients = load.setups.Clients(tmp_path)
    setup = load.setups.Setup(("jwt", "limits"), users=20, models=3)
    assert clients.options(setup, {"authorization": "Bearer own"}, seed=1) == ["--header", "authorization: Bearer own"]


def test_the_gateway_has_the_features_that_the_table_names(load: SimpleNamespace, tmp_path: Path) -> None:
    def configured(*features: str, models: int = 1) -> Settings:
        setup = load.setups.Setup(features, models=models)
        launch = load.base.Launch("http://127.0.0.1:9000", 8080, tmp_path, setup, "s" * 32)
        file = launch.write("gateway.toml", load.budgateway.configuration(launch))
        return load_config(file, environ={"JWT_SECRET": launch.secret})

    bare = configured()
    assert not bare.limit_rules and not bare.routes[0].auth_required and not bare.prices
    everything = configured(*load.setups.EVERYTHING, models=3)
    (rule,) = everything.limit_rules
    allowed = rule.allowance
    assert rule.by == ("user",)
    assert allowed.requests_per_minute and allowed.tokens_per_minute and allowed.concurrency and allowed.budget_usd
    assert everything.routes[0].auth_required and everything.prices and everything.trusted_proxies
    assert everything.routes[0].models == ("bench-00000", "bench-00001", "bench-00002")
    assert dict(everything.providers[0].aliases) == dict.fromkeys(everything.routes[0].models, "bench-model")
    for feature in load.setups.FEATURES:
        assert configured("jwt", feature) is not None
