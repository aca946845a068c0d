"""Every error class of the official SDK, raised by what an upstream answers or fails to answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
from integration.conftest import FRONTS
from integration.gateways import gateway_async
from upstreams import faults
from upstreams.faulty import Answer, FaultyUpstream

pytestmark = pytest.mark.integration

HELLO: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@asynccontextmanager
async def client_of(front: str, *script: Answer, timeout_s: float = 10) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of an upstream that plays the script."""
    async with FaultyUpstream(*script) as upstream:
        if front == "direct":
            async with client_at(upstream.url, timeout_s) as client:
                yield client
        else:
            async with gateway_async(upstream.url) as server, client_at(server.url, timeout_s) as client:
                yield client


def client_at(url: str, timeout_s: float) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-of-the-client", max_retries=0, timeout=timeout_s)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
async def test_an_upstreams_error_reaches_the_client_whole(
    front: str, status: int, kind: type[openai.APIStatusError]
) -> None:
    async with client_of(front, faults.status(status, retry_after="3")) as client:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(model="demo", messages=HELLO)
    assert caught.value.status_code == status
    assert f"answered {status}" in caught.value.message
    assert caught.value.response.headers["retry-after"] == "3"


async def test_a_silent_upstream_is_the_clients_timeout(front: str) -> None:
    async with client_of(front, faults.silent(), timeout_s=0.3) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(model="demo", messages=HELLO)


async def test_a_rate_limit_is_waited_for(front: str) -> None:
    async with client_of(front, faults.status(429, retry_after="0.01"), faults.chat("at last")) as client:
        answer = await client.with_options(max_retries=1).chat.completions.create(model="demo", messages=HELLO)
    assert answer.choices[0].message.content == "at last"


async def test_an_error_as_the_first_event_is_an_error(front: str) -> None:
    async with client_of(front, faults.error_event_first()) as client:
        with pytest.raises(openai.APIError, match="the engine died"):
            async with await client.chat.completions.create(model="demo", messages=HELLO, stream=True) as stream:
                async for _ in stream:
                    pass


async def test_a_cut_stream_is_an_error(front: str) -> None:
    wire = faults.stream_bytes(faults.chat_events("one", "two", "three"))
    async with client_of(front, faults.cut(wire, wire.index(b"three"))) as client:
        with pytest.raises(openai.APIError):
            async with await client.chat.completions.create(model="demo", messages=HELLO, stream=True) as stream:
                async for _ in stream:
                    pass
