"""Additions and multiplications against numpy's, and against exact fractions rounded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from amaranth.hdl import Module, Value

from hw.formats import E8M0, FP8_E5M2, FP16, FP32, UE4M3, FloatFormat
from hw.lib import float_ops, floats

Evaluate = Callable[..., Callable[..., Mapping[str, np.ndarray]]]


def straight(point: str, field: str, value: Value) -> Value:
    """No registers."""
    return value


def rounded(form: FloatFormat, exact: np.ndarray) -> np.ndarray:
    """One rounding of values that ``float64`` holds; every NaN is the positive one."""
    return np.where(np.isnan(exact), form.nan_code, form.encode(exact)).astype(np.int64)


def pairs(form: FloatFormat, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes whose sums and products cancel, tie, overflow and underflow."""
    a = form.random_codes(rng, count).astype(np.int64)
    b = form.random_codes(rng, count).astype(np.int64)
    bits, top = form.mantissa_bits, 1 << (form.width - 1)
    magnitude = top - 1
    # Exponents near one another: cancellation, and ties at every distance.
    distance = rng.integers(-bits - 3, bits + 4, size=count) << bits
    shifted = (a & magnitude) + distance + rng.integers(-2, 3, size=count)
    near = np.clip(shifted, 0, form.max_code) | (b & top)
    few = near & ~((1 << rng.integers(0, bits + 1, size=count)) - 1)
    # Exponents whose sum is near an end: products that are subnormal or overflow.
    ends = np.array([1, 1 - bits, 2**form.exponent_bits - 2]) + form.bias
    stored = rng.choice(ends, size=count) - ((a & magnitude) >> bits) + rng.integers(-2, 3, count)
    mantissa = rng.integers(0, 1 << bits, size=count)
    edge = np.clip((np.clip(stored, 0, None) << bits) | mantissa, 0, form.max_code) | (b & top)
    return a, np.choose(rng.integers(0, 4, size=count), [b, near, few, edge])


def test_additions_of_every_pair_of_bytes_and_of_wide_ones(evaluate: Evaluate) -> None:
    forms = {"e5m2": FP8_E5M2, "fp16": FP16, "fp32": FP32}

    def build(m: Module, values: Mapping[str, Value]) -> dict[str, Value]:
        return {
            name: float_ops.add(
                m,
                name,
                form,
                values["a"][: form.width],
                values["b"][: form.width],
                cut=straight,
            )
            for name, form in forms.items()
        }

    call = evaluate(build, {"a": 32, "b": 32}, {n: form.width for n, form in forms.items()})
    rng = np.random.default_rng(0)
    for name, form in forms.items():
        if name == "e5m2":
            a, b = (part.reshape(-1) for part in np.meshgrid(np.arange(256), np.arange(256)))
        else:
            a, b = pairs(form, rng, 100_000)
        with np.errstate(invalid="ignore"):
            # Exact in float64 but for FP32 numbers that lie far apart, where its own rounding to
            # more than twice the bits changes nothing (S. A. Figueroa, 1995).
            wanted = rounded(form, form.decode(a) + form.decode(b))
        np.testing.assert_array_equal(call(a=a, b=b)[name], wanted)
        if name == "fp32":
            with np.errstate(all="ignore"):
                native = a.astype(np.uint32).view(np.float32) + b.astype(np.uint32).view(np.float32)
            codes = np.where(np.isnan(native), FP32.nan_code, native.view(np.uint32))
            np.testing.assert_array_equal(codes, wanted)


def test_products_of_every_kind_of_factor(evaluate: Evaluate) -> None:
    kinds = {
        "e5m2": (FP8_E5M2, FP8_E5M2, FP8_E5M2),
        "fp16": (FP16, FP16, FP16),
        "fp32": (FP32, FP32, FP32),
        "fp32_e8m0": (FP32, E8M0, FP32),
        "fp32_ue4m3": (FP32, UE4M3, FP32),
        "fp16_ue4m3": (FP16, UE4M3, FP32),
    }

    def build(m: Module, values: Mapping[str, Value]) -> dict[str, Value]:
        made = {}
        for name, (left, right, form) in kinds.items():
            factors = [
                float_ops.factor(
                    kind, floats.unpack(m, f"{name}_{side}", kind, values[side][: kind.width])
                )
                for side, kind in (("a", left), ("b", right))
            ]
            made[name] = float_ops.multiply(m, name, form, *factors, cut=straight)
        return made

    call = evaluate(build, {"a": 32, "b": 32}, {n: form.width for n, (*_, form) in kinds.items()})
    rng = np.random.default_rng(1)
    for name, (left, right, form) in kinds.items():
        if name == "e5m2":
            a, b = (part.reshape(-1) for part in np.meshgrid(np.arange(256), np.arange(256)))
        elif left == right:
            a, b = pairs(left, rng, 100_000)
        else:
            a = left.random_codes(rng, 50_000).astype(np.int64)
            b = right.random_codes(rng, 50_000).astype(np.int64)
        with np.errstate(invalid="ignore"):
            exact = left.decode(a) * right.decode(b)  # at most 48 bits
        np.testing.assert_array_equal(call(a=a, b=b)[name], rounded(form, exact))
