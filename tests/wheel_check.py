"""Look into a wheel: everything that must be there is, and nothing else. `python tests/wheel_check.py WHEEL`."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STRAY = re.compile(r"\.(c|h|cpp|rs|pyc|o)$|^(tests|benchmarks|native|build|docs)/")


def problems(names: list[str], compiled_sources: list[str]) -> list[str]:
    """Return the problems of a wheel of these members, built from a checkout with these `_cy.py` files."""
    found = [f"has no {need}" for need in ("budgateway/py.typed", "budgateway/_native.pyi") if need not in names]
    for stem in ["budgateway/_native", *(source.removesuffix(".py") for source in compiled_sources)]:
        if not any(name.startswith(stem + ".") and name.endswith((".so", ".pyd")) for name in names):
            found.append(f"has no compiled {stem}")
    for source in compiled_sources:
        found += [f"has no {name}" for name in (source, source.removesuffix(".py") + ".pxd") if name not in names]
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        found.append("has no licence")
    return found + [f"should not have {name}" for name in names if STRAY.search(name)]


def main(wheels: list[str]) -> int:
    """Print what is wrong; the exit status says whether anything is."""
    sources = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "budgateway").rglob("*_cy.py"))
    status = 0 if wheels else 1
    for wheel in wheels:
        names = zipfile.ZipFile(wheel).namelist()
        found = problems(names, sources)
        status |= bool(found)
        print(f"{Path(wheel).name}: {len(names)} files, {len(sources) + 1} compiled modules", *found, sep="\n  ")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
