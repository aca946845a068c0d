"""Whatever is written, loading it gives Settings or ConfigError: nothing else, and no secret in what it says."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from budgateway.config import schema
from budgateway.config.assemble import settings_from
from budgateway.config.source import Source
from budgateway.errors import ConfigError
from budgateway.records import Settings

PLANTED = "planted-secret"
URLS = st.sampled_from(
    ["http://localhost:8000", "https://h/v1", "ftp://h", f"http://u:{PLANTED}@h", "h:1", "http://[::1]", ""]
)
WORDS = st.sampled_from(
    ["vllm", "openai", "POST", "*", "/v1/*", "/a/{x}", "/{", "env:KEY", "file:nope", "10MB", "random", "a b"]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-10, 100_000)
    | st.sampled_from([10**30, -(2**63)])
    # Written in hexadecimal such a number passes int()'s limit, and cannot be printed.
    | st.just(5000).map(lambda digits: 10**digits)
    | st.floats()
    | WORDS
    | URLS
    | st.text(max_size=8)
    | st.dates()
)


def values(keys: st.SearchStrategy[str]) -> st.SearchStrategy[object]:
    """Anything TOML can hold, biased to keys that mean something."""
    return st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=5), inner, max_size=4),
        max_leaves=8,
    )


def table(model: type[schema.Table]) -> st.SearchStrategy[object]:
    """A table with some of its model's keys, well filled or not."""
    keys = st.sampled_from(sorted(model.model_fields))
    return st.dictionaries(keys, values(keys), max_size=5) | values(keys)


GOOD_ROUTE = st.fixed_dictionaries(
    {"path": st.sampled_from(["/v1/*", "/a", "/b/{x}"]), "provider": st.sampled_from(["vllm", "openai", "x"])},
    optional={"auth_required": st.booleans(), "models": WORDS, "method": WORDS, "rate_limit": st.integers(0, 9)},
)
GOOD_PROVIDER = st.fixed_dictionaries(
    {"endpoints": st.lists(URLS, max_size=2)},
    optional={"api_key": WORDS, "kind": WORDS, "headers": st.dictionaries(WORDS, WORDS, max_size=2)},
)
TABLES = st.fixed_dictionaries(
    {},
    optional={
        **{name: table(model) for name, model in schema.SECTIONS.items()},
        "routes": st.lists(GOOD_ROUTE | table(schema.RouteConfig), max_size=3) | LEAVES,
        "providers": st.dictionaries(
            st.sampled_from(["vllm", "openai", "x"]) | st.text(max_size=4),
            GOOD_PROVIDER | table(schema.ProviderConfig),
            max_size=2,
        )
        | LEAVES,
        "gatewy": LEAVES,
    },
)
VARIABLES = [
    "GATEWAY_HOST", "GATEWAY_PORT", "WORKERS", "LOG_LEVEL", "REDIS_URL", "REDIS_POOL_SIZE", "JWT_SECRET", "JWT_EXPIRATION",
    "ENABLE_METRICS", "METRICS_PORT", "ENABLE_TRACING", "VLLM_ENDPOINTS", "SGLANG_ENDPOINTS", "OPENAI_API_KEY", "KEY",
]  # fmt: skip
ENVIRON = st.dictionaries(
    st.sampled_from(VARIABLES),
    st.text(max_size=6) | URLS | WORDS | st.sampled_from(["1", "true", "\udc80", "x" * 32]),
    max_size=4,
)


@given(TABLES, ENVIRON, st.booleans())
def test_any_configuration_is_settings_or_a_config_error(
    tables: dict[str, object], environ: dict[str, str], alone: bool
) -> None:
    source = Source(
        tables={} if alone else tables,
        places={(name,): "c.toml" for name in tables},
        folder=Path(),
        alone=alone,
    )
    try:
        settings = settings_from(source, environ)
    except ConfigError as error:
        assert error.problems
        assert len(set(error.problems)) == len(error.problems)
        assert PLANTED not in str(error)
    else:
        assert isinstance(settings, Settings)
        names = {provider.name for provider in settings.providers}
        assert settings.routes
        assert all(route.provider in names for route in settings.routes)
        assert len({route.name for route in settings.routes}) == len(settings.routes)
