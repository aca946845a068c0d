"""Real clients with real credentials: OpenAI's SDK, Anthropic's, and curl."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from integration.operated import SECRET, Operated, operated
from tokens import own
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received

pytestmark = pytest.mark.integration

EXTRA = '[auth]\njwt_secret = "env:JWT_SECRET"\nkeys_file = "keys.json"\n'
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "demo", "stop_reason": "end_turn",
    "stop_sequence": None, "content": [{"type": "text", "text": "hello"}],
    "usage": {"input_tokens": 3, "output_tokens": 1},
}  # fmt: skip


async def answer(peer: Peer, request: Received) -> None:
    """Each API's own."""
    document = faults.json_bytes(MESSAGE) if request.target.startswith("/v1/messages") else faults.chat_bytes()
    await peer.send(document)


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(answer) as upstream:
        yield upstream


@pytest.fixture
async def gateway(upstream: FaultyUpstream) -> AsyncIterator[Operated]:
    async with operated([upstream.url], extra=EXTRA, route={"auth_required": True}, workers=1) as gateway:
        yield gateway


async def a_key(gateway: Operated, **wishes: Any) -> str:
    status, made = await asyncio.to_thread(_made, gateway, wishes | {"name": secrets.token_hex(4)})
    assert status == 201
    secret: str = made["secret"]
    return secret


def _made(gateway: Operated, wishes: dict[str, Any]) -> tuple[int, Any]:
    from budgateway.admin.client import AdminClient

    client = AdminClient(url=gateway.url, token=own(SECRET, roles=["admin"]))
    return client.call("POST", "/admin/keys", wishes)


def upstreams_saw(upstream: FaultyUpstream, *secrets: str) -> list[str]:
    sent = b"".join(bytes(connection.received) for connection in upstream.connections).decode("latin-1")
    return [secret for secret in secrets if secret in sent]


async def test_the_openai_sdk(gateway: Operated, upstream: FaultyUpstream) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]

    def said(api_key: str) -> str | None:
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=api_key, max_retries=0) as client:
            return client.chat.completions.create(model="demo", messages=messages).choices[0].message.content

    for credential in (await a_key(gateway), own(SECRET)):
        assert await asyncio.to_thread(said, credential) == "hello"
        assert upstreams_saw(upstream, credential) == []
    with pytest.raises(openai.AuthenticationError, match="not valid"):
        await asyncio.to_thread(said, "sk-nobody")
    assert upstreams_saw(upstream, "sk-nobody") == []


async def test_the_anthropic_sdk(gateway: Operated, upstream: FaultyUpstream) -> None:
    credential = await a_key(gateway, models=["demo"])

    def said(how: str, value: str, model: str) -> str:
        given: Any = {how: value}
        with anthropic.Anthropic(base_url=gateway.url, max_retries=0, **given) as client:
            answered = client.messages.create(model=model, max_tokens=8, messages=[{"role": "user", "content": "hi"}])
            (block,) = answered.content
            assert block.type == "text"
            return block.text

    for how in ("api_key", "auth_token"):
        assert await asyncio.to_thread(said, how, credential, "demo") == "hello"
        with pytest.raises(anthropic.PermissionDeniedError, match="the model 'other'"):
            await asyncio.to_thread(said, how, credential, "other")
        with pytest.raises(anthropic.AuthenticationError, match="not valid"):
            await asyncio.to_thread(said, how, "sk-ant-nobody", "demo")
    assert upstreams_saw(upstream, credential, "sk-ant-nobody") == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on the PATH")
async def test_curl(gateway: Operated, upstream: FaultyUpstream) -> None:
    credential = await a_key(gateway)

    async def curl(*words: str) -> tuple[int, Any]:
        process = await asyncio.create_subprocess_exec(
            "curl", "-s", "-w", "\n%{http_code}", *words, stdout=asyncio.subprocess.PIPE
        )
        body, _, status = (await process.communicate())[0].decode().rpartition("\n")
        return int(status), json.loads(body)

    where = f"{gateway.url}/v1/chat/completions"
    data = ("-H", "content-type: application/json", "-d", '{"model":"demo","messages":[]}')
    for header in (f"Authorization: Bearer {credential}", f"x-api-key: {credential}", f"x-goog-api-key: {credential}"):
        status, document = await curl(where, "-H", header, *data)
        assert (status, document["model"]) == (200, "demo")
    for words in (data, ("-H", "x-api-key: no", *data), ("-u", "user:password", *data)):
        status, document = await curl(where, *words)
        assert (status, document["error"]["type"]) == (401, "authentication_error")
    assert upstreams_saw(upstream, credential, "dXNlcjpwYXNzd29yZA") == []
