"""The reference of scale-and-accumulate against numpy's own FP32, and against exact fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from hw.block import spec_from_dict
from hw.blocks.scale_accumulate import golden, timing
from hw.blocks.scale_accumulate.golden import ScaleWork
from hw.blocks.scale_accumulate.spec import ScaleAccumulateSpec
from hw.blocks.scale_accumulate.sweep import SWEEP
from hw.errors import SpecError
from hw.exact import Exact, numbers
from hw.formats import FP16, FP32, UE4M3

F32 = np.float32


def spec_of(**fields: Any) -> ScaleAccumulateSpec:
    fields = {"tile": {"m": 2, "n": 3}, "lanes": 2, **fields}
    spec = spec_from_dict({"block": "scale_accumulate", "name": "dut", **fields})
    assert isinstance(spec, ScaleAccumulateSpec)
    return spec


def native(spec: ScaleAccumulateSpec, work: ScaleWork) -> np.ndarray:
    """The result by numpy's FP32, ``(M, N)`` codes; only for products of at most 53 bits."""
    q = work.p if work.z is None else work.p - work.z[:, None, :] * work.r[:, :, None]
    scale = spec.weight_format.decode(work.w_scale)[:, None, :]
    a_scale = None
    if spec.activation_format is not None:
        a_scale = spec.activation_format.decode(work.a_scale)
    if work.exponent is not None:
        q = np.where(work.invalid[:, :, None], np.nan, np.ldexp(1.0 * q, work.exponent[:, :, None]))
    with np.errstate(all="ignore"):
        if spec.scales_groups:
            scale = scale * a_scale[:, :, None]
        total = np.zeros(work.p.shape[1:], dtype=F32)
        for each in q * scale:
            total = total + each.astype(F32)
        if spec.scales_jobs:
            total = total * a_scale[0].astype(F32)[:, None]
        if spec.tensor_scale:
            total = total * np.array([work.tensor_scale], dtype=np.uint32).view(F32)
        if spec.bias_format is not None:
            total = total + spec.bias_format.decode(work.bias).astype(F32)
    return np.where(np.isnan(total), FP32.nan_code, total.view(np.uint32)).astype(np.int64)


# All but the last, whose products float64 would round twice.
@pytest.mark.parametrize("index", range(len(SWEEP) - 1))
def test_the_reference_is_what_numpy_computes(index: int) -> None:
    spec = spec_of(**SWEEP[index])
    rng = np.random.default_rng(index)
    for size in ("minimum", "small", "large"):
        for _ in range(30):
            work = golden.random_work(spec, rng, size=size)
            np.testing.assert_array_equal(golden.results(spec, work), native(spec, work))


def test_wide_products_are_rounded_once() -> None:
    rng = np.random.default_rng(5)
    q = rng.integers(-(1 << 25), 1 << 25, size=3000)
    w = FP16.random_codes(rng, 3000, finite=True)
    # A third of them a tie of 24 bits, or next to one.
    a = FP32.random_codes(rng, 3000, finite=True).astype(np.int64)
    a[::3] = (127 << 23) | (1 << rng.integers(0, 23, size=1000))
    value = numbers(None, q) * numbers(FP16, w) * numbers(FP32, a)
    found = FP32.encode(value.as_float64())
    # By fractions: the code whose value is nearest, or even where two are.
    for i, code in enumerate(found):
        exact = Fraction(int(q[i])) * _fraction(FP16, w[i]) * _fraction(FP32, a[i])
        if FP32.is_inf(code):
            assert abs(exact) >= Fraction(FP32.max) + Fraction(2) ** 103
            continue
        error = abs(_fraction(FP32, code) - exact)
        for other in (int(code) - 1, int(code) + 1):
            if (int(code) & 0x7FFFFFFF == 0) or FP32.is_inf(other):
                continue
            away = abs(_fraction(FP32, other) - exact)
            assert error < away or (error == away and int(code) % 2 == 0)
    assert len(np.unique(found)) > 2000


