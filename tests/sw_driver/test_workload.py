"""Workloads against shapes and counts worked out by hand."""

from __future__ import annotations

import pytest

from rtl_gen.errors import InputError
from sw_driver.architecture import Mlp, load_architecture
from sw_driver.mapper.workload import (
    Attention,
    Linear,
    Lookup,
    Workload,
    decode_workload,
    prefill_workload,
    routed_rows,
)


def decode(name: str, steps: int = 1, **more: int) -> Workload:
    return decode_workload(load_architecture(name), steps, context=more.pop("context", 100), **more)


def prefill(name: str, tokens: int, **more: int) -> Workload:
    return prefill_workload(load_architecture(name), tokens, **more)


def shape(work: Workload, name: str) -> tuple[int, int, int, int, int]:
    (item,) = [item for item in work.operators if item.name == name]
    assert isinstance(item, Linear)
    return item.m, item.n, item.k, item.instances, item.runs


def attention(work: Workload, name: str = "scores") -> Attention:
    (item,) = [item for item in work.operators if item.name == name]
    assert isinstance(item, Attention)
    return item


def test_grouped_query_attention() -> None:
    work = decode("llama-2-70b", 3, batch=5)
    assert shape(work, "q") == (5, 8192, 8192, 1, 80 * 3)
    assert shape(work, "k") == (5, 1024, 8192, 1, 80 * 3)
    item = attention(work)
    # One GEMM for each sequence and KV head; its rows are the eight query heads that share it.
    assert (item.instances, item.group, item.rows) == (5 * 8, 8, 8)
    # Tokens 101, 102 and 103 see as many tokens.
    assert item.visible == 101 + 102 + 103
    assert item.macs == 80 * 5 * 64 * 128 * 306


def test_macs_of_a_token_are_those_of_its_parameters() -> None:
    arch = load_architecture("llama-2-7b")
    work = decode_workload(arch, 1, context=0)
    linear = sum(item.macs for item in work.operators if isinstance(item, Linear))
    norms = (2 * 32 + 1) * 4096
    embedding = 32000 * 4096
    assert linear == arch.parameters - norms - embedding


def test_active_experts_alone_are_computed() -> None:
    arch = load_architecture("mixtral-8x7b")
    work = decode_workload(arch, 1, context=0)
    linear = sum(item.macs for item in work.operators if isinstance(item, Linear))
    norms = (2 * 32 + 1) * 4096
    assert linear == arch.active_parameters - norms - 32000 * 4096
    assert work.experts_touched == 2


@pytest.mark.parametrize(
    ("tokens", "shares"),
    [
        (1, [(1, 2)]),  # two experts, a row each
        (3, [(1, 6)]),
        (4, [(1, 8)]),
        (5, [(2, 2), (1, 6)]),  # ten assignments to eight experts
        (512, [(128, 8)]),
    ],
)
def test_distinct_experts(tokens: int, shares: list[tuple[int, int]]) -> None:
    mlp = Mlp(gated=True, width=1, experts=8, active=2)
    assert routed_rows(tokens, mlp) == shares


def test_uneven_experts_are_two_operators() -> None:
    work = decode("mixtral-8x7b", batch=5)
    assert shape(work, "expert gate (2 rows)") == (2, 14336, 4096, 2, 32)
    assert shape(work, "expert gate (1 rows)") == (1, 14336, 4096, 6, 32)
    assert shape(work, "router") == (5, 8, 4096, 1, 32)
    assert work.experts_touched == 8


def test_sliding_window_bounds_the_tokens_seen() -> None:
    work = decode("mistral-7b-v0.1", 10, context=4090)
    # 4091 ... 4096, then the window.
    assert attention(work).visible == sum(range(4091, 4097)) + 4 * 4096
    work = prefill("mistral-7b-v0.1", 5000)
    assert attention(work).visible == 4096 * 4097 // 2 + (5000 - 4096) * 4096


