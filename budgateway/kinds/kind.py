"""The description of a provider kind: a server's API as far as the gateway must know it."""

from __future__ import annotations

from dataclasses import dataclass

# Request headers of the big APIs' clients, for the kinds that may use them. Not `x-stainless-*`, which no API reads: it
# describes the client's machine.
VENDOR_HEADERS = (
    "openai-beta",
    "openai-organization",
    "openai-project",
    "anthropic-version",
    "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
)


@dataclass(frozen=True, slots=True)
class Move:
    """Another path for some requests. A `*` at the end of both stands for the rest of the path; a path with `{model}`
    is only for requests that name one."""

    path: str
    to: str
    query: str = ""  # added to the request's own


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of provider. Each file of this package has one, named KIND, and nothing else lists them."""

    name: str  # the value of `kind`, and the default of a provider's table of that name
    precedence: int  # place in lists; of several kinds that variables describe, the first is the default provider
    # environment
    endpoints_variable: str = ""  # its value is the endpoints of a provider that no file describes
    key_variable: str = ""  # its value is the upstreams' API key
    # requests
    dialects: tuple[
        str, ...
    ] = ()  # names of wire.dialects that it speaks; others are translated to the first that can be
    base_url: str = ""  # of a hosted API: the endpoint when none is configured
    key_header: str = "authorization"  # carries the API key
    key_prefix: str = "Bearer "
    vendor_headers: tuple[str, ...] = ()  # clients' headers that pass upstream, besides the common ones
    headers: tuple[tuple[str, str], ...] = ()  # sent with every request
    moves: tuple[Move, ...] = ()  # the first that fits counts; other paths stay
    api_version: str = ""  # `{api_version}` of paths and queries, unless the provider sets another
    refused: tuple[str, ...] = ()  # members of requests that it is known to refuse: `drop_params = "unsupported"`
    # health
    models_path: str = "/v1/models"  # the model list
    lists_all: bool = True  # no name outside this list is served; False: it serves aliases, or deployments, too
    probe_path: str = ""  # "": the model list, where any status below 500 shows that the server runs
    load_paths: tuple[str, ...] = ()  # reports of the engine's load; the first that answers is used
    # metrics of the engine's load, newest name first
    running: tuple[str, ...] = ()  # requests that are computed
    waiting: tuple[str, ...] = ()  # requests in the engine's queue
    kv_usage: tuple[str, ...] = ()  # share of the KV cache in use, 0 to 1
