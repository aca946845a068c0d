"""The model that is none: what it says, counts and calls."""

from __future__ import annotations

import base64
import json
import math
import struct

import pytest

from budgateway.demo import model

WEATHER = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CLOCK = {"name": "clock", "parameters": {"type": "object", "properties": {"hours": {"type": "integer"}}}}


@pytest.mark.parametrize("text", ["", "  ", "one two,  three\n\n", "naïve 日本 🙂!", "trailing \t"])
def test_tokens_joined_are_the_text_again(text: str) -> None:
    assert "".join(model.tokens_of(text)) == text


def test_answer_stops_before_the_earliest_stop_sequence() -> None:
    said = model.answer("hello", stop=["demo", "I am"])
    assert said.text == 'You said: "hello". '
    assert said.finish_reason == "stop"


def test_answer_is_cut_at_max_tokens_and_says_so() -> None:
    said = model.answer("hello", max_tokens=2)
    assert (said.text, said.finish_reason) == ("You said", "length")


def test_usage_counts_whole_blocks_of_the_prompt_as_cached() -> None:
    assert model.usage(33, 2)["prompt_tokens_details"] == {"cached_tokens": 32}
    assert model.usage(33, 2)["total_tokens"] == 35


def test_embedding_is_a_unit_vector_and_survives_base64() -> None:
    vector = model.embedding("hello", 5)
    assert math.isclose(sum(number * number for number in vector), 1.0, rel_tol=1e-6)
    assert list(struct.unpack("<5f", base64.b64decode(model.embedding_base64(vector)))) == vector
    assert vector != model.embedding("other", 5)


@pytest.mark.parametrize(
    ("question", "choice", "names"),
    [
        ("what is the weather in Paris", "auto", ["get_weather"]),
        ("weather and clock", "auto", ["get_weather", "clock"]),
        ("hello", "auto", []),
        ("hello", "required", ["get_weather"]),
        ("what is the weather", "none", []),
        ("hello", {"type": "function", "function": {"name": "clock"}}, ["clock"]),
        ("hello", {"type": "function", "name": "clock"}, ["clock"]),
    ],
)
def test_tools_are_called_when_the_question_or_the_choice_asks(question: str, choice: object, names: list[str]) -> None:
    calls = model.tool_calls(question, [WEATHER, CLOCK], choice)
    assert [call.name for call in calls] == names
    assert all("".join(call.pieces) == call.arguments for call in calls)


def test_tool_arguments_fit_their_schema() -> None:
    (call,) = model.tool_calls("the weather in Paris", [WEATHER], "auto")
    assert json.loads(call.arguments) == {"city": "Paris"}


def test_too_many_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="n must be"):
        model.choices_of({"n": 1000})
