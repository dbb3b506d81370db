"""Every block, over its sweep, against its golden and timing models in simulation."""

from __future__ import annotations

import numpy as np
import pytest

from hw.block import block, blocks, spec_from_dict
from hw.spec import BlockSpec
from rtl_gen.emit import emit_verilog
from sim import check_verilog

CASES = [
    pytest.param(name, index, id=f"{name}-{index}")
    for name, found in blocks().items()
    for index in range(len(found.sweep))
]


def _spec(name: str, index: int) -> BlockSpec:
    return spec_from_dict({"block": name, "name": "dut", **block(name).sweep[index]})


@pytest.mark.parametrize(("name", "index"), CASES)
def test_rtl_is_its_golden_and_takes_its_cycles(name: str, index: int) -> None:
    spec = _spec(name, index)
    verdict = check_verilog(spec, emit_verilog(spec))
    assert verdict.passed, verdict.failure
    assert verdict.works > 100


@pytest.mark.parametrize(("name", "index"), CASES)
def test_beats_survive_packing(name: str, index: int) -> None:
    spec = _spec(name, index)
    golden = block(name).golden
    rng = np.random.default_rng(index)
    for size in ("minimum", "small", "large"):
        work = golden.random_work(spec, rng, size=size)
        values = {**golden.beats(spec, work), **golden.expected(spec, work)}
        for stream in golden.streams(spec):
            packed = stream.pack(values[stream.name])
            for field, back in stream.unpack(packed).items():
                np.testing.assert_array_equal(back, values[stream.name][field])


@pytest.mark.parametrize("name", list(blocks()))
def test_random_work_reaches_every_coverage_point(name: str) -> None:
    found = block(name)
    spec = _spec(name, 1)
    rng = np.random.default_rng(0)
    hit: set[str] = set()
    for _ in range(400):
        hit |= set(found.golden.coverage(spec, found.golden.random_work(spec, rng, size="small")))
        hit |= set(found.golden.coverage(spec, found.golden.random_work(spec, rng, size="minimum")))
    assert set(found.golden.coverage_points(spec)) <= hit
