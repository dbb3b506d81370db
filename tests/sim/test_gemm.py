"""Whole GEMMs as jobs: padding, parts of K, the addend, and the golden model of all of it."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest

from hw.block import block
from hw.blocks.lut_core.spec import LutCoreSpec, LutWeights, Table
from hw.blocks.mac_core.spec import MacCoreSpec
from hw.gemm import Tile
from hw.integers import weight_range
from sim import gemm, source
from sim.harness import Model


def operands(
    spec: MacCoreSpec, m: int, n: int, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(m * 10_000 + n * 100 + k)
    a = rng.integers(spec.activations.low, spec.activations.high + 1, (m, k))
    w = rng.integers(0, 2**spec.max_weight_bits, (n, k))
    z = rng.integers(0, 2**spec.max_weight_bits, n)
    return a, w, z


# One element, less than a tile, whole tiles, odd sizes, K of several jobs (max_k is 30).
SHAPES = [(1, 1, 1), (2, 3, 5), (4, 6, 30), (5, 7, 11), (3, 4, 31), (7, 11, 95)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("addend", ["none", "small", "beyond the core"])
def test_any_shape_is_exact_and_takes_the_predicted_cycles(
    model: Model, spec: MacCoreSpec, shape: tuple[int, int, int], addend: str
) -> None:
    a, w, z = operands(spec, *shape)
    reach = {"none": 0, "small": 40, "beyond the core": 10**12}[addend]
    c = None
    if reach:
        c = np.random.default_rng(0).integers(-reach, reach + 1, shape[:2])
    result = model.gemm(a, w, z=z, c=c)
    exact = a.astype(np.int64) @ (w - z[:, None]).T + (0 if c is None else c)
    assert np.array_equal(result.o, exact)
    assert result.cycles == result.predicted_cycles
    tile = spec.tile
    parts = math.ceil(math.ceil(shape[2] / tile.k) / spec.max_k_steps)
    assert result.jobs == -(-shape[0] // tile.m) * -(-shape[1] // tile.n) * parts


def test_stalls_change_cycles_only(model: Model, spec: MacCoreSpec) -> None:
    from sim import stalls

    a, w, z = operands(spec, 5, 7, 40)
    result = model.gemm(a, w, z=z, stalls=stalls.heavy(), seed=1)
    assert np.array_equal(result.o, a @ (w - z[:, None]).T)
    assert result.cycles > result.predicted_cycles


def test_every_job_is_what_the_golden_model_says(spec: MacCoreSpec) -> None:
    a, w, z = operands(spec, 5, 7, 40)
    c = np.ones((5, 7), dtype=np.int64)
    plan = gemm.tile(spec, a, w, z=z, c=c)
    golden = block(spec.block).golden
    jobs = np.concatenate(
        [golden.expected(spec, plan.work(number))["o"]["o"] for number in range(plan.jobs)]
    )
    assert np.array_equal(plan.expected()["o"], jobs)
    assert np.array_equal(plan.assemble({"o": jobs})["o"], a @ (w - z[:, None]).T + 1)
    # Packed by index, the beats are those of the jobs one by one.
    for item in source.streams(spec):
        if item.direction == "in":
            one_by_one = np.concatenate(
                [
                    item.pack(golden.beats(spec, plan.work(number))[item.name])
                    for number in range(plan.jobs)
                ]
            )
            assert np.array_equal(plan.inputs[item.name].dense(), one_by_one), item.name


@pytest.mark.parametrize(
    "weights",
    [
        {"encoding": "unsigned", "max_bits": 3},
        {"encoding": "twos_complement", "max_bits": 4},
        {"encoding": "bipolar", "max_bits": 2},
        {"encoding": "ternary"},
        {"encoding": "ternary", "packing": "base3"},
    ],
)
@pytest.mark.parametrize("entries", ["exact", "int8"])
def test_beats_of_every_lut_format(weights: dict, entries: Literal["exact", "int8"]) -> None:
    spec = LutCoreSpec(
        name="lut",
        tile=Tile(m=2, n=3, k=5),
        weights=LutWeights(**weights),
        table=Table(group=2, entries=entries),
        max_k=20,
    )
    rng = np.random.default_rng(0)
    bits = spec.max_weight_bits
    low, high = weight_range(spec.weight_encoding, bits)
    a = rng.integers(-128, 128, (3, 33))
    w = rng.integers(low, high + 1, (4, 33))
    if spec.weight_encoding == "bipolar":
        w |= 1
    z = rng.integers(0, 2**bits, 4) if spec.zero_point else None
    extra = {"entry_shift": np.array(2)} if spec.quantized else None
    plan = gemm.tile(spec, a, w, z=z, extra=extra)
    golden = block(spec.block).golden
    for item in source.streams(spec):
        jobs = range(plan.jobs)
        if item.direction == "in":
            beats = [item.pack(golden.beats(spec, plan.work(j))[item.name]) for j in jobs]
            assert np.array_equal(plan.inputs[item.name].dense(), np.concatenate(beats))
        else:
            results = [golden.expected(spec, plan.work(j))["o"]["o"] for j in jobs]
            assert np.array_equal(plan.expected()["o"], np.concatenate(results))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": np.zeros((2, 4), int)}, r"a and w: must be \(M, K\) and \(N, K\)"),
        ({"a": np.zeros((0, 5), int), "w": np.zeros((3, 5), int)}, r"a and w: must be"),
        ({"weight_bits": 9}, r"weight_bits: must lie in \[1, 3\], got 9"),
        ({"z": None}, "z: is required"),
        ({"z": np.zeros(4, int)}, r"z: shape must be \(3,\)"),
        ({"a": np.zeros((2, 5))}, "a: must hold integers"),
        ({"a": np.full((2, 5), 8)}, r"a: values must lie in \[-8, 7\]"),
        ({"w": np.full((3, 5), 8)}, r"w: values must lie in \[0, 7\]"),
    ],
)
def test_bad_operands_are_refused(model: Model, change: dict, words: str) -> None:
    good = {
        "a": np.zeros((2, 5), int),
        "w": np.zeros((3, 5), int),
        "z": np.zeros(3, int),
    }
    with pytest.raises(ValueError, match=words):
        model.gemm(**{**good, **change})
