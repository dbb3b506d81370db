"""Verdicts on Verilog texts: the right one passes, and each way to be wrong is named."""

from __future__ import annotations

import numpy as np
import pytest

from hw.block import spec_from_dict
from hw.blocks.mac_core.spec import MacCoreSpec
from sim import check_verilog, stimulus
from sim.compiled import Tally, plan_scenarios, run_scenario
from sim.harness import Model


def test_the_right_text_passes(spec: MacCoreSpec, text: str) -> None:
    verdict = check_verilog(spec, text)
    assert verdict.passed
    assert verdict.failure is None
    assert verdict.scenarios > 40
    assert verdict.works > 500
    assert verdict.cycles > 3_000


MUTANTS = {
    "an operator": ("total = total + $signed", "total = total - $signed", "value"),
    "one column": (
        "acc[m*3+n] <= total +",
        "acc[m*3+n] <= total + ((m == 1) & (n == 2)) +",
        "value",
    ),
    "the sign of an activation": ("a[4 - 1]", "1'b0", "value"),
    "the zero point": ("zp[n*3 +: 3]", "zp[0 +: 3]", "value"),
    "a job longer by a step": ("left == 0", "&left", "any"),
    "a bubble between jobs": (
        "assign i_job__ready = ~active | finish;",
        "assign i_job__ready = ~active;",
        "cycles",
    ),
    "a stall that repeats a step": (
        "w_full <= (i_w__valid & i_w__ready) | (w_full & ~fire);",
        "w_full <= (i_w__valid & i_w__ready) | w_full;",
        "any",
    ),
    "a result that does not wait": ("(o_full & ~o__ready)", "1'b0", "protocol"),
    "a reset that forgets the operands": (
        "      a_full <= 0;\n      w_full <= 0;\n",
        "      w_full <= 0;\n",
        "any",
    ),
    "a reset that forgets the job": ("      active <= 0;\n      o_full", "      o_full", "any"),
    "an addend for everyone": ("(needs_c ? ", "(last ? ", "value"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_text_does_not_pass(spec: MacCoreSpec, text: str, name: str) -> None:
    old, new, kind = MUTANTS[name]
    assert text.count(old) == 1
    verdict = check_verilog(spec, text.replace(old, new))
    assert not verdict.passed
    assert verdict.failure is not None
    assert kind in ("any", verdict.failure.kind), verdict.failure.text


def test_a_narrow_accumulator_is_found_by_the_deepest_job(text: str, spec: MacCoreSpec) -> None:
    bits = spec.result_bits
    # One bit less, extended: only sums near the specified limit tell.
    narrow = text.replace(
        f"acc[m*3+n] <= total + (needs_c ? $signed(i_c__payload[(m*3+n)*{bits} +: {bits}])",
        f"total = {{{{2{{total[{bits - 2}]}}}}, total[{bits - 3}:0]}};\n"
        f"      acc[m*3+n] <= total + (needs_c ? $signed(i_c__payload[(m*3+n)*{bits} +: {bits}])",
    )
    assert narrow != text
    deepest = stimulus.deepest(spec, np.random.default_rng(0), most_cycles=10_000)
    assert deepest is not None
    verdict = check_verilog(spec, narrow, scenarios=[deepest])
    assert not verdict.passed
    assert verdict.failure is not None
    assert verdict.failure.scenario == "largest K, extreme operands"


def test_a_failure_names_the_element_its_inputs_and_its_cycle(spec: MacCoreSpec, text: str) -> None:
    old, new, _ = MUTANTS["one column"]
    failure = check_verilog(spec, text.replace(old, new)).failure
    assert failure is not None
    assert (failure.stream, failure.field, failure.beat, failure.index) == ("o", "o", 0, (1, 2))
    assert failure.expected is not None
    assert failure.observed == failure.expected + 1
    assert f"o.o[0, 1, 2] (beat 0): expected {failure.expected}" in failure.text
    assert f"in cycle {failure.cycle}" in failure.text
    assert "a[1,:]=[" in failure.text
    assert "w[2,:]=[" in failure.text
    assert "z[2]=" in failure.text


def test_the_first_wrong_element_is_the_earliest(spec: MacCoreSpec, text: str) -> None:
    # Wrong from the third result on.
    late = text.replace(
        "  integer m, n, k;",
        "  reg [7:0] count = 0;\n  always @(posedge clk) count <= rst ? 0 : count + finish;\n"
        "  integer m, n, k;",
    ).replace("acc[m*3+n] <= total +", "acc[m*3+n] <= total + (count >= 2) +")
    failure = check_verilog(spec, late).failure
    assert failure is not None
    assert failure.beat == 2


def test_a_text_that_is_no_verilog_does_not_pass(spec: MacCoreSpec) -> None:
    verdict = check_verilog(spec, "module small_mac(input clk; endmodule")
    assert not verdict.passed
    assert verdict.failure is not None
    assert verdict.failure.kind == "build"
    assert "syntax error" in verdict.failure.text


def test_small_cores_are_tried_with_every_operand() -> None:
    tiny = spec_from_dict(
        {
            "block": "mac_core",
            "name": "tiny",
            "tile": {"m": 2, "n": 2, "k": 1},
            "activations": {"bits": 3},
            "weights": {"encoding": "unsigned", "bits": 2},
            "max_k": 2,
        }
    )
    scenarios = list(stimulus.exhaustive(tiny, most_jobs=20_000))
    # Of each width every activation with every weight and zero point, at each of four places.
    for bits in (1, 2):
        seen: dict[tuple[int, int], set[tuple[int, int, int]]] = {}
        for scenario in scenarios:
            plan = scenario.plan
            assert plan is not None
            if plan.job.weight_bits != bits:
                continue
            for number in range(plan.jobs):
                work = plan.work(number)
                assert work.z is not None
                for m in range(2):
                    for n in range(2):
                        value = (int(work.a[m, 0]), int(work.w[n, 0]), int(work.z[n]))
                        seen.setdefault((m, n), set()).add(value)
        every = {(a, w, z) for a in range(-4, 4) for w in range(2**bits) for z in range(2**bits)}
        assert all(places == every for places in seen.values())
        assert len(seen) == 4


def test_a_quick_check_covers_every_point(spec: MacCoreSpec, model: Model) -> None:
    tally = Tally()
    for scenario in plan_scenarios(spec, (0, 1), "quick"):
        assert run_scenario(model, stimulus.stimulus(spec, scenario), tally) is None
    assert set(stimulus.coverage_points(spec)) == tally.coverage


def test_a_stall_that_came_too_late_covers_nothing(spec: MacCoreSpec) -> None:
    from sim import Stall, Stalls
    from sim.stimulus import Scenario

    rng = np.random.default_rng(0)
    late = Stalls(streams={"i_a": Stall(bits=(0,) * 100 + (1,))})
    work = stimulus.random_work(spec, rng, "minimum")
    stim = stimulus.stimulus(spec, Scenario(name="late", works=(work,), stalls=late))
    short = stimulus.coverage(stim, total_cycles=100, reset_in_work=False)
    assert "held back=i_a" not in short
    assert "no stall" in short
    long = stimulus.coverage(stim, total_cycles=101, reset_in_work=False)
    assert "held back=i_a" in long
    assert "no stall" not in long
