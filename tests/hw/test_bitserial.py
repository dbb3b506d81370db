"""The bit-serial core's reference, order and cycles against arithmetic that shares nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw.block import spec_from_dict
from hw.blocks.bitserial_core import golden, timing
from hw.blocks.bitserial_core.spec import BitserialCoreSpec
from hw.errors import SpecError
from hw.gemm import GemmWork, Job, activation_bits


def _spec(a: str, a_bits: int, w: str, w_bits: int, **more: object) -> BitserialCoreSpec:
    spec = spec_from_dict(
        {
            "block": "bitserial_core",
            "name": "dut",
            "tile": {"m": 2, "n": 3, "k": 5},
            "activations": {"encoding": a, "max_bits": a_bits},
            "weights": {"encoding": w, "max_bits": w_bits},
            **more,
        }
    )
    assert isinstance(spec, BitserialCoreSpec)
    return spec


PAIRS = [
    ("twos_complement", "twos_complement"),
    ("unsigned", "twos_complement"),
    ("twos_complement", "unsigned"),
    ("unsigned", "unsigned"),
    ("twos_complement", "bipolar"),
    ("unsigned", "bipolar"),
    ("bipolar", "bipolar"),
]


def _sum_of_beats(spec: BitserialCoreSpec, work: GemmWork) -> np.ndarray:
    """The result from what travels, by the weights of the planes and nothing else."""
    beats = golden.beats(spec, work)
    k_steps, bits = work.job.k_steps, (activation_bits(spec, work.job), work.job.weight_bits)
    total = np.zeros((spec.tile.m, spec.tile.n), dtype=np.int64)
    pairs = [pair for pair in golden.plane_pairs(spec, work.job) if pair is not None]
    for number, (i, j) in enumerate(pairs):
        for step in range(number * k_steps, (number + 1) * k_steps):
            a, u = beats["i_a"]["a"][step].astype(int), beats["i_w"]["w"][step].astype(int)
            if spec.activations.encoding == "bipolar":
                a = 2 * a - 1
            elif spec.activations.encoding == "twos_complement" and i == bits[0] - 1:
                a = -a
            if spec.weights.encoding == "bipolar":
                u = 2 * u - 1
            elif spec.weights.encoding == "twos_complement" and j == bits[1] - 1:
                u = -u
            elif spec.zero_point:
                u = u * (1 - 2 * beats["i_w"]["z"][step].astype(int))[:, None]
            total += (a @ u.T) << (i + j)
    return total if work.c is None else total + work.c


@pytest.mark.parametrize(("a", "w"), PAIRS)
def test_what_travels_adds_up_to_the_product(a: str, w: str) -> None:
    spec = _spec(a, 4, w, 3, addend=True)
    rng = np.random.default_rng(3)
    skipped = 0
    for _ in range(60):
        work = golden.random_work(spec, rng)
        skipped += work.job.a_planes is not None
        found = golden.expected(spec, work)["o"]["o"][0]
        w_values = work.w if work.z is None else work.w - work.z[:, None]
        plain = work.a @ w_values.T + (0 if work.c is None else work.c)
        assert (found == plain).all()
        assert (found == _sum_of_beats(spec, work)).all()
    assert (skipped > 10) == spec.skips_planes


def test_the_sum_of_planes_never_rises_and_each_pair_comes_once() -> None:
    spec = _spec("twos_complement", 8, "unsigned", 8)
    rng = np.random.default_rng(4)
    for _ in range(200):
        a, w = (int(value) for value in rng.integers(0, 256, size=2))
        job = Job(k_steps=3, weight_bits=8, a_planes=a, w_planes=w)
        order = golden.plane_pairs(spec, job)
        pairs = [pair for pair in order if pair is not None]
        wanted = {(i, j) for i in range(8) for j in range(8) if a >> i & 1 and w >> j & 1}
        assert len(pairs) == len(wanted)
        assert set(pairs) == wanted
        sums = [i + j for i, j in pairs]
        assert sums == sorted(sums, reverse=True)
        # Every sum down to zero has its turn, with pairs or without.
        assert len(set(sums)) + order.count(None) == (max(sums) + 1 if sums else 1)
        assert timing.job_steps(spec, job) == 3 * len(pairs) + order.count(None)


def test_widths_are_chosen_by_the_job() -> None:
    spec = _spec("twos_complement", 8, "twos_complement", 8)
    for a_bits, w_bits in ((6, 6), (8, 6), (4, 4), (1, 1), (8, 8)):
        job = Job(k_steps=2, weight_bits=w_bits, activation_bits=a_bits)
        assert timing.job_steps(spec, job) == a_bits * w_bits * 2
        work = golden.random_operands(spec, np.random.default_rng(0), job)
        assert len(golden.beats(spec, work)["i_a"]["a"]) == a_bits * w_bits * 2


def test_a_job_may_leave_out_zero_planes_and_no_others() -> None:
    spec = _spec("unsigned", 4, "twos_complement", 3)
    work = golden.random_operands(spec, np.random.default_rng(5), Job(k_steps=1, weight_bits=3))
    work = replace(work, a=work.a & 0b0101, w=np.zeros_like(work.w))
    thin = golden.without_zero_planes(spec, work)
    assert (thin.job.a_planes, thin.job.w_planes) == (0b0101, 0)
    assert timing.cycles(spec, [thin]) == timing.latency(spec) + 1
    assert (golden.expected(spec, thin)["o"]["o"] == 0).all()
    wrong = replace(work, a=np.full_like(work.a, 2), job=thin.job)
    with pytest.raises(ValueError, match="a_planes: 0b101 leaves out planes that are not zero"):
        golden.beats(spec, wrong)
    with pytest.raises(ValueError, match="w_planes: must be planes of 3 bits, got 0b1000"):
        golden.beats(spec, replace(work, job=replace(work.job, w_planes=8)))
    odd = _spec("twos_complement", 3, "bipolar", 2)
    job = Job(k_steps=1, weight_bits=2, a_planes=0b111, w_planes=0b01)
    work = golden.random_operands(odd, np.random.default_rng(6), replace(job, w_planes=None))
    with pytest.raises(ValueError, match="planes of bipolar weights are never zero"):
        golden.beats(odd, replace(work, job=job))


def test_bipolar_activations_need_bipolar_weights() -> None:
    with pytest.raises(SpecError, match="bipolar activations need bipolar weights"):
        _spec("bipolar", 2, "unsigned", 2)