@pytest.mark.parametrize("bit", range(36))
def test_no_bit_of_a_product_is_too_low_to_break_a_tie(bit: int) -> None:
    def code(significand: int) -> int:
        array, no = np.array([significand]), np.array([False])
        return int(FP32.encode(Exact(array * 0, array, array * 0, no, no).as_float64())[0])

    tie = (1 << 61) | (1 << 37)
    assert code(tie) == code(1 << 61)
    assert code(tie | (1 << bit)) == code(1 << 61) + 1
    assert code((1 << 61) | (3 << 37) - (1 << bit)) == code(1 << 61) + 1


def _fraction(form: Any, code: Any) -> Fraction:
    return Fraction(float(form.decode(np.array(int(code)))))


@pytest.mark.parametrize(
    ("p", "exponent", "invalid", "w_scale", "wanted"),
    [
        (3, -149, 0, 0x3F80, 3),  # the least subnormal's unit
        (3, -150, 0, 0x3F80, 2),  # 1.5 ties to even
        (1, 127, 0, 0x3F80, 0x7F000000),
        (1, 128, 0, 0x3F80, 0x7F800000),  # overflow
        (0, 255, 0, 0x3F80, 0),
        (0, 0, 1, 0x3F80, 0x7FC00000),  # an invalid row, zeros included
        (1, -256, 0, 0x7F80, 0x7F800000),
        (0, -256, 0, 0x7F80, 0x7FC00000),  # 0 times infinity
    ],
)
def test_powers_of_partial_sums(
    p: int, exponent: int, invalid: int, w_scale: int, wanted: int
) -> None:
    none = {"format": "none"}
    spec = spec_of(
        tile={"m": 1, "n": 1},
        lanes=1,
        max_groups=1,
        weight_scale="bf16",
        activation_scale=none,
        partial_exponent_bits=9,
    )
    work = ScaleWork(
        p=np.array([[[p]]]),
        w_scale=np.array([[w_scale]]),
        exponent=np.array([[exponent]]),
        invalid=np.array([[invalid]]),
    )
    assert golden.results(spec, work).tolist() == [[wanted]]


@pytest.mark.parametrize(("exponent", "wanted"), [(2047, 0x7F800000), (-2048, 0)])
def test_powers_beyond_every_format(exponent: int, wanted: int) -> None:
    spec = spec_of(
        tile={"m": 1, "n": 1},
        lanes=1,
        max_groups=1,
        activation_scale={"format": "none"},
        partial_exponent_bits=12,
    )
    work = ScaleWork(
        p=np.array([[[5]]]),
        w_scale=np.array([[0x3C00]]),
        exponent=np.array([[exponent]]),
        invalid=np.array([[0]]),
    )
    assert golden.results(spec, work).tolist() == [[wanted]]


def test_row_sums_have_no_exponents() -> None:
    with pytest.raises(SpecError, match="zero_point_bits: must be 0 where partial sums have exp"):
        spec_of(partial_exponent_bits=6, zero_point_bits=4)


def test_groups_of_a_product_become_the_product() -> None:
    """Powers of two as scales, so that nothing is rounded: the whole product, exactly."""
    rng = np.random.default_rng(6)
    m, n, group, groups = 2, 3, 32, 5
    spec = spec_of(partial_bits=16, zero_point_bits=4, row_sum_bits=13, bias="fp32", max_groups=8)
    a = rng.integers(-128, 128, size=(m, groups, group))
    w = rng.integers(0, 16, size=(n, groups, group))
    z = rng.integers(0, 16, size=(groups, n))
    s = rng.integers(-3, 4, size=(groups, n))
    row, bias = rng.integers(-2, 3, size=m), rng.integers(-100, 100, size=n)
    work = ScaleWork(
        p=np.einsum("mgk,ngk->gmn", a, w),
        w_scale=FP16.encode(2.0**s),
        z=z,
        r=a.sum(axis=2).T,
        a_scale=FP32.encode(2.0**row)[None],
        bias=FP32.encode(bias.astype(float)),
    )
    weights = (w - z.T[:, :, None]) * 2.0 ** s.T[:, :, None]
    wanted = np.einsum("mgk,ngk->mn", a * 2.0 ** row[:, None, None], weights) + bias
    np.testing.assert_array_equal(FP32.decode(golden.results(spec, work)), wanted)


