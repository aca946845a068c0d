"""Load metrics of engines, in the format of several versions."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgateway._native import Segment
from budgateway.health.engine import Load, read_load, read_models

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B"} 3.0
vllm:num_requests_running{engine="1",model_name="meta-llama/Llama-3.1-8B"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a } in a name"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:gpu_cache_usage_perc{engine="0"} 0.99
"""


def test_ranks_add_up_and_the_fullest_cache_counts() -> None:
    assert read_load(VLLM) == Load(7, 2, 0.75)


@pytest.mark.parametrize(
    ("text", "load"),
    [
        ("vllm:num_requests_running 1\nvllm:gpu_cache_usage_perc 0.5\n", Load(1, 0, 0.5)),
        ('sglang:num_running_reqs{tp_rank="0"} 5\nsglang:num_queue_reqs 6\nsglang:token_usage 0.3\n', Load(5, 6, 0.3)),
        ("sglang_num_running_reqs 5 1700000000000\n", Load(5, 0, 0.0)),
        (
            "llamacpp:requests_processing 1\nllamacpp:requests_deferred 2\nllamacpp:kv_cache_usage_ratio 0.1\n",
            Load(1, 2, 0.1),
        ),
        (
            "vllm:num_requests_running NaN\nvllm:num_requests_waiting 1e300000\nvllm:kv_cache_usage_perc 7\n",
            Load(0, 0, 1.0),
        ),
        ("process_cpu_seconds_total 3\n", None),
        ("vllm:num_requests_running\nvllm:num_requests_waiting{", None),
        ("", None),
    ],
)
def test_metrics_are_read_under_the_names_of_each_engine(text: str, load: Load | None) -> None:
    assert read_load(text.encode()) == load


@pytest.mark.parametrize(
    ("document", "load"),
    [
        # /v1/loads
        (
            {
                "loads": [
                    {"num_running_reqs": 2, "num_waiting_reqs": 1, "token_usage": 0.5},
                    {"num_running_reqs": 1, "num_waiting_reqs": 0, "token_usage": 0.75},
                ]
            },
            Load(3, 1, 0.75),
        ),
        # /get_load, before it
        ([{"dp_rank": 0, "num_reqs": 5, "num_waiting_reqs": 2, "num_tokens": 100}], Load(3, 2, 0.0)),
        ({"loads": [{"num_running_reqs": -1}]}, None),
        ({"error": "no"}, None),
        ([], None),
        ({"loads": [{"num_running_reqs": True}, 7]}, None),
    ],
)
def test_sglangs_report_is_read_in_both_its_forms(document: object, load: Load | None) -> None:
    assert read_load(json.dumps(document).encode()) == load


@pytest.mark.parametrize("body", [b"{", b"[", b"{]", b"\xff\xfe", b"vllm:num_requests_running \xff"])
def test_garbage_is_no_load(body: bytes) -> None:
    assert read_load(body) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"loads": ' + b"[" * 100_000,
        b'{"data": ' + b"[" * 100_000,
        json.dumps(
            {"loads": [{"num_running_reqs": 10**30, "num_waiting_reqs": 10**30, "token_usage": 1e308}]}
        ).encode(),
        b"vllm:num_requests_running 1e300\nvllm:num_requests_waiting 1e300\nvllm:kv_cache_usage_perc 1e300\n",
        b'{"data": [{"id": "half \\ud800"}]}',
    ],
)
def test_hostile_answers_become_something_that_can_be_kept(body: bytes) -> None:
    segment = Segment()
    slot = segment.upstream("a")
    load = read_load(body)
    if load is not None:
        segment.signal(slot, load.running, load.waiting, load.kv_usage, 1)
    segment.set_models(slot, read_models(body) or [])


@given(st.binary())
def test_any_bytes_can_be_read(body: bytes) -> None:
    read_load(body)
    read_models(body)


def test_a_model_list_is_its_ids() -> None:
    body = json.dumps({"object": "list", "data": [{"id": "qwen"}, {"id": 3}, "x", {"id": ""}, {"id": "llama"}]})
    assert read_models(body.encode()) == ["qwen", "llama"]
    assert read_models(b"{}") is None
    assert read_models(b"no") is None
