"""Fast block and float formats against ``hw.formats``, bit for bit; what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from hw.formats import (
    BF16,
    BLOCK_FORMATS,
    E8M0,
    FP8_E4M3,
    FP8_E5M2,
    FP16,
    FP32,
    UE4M3,
    BlockFormat,
    FloatFormat,
    bfp,
)
from sw_driver.quantize import encode, quantize_blocks
from sw_driver.quantize.speed import cases

FORMATS = [
    *BLOCK_FORMATS.values(),
    bfp(block=8, mantissa_bits=2, exponent_bits=5),
    bfp(block=64, mantissa_bits=12, rule="ceil"),
]


def corners(block: int) -> np.ndarray:
    """Zeros of both signs, outliers, subnormals, ends of the range, ties of every step."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(24, 4 * block)).astype(np.float32)
    x[0] = 0
    x[1] = -0.0
    x[2, 3] = 3e38
    x[3] *= 1e-40
    x[4] *= 1e-36
    x[5, ::2] = 0
    x[6] = np.arange(4 * block) / 8 - block / 4
    x[7] = np.finfo(np.float32).max
    x[8] = np.float32(2.0**-149)
    x[9] = 2.0 ** rng.integers(-140, 128, 4 * block)
    x[10] = 448 * 6
    x[11, 5] = -1e30
    x[12] = np.ldexp(rng.integers(-64, 65, 4 * block), -3)
    return x


def same(x: np.ndarray, form: BlockFormat, tensor_scale: np.ndarray | None = None) -> None:
    wanted = form.quantize(x, tensor_scale=tensor_scale)
    got = quantize_blocks(x, form, tensor_scale=tensor_scale)
    assert got.codes.elements.dtype == wanted.elements.dtype
    assert np.array_equal(got.codes.elements, wanted.elements)
    assert np.array_equal(got.codes.scales, wanted.scales)
    assert (got.codes.tensor_scale is None) == (wanted.tensor_scale is None)
    if wanted.tensor_scale is not None:
        assert got.codes.tensor_scale == wanted.tensor_scale
    with np.errstate(over="ignore"):
        values = form.dequantize(*wanted).astype(np.float32)
    assert np.array_equal(got.dequantized(), values)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_block_formats_are_the_reference(form: BlockFormat) -> None:
    rng = np.random.default_rng(5)
    x = corners(form.block)
    same(x, form)
    for row in x:
        # Every corner with a tensor scale of its own.
        same(row[None], form)
    same(rng.normal(size=(300, 6 * form.block)).astype(np.float32) * 0.02, form)
    same(np.exp(rng.normal(size=(40, 2 * form.block)) * 20).astype(np.float32), form)
    half = rng.normal(size=(9, form.block)).astype(np.float16)
    same(half, form)
    if form.tensor_scale:
        same(x, form, FP32.encode(2.0**-126))
        same(x[:2], form, FP32.encode(3e30))


@pytest.mark.parametrize(
    "form", [FP8_E4M3, FP8_E5M2, FP16, BF16, UE4M3], ids=lambda form: form.name
)
def test_floats_are_the_reference(form: FloatFormat) -> None:
    rng = np.random.default_rng(3)
    codes = np.arange(form.max_code)
    values = form.decode(codes)
    between = (values[1:] + values[:-1]) / 2
    x = np.concatenate(
        [
            values, between, np.nextafter(between, 0), np.nextafter(between, np.inf), [1e300],
            np.exp(rng.normal(size=2000) * 12),
        ]
    )  # fmt: skip
    x = np.concatenate([x, -x]) if form.signed else x
    assert np.array_equal(encode(x, form), form.encode(x, overflow="saturate"))
    assert encode(x.reshape(2, -1), form).shape == (2, x.size // 2)


def test_refusals_name_the_place() -> None:
    form = BLOCK_FORMATS["mxfp4"]
    x = np.ones((600, 64), dtype=np.float32)
    x[577, 33] = np.nan
    with pytest.raises(ValueError, match=r"x: must be finite, got nan at \[577, 33\]"):
        quantize_blocks(x, form)
    with pytest.raises(ValueError, match="x: must have a multiple of the 32 elements of mxfp4"):
        quantize_blocks(x[:, :40], form)
    with pytest.raises(ValueError, match="x: must be a matrix"):
        quantize_blocks(x[0], form)
    with pytest.raises(ValueError, match="x: must be float16, float32 or float64, got int64"):
        quantize_blocks(np.ones((2, 32), dtype=np.int64), form)
    with pytest.raises(ValueError, match="tensor_scale: must not be given for mxfp4"):
        quantize_blocks(x[:3], form, tensor_scale=FP32.encode(1.0))
    with pytest.raises(ValueError, match="tensor_scale: must be above 0, got 0"):
        quantize_blocks(x[:3], BLOCK_FORMATS["nvfp4"], tensor_scale=FP32.encode(0.0))
    with pytest.raises(ValueError, match=r"x: must be finite, got inf at \[0, 40000\]"):
        encode(np.where(np.arange(50_000) == 40_000, np.inf, 1.0), FP8_E4M3)
    with pytest.raises(ValueError, match="x: must not be below 0 for ue4m3"):
        encode(np.array([-1.0]), UE4M3)
    with pytest.raises(ValueError, match="form: must have subnormal numbers, got e8m0"):
        encode(np.array([1.0]), E8M0)


def test_the_speed_table_runs_every_format() -> None:
    x = np.random.default_rng(0).normal(size=(32, 128)).astype(np.float32)
    names = [name for name, _ in cases(x, 32)]
    assert {form.name for form in BLOCK_FORMATS.values()} <= set(names)
    assert len(set(names)) == len(names)
    for _, work in cases(x, 32):
        work()
