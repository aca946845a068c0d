"""budgateway: a gateway for model inference."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budgateway.config.load import load_config
    from budgateway.errors import ConfigError, GatewayError
    from budgateway.process.embedded import Gateway
    from budgateway.records import Match, Route, Settings
    from budgateway.routing.table import RouteTable

    __version__: str

__all__ = [
    "ConfigError",
    "Gateway",
    "GatewayError",
    "Match",
    "Route",
    "RouteTable",
    "Settings",
    "__version__",
    "load_config",
]

# The module of each public name, loaded on first use: a worker imports this package and must stay small.
_HOMES = {
    "ConfigError": "budgateway.errors",
    "Gateway": "budgateway.process.embedded",
    "GatewayError": "budgateway.errors",
    "Match": "budgateway.records",
    "Route": "budgateway.records",
    "RouteTable": "budgateway.routing.table",
    "Settings": "budgateway.records",
    "load_config": "budgateway.config.load",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = importlib.import_module("importlib.metadata").version("budgateway")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'budgateway' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
