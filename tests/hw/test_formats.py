"""Number formats against ``ml_dtypes``, the tables of OCP and exact fractions; every bit counts."""

from __future__ import annotations

import bisect
import dataclasses
import math
import subprocess
import sys
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from hw.errors import SpecError
from hw.formats import (
    BF16,
    BFP12,
    BFP16,
    BLOCK_FORMATS,
    E8M0,
    FLOAT_FORMATS,
    FP4_E2M1,
    FP6_E2M3,
    FP8_E4M3,
    FP8_E5M2,
    FP16,
    FP32,
    MXFP4,
    MXFP8_E4M3,
    MXFP8_E5M2,
    MXINT8,
    NVFP4,
    NVINT4,
    UE4M3,
    BlockFormat,
    FloatFormat,
    IntegerFormat,
    bfp,
    exponent_format,
)

REFERENCE = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
    "e8m0": ml_dtypes.float8_e8m0fnu,
}
"""Every type of at most 16 bits that an outside implementation exists of."""

PARTIAL = ("fp6_e2m3", "fp6_e3m2", "fp4_e2m1")
"""Formats without NaN."""


def all_codes(format_: FloatFormat) -> np.ndarray:
    return np.arange(1 << format_.width).astype(format_.code_dtype)


def reference_values(name: str) -> np.ndarray:
    """Value of every code as the outside reference has it, ``float64``."""
    codes = all_codes(FLOAT_FORMATS[name])
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes quiet
        return codes.view(REFERENCE[name]).astype(np.float64)


def reference_codes(name: str, values: np.ndarray) -> np.ndarray:
    """Codes of ``float32`` values as the outside reference casts them."""
    assert values.dtype == np.float32
    with np.errstate(over="ignore"):  # to infinity or NaN, on purpose
        codes = values.astype(REFERENCE[name]).view(FLOAT_FORMATS[name].code_dtype)
    if name == "e8m0":
        # The reference takes these subnormal numbers up to 2^-126, though 2^-127 is nearer.
        wrong = (values > 2.0**-127) & (values < 1.5 * 2.0**-127)
        codes = np.where(wrong, np.uint8(0), codes)
    return codes


def bits(values: np.ndarray) -> np.ndarray:
    """``float64`` bit patterns, NaN reduced to its sign."""
    quiet = np.copysign(
        np.where(np.isnan(values), np.nan, values), np.where(np.signbit(values), -1, 1)
    )
    return quiet.view(np.uint64)


def ties(name: str) -> np.ndarray:
    """``float32``: what lies in the middle of neighbours, and next to it on both sides.

    The last middle is the one between the largest value and the next that there would be.
    """
    values = reference_values(name)
    values = np.unique(values[np.isfinite(values)])
    if values[0] > 0:
        values = np.concatenate([-values[::-1], [0.0], values])
    ends = [2 * values[0] - values[1], *values, 2 * values[-1] - values[-2]]
    if name == "e8m0":
        ends[0], ends[-1] = -(2.0**128), 2.0**128  # one power up, not one distance
    middle = (np.array(ends[:-1]) + np.array(ends[1:])) / 2
    exact = middle.astype(np.float32)
    assert (exact == middle).all()
    infinity = np.float32(np.inf)
    return np.concatenate([exact, np.nextafter(exact, infinity), np.nextafter(exact, -infinity)])


def patterns() -> np.ndarray:
    """``float32``: every FP16 and every BF16 number, and random patterns; NaN is quiet."""
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes quiet
        half = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    brain = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    random = np.random.default_rng(1).integers(1 << 32, size=100_000, dtype=np.uint32)
    values = np.concatenate([half, brain, random.view(np.float32)])
    quiet = np.copysign(np.float32(np.nan), np.where(np.signbit(values), -1, 1).astype(np.float32))
    return np.where(np.isnan(values), quiet, values)


@pytest.mark.parametrize("name", REFERENCE)
def test_every_code_has_the_value_of_the_reference(name: str) -> None:
    format_ = FLOAT_FORMATS[name]
    codes = all_codes(format_)
    expected = reference_values(name)
    value = format_.decode(codes)
    assert value.dtype == np.float64
    assert (bits(value) == bits(expected)).all()
    assert (format_.is_nan(codes) == np.isnan(expected)).all()
    assert (format_.is_inf(codes) == np.isinf(expected)).all()


