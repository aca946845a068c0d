"""The table of layers below against every import and cimport of the package, and a search for circles of imports."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "budgateway"

# A module belongs to the longest entry that begins its name; `_cy` is no part of a name here.
LAYERS = {
    8: ["", "cli", "__main__"],
    7: ["process"],
    6: ["admin"],
    5: ["credentials", "app"],
    4: ["server", "proxy"],
    3: [
        "auth",
        "limits",
        "routing",
        "cache",
        "balance",
        "health",
        "providers",
        "stored",
        "transform",
        "transport",
        "transform",
        "observe",
        "redis",
        "demo",
    ],
    2: ["exchange", "config"],
    1: ["records", "kinds", "native", "wire", "jose"],
    0: ["errors", "system"],
}
LAYER_OF = {room: layer for layer, rooms in LAYERS.items() for room in rooms}
ROOMS = 3
# The server is handed `handle`; it does not know who decides.
FORBIDDEN = {("server", "proxy")}
# The compiled core has one importer, which checks that the two belong together.
NATIVE = "_native"

# Each of these is the job of one or two files.
THIRD_PARTY = {
    "aiodns": ["transport"],
    "click": ["cli", "__main__"],
    "dotenv": ["config"],
    "httptools": ["server", "transport", "demo"],
    "jwt": ["jose"],
    "opentelemetry": ["observe"],
    "prometheus_client": ["observe"],
    "pycares": ["transport"],
    "pydantic": ["config", "cli"],
    "hiredis": ["redis"],
    "redis": ["redis"],
    "rich": ["cli"],
    "uvloop": ["process", "app"],
}
MODULES_EACH = 2
COUNTED = {"aiodns", "hiredis", "httptools", "jwt", "prometheus_client", "redis", "uvloop"}

CIMPORT = re.compile(r"^\s*(?:from\s+(?P<origin>[\w.]+)\s+cimport\s+(?P<names>.+)|cimport\s+(?P<module>[\w.]+))", re.M)


def room_of(module: str) -> str:
    """The entry of the table that a module (`server.connection_cy`) falls under; KeyError for one that is in none."""
    room = module.partition(".")[0].removesuffix("_cy")
    LAYER_OF[room]
    return room


def imports(source: str) -> set[str]:
    """Every dotted name a Python file may import: of `from a import b` both `a` and `a.b`, wherever it stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.update({node.module or ""} - {"budgateway"})
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def cimports(source: str) -> set[str]:
    """The same of a `.pxd`."""
    found = set()
    for match in CIMPORT.finditer(source):
        origin = match["origin"] or match["module"]
        found.add(origin)
        found.update(f"{origin}.{name.split()[0]}" for name in (match["names"] or "").split(",") if name.strip(" ()"))
    return found


def violations(module: str, imported: set[str], known: set[str]) -> list[str]:
    """Return the forbidden imports of `module`. All names without the leading `budgateway.`; `known` are our modules."""
    room = room_of(module)
    found = []
    for name in sorted(imported):
        package, _, inner = name.partition(".")
        if package != "budgateway":
            if package in THIRD_PARTY and room not in THIRD_PARTY[package]:
                found.append(f"{module} imports {package}, which is for {', '.join(THIRD_PARTY[package])}")
        elif inner == NATIVE or inner.startswith(NATIVE + "."):
            if module != "native":
                found.append(f"{module} imports _native, which is for native")
        elif inner.partition(".")[0] not in {name.partition(".")[0] for name in known} - {""}:
            if LAYER_OF[room] < LAYER_OF[""]:
                found.append(f"{module} imports {name} from the package itself (layer {LAYER_OF['']})")
        elif inner in known and not may_import(room, room_of(inner)):
            found.append(f"{module} (layer {LAYER_OF[room]}) imports {inner} (layer {LAYER_OF[room_of(inner)]})")
    return found


def may_import(room: str, other: str) -> bool:
    """True when files of one room may import those of another."""
    if room == other:
        return True
    siblings = LAYER_OF[room] == LAYER_OF[other] == ROOMS
    return LAYER_OF[other] <= LAYER_OF[room] and not siblings and (room, other) not in FORBIDDEN


