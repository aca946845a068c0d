"""One suite, two implementations: a `_cy` module as Cython compiled it, and its `.py` as the interpreter runs it."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

# `make test-pure` sets it and installs a build without compiled modules.
PURE = os.environ.get("BUDGATEWAY_PURE") == "1"


def both_flavours(name: str) -> Callable[..., ModuleType]:
    """A fixture that runs each test that asks for it twice: `headers = both_flavours("budgateway.wire.headers_cy")`."""

    @pytest.fixture(scope="module", params=["compiled", "interpreted"])
    def module(request: pytest.FixtureRequest) -> ModuleType:
        if request.param == "interpreted":
            return interpreted(name)
        if PURE:
            pytest.skip("the pure build has no compiled modules")
        return compiled(name)

    return module


def compiled(name: str) -> ModuleType:
    """The module Cython built; an error where the build left it out or where an edit has overtaken it."""
    module = importlib.import_module(name)
    library = Path(module.__file__ or "")
    assert is_compiled(library), f"{name} is not compiled: run `make cython`"
    assert not newer_sources(library), f"{library.name} is older than {newer_sources(library)}: run `make cython`"
    return module


def newer_sources(library: Path) -> list[str]:
    """Return those of a compiled module's `.py` and `.pxd` files that were edited after it was built."""
    stem = library.name.partition(".")[0]
    sources = [library.with_name(stem + suffix) for suffix in (".py", ".pxd")]
    built = library.stat().st_mtime
    return [path.name for path in sources if path.exists() and path.stat().st_mtime > built]


def interpreted(name: str) -> ModuleType:
    """The module's `.py`, under the name `<name>__interpreted`; what it imports is whatever the build has."""
    alias = name + "__interpreted"
    if alias in sys.modules:
        return sys.modules[alias]
    source = Path(importlib.import_module(name.rpartition(".")[0]).__path__[0], name.rpartition(".")[2] + ".py")
    spec = importlib.util.spec_from_file_location(alias, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    spec.loader.exec_module(module)
    return module


def is_compiled(path: Path) -> bool:
    """True for the file of an extension module."""
    return path.name.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))
