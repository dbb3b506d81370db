"""The floating-point core's reference against other arithmetic; RTL over whole code spaces."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hw.block import spec_from_dict
from hw.blocks.fp_core import golden, timing
from hw.blocks.fp_core.dot import dequantized, step_sum
from hw.blocks.fp_core.spec import FpCoreSpec
from hw.errors import SpecError
from hw.formats import FLOAT_FORMATS, FP16, FP32
from hw.gemm import GemmWork, Job
from rtl_gen.emit import emit_verilog
from sim import check_verilog, gemm
from sim.stimulus import Scenario

FORMATS = ("fp16", "bf16", "fp8_e4m3", "fp8_e5m2")
EXACT = {"kind": "fixed", "low": -48, "bits": 128}


def _spec(a: str = "fp16", w: str = "fp16", k: int = 4, **more: Any) -> FpCoreSpec:
    data = {
        "block": "fp_core",
        "name": "dut",
        "tile": {"m": 2, "n": 3, "k": k},
        "activations": {"format": a},
        "weights": {"format": w},
        **more,
    }
    spec = spec_from_dict(data)
    assert isinstance(spec, FpCoreSpec)
    return spec


def _integers(bits: int, encoding: str, group: int) -> dict[str, Any]:
    return {"format": "int", "bits": bits, "encoding": encoding, "scale": "fp16", "group": group}


def _fraction(form: str, code: int) -> Fraction:
    return Fraction(float(FLOAT_FORMATS[form].decode(code)))


# The reference -------------------------------------------------------


@pytest.mark.parametrize(("a", "w"), list(itertools.product(FORMATS, FORMATS)))
def test_a_step_is_the_sum_of_cut_products(a: str, w: str) -> None:
    spec = _spec(a, w, window=14)
    rng = np.random.default_rng(FORMATS.index(a) * 4 + FORMATS.index(w))
    cut = 0
    for _ in range(12):
        work = golden.random_operands(spec, rng, Job(k_steps=1, weight_bits=spec.max_weight_bits))
        found = step_sum(spec, work.a, work.w)
        cut += int(found.cut.sum())
        for m, n in np.ndindex(2, 3):
            if found.nan[m, n] or found.pinf[m, n] or found.ninf[m, n]:
                continue
            unit = Fraction(2) ** (int(found.code[m, n]) + spec.sums.terms.bias)
            total, largest = 0, 0
            for k in range(spec.tile.k):
                product = _fraction(a, int(work.a[m, k])) * _fraction(w, int(work.w[n, k]))
                # int() of a fraction cuts towards zero.
                total += int(product / unit)
                if product:
                    largest = max(largest, _exponent_sum(spec, work, m, n, k))
            assert total == int(found.d[m, n])
            assert largest == int(found.code[m, n])
    assert cut > 0


def _exponent_sum(spec: FpCoreSpec, work: GemmWork, m: int, n: int, k: int) -> int:
    """Stored exponents of a product's operands, at least 1 each."""
    total = 0
    for form, code in ((spec.product.a, work.a[m, k]), (spec.product.w, work.w[n, k])):
        stored = (int(code) >> form.mantissa_bits) & ((1 << form.exponent_bits) - 1)
        total += max(stored, 1)
    return total


@pytest.mark.parametrize(("a", "w"), [("fp8_e4m3", "fp8_e4m3"), ("fp8_e5m2", "fp8_e4m3"),
                                      ("fp8_e5m2", "fp8_e5m2"), ("fp16", "fp16")])  # fmt: skip
def test_an_exact_window_cuts_nothing(a: str, w: str) -> None:
    spec = _spec(a, w, k=5, window="exact", accumulator=EXACT, max_k=20)
    rng = np.random.default_rng(5)
    for _ in range(30):
        work = golden.random_work(spec, rng)
        out = golden.expected(spec, work)["o"]
        for m, n in np.ndindex(2, 3):
            if any(out[name][0, m, n] for name in out if name != "o"):
                continue
            wanted = sum(
                _fraction(a, int(x)) * _fraction(w, int(y))
                for x, y in zip(work.a[m], work.w[n], strict=True)
            )
            limbs = [int(limb) for limb in out["o"][0, m, n]]
            value = sum(limb << 32 * i for i, limb in enumerate(limbs))
            value -= (value >> 127) << 128
            assert Fraction(value) * Fraction(2) ** -48 == wanted


