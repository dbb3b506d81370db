"""The reference of a bank's unit: plain sums, every core's operands, functions; what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hw.block import block, spec_from_dict
from hw.blocks.pim_bank import golden, operands, timing
from hw.blocks.pim_bank.golden import Accumulators, BankOp, BankWork
from hw.blocks.pim_bank.spec import PimBankSpec
from hw.blocks.pim_bank.sweep import SWEEP
from hw.errors import SpecError
from hw.formats import BF16, FP32

MAC = {"block": "mac_core", "activations": {"bits": 8}, "weights": {"bits": 8}}
FLOAT = {"block": "fp_core", "activations": {"format": "bf16"}, "weights": {"format": "bf16"}}


def spec_of(**fields: Any) -> PimBankSpec:
    spec = spec_from_dict({"block": "pim_bank", "name": "dut", **fields})
    assert isinstance(spec, PimBankSpec)
    return spec


def unit_of(arithmetic: dict[str, Any], **fields: Any) -> PimBankSpec:
    fields = {"accumulator_bits": 32, "activation": {"segments": 0}, **fields}
    return spec_of(unit={"arithmetic": arithmetic, **fields})


@pytest.mark.parametrize(
    ("arithmetic", "k", "words"),
    [
        (FLOAT, 16, 1),
        ({**FLOAT, "activations": {"format": "fp16"}, "weights": {"format": "fp16"}}, 16, 1),
        (
            {
                **FLOAT,
                "activations": {"format": "fp8_e4m3"},
                "weights": {"format": "fp8_e4m3"},
                "window": 20,
            },
            32,
            1,
        ),
        (MAC, 32, 1),
        ({**MAC, "activations": {"bits": 16}, "weights": {"bits": 16}, "max_k": 64}, 16, 1),
        ({**MAC, "activations": {"bits": 4}, "weights": {"bits": 4}}, 64, 1),
        ({**MAC, "weights": {"bits": 4}}, 64, 2),
        (
            {
                "block": "lut_core",
                "weights": {"encoding": "twos_complement", "max_bits": 2},
                "planes": "parallel",
            },
            128,
            4,
        ),
        (
            {
                "block": "lut_core",
                "weights": {"encoding": "bipolar", "max_bits": 2},
                "table": {"group": 4, "form": "symmetric"},
            },
            256,
            8,
        ),
        (
            {
                "block": "bitserial_core",
                "activations": {"encoding": "twos_complement", "max_bits": 4},
                "weights": {"encoding": "twos_complement", "max_bits": 4},
            },
            256,
            1,
        ),
    ],
)
def test_a_column_of_256_bits_is_a_step(arithmetic: dict[str, Any], k: int, words: int) -> None:
    spec = unit_of(arithmetic, accumulator_bits=32 if arithmetic["block"] == "fp_core" else 48)
    assert (spec.core.tile.m, spec.core.tile.n, spec.core.tile.k) == (1, 1, k)
    assert spec.operand_words == words


@pytest.mark.parametrize("index", range(len(SWEEP)))
def test_operands_are_found_again_in_their_bits(index: int) -> None:
    spec = spec_of(**SWEEP[index])
    core = spec.core
    inner: Any = block(core.block).golden
    rng = np.random.default_rng(index)
    for _ in range(20):
        k_steps = int(rng.integers(1, min(core.max_k_steps, 4) + 1))
        op = golden.random_mac(spec, rng, 0, k_steps=k_steps)
        assert op.operand is not None
        assert op.column is not None
        found = operands.work(spec, op.operand, op.column)
        beats = inner.beats(core, found)
        stream = spec.core_streams["i_w"]
        np.testing.assert_array_equal(
            operands.rows(stream, dict(beats["i_w"]), spec.column_bits), op.column
        )


@pytest.mark.parametrize("index", range(len(SWEEP)))
def test_any_bits_are_operands(index: int) -> None:
    spec = spec_of(**SWEEP[index])
    rng = np.random.default_rng(index)
    words, steps = spec.column_bits // 32, min(2, spec.core.max_k_steps)
    column = rng.integers(0, 1 << 32, size=(steps * len(spec.passes), words))
    # Activations are the same wherever passes repeat them.
    blocks = rng.integers(0, 1 << 32, size=(64, steps, spec.operand_words * words))
    operand = np.concatenate([blocks[i] for i, _ in spec.passes])
    state = Accumulators(spec)
    # Planes of weights are the same, too.
    weights = {j: column[steps * n : steps * (n + 1)] for n, (_, j) in enumerate(spec.passes)}
    column = np.concatenate([weights[j] for _, j in spec.passes])
    state.mac(0, False, operand, column)
    assert state.read(0) is not None


def test_activations_that_differ_from_pass_to_pass_are_refused() -> None:
    spec = spec_of(**SWEEP[4])
    op = golden.random_mac(spec, np.random.default_rng(0), 0, k_steps=1)
    assert op.operand is not None
    assert op.column is not None
    wrong = op.operand.copy()
    wrong[-1] ^= 1
    with pytest.raises(ValueError, match="no operands travel so"):
        golden.dot(spec, wrong, op.column)


def test_integers_are_the_plain_sum_modulo_their_width() -> None:
    spec = unit_of({**MAC, "max_k": 256}, accumulator_bits=25)
    rng = np.random.default_rng(1)
    state, wanted = Accumulators(spec), 0
    state.bias(1, 0xFF00)
    wanted = -256
    for _ in range(60):
        a, w = rng.integers(-128, 128, size=(2, 8, 32))
        a, w = (np.where(rng.random((8, 32)) < 0.8, -128, x) for x in (a, w))
        rows = [x.astype("<i1").view("<u4").astype(np.int64) for x in (a, w)]
        state.mac(1, True, *rows)
        wanted += int((a * w).sum())
    assert abs(wanted) > 1 << 24
    assert state.read(1) == (wanted + (1 << 24)) % (1 << 25) - (1 << 24)


def test_floats_are_added_once_rounded() -> None:
    spec = unit_of(FLOAT)
    rng = np.random.default_rng(2)
    total = np.float32(0)
    state = Accumulators(spec)
    state.bias(0, 0)
    for _ in range(40):
        a, w = (BF16.encode(rng.normal(size=(1, 16))).astype("<u2") for _ in range(2))
        rows = [x.view("<u4").astype(np.int64) for x in (a, w)]
        single = golden.dot(spec, *rows)
        exact = float((BF16.decode(a) * BF16.decode(w)).sum())
        assert abs(float(FP32.decode(np.array(single))) - exact) < 1e-5
        total = np.float32(total + np.array([single], dtype=np.uint32).view(np.float32)[0])
        state.mac(0, True, *rows)
    assert state.read(0) == int(np.array([total]).view(np.uint32)[0])


def table_of(function: Any, segments: int, log2: int) -> np.ndarray:
    """Chords of a function over the segments."""
    borders = (np.arange(segments + 1) - segments // 2) * 2.0**log2
    values = function(borders)
    slope = np.diff(values) / 2.0**log2
    slope[0], slope[-1] = 0, 1
    offset = values[:-1] - slope * borders[:-1]
    offset[0] = 0
    offset[-1] = 0
    codes = [BF16.encode(x).astype(np.int64) for x in (slope, offset)]
    return (codes[0] | codes[1] << 16).reshape(-1, 8)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def test_a_table_of_chords_is_gelu() -> None:
    spec = unit_of(FLOAT, activation={"segments": 32, "segment_log2": -2})
    table = table_of(gelu, 32, -2)
    for x in np.linspace(-8, 8, 641):
        code = int(FP32.encode(np.array(x)))
        found = float(FP32.decode(np.array(golden.line(spec, code, table))))
        # A chord's error is at most h²/8 · max |gelu″|, besides BF16's entries.
        assert abs(found - gelu(np.array(x))) < 0.25**2 / 8 * 1.2 + 0.01


@pytest.mark.parametrize(
    ("x", "wanted"),
    [(-1e30, 0), (-4.0, 0), (-3.001, 0), (-3.0, 1), (-0.0, 4), (-1e-30, 3), (0.5, 4), (1.0, 5),
     (3.999, 7), (4.0, 7), (float("inf"), 7), (float("-inf"), 0)],
)  # fmt: skip
def test_segments_of_floats(x: float, wanted: int) -> None:
    spec = unit_of(FLOAT, activation={"segments": 8, "segment_log2": 0})
    assert golden.segment(spec, int(FP32.encode(np.array(x)))) == wanted


def test_a_line_of_integers_is_floored() -> None:
    spec = unit_of(MAC, activation={"segments": 8, "segment_log2": 4, "fraction": 3})
    entries = np.zeros(8, dtype=np.int64)
    entries[3] = (5 & 0xFFFF) | (0xFFF0 << 16)  # slope 5/8, offset -16, for -16 to -1
    assert golden.line(spec, -3, entries) == -2 - 16  # floor(-15 / 8)
    assert golden.segment(spec, -17) == 2
    assert golden.segment(spec, 1 << 30) == 7


def test_what_is_read_was_written() -> None:
    spec = unit_of(MAC)
    with pytest.raises(ValueError, match="accumulator 1: is read before it is written"):
        golden.results(spec, BankWork(ops=(BankOp(kind="read", accumulator=1),)))


def test_dot_products_follow_one_another_without_a_bubble() -> None:
    spec = unit_of(MAC)
    column = np.zeros((5, 8), dtype=np.int64)
    mac = BankOp(kind="mac", operand=column, column=column)
    read = BankOp(kind="read")
    one, many = (timing.cycles(spec, [BankWork(ops=(mac,) * n + (read,))]) for n in (1, 9))
    assert many - one == 8 * 5
    floats = unit_of(FLOAT)
    one, many = (timing.cycles(floats, [BankWork(ops=(mac,) * n + (read,))]) for n in (1, 9))
    assert many - one == 8 * (5 + 2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"clock_mhz": 900.0}, r"clock_mhz: must be at least 1000: a column comes each nCCDS"),
        ({"timing": {"nRC": 80}}, r"timing.nRC: must be at least nRAS \+ nRP = 54 \+ 32 = 86"),
        ({"unit": {"arithmetic": {"block": "mx_core"}}}, "unit.arithmetic.block: must be one of"),
        (
            {"unit": {"arithmetic": {**MAC, "tile": {"m": 1}}}},
            "unit.arithmetic.tile: follows from the column",
        ),
        (
            {"unit": {"arithmetic": {**MAC, "weights": {"encoding": "unsigned"}}}},
            "unit.arithmetic.block: must have no operand beside its w, which columns hold alone: z",
        ),
        (
            {"unit": {"arithmetic": {**MAC, "weights": {"encoding": "ternary"}}}},
            "unit.arithmetic.weights.encoding: must let every code be a weight",
        ),
        (
            {"unit": {"arithmetic": {**MAC, "addend": True}}},
            "unit.arithmetic.block: must have the streams i_job, i_a, i_w and o alone",
        ),
        (
            {"unit": {"arithmetic": {**MAC, "pipeline": {"front": 1}}}},
            "unit.arithmetic.pipeline.front: must be 0",
        ),
        (
            {"unit": {"arithmetic": {**MAC, "activations": {"bits": 99}}}},
            "unit.arithmetic.activations.bits: ",
        ),
        (
            {"unit": {"arithmetic": {**FLOAT, "accumulator": {"kind": "running"}}}},
            "unit.arithmetic.block: must give integers or FP32",
        ),
        (
            {"unit": {"arithmetic": {**MAC, "max_k": 1 << 20}}},
            "unit.accumulator_bits: must be at least 36, the width of a result, got 32",
        ),
        ({"unit": {"accumulators": 3}}, "unit.accumulators: must be a power of two, got 3"),
        ({"unit": {"activation": {"segments": 12}}}, "unit.activation.segments: must be 0 or a"),
        (
            {"unit": {"arithmetic": MAC, "activation": {"segment_log2": 29}}},
            "unit.activation.segment_log2: must be 0 to 28",
        ),
        (
            {
                "unit": {
                    "arithmetic": {
                        "block": "lut_core",
                        "weights": {"encoding": "twos_complement", "max_bits": 3},
                        "planes": 2,
                    }
                }
            },
            "unit.arithmetic.planes: must divide the 3 bits of a weight, got 2",
        ),
        ({"column_bits": 96}, "column_bits: must be 64, 128, 256 or 512, got 96"),
    ],
)
def test_units_that_do_not_fit_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        spec_of(**fields)
