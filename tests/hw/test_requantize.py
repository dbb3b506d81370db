"""The reference of requantization against ``ml_dtypes``, numpy and exact fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hw.block import spec_from_dict
from hw.blocks.requantize import golden, timing
from hw.blocks.requantize.golden import RequantizeWork
from hw.blocks.requantize.spec import RequantizeSpec
from hw.blocks.requantize.sweep import SWEEP
from hw.errors import SpecError
from hw.formats import FP16, FP32

OUTSIDE: dict[str, Any] = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
}


def spec_of(**fields: Any) -> RequantizeSpec:
    spec = spec_from_dict({"block": "requantize", "name": "dut", **fields})
    assert isinstance(spec, RequantizeSpec)
    return spec


def single(spec: RequantizeSpec, x: Any, scale: Any = None, zero: Any = None) -> list[int]:
    """Results of one row of codes."""
    row = np.asarray(x, dtype=np.int64).reshape(1, 1, -1)
    work = RequantizeWork(
        x=row,
        scale=None if scale is None else np.array([scale]),
        zero=None if zero is None else np.array([zero]),
    )
    found: list[int] = golden.results(spec, work)[0, 0].tolist()
    return found


@pytest.mark.parametrize("target", OUTSIDE)
def test_floats_are_those_of_an_outside_reference(target: str) -> None:
    spec = spec_of(target=target, scale={"format": "none"}, overflow="nonsaturating")
    codes = FP32.random_codes(np.random.default_rng(0), 200_000)
    with np.errstate(all="ignore"):
        wanted = codes.view(np.float32).astype(OUTSIDE[target])
    width = spec.target_bits
    wanted = wanted.view(np.uint8 if width == 8 else np.uint16).astype(np.int64)
    wanted = np.where(FP32.is_nan(codes), spec.target_format.nan_code, wanted)
    np.testing.assert_array_equal(single(spec, codes), wanted)


@pytest.mark.parametrize("index", range(len(SWEEP)))
def test_every_result_is_the_nearest(index: int) -> None:
    spec = spec_of(**SWEEP[index])
    rng = np.random.default_rng(index)
    for kind in golden.KINDS:
        for _ in range(6):
            work = golden.work_of(spec, rng, min(8, spec.max_beats), kind)
            found = golden.results(spec, work)
            for place in np.ndindex(found.shape):
                _check(spec, work, place, int(found[place]))


def _check(spec: RequantizeSpec, work: RequantizeWork, place: tuple[int, ...], found: int) -> None:
    """One element by fractions."""
    code = int(work.x[place])
    row = place[1] if spec.scales > 1 else 0
    x: float | int = code
    if spec.input_format is not None:
        x = float(spec.input_format.decode(np.array(code)))
    scale = 1.0
    if work.scale is not None and spec.scale_format is not None:
        scale = float(spec.scale_format.decode(work.scale[row : row + 1])[0])
    zero = 0 if work.zero is None else int(work.zero[row])
    if not (np.isfinite(x) and np.isfinite(scale)):
        with np.errstate(invalid="ignore"):
            value = np.float64(x) * scale
        if spec.integer:
            low, high = spec.bounds
            wanted = zero if np.isnan(value) else high if value > 0 else low
            assert found == min(max(wanted, low), high)
        else:
            form = spec.target_format
            wanted = form.encode(value, overflow=spec.overflow)
            assert found == (form.nan_code if np.isnan(value) else wanted)
        return
    exact = Fraction(x) * Fraction(scale)
    if spec.integer:
        low, high = spec.bounds
        assert found == min(max(round(exact) + zero, low), high)  # ties to even
        return
    form = spec.target_format
    magnitude = found & ((1 << (form.width - 1)) - 1)
    assert (found >> (form.width - 1) == 1) == (
        exact < 0 or (exact == 0 and (np.signbit(np.float64(x)) != np.signbit(scale)))
    )
    below, above = (_value(form, magnitude + step) for step in (-1, 1))
    exact = abs(exact)
    if magnitude > form.max_code:
        assert spec.overflow == "nonsaturating"
        assert exact >= (_value(form, form.max_code) + _value(form, form.max_code + 1)) / 2
        return
    if (
        magnitude == form.max_code
        and spec.overflow == "saturate"
        and exact > _value(form, magnitude)
    ):
        return
    value = _value(form, magnitude)
    for other in (below, above):
        if other is not None:
            assert abs(value - exact) < abs(other - exact) or (
                abs(value - exact) == abs(other - exact) and magnitude % 2 == 0
            )


def _value(form: Any, magnitude: int) -> Any:
    """Of a magnitude's code, one beyond the largest included; None below 0."""
    if magnitude < 0:
        return None
    bits = form.mantissa_bits
    stored, mantissa = magnitude >> bits, magnitude & ((1 << bits) - 1)
    leading = (1 << bits) if stored else 0
    return Fraction(leading | mantissa) * Fraction(2) ** (max(stored, 1) - form.bias - bits)


