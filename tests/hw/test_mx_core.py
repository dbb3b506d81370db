"""The block-scaled core's reference against fractions of decoded values, and its rules."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from hw.block import spec_from_dict
from hw.blocks.mx_core import golden, timing
from hw.blocks.mx_core.spec import MxCoreSpec
from hw.errors import SpecError
from hw.formats import BLOCK_FORMATS, FP32
from hw.formats.sums import DIGIT
from hw.gemm import GemmWork, Job
from rtl_gen.emit import emit_verilog
from sim import check_verilog
from sim.gemm import tile


def _spec(a: str, w: str, accumulator: Mapping[str, Any], **more: Any) -> MxCoreSpec:
    block = BLOCK_FORMATS[a].block
    spec = spec_from_dict(
        {
            "block": "mx_core",
            "name": "dut",
            "tile": {"m": 2, "n": 3, "k": block},
            "activations": {"format": a},
            "weights": {"format": w},
            "accumulator": dict(accumulator),
            "max_k": 8 * block,
            **more,
        }
    )
    assert isinstance(spec, MxCoreSpec)
    return spec


PAIRS = [
    *((name, name) for name in BLOCK_FORMATS),
    ("mxfp8_e4m3", "mxfp4"),
    ("mxint8", "mxfp6_e3m2"),
    ("mxfp8_e5m2", "mxint4"),
    ("bfp16", "bfp12"),
]


def _blocks(spec: MxCoreSpec, work: GemmWork) -> np.ndarray:
    """Exact sums of the blocks ``(steps, M, N)``: fractions, or floats that are no numbers."""
    rows = []
    for form, codes, scales in (
        (spec.a_format, work.a, work.extra["a_scale"]),
        (spec.w_format, work.w, work.extra["w_scale"]),
    ):
        element = form.element.decode(codes)
        scale = np.repeat(form.scale.decode(scales), form.block, axis=1)
        rows.append((element, scale))
    (a, a_scale), (w, w_scale) = rows
    steps, k = work.job.k_steps, spec.tile.k
    found = np.empty((steps, spec.tile.m, spec.tile.n), dtype=object)
    for step, m, n in np.ndindex(*found.shape):
        lanes = slice(step * k, (step + 1) * k)
        values = [*a[m, lanes], *w[n, lanes], a_scale[m, step * k], w_scale[n, step * k]]
        if not np.isfinite(values).all():
            with np.errstate(invalid="ignore"):
                found[step, m, n] = float(
                    (a[m, lanes] * w[n, lanes]).sum()
                    * np.where(np.isnan(values[-2:]), np.nan, 1.0).prod()
                )
            continue
        total = sum(
            Fraction(x) * Fraction(y) for x, y in zip(a[m, lanes], w[n, lanes], strict=True)
        )
        found[step, m, n] = total * Fraction(values[-2]) * Fraction(values[-1])
    return found


def _to_fp32(value: Fraction) -> np.float32:
    """The nearest FP32 number: of three candidates the nearest, of two the even one."""
    with np.errstate(over="ignore"):
        near = np.float32(float(value)) if abs(value) < 2**200 else np.float32(np.inf)
        near = np.copysign(near, np.float32(-1 if value < 0 else 1))
        around = {near, np.nextafter(near, np.float32(0)), np.nextafter(near, near * 2)}

    def distance(x: np.float32) -> tuple[Fraction, int]:
        number = Fraction(2) ** 128 * (1 if x > 0 else -1) if np.isinf(x) else Fraction(float(x))
        return abs(number - value), int(x.view(np.uint32)) & 1

    best = min(around, key=distance)
    return best if best != 0 else np.float32(0)


def _fp32_sum(terms: list[Any]) -> int:
    total: np.float32 = np.float32(0)
    for term in terms:
        if np.isfinite(total) and isinstance(term, Fraction):
            total = _to_fp32(Fraction(float(total)) + term)
        elif not isinstance(term, Fraction):
            with np.errstate(invalid="ignore"):
                total = np.float32(total + np.float32(term))
    return FP32.nan_code if np.isnan(total) else int(total.view(np.uint32))  # type: ignore[return-value]


@pytest.mark.parametrize(("a", "w"), PAIRS)
def test_fp32_sums_are_those_of_fractions(a: str, w: str) -> None:
    spec = _spec(a, w, {"kind": "fp32"})
    rng = np.random.default_rng(7)
    specials = 0
    for _ in range(25):
        work = golden.random_work(spec, rng)
        found = golden.expected(spec, work)["o"]["o"][0]
        blocks = _blocks(spec, work)
        for m, n in np.ndindex(*found.shape):
            assert found[m, n] == _fp32_sum(list(blocks[:, m, n])), (m, n)
            specials += int(found[m, n]) & 0x7F800000 == 0x7F800000
    assert specials


@pytest.mark.parametrize(("a", "w"), PAIRS)
def test_running_sums_are_near_and_exact_without_shifts(a: str, w: str) -> None:
    guard = -24 if "e5m2" in a + w else 6
    spec = _spec(a, w, {"kind": "running", "guard": guard})
    rng = np.random.default_rng(8)
    sums = spec.sums
    for number in range(20):
        work = golden.random_work(spec, rng)
        if number % 2:
            same = {name: np.full_like(x, 60) for name, x in work.extra.items()}
            work = GemmWork(job=work.job, a=work.a, w=work.w, extra=same)
        found = golden.expected(spec, work)["o"]
        blocks, codes = _blocks(spec, work), golden.block_sums(spec, work)["codes"]
        for m, n in np.ndindex(spec.tile.m, spec.tile.n):
            terms = list(blocks[:, m, n])
            special = [x for x in terms if not isinstance(x, Fraction)]
            with np.errstate(invalid="ignore"):
                whole = np.sum(special)
            assert found["nan"][0, m, n] == np.isnan(whole)
            if sums.terms.inf:
                assert found["pinf"][0, m, n] == (whole == np.inf)
                assert found["ninf"][0, m, n] == (whole == -np.inf)
            if special:
                continue
            r = int(found["exponent"][0, m, n])
            assert r == codes[:, m, n].max() // DIGIT
            unit = Fraction(2) ** (DIGIT * r + sums.first_bit)
            value = int(found["o"][0, m, n]) * unit
            if number % 2 and guard >= 0:
                assert value == sum(terms)
            assert 0 <= sum(terms) - value < 2 * len(terms) * unit


@pytest.mark.parametrize(("a", "w"), PAIRS)
def test_fixed_sums_are_exact_in_their_window(a: str, w: str) -> None:
    spec = _spec(a, w, {"kind": "fixed", "low": -30, "bits": 160})
    rng = np.random.default_rng(9)
    left_out = 0
    for _ in range(20):
        work = golden.random_work(spec, rng)
        found = golden.expected(spec, work)["o"]
        blocks, codes = _blocks(spec, work), golden.block_sums(spec, work)["codes"]
        first, last = spec.sums.window
        for m, n in np.ndindex(spec.tile.m, spec.tile.n):
            terms = blocks[:, m, n]
            if not all(isinstance(x, Fraction) for x in terms):
                continue
            kept = (codes[:, m, n] >= first) & (codes[:, m, n] <= last)
            limbs = [int(x) << 32 * i for i, x in enumerate(found["o"][0, m, n])]
            value = sum(limbs)
            value -= (value >> 159) << 160
            assert value * Fraction(2) ** -30 == sum(terms[kept], Fraction(0))
            lost = bool(any(x != 0 for x in terms[~kept]))
            left_out += lost
            if "outside" in found:
                assert found["outside"][0, m, n] == lost
            else:
                assert not lost
    assert left_out or spec.sums.exact


def test_every_pair_of_elements_in_rtl() -> None:
    """Codes of both operands in full, at middle and extreme scales."""
    small = {"format": "bfp", "block": 8, "mantissa_bits": 4, "exponent_bits": 5}
    for a, w, k in ((small, small, 8), ({"format": "mxfp4"}, {"format": "mxint4"}, 32)):
        spec = spec_from_dict(
            {
                "block": "mx_core",
                "name": "dut",
                "tile": {"m": 1, "n": 2, "k": k},
                "activations": a,
                "weights": w,
                "accumulator": {"kind": "fp32"},
                "max_k": k,
            }
        )
        works = golden.exhaustive_works(spec)  # type: ignore[arg-type]
        assert works is not None
        assert len(works) == 16 * 8
        verdict = check_verilog(spec, emit_verilog(spec))
        assert verdict.passed, verdict.failure


def test_whole_gemm_of_quantized_tensors() -> None:
    """Tiling by ``spec.further``: rows that are no multiples, results as one array."""
    spec = _spec("mxint8", "mxint8", {"kind": "fp32"})
    rng = np.random.default_rng(1)
    form = BLOCK_FORMATS["mxint8"]
    a, w = (form.quantize(rng.standard_normal((rows, 96))) for rows in (5, 7))
    plan = tile(
        spec,
        a.elements.astype(np.int64),
        w.elements.astype(np.int64),
        extra={"a_scale": a.scales, "w_scale": w.scales},
    )
    found = plan.assemble(plan.expected())["o"]
    exact = form.dequantize(a.elements, a.scales) @ form.dequantize(w.elements, w.scales).T
    np.testing.assert_allclose(FP32.decode(found), exact, rtol=1e-6, atol=1e-6)
    assert plan.predicted_cycles == timing.latency(spec) + 3 * 3 * 3
    short = {"a_scale": np.zeros((1, 1), int), "w_scale": np.zeros((1, 2), int)}
    with pytest.raises(ValueError, match=r"a_scale: shape must be \(1, 2\), got \(1, 1\)"):
        tile(spec, np.zeros((1, 40), int), np.zeros((1, 40), int), extra=short)


def test_cycles_count_every_register() -> None:
    for kind, more in (("running", 0), ("fp32", 2), ("fixed", 0)):
        spec = _spec("mxint8", "mxint8", {"kind": kind, "bits": 160}, pipeline={"heap": 2})
        assert timing.latency(spec) == 4 + more
    rounded = _spec("mxint8", "mxint8", {"kind": "running", "result": "fp32"})
    assert timing.latency(rounded) == 4


RULES = [
    ({"tile": {"m": 2, "n": 2, "k": 16}}, r"tile\.k: must be 32, the block of mxint8"),
    (
        {"weights": {"format": "nvint4"}},
        r"weights\.format: has blocks of 16, activations of 32: they must agree",
    ),
    (
        {"weights": {"format": "nvint4"}},
        r"weights\.format: has ue4m3 scales, activations e8m0: they must agree",
    ),
    (
        {"activations": {"format": "mxint8", "block": 16}},
        r"activations\.block: is for bfp, mxint8 has its own",
    ),
    ({"addend": True}, r"addend: must be false"),
    (
        {"accumulator": {"kind": "fixed", "bits": 64, "low": 300}},
        r"accumulator\.low: no step lies in the window",
    ),
    (
        {"accumulator": {"kind": "fixed", "bits": 32}, "max_k": 1 << 20},
        r"accumulator\.bits: must be at least 36: 21 bits of a step and 15 for 32768 steps",
    ),
    (
        {"accumulator": {"kind": "fixed", "result": "fp32"}},
        r"accumulator\.result: a fixed window gives limbs",
    ),
    (
        {"accumulator": {"kind": "running", "guard": 32}},
        r"accumulator\.guard: makes a significand of 67 bits, at most 63",
    ),
    (
        {"accumulator": {"kind": "running", "guard": -20}},
        r"accumulator\.guard: leaves 1 of the 21 bits of a step, at least 8",
    ),
]


@pytest.mark.parametrize(("fields", "message"), RULES)
def test_bad_combinations_are_refused_at_their_field(
    fields: Mapping[str, Any], message: str
) -> None:
    base: dict[str, Any] = {"block": "mx_core", "name": "dut"}
    spec_from_dict(base)
    with pytest.raises(SpecError, match=message):
        spec_from_dict({**base, **fields})


def test_operands_are_checked() -> None:
    spec = _spec("mxfp4", "mxfp4", {"kind": "fp32"})
    work = golden.random_work(spec, np.random.default_rng(0), size="minimum")
    wrong = {**work.extra, "a_scale": work.extra["a_scale"] + 256}
    with pytest.raises(ValueError, match="a_scale: codes of e8m0 lie in"):
        golden.beats(spec, GemmWork(job=work.job, a=work.a, w=work.w, extra=wrong))
    with pytest.raises(ValueError, match="a: codes of fp4_e2m1 lie in"):
        golden.beats(spec, GemmWork(job=work.job, a=work.a - 16, w=work.w, extra=work.extra))
    with pytest.raises(ValueError, match="w_scale: is required"):
        golden.beats(
            spec,
            GemmWork(job=work.job, a=work.a, w=work.w, extra={"a_scale": work.extra["a_scale"]}),
        )
    job = Job(k_steps=1, weight_bits=3)
    with pytest.raises(ValueError, match="weight_bits: must be 4"):
        golden.beats(spec, GemmWork(job=job, a=work.a, w=work.w, extra=work.extra))
