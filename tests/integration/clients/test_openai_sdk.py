"""The official OpenAI SDK, changed in its base_url alone."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from integration.gateways import CLIENT_KEY

pytestmark = pytest.mark.integration

HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
SAID = 'You said: "hello there". I am the demo model: I only repeat, but I stream, count tokens and never tire.'


def tool(name: str, argument: str) -> Any:
    """A function's description with one string argument."""
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


TOOLS = [tool("get_weather", "city"), tool("read_clock", "zone")]
ASK_TOOLS: list[Any] = [{"role": "user", "content": "weather and clock in Paris"}]


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key=CLIENT_KEY, max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
async def aclient(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key=CLIENT_KEY, max_retries=0, timeout=10) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=HELLO)
    assert answer.choices[0].message.content == SAID
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "demo"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_chat_reports_cached_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "word " * 40}])
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 32


def test_chat_streamed(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="demo", messages=HELLO, stream=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == SAID
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_chat_streamed_with_usage(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    with client.chat.completions.create(model="demo", messages=HELLO, stream=True, stream_options=options) as stream:
        *chunks, last = stream
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == len(chunks) - 2  # but for the role's and the finish's


async def test_chat_async(aclient: openai.AsyncOpenAI) -> None:
    answer = await aclient.chat.completions.create(model="demo", messages=HELLO)
    assert answer.choices[0].message.content == SAID


async def test_chat_streamed_async(aclient: openai.AsyncOpenAI) -> None:
    async with await aclient.chat.completions.create(model="demo", messages=HELLO, stream=True) as stream:
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == SAID


async def test_leaving_a_stream_early_leaves_the_client_usable(aclient: openai.AsyncOpenAI) -> None:
    async with await aclient.chat.completions.create(model="demo", messages=HELLO, stream=True) as stream:
        await anext(stream)
    assert (await aclient.models.list()).data


def test_several_choices_streamed(client: openai.OpenAI) -> None:
    texts = {0: "", 1: ""}
    with client.chat.completions.create(model="demo", messages=HELLO, stream=True, n=2) as stream:
        for chunk in stream:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: SAID, 1: f"(2) {SAID}"}


def test_max_tokens_ends_with_length(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=HELLO, max_completion_tokens=2)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("You said", "length")


def test_stop_sequences(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=HELLO, stop=[" hello", ":"])
    assert answer.choices[0].message.content == "You said"


def test_unicode_survives_both_ways(client: openai.OpenAI) -> None:
    question = "naïve 日本語 👩‍👩‍👧 \u2028 \x7f"
    answer = client.chat.completions.create(model="demo", messages=[{"role": "user", "content": question}])
    assert question in (answer.choices[0].message.content or "")


def test_tools(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=ASK_TOOLS, tools=TOOLS)
    assert answer.choices[0].finish_reason == "tool_calls"
    calls = answer.choices[0].message.tool_calls or []
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [  # type: ignore[union-attr]
        ("get_weather", {"city": "Paris"}),
        ("read_clock", {"zone": "Paris"}),
    ]


def test_tools_streamed_interleaved(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="demo", messages=ASK_TOOLS, tools=TOOLS) as stream:
        message = stream.get_final_completion().choices[0].message
    assert [(call.function.name, call.function.arguments) for call in message.tool_calls or []] == [
        ("get_weather", '{"city": "Paris"}'),
        ("read_clock", '{"zone": "Paris"}'),
    ]


def test_tool_results_are_answered_in_text(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="demo", messages=ASK_TOOLS, tools=TOOLS).choices[0].message
    results: list[Any] = [
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in first.tool_calls or []
    ]
    answer = client.chat.completions.create(model="demo", messages=[*ASK_TOOLS, first, *results], tools=TOOLS)  # type: ignore[list-item]
    assert "sunny" in (answer.choices[0].message.content or "")


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt="hello there")
    assert answer.choices[0].text == SAID


def test_completions_streamed(client: openai.OpenAI) -> None:
    with client.completions.create(model="demo", prompt="hello there", stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == SAID


def test_embeddings_are_the_same_in_both_encodings(client: openai.OpenAI) -> None:
    texts = ["one", "two"]
    packed = client.embeddings.create(model="demo-embed", input=texts)  # the SDK asks for base64 by itself
    plain = client.embeddings.create(model="demo-embed", input=texts, encoding_format="float")
    assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]
    assert packed.data[0].embedding != packed.data[1].embedding


async def test_embeddings_async(aclient: openai.AsyncOpenAI) -> None:
    answer = await aclient.embeddings.create(model="demo-embed", input="one", dimensions=3, encoding_format="float")
    assert len(answer.data[0].embedding) == 3


def test_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="demo", input="hello there", instructions="be brief")
    assert answer.output_text == SAID
    assert answer.usage is not None
    assert answer.usage.output_tokens > 0


def test_responses_streamed(client: openai.OpenAI) -> None:
    with client.responses.stream(model="demo", input="hello there") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text == SAID


def test_responses_call_functions(client: openai.OpenAI) -> None:
    function = {"type": "function", **TOOLS[0]["function"], "strict": False}
    with client.responses.stream(model="demo", input="weather in Paris", tools=[function]) as stream:
        call = stream.get_final_response().output[0]
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "Paris"}


def test_models(client: openai.OpenAI) -> None:
    assert {"demo", "demo-embed"} <= {model.id for model in client.models.list()}


def test_model_by_name(client: openai.OpenAI) -> None:
    assert client.models.retrieve("demo").id == "demo"


def test_transcription_of_a_large_upload(client: openai.OpenAI) -> None:
    sound = bytes(range(256)) * 8192  # 2 MiB
    answer = client.audio.transcriptions.create(model="demo", file=("söund.wav", sound))
    assert answer.text.startswith(f"I heard {len(sound)} bytes of ")


def test_files(client: openai.OpenAI) -> None:
    file = client.files.create(file=("training.jsonl", b'{"a": 1}\n'), purpose="fine-tune")
    assert (file.filename, file.bytes, file.purpose) == ("training.jsonl", 9, "fine-tune")


def test_images(client: openai.OpenAI) -> None:
    answer = client.images.generate(model="demo", prompt="a cat")
    assert answer.data is not None
    assert base64.b64decode(answer.data[0].b64_json or "").startswith(b"\x89PNG\r\n")


def test_rerank_which_the_sdk_does_not_know(client: openai.OpenAI) -> None:
    wish = {"model": "demo", "query": "white cat", "documents": ["a dog", "a white cat"]}
    answer = client.post("/rerank", body=wish, cast_to=object)
    assert answer["results"][0]["index"] == 1  # type: ignore[index]


def test_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert caught.value.type == "invalid_request_error"


def test_wrong_request_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="demo", messages=HELLO, n=1_000_000)


def test_unknown_path_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.post("/no/such/path", body={"model": "demo"}, cast_to=object)


def test_request_id_is_told(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="demo", messages=HELLO, extra_headers={"x-request-id": "of-the-client-1"}
    )
    assert raw.headers["x-request-id"] == "of-the-client-1"
    assert raw.parse()._request_id == "of-the-client-1"
