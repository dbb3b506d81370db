"""The table array's reference, reuse, cycles and conversions against arithmetic of their own."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from hw.block import spec_from_dict
from hw.blocks.sram_lut_gemv import golden, patterns, timing
from hw.blocks.sram_lut_gemv.spec import SramLutGemvSpec
from hw.errors import SpecError
from hw.formats import FP16, FP32
from hw.gemm import GemmWork, Job, activation_bits
from sim import gemm
from sim.harness import verilate
from sw_driver.mapper.core import core_of
from sw_driver.runner.operands import prepare


def _spec(**more: Any) -> SramLutGemvSpec:
    fields: dict[str, Any] = {
        "tile": {"m": 4, "n": 3, "k": 3},
        "activations": {"encoding": "twos_complement", "max_bits": 5},
        "weights": {"encoding": "twos_complement", "max_bits": 4},
        "reuse": {"capacity": 2},
        "max_k": 60,
    }
    spec = spec_from_dict({"block": "sram_lut_gemv", "name": "dut", **fields, **more})
    assert isinstance(spec, SramLutGemvSpec)
    return spec


def _by_tables(spec: SramLutGemvSpec, work: GemmWork) -> tuple[np.ndarray, int]:
    """Result and cycles as an array would get them: a table, planes, rows, one after the other."""
    k, bits = spec.tile.k, activation_bits(spec, work.job)
    w = work.w if work.z is None else work.w - work.z[:, None]
    total = np.zeros((spec.tile.m, spec.tile.n), dtype=np.int64)
    cycles = 0
    for step in range(work.job.k_steps):
        part = slice(step * k, step * k + k)
        table = {
            word: sum(w[:, part][:, i] for i in range(k) if word >> i & 1)
            for word in range(1, 1 << k)
        }
        cycles += len(table)
        for plane in range(bits):
            weight = 1 << plane
            if plane == bits - 1 and spec.signed:
                weight = -weight
            words = [
                sum((int(value) >> plane & 1) << i for i, value in enumerate(row))
                for row in work.a[:, part]
            ]
            for first in range(0, spec.tile.m, spec.reuse.capacity):
                rows = range(first, first + spec.reuse.capacity)
                if work.job.reuse:
                    # One cycle for the first row with a pattern, and one where there is none.
                    cycles += max(1, len({words[row] for row in rows} - {0}))
                else:
                    cycles += len(rows)
                for row in rows:
                    if words[row]:
                        total[row] += weight * table[words[row]]
    return total, cycles


@pytest.mark.parametrize("weights", ["twos_complement", "unsigned"])
@pytest.mark.parametrize("activations", ["twos_complement", "unsigned"])
def test_tables_and_planes_give_the_product_and_the_cycles(activations: str, weights: str) -> None:
    spec = _spec(
        activations={"encoding": activations, "max_bits": 5},
        weights={"encoding": weights, "max_bits": 4},
    )
    rng = np.random.default_rng(1)
    reused = 0
    for _ in range(80):
        work = golden.random_work(spec, rng)
        reused += work.job.reuse
        total, cycles = _by_tables(spec, work)
        np.testing.assert_array_equal(golden.gemm_result(spec, work), total)
        assert timing.cycles(spec, [work]) == timing.latency(spec) + cycles
    assert 20 < reused < 60


def test_what_becomes_of_lookups() -> None:
    # Rows of two elements; planes 0 and 1 of INT2.
    a = np.array([[1, 0], [1, 0], [0, 0], [-1, 1]])
    np.testing.assert_array_equal(patterns.patterns(a, 2, 2), [[[1, 1, 0, 3], [0, 0, 0, 1]]])
    found = patterns.lookups(a, 2, 2, 4)
    assert (found.rows, found.zeros, found.hits, found.misses, found.empty) == (8, 4, 1, 3, 0)
    # Two rounds of two rows: the first one's second plane has nothing to look up.
    found = patterns.lookups(a, 2, 2, 2)
    assert (found.hits, found.misses, found.empty, found.cycles) == (1, 3, 1, 4)
    assert patterns.lookups(a, 2, 2, 1).cycles == 8  # a round a row: nothing is ever saved
    nothing = patterns.lookups(np.zeros((4, 6), dtype=np.int64), 2, 8, 4)
    assert (nothing.rows, nothing.misses, nothing.cycles) == (96, 0, 24)


def test_reuse_never_costs_a_cycle_and_is_bounded_by_the_table() -> None:
    rng = np.random.default_rng(2)
    for capacity, k in itertools.product((2, 8, 16), (1, 2, 4)):
        a = rng.integers(-8, 8, size=(16, 5 * k))
        found = patterns.lookups(a, k, 4, capacity)
        rounds = 5 * 4 * 16 // capacity
        assert rounds <= found.cycles <= rounds * min(capacity, (1 << k) - 1)
        assert found.rows == found.zeros + found.hits + found.misses == 5 * 4 * 16


def test_cycles_by_hand() -> None:
    spec = _spec(pipeline={"front": 1})
    assert timing.latency(spec) == 5
    assert timing.job_cycles(spec, 1, 4, 5) == 7 + 4 * 5
    assert timing.job_cycles(spec, 10, 1, 2) == 10 * (7 + 4 * 2)
    assert timing.job_cycles(spec, 3, 4) == timing.job_cycles(spec, 3, 4, 5)
    converted = _spec(result={"format": "fp16"})
    # Three registers, then twelve sums one by one; the last result comes through four more.
    assert timing.job_cycles(converted, 1, 4, 5) == 27 + 3 - 1 + 12
    assert timing.latency(converted) == 1 + 4
    core = core_of(spec, 3)
    assert core.job_cycles[0] == (0, 7 + 4 * 3)
    assert core_of(converted).job_cycles[-1] == (14, 27)


def test_the_published_model_by_hand() -> None:
    # g = 4, INT4 × INT8, K = 256: 11 additions of 7 cycles, planes of 1 + 20 + 1.
    assert timing.published(k=256, group=4, weight_bits=4, activation_bits=8, batch=3) == 64 * (
        11 * 7 + 8 * 22 * 3
    )
    half = timing.published(
        k=256, group=4, weight_bits=4, activation_bits=8, batch=3, lookup=2, hits=0.5
    )
    assert half == 64 * (11 * 7 + 8 * 23 * 1.5)


def test_entries_hold_every_subset_and_no_bit_more() -> None:
    for encoding, k, bits in itertools.product(
        ("twos_complement", "unsigned"), (1, 3, 4), (1, 2, 5)
    ):
        spec = _spec(
            tile={"m": 2, "n": 1, "k": k}, weights={"encoding": encoding, "max_bits": bits}
        )
        top = (1 << bits) - 1
        low, high = (-k * top, k * top)
        if encoding == "twos_complement":
            low, high = -k << (bits - 1), k * ((1 << (bits - 1)) - 1)
        half = 1 << (spec.entry_bits - 1)
        assert -half <= low
        assert high < half
        assert low < -(half >> 1) or high >= half >> 1


# Conversion ----------------------------------------------------------


def _rounded(value: Fraction) -> int:
    """To the nearest integer, ties to even: Python's own rounding of exact fractions."""
    return round(value)


