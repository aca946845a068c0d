"""Bugs that other gateways had in the field, by repository and number, each as a test of ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from oracles.grammars import chat, events_of, messages, responses
from translations import answered, asked, fed, told

from budgateway.errors import BadRequest, UnsupportedField, UpstreamError

MESSAGES, CHAT, RESPONSES = "anthropic.messages", "openai.chat", "openai.responses"
USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}


def stream(*chunks: Any, done: bool = True) -> bytes:
    """A stream of chat chunks; deltas are dicts, and a chunk's other members are whole chunks with `choices`."""
    whole = [
        chunk if "choices" in chunk or "error" in chunk else {"choices": [{"index": 0, "delta": chunk}]}
        for chunk in chunks
    ]
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in whole)
    return (text + "data: [DONE]\n\n" * done).encode()


def ended(finish: str | None, delta: Any = None, **more: Any) -> dict[str, Any]:
    """A chunk with a reason, and maybe more."""
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more}


def call(index: int, arguments: Any = None, *, id: str = "", name: str = "") -> dict[str, Any]:  # noqa: A002
    """A delta with a piece of a call."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value not in ("", None)}
    return {"tool_calls": [{"index": index, **({"id": id} if id else {}), "function": function}]}


def claude(*chunks: Any, **members: Any) -> dict[str, Any]:
    """The message that a client of Anthropic's API reads from a chat stream."""
    return messages(fed(answered(MESSAGES, CHAT, **members), stream(*chunks)))


def kinds(message: dict[str, Any]) -> list[str]:
    """The types of a message's blocks."""
    return [block["type"] for block in message["content"]]


def inputs(message: dict[str, Any]) -> list[Any]:
    """The arguments of a message's calls."""
    return [block["input"] for block in message["content"] if block["type"] == "tool_use"]


# ---------------------------------------------------------------- streams of chat for clients of messages


def test_praxis_266_fragments_of_parallel_calls_keep_apart() -> None:
    message = claude(
        call(0, '{"a":', id="x", name="f"),
        call(1, '{"b":', id="y", name="g"),
        call(0, "1}"),
        call(1, "2}"),
        ended("stop"),
    )
    assert inputs(message) == [{"a": 1}, {"b": 2}]


def test_headroom_2890_no_delta_comes_for_a_closed_block() -> None:
    message = claude(call(0, "{}", id="x", name="f"), {"content": "t"}, call(0, " "), {"content": "u"}, ended("stop"))
    assert kinds(message) == ["tool_use", "text"]


def test_edutelligence_923_fragments_of_a_call_that_is_not_open_are_kept() -> None:
    pieces = [call(1, '{"b"', id="y", name="g"), call(0, '{"a":1}', id="x", name="f"), call(1, ":2}")]
    assert inputs(claude(*pieces, ended("tool_calls"))) == [{"b": 2}, {"a": 1}]


def test_sglang_24293_white_space_between_calls_is_no_text() -> None:
    message = claude(call(0, "{}", id="x", name="f"), {"content": "\n"}, call(1, "{}", id="y", name="g"), ended("stop"))
    assert kinds(message) == ["tool_use", "tool_use"]


def test_claude_code_router_1356_text_call_text_are_three_blocks() -> None:
    message = claude({"content": "a"}, call(0, "{}", id="x", name="f"), {"content": "b"}, ended("stop"))
    assert kinds(message) == ["text", "tool_use", "text"]


def test_claude_code_router_1725_a_second_round_of_thinking_is_a_block() -> None:
    thought = {"reasoning_content": "hm"}
    assert kinds(claude(thought, call(0, "{}", id="x", name="f"), thought, ended("stop"))) == [
        "thinking",
        "tool_use",
        "thinking",
    ]


def test_litellm_33224_thinking_never_goes_into_a_text_block() -> None:
    assert kinds(claude({"content": "a"}, {"reasoning": "hm"}, {"content": "b"}, ended("stop"))) == [
        "text",
        "thinking",
        "text",
    ]


def test_litellm_32357_a_message_starts_once() -> None:
    out = fed(
        answered(MESSAGES, CHAT), stream({"role": "assistant"}, {"role": "assistant", "content": "a"}, ended("stop"))
    )
    assert [name for name, _ in events_of(out)].count("message_start") == 1


