"""RELIABILITY S6: of some 260 header names, exactly those that are declared pass, with exactly these values, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
from downstream import Downstream
from integration.gateways import gateway_async
from upstreams import faults
from upstreams.faulty import FaultyUpstream

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

CHAT = "/v1/chat/completions"
BODY = b'{"model":"demo","messages":[]}'
# IANA's registry of field names, and what proxies, clouds and providers made up; without those that frame a message.
NAMES = Path(__file__).parents[2].joinpath("data", "header-names.txt").read_text().split()
SINGLE = {"content-type"}  # the message has its own

UP = {
    "accept", "content-encoding", "traceparent", "tracestate", "baggage", "user-agent", "idempotency-key",
    "openai-beta", "openai-organization", "openai-project", "anthropic-version", "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
    "x-tenant",  # forward_headers
}  # fmt: skip
# Written by the gateway, whatever the client says.
OURS_UP = {
    "host": None, "content-length": str(len(BODY)), "content-type": "application/json", "x-request-id": None,
    "authorization": "Bearer sk-upstream", "x-from-the-operator": "yes",
}  # fmt: skip

NOT_DOWN = {
    "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authentication-info", "trailer",
    "server", "set-cookie", "alt-svc", "strict-transport-security", "openai-organization", "openai-project", "via",
    "cf-ray", "cf-connecting-ip",
    # What pages may read is the gateway's to say.
    *(name for name in NAMES if name.startswith("access-control-")),
}  # fmt: skip
# Of the gateway's own: framing, its request id, and (by default) who answered.
OURS_DOWN = {
    "content-length", "content-type", "x-request-id",
    "x-budgateway-upstream", "x-budgateway-attempts", "x-budgateway-overhead-us",
}  # fmt: skip


def value_of(name: str) -> str:
    return f"planted in {name}"


def in_parts(names: list[str], size: int = 80) -> list[list[str]]:
    return [names[at : at + size] for at in range(0, len(names), size)]


async def test_exactly_the_declared_headers_go_up() -> None:
    provider = {"api_key": "env:KEY", "headers": {"x-from-the-operator": "yes"}, "forward_headers": ["x-tenant"]}
    planted = [name for name in NAMES if name not in SINGLE]
    seen: dict[str, str] = {}
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        gateway_async(upstream.url, provider=provider, env={"KEY": "sk-upstream"}) as server,
    ):
        for names in in_parts(planted):
            headers = [("Content-Type", "application/json"), *((name.title(), value_of(name)) for name in names)]
            async with Downstream(server.url) as client:
                answer = await client.ask("POST", CHAT, BODY, headers)
            assert answer.status == 200, (answer.body, names)
            request = upstream.requests[-1]
            assert set(OURS_UP) <= request.names
            assert len(request.headers) == len(request.names), "none twice"
            seen |= {name.lower(): value for name, value in request.headers}
    assert {name for name in seen if name not in OURS_UP} == UP
    assert {name: seen[name] for name in UP} == {name: value_of(name) for name in UP}
    assert {name: seen[name] for name, value in OURS_UP.items() if value} == {
        name: value for name, value in OURS_UP.items() if value
    }
    assert not [name for name in ("host", "x-request-id") if "planted" in seen[name]]


async def test_exactly_what_is_not_denied_comes_down() -> None:
    planted = [name for name in NAMES if name not in SINGLE | {"content-encoding"}]
    seen: dict[str, str] = {}
    async with FaultyUpstream(faults.chat()) as upstream, gateway_async(upstream.url) as server:
        for names in in_parts(planted):
            upstream.script(faults.raw(faults.json_bytes({}, 200, *((name.title(), value_of(name)) for name in names))))
            async with Downstream(server.url) as client:
                answer = await client.ask("POST", CHAT, BODY, [("Content-Type", "application/json")])
            assert answer.status == 200, (answer.body, names)
            seen |= {name.lower(): value for name, value in answer.headers}
    passed = {name for name, value in seen.items() if "planted" in value}
    assert passed == set(planted) - NOT_DOWN
    assert {name: seen[name] for name in passed} == {name: value_of(name) for name in passed}
    assert set(seen) - passed == OURS_DOWN