def test_integers_are_shifted_rounded_and_clipped() -> None:
    spec = _spec(result={"format": "integer", "bits": 4})
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(120):
        work = golden.random_work(spec, rng)
        shift = int(work.extra["shift"])
        exact = work.a @ work.w.T
        wanted = [
            [min(7, max(-8, _rounded(Fraction(int(value), 1 << shift)))) for value in row]
            for row in exact
        ]
        np.testing.assert_array_equal(golden.gemm_result(spec, work), wanted)
        seen |= set(np.array(wanted).ravel().tolist())
    assert seen == set(range(-8, 8))


@pytest.mark.parametrize(("name", "form"), [("fp16", FP16), ("fp32", FP32)])
def test_floats_are_rounded_once(name: str, form: Any) -> None:
    spec = _spec(result={"format": name}, max_k=60)
    rng = np.random.default_rng(4)
    kind = np.float16 if name == "fp16" else np.float32
    some = 0
    for _ in range(60):
        work = golden.random_work(spec, rng)
        scale = FP16.decode(work.extra["scale"])
        with np.errstate(all="ignore"):
            # At most 17 + 11 bits: the product is exact in float64, and numpy rounds it once.
            wanted = ((work.a @ work.w.T) * scale[None, :]).astype(kind)
        found = golden.values(spec, {"o": golden.gemm_result(spec, work)})
        np.testing.assert_array_equal(found, wanted.astype(np.float64))
        some += int(np.isfinite(found).sum())
    assert some > 300
    nan = replace(work, a=np.zeros_like(work.a), extra={"scale": np.full(spec.tile.n, 0x7C00)})
    assert (golden.gemm_result(spec, nan) == int(form.nan_code)).all()


def test_descriptors_carry_each_column_s_scale_through_a_whole_gemm() -> None:
    spec = _spec(result={"format": "fp32", "lanes": 3}, reuse={"capacity": 4})
    rng = np.random.default_rng(5)
    a = rng.integers(-16, 16, size=(6, 14))
    w = rng.integers(-8, 8, size=(7, 14))
    scale = FP16.encode(np.ldexp(1 + rng.random(7), rng.integers(-6, 6, size=7))).astype(np.int64)
    with verilate(spec, progress=False) as model:
        for reuse in (False, True):
            found = model.gemm(a, w, extra={"scale": scale}, reuse=reuse)
            assert found.cycles == found.predicted_cycles
            values = golden.values(spec, {"o": found.o})
            np.testing.assert_array_equal(values, ((a @ w.T) * FP16.decode(scale)))


