"""The only importer of the compiled core: checks that it is the one this Python was written for."""

from __future__ import annotations

from budgateway import _native

# Bumped together with `ABI` in native/src/lib.rs, whenever a signature in `_native.pyi` changes.
ABI = 1

if _native.ABI != ABI:
    raise ImportError(f"budgateway._native has ABI {_native.ABI}, this package needs {ABI}: run `make native`")

BUILD_PROFILE = _native.BUILD_PROFILE
RouteTable = _native.RouteTable
