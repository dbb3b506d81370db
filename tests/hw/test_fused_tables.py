"""The fused table generator: its codes against exact fractions, its tables against the core's."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from hw.block import block, spec_from_dict
from hw.blocks.fused_tables import golden
from hw.blocks.fused_tables.golden import FusedWork
from hw.blocks.fused_tables.spec import FusedTablesSpec
from hw.blocks.lut_core import golden as core
from hw.errors import SpecError
from hw.formats import FP16, FP32


def _spec(**data: Any) -> FusedTablesSpec:
    spec = spec_from_dict({"block": "fused_tables", "name": "dut", **data})
    assert isinstance(spec, FusedTablesSpec)
    return spec


def _code(most: int, factors: list[float]) -> int:
    if any(math.isnan(value) for value in factors):
        return 0
    if any(math.isinf(value) for value in factors):
        sign = math.prod(math.copysign(1.0, value) for value in factors)
        return 0 if any(value == 0 for value in factors) else int(sign) * most
    exact = math.prod((Fraction(value) for value in factors), start=Fraction(1))
    return max(-most, min(most, round(exact)))  # round() of a fraction: ties to even


@pytest.mark.parametrize("index", range(6))
def test_codes_are_exact_products_rounded_once(index: int) -> None:
    sweep = block("fused_tables").sweep[index]
    spec = _spec(**sweep)
    rng = np.random.default_rng(index)
    seen: set[int] = set()
    for _ in range(25):
        work = golden.random_work(spec, rng)
        x, r = spec.source.decode(work.x), spec.factor.decode(work.multiplier)
        g = np.ones((len(x), spec.tile.k)) if work.gain is None else FP16.decode(work.gain)
        found = golden.codes(spec, work)
        for beat, row, lane in np.ndindex(x.shape):
            factors = [float(x[beat, row, lane]), float(r[row]), float(g[beat, lane])]
            assert found[beat, row, lane] == _code(spec.activations.high, factors)
        seen |= set(np.unique(found).tolist())
    assert {0, spec.activations.high, -spec.activations.high} <= seen
    assert -spec.activations.high - 1 not in seen


def test_it_feeds_a_core_that_takes_tables() -> None:
    """A product through codes, tables and the core's reference is the quantized product."""
    fused = _spec(tile={"m": 2, "k": 4})
    data = {"tile": {"m": 2, "n": 3, "k": 4}, "table": {"group": 2, "source": "port"}}
    cores = spec_from_dict({"block": "lut_core", "name": "dut", "max_k": 16, **data})
    tables = next(item for item in core.streams(cores) if item.name == "i_t")
    made = next(item for item in golden.streams(fused) if item.name == "o")
    assert made.fields == tables.fields
    rng = np.random.default_rng(9)
    rows = rng.normal(0, 1, (2, 16))
    weight = np.exp2(rng.normal(0, 0.3, 16))
    rms = np.sqrt((rows**2).mean(axis=1))
    normal = rows / rms[:, None] * weight
    scale = np.abs(normal).max(axis=1) / 127
    work = FusedWork(
        x=FP16.encode(rows.reshape(2, 4, 4).transpose(1, 0, 2)).astype(np.int64),
        gain=FP16.encode(weight.reshape(4, 4)).astype(np.int64),
        multiplier=FP32.encode(1 / (rms * scale)).astype(np.int64),
    )
    q = golden.codes(fused, work).transpose(1, 0, 2).reshape(2, 16)
    # FP16 of elements and gains is off by 2^-11 each: an eighth of a code at 127, then rounding.
    assert np.abs(q - normal / scale[:, None]).max() < 0.5 + 127 * 2.0**-10 * 1.01
    job = core.random_operands(cores, rng, _job())
    beats = core.beats(cores, _with(job, q))["i_t"]
    sent = golden.expected(fused, work)["o"]
    np.testing.assert_array_equal(beats["t"], sent["t"])


def _job() -> Any:
    from hw.gemm import Job

    return Job(k_steps=4, weight_bits=1)


def _with(work: Any, q: np.ndarray) -> Any:
    from dataclasses import replace

    return replace(work, a=q)


def test_every_sixteen_bit_element_is_tried() -> None:
    for sweep in block("fused_tables").sweep:
        spec = _spec(**sweep)
        works = golden.exhaustive_works(spec)
        if spec.input == "fp32":
            assert works is None
        else:
            assert works is not None
            assert len(works) == 4
            assert all(len(np.unique(work.x)) == 1 << 16 for work in works)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {"activations": {"signed": False}},
            "activations.signed: must be true: codes are symmetric, got False",
        ),
        ({"table": {"source": "port"}}, "table.source: must be internal here, got 'port'"),
        ({"tile": {"k": 1}}, "table.group: must be at most tile.k = 1, got 2"),
    ],
)
def test_what_cannot_be_is_refused(data: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        _spec(**data)
    assert words in str(caught.value)


def test_gains_belong_to_specifications_with_gains() -> None:
    spec = _spec(tile={"m": 1, "k": 2}, gain=False)
    x = np.zeros((1, 1, 2), dtype=np.int64)
    work = FusedWork(x=x, gain=x[0], multiplier=np.zeros(1, dtype=np.int64))
    with pytest.raises(ValueError, match="gain: for specifications with gains and no others"):
        golden.expected(spec, work)