def test_cycles_of_a_plan_with_reuse_are_those_of_its_operands() -> None:
    spec = _spec()
    rng = np.random.default_rng(6)
    a, w = rng.integers(-4, 4, size=(9, 20)), rng.integers(-8, 8, size=(4, 20))
    plain, reused = gemm.tile(spec, a, w), gemm.tile(spec, a, w, reuse=True)
    jobs = [reused.work(number) for number in range(reused.jobs)]
    assert reused.jobs == 3 * 2
    assert reused.predicted_cycles == timing.latency(spec) + sum(
        _by_tables(spec, job)[1] for job in jobs
    )
    assert reused.predicted_cycles < plain.predicted_cycles
    mac = spec_from_dict({"block": "mac_core", "name": "mac"})
    with pytest.raises(ValueError, match="reuse: mac_core has no pattern reuse table"):
        gemm.tile(mac, a, w, reuse=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "result", [{"format": "fp16"}, {"format": "fp32"}, {"format": "integer", "bits": 16}]
)
def test_real_operands_are_scaled_in_the_array(result: dict[str, Any]) -> None:
    spec = _spec(
        tile={"m": 4, "n": 4, "k": 4},
        activations={"encoding": "twos_complement", "max_bits": 8},
        result=result,
        max_k=512,
    )
    rng = np.random.default_rng(7)
    x, w = rng.normal(size=(5, 96)), rng.normal(size=(6, 96)) * 0.05
    prepared = prepare(spec, x, w, bits=4, group=32)
    fields = [plan.assemble(plan.expected()) for plan in prepared.plans]
    found, wanted = prepared.finish(fields), prepared.a @ prepared.w.T
    assert len(prepared.plans) == 3
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())
    with pytest.raises(ValueError, match="1 bit bipolar weights need a correction"):
        prepare(spec, x, w, bits=1, group=32)


# What is refused -----------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tile": {"m": 4, "n": 3, "k": 9}}, r"tile\.k: must be at most 8, a table has 2\^k words"),
        ({"reuse": {"capacity": 3}}, r"reuse\.capacity: must divide tile\.m = 4, got 3"),
        ({"result": {"format": "fp16", "lanes": 2}}, r"result\.lanes: must divide tile\.n = 3"),
        (
            {"result": {"format": "integer", "bits": 20}},
            r"result\.bits: must be below the \d+ bits",
        ),
        ({"pipeline": {"heap": 1}}, r"pipeline\.heap: must be 0, there is no heap"),
        ({"addend": True}, r"addend: must be false, the array has none"),
        (
            {
                "activations": {"max_bits": 16},
                "weights": {"max_bits": 16},
                "max_k": 1 << 20,
                "result": {"format": "fp32"},
            },
            r"max_k: needs a 52 bit accumulator, at most 48",
        ),
    ],
)
def test_wrong_specifications_name_field_and_rule(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        _spec(**fields)


def test_wrong_works_name_operand_and_rule() -> None:
    rng = np.random.default_rng(8)
    plain = _spec(reuse={"capacity": 1})
    work = golden.random_operands(plain, rng, Job(k_steps=1, weight_bits=4, reuse=True))
    with pytest.raises(ValueError, match="reuse: the core has no pattern reuse table"):
        golden.beats(plain, work)
    short = _spec(result={"format": "integer", "bits": 4})
    work = golden.random_operands(short, rng, Job(k_steps=1, weight_bits=4))
    for extra, words in (
        ({}, "shift: is required"),
        ({"shift": np.array(short.sum_bits)}, r"shift: values must lie in \[0, "),
        ({"shift": np.array([1])}, r"shift: must be \(\) integers, got \(1,\)"),
    ):
        with pytest.raises(ValueError, match=words):
            golden.beats(short, replace(work, extra=extra))
    floats = _spec(result={"format": "fp16"})
    work = golden.random_operands(floats, rng, Job(k_steps=1, weight_bits=4))
    with pytest.raises(ValueError, match=r"scale: must be \(3,\) integers"):
        golden.beats(floats, replace(work, extra={"scale": np.zeros(2, dtype=np.int64)}))
    with pytest.raises(ValueError, match=r"a: values must lie in \[-2, 1\]"):
        golden.beats(
            floats,
            replace(work, a=np.full_like(work.a, 2), job=replace(work.job, activation_bits=2)),
        )