def package_modules() -> dict[str, Path]:
    """Every Python file of the package by its dotted name, without `budgateway.`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix("__init__").removesuffix(".")] = path
    return found


MODULES = package_modules()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_layer_allows(module: str) -> None:
    path = MODULES[module]
    imported = imports(path.read_text())
    header = path.with_suffix(".pxd")
    if header.exists():
        imported |= cimports(header.read_text())
    assert violations(module, imported, set(MODULES)) == []


@pytest.mark.parametrize("library", sorted(COUNTED))
def test_a_library_has_one_or_two_importers(library: str) -> None:
    importers = [
        name
        for name, path in MODULES.items()
        # The demo is a model server of its own, beside the gateway's two protocols.
        if not name.startswith("demo.") and any(i.split(".")[0] == library for i in imports(path.read_text()))
    ]
    assert len(importers) <= MODULES_EACH, importers


def test_every_header_belongs_to_a_compiled_module() -> None:
    lonely = [str(path) for path in PACKAGE.rglob("*.pxd") if not path.with_suffix(".py").exists()]
    assert not [path for path in lonely if not path.endswith("__init__.pxd")]


KNOWN = {
    *("", "errors", "wire", "wire.status", "auth.keys", "limits", "limits.requests", "limits.redis_limits"),
    *("redis.connection", "server", "proxy", "proxy.pipeline", "app.dataplane"),
}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("auth.keys", "from budgateway.limits import requests"),
        ("auth.keys", "from budgateway import limits"),
        ("auth.keys", "import budgateway.limits.requests as r"),
        ("auth.keys", "from budgateway import __version__"),
        ("auth.keys", "import budgateway"),
        ("auth.keys", "def f():\n    from budgateway.app.dataplane import Gateway"),
        ("auth.keys", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from budgateway import proxy"),
        ("auth.keys", "import redis.asyncio"),
        ("limits.redis_limits", "import hiredis"),
        ("errors", "from budgateway.wire import status"),
        ("server.connection_cy", "from budgateway.proxy.pipeline import Pipeline"),
        ("wire.status", "from budgateway import _native"),
        ("wire.status", "from budgateway._native import Segment"),
        ("app.dataplane", "import pydantic"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert len(violations(module, imports(source), KNOWN)) >= 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("auth.keys", "from budgateway.wire.status import reason\nfrom budgateway import errors"),
        ("limits.requests", "from budgateway import limits"),
        ("redis.connection", "import hiredis"),
        (
            "app.dataplane",
            "from budgateway.proxy.pipeline import Pipeline\nfrom budgateway.limits.requests import Requests",
        ),
        ("native", "from budgateway import _native"),
        ("cli.main", "from budgateway import __version__\nfrom budgateway.app.dataplane import Gateway"),
    ],
)
def test_an_allowed_import_is_left_alone(module: str, source: str) -> None:
    assert violations(module, imports(source), KNOWN) == []


def test_a_forbidden_cimport_is_found() -> None:
    header = "from libc.stdint cimport int64_t\nfrom budgateway.limits.requests cimport Requests, Other\n"
    assert violations("auth.keys", cimports(header), KNOWN)
    assert not violations("proxy.pipeline_cy", cimports(header), KNOWN)
    assert violations("auth.keys", cimports("cimport budgateway.app.dataplane"), KNOWN)


def test_a_module_outside_the_table_is_found() -> None:
    with pytest.raises(KeyError):
        room_of("gadgets.thing")


def python_files(root: Path) -> dict[str, Path]:
    """Every Python file by the name that imports use: dotted, or bare for the helpers of the tests."""
    found = {}
    for top in ("budgateway", "benchmarks", "tests"):
        for path in sorted((root / top).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            is_helper = top == "tests" and not path.stem.startswith(("test_", "conftest", "__"))
            found[path.stem if is_helper else name] = path
    return found


def imported_modules(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules that a file, or the header next to it, imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from a import b` imports the module a.b if there is one, else a.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in known or name == "budgateway._native" else str(node.module) for name in names)
    header = path.with_suffix(".pxd")
    if header.exists():
        found.update(match["origin"] or match["module"] for match in CIMPORT.finditer(header.read_text()))
    return found & known.keys()


def import_graph(root: Path) -> dict[str, set[str]]:
    """The modules that each module imports."""
    known = python_files(root)
    return {name: imported_modules(path, known) - {name} for name, path in known.items()}


def test_there_are_no_circles() -> None:
    found = import_graph(ROOT)
    # The graph is whole: an annotation's import, a function's, a header's, and a test's of a helper.
    assert "budgateway.limits.rules" in found["budgateway.limits.lease_queue"]
    assert "budgateway.process.embedded" in found["budgateway"]
    assert "budgateway.server.state_cy" in found["budgateway.server.connection_cy"]
    assert "books" in found["tests.unit.observe.test_access"]
    TopologicalSorter(found).prepare()


@pytest.mark.parametrize(
    "second",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from budgateway.first import First\n",
        "def later():\n    from budgateway import first\n",
        "import budgateway.first as f\n",
    ],
)
def test_a_circle_is_found(tmp_path: Path, second: str) -> None:
    package = tmp_path / "budgateway"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "first.py").write_text("from budgateway.second import later\n")
    (package / "second.py").write_text(second)
    with pytest.raises(CycleError, match="first"):
        TopologicalSorter(import_graph(tmp_path)).prepare()


def test_a_circle_of_headers_is_found(tmp_path: Path) -> None:
    package = tmp_path / "budgateway"
    package.mkdir()
    for name, other in (("first_cy", "second_cy"), ("second_cy", "first_cy")):
        (package / f"{name}.py").write_text("")
        (package / f"{name}.pxd").write_text(f"from budgateway.{other} cimport Other\n")
    with pytest.raises(CycleError):
        TopologicalSorter(import_graph(tmp_path)).prepare()
