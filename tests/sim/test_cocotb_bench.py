"""The cocotb bench: the same scenarios through the simulator's own interface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hw.blocks.mac_core.spec import MacCoreSpec
from sim import cocotb_run, stimulus
from sim.compiled import Tally, run_scenario
from sim.harness import Model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def passed(
    spec: MacCoreSpec, text: str, tmp_path_factory: pytest.TempPathFactory
) -> cocotb_run.CocotbResult:
    """The bench on the right text, with a waveform."""
    wave = tmp_path_factory.mktemp("wave") / "bench.fst"
    return cocotb_run.run(spec, text, seeds=(0,), works=8, large=1, wave=wave, progress=False)


def test_the_right_text_passes(passed: cocotb_run.CocotbResult) -> None:
    assert passed.failure is None
    assert passed.tally.contracts >= 4
    assert passed.tally.predicted == passed.tally.observed > 50


def test_both_benches_try_the_same_and_take_the_same_cycles(
    passed: cocotb_run.CocotbResult, spec: MacCoreSpec, model: Model
) -> None:
    tally = Tally()
    for scenario in stimulus.scenarios(spec, 0, works=8, large=1):
        assert run_scenario(model, stimulus.stimulus(spec, scenario), tally) is None
    assert passed.tally == tally  # works, vectors, every cycle under stalls, and coverage


def test_the_wave_appears(passed: cocotb_run.CocotbResult) -> None:
    assert passed.wave is not None
    raw = passed.wave.read_bytes()
    assert raw[0] == 0
    assert int.from_bytes(raw[1:9], "big") == 329


@pytest.mark.parametrize(
    ("old", "new", "kind", "words"),
    [
        (
            "acc[m*3+n] <= total +",
            "acc[m*3+n] <= total + ((m == 1) & (n == 2)) +",
            "value",
            "o.o[0, 1, 2] (beat 0): expected",
        ),
        ("(o_full & ~o__ready)", "1'b0", "protocol", "o: valid fell before beat"),
        (
            "assign i_job__ready = ~active | finish;",
            "assign i_job__ready = ~active;",
            "cycles",
            "the timing model says",
        ),
    ],
    ids=["value", "protocol", "cycles"],
)
def test_a_wrong_text_is_caught_as_by_the_compiled_bench(
    spec: MacCoreSpec, text: str, old: str, new: str, kind: str, words: str
) -> None:
    from sim import check_verilog

    assert text.count(old) == 1
    wrong = text.replace(old, new)
    found = cocotb_run.run(spec, wrong, seeds=(0,), works=8, large=1, progress=False).failure
    assert found is not None
    assert found.kind == kind
    assert words in found.text
    scenarios = stimulus.scenarios(spec, 0, works=8, large=1)
    other = check_verilog(spec, wrong, scenarios=scenarios).failure
    assert other == found


def test_a_simulator_that_dies_is_no_success(
    spec: MacCoreSpec, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rtl_gen.errors import ToolError

    monkeypatch.setenv("COCOTB_TEST_FILTER", "no such test")
    with pytest.raises(ToolError, match="cocotb: ended with status"):
        cocotb_run.run(spec, text, seeds=(0,), works=2, large=0, progress=False)


def test_stimulus_is_the_same_in_every_process(spec: MacCoreSpec) -> None:
    first = [stimulus.stimulus(spec, item) for item in stimulus.scenarios(spec, 7)]
    again = [stimulus.stimulus(spec, item) for item in stimulus.scenarios(spec, 7)]
    assert [item.scenario.name for item in first] == [item.scenario.name for item in again]
    for one, two in zip(first, again, strict=True):
        assert all(
            np.array_equal(one.inputs[name].dense(), two.inputs[name].dense())
            for name in one.inputs
        )


def test_logs_lie_in_the_cache(passed: cocotb_run.CocotbResult) -> None:
    assert Path(passed.log).read_text().strip()
