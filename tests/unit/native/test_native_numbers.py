"""The compiled modules write the native core's numbers down again, as C constants: they must be the same ones."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from budgateway import _native
from budgateway.app.dataplane import SWEEP_S
from budgateway.exchange import exchange_cy
from budgateway.proxy.fastpath import QUIET_NS, SLACK_NS

PACKAGE = Path(__file__).resolve().parents[3] / "budgateway"


def numbers(path: Path) -> dict[str, int]:
    """The private numbers that a module assigns at its top, by name."""
    return {
        node.targets[0].id: node.value.value
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id.startswith("_")
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, int)
    }


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("proxy/relay_cy", {"_KEEP_ALIVE", "_NO_BODY", "_NAMED"}),
        ("providers/passthrough_cy", {"_CHUNKED"}),
        ("exchange/response_check_cy", {"_HTTP_10", "_JSON", "_EVENT_STREAM", "_ENCODED", "_NO_BODY"}),
        (
            "exchange/response_check_cy",
            {
                "_SEEN_EVENT",
                "_SEEN_ERROR_FIRST",
                "_SEEN_OTHER_FIRST",
                "_SEEN_END",
                "_SEEN_ERROR",
                "_SEEN_PROMISE",
                "_SEEN_CONTENT",
            },
        ),
        ("proxy/relay_cy", {"_SCAN_DOCUMENT", "_SCAN_EVENTS"}),
        ("routing/router_cy", {"_UPGRADE", "_JSON", "_ENCODED", "_TARGET_MODEL"}),
        ("server/connection_cy", {"_CHUNKED", "_EXPECT_CONTINUE", "_JSON", "_MULTIPART", "_ENCODED"}),
        ("transport/client_cy", {"_KEEP_ALIVE", "_CHUNKED", "_NO_BODY"}),
    ],
)
def test_flags_are_the_cores(module: str, expected: set[str]) -> None:
    written = numbers(PACKAGE / f"{module}.py")
    assert {name: written[name] for name in expected} == {name: getattr(_native, name[1:]) for name in expected}


def constant(module: str, name: str) -> int:
    """A public number that a module assigns at its top, also where it is compiled to a C constant."""
    for node in ast.parse((PACKAGE / f"{module}.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return int(eval(ast.unparse(node.value), {}))
    raise AssertionError(f"{module} has no {name}")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("server/connection_cy", "MAX_HEAD_BYTES"),
        ("transport/client_cy", "MAX_HEAD_BYTES"),
        ("proxy/attempt_cy", "JOINED_BYTES"),
    ],
)
def test_a_limit_that_is_written_twice_is_the_same(module: str, name: str) -> None:
    assert constant(module, name) == getattr(_native, name)


def test_the_fast_path_notices_a_silent_upstream_as_early_as_the_relay() -> None:
    # The sweep gives a silent exchange up; the relay probes its upstream in a later sweep.
    assert QUIET_NS + int(SWEEP_S * 1e9) == constant("proxy/relay_cy", "SUSPECT_NS")
    assert int(2 * SWEEP_S * 1e9) == SLACK_NS


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_flag_goes_by_anothers_name(path: Path) -> None:
    flags = {name: number for name, number in numbers(path).items() if hasattr(_native, name[1:])}
    assert flags == {name: getattr(_native, name[1:]) for name in flags}


def test_outcomes_are_the_cores() -> None:
    for name in ("COMPLETE", "REFUSED", "UPSTREAM_FAILED", "TRUNCATED", "CLIENT_GONE"):
        assert getattr(exchange_cy, name) == getattr(_native, f"OUTCOME_{name}")


def test_cells_of_the_ledgers_row_are_in_its_order() -> None:
    cells = numbers(PACKAGE / "observe/record_cy.py")
    count = cells.pop("_CELLS")
    assert cells == {f"_{name.upper()}": cell for cell, name in enumerate(_native.Ledger.CELLS)}
    assert count == len(cells)