def test_litellm_30014_no_delta_is_lost_where_the_block_changes() -> None:
    message = claude({"reasoning_content": "a"}, {"content": "b"}, {"content": "c"}, ended("stop"))
    assert (message["content"][0]["thinking"], message["content"][1]["text"]) == ("a", "bc")


def test_litellm_34692_stop_with_a_call_is_tool_use_without_an_empty_text() -> None:
    message = claude({"role": "assistant", "content": ""}, call(0, "{}", id="x", name="f"), ended("stop"))
    assert (message["stop_reason"], kinds(message)) == ("tool_use", ["tool_use"])


def test_bifrost_3638_text_and_call_are_tool_use() -> None:
    assert claude({"content": "a"}, call(0, "{}", id="x", name="f"), ended("stop"))["stop_reason"] == "tool_use"


def test_opencode2api_27_tool_calls_without_any_is_end_turn() -> None:
    assert claude({"content": "a"}, ended("tool_calls"))["stop_reason"] == "end_turn"


def test_openclaude_21_several_reasons_are_one_end() -> None:
    message = claude({"content": "a"}, ended("length"), ended("stop"), ended("stop"))
    assert message["stop_reason"] == "max_tokens"


def test_cliproxyapi_4544_usage_behind_the_end_counts_once() -> None:
    out = fed(
        answered(MESSAGES, CHAT), stream({"content": "a"}, ended("stop", usage=USAGE), {"choices": [], "usage": USAGE})
    )
    (delta,) = [data for name, data in events_of(out) if name == "message_delta"]
    assert (delta["usage"]["input_tokens"], delta["usage"]["output_tokens"]) == (6, 3)


@pytest.mark.parametrize(
    "chunks", [[ended("stop")], [{"content": "a"}, ended("stop")], [ended("stop", {"content": "a"})]]
)
def test_new_api_5345_an_end_without_usage_is_an_end(chunks: list[Any]) -> None:
    assert claude(*chunks)["stop_reason"] == "end_turn"


def test_odysseus_1703_usage_may_come_with_a_role_and_null() -> None:
    message = claude({"content": "a"}, ended("stop", {"role": "assistant", "content": None}, usage=USAGE))
    assert message["usage"]["output_tokens"] == 3


def test_litellm_24176_message_start_has_all_counts() -> None:
    out = fed(answered(MESSAGES, CHAT), stream({"content": "a"}, ended("stop")))
    usage = events_of(out)[0][1]["message"]["usage"]
    assert {"input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"} <= set(usage)
    assert usage["cache_creation"] == {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}


def test_omlx_1487_cached_tokens_are_counted_once() -> None:
    usage = claude({"content": "a"}, ended("stop"), {"choices": [], "usage": USAGE})["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (6, 4)


def test_claude_code_67809_nothing_follows_the_end() -> None:
    out = fed(answered(MESSAGES, CHAT), stream({"content": "a"}, ended("stop")) + stream({"content": "b"}))
    assert messages(out)["content"][0]["text"] == "a"


@pytest.mark.parametrize("late", [ended("stop", {"content": "b"}), ended("stop")])
def test_litellm_content_with_and_behind_the_reason_is_kept(late: Any) -> None:
    chunks = (
        [{"content": "a"}, late]
        if "content" in late["choices"][0]["delta"]
        else [{"content": "a"}, late, {"content": "b"}]
    )
    assert claude(*chunks)["content"][0]["text"] == "ab"


def test_litellm_mid_stream_error_ends_with_an_error() -> None:
    out = fed(answered(MESSAGES, CHAT), stream({"content": "a"}, {"error": {"message": "boom", "code": 429}}))
    name, data = events_of(out)[-1]
    assert (name, data["error"]) == ("error", {"type": "rate_limit_error", "message": "boom"})


def test_ids_and_names_in_pieces_and_repeated() -> None:
    message = claude(
        call(0, id="x"), call(0, name="get", id="x"), call(0, '{"a":1}', id="x", name="get"), ended("stop")
    )
    assert (message["content"][0]["name"], inputs(message)) == ("get", [{"a": 1}])
    message = claude(call(0, name="ge"), call(0, name="t"), call(0, '{"a":1}'), ended("stop"))
    assert message["content"][0]["name"] == "get"
    assert message["content"][0]["id"].startswith("call_")
    # One index for two calls, told apart by their ids.
    message = claude(call(0, "{}", id="x", name="f"), call(0, '{"b":2}', id="y", name="g"), ended("stop"))
    assert inputs(message) == [{}, {"b": 2}]
    # Arguments as an object, and null.
    message = claude(call(0, {"a": 1}, id="x", name="f"), call(0, None, id="x"), ended("stop"))
    assert inputs(message) == [{"a": 1}]


def test_vllm_stop_sequences_are_told() -> None:
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "END"}]}
    message = claude({"content": "a"}, end, stop_sequences=["END"])
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")
    message = claude({"content": "a"}, end, stop_sequences=["other"])
    assert (message["stop_reason"], message["stop_sequence"]) == ("end_turn", None)


