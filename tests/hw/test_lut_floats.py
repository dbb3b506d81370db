"""Floating activations of the LUT core: alignment, running exponents, specials, refusals."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from hw.block import spec_from_dict
from hw.blocks.lut_core import floating, golden
from hw.blocks.lut_core.spec import LutActivations, LutCoreSpec
from hw.errors import SpecError
from hw.gemm import GemmWork, Job
from hw.lib.accumulator import digits
from rtl_gen.emit import emit_verilog
from sim import gemm
from sim.harness.compile import RUN_SHORT
from sim.harness.model import load
from sw_driver.mapper.core import core_of
from sw_driver.runner.run import check_request

ONE, NAN, INF, MINUS = 0x3C00, 0x7E01, 0x7C00, 0x8000  # of FP16


def _lut(k: int = 4, **fields: Any) -> LutCoreSpec:
    data = {"tile": {"m": 2, "n": 3, "k": k}, "max_k": 10 * k, **fields}
    spec = spec_from_dict({"block": "lut_core", "name": "dut", **data})
    assert isinstance(spec, LutCoreSpec)
    return spec


def _float(name: str, bits: int = 8, **fields: Any) -> LutActivations:
    return LutActivations.model_validate({"format": name, "bits": bits, **fields})


def _half_even(x: Fraction) -> int:
    low = x.numerator // x.denominator
    twice = 2 * (x - low)
    return low + int(twice > 1 or (twice == 1 and low % 2 == 1))


def _by_hand(a: LutActivations, code: int, highest: int) -> int:
    """One activation in units of what the results of that exponent are in."""
    value = float(a.form.decode(np.array(code)))
    if value != value or value in (float("inf"), -float("inf")):
        return 0
    unit = Fraction(2) ** (highest - a.form.bias - (a.widest - 2))
    return max(-a.high, min(a.high, _half_even(Fraction(value) / unit)))


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8, 16])
def test_every_fp8_code_is_aligned_to_every_exponent(name: str, bits: int) -> None:
    a = _float(name, bits, exponent="given")
    codes = np.arange(256)
    for highest in range(1, 1 << a.form.exponent_bits):
        expected = [_by_hand(a, code, highest) for code in range(256)]
        assert floating.align(a, codes, np.array(highest)).tolist() == expected


@pytest.mark.parametrize(("name", "bits"), [("fp16", 8), ("fp16", 12), ("fp16", 16), ("bf16", 8)])
def test_wide_codes_are_aligned(name: str, bits: int) -> None:
    a = _float(name, bits, exponent="given")
    rng = np.random.default_rng(3)
    for highest in rng.integers(1, 1 << a.form.exponent_bits, 12).tolist():
        codes = rng.integers(0, 1 << 16, 500)
        near = (codes & 0x83FF) | (np.clip(highest - rng.integers(0, 16, 500), 0, 30) << 10)
        for some in (codes, near) if name == "fp16" else (codes,):
            expected = [_by_hand(a, code, highest) for code in some.tolist()]
            assert floating.align(a, some, np.array(highest)).tolist() == expected


def test_ties_go_to_even_and_the_largest_is_clipped() -> None:
    a = _float("fp16", 8)
    # 1.m of exponent 15 in units of 2^-6: 64 + 4m; four bits of significand fall below.
    for significand, expected in (
        (1024 + 8, 64), (1024 + 24, 66), (1024 + 9, 65), (1024 + 7, 64), (2047, 127), (2040, 127),
        (2039, 127), (2023, 126),
    ):  # fmt: skip
        code = np.array([15 << 10 | significand - 1024])
        assert floating.align(a, code, np.array(15)).tolist() == [expected]
        assert floating.align(a, code | MINUS, np.array(15)).tolist() == [-expected]
    # Half of the smallest unit, and just more: 2^-7 and its successor.
    assert floating.align(a, np.array([8 << 10]), np.array(15)).tolist() == [0]
    assert floating.align(a, np.array([8 << 10 | 1]), np.array(15)).tolist() == [1]
    # Subnormals count like exponent 1, in units of 2^-20 here.
    assert floating.align(a, np.array([1, 1 << 9, 1023]), np.array(1)).tolist() == [0, 32, 64]


def _work(spec: LutCoreSpec, rows: list[list[int]], w: int = 1, **extra: Any) -> GemmWork:
    a = np.array(rows)
    job = Job(k_steps=a.shape[1] // spec.tile.k, weight_bits=spec.max_weight_bits)
    weights = np.full((spec.tile.n, a.shape[1]), w)
    z = np.zeros(spec.tile.n, dtype=np.int64) if spec.zero_point else None
    return GemmWork(job=job, a=a, w=weights, z=z, extra=extra)


def _values(spec: LutCoreSpec, work: GemmWork) -> tuple[list[float], list[int]]:
    """The first column as numbers, and the flags."""
    found = golden.expected(spec, work)["o"]
    values = np.ldexp(found["o"][0, :, 0].astype(float), found["exponent"][0])
    return values.tolist(), found["invalid"][0].tolist()


def test_specials_are_zero_and_flagged() -> None:
    spec = _lut(activations={"format": "fp16", "bits": 12})
    work = _work(spec, [[ONE, NAN, 0, MINUS], [ONE, INF | MINUS, ONE, 1]])
    assert _values(spec, work) == ([1.0, 2.0], [1, 1])
    work = _work(spec, [[ONE, ONE, 0, MINUS], [NAN, INF, NAN, INF]])
    assert _values(spec, work) == ([2.0, 0.0], [0, 1])
    # A row of zeros, like one of subnormals, has the least exponent there is.
    found = golden.expected(spec, _work(spec, [[0, MINUS, 0, 0], [1, 0, 0, 0]]))["o"]
    assert found["exponent"][0].tolist() == [1 - 15 - 10] * 2
    assert found["o"][0, :, 0].tolist() == [0, 1]


def test_one_huge_element_leaves_nothing_of_the_small_ones() -> None:
    spec = _lut(activations={"format": "fp16", "bits": 12}, weights={"max_bits": 1})
    huge = 30 << 10
    small = 17 << 10  # 2^-13 of it: half a unit is 2^-12
    assert _values(spec, _work(spec, [[huge, small, small, small]] * 2))[0] == [2.0**15] * 2
    # In a step before it they are summed, shifted down by 12 or more they are dropped.
    rows = [[18 << 10] * 4 + [huge, 0, 0, 0]] * 2
    assert _values(spec, _work(spec, rows))[0] == [2.0**15] * 2
    rows = [[19 << 10] * 4 + [huge, 0, 0, 0]] * 2
    assert _values(spec, _work(spec, rows))[0] == [2.0**15 + 4 * 2.0**4] * 2
    # Negative sums are shifted towards minus infinity.
    rows = [[19 << 10 | MINUS, 0, 0, 0, 29 << 10, 0, 0, 0, huge, 0, 0, 0]] * 2
    assert _values(spec, _work(spec, rows))[0] == [2.0**15 + 2.0**14 - 2.0**5] * 2


def test_what_cancels_leaves_zero() -> None:
    spec = _lut(activations={"format": "fp16", "bits": 12})
    rows = [[30 << 10 | 77, 12 << 10 | 3, 30 << 10 | 77 | MINUS, 12 << 10 | 3 | MINUS]] * 2
    assert _values(spec, _work(spec, rows, w=7))[0] == [0.0, 0.0]
    # The same over two steps: the first one's small numbers fall to the larger exponent.
    rows = [[12 << 10, 0, 0, 0, 30 << 10, 12 << 10 | MINUS, 30 << 10 | MINUS, 0]] * 2
    assert _values(spec, _work(spec, rows, w=7))[0] == [0.0, 0.0]


def test_a_given_exponent_saturates_what_exceeds_it() -> None:
    spec = _lut(activations={"format": "fp16", "bits": 8, "exponent": "given"})
    work = _work(spec, [[ONE, 16 << 10, 20 << 10 | MINUS, 0]] * 2, exponent=np.array([15, 16]))
    found = golden.expected(spec, work)["o"]
    assert found["o"][0, :, 0].tolist() == [64 + 127 - 127, 32 + 64 - 127]
    assert found["exponent"][0].tolist() == [-6, -5]


def _digits(spec: LutCoreSpec, w: int, z: int, bits: int) -> list[int]:
    """What each pass multiplies with, plane by plane."""
    count = spec.planes_per_cycle
    passes = -(-bits // count)
    width = passes * count
    if spec.weight_encoding == "ternary":
        return [w]
    if spec.weight_encoding == "bipolar":
        planes = [2 * ((w + 2**width - 1) // 2 >> b & 1) - 1 for b in range(width)]
    else:
        planes = [(w >> b & 1) - (z >> b & 1) for b in range(width)]
        if spec.weight_encoding == "twos_complement":
            planes[-1] = -planes[-1]
    parts = [planes[low : low + count] for low in range(width - count, -1, -count)]
    return [sum(plane << i for i, plane in enumerate(part)) for part in parts]


def _one_by_one(spec: LutCoreSpec, work: GemmWork, m: int, n: int) -> tuple[int, int]:
    """A result and its exponent, in plain integers and fractions."""
    a, k, form = spec.activations, spec.tile.k, spec.activations.form
    zero = int(work.z[n]) if work.z is not None else 0
    passes = [_digits(spec, int(w), zero, work.job.weight_bits) for w in work.w[n]]
    codes = work.a[m].tolist()
    stored = []
    for code in codes:
        exponent = code >> form.mantissa_bits & ((1 << form.exponent_bits) - 1)
        wrong = not np.isfinite(form.decode(np.array(code)))
        stored.append(1 if wrong else max(exponent, 1))
    below = a.guard + (spec.doubled and a.running)
    top = max(stored)
    y = Fraction(0)
    for number in range(len(passes[0])):
        y *= 2**spec.planes_per_cycle if number else 1
        highest = 0
        for start in range(0, len(codes), k):
            lanes = range(start, start + k)
            before = highest
            highest = max(highest, *(stored[i] for i in lanes)) if number == 0 else top
            if number == 0 and start and highest - before >= a.bits + a.guard:
                y = Fraction(0)
            elif number == 0 and start:
                y = Fraction((y / 2 ** (highest - before) * 2**below).__floor__(), 2**below)
            y += sum(_by_hand(a, codes[i], highest) * passes[i][number] for i in lanes)
    return (y * 2**a.guard).__floor__(), top - form.bias - (a.bits - 2) - a.guard


@pytest.mark.parametrize(
    "fields",
    [
        {"activations": {"format": "fp16", "bits": 12}, "weights": {"max_bits": 3}},
        {"activations": {"format": "fp16", "bits": 7, "guard": 2}, "weights": {"max_bits": 2}},
        {
            "activations": {"format": "bf16", "bits": 8, "guard": 1},
            "weights": {"encoding": "twos_complement", "max_bits": 5},
            "planes": 2,
        },
        {
            "activations": {"format": "fp8_e5m2", "bits": 6},
            "weights": {"encoding": "unsigned", "max_bits": 3},
            "table": {"form": "symmetric"},
        },
        {
            "activations": {"format": "fp8_e4m3", "bits": 4},
            "weights": {"encoding": "bipolar", "max_bits": 3},
            "table": {"form": "symmetric"},
            "planes": 2,
        },
        {"activations": {"format": "fp16", "bits": 9}, "weights": {"encoding": "ternary"}},
    ],
)
def test_running_exponents_element_by_element(fields: dict[str, Any]) -> None:
    spec = _lut(**fields)
    rng = np.random.default_rng(4)
    for _ in range(40):
        work = golden.random_work(spec, rng)
        found = golden.expected(spec, work)["o"]
        for m in range(spec.tile.m):
            for n in range(spec.tile.n):
                value, exponent = _one_by_one(spec, work, m, n)
                assert (int(found["o"][0, m, n]), int(found["exponent"][0, m])) == (value, exponent)


@pytest.mark.parametrize("exponent", ["running", "given"])
@pytest.mark.parametrize(("name", "bits"), [("fp16", 12), ("fp16", 8), ("bf16", 9), ("bf16", 16)])
def test_results_keep_their_error_bound(exponent: str, name: str, bits: int) -> None:
    spec = _lut(
        activations={"format": name, "bits": bits, "exponent": exponent},
        weights={"encoding": "twos_complement", "max_bits": 4},
    )
    a = spec.activations
    rng = np.random.default_rng(5)
    worst = Fraction(0)
    for _ in range(60):
        work = golden.random_work(spec, rng)
        extra = {}
        if exponent == "given":
            extra["exponent"] = floating.exponents(a, work.a).max(axis=1)
        work = GemmWork(job=work.job, a=work.a, w=work.w, z=None, extra=extra)
        found = golden.expected(spec, work)["o"]
        values = np.nan_to_num(a.form.decode(work.a), nan=0.0, posinf=0.0, neginf=0.0)
        # Half a unit an activation, a whole one where a significand does not fit.
        each = 1 if bits - 1 < a.form.mantissa_bits + 1 else Fraction(1, 2)
        floors = 2 if exponent == "running" and work.job.k_steps > 1 else 0
        for m in range(spec.tile.m):
            unit = Fraction(2) ** int(found["exponent"][0, m])
            for n in range(spec.tile.n):
                terms = zip(values[m].tolist(), work.w[n].tolist(), strict=True)
                exact = sum((Fraction(x) * w for x, w in terms), Fraction(0))
                off = abs(int(found["o"][0, m, n]) - exact / unit)
                # Of two's complement planes the highest is negative: 2^B − 1 at most a weight.
                weights = [
                    sum(
                        abs(d) << i
                        for i, d in enumerate(reversed(_digits(spec, w, 0, work.job.weight_bits)))
                    )
                    for w in work.w[n].tolist()
                ]
                bound = each * sum(weights) + floors * 2 ** (work.job.weight_bits - 1)
                assert off <= bound
                worst = max(worst, off)
    assert worst > 1


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2"])
def test_exact_alignment_loses_nothing(name: str) -> None:
    spec = _lut(activations={"format": name, "exponent": "exact"})
    a = spec.activations
    assert a.widest == {"fp8_e4m3": 19, "fp8_e5m2": 33}[name]
    codes = np.arange(256)
    finite = ~floating.special(a, codes)
    aligned = floating.align(a, codes, np.array(a.top))
    (low, high) = a.result_exponents
    assert low == high
    values = np.ldexp(aligned.astype(float), low)
    np.testing.assert_array_equal(values[finite], a.form.decode(codes[finite]))
    rng = np.random.default_rng(6)
    for _ in range(20):
        work = golden.random_work(spec, rng)
        found = golden.expected(spec, work)["o"]
        decoded = np.nan_to_num(a.form.decode(work.a), nan=0.0, posinf=0.0, neginf=0.0)
        assert work.z is not None
        product = decoded @ (work.w - work.z[:, None]).T.astype(float)
        np.testing.assert_array_equal(np.ldexp(found["o"][0].astype(float), low), product)


@pytest.mark.parametrize(
    "activations",
    [
        {"format": "fp16", "bits": 12},
        {"format": "fp16", "bits": 9, "exponent": "given"},
    ],
)
def test_every_fp16_code_goes_through_the_rtl(activations: dict[str, Any]) -> None:
    spec = spec_from_dict(
        {
            "block": "lut_core",
            "name": "dut",
            "tile": {"m": 4, "n": 2, "k": 2},
            "activations": activations,
            "weights": {"encoding": "unsigned", "max_bits": 1},
            "pipeline": {"front": 1, "heap": 0},
            "max_k": 4,
        }
    )
    assert isinstance(spec, LutCoreSpec)
    every = np.arange(1 << 16)
    neighbour = np.where(every % 3 == 0, 0, np.where(every % 3 == 1, ONE, 26 << 10))
    a = np.stack([every, neighbour], axis=1)
    w, z = np.array([[1, 0], [1, 1]]), np.array([0, 1])
    extra = (
        {"exponent": np.resize([15, 12, 20, 31, 0], 1 << 16)} if "exponent" in activations else {}
    )
    model = load(spec, emit_verilog(spec), effort=RUN_SHORT)
    with model:
        plan = gemm.tile(spec, a, w, z=z, extra=extra)
        found = plan.result(model.run(plan.inputs, plan.expect))
    expected = plan.assemble(plan.expected())
    for name, values in expected.items():
        np.testing.assert_array_equal(found.fields[name], values)
    assert found.cycles == found.predicted_cycles
    assert np.unique(found.o[:, 0]).size > 200


@pytest.mark.parametrize(
    "fields",
    [
        {"activations": {"format": "fp16", "bits": 9}},
        {"activations": {"format": "bf16", "bits": 8, "guard": 1}},
        {"activations": {"format": "fp8_e4m3", "bits": 3}},
        {"activations": {"format": "fp8_e4m3", "bits": 16}},
        {"activations": {"format": "fp16", "bits": 12, "exponent": "given"}},
        {"activations": {"format": "fp8_e5m2", "exponent": "exact"}},
        {"activations": {"format": "fp16", "bits": 12}, "max_k": 4},
    ],
)
def test_works_reach_every_coverage_point(fields: dict[str, Any]) -> None:
    spec = _lut(**fields)
    rng = np.random.default_rng(0)
    works = list(golden.corner_works(spec, rng))
    for _ in range(150):
        works += [golden.random_work(spec, rng, size=size) for size in ("small", "minimum")]
    hit = {point for work in works for point in golden.coverage(spec, work)}
    assert set(golden.coverage_points(spec)) == hit


def test_digits_tell_every_distance_apart() -> None:
    for count in range(1, 40):
        reach = 1
        for radix in digits(count):
            assert radix in (2, 3)
            reach *= radix
        assert reach >= count
    assert digits(12) == (3, 2, 2)
    assert digits(8) == (2, 2, 2)


def test_floats_are_no_integers_to_the_rest() -> None:
    spec = _lut(activations={"format": "bf16", "bits": 9})
    assert not spec.exact
    assert not spec.summable
    assert core_of(spec).activation_bits == 16
    assert [item.name for item in spec.results] == ["o", "exponent", "invalid"]
    low, high = spec.activations.result_exponents
    (field,) = [item for item in spec.results if item.name == "exponent"]
    assert -(1 << (field.width - 1)) <= low < high < 1 << (field.width - 1)
    assert check_request(spec, 1, 0, (4,), 32) is spec
    integers = _lut(activations={"bits": 8})
    assert '"activations":{"bits":8,"signed":true}' in integers.canonical()
    assert '"format":"bf16"' in spec.canonical()
    work = _work(spec, [[0] * 4] * 2)
    wrong = GemmWork(job=work.job, a=work.a - 1, w=work.w, z=work.z)
    with pytest.raises(ValueError, match=r"a: values must lie in \[0, 65535\], got \[-1, -1\]"):
        golden.beats(spec, wrong)
    with pytest.raises(ValueError, match=r"K: must be at most 40, parts of a rounded sum"):
        gemm.tile(spec, np.zeros((1, 41), int), np.zeros((1, 41), int), z=np.zeros(1, int))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "exponent: is required"),
        (np.zeros(3, int), r"exponent: must be \(2,\) integers, got \(3,\) int64"),
        (np.zeros(2), r"exponent: must be \(2,\) integers, got \(2,\) float64"),
        (np.array([0, 32]), r"exponent: values must lie in \[0, 31\], got \[0, 32\]"),
    ],
)
def test_wrong_exponents_are_refused(given: np.ndarray | None, message: str) -> None:
    spec = _lut(activations={"format": "fp16", "bits": 8, "exponent": "given"})
    extra: dict[str, Any] = {} if given is None else {"exponent": given}
    with pytest.raises(ValueError, match=message):
        golden.expected(spec, _work(spec, [[0] * 4] * 2, **extra))


FP16 = {"format": "fp16", "bits": 12}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activations": {"exponent": "given"}}, "activations.exponent: needs a floating format"),
        ({"activations": {"guard": 1}}, "activations.guard: needs a floating format"),
        ({"pipeline": {"front": 2}}, "pipeline.front: must be at most 1 for integers"),
        ({"activations": {**FP16, "signed": False}}, "activations.signed: must be true for floats"),
        (
            {"activations": {"format": "fp16", "exponent": "exact"}},
            "activations.exponent: exact needs fp8_e4m3 or fp8_e5m2",
        ),
        (
            {"activations": {**FP16, "exponent": "given", "guard": 1}},
            "activations.guard: needs exponent running",
        ),
        (
            {"activations": FP16, "table": {"entries": "int8"}},
            "table.entries: must be exact for floats",
        ),
        (
            {"activations": FP16, "table": {"source": "port"}},
            "table.source: must be internal for floats",
        ),
        ({"activations": FP16, "addend": True}, "addend: must be false for floats"),
        (
            {"activations": FP16, "weights": {"encoding": "bipolar"}},
            "table.form: must be symmetric for bipolar weights and a running exponent",
        ),
        (
            {"activations": {"format": "fp8_e5m2", "exponent": "exact"}, "max_k": 4096},
            r"max_k: needs a 49 bit accumulator, at most 48",
        ),
    ],
)
def test_what_floats_cannot_have_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        _lut(**fields)