def test_alternating_layers_are_counted_apart() -> None:
    work = decode("gemma-2-2b", context=5000)
    assert attention(work, "scores (window 4096)").layers == 13
    assert attention(work, "scores (window 4096)").visible == 4096
    assert attention(work, "scores").layers == 13
    assert attention(work, "scores").visible == 5001
    assert sum(item.runs for item in work.operators if item.name == "gate") == 26


def test_prefill_sees_the_causal_triangle_and_what_was_before() -> None:
    assert attention(prefill("gpt2", 4)).visible == 1 + 2 + 3 + 4
    assert attention(prefill("gpt2", 4, context=10)).visible == 11 + 12 + 13 + 14


def test_encoder_sees_every_token_and_has_no_cache() -> None:
    work = prefill("bert-base-uncased", 7, batch=3)
    item = attention(work)
    assert (item.instances, item.visible, item.causal) == (3 * 12, 49, False)
    assert not any(item.to_cache for item in work.operators if isinstance(item, Linear))
    assert shape(work, "pooler") == (3, 768, 768, 1, 1)


def test_head_reads_the_last_token_of_each_sequence() -> None:
    assert shape(prefill("llama-2-7b", 64, batch=2), "lm_head") == (2, 32000, 4096, 1, 1)
    assert shape(decode("llama-2-7b", 9, batch=2), "lm_head") == (2, 32000, 4096, 1, 9)


def test_projected_embedding() -> None:
    work = prefill("opt-350m", 8)
    assert shape(work, "project_in") == (8, 1024, 512, 1, 1)
    assert shape(work, "project_out") == (1, 512, 1024, 1, 1)
    assert shape(work, "lm_head") == (1, 50272, 512, 1, 1)


def test_lookups() -> None:
    work = decode("gpt2", 3, batch=2)
    assert work.lookups == (
        Lookup(name="embedding", vectors=6, width=768),
        Lookup(name="positions", vectors=6, width=768),
    )


def test_vector_work_of_one_token() -> None:
    work = decode("qwen3-0.6b", context=9)
    counts = {item.name: item.elements for item in work.vector}
    layers, hidden, q, kv = 28, 1024, 2048, 1024
    assert counts["norm"] == layers * (2 * hidden + q + kv) + hidden
    assert counts["rotary"] == layers * (q + kv)
    assert counts["softmax"] == layers * 16 * 10
    assert counts["activation (silu)"] == layers * 3072
    assert counts["residual"] == 2 * layers * hidden
    linear_inputs = layers * (3 * hidden + q + 2 * hidden + 3072) + hidden
    assert counts["quantize activations"] == linear_inputs + layers * q + counts["softmax"]


def test_ternary_layers_are_marked() -> None:
    marked = {
        item.name
        for item in decode("bitnet-b1.58-3b").operators
        if isinstance(item, Linear) and item.ternary
    }
    assert marked == {"q", "k", "v", "o", "gate", "up", "down"}


@pytest.mark.parametrize(
    ("name", "numbers", "text"),
    [
        (
            "gpt2",
            {"steps": 1, "context": 1024},
            r"gpt2: decode: must be at most 1024 tokens with those before them, .* got 1024 \+ 1",
        ),
        ("gpt2", {"steps": 0, "context": 1}, r"gpt2: decode: must lie in \[1, 16777216\], got 0"),
        ("gpt2", {"steps": 1, "context": -1}, r"gpt2: context: must lie in \[0, 16777216\]"),
        ("gpt2", {"steps": 1, "context": 1, "batch": 0}, r"batch: must lie in \[1, 65536\], got 0"),
        (
            "bert-base-uncased",
            {"steps": 1, "context": 1},
            "is an encoder, it can only be prefilled",
        ),
    ],
)
def test_numbers_out_of_range(name: str, numbers: dict[str, int], text: str) -> None:
    arch = load_architecture(name)
    with pytest.raises(InputError, match=text):
        decode_workload(arch, numbers.pop("steps"), **numbers)


def test_context_beyond_the_published_length_is_noted() -> None:
    assert decode("llama-2-7b", context=4096).notes == (
        "4097 tokens are more than the 4096 it is published for",
    )
    assert decode("llama-2-7b", context=4095).notes == ()
