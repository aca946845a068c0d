"""R8: the upstream closes a kept-alive connection exactly as the gateway uses it again."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from downstream import Downstream
from integration.inside import inside
from integration.sizes import long
from upstreams.stale import Stale

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

JSON = ("Content-Type", "application/json")
BODY = b'{"model":"demo","messages":[]}'
# May each be sent twice?
KINDS = {
    ("GET", "/v1/files/abc", None): True,
    ("POST", "/v1/chat/completions", BODY): True,
    ("POST", "/v1/files", BODY): False,
}


@pytest.mark.parametrize("races", [1500, long("RACES", 100_000)])
async def test_the_keep_alive_race_is_lost_by_nobody(races: int, tmp_path: Path) -> None:
    """A safe request is sent again and answered; any other is answered or 502, and sent once."""
    statuses: dict[str, int] = {}
    safe: set[str] = set()
    async with Stale(seed=races) as upstream:

        async def client(number: int) -> None:
            kinds = list(KINDS.items())
            async with Downstream(gateway.url) as connection:
                count = number
                while upstream.races < races:
                    (method, path, body), is_safe = kinds[count % len(kinds)]
                    count += 1
                    name = f"{number}.{count}"
                    if is_safe:
                        safe.add(name)
                    headers = [("X-Request-Id", name), *([JSON] if body else [])]
                    answer = await connection.ask(method, path, body, headers)
                    connection.bytes_read.clear()
                    statuses[name] = answer.status
                    assert answer.is_complete
                    assert answer.header("x-request-id") == name
                    if answer.status == 200:
                        assert bytes(answer.body) == name.encode()

        async with inside(upstream.url, tmp_path) as gateway:
            async with asyncio.TaskGroup() as clients:
                for number in range(8):
                    clients.create_task(client(number))
            await gateway.at_rest()
            lines = await gateway.lines(len(statuses))
            await gateway.until(lambda: len(upstream.open) == gateway.upstream_connections, "the end of connections")
        assert not upstream.violations
    assert upstream.races == upstream.dropped.total() >= races
    assert Counter(statuses[name] for name in safe).keys() == {200}
    unsafe = statuses.keys() - safe
    assert Counter(statuses[name] for name in unsafe).keys() == {200, 502}
    for name, status in statuses.items():
        sent = upstream.answered[name] + upstream.dropped[name]
        assert upstream.answered[name] == (status == 200), name
        assert sent <= (2 if name in safe else 1), name
    assert {line["request_id"]: line["status"] for line in lines} == statuses
    assert {(line["status"], line["outcome"]) for line in lines} == {(200, "complete"), (502, "upstream_failed")}
    failed = sum(status == 502 for status in statuses.values())
    print(f"{len(statuses)} requests, {upstream.races} races seen, {failed} of {len(unsafe)} unsafe ones answered 502")