def test_an_exact_step_rounded_once_is_numpy() -> None:
    """One product a step, exact: FP32 accumulation is that of float32, term by term."""
    spec = _spec("bf16", "fp8_e5m2", k=1, window=11, accumulator={"kind": "fp32"})
    rng = np.random.default_rng(6)
    for _ in range(40):
        work = golden.random_work(spec, rng)
        a = FLOAT_FORMATS["bf16"].decode(work.a)
        w = FLOAT_FORMATS["fp8_e5m2"].decode(work.w)
        total = np.zeros((2, 3), dtype=np.float32)
        with np.errstate(all="ignore"):
            for step in range(work.job.k_steps):
                # float64 holds sum and product exactly, or rounds without doing harm: 24 + 11 bits.
                term = np.multiply.outer(a[:, step], w[:, step])
                total = _float32_sum(total, term)
        found = golden.expected(spec, work)["o"]["o"][0]
        wanted = FP32.encode(total.astype(np.float64)).astype(np.int64)
        special = ~np.isfinite(total)
        assert np.array_equal(FP32.is_nan(found), np.isnan(total))
        zero = (total == 0) & ~special
        assert np.all(found[zero] == 0)
        plain = ~np.isnan(total) & ~zero
        assert np.array_equal(found[plain], wanted[plain])


def _float32_sum(total: np.ndarray, term: np.ndarray) -> np.ndarray:
    """``total + term`` rounded once, by fractions."""
    result = np.empty(total.shape, dtype=np.float32)
    for place in np.ndindex(total.shape):
        x, y = float(total[place]), float(term[place])
        if not np.isfinite(x + y) or not np.isfinite(x) or not np.isfinite(y):
            result[place] = np.float32(x + y)
            continue
        result[place] = _nearest(Fraction(x) + Fraction(y))
    return result


def _nearest(value: Fraction) -> np.float32:
    """The nearest FP32 number, ties to even: between the two neighbours of a first guess."""
    guess = np.float32(float(value))
    if not np.isfinite(guess):
        guess = np.copysign(np.finfo(np.float32).max, guess)
    around = {float(guess), *(float(np.nextafter(guess, np.float32(s))) for s in (-np.inf, np.inf))}
    finite = sorted(x for x in around if np.isfinite(x))
    limit = Fraction(2) ** 128
    choices = [(Fraction(x), np.float32(x)) for x in finite]
    if finite[-1] == float(np.finfo(np.float32).max):
        choices.append((limit, np.float32(np.inf)))
    if finite[0] == -float(np.finfo(np.float32).max):
        choices.append((-limit, np.float32(-np.inf)))
    best = min(abs(value - x) for x, _ in choices)
    nearest = [code for x, code in choices if abs(value - x) == best]
    even = [code for code in nearest if not int(np.float32(code).view(np.uint32)) & 1]
    return even[0] if len(nearest) > 1 else nearest[0]


def test_specials_are_those_of_ieee() -> None:
    spec = _spec(k=2, window=30)
    inf, nan, one, minus = 0x7C00, 0x7E01, 0x3C00, 0xBC00
    cases = {
        ((inf, one), (one, one)): 0x7F800000,
        ((inf, one), (minus, one)): 0xFF800000,
        ((inf, inf), (one, minus)): 0x7FC00000,
        ((inf, one), (0, one)): 0x7FC00000,
        ((0, one), (0xFC00, one)): 0x7FC00000,
        ((nan, one), (0, one)): 0x7FC00000,
        ((one, 0), (one, nan)): 0x7FC00000,
        ((one, minus), (one, one)): 0,
        ((0x8000, 0), (one, one)): 0,
        ((0x7BFF, 0), (0x7BFF, 0)): int(FP32.encode(65504.0**2)),
        ((1, 0), (1, 0)): int(FP32.encode(2.0**-48)),
    }
    for (a, w), wanted in cases.items():
        work = GemmWork(
            job=Job(k_steps=1, weight_bits=16), a=np.array([a] * 2), w=np.array([w] * 3)
        )
        assert np.all(golden.expected(spec, work)["o"]["o"] == wanted), (a, w)