# ---------------------------------------------------------------- requests of messages for chat


def body(*turns: Any, **members: Any) -> dict[str, Any]:
    """A request of the Messages API."""
    return {"max_tokens": 9, "messages": [{"role": role, "content": content} for role, content in turns], **members}


def roles(request: Any) -> list[str]:
    """The roles of a request's messages."""
    return [message["role"] for message in request["messages"]]


def use(number: int) -> dict[str, Any]:
    """A call in the history."""
    return {"type": "tool_use", "id": f"t{number}", "name": "f", "input": {}}


def result(number: int, content: Any = "r", **more: Any) -> dict[str, Any]:
    """Its result."""
    return {"type": "tool_result", "tool_use_id": f"t{number}", "content": content, **more}


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


def test_litellm_37118_stop_sequences_arrive() -> None:
    assert told(MESSAGES, CHAT, body(("user", "hi"), stop_sequences=["a", "b"]))["stop"] == ["a", "b"]


def test_litellm_20403_images_in_results_arrive() -> None:
    request = told(MESSAGES, CHAT, body(("user", "hi"), ("assistant", [use(0)]), ("user", [result(0, [IMAGE])])))
    assert roles(request) == ["user", "assistant", "tool", "user"]
    assert request["messages"][3]["content"][0]["image_url"]["url"] == "data:image/png;base64,aGk="


def test_vllm_an_image_never_stands_between_results() -> None:
    turn = [result(0, [IMAGE]), result(1)]
    request = told(MESSAGES, CHAT, body(("user", "hi"), ("assistant", [use(0), use(1)]), ("user", turn)))
    assert roles(request)[2:] == ["tool", "tool", "user"]


def test_aisix_722_no_block_is_dropped_silently() -> None:
    for kind in ("image", "document", "container_upload", "new_kind", "tool_use"):
        with pytest.raises(BadRequest) as refused:
            told(
                MESSAGES,
                CHAT,
                body(("user", [{"type": kind, "name": "f", "source": {"type": "file", "file_id": "x"}}])),
            )
        assert str(refused.value.param).startswith("messages[0].content")


def test_vllm_44000_roles_of_claude_code() -> None:
    request = told(MESSAGES, CHAT, body(("ctx", "a"), ("msg", "b"), ("assistant", "c"), ("user", "d")))
    assert roles(request) == ["user", "user", "assistant", "user"]
    with pytest.raises(BadRequest):
        told(MESSAGES, CHAT, body(("nobody", "a")))


def test_litellm_2647_system_messages_are_joined_in_front() -> None:
    request = told(MESSAGES, CHAT, body(("system", "b"), ("user", "hi"), system=[{"type": "text", "text": "a"}]))
    assert request["messages"][0] == {"role": "system", "content": "a\n\nb"}


def test_instructions_amid_the_conversation() -> None:
    turns = [("user", "hi"), ("system", "now"), ("assistant", [use(0)]), ("user", [result(0)]), ("system", "late")]
    folded = told(MESSAGES, CHAT, body(*turns))
    assert roles(folded) == ["user", "assistant", "tool"]
    assert folded["messages"][0]["content"] == [{"type": "text", "text": "hi"}, {"type": "text", "text": "now"}]
    assert folded["messages"][2]["content"] == "r\nlate"
    kept = told(MESSAGES, CHAT, body(*turns), inline_system="keep")
    assert roles(kept) == ["user", "system", "assistant", "tool", "system"]
    hoisted = told(MESSAGES, CHAT, body(*turns), inline_system="hoist")
    assert hoisted["messages"][0] == {"role": "system", "content": "now\n\nlate"}


