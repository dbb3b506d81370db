"""KIVI and XQuant caches: what is quantized along what, step by step as at once, and the bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sw_driver.architecture import load_architecture
from sw_driver.mapper.core import load_core
from sw_driver.mapper.mapping import Choices, map_workload
from sw_driver.mapper.workload import decode_workload
from sw_driver.quantize.cache import CacheFormat, InputCache, KvCache

FORM = CacheFormat(bits=2, group=8, window=16)


def numbers(tokens: int, heads: int = 2, dim: int = 12, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, heads, dim)).astype(np.float32)
    x[:, 1, 3] *= 40  # an outlier channel, as keys have them
    return x


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """The definition: one asymmetric group, scale in float16, zero point an integer."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.float32(np.float16(np.float32(np.float32(high - low) / np.float32(2**bits - 1))))
    zero = np.clip(np.rint(-np.float32(low) / scale), 0, 2**bits - 1)
    codes = np.clip(np.rint(x / scale) + zero, 0, 2**bits - 1)
    return ((codes - zero) * scale).astype(np.float32)


def test_keys_are_groups_of_tokens_and_values_of_channels() -> None:
    k, v = numbers(45), numbers(45, seed=2)
    cache = KvCache(2, 12, FORM)
    cache.append(k, v)
    # 45 = 2 · 16 + 13: of keys 13 stay, of values the last 16.
    assert cache.quantized_tokens == (32, 29)
    keys, values = cache.keys(), cache.values()
    assert np.array_equal(keys[32:], k[32:])
    assert np.array_equal(values[29:], v[29:])
    for start in range(0, 32, 8):
        for h in range(2):
            for c in range(12):
                part = slice(start, start + 8), h, c
                assert np.allclose(keys[part], rounded(k[part], 2), rtol=1e-6, atol=0)
    for t in range(29):
        for h in range(2):
            for channels in (slice(0, 8), slice(8, 12)):
                assert np.allclose(values[t, h, channels], rounded(v[t, h, channels], 2), rtol=1e-6)


def test_token_by_token_is_all_at_once() -> None:
    k, v = numbers(50), numbers(50, seed=2)
    slow = KvCache(2, 12, FORM)
    for t in range(50):
        slow.append(k[t : t + 1], v[t : t + 1])
        whole = KvCache(2, 12, FORM)
        whole.append(k[: t + 1], v[: t + 1])
        assert whole.quantized_tokens == slow.quantized_tokens
        assert whole.bytes == slow.bytes
    assert np.array_equal(slow.keys(), whole.keys())
    assert np.array_equal(slow.values(), whole.values())


def test_outlier_channels_want_keys_per_channel() -> None:
    k = numbers(64)
    kivi = KvCache(2, 12, FORM)
    # The same numbers as values are quantized token by token.
    kivi.append(k, k)
    per_channel = np.square(kivi.keys()[:48] - k[:48])[:, 1]
    per_token = np.square(kivi.values()[:48] - k[:48])[:, 1]
    others = np.arange(12) != 3
    assert per_channel[:, others].mean() < per_token[:, others].mean() / 3


def test_bytes_by_hand() -> None:
    cache = KvCache(2, 12, FORM)
    cache.append(numbers(45), numbers(45))
    keys = 24 * (32 * 2 + 4 * (16 + 2)) + 13 * 24 * 16
    values = 29 * 2 * (12 * 2 + 2 * (16 + 2)) + 16 * 24 * 16
    assert cache.bytes == (keys + 7) // 8 + (values + 7) // 8


def test_bytes_are_the_mapper_s(root: Path) -> None:
    # The mapper's cache is per token with a scale for each head: an input cache of that width.
    arch = load_architecture("gpt2")
    core = load_core(root / "hw/configs/lut_core.yaml")
    mapping = map_workload(decode_workload(arch, 1, context=6), core, Choices(kv_bits=4))
    width = arch.kv_heads * arch.head_dim
    cache = InputCache(width, CacheFormat(bits=4, group=arch.head_dim, window=0))
    cache.append(np.ones((7, width), dtype=np.float32))
    assert core.zero_point
    assert mapping.cache_bytes == arch.layers * 2 * cache.bytes


def test_keys_and_values_from_inputs() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(20, 32)).astype(np.float32)
    w, b = rng.normal(size=(48, 32)).astype(np.float32), np.ones(48, dtype=np.float32)
    errors = []
    for bits in (2, 4, 8):
        cache = InputCache(32, CacheFormat(bits=bits, group=16, window=4))
        cache.append(x[:7])
        cache.append(x[7:])
        assert np.array_equal(cache.inputs()[16:], x[16:])
        first = np.concatenate([rounded(x[0, :16], bits), rounded(x[0, 16:], bits)])
        assert np.allclose(cache.inputs()[0], first, rtol=1e-6)
        found = cache.rematerialised(w, b)
        assert np.allclose(found[16:], x[16:] @ w.T + b, rtol=1e-5)
        errors.append(float(np.square(found - x @ w.T - b).mean()))
        assert cache.bytes == (16 * (32 * bits + 2 * (16 + bits)) + 4 * 32 * 16) // 8
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    # 4·l·d² for keys and values as wide as the input.
    assert cache.operations((32, 32)) == 4 * 20 * 32**2


def test_refusals() -> None:
    with pytest.raises(ValueError, match="window: must be a multiple of the group of 8 tokens"):
        KvCache(2, 12, CacheFormat(group=8, window=12))
    with pytest.raises(ValueError, match="window: must be a multiple of the group of 8 tokens"):
        KvCache(2, 12, CacheFormat(group=8, window=0))
    for field, value in (("bits", 9), ("group", 0), ("window", -1)):
        with pytest.raises(ValueError, match=f"{field}: must .*, got {value}"):
            CacheFormat(**{field: value})
    cache = KvCache(2, 12, FORM)
    k = numbers(4)
    with pytest.raises(ValueError, match=r"k: must have the shape \(T, 2, 12\), got \(4, 24\)"):
        cache.append(k.reshape(4, 24), k)
    with pytest.raises(ValueError, match="v: must be of the 4 tokens of k, got 3"):
        cache.append(k, k[:3])
    k[2, 1, 5] = np.nan
    with pytest.raises(ValueError, match=r"v: must be finite, got nan at \[2, 1, 5\]"):
        cache.append(numbers(4), k)
    assert cache.tokens == 0
    with pytest.raises(ValueError, match=r"x: must have the shape \(T, 8\), got \(8,\)"):
        InputCache(8, FORM).append(np.ones(8))