@pytest.mark.parametrize("encoding", ["unsigned", "twos_complement"])
def test_dequantized_weights_are_those_of_ml_dtypes(encoding: str) -> None:
    """``(q − z) · s`` in FP16, as numpy multiplies halves: one rounding of an exact product."""
    spec = _spec(k=4, weights=_integers(8, encoding, 4))
    rng = np.random.default_rng(8)
    scale = FP16.random_codes(rng, (300, 8)).astype(np.int64)
    low = 0 if encoding == "unsigned" else -128
    q = rng.integers(low, low + 256, size=(300, 32))
    z = rng.integers(0, 256, size=(300, 8)) if spec.zeros else None
    factor = q - (0 if z is None else np.repeat(z, 4, axis=1))
    with np.errstate(all="ignore"):
        halves = scale.astype(np.uint16).view(np.float16)
        # FP16 holds every factor: the product of two halves is rounded once.
        wanted = factor.astype(np.float16) * np.repeat(halves, 4, axis=1)
    found = dequantized(spec, q, scale, z)
    nan = np.isnan(wanted)
    assert np.array_equal(FP16.is_nan(found), nan)
    assert np.array_equal(found[~nan], wanted.view(np.uint16)[~nan])


def test_bfloat16_products_agree_with_ml_dtypes() -> None:
    spec = _spec("bf16", "bf16", k=1, window=16, accumulator={"kind": "fp32"})
    codes = FLOAT_FORMATS["bf16"].random_codes(np.random.default_rng(9), (2, 64)).astype(np.int64)
    a, w = codes[:1].repeat(2, axis=0), codes[1:].repeat(3, axis=0)
    values = [row.astype(np.uint16).view(ml_dtypes.bfloat16).astype(np.float32) for row in (a, w)]
    for step in range(64):
        work = GemmWork(
            job=Job(k_steps=1, weight_bits=16),
            a=a[:, step : step + 1],
            w=w[:, step : step + 1],
        )
        with np.errstate(all="ignore"):
            wanted = np.float32(values[0][0, step]) * np.float32(values[1][0, step])
        found = golden.expected(spec, work)["o"]["o"][0, 0, 0]
        if np.isnan(wanted):
            assert FP32.is_nan(found)
        else:
            assert found == int((wanted + np.float32(0)).view(np.uint32))


# RTL over code spaces -------------------------------------------------


def _check(spec: FpCoreSpec, name: str, a: np.ndarray, w: np.ndarray, **extra: np.ndarray) -> None:
    plan = gemm.tile(spec, a, w, extra=extra)
    verdict = check_verilog(spec, emit_verilog(spec), scenarios=[Scenario(name=name, plan=plan)])
    assert verdict.passed, verdict.failure
    assert verdict.works == plan.jobs


@pytest.mark.parametrize(
    ("a", "w", "more"),
    [
        ("fp8_e4m3", "fp8_e4m3",
         {"window": "exact", "accumulator": {"kind": "fixed", "low": -18, "bits": 64}}),
        pytest.param("fp8_e5m2", "fp8_e5m2", {"window": 6}, marks=pytest.mark.nightly),
        pytest.param("fp8_e4m3", "fp8_e5m2", {"window": "exact"}, marks=pytest.mark.nightly),
    ],
)  # fmt: skip
def test_every_pair_of_fp8_codes(a: str, w: str, more: dict[str, Any]) -> None:
    spec = _spec(a, w, k=1, **{"tile": {"m": 8, "n": 4, "k": 1}, "max_k": 4, **more})
    codes = np.arange(256)[:, None]
    _check(spec, "every pair", codes, codes)


@pytest.mark.parametrize("side", [pytest.param("a", marks=pytest.mark.nightly), "w"])
def test_every_fp16_code_by_corners(side: str) -> None:
    corners = FP16.corners().astype(np.int64)[:, None]
    shape = {"m": 16, "n": 2, "k": 1} if side == "a" else {"m": 2, "n": 16, "k": 1}
    spec = _spec(k=1, tile=shape, window=22, max_k=2, accumulator={"kind": "running", "guard": 0})
    every = np.arange(1 << 16)[:, None]
    _check(spec, f"every {side}", *((every, corners) if side == "a" else (corners, every)))