@pytest.mark.parametrize("name", REFERENCE)
def test_every_number_comes_back(name: str) -> None:
    format_ = FLOAT_FORMATS[name]
    codes = all_codes(format_)
    number = ~format_.is_nan(codes)
    again = format_.encode(format_.decode(codes[number]))
    assert again.dtype == codes.dtype
    assert (again == codes[number]).all()
    assert format_.is_nan(format_.encode(format_.decode(codes[~number]))).all()


@pytest.mark.parametrize("name", REFERENCE)
def test_fields_are_the_value_in_integers(name: str) -> None:
    format_ = FLOAT_FORMATS[name]
    codes = all_codes(format_)
    codes = codes[~(format_.is_nan(codes) | format_.is_inf(codes))]
    fields = format_.fields(codes)
    assert {array.dtype for array in fields} == {np.dtype(np.int64)}
    expected = codes.view(REFERENCE[name]).astype(np.float64)
    for code, sign, exponent, significand, power, value in zip(
        codes.tolist(), *(array.tolist() for array in fields), expected.tolist(), strict=True
    ):
        # significand * 2^power = top / bottom, without a float
        top, bottom = abs(value).as_integer_ratio()
        shift = power + bottom.bit_length() - 1
        assert (significand << shift == top) if shift >= 0 else (significand == top << -shift)
        assert sign == (math.copysign(1, value) < 0)
        assert 0 <= significand < 2 << format_.mantissa_bits
        assert exponent == (code >> format_.mantissa_bits) % (1 << format_.exponent_bits)


@pytest.mark.parametrize("name", REFERENCE)
def test_rounding_is_that_of_the_reference(name: str) -> None:
    format_ = FLOAT_FORMATS[name]
    values = np.concatenate([ties(name), patterns()])
    if name in PARTIAL:
        values = values[~np.isnan(values)]
    expected = reference_codes(name, values)
    code = format_.encode(values)
    assert code.dtype == expected.dtype
    assert (code == expected).all()


@pytest.mark.parametrize("name", REFERENCE)
def test_saturation_is_rounding_of_what_was_clipped(name: str) -> None:
    format_ = FLOAT_FORMATS[name]
    values = np.concatenate([ties(name), patterns()])
    values = values[~np.isnan(values)]
    largest = np.float32(format_.max)
    low = -largest if format_.signed else -np.float32(np.inf)
    expected = reference_codes(name, np.clip(values, low, largest))
    assert (format_.encode(values, overflow="saturate") == expected).all()
    assert not format_.is_inf(format_.encode(values, overflow="saturate")).any()


def test_fp32_is_that_of_numpy() -> None:
    rng = np.random.default_rng(2)
    codes = np.concatenate([FP32.corners(), rng.integers(1 << 32, size=200_000, dtype=np.uint32)])
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes quiet
        value = codes.view(np.float32).astype(np.float64)
    assert (bits(FP32.decode(codes)) == bits(value)).all()
    assert (FP32.is_nan(codes) == np.isnan(value)).all()
    assert (FP32.is_inf(codes) == np.isinf(value)).all()
    finite = value[np.isfinite(value)]
    with np.errstate(over="ignore"):
        above = np.nextafter(finite.astype(np.float32), np.float32(np.inf)).astype(np.float64)
    middle = (finite + np.where(np.isinf(above), 2.0**128, above)) / 2
    ulp = np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)
    anything = rng.integers(1 << 64, size=100_000, dtype=np.uint64).view(np.float64)
    values = np.concatenate([value, middle, *ulp, anything[~np.isnan(anything)]])
    with np.errstate(over="ignore", under="ignore"):
        expected = values.astype(np.float32)
    expected = np.where(
        np.isnan(expected), np.copysign(np.float32(np.nan), expected), expected
    ).view(np.uint32)
    assert (FP32.encode(values) == expected).all()


def test_float64_is_rounded_once() -> None:
    """Through FP32 first, the value would become a tie and go down to even."""
    value = 1 + 2.0**-11 + 2.0**-40
    assert FP16.encode(value) == 0x3C01
    assert FP16.encode(np.float32(value)) == 0x3C00


@pytest.mark.parametrize("name", [name for name in FLOAT_FORMATS if name not in PARTIAL])
def test_signalling_nan_becomes_quiet(name: str) -> None:
    signalling = np.array([0x7F800001, 0x7FFFFFFF], dtype=np.uint32).view(np.float32)
    format_ = FLOAT_FORMATS[name]
    assert format_.encode(signalling).tolist() == [format_.nan_code] * 2
    quantized = MXFP8_E4M3.quantize(np.full(32, signalling[0]))
    assert quantized.scales.tolist() == [0xFF]