def test_claude_codes_changing_line_is_removed() -> None:
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=2"},
        {"type": "text", "text": "a"},
    ]
    assert told(MESSAGES, CHAT, body(("user", "hi"), system=system))["messages"][0]["content"] == "a"


def test_any_llm_1325_text_beside_calls_is_kept() -> None:
    request = told(
        MESSAGES, CHAT, body(("user", "hi"), ("assistant", [{"type": "text", "text": "t"}, use(0)])), is_engine=True
    )
    assert request["messages"][1]["content"] == "t"
    assert request["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"


def test_bifrost_2093_reasoning_goes_back() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "bgw1.p"}
    turns = [("user", "hi"), ("assistant", [thought, use(0)]), ("user", [result(0)])]
    assert told(MESSAGES, CHAT, body(*turns))["messages"][1]["reasoning_content"] == "hm"
    request = asked(MESSAGES, CHAT, body(*turns), replays_reasoning=False)
    assert "reasoning_content" not in json.loads(request.body)["messages"][1]
    assert request.dropped == ["thinking"]


def test_litellm_anthropics_tool_type_does_not_leak() -> None:
    tool = {"type": "custom", "name": "f", "input_schema": {"properties": {}}, "cache_control": {"type": "ephemeral"}}
    request = asked(MESSAGES, CHAT, body(("user", "hi"), tools=[tool]))
    assert json.loads(request.body)["tools"] == [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    ]
    assert request.dropped == ["cache_control"]


def test_a_prefilled_answer() -> None:
    turns = body(("user", "hi"), ("assistant", "I"))
    request = told(MESSAGES, CHAT, turns, is_engine=True)
    assert (request["continue_final_message"], request["add_generation_prompt"]) == (True, False)
    with pytest.raises(UnsupportedField):
        told(MESSAGES, CHAT, turns)


def test_names_that_openai_refuses_come_back() -> None:
    name = "mcp.server/" + "x" * 90
    tools = [{"name": name, "input_schema": {"type": "object"}}]
    translation = asked(
        MESSAGES, CHAT, body(("user", "hi"), tools=tools, tool_choice={"type": "tool", "name": name}), is_openai=True
    )
    request = json.loads(translation.body)
    sent = request["tools"][0]["function"]["name"]
    assert len(sent) == 64
    assert request["tool_choice"]["function"]["name"] == sent
    out = fed(translation.answer("i", "m", 1, True, True), stream(call(0, "{}", id="x", name=sent), ended("stop")))
    assert messages(out)["content"][0]["name"] == name


# ---------------------------------------------------------------- messages upstream


def sse(*datas: Any) -> bytes:
    """A stream of the Messages API."""
    return "".join(f"event: {data['type']}\ndata: {json.dumps(data)}\n\n" for data in datas).encode()


def start(**usage: int) -> dict[str, Any]:
    """The beginning of a message."""
    return {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 1, "output_tokens": 1, **usage}}}


def block(index: int, kind: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    """A block of a message."""
    inner = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    begun = {"type": "content_block_start", "index": index, "content_block": kind}
    return [begun, *inner, {"type": "content_block_stop", "index": index}]


STOP = [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"}]


def test_litellm_5231_the_index_of_a_call_counts_calls() -> None:
    text = block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "t"})
    tool = block(
        1, {"type": "tool_use", "id": "a", "name": "f", "input": {}}, {"type": "input_json_delta", "partial_json": "{}"}
    )
    said = chat(fed(answered(CHAT, MESSAGES), sse(start(), *text, *tool, *STOP)))
    assert (said["content"], len(said["tool_calls"]), said["finish_reason"]) == ("t", 1, "tool_calls")


def test_ai_gateway_a_later_report_without_counts_zeroes_nothing() -> None:
    out = fed(
        answered(CHAT, MESSAGES),
        sse(
            start(cache_read_input_tokens=5),
            {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 7}},
            *STOP,
        ),
    )
    usage = chat(out)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (6, 7)


def test_genkit_5412_cached_tokens_are_input() -> None:
    document = {"type": "message", "content": [], "usage": {"input_tokens": 1, "cache_read_input_tokens": 999}}
    out = fed(answered(CHAT, MESSAGES, is_stream=False, to_stream=False), json.dumps(document).encode())
    assert json.loads(out)["usage"]["prompt_tokens"] == 1000


