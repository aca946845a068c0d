"""The two flavours of a compiled module: which file is loaded, and that a library older than its source is noticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from flavours import compiled, interpreted, newer_sources


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with one module that nobody compiled."""
    folder = tmp_path / "flavoured"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "thing_cy.py").write_text("from __future__ import annotations\n\nVALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_the_interpreted_flavour_is_the_source_under_another_name(package: Path) -> None:
    module = interpreted("flavoured.thing_cy")
    assert (module.VALUE, module.__file__) == (1, str(package / "thing_cy.py"))
    assert module.__name__ == "flavoured.thing_cy__interpreted"
    assert interpreted("flavoured.thing_cy") is module


@pytest.mark.usefixtures("package")
def test_a_module_that_nobody_compiled_is_no_compiled_flavour() -> None:
    with pytest.raises(AssertionError, match="make cython"):
        compiled("flavoured.thing_cy")


@pytest.mark.parametrize(
    ("edited", "newer"), [("", []), ("thing_cy.py", ["thing_cy.py"]), ("thing_cy.pxd", ["thing_cy.pxd"])]
)
def test_an_edit_after_the_build_is_noticed(package: Path, edited: str, newer: list[str]) -> None:
    library = package / "thing_cy.cpython-311-x86_64-linux-gnu.so"
    for path in (package / "thing_cy.py", package / "thing_cy.pxd", library):
        path.touch()
        os.utime(path, (1000, 2000 if path.name == edited else 1000))
    assert newer_sources(library) == newer