def test_ue4m3_is_e4m3_without_its_sign() -> None:
    codes = all_codes(UE4M3)
    assert len(codes) == 128
    expected = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    assert (bits(UE4M3.decode(codes)) == bits(expected)).all()
    values = np.concatenate([ties("fp8_e4m3"), patterns()])
    expected_codes = np.where(values < 0, 0x7F, reference_codes("fp8_e4m3", values) & 0x7F)
    assert (UE4M3.encode(values) == expected_codes).all()


OCP = {
    # emax, largest, smallest normal, smallest subnormal: tables of OCP OFP8 1.0 and MX 1.0
    "fp8_e4m3": (8, 448.0, 2.0**-6, 2.0**-9),
    "fp8_e5m2": (15, 57344.0, 2.0**-14, 2.0**-16),
    "fp6_e2m3": (2, 7.5, 1.0, 0.125),
    "fp6_e3m2": (4, 28.0, 0.25, 0.0625),
    "fp4_e2m1": (2, 6.0, 1.0, 0.5),
    "e8m0": (127, 2.0**127, 2.0**-127, None),
    "ue4m3": (8, 448.0, 2.0**-6, 2.0**-9),
    # IEEE 754-2019, binary16 and binary32; bfloat16 is the upper half of binary32
    "fp16": (15, 65504.0, 2.0**-14, 2.0**-24),
    "bf16": (127, (2 - 2.0**-7) * 2.0**127, 2.0**-126, 2.0**-133),
    "fp32": (127, (2 - 2.0**-23) * 2.0**127, 2.0**-126, 2.0**-149),
}

SPECIAL_CODES = {
    # infinities; NaN: tables of OCP OFP8 1.0 and MX 1.0
    "fp8_e4m3": ([], [0x7F, 0xFF]),
    "fp8_e5m2": ([0x7C, 0xFC], [0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]),
    "fp6_e2m3": ([], []),
    "fp6_e3m2": ([], []),
    "fp4_e2m1": ([], []),
    "e8m0": ([], [0xFF]),
}


def test_limits_are_the_published_ones() -> None:
    found = {
        name: (each.max_exponent, each.max, each.min_normal, each.min_subnormal)
        for name, each in FLOAT_FORMATS.items()
    }
    assert found == OCP


@pytest.mark.parametrize("name", SPECIAL_CODES)
def test_special_codes_are_the_published_ones(name: str) -> None:
    format_ = FLOAT_FORMATS[name]
    codes = all_codes(format_)
    found = codes[format_.is_inf(codes)].tolist(), codes[format_.is_nan(codes)].tolist()
    assert found == SPECIAL_CODES[name]


def test_conversion_of_special_values() -> None:
    """As OCP OFP8 1.0 with SAT and NONSAT; and what has neither zero nor a sign."""
    special = [np.inf, -np.inf, np.nan, -np.nan]
    assert FP8_E4M3.encode(special).tolist() == [0x7F, 0xFF, 0x7F, 0xFF]
    assert FP8_E5M2.encode(special).tolist() == [0x7C, 0xFC, 0x7E, 0xFE]
    assert FP8_E4M3.encode(special, overflow="saturate").tolist() == [0x7E, 0xFE, 0x7F, 0xFF]
    assert FP8_E5M2.encode(special, overflow="saturate").tolist() == [0x7B, 0xFB, 0x7E, 0xFE]
    assert FP4_E2M1.encode([np.inf, -np.inf]).tolist() == [7, 15]
    assert E8M0.encode([0.0, -0.0, -1.0, np.inf, 1e-300]).tolist() == [255, 255, 255, 255, 0]
    assert E8M0.encode([0.0, -1.0, np.inf], overflow="saturate").tolist() == [255, 255, 254]
    assert UE4M3.encode([0.0, -0.0, -1e-300, 1e-300]).tolist() == [0, 0, 0x7F, 0]