def test_vercel_a_second_message_of_another_id_is_a_fault() -> None:
    other = {"type": "message_start", "message": {"id": "other"}}
    assert chat(fed(answered(CHAT, MESSAGES), sse(start(), start(), *STOP)))["finish_reason"] == "stop"
    with pytest.raises(UpstreamError):
        fed(answered(CHAT, MESSAGES), sse(start(), other, *STOP))


def test_strands_2704_a_signature_without_text_is_kept() -> None:
    thought = block(0, {"type": "thinking", "thinking": ""}, {"type": "signature_delta", "signature": "s"})
    out = fed(answered(CHAT, MESSAGES), sse(start(), *thought, *STOP))
    (extra,) = [
        data["choices"][0]["delta"]["extra_content"]
        for _, data in events_of(out)[:-1]
        if b"extra" in json.dumps(data).encode()
    ]
    assert extra == {"anthropic": {"thinking": [{"thinking": "", "signature": "s"}]}}


def wish(*turns: Any, **members: Any) -> dict[str, Any]:
    """A request of the Chat Completions API."""
    return {"messages": list(turns), **members}


def test_cai_182_empty_texts_are_never_sent() -> None:
    for empty in ("", "  \n", None, []):
        request = told(CHAT, MESSAGES, wish({"role": "user", "content": "a"}, {"role": "assistant", "content": empty}))
        assert request["messages"] == [{"role": "user", "content": "a"}]


def test_opencodex_620_a_call_stays_where_its_text_was_empty() -> None:
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": ""},
    ]
    request = told(CHAT, MESSAGES, wish(*turns))
    assert request["messages"][1]["content"] == [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]
    assert request["messages"][2]["content"][0]["tool_use_id"] == "a"


def test_bifrost_6342_signed_thoughts_are_not_touched() -> None:
    signed = [{"thinking": "a\u00e9\\n", "signature": "s="}, {"data": "d"}]
    turn = {"role": "assistant", "content": "b", "extra_content": {"anthropic": {"thinking": signed}}}
    request = told(CHAT, MESSAGES, wish({"role": "user", "content": "a"}, turn, {"role": "user", "content": "c"}))
    assert request["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "a\u00e9\\n", "signature": "s="},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "text", "text": "b"},
    ]


def test_vllm_a_mark_of_ours_never_reaches_an_upstream_that_verifies() -> None:
    turn = {"role": "assistant", "content": "b", "thinking_blocks": [{"thinking": "a", "signature": "bgw1.p"}]}
    request = asked(CHAT, MESSAGES, wish({"role": "user", "content": "a"}, turn))
    assert b"bgw1" not in request.body
    assert request.dropped == ["reasoning"]


def test_a_calls_arguments_must_be_an_object() -> None:
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "[1]"}}]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": calls}]
    with pytest.raises(BadRequest) as refused:
        told(CHAT, MESSAGES, wish(*turns))
    assert refused.value.param == "messages[1].tool_calls.function.arguments"


# ---------------------------------------------------------------- responses


def test_litellm_22578_calls_in_a_row_are_one_turn() -> None:
    calls = [{"type": "function_call", "call_id": f"c{n}", "name": "f", "arguments": "{}"} for n in range(3)]
    outputs = [{"type": "function_call_output", "call_id": f"c{n}", "output": "r"} for n in range(3)]
    request = told(RESPONSES, CHAT, {"input": [{"role": "user", "content": "a"}, *calls, *outputs]})
    assert roles(request) == ["user", "assistant", "tool", "tool", "tool"]
    assert len(request["messages"][1]["tool_calls"]) == 3


def test_litellm_18201_parallel_tool_calls_arrive() -> None:
    tools = [{"type": "function", "name": "f", "parameters": {}}]
    assert (
        told(RESPONSES, CHAT, {"input": "a", "tools": tools, "parallel_tool_calls": False})["parallel_tool_calls"]
        is False
    )


