"""The quantizer's reference against exact fractions, its claims, and its refusals."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from hw.block import block, spec_from_dict
from hw.blocks.quantize import golden, timing
from hw.blocks.quantize.golden import QuantizeWork
from hw.blocks.quantize.spec import QuantizeSpec
from hw.errors import SpecError
from hw.formats import BLOCK_FORMATS, FLOAT_FORMATS, FP16, FP32, FloatFormat, IntegerFormat
from rtl_gen.emit import emit_verilog
from sim import check_verilog
from sim.stimulus import Scenario


def _spec(**data: Any) -> QuantizeSpec:
    spec = spec_from_dict({"block": "quantize", "name": "dut", **data})
    assert isinstance(spec, QuantizeSpec)
    return spec


@functools.cache
def _values(form: FloatFormat | IntegerFormat) -> list[Fraction]:
    """Magnitudes of a format, by code."""
    codes = np.arange(form.max_code + 1)
    return [Fraction(value) for value in form.decode(codes).tolist()]


def _nearest(values: list[Fraction], x: Fraction) -> int:
    """The code of the nearest magnitude, of two the even code; the last one for what is beyond."""
    above = min(bisect.bisect_left(values, x), len(values) - 1)
    near = (max(above - 1, 0), above)
    return min(near, key=lambda code: (abs(values[code] - x), code % 2))


def _groups(spec: QuantizeSpec, count: int) -> Iterator[tuple[QuantizeWork, int]]:
    """Finite groups of random works, one at a time."""
    rng = np.random.default_rng(5)
    while count:
        work = golden.random_work(spec, rng)
        found = golden.quantized(spec, work)
        for group in range(len(work.x)):
            if np.isfinite(spec.source.decode(work.x[group])).all() and count:
                one = QuantizeWork(x=work.x[group : group + 1], tensor_scale=work.tensor_scale)
                assert golden.quantized(spec, one).scales[0, 0] == found.scales[group, 0]
                count -= 1
                yield one, group


NARROW = [
    {"integers": {"bits": 8, "scale": "fp16"}},
    {"integers": {"bits": 4, "scale": "fp16"}, "input": "fp32"},
    {"integers": {"bits": 2, "scale": "fp16"}, "input": "bf16"},
    {"target": "mxint8", "rule": "ceil"},
    {"target": "mxint4", "input": "fp32"},
    {"target": "mxfp8_e4m3", "input": "bf16", "rule": "ceil"},
    {"target": "mxfp8_e5m2"},
    {"target": "mxfp6_e2m3", "rule": "ceil"},
    {"target": "mxfp6_e3m2", "input": "fp32"},
    {"target": "mxfp4", "rule": "ceil"},
    {"target": "nvfp4", "group": 16},
    {"target": "nvint4", "group": 16, "input": "fp32"},
    {"target": "bfp", "group": 9, "lanes": 9, "integers": {"bits": 11, "exponent_bits": 5}},
]


@pytest.mark.parametrize("data", NARROW)
def test_codes_are_the_nearest_of_exact_quotients(data: dict[str, Any]) -> None:
    spec = _spec(**data)
    form = spec.format
    elements, seen = _values(form.element), set()
    for work, _ in _groups(spec, 40):
        scale = Fraction(float(form.scale.decode(golden.quantized(spec, work).scales[0, 0])))
        x = [Fraction(value) for value in spec.source.decode(work.x[0]).tolist()]
        absmax = max(map(abs, x))
        tensor = 1
        if work.tensor_scale is not None:
            tensor = Fraction(float(FP32.decode(work.tensor_scale)))
        if form.rule == "absmax":
            if form.scale.width <= 16:
                wanted = absmax / (elements[-1] * tensor)
                scales = _values(form.scale)
                assert scale == scales[_nearest(scales, wanted)]
            else:
                # The quotient of numbers of 24 and 3 to 15 bits is no tie in float64.
                quotient = float(absmax) / float(elements[-1])
                assert float(scale) == float(
                    form.scale.decode(form.scale.encode(quotient, overflow="saturate"))
                )
        elif absmax:
            assert math.log2(scale) == int(math.log2(scale))
            low, high = (
                Fraction(2) ** e for e in (form.scale.min_exponent, form.scale.max_exponent)
            )
            if form.rule == "ceil":
                assert absmax <= scale * elements[-1] or scale == high
                assert absmax > scale / 2 * elements[-1] or scale == low
            else:
                top = Fraction(2) ** (math.frexp(float(elements[-1]))[1] - 1)
                assert scale * top <= absmax < 2 * scale * top or scale in (low, high)
        codes = golden.quantized(spec, work).elements[0].astype(int)
        for value, code in zip(x, codes.tolist(), strict=True):
            step = scale * tensor
            ratio = abs(value) / step if step else Fraction(0)
            magnitude = abs(code)
            if isinstance(form.element, FloatFormat):
                magnitude = code & ((1 << (form.element.width - 1)) - 1)
            assert magnitude == _nearest(elements, ratio)
            if magnitude:
                assert (value < 0) == (code < 0 or code >= 1 << (form.element.width - 1))
            # What nobody clips is off by half a step of its place at most.
            if isinstance(form.element, IntegerFormat) and ratio <= elements[-1]:
                unit = Fraction(1, 1 << form.element.fraction_bits)
                assert abs(ratio - elements[magnitude]) <= unit / 2
            seen.add(magnitude)
    assert min(seen) == 0
    assert max(seen) > form.element.max_code * 0.7


@pytest.mark.parametrize("source", ["fp16", "bf16"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_rounding_scales_by_way_of_fp32_is_the_same_for_16_bit_inputs(
    source: str, bits: int
) -> None:
    form = FLOAT_FORMATS[source]
    absmax = form.decode(np.arange(form.max_code + 1))
    quotient = absmax / ((1 << (bits - 1)) - 1)
    once = FP16.encode(quotient, overflow="saturate")
    twice = FP16.encode(FP32.decode(FP32.encode(quotient)), overflow="saturate")
    np.testing.assert_array_equal(once, twice)


def test_formats_are_those_of_the_table() -> None:
    for name, form in BLOCK_FORMATS.items():
        if not name.startswith("bfp"):
            assert _spec(target=name, group=form.block, lanes=form.block).format == form


def test_special_groups() -> None:
    spec = _spec(group=4, lanes=2)
    nan, inf = FP16.nan_code, FP16.inf_code
    assert nan is not None
    assert inf is not None
    x = np.array([[0x3C00, nan, 0, 0], [0x3C00, inf, 1, 2], [0, 0x8000, 0, 0], [1, 0, 0x8001, 0]])
    out = golden.expected(spec, QuantizeWork(x=x))["o"]
    assert out["scale"].tolist() == [nan, nan, nan, nan, 0, 0, 0, 0]
    # The smallest number over 127 has the scale 0: so have its codes.
    assert (out["q"] == 0).all()
    assert out["last"].tolist() == [0, 1] * 4


def test_short_groups_behind_long_ones_cost_nothing_but_the_longest() -> None:
    spec = _spec(length="job", group=24, lanes=4, integers={"bits": 3})
    rng = np.random.default_rng(1)
    scenarios = []
    for number in range(30):
        works = []
        for _ in range(int(rng.integers(2, 14))):
            beats = int(rng.choice([1, 1, 2, 6, 6, int(rng.integers(1, 7))]))
            groups = int(rng.integers(1, 10))
            x = FP16.random_codes(rng, (groups, 4 * beats), finite=True).astype(np.int64)
            works.append(QuantizeWork(x=x))
        scenarios.append(Scenario(name=f"mix {number}", works=tuple(works)))
    verdict = check_verilog(spec, emit_verilog(spec), scenarios=scenarios)
    assert verdict.passed, verdict.failure
    lengths = [work.x.shape[1] // 4 for work in scenarios[0].works]
    beats = sum(len(work.x) * n for work, n in zip(scenarios[0].works, lengths, strict=True))
    total = timing.overhead(spec) + beats + max(lengths)
    assert timing.cycles(spec, scenarios[0].works) == total


@pytest.mark.parametrize("index", [0, 13, 17])
def test_a_sixteen_bit_input_is_tried_with_every_code(index: int) -> None:
    spec = spec_from_dict({"block": "quantize", "name": "dut", **block("quantize").sweep[index]})
    assert isinstance(spec, QuantizeSpec)
    works = golden.exhaustive_works(spec)
    assert works is not None
    seen = np.unique(np.concatenate([np.abs(work.x.ravel()) & 0x7FFF for work in works]))
    np.testing.assert_array_equal(seen, np.arange(1 << 15))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"lanes": 5}, "lanes: must divide group = 32, got 5"),
        ({"target": "mxfp4", "group": 16}, "group: must be 32 for mxfp4, got 16"),
        ({"target": "nvfp4"}, "group: must be 16 for nvfp4, got 32"),
        ({"integers": {"bits": 12}}, "integers.bits: must be 2 to 8, or 16, for int, got 12"),
        (
            {"target": "bfp", "integers": {"bits": 13}},
            "integers.bits: must be at most 12 for bfp, got 13",
        ),
        ({"target": "bfp", "group": 256}, "group: must be 8 to 128 for bfp, got 256"),
        ({"target": "mxfp4", "length": "job"}, "length: must be fixed for mxfp4, got 'job'"),
        ({"group": 65536, "lanes": 8}, "lanes: must be at least group / 4096 = 16, got 8"),
    ],
)
def test_what_cannot_be_is_refused(data: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        _spec(**data)
    assert str(caught.value) == words


def test_works_that_are_none_are_refused() -> None:
    spec = _spec(length="job", group=8, lanes=4)
    zeros = np.zeros((2, 8), dtype=np.int64)
    with pytest.raises(ValueError, match="a multiple of 4 up to 8 elements, got 6"):
        golden.beats(spec, QuantizeWork(x=zeros[:, :6]))
    with pytest.raises(ValueError, match="tensor_scale: for nv and for nothing else, got 1"):
        golden.beats(spec, QuantizeWork(x=zeros, tensor_scale=1))
    with pytest.raises(ValueError, match="groups must have 32 elements, got 8"):
        golden.beats(_spec(), QuantizeWork(x=zeros))
