"""The retired words stay retired: names, docstrings, comments, messages and docs use the standard terms."""

from __future__ import annotations

from functools import cache

import pytest
from words import RETIRED, Occurrence, occurrences, parts, search

# Retired words that a rename has not removed yet. This set only shrinks.
NOT_YET: set[str] = set()


@cache
def found() -> tuple[Occurrence, ...]:
    """Every occurrence in the tree."""
    return tuple(occurrences())


def test_no_retired_word_is_used() -> None:
    assert [str(one) for one in found() if one.word not in NOT_YET] == []


def test_a_word_whose_rename_is_done_leaves_the_list() -> None:
    assert NOT_YET - {one.word for one in found()} == set(), "no longer used: remove them from NOT_YET"


def words(path: str, source: str) -> set[str]:
    """The retired words that the search finds in a file."""
    return {one.word for one in search(path, source)}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("told_flags", ("told", "flags")),
        ("HTTPServer", ("http", "server")),
        ("_BackOffice2", ("back", "office", "2")),
        ("EXPRESS_NS", ("express", "ns")),
    ],
)
def test_an_identifier_is_split_into_words(name: str, split: tuple[str, ...]) -> None:
    assert parts(name) == split


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("def open_express(): pass", "express"),
        ("class RouteRooms: pass", "route_room"),
        ("# Sent by the courier.", "courier"),
        ('"""The back office."""', "back_office"),
        ('"""Written for `Desk`."""', "desk"),
        ('raise ValueError("the custodian ended")', "custodian"),
        ("__slots__ = ('_told_flags',)", "told_flags"),
        ("x = desk.py", "desk"),
    ],
)
def test_a_retired_word_is_found_in_python(source: str, word: str) -> None:
    assert words("budgateway/proxy/any.py", source) == {word}


@pytest.mark.parametrize(
    "source",
    [
        "spare_worker = True",
        '"""A desk, a door and a trusted card, across the node."""',
        "def test_a_door_is_closed(): pass",
        "expression = 1",
        "key = 'vault'",
    ],
)
def test_ordinary_words_and_public_keys_pass(source: str) -> None:
    assert words("budgateway/process/any.py", source) == set()


def test_other_languages_and_paths_are_searched() -> None:
    assert words("native/src/lib.rs", "let courier = 1; // a journey") == {"courier", "journey"}
    assert words("native/src/lib.rs", 'return Err("the precedent is gone");') == {"precedent"}
    assert words("budgateway/proxy/x_cy.pxd", "cdef object _vault  # of the keybook") == {"keybook", "vault"}
    assert words("budgateway/limits/x.lua", "local claim = 1 -- for the courier") == {"claim", "courier"}
    assert words("docs/x.md", "The express, `Desk` and desk.\n") == {"desk", "express"}
    assert words("budgateway/proxy/express.py", "") == {"express"}


def test_the_table_is_in_order() -> None:
    assert list(RETIRED) == sorted(RETIRED)