def test_9router_354_and_sub2api_2926_calls_are_closed_items() -> None:
    out = fed(
        answered(RESPONSES, CHAT),
        stream(call(0, '{"a":1}', id="x", name="f"), call(1, "{}", id="y", name="g"), ended("stop")),
    )
    response = responses(out)
    assert [(item["type"], item["call_id"]) for item in response["output"]] == [
        ("function_call", "x"),
        ("function_call", "y"),
    ]


def test_vllm_42407_text_has_its_done_events() -> None:
    names = [name for name, _ in events_of(fed(answered(RESPONSES, CHAT), stream({"content": "a"}, ended("stop"))))]
    assert names[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_cliproxyapi_6007_vendors_events_do_not_leak() -> None:
    data = stream({"content": "a"}, {"choices": [], "vendor": 1}, ended("stop"))
    out = fed(answered(RESPONSES, CHAT), b': comment\n\nevent: codex.rate_limits\ndata: {"x":1}\n\n' + data)
    assert responses(out)["output"][0]["content"][0]["text"] == "a"
    assert b"vendor" not in out
    assert b"rate_limits" not in out


def test_vercel_12218_xai_says_stop_behind_calls() -> None:
    data = stream(call(0, "{}", id="x", name="f"), ended("stop"))
    assert responses(fed(answered(RESPONSES, CHAT), data))["output"][0]["status"] == "completed"
    assert messages(fed(answered(MESSAGES, CHAT), data))["stop_reason"] == "tool_use"


@pytest.mark.parametrize("id", ["functions.Bash:0", "", "a b"])
def test_bifrost_5097_ids_that_anthropic_refuses_are_replaced_alike(id: str) -> None:  # noqa: A002
    calls = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": id, "content": "r"},
    ]
    request = told(CHAT, MESSAGES, wish(*turns))
    sent = request["messages"][1]["content"][0]["id"]
    assert sent == request["messages"][2]["content"][0]["tool_use_id"]
    assert sent.startswith("toolu_")


def test_sub2api_2926_no_delta_comes_before_its_item() -> None:
    data = stream(
        {"reasoning_content": "a"}, {"content": "b"}, {"reasoning_content": "c"}, {"content": "d"}, ended("stop")
    )
    response = responses(fed(answered(RESPONSES, CHAT), data))
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "reasoning", "message"]


# ---------------------------------------------------------------- gemini

GEMINI = "gemini.generate"


def gemini(*chunks: Any) -> bytes:
    """A stream of Gemini's: lists of parts, with a reason behind the last one or in a chunk of its own."""
    datas = []
    for chunk in chunks:
        parts, reason = chunk if isinstance(chunk, tuple) else (chunk, None)
        candidate = {"content": {"parts": parts}} | ({"finishReason": reason} if reason else {})
        datas.append(f"data: {json.dumps({'candidates': [candidate]})}\n\n")
    return "".join(datas).encode()


def test_langchain_620_calls_of_one_name_keep_apart() -> None:
    go = {"functionCall": {"name": "f", "args": {"a": 1}}}
    said = chat(fed(answered(CHAT, GEMINI), gemini([go, go], [go], ([], "STOP"))))
    assert len(said["tool_calls"]) == 3
    assert len({one["id"] for one in said["tool_calls"]}) == 3


def test_ai_gateway_stop_without_the_call_is_still_a_call() -> None:
    go = {"functionCall": {"name": "f", "args": {}}}
    assert chat(fed(answered(CHAT, GEMINI), gemini([go], ([{"text": ""}], "STOP"))))["finish_reason"] == "tool_calls"


def test_openclaude_67_and_mlflow_25788_signatures_and_results_of_calls() -> None:
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in range(3)]
    results = [{"role": "tool", "tool_call_id": f"c{n}", "content": "r"} for n in range(3)]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": calls}, *results]
    _, model, user = told(CHAT, GEMINI, wish(*turns))["contents"]
    assert ["thoughtSignature" in part for part in model["parts"]] == [True, False, False]
    assert [part["functionResponse"]["id"] for part in user["parts"]] == ["c0", "c1", "c2"]


def test_vercel_a_malformed_call_is_a_fault() -> None:
    with pytest.raises(UpstreamError):
        fed(answered(CHAT, GEMINI), gemini(([], "MALFORMED_FUNCTION_CALL")))
    assert chat(fed(answered(CHAT, GEMINI), gemini(([{"text": "a"}], "SAFETY"))))["finish_reason"] == "content_filter"
