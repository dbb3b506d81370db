"""Boundary values: which they are, that every lane meets them, and what they find."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hw import integers
from hw.block import spec_from_dict
from hw.blocks.mac_core.spec import MacCoreSpec
from hw.gemm import GemmSpec
from sim import check_verilog, stimulus
from sim.compiled import plan_scenarios
from sim.gemm import GemmPlan

BYTES = {
    "block": "mac_core",
    "name": "bytes_mac",
    "tile": {"m": 2, "n": 3, "k": 5},
    "activations": {"bits": 8},
    "weights": {"bits": 8},
    "max_k": 10,
}
CORES = {
    "signed": BYTES,
    "zero points": {
        "block": "lut_core",
        "name": "zero_lut",
        "tile": {"m": 2, "n": 2, "k": 3},
        "activations": {"bits": 7, "signed": False},
        "weights": {"encoding": "unsigned", "max_bits": 3},
        "max_k": 9,
    },
    "bipolar": {
        "block": "lut_core",
        "name": "bipolar_lut",
        "tile": {"m": 1, "n": 2, "k": 2},
        "weights": {"encoding": "bipolar", "max_bits": 4},
        "max_k": 4,
    },
    "ternary": {
        "block": "lut_core",
        "name": "ternary_lut",
        "tile": {"m": 1, "n": 2, "k": 6},
        "activations": {"bits": 4},
        "weights": {"encoding": "ternary"},
        "max_k": 12,
    },
}


def core(name: str) -> GemmSpec:
    spec = spec_from_dict(CORES[name])
    assert isinstance(spec, GemmSpec)
    return spec


def plans(spec: GemmSpec) -> dict[str, GemmPlan]:
    found = {}
    for scenario in stimulus.boundaries(spec, np.random.default_rng(0)):
        assert scenario.plan is not None
        found[scenario.name] = scenario.plan
    return found


def test_boundary_values_are_those_near_a_power_of_two() -> None:
    found = stimulus.boundary_values(-128, 127).tolist()
    positive = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 126, 127]
    negative = [-v for v in positive[1:-2]] + [-127, -128]
    assert found == sorted(positive + negative)
    # All of them where they are few; odd ones alone stay odd.
    assert stimulus.boundary_values(-32, 31, most_values=64).tolist() == list(range(-32, 32))
    assert len(stimulus.boundary_values(-32, 31, most_values=63)) < 64
    odd = stimulus.boundary_values(-255, 255, 2)
    assert (odd % 2 == 1).all()
    assert {-255, -253, -1, 1, 63, 65, 127, 129, 253, 255} <= set(odd.tolist())
    assert 75 not in odd


@pytest.mark.parametrize("name", CORES)
def test_every_lane_meets_every_boundary_beside_every_held_value(name: str) -> None:
    spec = core(name)
    found = plans(spec)
    k = spec.tile.k
    low, high = spec.activations.low, spec.activations.high
    values = set(stimulus.boundary_values(low, high, most_values=64).tolist())
    held = {low, high, 0, 1} | ({-1} if low < 0 else set())
    a = found["boundary values of A"].a
    for lane in range(k):
        beside = a[:, lane + 1 if lane + 1 < k else lane - 1]
        seen = set(zip(a[:, lane].tolist(), beside.tolist(), strict=True))
        assert seen >= {(value, other) for value in values for other in held}, lane
    widths = range(1 if spec.max_passes > 1 else spec.max_weight_bits, spec.max_weight_bits + 1)
    assert set(found) == {"boundary values of A"} | {
        f"boundary values of W, {bits} bit" for bits in widths
    }
    for bits in widths:
        plan = found[f"boundary values of W, {bits} bit"]
        low, high = integers.weight_range(spec.weight_encoding, bits)
        for lane in range(k):
            beside = plan.w[:, lane + 1 if lane + 1 < k else lane - 1]
            seen = set(zip(plan.w[:, lane].tolist(), beside.tolist(), strict=True))
            assert {(low, high), (high, low), (low, low), (high, high)} <= seen
            if plan.z is not None:
                both = set(zip(plan.w[:, lane].tolist(), plan.z.tolist(), strict=True))
                top = 2**bits - 1
                assert {(0, 0), (0, top), (top, 0), (top, top)} <= both


def test_further_operands_go_through_all_their_settings() -> None:
    spec = spec_from_dict(
        {
            "block": "lut_core",
            "name": "int8_lut",
            "tile": {"m": 1, "n": 2, "k": 4},
            "weights": {"encoding": "unsigned", "max_bits": 2},
            "table": {"entries": "int8"},
            "max_k": 8,
        }
    )
    assert isinstance(spec, GemmSpec)
    found = plans(spec)
    shifts = {int(plan.extra["entry_shift"]) for name, plan in found.items() if " of A," in name}
    assert shifts == set(range(9))
    plan = found["boundary values of A, entry_shift 0"]
    # The smallest sum that the largest entry cannot hold, under weights of ones everywhere.
    assert ((plan.a[:, 0] + plan.a[:, 1] == 128) & (plan.a[:, 2] == 1)).any()
    assert plan.z is not None
    assert ((plan.w == 3).all(axis=1) & (plan.z == 0)).any()


def test_blocks_that_are_no_cores_have_none() -> None:
    spec = spec_from_dict({"block": "lut_tables", "name": "tables"})
    assert list(stimulus.boundaries(spec, np.random.default_rng(0))) == []


@pytest.mark.parametrize(
    ("condition", "scenario"),
    [
        # Products of one sum of two activations, of one pair of weights; each in one column.
        (
            "$signed(a_reg[(m*5)*8 +: 8]) + $signed(a_reg[(m*5+1)*8 +: 8]) == 128 & n == 1"
            " & w_reg[n*40 +: 16] == 16'h8080",
            "boundary values of A",
        ),
        (
            "w_reg[n*40 +: 16] == 16'h8041 & a_reg[m*40 +: 16] == 16'h7f7f",
            "boundary values of W, 8 bit",
        ),
    ],
)
def test_what_is_wrong_at_one_value_alone_is_found(
    behavioural: Callable[[MacCoreSpec], str], condition: str, scenario: str
) -> None:
    spec = core("signed")
    assert isinstance(spec, MacCoreSpec)
    text = behavioural(spec)
    chosen = list(stimulus.boundaries(spec, np.random.default_rng(0)))
    assert check_verilog(spec, text, scenarios=chosen).passed
    wrong = text.replace("<= total +", f"<= total + ({condition}) +")
    assert wrong != text
    failure = check_verilog(spec, wrong, scenarios=chosen).failure
    assert failure is not None
    assert (failure.kind, failure.scenario) == ("value", scenario)


def test_a_quick_check_tries_them() -> None:
    spec = core("ternary")
    tried = [scenario.name for scenario in plan_scenarios(spec, (0,), "quick")]
    assert set(plans(spec)) <= set(tried)