@pytest.mark.parametrize(
    ("bits", "encoding"),
    [
        (4, "unsigned"),
        pytest.param(4, "twos_complement", marks=pytest.mark.nightly),
        pytest.param(8, "unsigned", marks=pytest.mark.nightly),
        pytest.param(8, "twos_complement", marks=pytest.mark.nightly),
        pytest.param(1, "unsigned", marks=pytest.mark.nightly),
    ],
)
def test_every_scale_by_weights(bits: int, encoding: str) -> None:
    """Rows of A choose a weight each: results are the dequantized weights themselves."""
    k, count = 2, 1 << bits
    spec = _spec(
        tile={"m": k, "n": 32, "k": k},
        weights=_integers(bits, encoding, k),
        window=22,
        accumulator={"kind": "running", "guard": 0},
        max_k=k,
    )
    scale = np.arange(1 << 16)[:, None]
    low = 0 if encoding == "unsigned" else -(count // 2)
    q = low + (np.arange(1 << 16)[:, None] * 3 + np.arange(k) * max(1, count // k)) % count
    q[:, -1] = low + count - 1
    extra = {"w_scale": scale}
    if spec.zeros:
        extra["w_zero"] = (np.arange(1 << 16) * 7 % count)[:, None]
    one = 0x3C00
    _check(spec, "every scale", np.eye(k, dtype=np.int64) * one, q, **extra)


# The specification ----------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": "bf16", "w": "bf16", "window": "exact"}, "window: exact needs 522 bits, at most 96"),
        ({"a": "fp8_e4m3", "w": "fp8_e4m3", "window": 40}, "window: exact is 36 bits, more are of"),
        ({"pipeline": {"front": 0, "heap": 5}}, "pipeline.heap: must be at most 4, the parts of"),
        ({"addend": True}, "addend: floating-point cores have none"),
        ({"weights": {"format": "int"}}, "weights.bits: is required for int"),
        ({"weights": {"format": "fp16", "bits": 4}}, "weights.bits: must be left out for fp16"),
        ({"weights": _integers(4, "unsigned", 6)},
         "weights.group: must divide tile.k = 4 or be a multiple of it"),
        ({"accumulator": {"kind": "fixed", "low": -48, "bits": 32}}, "accumulator.bits"),
    ],
)  # fmt: skip
def test_bad_combinations_are_refused_at_their_field(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        _spec(**change)
    text = "\n".join(
        f"{'.'.join(map(str, problem.path))}: {problem.rule}" for problem in caught.value.problems
    )
    assert words in text


@pytest.mark.parametrize("kind", ["fp32", "running"])
@pytest.mark.parametrize("heap", range(5))
def test_latency_counts_every_register(kind: str, heap: int) -> None:
    spec = _spec(pipeline={"front": 1, "heap": heap}, accumulator={"kind": kind})
    work = GemmWork(job=Job(k_steps=7, weight_bits=16), a=np.zeros(0), w=np.zeros(0))
    extra = 2 if kind == "fp32" else 0
    assert timing.cycles(spec, [work, work]) == 2 + 1 + heap + extra + 14


def test_a_work_is_checked_against_its_specification() -> None:
    spec = _spec(weights=_integers(4, "unsigned", 4))
    work = golden.random_work(spec, np.random.default_rng(0), size="minimum")
    good = dict(vars(work))
    for change, words in (
        ({"a": work.a + (1 << 16)}, r"a: values must lie in \[0, 65535\]"),
        ({"w": work.w - 16}, r"w: values must lie in \[0, 15\]"),
        ({"extra": {"w_scale": work.extra["w_scale"]}}, "extra: must hold w_scale, w_zero"),
        ({"job": Job(k_steps=2, weight_bits=4)}, r"a: shape must be \(2, 8\)"),
        ({"job": Job(k_steps=1, weight_bits=3)}, "weight_bits: must be 4"),
    ):
        with pytest.raises(ValueError, match=words):
            golden.beats(spec, GemmWork(**{**good, **change}))
