"""Finds the `*_cy.py` modules and hands them to Cython; everything else is in pyproject.toml."""

import os
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent


def compiled_modules() -> list[Extension]:
    """Every `budgateway/**/*_cy.py`, unless BUDGATEWAY_PURE=1 asks for them to stay interpreted."""
    if os.environ.get("BUDGATEWAY_PURE") == "1":
        return []
    from Cython.Build import cythonize

    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "budgateway").rglob("*_cy.py"))
    return cythonize(
        [
            Extension(source.removesuffix(".py").replace(os.sep, "."), [source], extra_compile_args=["-O3"])
            for source in sources
        ],
        # Types come from the .pxd files alone: an annotation is for readers and type checkers.
        compiler_directives={
            "annotation_typing": False,
            "language_level": "3",
            # Plain C methods: nobody introspects a protocol, and a call through a function object costs twice as much.
            "binding": False,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
        },
        build_dir="build/cython",
    )


# C files are compiled side by side: it is most of what a build waits for.
setup(ext_modules=compiled_modules(), options={"build_ext": {"parallel": os.cpu_count() or 1}})
