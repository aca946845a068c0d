"""The shared table against a real Redis: versions, changes at the same time, and what is not there."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from integration.redises import Redis, needs_redis, redis_server

from budgateway.records import StoreSettings
from budgateway.redis.shared_table import SharedTable

pytestmark = [pytest.mark.integration, needs_redis]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    with redis_server(tmp_path / "redis") as started:
        yield started


@pytest.fixture
def table(server: Redis) -> SharedTable:
    return SharedTable(StoreSettings(port=server.port), "api_key")


def test_records_come_and_go_and_the_version_tells(table: SharedTable) -> None:
    assert (table.version(), table.read()) == (0, {})
    assert table.change(lambda records: ("made", {"a": b"1", "b": b"\x00\xff", "é": b""})) == "made"
    assert (table.version(), table.read()) == (1, {"a": b"1", "b": b"\x00\xff", "é": b""})
    table.change(lambda records: (None, {"a": None, "b": records["a"]}))
    assert (table.version(), table.read()) == (2, {"b": b"1", "é": b""})


def test_an_edit_that_raises_changes_nothing(table: SharedTable) -> None:
    def refuse(records: Mapping[str, bytes]) -> tuple[None, dict[str, bytes | None]]:
        raise KeyError("no such key")

    with pytest.raises(KeyError, match="no such key"):
        table.change(refuse)
    assert table.version() == 0


def test_changes_at_the_same_time_all_happen(table: SharedTable) -> None:
    def count(records: Mapping[str, bytes]) -> tuple[None, dict[str, bytes | None]]:
        return None, {"n": str(int(records.get("n", b"0")) + 1).encode()}

    threads = [threading.Thread(target=table.change, args=(count,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (table.version(), table.read()) == (8, {"n": b"8"})


def test_without_redis_it_says_so(server: Redis, table: SharedTable) -> None:
    server.kill()
    with pytest.raises(OSError, match="refused"):
        table.read()
