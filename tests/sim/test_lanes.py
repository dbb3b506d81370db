"""Groups of instances on the vector unit: the same results as one after another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hw.block import spec_from_dict
from hw.spec import BlockSpec
from rtl_gen import build
from sim import stimulus
from sim.compiled import Tally, plan_scenarios, run_scenario
from sim.harness import lanes, load
from sim.harness.compile import RUN_LONG, RUN_SHORT

CALLS = """#include "Vmodel__pch.h"
void f(Vmodel_col* vlSelf);
void eval(Vmodel* vlSelf) {
    before();
%s    after();
}
"""
BODY = """#include "Vmodel__pch.h"

void %s(Vmodel_col* vlSelf) {
    VL_DEBUG_IF(VL_DBG_MSGF("f"); );
    Vmodel__Syms* const __restrict vlSymsp VL_ATTR_UNUSED = vlSelf->vlSymsp;
    auto& vlSelfRef = std::ref(*vlSelf).get();
    // Body
    vlSelfRef.y = ((IData)(vlSymsp->TOP.a) + (IData)(vlSelfRef.x));
    %s
}
"""


def folder(tmp_path: Path, calls: list[str], body: str = "") -> Path:
    text = "".join(f"    {name}((&vlSymsp->TOP__c{i}));\n" for name, i in map(str.split, calls))
    (tmp_path / "root.cpp").write_text(CALLS % text)
    (tmp_path / "col.cpp").write_text(BODY % ("f", body) + BODY % ("g", ""))
    return tmp_path


def test_consecutive_calls_become_one(tmp_path: Path) -> None:
    found = lanes.rewrite(folder(tmp_path, [f"f {i}" for i in range(35)]))
    assert found is not None
    (text,) = found.files.values()
    assert text.count("f__lanes(vlSymsp);") == 1
    assert "TOP__c" not in text
    # Two whole groups by vectors, three instances as before.
    assert "i < 32; i += lanes::COUNT" in found.source
    assert [f"f(&vlSymsp->TOP__c{i});" in found.source for i in (31, 32, 33, 34)] == [
        False,
        True,
        True,
        True,
    ]
    assert found.spare == ()
    assert "lanes::gather(vlSelfRef.x" in found.source
    assert "lanes::scatter(vlSelfRef.y" in found.source
    assert "lanes::scatter(vlSelfRef.x" not in found.source
    assert "(uint32_t)(vlSymsp->TOP.a)" in found.source


def test_a_body_in_two_functions_is_computed_function_by_function(tmp_path: Path) -> None:
    calls = [f"{name} {i}" for i in range(16) for name in ("f", "g")]
    found = lanes.rewrite(folder(tmp_path, calls))
    assert found is not None
    (text,) = found.files.values()
    assert text.index("f__lanes(vlSymsp);") < text.index("g__lanes(vlSymsp);")
    assert found.spare == ("Vmodel_col__",)


@pytest.mark.parametrize(
    ("calls", "body"),
    [
        ([f"f {i}" for i in range(15)], ""),  # too few
        ([*(f"f {i}" for i in range(16)), *(f"g {i}" for i in range(9))], ""),  # not regular
        ([f"f {i}" for i in range(16)], "vlSymsp->TOP.z = 1U;"),  # writes what all share
        ([f"f {i}" for i in range(16)], "vlSymsp->TOP.z[1U] = 1U;"),
        ([f"f {i}" for i in range(16)], "vlSelfRef.y = vlSymsp->TOP__c3.x;"),  # reads another
        ([f"f {i}" for i in range(16)], "h(vlSelf);"),
    ],
)
def test_anything_else_is_left_alone(tmp_path: Path, calls: list[str], body: str) -> None:
    assert lanes.rewrite(folder(tmp_path, calls, body)) is None


CORES = {
    "lut_core": {
        "weights": {"encoding": "unsigned", "max_bits": 3},
        "table": {"group": 2},
    },
    "mac_core": {"weights": {"encoding": "twos_complement", "bits": 5}},
    # Weights and results of more than 32 bits.
    "bitserial_core": {
        "tile": {"m": 2, "n": lanes.LANES + 2, "k": 41},
        "activations": {"max_bits": 3},
        "weights": {"encoding": "unsigned", "max_bits": 2},
        "max_k": 410,
    },
}


@pytest.fixture(scope="module", params=CORES)
def wide(request: pytest.FixtureRequest) -> BlockSpec:
    """One whole group of columns and two more."""
    return spec_from_dict(
        {
            "block": request.param,
            "name": f"wide_{request.param}",
            "tile": {"m": 2, "n": lanes.LANES + 2, "k": 6},
            "activations": {"bits": 6},
            "max_k": 60,
            **CORES[request.param],
        }
    )


def test_emitted_columns_go_by_vectors_and_nothing_else_changes(wide: BlockSpec) -> None:
    text = build.verilog(wide)
    tallies = []
    for effort in (RUN_LONG, RUN_SHORT):
        tally = Tally()
        with load(wide, text, effort=effort) as model:
            facts = json.loads(model.library.with_name("build.json").read_text())
            assert facts["vectors"] == (effort is RUN_LONG)
            for scenario in plan_scenarios(wide, (0,), "quick"):
                assert run_scenario(model, stimulus.stimulus(wide, scenario), tally) is None
        tallies.append(tally)
    assert tallies[0] == tallies[1]


def test_a_wrong_column_is_wrong_by_vectors_too(wide: BlockSpec) -> None:
    text = build.verilog(wide)
    wrong = text.replace("assign s = a ^ b ^ c;", "assign s = a ^ b;")
    assert wrong != text
    works = tuple(
        stimulus.random_work(wide, np.random.default_rng(seed), "small") for seed in range(4)
    )
    stim = stimulus.stimulus(wide, stimulus.Scenario(name="few", works=works))
    seen = []
    for effort in (RUN_LONG, RUN_SHORT):
        with load(wide, wrong, effort=effort) as model:
            seen.append(model.run(stim.inputs, stim.expect, check=False).packed["o"])
    assert np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], stim.expected_packed["o"])
