"""Golden models against element by element arithmetic that shares nothing with them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from hw import integers
from hw.block import block, spec_from_dict
from hw.blocks.lut_core import golden, tables
from hw.blocks.lut_core.spec import LutCoreSpec
from hw.gemm import GemmSpec, GemmWork, Job


def _lut(**fields: object) -> LutCoreSpec:
    tile = {"m": 2, "n": 3, "k": 7}
    spec = spec_from_dict({"block": "lut_core", "name": "dut", "tile": tile, **fields})
    assert isinstance(spec, LutCoreSpec)
    return spec


def _by_element(work: GemmWork) -> np.ndarray:
    result = np.zeros((len(work.a), len(work.w)), dtype=object)
    for m, row in enumerate(work.a.tolist()):
        for n, column in enumerate(work.w.tolist()):
            zero = int(work.z[n]) if work.z is not None else 0
            total = sum(a * (w - zero) for a, w in zip(row, column, strict=True))
            result[m, n] = total + (int(work.c[m, n]) if work.c is not None else 0)
    return result


@pytest.mark.parametrize("encoding", ["unsigned", "twos_complement", "bipolar", "ternary"])
@pytest.mark.parametrize("form", ["full", "symmetric"])
def test_exact_tables_give_the_product(encoding: str, form: str) -> None:
    spec = _lut(weights={"encoding": encoding, "max_bits": 5}, table={"form": form})
    rng = np.random.default_rng(1)
    for _ in range(20):
        work = golden.random_work(spec, rng)
        expected = golden.expected(spec, work)["o"]["o"][0]
        assert (expected == _by_element(work)).all()


@pytest.mark.parametrize("encoding", ["unsigned", "twos_complement", "bipolar", "ternary"])
@pytest.mark.parametrize("form", ["full", "symmetric"])
@pytest.mark.parametrize("planes", ["serial", "parallel"])
def test_quantized_tables_that_lose_nothing_give_the_product(
    encoding: str, form: str, planes: str
) -> None:
    spec = _lut(
        weights={"encoding": encoding, "max_bits": 3},
        table={"group": 3, "form": form, "entries": "int8"},
        activations={"bits": 6, "signed": True},
        planes=planes,
    )
    rng = np.random.default_rng(2)
    for _ in range(20):
        work = golden.random_work(spec, rng)
        work = GemmWork(
            job=work.job, a=work.a, w=work.w, z=work.z, c=work.c, extra={"entry_shift": np.array(0)}
        )
        assert (golden.gemm_result(spec, work) == _by_element(work)).all()


def test_entries_round_half_up_and_clip() -> None:
    values = np.arange(-3000, 3000)
    for shift in range(8):
        exact = [
            max(-128, min(127, (Fraction(int(v), 2**shift) + Fraction(1, 2)).__floor__()))
            for v in values
        ]
        assert tables.quantize(values, shift).tolist() == exact


def test_patterns() -> None:
    assert tables.patterns(2, "full").tolist() == [[1, 0], [0, 1], [1, 1]]
    assert tables.patterns(2, "symmetric").tolist() == [[-1, 1], [1, 1]]
    ternary = tables.patterns(3, "ternary")
    assert len(ternary) == 13
    both = {tuple(row) for row in ternary.tolist()} | {tuple(-row) for row in ternary}
    assert len(both) == 26
    assert (0, 0, 0) not in both
    for size in range(1, 7):
        assert len(tables.patterns(size, "full")) == 2**size - 1
        half = tables.patterns(size, "symmetric")
        assert len(half) == 2 ** (size - 1)
        assert (half[-1] == 1).all()


def test_bipolar_codes_are_the_reinterpreted_integers() -> None:
    """``q' = 2q − (2^B − 1) = Σ_b 2^b·(2·q_b − 1)`` (LUT Tensor Core, section 3.1.1)."""
    for bits in range(1, 9):
        q = np.arange(2**bits)
        value = 2 * q - (2**bits - 1)
        assert (integers.weight_codes("bipolar", value, bits) == q).all()
        planes = integers.planes(q, bits)
        assert ((2 * planes - 1) @ (1 << np.arange(bits)) == value).all()
        wider = integers.weight_codes("bipolar", value, bits + 2)
        assert (
            (2 * integers.planes(wider, bits + 2) - 1) @ (1 << np.arange(bits + 2)) == value
        ).all()


@pytest.mark.parametrize("name", ["lut_core", "mac_core"])
def test_the_largest_job_fits_its_accumulator(name: str) -> None:
    """Extremes of every operand over ``max_k``: the result is the plain product, unwrapped."""
    for fields in block(name).sweep:
        spec = spec_from_dict({"block": name, "name": "dut", **fields})
        assert isinstance(spec, GemmSpec)
        job = Job(k_steps=spec.max_k_steps, weight_bits=spec.max_weight_bits)
        depth = job.k_steps * spec.tile.k
        low, high = integers.weight_range(spec.weight_encoding, job.weight_bits)
        zeros = (0, 2**job.weight_bits - 1) if spec.zero_point else (None,)
        half = 1 << (spec.result_bits - 1)
        if isinstance(spec, LutCoreSpec) and spec.quantized:
            # Entries at their clip, the correction against them: one step, all steps alike.
            rng = np.random.default_rng(0)
            for _ in range(200):
                work = golden.random_operands(
                    spec, rng, Job(k_steps=1, weight_bits=spec.max_weight_bits)
                )
                one = golden.quantized_result(spec, work)
                assert abs(one).max() * spec.max_k_steps < half
            continue
        for a in (spec.activations.low, spec.activations.high):
            for w in (low, high):
                for zero in zeros:
                    total = depth * a * (w - (zero or 0))
                    assert -half <= total < half


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": np.full((2, 7), 128)}, r"a: values must lie in \[-128, 127\], got \[128, 128\]"),
        ({"a": np.zeros((2, 8), int)}, r"a: shape must be \(2, 7\), got \(2, 8\)"),
        ({"w": np.full((3, 7), 4)}, r"w: values must lie in \[0, 3\]"),
        ({"w": np.zeros((3, 7))}, "w: must hold integers, got float64"),
        ({"z": None}, "z: is required"),
        ({"c": np.zeros((2, 3), int)}, "c: given, but the job does not accumulate"),
        ({"job": Job(k_steps=1, weight_bits=5)}, r"weight_bits: must lie in \[1, 4\], got 5"),
        ({"job": Job(k_steps=0, weight_bits=2)}, r"k_steps: must lie in \[1, 586\], got 0"),
        ({"job": Job(k_steps=1, weight_bits=2, accumulate=True)}, "accumulate: the specification"),
    ],
)
def test_wrong_operands_are_named(change: dict[str, object], message: str) -> None:
    spec = _lut()
    good: dict[str, object] = {
        "job": Job(k_steps=1, weight_bits=2),
        "a": np.zeros((2, 7), int),
        "w": np.zeros((3, 7), int),
        "z": np.zeros(3, int),
    }
    golden.beats(spec, GemmWork(**good))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        golden.beats(spec, GemmWork(**{**good, **change}))  # type: ignore[arg-type]