@pytest.mark.parametrize(
    ("p", "w_scale", "a_scale", "bias", "wanted"),
    [
        (0, 0x7C00, 0x3F800000, 0, 0x7FC00000),  # 0 times infinity
        (1, 0x7C00, 0x3F800000, 0xFF800000, 0x7FC00000),  # infinity less infinity
        (-1, 0x7C00, 0x3F800000, 0, 0xFF800000),  # minus infinity
        (1, 0xFE01, 0x3F800000, 0, 0x7FC00000),  # a negative NaN comes out positive
        (0, 0xBC00, 0x3F800000, 0x80000000, 0),  # from +0: 0 * -1 = -0, +0 - 0 = +0
        (0, 0x3C00, 0xBF800000, 0x80000000, 0x80000000),  # 0 * -1 = -0, -0 - 0 = -0
        (3, 0x3C00, 0x00000001, 0, 3),  # subnormal
        (3, 0x3800, 0x00000001, 0, 2),  # 1.5 ties to even
        (5, 0x3800, 0x00000001, 0, 2),  # 2.5 ties to even
        (1 << 10, 0x3C00, 0x7F7FFFFF, 0, 0x7F800000),  # overflow
        (-1, 0x3C00, 0x3F800000, 0x3F800000, 0),  # x - x is +0
    ],
)
def test_specials(p: int, w_scale: int, a_scale: int, bias: int, wanted: int) -> None:
    spec = spec_of(tile={"m": 1, "n": 1}, lanes=1, bias="fp32", max_groups=1)
    work = ScaleWork(
        p=np.array([[[p]]]),
        w_scale=np.array([[w_scale]]),
        a_scale=np.array([[a_scale]]),
        bias=np.array([bias]),
    )
    assert golden.results(spec, work).tolist() == [[wanted]]


def test_a_group_is_rounded_once_and_a_job_as_often_as_it_closes() -> None:
    # (2^24 + 1) * 1.125 * 1.125: a product that is rounded between its factors is another number.
    spec = spec_of(
        tile={"m": 1, "n": 1},
        lanes=1,
        partial_bits=26,
        weight_scale="ue4m3",
        activation_scale={"format": "ue4m3", "per": "group"},
    )
    code = UE4M3.encode(np.array([[1.125]]))
    differ = 0
    for p in range(1 << 24, (1 << 24) + 64):
        work = ScaleWork(p=np.array([[[p]]]), w_scale=code, a_scale=code)
        once = golden.results(spec, work)[0, 0]
        assert once == FP32.encode(p * 1.125 * 1.125)
        differ += int(once != FP32.encode(float(F32(p * 1.125)) * 1.125))
    assert differ > 5


def test_cycles_of_a_job_follow_its_groups_and_lanes() -> None:
    for lanes in (1, 2, 3, 6):
        spec = spec_of(lanes=lanes)
        turns = 6 // lanes
        one, many = (timing.job_cycles(spec, groups) for groups in (1, 9))
        assert many - one == 8 * max(turns, timing.ADD)
        # Turns, stages, and one round more for the activations' scale.
        closing = max(turns, timing.ADD + timing.MULTIPLY)
        assert one == turns + closing + timing.MULTIPLY + timing.ADD


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"lanes": 4}, r"lanes: must divide tile\.m \* tile\.n = 6, got 4"),
        (
            {"partial_bits": 48, "activation_scale": {"format": "fp16", "per": "group"}},
            r"partial_bits: must let a product with its scales have at most 62 bits, which here "
            r"are 69, got 48",
        ),
        ({"bias": "e8m0"}, "bias: "),
        ({"weight_scale": "int8"}, "weight_scale: "),
        ({"zero_point_bits": 9}, "zero_point_bits: "),
    ],
)
def test_bad_combinations_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        spec_of(**fields)


def test_missing_operands_are_named() -> None:
    spec = spec_of(bias="fp16", tensor_scale=True, zero_point_bits=2)
    work = golden.random_work(spec, np.random.default_rng(0))
    fields = vars(work)
    for name in ("a_scale", "bias", "tensor_scale", "z", "r"):
        with pytest.raises(ValueError, match=f"{name}: is required"):
            golden.beats(spec, ScaleWork(**{**fields, name: None}))