def _codes(*values: float) -> np.ndarray:
    return FP32.encode(np.array(values)).astype(np.int64)


def test_the_clip_comes_after_the_rounding() -> None:
    one = int(_codes(1.0)[0])
    x = _codes(127.4, 127.5, -127.5, -127.49, 126.5, 0.5, 1.5, -0.5, 1e30, -1e30)
    symmetric = spec_of(tile={"m": 1, "n": 10})
    assert single(symmetric, x, one) == [127, 127, -127, -127, 126, 0, 2, 0, 127, -127]
    full = spec_of(tile={"m": 1, "n": 10}, clip="full", zero_point=True)
    assert single(full, x, one, 0) == [127, 127, -128, -127, 126, 0, 2, 0, 127, -128]
    assert single(full, x, one, -100) == [27, 28, -128, -128, 26, -100, -98, -100, 127, -128]
    unsigned = spec_of(tile={"m": 1, "n": 10}, target="uint8", clip="full", zero_point=True)
    assert single(unsigned, x, one, 128) == [255, 255, 0, 1, 254, 128, 130, 128, 255, 0]


def test_specials_of_integers_and_floats() -> None:
    inf, nan, one = 0x7F800000, 0xFFC00001, 0x3F800000
    spec = spec_of(tile={"m": 1, "n": 4}, clip="full", zero_point=True)
    x = [inf, inf | 1 << 31, nan, 0]
    assert single(spec, x, one, 5) == [127, -128, 5, 5]
    assert single(spec, x, 0, 5) == [5, 5, 5, 5]  # infinity times 0 is a NaN
    assert single(spec, x, nan, 5) == [5, 5, 5, 5]
    saturating = spec_of(tile={"m": 1, "n": 4}, target="fp8_e4m3")
    assert single(saturating, x, one) == [0x7E, 0xFE, 0x7F, 0]
    free = spec_of(tile={"m": 1, "n": 4}, target="fp8_e5m2", overflow="nonsaturating")
    assert single(free, x, one) == [0x7C, 0xFC, 0x7E, 0]


def test_the_longest_product_is_rounded_once() -> None:
    # 31 bits times 24: one bit at the bottom decides a tie of FP16 far above it.
    spec = spec_of(tile={"m": 1, "n": 3}, input="int32", target="fp16")
    assert FP16.decode(
        single(spec, [(1 << 30) + (1 << 19), -(1 << 31), 0], 0x30800000)
    ).tolist() == [
        1.0,
        -2.0,
        0.0,
    ]
    x = (1 << 30) + (1 << 19) + 1
    assert FP16.decode(single(spec, [x, x - 2, 1], 0x30800000))[:2].tolist() == [1 + 2**-10, 1.0]


def test_one_beat_a_cycle() -> None:
    for index, fields in enumerate(SWEEP):
        spec = spec_of(**fields)
        works = [golden.work_of(spec, np.random.default_rng(index), n, "range") for n in (3, 1, 4)]
        assert timing.cycles(spec, works) == 8 + timing.latency(spec)
    assert timing.latency(spec_of()) == 4
    assert timing.latency(spec_of(target="fp16", scale={"format": "none"})) == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"target": "uint8"}, "clip: must be full for uint8, got 'symmetric'"),
        ({"zero_point": True}, "zero_point: must be false with a symmetric clip, got True"),
        (
            {"target": "fp16", "zero_point": True, "clip": "full"},
            "zero_point: must be false unless integers go out, got True",
        ),
        (
            {"input": "bf16", "target": "bf16", "scale": {"format": "none"}},
            "target: must differ from input where nothing is scaled, got 'bf16'",
        ),
        ({"input": "fp64"}, "input: "),
        ({"scale": {"format": "fp16"}}, r"scale\.format: "),
    ],
)
def test_bad_combinations_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        spec_of(**fields)
