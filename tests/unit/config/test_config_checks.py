"""Checks: every problem at once, in words that say where it is and what would be right, and never a secret."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from budgateway.config.endpoint import parse_endpoint
from budgateway.config.load import load_config
from budgateway.errors import ConfigError
from budgateway.records import Provider, Route, Secret, Settings

ROUTE = '[[routes]]\npath = "/v1/*"\nprovider = "vllm"\nauth_required = false\n'
PROVIDER = '[providers.vllm]\nendpoints = ["http://localhost:8000"]\n'
PLANTED = "sk-planted-secret"


def load(text: str, folder: Path, environ: dict[str, str] | None = None) -> Settings:
    (folder / "c.toml").write_text(text)
    return load_config(folder / "c.toml", environ=environ or {})


def problems(text: str, folder: Path, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, folder, environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def only_route(text: str, folder: Path) -> Route:
    return load(ROUTE + text + PROVIDER, folder).routes[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # gateway
        ("[gatewy]\n" + ROUTE + PROVIDER, "c.toml: gatewy: unknown table; did you mean 'gateway'?"),
        ("[gateway]\nprot = 1\n" + ROUTE + PROVIDER, "c.toml: gateway.prot: unknown key; did you mean 'port'?"),
        ("[gateway]\nport = -1\n" + ROUTE + PROVIDER, "c.toml: gateway.port: must be at least 0, got -1"),
        (
            "[gateway]\naccess_log = 'stdot'\n" + ROUTE + PROVIDER,
            (
                "c.toml: gateway.access_log: must be stdout, stderr, off or a file's path such as ./access.log, got 'stdot'; "
                "did you mean 'stdout'?"
            ),
        ),
        (
            "[gateway]\naccess_log = '/nowhere/at/all.log'\n" + ROUTE + PROVIDER,
            "c.toml: gateway.access_log: there is no folder '/nowhere/at'",
        ),
        ("[gateway]\nport = '80'\n" + ROUTE + PROVIDER, "c.toml: gateway.port: must be a whole number, got '80'"),
        ("[gateway]\nport = 9090\n" + ROUTE + PROVIDER, "c.toml: gateway.port: 9090 is the port of [metrics]"),
        ("gateway = 3\n" + ROUTE + PROVIDER, "c.toml: gateway: must be a table, got 3"),
        (
            "[gateway]\nrequest_timeout = 0\n" + ROUTE + PROVIDER,
            "c.toml: gateway.request_timeout: must be greater than 0, got 0",
        ),
        (
            "[gateway]\nrequest_timeout = nan\n" + ROUTE + PROVIDER,
            "c.toml: gateway.request_timeout: must be a finite number, got nan",
        ),
        (
            "[gateway]\nhost = 'http://x'\n" + ROUTE + PROVIDER,
            "c.toml: gateway.host: must be an IP address or a host name without a port, got 'http://x'",
        ),
        (
            "[gateway]\nmax_body_size = '1XB'\n" + ROUTE + PROVIDER,
            'c.toml: gateway.max_body_size: must be a size such as 1048576, "10MB" or "1GB", got \'1XB\'',
        ),
        (
            "[gateway]\ntrusted_proxies = ['10.0.0.0/33']\n" + ROUTE + PROVIDER,
            "c.toml: gateway.trusted_proxies[0]: must be an IP address or a block such as 10.0.0.0/8, got '10.0.0.0/33'",
        ),
        # routes
        (PROVIDER, "c.toml: no [[routes]]: the gateway would answer nothing"),
        ("routes = 3\n" + PROVIDER, "c.toml: routes: must be tables [[routes]], got 3"),
        (
            ROUTE.replace('"vllm"', '"vlm"') + PROVIDER,
            "c.toml: routes[0].provider: no provider 'vlm'; did you mean 'vllm'?",
        ),
        (ROUTE.replace('path = "/v1/*"\n', "") + PROVIDER, "c.toml: routes[0].path: is required"),
        (ROUTE.replace("/v1", "v1") + PROVIDER, "c.toml: routes[0].path: must begin with '/', got 'v1/*'"),
        (ROUTE + "timout = 3\n" + PROVIDER, "c.toml: routes[0].timout: unknown key; did you mean 'timeout'?"),
        (ROUTE + '"[key]" = 1\n' + PROVIDER, "c.toml: routes[0].'[key]': unknown key"),
        (
            ROUTE.replace("/v1/*", "/a/{x") + PROVIDER,
            'c.toml: routes[0]: path "/a/{x": "{x": `*` and `{name}` must be a whole segment',
        ),
        (
            ROUTE + 'host = "*."\n' + PROVIDER,
            'c.toml: routes[0]: "*." is neither a host nor `*.` and a host',
        ),
        (ROUTE + ROUTE + PROVIDER, "c.toml: routes[1]: matches the same requests as routes[0] and would never be used"),
        (
            ROUTE.replace("/v1/*", "/a/{x}") + ROUTE.replace("/v1/*", "/a/{y}") + PROVIDER,
            "c.toml: routes[1]: matches the same requests as routes[0] and would never be used",
        ),
        (
            ROUTE + 'name = "a"\n' + ROUTE.replace("/v1/*", "/b") + 'name = "a"\n' + PROVIDER,
            "c.toml: routes[1].name: 'a' is the name of routes[0] already",
        ),
        (
            ROUTE + 'method = "PSOT"\n' + PROVIDER,
            "c.toml: routes[0].method[0]: no such method 'PSOT': one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, or * for all",
        ),
        (
            ROUTE + 'load_balancer = "least_conn"\n' + PROVIDER,
            (
                "c.toml: routes[0].load_balancer: must be one of round_robin, weighted, least_connections, random, "
                "power_of_two, least_load; "
                "got 'least_conn'; did you mean 'least_connections'?"
            ),
        ),
        (
            ROUTE + "timeout = 1\nfirst_byte_timeout = 2\n" + PROVIDER,
            "c.toml: routes[0].first_byte_timeout: timeout is another name for the same deadline: keep one",
        ),
        (
            ROUTE + "burst_capacity = 1\n" + PROVIDER,
            "c.toml: routes[0].burst_capacity: has no effect without rate_limit",
        ),
        (
            ROUTE + "rate_limit = 1\nburst_capacity = 1000000000\n" + PROVIDER,
            "c.toml: routes[0].burst_capacity: is too large for rate_limit: it would take decades to fill",
        ),
        (
            ROUTE + PROVIDER + "[rate_limiting]\nrequests_per_minute = 1\nburst_capacity = 1000000000\n",
            "c.toml: rate_limiting.burst_capacity: is too large for its rate: it would take decades to fill",
        ),
        (
            ROUTE + PROVIDER + '[[rate_limiting.rules]]\nby = "user"\nrequests_per_day = 1\nburst = 1000000\n',
            "c.toml: rate_limiting.rules[0].burst: is too large for its rate: it would take decades to fill",
        ),
        # providers
        (ROUTE + "[providers.vllm]\n", "c.toml: providers.vllm.endpoints: is required, or set VLLM_ENDPOINTS"),
        (
            ROUTE + PROVIDER.replace('"]', '", "http://LOCALHOST:8000/"]'),
            "c.toml: providers.vllm.endpoints[1].url: 'http://localhost:8000' is already an endpoint of this provider; use weight",
        ),
        (
            ROUTE + '[providers.vllm]\nendpoints = [{ url = "http://h", wieght = 1 }]',
            "c.toml: providers.vllm.endpoints[0].wieght: unknown key; did you mean 'weight'?",
        ),
        (
            ROUTE + '[providers.vllm]\nendpoints = [{ url = "http://h", weight = 0 }]',
            "c.toml: providers.vllm.endpoints[0].weight: must be at least 1, got 0",
        ),
        (
            ROUTE.replace("vllm", "vlm") + PROVIDER.replace("vllm", "vlm"),
            (
                "c.toml: providers.vlm.kind: is required, because 'vlm' is none of openai, vllm, sglang, litellm, anthropic, gemini, azure, ollama, llamacpp, tgi; did you mean 'vllm'? "
                '(kind = "openai" for any server with an OpenAI API)'
            ),
        ),
        (
            ROUTE.replace("vllm", "openai") + "[providers.openai]\n",
            'c.toml: providers.openai.api_key: api.openai.com needs a key: set OPENAI_API_KEY, or write api_key = "env:NAME"',
        ),
        (ROUTE + PROVIDER + 'api_key = "env:NOPE"\n', "c.toml: providers.vllm.api_key: the variable NOPE is not set"),
        (
            ROUTE + PROVIDER + 'api_key = "file:nope"\n',
            "c.toml: providers.vllm.api_key: cannot read 'nope': no such file or directory",
        ),
        (
            ROUTE + PROVIDER + 'forward_headers = ["Authorization"]\n',
            "c.toml: providers.vllm.forward_headers[0]: 'authorization' is never passed on to an upstream",
        ),
        (
            ROUTE + PROVIDER + 'headers = { Host = "x" }\n',
            "c.toml: providers.vllm.headers.host: the gateway writes this header itself",
        ),
        (
            ROUTE + PROVIDER + 'tls_ca_file = "nope"\n',
            "c.toml: providers.vllm.tls_ca_file: cannot read 'nope': no such file or directory",
        ),
        (
            ROUTE + PROVIDER + 'headers = { "a b" = "x" }\n',
            "c.toml: providers.vllm.headers.'a b': not a header's name: 'a b'",
        ),
        # What follows from a problem is not another one.
        (ROUTE + ROUTE + 'hots = "x"\n' + PROVIDER, "c.toml: routes[1].hots: unknown key; did you mean 'host'?"),
        (
            ROUTE.replace("vllm", "mine") + PROVIDER.replace("vllm", "mine") + 'kind = "vlm"\n',
            (
                "c.toml: providers.mine.kind: must be one of openai, vllm, sglang, litellm, anthropic, gemini, azure, ollama, llamacpp, tgi; got 'vlm'; "
                "did you mean 'vllm'?"
            ),
        ),
        (
            ROUTE.replace("vllm", "openai") + "[providers.openai]\nendpoints = []\n",
            "c.toml: providers.openai.endpoints: is required",
        ),
        # elsewhere
        (ROUTE + PROVIDER + '[tls]\ncert_file = "c"\n', "c.toml: tls.key_file: is required"),
        (
            ROUTE + PROVIDER + '[redis]\nurl = "http://x"\n',
            "c.toml: redis.url: must begin with redis://, rediss:// or unix://",
        ),
        (ROUTE + PROVIDER + '[cache]\nmax_memory = "0"\n', "c.toml: cache.max_memory: must be at least 1, got 0"),
    ],
)
def test_one_problem_is_said_once_and_well(text: str, expected: str, tmp_path: Path) -> None:
    assert problems(text, tmp_path) == [expected]


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    text = (
        '[gateway]\nport = 99999\nhots = "x"\n'
        '[[routes]]\npath = "v1"\nprovider = "vlm"\n'
        '[[routes]]\npath = "/a"\nprovider = "mine"\nrate_limit = true\nauth_required = false\n'
        '[providers.vllm]\nendpoints = [{ url = "ftp://h" }, { weight = 0 }]\napi_key = "env:NOPE"\n'
        "[providers.mine]\n[tracing]\nenabled = 3\n"
    )
    connection_count = [line.partition(": ")[2].partition(": ")[0] for line in problems(text, tmp_path)]
    assert sorted(connection_count) == sorted(
        [
            "gateway.port",
            "gateway.hots",
            "routes[0].path",
            "routes[0].provider",
            "routes[1].rate_limit",
            "providers.vllm.endpoints[0].url",
            "providers.vllm.endpoints[1].url",
            "providers.vllm.endpoints[1].weight",
            "providers.vllm.api_key",
            "providers.mine.kind",
            "providers.mine.endpoints",
            "tracing.enabled",
        ]
    )


def test_routes_that_nobody_could_use_are_one_problem(tmp_path: Path) -> None:
    locked = '[[routes]]\npath = "/{}"\nprovider = "vllm"\n'
    (problem,) = problems("".join(locked.format(n) for n in "abc") + PROVIDER, tmp_path)
    assert problem.startswith("c.toml: routes[0].auth_required: ")
    assert "(also routes[1], routes[2])" in problem
    settings = load(locked.format("a") + PROVIDER, tmp_path, {"JWT_SECRET": "x" * 32})
    assert settings.jwt_secret == Secret("x" * 32)


@pytest.mark.parametrize(
    "text",
    [
        PROVIDER + f'api_key = "{PLANTED}"\n',
        PROVIDER + f'api_key = ["{PLANTED}"]\n',
        PROVIDER + f'headers = {{ x-api-key = "{PLANTED}" }}\n',
        PROVIDER + f'headers = {{ x-my-token = "{PLANTED}" }}\n',
        PROVIDER + f'[auth]\njwt_secret = "{PLANTED}"\n',
        PROVIDER + f'[redis]\nurl = "redis://:{PLANTED}@h"\n',
        PROVIDER + f'[gateway]\nhost = "http://u:{PLANTED}@h"\n',
        f'[providers.vllm]\nendpoints = ["http://u:{PLANTED}@h"]\n',
        f'[providers.vllm]\nendpoints = ["http://h/?key={PLANTED}"]\n',
        f'[providers.vllm]\nendpoints = ["http://h/#{PLANTED}"]\n',
        f'[providers.vllm]\nendpoints = ["{PLANTED}@h"]\n',
        f'[providers.vllm]\nendpoints = [{{ url = "u:{PLANTED}@h" }}]\n',
        PROVIDER
        + f'api_key = "env:A"\n[providers.vllm.headers]\nx-key = "file:a"\n[auth]\njwt_secret = "env:A"\n# {PLANTED}',
    ],
)
def test_no_problem_shows_a_secret(text: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(f"{PLANTED}\n{PLANTED}")
    with pytest.raises(ConfigError) as caught:
        load(ROUTE + text, tmp_path, {"A": f"{PLANTED}\n{PLANTED}"[:31]})
    chain = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert not [link for link in chain if PLANTED in repr(link) or PLANTED in str(link)]
    assert PLANTED not in caught.value.hint


def test_secrets_are_read_where_references_point(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    text = PROVIDER + 'api_key = "file:key"\n[providers.vllm.headers]\nx-team = "blue"\nx-api-key = "env:KEY"\n'
    provider = load(ROUTE + text, tmp_path, {"KEY": "from-env"}).providers[0]
    assert provider.api_key == Secret("from-file")
    assert dict(provider.headers) == {"x-team": Secret("blue"), "x-api-key": Secret("from-env")}
    assert "from-" not in repr(provider)


def test_a_secret_that_no_header_can_carry_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(ROUTE + PROVIDER + 'api_key = "env:KEY"\n', tmp_path, {"KEY": "two\nlines"})
    assert problem.startswith("c.toml: providers.vllm.api_key: the secret holds characters that no header can carry")


def test_keys_go_to_the_provider_of_their_name_and_openais_to_openai_alone(tmp_path: Path) -> None:
    environ = {"OPENAI_API_KEY": "sk", "VLLM_API_KEY": "vk"}
    assert load(ROUTE + PROVIDER, tmp_path, environ).providers[0].api_key == Secret("vk")
    local = (ROUTE + PROVIDER).replace("vllm", "openai")
    assert load(local, tmp_path, environ).providers[0].api_key is None
    assert load(local + 'api_key = "env:OPENAI_API_KEY"', tmp_path, environ).providers[0].api_key == Secret("sk")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
def test_a_certificate_and_its_key_must_be_a_pair(tmp_path: Path) -> None:
    for name in ("a", "b"):
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-subj",
                "/CN=x",
                "-keyout",
                str(tmp_path / f"{name}.key"),
                "-out",
                str(tmp_path / f"{name}.pem"),
            ],
            check=True,
            capture_output=True,
        )
    text = ROUTE + PROVIDER + '[tls]\ncert_file = "a.pem"\nkey_file = "{}.key"\n'
    tls = load(text.format("a"), tmp_path).tls
    assert tls is not None
    assert tls.cert_file == str(tmp_path / "a.pem")
    (problem,) = problems(text.format("b"), tmp_path)
    assert problem.startswith("c.toml: tls: cert_file and key_file are not a pair of PEM files: ")


def test_deadlines_come_from_the_route_then_the_provider_then_the_gateway(tmp_path: Path) -> None:
    head = "[gateway]\nrequest_timeout = 11\nconnect_timeout = 12\nchunk_timeout = 13\ntotal_timeout = 14\n"
    settings = load(head + ROUTE + "timeout = 21\n" + PROVIDER + "connect_timeout = 22\n", tmp_path)
    timeouts = settings.routes[0].timeouts
    assert (timeouts.first_byte_s, timeouts.connect_s, timeouts.chunk_s, timeouts.total_s) == (21, 22, 13, 14)
    assert settings.providers[0].connect_timeout_s == 22
    assert load(head + ROUTE + PROVIDER, tmp_path).routes[0].timeouts.first_byte_s == 11


@pytest.mark.parametrize(
    ("said", "size"), [("1", 1), ('"10MB"', 10 << 20), ('"1 GiB"', 1 << 30), ('"64k"', 64 << 10), ('"7B"', 7)]
)
def test_sizes_are_counts_or_words(said: str, size: int, tmp_path: Path) -> None:
    assert only_route(f"max_body_size = {said}\n", tmp_path).max_body_bytes == size


def test_relative_paths_start_at_the_configuration(tmp_path: Path) -> None:
    settings = load("[gateway]\naccess_log = 'access.log'\n" + ROUTE + PROVIDER, tmp_path)
    assert settings.access_log == str(tmp_path / "access.log")
    assert load("[gateway]\nport = 0\naccess_log = 'off'\n[metrics]\nport = 0\n" + ROUTE + PROVIDER, tmp_path).port == 0


def test_defaults_of_a_route(tmp_path: Path) -> None:
    route = only_route("rate_limit = 5\n", tmp_path)
    assert (route.rate_burst, route.max_body_bytes, route.methods, route.models) == (1, 10 << 20, (), ())
    assert (route.timeouts.connect_s, route.timeouts.first_byte_s) == (2, 60)
    assert (route.timeouts.chunk_s, route.timeouts.total_s) == (300, 3600)


@pytest.mark.parametrize(
    ("text", "method", "path", "replays"),
    [
        ("", "POST", "/v1/chat/completions", True),
        ("", "POST", "/openai/v1/embeddings", True),
        ("", "POST", "/generate", True),
        ("", "POST", "/v1/files", False),
        ("", "POST", "/my/generate", False),
        ("", "GET", "/v1/files", True),
        ("replay_safe = true\n", "POST", "/v1/files", True),
        ("replay_safe = false\n", "POST", "/v1/chat/completions", False),
    ],
)
def test_only_inference_is_replayed_unasked(text: str, method: str, path: str, replays: bool, tmp_path: Path) -> None:
    assert only_route(text, tmp_path).replays(method, path) is replays


def test_routes_get_names_that_differ(tmp_path: Path) -> None:
    text = "".join(
        f'[[routes]]\npath = "/v1/*"\nmethod = ["get", "POST"]\nprovider = "vllm"\nauth_required = false\nhost = "{host}"\n'
        for host in ("a", "b")
    )
    assert [route.name for route in load(text + PROVIDER, tmp_path).routes] == ["GET,POST /v1/*", "GET,POST /v1/* #2"]


def test_a_models_prefix_goes_when_routes_use_it(tmp_path: Path) -> None:
    provider = load(ROUTE + 'models = "vllm/*"\n' + PROVIDER + 'aliases = { "gpt-4o" = "llama" }', tmp_path).providers[
        0
    ]
    told = {name: provider.upstream_model(name) for name in ("vllm/qwen", "qwen", "gpt-4o", "vllm/gpt-4o", "vllm/")}
    assert told == {"vllm/qwen": "qwen", "qwen": "qwen", "gpt-4o": "llama", "vllm/gpt-4o": "llama", "vllm/": "vllm/"}
    kept = load(ROUTE + 'models = "vllm/*"\n' + PROVIDER + 'strip_model_prefix = ""', tmp_path).providers[0]
    assert kept.upstream_model("vllm/qwen") == "vllm/qwen"


def test_an_alias_of_the_whole_name_wins_over_its_prefix() -> None:
    provider = Provider("p", "openai", (), aliases=(("p/x", "p/x"), ("x", "y")), strip_model_prefix="p/")
    assert (provider.upstream_model("p/x"), provider.upstream_model("x")) == ("p/x", "y")


def test_an_alias_may_be_a_pattern(tmp_path: Path) -> None:
    aliases = 'aliases = { "claude-*" = "big", "claude-*haiku*" = "small", "claude-haiku" = "own", "x?" = "y" }\n'
    provider = load(ROUTE + PROVIDER + aliases, tmp_path).providers[0]
    names = ["claude-opus-5", "claude-3-haiku-1", "claude-haiku", "x1", "x", "vllm/claude-3"]
    assert [provider.upstream_model(name) for name in names] == ["big", "small", "own", "y", "x", "vllm/claude-3"]
    assert provider.named_aliases == ("claude-haiku",)


def test_what_has_no_effect_is_said(tmp_path: Path) -> None:
    text = (
        ROUTE
        + "cache_ttl = 3\nconnect_timeout = 1\n"
        + PROVIDER
        + "[providers.sglang]\nendpoints = [{ url = 'http://s', max_in_flight = 3 }]\n"
    )
    assert load(text, tmp_path).notices == (
        "c.toml: routes[0].cache_ttl has no effect in this version",
        "c.toml: routes[0].connect_timeout has no effect in this version: the provider's counts",
        "provider 'sglang' has no route",
    )
    quiet = (
        "[cache]\nenabled = false\n[tracing]\n[rate_limiting]\nenabled = false\n[circuit_breaker]\nenabled = false\n"
    )
    settings = load(ROUTE + PROVIDER + quiet, tmp_path)
    assert (settings.notices, settings.rate_limit, settings.breaker) == ((), None, None)


@pytest.mark.parametrize(
    ("url", "canonical", "host", "port", "path"),
    [
        ("http://H", "http://h", "h", 80, ""),
        ("https://h:443/", "https://h", "h", 443, ""),
        ("https://h:8443/v1/", "https://h:8443/v1", "h", 8443, "/v1"),
        ("http://[::1]:8000", "http://[::1]:8000", "::1", 8000, ""),
        ("http://vllm_1:1/a%20b", "http://vllm_1:1/a%20b", "vllm_1", 1, "/a%20b"),
    ],
)
def test_endpoints_have_one_spelling(url: str, canonical: str, host: str, port: int, path: str) -> None:
    upstream = parse_endpoint(url)
    assert (upstream.url, upstream.host, upstream.port, upstream.path) == (canonical, host, port, path)
    assert upstream.tls is url.startswith("https")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h",
        "//h",
        "http://",
        "http:///x",
        "http://h:99999",
        "http://h:0",
        "http://h:x",
        "ftp://h",
        "http://h/?",
        "http://h#",
        "http://a b",
        "http://h/\x00",
        "http://h/\r\nx",
        "http://é",
        "http://h/..",
        "http://h/a/../b",
        "http://[::1",
        "http://@h",
        "http://127.1",
        "http://2130706433",
        "http://0x7f000001",
        "http://h/%zz",
        "http://-h",
        "http://h..x",
        "http://[fe80::1%eth0]",
    ],
)
def test_an_endpoint_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^[a-z0-9]"):
        parse_endpoint(url)
