"""Provider kinds as data, one file each: the schema, environment variables, probes and documents use them."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from budgateway.kinds.kind import Kind

__all__ = ["KINDS", "Kind"]


def _kinds() -> dict[str, Kind]:
    """Return the kind of each file of this package, by name."""
    files = (info.name for info in iter_modules(__path__) if info.name != "kind")
    found: list[Kind] = [import_module(f"{__name__}.{file}").KIND for file in files]
    return {kind.name: kind for kind in sorted(found, key=lambda kind: (kind.precedence, kind.name))}


KINDS = _kinds()
