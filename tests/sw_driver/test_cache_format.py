"""Formats of the KV cache in a mapping: bytes are those that the quantizer stores."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hw.block import spec_from_dict
from rtl_gen.errors import InputError
from sw_driver.architecture import Architecture, LayerGroup, Mlp, load_architecture
from sw_driver.mapper.cache_format import (
    CacheFormat,
    CacheScheme,
    Growth,
    parse_cache,
    written_plain,
)
from sw_driver.mapper.core import Core, core_of
from sw_driver.mapper.cost import Line
from sw_driver.mapper.many import evaluate_many
from sw_driver.mapper.mapping import Choices, Mapping, OperatorCost, map_workload
from sw_driver.mapper.workload import (
    Linear,
    Workload,
    decode_workload,
    draft_workload,
    prefill_workload,
    verify_workload,
)
from sw_driver.quantize.cache import InputCache, KvCache

LAYERS, HEADS, DIM, HIDDEN = 3, 2, 16, 64
KIVI = "kivi:2,group=8,window=16"
XQUANT = "xquant:4,group=16,window=4"


def core(**more: Any) -> Core:
    settings: dict[str, Any] = {
        "block": "lut_core",
        "name": "c",
        "tile": {"m": 2, "n": 8, "k": 16},
        "weights": {"encoding": "unsigned", "max_bits": 4},
        "max_k": 256,
        "memory": {"bandwidth_gb_s": 25.6},
    }
    return core_of(spec_from_dict({**settings, **more}))  # type: ignore[arg-type]


def small() -> Architecture:
    arch = load_architecture("llama-2-70b")
    group = LayerGroup(count=LAYERS, window=None, mlp=Mlp(gated=True, width=96))
    sizes = {"hidden": HIDDEN, "heads": 6, "kv_heads": HEADS, "head_dim": DIM, "vocab": 50}
    return replace(arch, name="small", layer_groups=(group,), rotary=DIM, **sizes)


def scheme(text: str) -> CacheScheme:
    bits, found = parse_cache(text)
    assert bits is None
    assert found is not None
    return found


def kivi_cache(tokens: int, text: str = KIVI) -> KvCache:
    cache = KvCache(HEADS, DIM, scheme(text).codes)
    if tokens:
        cache.append(np.ones((tokens, HEADS, DIM)), np.ones((tokens, HEADS, DIM)))
    return cache


def input_bytes(tokens: int) -> int:
    cache = InputCache(HIDDEN, scheme(XQUANT).codes)
    cache.append(np.ones((tokens, HIDDEN)))
    return cache.bytes


def row(mapping: Mapping, name: str) -> OperatorCost:
    (item,) = [item for item in mapping.operators if item.name == name]
    return item


def mapped(work: Workload, text: str, **choices: Any) -> Mapping:
    return map_workload(work, core(), Choices(kv=scheme(text), **choices))


@pytest.mark.parametrize("tokens", [1, 7, 8, 16, 17, 47, 48, 100])
def test_cache_that_is_kept_is_the_quantizer_s(tokens: int) -> None:
    for batch in (1, 3):
        work = prefill_workload(small(), tokens, batch=batch)
        assert mapped(work, KIVI).cache_bytes == LAYERS * batch * kivi_cache(tokens).bytes
        work = prefill_workload(small(), tokens, batch=batch, inputs_cached=True)
        assert mapped(work, XQUANT).cache_bytes == LAYERS * batch * input_bytes(tokens)


def test_decoding_reads_what_the_quantizer_holds() -> None:
    """Token by token, what is held once the token is in."""
    steps, context, batch = 40, 5, 2
    held = [kivi_cache(context + step + 1) for step in range(steps)]
    mapping = mapped(decode_workload(small(), steps, context=context, batch=batch), KIVI)
    read = [row(mapping, name).weight_bytes for name in ("scores", "values")]
    assert sum(read) == LAYERS * batch * sum(cache.bytes for cache in held)
    keys = [
        HEADS * DIM * (cache.quantized_tokens[0] * 2 + cache.quantized_tokens[0] // 8 * 18)
        + HEADS * DIM * 16 * (cache.tokens - cache.quantized_tokens[0])
        for cache in held
    ]
    assert read[0] == LAYERS * batch * sum(keys) // 8
    assert not any(row(mapping, name).covered for name in ("scores", "values"))
    assert row(mapping, "scores").cycles == 0
    assert "off" not in row(mapping, "q").kind


def stored(tokens: int) -> tuple[set[int], set[int]]:
    """Tokens whose keys, and whose values, are codes."""
    keys, values = kivi_cache(tokens).quantized_tokens
    return set(range(keys)), set(range(values))


def counted_writes(past: int, news: list[int]) -> int:
    """Bits that are written for one sequence and layer: codes when made, the rest as it comes."""
    bits, tokens = 0, past
    for new in news:
        before, after = stored(tokens), stored(tokens + new)
        fresh = set(range(tokens, tokens + new))
        keys, values = (later - earlier for earlier, later in zip(before, after, strict=True))
        bits += HEADS * DIM * (len(keys) * 2 + len(keys) // 8 * 18)
        bits += HEADS * len(values) * (DIM * 2 + 2 * 18)
        bits += sum(len(fresh - codes) for codes in after) * HEADS * DIM * 16
        tokens += new
    return bits


@pytest.mark.parametrize(
    ("past", "news"),
    [(0, [5]), (0, [16]), (0, [47]), (13, [40]), (9, [1] * 50), (3, [7] * 6), (0, [20, 20, 9])],
)
def test_writes_are_those_of_the_quantizer(past: int, news: list[int]) -> None:
    if set(news) == {1}:
        work = decode_workload(small(), len(news), context=past)
    else:
        work = prefill_workload(small(), sum(news), context=past, chunk=news[0])
    mapping = mapped(work, KIVI)
    items = [item for item in mapping.operators if item.kind in ("scores", "values")]
    results = LAYERS * sum(news) * 6 * DIM  # the values' own results, a byte each
    found = sum(item.output_bytes for item in items) - results
    assert found == LAYERS * counted_writes(past, news) // 8
    assert row(mapping, "k").output_bytes == row(mapping, "v").output_bytes == 0


@pytest.mark.parametrize("buffer", [0, 300, 1 << 21])
def test_blocks_of_rows_read_what_they_see(buffer: int) -> None:
    """A chunk of 12 tokens after 30: rows in blocks, each reads the tokens up to its last one."""
    work = prefill_workload(small(), 24, context=30, chunk=12)
    mapping = mapped(work, KIVI, buffer_bytes=buffer)
    rows = 12 * 3
    block = {0: 2, 300: 2, 1 << 21: rows}[buffer]
    keys = values = 0
    for before in (30, 42):
        codes, plain_from = (len(part) for part in stored(before + 12))
        for end in range(block, rows + block, block):
            seen = before + (min(end, rows) - 1) // 3 + 1
            done = min(seen, codes)
            keys += HEADS * DIM * (done * 2 + (seen - done) * 16)
            keys += HEADS * DIM * math.ceil(done / 8) * 18
            done = min(seen, plain_from)
            values += HEADS * (done * (DIM * 2 + 2 * 18) + (seen - done) * DIM * 16)
    assert row(mapping, "scores").weight_bytes == LAYERS * math.ceil(keys / 8)
    assert row(mapping, "values").weight_bytes == LAYERS * math.ceil(values / 8)


def test_verified_tokens_are_in_the_cache_that_is_read() -> None:
    work = verify_workload(small(), 30, drafted=3, accept=0.8, context=20)
    mapping = mapped(work, KIVI)
    held = [kivi_cache(20 + math.floor(step * 2.952) + 4) for step in range(11)]
    read = sum(row(mapping, name).weight_bytes for name in ("scores", "values"))
    assert read == LAYERS * sum(cache.bytes for cache in held)
    assert mapping.cache_bytes == LAYERS * held[-1].bytes


def test_new_vectors_that_stay_as_they_are() -> None:
    form = CacheFormat(bits=2, group=4, window=12)
    for new in (1, 3, 5, 12, 13, 30):
        for past in (0, 7, 12, 25):
            for line in (Line(new), Line(3, 2)):
                growth = Growth(past=past, new=new, steps=9, line=line)
                held = [past + line.at(step) + new for step in range(9)]
                keys = sum(min(new, tokens % 12) for tokens in held)
                assert written_plain(form, growth, keys=True) == keys
                assert growth.plain_keys(form) == sum(tokens % 12 for tokens in held)
                assert growth.plain_values(form) == sum(min(tokens, 12) for tokens in held)
                assert growth.seen == sum(held)


def test_keys_and_values_made_again_from_inputs() -> None:
    steps, context, batch = 6, 10, 2
    work = decode_workload(small(), steps, context=context, batch=batch, inputs_cached=True)
    mapping = mapped(work, XQUANT, group=32)
    k, v = row(mapping, "k"), row(mapping, "v")
    seen = [batch * (context + step + 1) for step in range(steps)]
    # Two rows and eight columns a tile; 32 columns, 64 of K in 4 steps of 4 planes.
    tiles = sum(math.ceil(rows / 2) for rows in seen) * 4
    assert k.cycles == v.cycles == LAYERS * (steps * core().latency + tiles * 4 * 4)
    assert k.macs == LAYERS * sum(seen) * 32 * HIDDEN
    # 2·l·hidden·(width of K and V) operations a step, as the quantizer counts them.
    cache = InputCache(HIDDEN, scheme(XQUANT).codes)
    cache.append(np.ones((context + 1, HIDDEN)))
    one = decode_workload(small(), 1, context=context, inputs_cached=True)
    made = [item for item in one.operators if isinstance(item, Linear) and item.remade]
    assert 2 * sum(item.macs for item in made) == LAYERS * cache.operations((32, 32))
    # X is read once for both, and nothing else of them but weights.
    inputs = sum(input_bytes(context + step + 1) for step in range(steps))
    assert k.activation_bytes == LAYERS * batch * inputs
    assert (v.activation_bytes, k.output_bytes, v.output_bytes) == (0, 0, 0)
    assert k.weight_bytes == LAYERS * steps * 32 * HIDDEN // 2
    # Attention takes them from the chip; X of a new token is written there.
    assert row(mapping, "scores").weight_bytes == row(mapping, "values").bytes - LAYERS * (
        batch * steps * 6 * DIM
    )
    assert row(mapping, "scores").cycles > 0
    plain = map_workload(decode_workload(small(), steps, context=context, batch=batch), core())
    assert row(mapping, "scores").cycles == row(plain, "scores").cycles
    # A token is written at 16 bits and once more in codes when it leaves the window of 4.
    new = 16 * HIDDEN + 4 * HIDDEN + HIDDEN // 16 * (16 + 4)
    assert row(mapping, "scores").output_bytes == LAYERS * batch * math.ceil(steps * new / 8)
    vectors = dict(mapping.vector)
    assert vectors["rotary"] == LAYERS * DIM * (steps * batch * 6 + sum(seen) * HEADS)


@pytest.mark.parametrize("kind", ["verify", "chunks"])
def test_inputs_step_by_step(kind: str) -> None:
    """Keys and values of all tokens are made again in every step of a verification, or chunk."""
    if kind == "verify":
        more: dict[str, Any] = {"drafted": 3, "accept": 0.8}
        work = verify_workload(small(), 25, context=9, batch=2, inputs_cached=True, **more)
        steps = [(9 + math.floor(step * 2.952), 4) for step in range(9)]
    else:
        work = prefill_workload(small(), 30, context=9, batch=2, chunk=8, inputs_cached=True)
        steps = [(9, 8), (17, 8), (25, 8), (33, 6)]
    parts = [
        prefill_workload(small(), new, context=past, batch=2, inputs_cached=True)
        for past, new in steps
    ]
    names = ("cycles", "macs", "jobs", "weight_bytes", "scale_bytes", "activation_bytes")
    for role in ("k", "v"):
        for name in names:
            found = [
                sum(
                    getattr(item, name)
                    for item in mapped(one, XQUANT).operators
                    if item.name.split(" (")[0] == role
                )
                for one in (work, *parts)
            ]
            assert found[0] == sum(found[1:]), (role, name)


def test_inputs_in_a_tight_buffer_are_read_for_blocks_of_both_weights() -> None:
    # 64 of K: a row of A takes 64 bytes, a column of W 32. Beside two rows there is room for eight
    # columns, beside eight columns for four rows.
    held = set()
    for seen in range(2, 90):
        work = decode_workload(small(), 1, context=seen - 1, inputs_cached=True)
        mapping = mapped(work, "xquant:8,group=64", buffer_bytes=128 + 256 + 128)
        k, v = row(mapping, "k"), row(mapping, "v")
        x, w = seen * (64 + 3), 2 * 32 * 32
        hold_w, hold_x = x * 8 + w, x + w * math.ceil(seen / 4)
        found = k.activation_bytes + k.weight_bytes + v.weight_bytes
        assert found == LAYERS * min(hold_w, hold_x)
        held.add(hold_w < hold_x)
    assert held == {False, True}


def test_floats_take_their_bytes_and_no_scale() -> None:
    work = decode_workload(small(), 1, context=19, batch=2)
    for text, size in (("fp16", 2), ("bf16", 2), ("fp8", 1), ("fp8_e5m2", 1)):
        mapping = mapped(work, text)
        scores = row(mapping, "scores")
        assert scores.weight_bytes == LAYERS * 2 * HEADS * 20 * DIM * size
        assert (scores.scale_bytes, scores.covered) == (0, False)
        assert row(mapping, "k").output_bytes == LAYERS * 2 * HEADS * DIM * size
        assert mapping.cache_bytes == LAYERS * 2 * 20 * 2 * HEADS * DIM * size
        name = "fp8_e4m3" if text == "fp8" else text
        assert any(f"a KV cache of {name} is none of its weights" in n for n in mapping.notes)
    wide = core_of(
        spec_from_dict({"block": "fp_core", "name": "f", "tile": {"m": 2, "n": 8, "k": 16}})
    )
    if wide.weight_format:
        found = map_workload(work, wide, Choices(kv=scheme(wide.weight_format)))
        plain = map_workload(work, wide)
        assert found.cycles == plain.cycles
        assert found.bytes == plain.bytes


def test_names_of_formats() -> None:
    assert parse_cache("int4") == (4, None)
    assert scheme("kivi:2").codes == CacheFormat(bits=2, group=32, window=128)
    assert scheme("xquant:4").codes == CacheFormat(bits=4, group=128, window=0)
    assert scheme("kivi:1,window=64,group=16").codes == CacheFormat(bits=1, group=16, window=64)
    for text, error in (
        ("int0", "kv: must be int1 to int16, .* got 'int0'"),
        ("int17", "got 'int17'"),
        ("kivi", "got 'kivi'"),
        ("kivi:2,size=4", "got 'kivi:2,size=4'"),
        ("kivi:9", r"kv: kivi:9: bits: must lie in \[1, 8\], got 9"),
        ("kivi:2,group=16,group=32", "must give group and window once each"),
        ("int4,group=32", "the last two with ,group=G,window=W behind them"),
        ("kivi:2,group=0", "group: must be positive, got 0"),
        ("kivi:2,group=48", "window: must be a multiple of the group of 48 tokens .* got 128"),
        ("kivi:2,window=0", "window: must be a multiple of the group of 32 tokens .* got 0"),
        ("fp4", "got 'fp4'"),
    ):
        with pytest.raises(InputError, match=error):
            parse_cache(text)


def test_formats_that_do_not_fit() -> None:
    work = decode_workload(small(), 1, context=3)
    one = core()
    for wrong, choices, text in (
        (work, Choices(kv=scheme(KIVI), kv_bits=4), "kv_bits: must not be given beside kv kivi"),
        (work, Choices(kv=scheme(XQUANT)), "xquant and inputs_cached of the workload must come"),
        (
            decode_workload(small(), 1, context=3, inputs_cached=True),
            Choices(),
            "must come together, got kv none and inputs_cached True",
        ),
        (
            draft_workload(small(), 3, drafted=1, accept=0.5, context=3),
            Choices(kv=scheme(KIVI)),
            "must not be asked of a draft",
        ),
        (
            prefill_workload(load_architecture("bert-base-uncased"), 3),
            Choices(kv=scheme(KIVI)),
            "must not be asked of an encoder, bert-base-uncased has no cache",
        ),
        (
            decode_workload(load_architecture("deepseek-v2"), 1, context=3),
            Choices(kv=scheme(KIVI)),
            "deepseek-v2, whose cache keeps latents",
        ),
        (
            decode_workload(load_architecture("gemma-2-2b"), 1, context=3),
            Choices(kv=scheme(KIVI)),
            "gemma-2-2b, which has sliding windows",
        ),
    ):
        with pytest.raises(InputError, match=text):
            map_workload(wrong, one, choices)
    for name, text in (
        ("bert-base-uncased", "an encoder, it has no cache"),
        ("deepseek-v2", "latent attention, its cache keeps latents"),
        ("gemma-2-2b", "a model with sliding windows"),
    ):
        with pytest.raises(InputError, match=f"kv: xquant: must not be asked of {text}"):
            prefill_workload(load_architecture(name), 3, inputs_cached=True)
    with pytest.raises(InputError, match=r"kv: kivi:2.*: must be integers here"):
        evaluate_many([one], [work], Choices(kv=scheme(KIVI)))
