"""Sizes of tests that count: the short form runs with the suite, the long one under `make soak`.

BUDGATEWAY_SOAK_KILLS=20 (and its kin, named where `long` is called) sets the size of a long form.
"""

from __future__ import annotations

import os
from typing import Any

import pytest


def long(name: str, size: int, *others: Any, timeout_s: int = 900) -> Any:
    """The parameters of a long form: its size, by the environment if that says one, and what goes with it."""
    size = int(os.environ.get(f"BUDGATEWAY_SOAK_{name}", size))
    return pytest.param(size, *others, marks=[pytest.mark.soak, pytest.mark.timeout(timeout_s)])
