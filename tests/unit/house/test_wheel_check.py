"""The wheel check finds what is missing and what is too much."""

from __future__ import annotations

from wheel_check import problems

GOOD = [
    "budgateway/__init__.py",
    "budgateway/py.typed",
    "budgateway/_native.pyi",
    "budgateway/_native.cpython-311-x86_64-linux-gnu.so",
    "budgateway/proxy/relay_cy.py",
    "budgateway/proxy/relay_cy.pxd",
    "budgateway/proxy/relay_cy.cpython-311-x86_64-linux-gnu.so",
    "budgateway-0.1.0.dist-info/licenses/LICENSE",
]


def test_a_complete_wheel_has_no_problems() -> None:
    assert problems(GOOD, ["budgateway/proxy/relay_cy.py"]) == []


def test_every_missing_member_is_named() -> None:
    for gone in GOOD[1:]:
        assert len(problems([name for name in GOOD if name != gone], ["budgateway/proxy/relay_cy.py"])) == 1, gone


def test_c_files_and_tests_do_not_ship() -> None:
    found = problems([*GOOD, "budgateway/proxy/relay_cy.c", "tests/unit/test_x.py"], ["budgateway/proxy/relay_cy.py"])
    assert found == ["should not have budgateway/proxy/relay_cy.c", "should not have tests/unit/test_x.py"]
