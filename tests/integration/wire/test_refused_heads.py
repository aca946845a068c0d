"""A head that is refused gets an error in the dialect of its first line, and its line in the access log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from downstream import Downstream
from integration.inside import inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream

pytestmark = pytest.mark.integration
BROKEN = " HTTP/1.1\r\nhost: a\r\nno colon\r\n\r\n"


@pytest.mark.parametrize(
    ("line", "is_anthropic"),
    [
        ("POST /v1/messages", True),
        ("POST /v1/messages?beta=true", True),
        ("POST /team/v1/messages", True),
        ("POST /v1/%6dessages", True),
        ("GET /v1/messages/batches", True),
        ("POST /v1/messagesx", False),
        ("POST /v1/chat/completions", False),
    ],
)
async def test_a_refused_head_gets_its_dialect_and_its_bytes_are_counted(
    line: str, is_anthropic: bool, tmp_path: Path
) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path) as gateway,
        Downstream(gateway.url) as client,
    ):
        await client.send((line + BROKEN).encode())
        answer = await client.answer()
        assert answer.status == 400
        document = json.loads(answer.body)
        assert document.get("type") == ("error" if is_anthropic else None)
        assert set(document["error"]) >= ({"type", "message"} if is_anthropic else {"type", "code", "param"})
        (entry,) = await gateway.lines(1)
        assert (entry["outcome"], entry["status"]) == ("refused", 400)
        assert entry["bytes_out"] == len(answer.body) > 0
        assert upstream.requests == []


async def test_an_error_names_the_provider_that_was_asked_not_another_with_its_url(tmp_path: Path) -> None:
    nothing = faults.close_after(b"")
    async with (
        FaultyUpstream(nothing) as upstream,
        inside(upstream.url, tmp_path, beside={"/other": upstream.url}) as gateway,
        Downstream(gateway.url) as client,
    ):
        for path, name in (("/first", "p"), ("/other", "/other"), ("/first", "p")):
            answer = await client.ask("POST", path, b"{}", [("content-type", "application/json")])
            message = json.loads(answer.body)["error"]["message"]
            assert message.startswith(f"upstream {name} closed the connection"), message