@pytest.mark.parametrize("name", PARTIAL)
def test_nan_is_refused_where_there_is_none(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: has no code for nan"):
        FLOAT_FORMATS[name].encode([1.0, np.nan])


def test_wrong_codes_and_policies_are_refused() -> None:
    with pytest.raises(ValueError, match="fp4_e2m1: codes are 0 to 15, got 16"):
        FP4_E2M1.decode([3, 16])
    with pytest.raises(ValueError, match="fp4_e2m1: codes are 0 to 15, got -1"):
        FP4_E2M1.fields([-1])
    with pytest.raises(ValueError, match="e8m0: codes are integers, got float64"):
        E8M0.is_nan([1.0])
    with pytest.raises(ValueError, match="int4: codes are -8 to 7, got 8"):
        NVINT4.element.decode([8])
    with pytest.raises(ValueError, match="overflow: must be nonsaturating or saturate, got 'wrap'"):
        FP16.encode(1.0, overflow="wrap")  # type: ignore[arg-type]


def test_wrong_formats_are_refused() -> None:
    with pytest.raises(SpecError) as error:
        FloatFormat(name="x", exponent_bits=9, mantissa_bits=24, bias=128, specials="none")
    assert str(error.value).splitlines() == [
        "exponent_bits: must be 1 to 8, got 9",
        "mantissa_bits: must be 0 to 23, got 24",
        "bias: must be 0 to 127, got 128",
    ]
    with pytest.raises(SpecError, match="mantissa_bits: must be at least 1 for infinity and NaN"):
        FloatFormat(name="x", exponent_bits=5, mantissa_bits=0, bias=15, specials="ieee")
    with pytest.raises(SpecError) as error:
        IntegerFormat(name="x", bits=1, fraction_bits=-1)
    assert str(error.value).splitlines() == [
        "bits: must be 2 to 16, got 1",
        "fraction_bits: must be 0 to 16, got -1",
    ]


@pytest.mark.parametrize("format_", FLOAT_FORMATS.values(), ids=FLOAT_FORMATS)
def test_random_codes_dwell_on_corners(format_: FloatFormat) -> None:
    corners = format_.corners()
    value = format_.decode(corners)
    assert {format_.max, format_.min_normal, 1.0} <= set(value.tolist())
    assert format_.min_subnormal is None or format_.min_subnormal in value
    assert np.isinf(value).any() == (format_.inf_code is not None)
    assert np.isnan(value).any() == (format_.nan_code is not None)
    codes = format_.random_codes(np.random.default_rng(3), (40, 50))
    assert codes.shape == (40, 50)
    assert codes.dtype == format_.code_dtype
    assert set(corners.tolist()) <= set(codes.ravel().tolist())
    assert np.isin(codes, corners).mean() > 0.45
    assert len(np.unique(codes)) > min(500, (1 << format_.width) * 0.9)
    finite = format_.random_codes(np.random.default_rng(3), (40, 50), finite=True)
    assert np.isfinite(format_.decode(finite)).all()


@pytest.mark.parametrize("width", [2, 4, 6, 8, 12, 16])
def test_integers_are_symmetric_and_exact(width: int) -> None:
    format_ = IntegerFormat(name="int", bits=width, fraction_bits=min(width, 5))
    top = (1 << (width - 1)) - 1
    codes = np.arange(-top - 1, top + 1)
    value = format_.decode(codes)
    assert value.tolist() == [code / 2 ** min(width, 5) for code in codes.tolist()]
    assert format_.encode(value).tolist() == [-top, *codes[1:].tolist()]
    fields = format_.fields(codes)
    signed = np.where(fields.sign == 1, -fields.significand, fields.significand)
    assert (np.ldexp(signed.astype(np.float64), fields.power) == value).all()
    # Ties go to even, and everything beyond either end to that end.
    halves = np.arange(-2 * top - 9, 2 * top + 10)
    expected = [max(-top, min(top, round(Fraction(each, 2)))) for each in halves.tolist()]
    assert format_.encode(halves / 2 / 2 ** min(width, 5)).tolist() == expected
    assert format_.encode([np.inf, -np.inf, -1e308]).tolist() == [top, -top, -top]
    with pytest.raises(ValueError, match="int: has no code for nan"):
        format_.encode(np.nan)
    random = format_.random_codes(np.random.default_rng(4), 500)
    assert random.dtype == format_.code_dtype
    assert set(format_.corners().tolist()) <= set(random.tolist()) <= set(codes.tolist())


def test_formats_are_data_until_used() -> None:
    code = "import sys, hw.formats; print({'numpy', 'amaranth'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


# Block formats: an element by element reference in fractions.


def floor_log2(value: Fraction) -> int:
    power = value.numerator.bit_length() - value.denominator.bit_length()
    return power if Fraction(2) ** power <= value else power - 1


def nearest(grid: list[Fraction], value: Fraction) -> int:
    """Index of the nearest of ascending magnitudes; ties to the even index, the end saturates."""
    above = bisect.bisect_left(grid, value)
    if above == 0 or above == len(grid):
        return min(above, len(grid) - 1)
    low, high = value - grid[above - 1], grid[above] - value
    if low == high:
        return above - above % 2
    return above if high < low else above - 1


def float_grid(dtype: type) -> list[Fraction]:
    """Finite magnitudes of an 8-bit or narrower float by ascending code."""
    values = np.arange(128, dtype=np.uint8)[: 1 << (ml_dtypes.finfo(dtype).bits - 1)].view(dtype)
    return [Fraction(v) for v in values.astype(np.float64).tolist() if math.isfinite(v)]


def int_grid(width: int, fraction_bits: int) -> list[Fraction]:
    return [Fraction(code, 2**fraction_bits) for code in range(2 ** (width - 1))]


E4M3_GRID = float_grid(ml_dtypes.float8_e4m3fn)

BLOCKS: dict[str, tuple[list[Fraction], int, int | None]] = {
    # magnitudes of the elements, block, bits of an element if it is a float
    "mxint8": (int_grid(8, 6), 32, None),
    "mxint6": (int_grid(6, 4), 32, None),
    "mxint4": (int_grid(4, 2), 32, None),
    "mxfp8_e4m3": (E4M3_GRID, 32, 8),
    "mxfp8_e5m2": (float_grid(ml_dtypes.float8_e5m2), 32, 8),
    "mxfp6_e2m3": (float_grid(ml_dtypes.float6_e2m3fn), 32, 6),
    "mxfp6_e3m2": (float_grid(ml_dtypes.float6_e3m2fn), 32, 6),
    "mxfp4": (float_grid(ml_dtypes.float4_e2m1fn), 32, 4),
    "nvfp4": (float_grid(ml_dtypes.float4_e2m1fn), 16, 4),
    "nvint4": (int_grid(4, 0), 16, None),
    "bfp12": (int_grid(4, 2), 32, None),
    "bfp16": (int_grid(8, 6), 32, None),
}


def to_fp32(value: Fraction) -> Fraction:
    """Rounded to 24 bits, ties to even, kept between the smallest and the largest normal."""
    unit = Fraction(2) ** (floor_log2(value) - 23) if value else Fraction(1)
    smallest, largest = Fraction(2) ** -126, (2 - Fraction(2) ** -23) * 2**127
    return min(max(round(value / unit) * unit, smallest), largest)


def reference_block(
    format_: BlockFormat,
    grid: list[Fraction],
    float_bits: int | None,
    x: list[float],
    tensor: Fraction,
) -> tuple[list[int], int]:
    """Element codes and scale code of one block of finite values."""
    absmax = max(Fraction(abs(value)) for value in x)
    bias = format_.scale.bias
    if format_.rule == "absmax":
        code = nearest(E4M3_GRID, absmax / (grid[-1] * tensor))
        step = E4M3_GRID[code] * tensor
    else:
        power = -bias
        if absmax and format_.rule == "floor":
            power = floor_log2(absmax) - floor_log2(grid[-1])
        elif absmax:
            power = next(p for p in range(-300, 300) if Fraction(2) ** p * grid[-1] >= absmax)
        code = min(max(power, -bias), 2**format_.scale.exponent_bits - 2 - bias) + bias
        step = Fraction(2) ** (code - bias)
    elements = []
    for value in x:
        index = nearest(grid, abs(Fraction(value)) / step) if step else 0
        negative = math.copysign(1, value) < 0
        if float_bits is not None:
            elements.append(index + (negative << (float_bits - 1)))
        else:
            elements.append(-index if negative else index)
    return elements, code


def tensors(block: int, grid: list[Fraction], seed: int) -> list[np.ndarray]:
    """``float32`` ``(rows, 2 * block)``: tame, wide, extreme, at ties, and zeros among them."""
    rng = np.random.default_rng(seed)
    shape = (3, 2 * block)
    tame = rng.normal(size=shape)
    wide = rng.normal(size=shape) * 2.0 ** rng.integers(-20, 20, size=(3, 1))
    wide[:, :block] = 0
    wide[0, 0] = -0.0
    largest = float(np.finfo(np.float32).max)
    extreme = rng.choice([largest, -largest, 1e-45, -1e-45, 2.0**-126, 0.0, -0.0, 1.0], size=shape)
    small = rng.normal(size=shape) * 2.0**-130
    steps = np.array([float(each) for each in grid])
    middle = (steps[1:] + steps[:-1]) / 2
    tied = rng.choice(np.concatenate([steps, middle, -middle]), size=shape)
    tied[:, ::block] = -2 * steps[-1] + steps[1] / 4  # rounds to one more than the largest
    tied[0, ::block] = steps[-1]
    return [each.astype(np.float32) for each in (tame, wide, extreme, small, tied, 0 * tame)]


def check_block_format(
    format_: BlockFormat, grid: list[Fraction], float_bits: int | None, seed: int
) -> None:
    for x in tensors(format_.block, grid, seed):
        quantized = format_.quantize(x)
        assert quantized.elements.dtype == format_.element.code_dtype
        assert quantized.scales.dtype == format_.scale.code_dtype
        tensor = Fraction(1)
        if format_.tensor_scale:
            tensor = to_fp32(Fraction(float(np.abs(x).max())) / (448 * grid[-1]))
            assert quantized.tensor_scale is not None
            assert quantized.tensor_scale.dtype == np.uint32
            assert Fraction(float(quantized.tensor_scale.view(np.float32))) == tensor
        else:
            assert quantized.tensor_scale is None
        value = format_.dequantize(*quantized)
        assert value.shape == quantized.elements.shape == x.shape
        count = x.shape[1] // format_.block
        assert quantized.scales.shape == (len(x), count)
        for row in range(len(x)):
            for index in range(count):
                part = slice(index * format_.block, (index + 1) * format_.block)
                elements, code = reference_block(
                    format_, grid, float_bits, x[row, part].tolist(), tensor
                )
                assert quantized.scales[row, index] == code
                assert quantized.elements[row, part].tolist() == elements
                if format_.rule == "absmax":
                    step = E4M3_GRID[code] * tensor
                else:
                    step = Fraction(2) ** (code - format_.scale.bias)
                for element, found in zip(elements, value[row, part].tolist(), strict=True):
                    if float_bits is None:
                        expected = (-1 if element < 0 else 1) * grid[abs(element)] * step
                    else:
                        sign, index_ = divmod(element, 1 << (float_bits - 1))
                        expected = (-1) ** sign * grid[index_] * step
                    assert Fraction(found) == expected


def test_every_named_block_format_is_checked() -> None:
    assert set(BLOCKS) == set(BLOCK_FORMATS)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_those_of_exact_arithmetic(name: str) -> None:
    grid, block, float_bits = BLOCKS[name]
    format_ = BLOCK_FORMATS[name]
    assert (format_.block, format_.element.max) == (block, grid[-1])
    assert format_.tensor_scale == name.startswith("nv")
    check_block_format(format_, grid, float_bits, seed=5)
    if format_.rule == "floor":
        check_block_format(dataclasses.replace(format_, rule="ceil"), grid, float_bits, seed=6)


@pytest.mark.parametrize(
    ("block", "mantissa", "exponent"), [(8, 2, 5), (24, 5, 6), (13, 12, 7), (128, 3, 8)]
)
@pytest.mark.parametrize("rule", ["floor", "ceil"])
def test_generic_blocks_are_those_of_exact_arithmetic(
    block: int, mantissa: int, exponent: int, rule: str
) -> None:
    format_ = bfp(
        block=block,
        mantissa_bits=mantissa,
        exponent_bits=exponent,
        rule="ceil" if rule == "ceil" else "floor",
    )
    check_block_format(format_, int_grid(mantissa, mantissa - 2), None, seed=7)


def test_named_bfp_formats_are_generic_ones() -> None:
    for named, mantissa in ((BFP12, 4), (BFP16, 8)):
        generic = bfp(block=32, mantissa_bits=mantissa)
        assert dataclasses.replace(generic, name=named.name) == named
    assert exponent_format(8) == E8M0


def test_clip_is_forced_after_rounding() -> None:
    """-1.9999 at a step of 2^-6 is -127.99: it would round to -128."""
    x = np.full((1, 32), -1.9999)
    assert set(MXINT8.quantize(x).elements.ravel().tolist()) == {-127}
    tensor = NVINT4.quantize(np.full((1, 16), 7.0)).tensor_scale
    assert tensor is not None
    beyond = NVINT4.quantize(np.full((1, 16), -1e30), tensor_scale=tensor)
    assert set(beyond.elements.ravel().tolist()) == {-7}
    assert beyond.scales.tolist() == [[0x7E]]
    assert beyond.tensor_scale == tensor


def test_float64_beyond_the_scales_saturates_or_vanishes() -> None:
    tiny = MXFP8_E5M2.quantize(np.full(32, 5e-324))
    assert (tiny.scales.tolist(), set(tiny.elements.tolist())) == ([0], {0})
    huge = MXFP8_E5M2.quantize(np.full(32, -1e308))
    assert (huge.scales.tolist(), set(huge.elements.tolist())) == ([254], {0xFB})
    huge = NVFP4.quantize(np.full(16, -1e308))
    assert huge.tensor_scale == 0x7F7FFFFF
    assert (huge.scales.tolist(), set(huge.elements.tolist())) == ([0x7E], {0xF})
    huge = NVFP4.quantize(np.full(16, 1e308), tensor_scale=FP32.encode(2.0**-126))
    assert (huge.scales.tolist(), set(huge.elements.tolist())) == ([0x7E], {7})


def test_block_far_below_the_tensor_vanishes() -> None:
    """Its scale rounds to 0, and zeros keep their sign."""
    quantized = NVFP4.quantize(np.repeat([1e30, 1.0, -1.0], 16))
    assert quantized.scales.tolist() == [0x7E, 0, 0]
    assert quantized.elements.tolist() == [7] * 16 + [0] * 16 + [8] * 16


@pytest.mark.parametrize("format_", BLOCK_FORMATS.values(), ids=BLOCK_FORMATS)
def test_zeros_have_the_smallest_scale(format_: BlockFormat) -> None:
    quantized = format_.quantize(np.zeros((2, 3, 2 * format_.block)))
    assert quantized.elements.shape == (2, 3, 2 * format_.block)
    assert quantized.scales.shape == (2, 3, 2)
    assert not quantized.elements.any()
    assert not quantized.scales.any()
    value = format_.dequantize(*quantized)
    assert (value.view(np.uint64) == 0).all()


@pytest.mark.parametrize("format_", BLOCK_FORMATS.values(), ids=BLOCK_FORMATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_special_values_spoil_their_block_and_no_other(format_: BlockFormat, bad: float) -> None:
    x = np.random.default_rng(8).normal(size=(2, 3 * format_.block))
    part = slice(format_.block, 2 * format_.block)
    x[0, part] = 0
    clean = format_.quantize(x)
    x[0, format_.block + 3] = bad
    quantized = format_.quantize(x)
    assert format_.scale.is_nan(quantized.scales).tolist() == [[0, 1, 0], [0, 0, 0]]
    assert not quantized.elements[0, part].any()
    assert (quantized.elements == clean.elements).all()
    assert quantized.tensor_scale == clean.tensor_scale
    value = format_.dequantize(*quantized)
    assert np.isnan(value[0, part]).all()
    value[0, part] = 0
    assert (value == format_.dequantize(*clean)).all()


def test_special_elements_keep_their_meaning() -> None:
    elements = np.zeros((1, 32), dtype=np.uint8)
    elements[0, :3] = 0x7C, 0xFC, 0x7F
    value = MXFP8_E5M2.dequantize(elements, np.array([[127]], dtype=np.uint8))
    assert np.isnan(value[0, 2])
    assert value[0, :2].tolist() == [np.inf, -np.inf]
    elements[0, :3] = 0x7E, 0xFE, 0xFF
    value = MXFP8_E4M3.dequantize(elements, np.array([[127]], dtype=np.uint8))
    assert np.isnan(value[0, 2])
    assert value[0, :2].tolist() == [448.0, -448.0]
    assert MXINT8.dequantize(np.full((1, 32), -128), np.array([[128]]))[0, 0] == -4.0


@pytest.mark.parametrize("format_", BLOCK_FORMATS.values(), ids=BLOCK_FORMATS)
def test_error_stays_within_half_a_step(format_: BlockFormat) -> None:
    if format_.rule == "floor":
        format_ = dataclasses.replace(format_, rule="ceil")
    x = np.random.default_rng(9).standard_t(3, size=(50, 4 * format_.block))
    quantized = format_.quantize(x)
    value = format_.dequantize(*quantized)
    scale = format_.scale.decode(quantized.scales)
    if quantized.tensor_scale is not None:
        scale = scale * FP32.decode(quantized.tensor_scale)
    scale = np.repeat(scale, format_.block, axis=-1)
    if isinstance(format_.element, FloatFormat):
        relative = np.abs(x) * 2.0 ** -(format_.element.mantissa_bits + 1)
        assert format_.element.min_subnormal is not None
        half = np.maximum(relative, scale * format_.element.min_subnormal / 2)
    else:
        half = scale * 2.0**-format_.element.fraction_bits / 2
    clipped = np.abs(x) > scale * format_.element.max  # by a scale that was rounded down
    if format_.rule == "ceil":
        assert not clipped.any()
    excess = np.where(clipped, np.abs(x) - scale * format_.element.max, 0)
    assert (np.abs(value - x) <= np.maximum(half, excess)).all()
    assert (excess <= np.abs(x) * 2.0**-4).all()  # half a step of E4M3


@pytest.mark.parametrize(
    "format_", [each for each in BLOCK_FORMATS.values() if each.rule == "floor"], ids=str
)
def test_floor_leaves_its_own_results_alone(format_: BlockFormat) -> None:
    x = np.random.default_rng(10).standard_t(3, size=(20, 4 * format_.block))
    once = format_.quantize(x)
    twice = format_.quantize(format_.dequantize(*once))
    assert (once.elements == twice.elements).all()
    assert (once.scales == twice.scales).all()


def test_wrong_shapes_and_scales_are_refused() -> None:
    rule = "mxfp4: the last axis must be a multiple of the block of 32, got 33"
    with pytest.raises(ValueError, match=rule):
        MXFP4.quantize(np.zeros((2, 33)))
    with pytest.raises(ValueError, match="must be a multiple of the block of 32, got 0"):
        MXFP4.quantize(np.zeros((2, 0)))
    with pytest.raises(ValueError, match="must be a multiple of the block of 32, got 0"):
        MXFP4.dequantize(np.uint8(0), np.uint8(0))
    with pytest.raises(ValueError, match=r"mxfp4: scales must have the shape \(2, 1\), got \(2,\)"):
        MXFP4.dequantize(np.zeros((2, 32), dtype=np.uint8), np.zeros(2, dtype=np.uint8))
    with pytest.raises(ValueError, match="mxfp4: has no tensor scale, got 1"):
        MXFP4.quantize(np.zeros((2, 32)), tensor_scale=1)
    elements, scales, tensor = NVFP4.quantize(np.ones((2, 16)))
    with pytest.raises(ValueError, match="nvfp4: needs a tensor scale, got None"):
        NVFP4.dequantize(elements, scales)
    for value in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="nvfp4: the tensor scale must be above 0, got"):
            NVFP4.dequantize(elements, scales, FP32.encode(value))
    one_sixth = float(np.float32(1 / (448 * 6))) * 448
    assert (NVFP4.dequantize(elements, scales, tensor) == 6 * one_sixth).all()


def test_wrong_block_formats_are_refused() -> None:
    with pytest.raises(SpecError) as error:
        bfp(block=7, mantissa_bits=13, exponent_bits=9)
    assert str(error.value).splitlines() == [
        "block: must be 8 to 128, got 7",
        "mantissa_bits: must be 2 to 12, got 13",
        "exponent_bits: must be 5 to 8, got 9",
    ]
    with pytest.raises(SpecError, match="block: must be at least 1, got 0"):
        dataclasses.replace(MXFP4, block=0)
    with pytest.raises(SpecError, match="rule: must be floor, ceil or absmax, got 'round'"):
        dataclasses.replace(MXFP4, rule="round")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="scale: must have a 0 for absmax, got 'e8m0'"):
        dataclasses.replace(MXFP4, rule="absmax")
    with pytest.raises(SpecError, match="scale: must be a power of two for ceil, got 'ue4m3'"):
        dataclasses.replace(MXFP4, scale=UE4M3, rule="ceil")
    for scale in (FP6_E2M3, BF16):
        with pytest.raises(SpecError, match="scale: must be unsigned and have a NaN"):
            dataclasses.replace(NVFP4, scale=scale)
    with pytest.raises(SpecError, match="tensor_scale: must be false unless absmax, got True"):
        dataclasses.replace(MXFP4, tensor_scale=True)
