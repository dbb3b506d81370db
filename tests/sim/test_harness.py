"""The compiled harness: values, cycles, stalls, resets, and what it says of a design that errs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hw.block import block
from hw.blocks.mac_core.spec import MacCoreSpec
from sim import Stall, Stalls, stalls, stimulus
from sim.harness import Model, RunError, load
from sim.harness import compile as harness_compile
from sim.harness import model as states
from sim.harness.compile import RUN_SHORT, fold_repeats, repeated_modules
from sim.stimulus import Scenario, Stimulus


def works_of(spec: MacCoreSpec, count: int, seed: int = 0) -> Stimulus:
    rng = np.random.default_rng(seed)
    works = tuple(stimulus.random_work(spec, rng, "small") for _ in range(count))
    return stimulus.stimulus(spec, Scenario(name="test", works=works))


PATTERNS = {
    "none": None,
    "light": stalls.light(),
    "heavy": stalls.heavy(),
    "bursts": stalls.bursts(),
    "i_a starved": stalls.starved("i_a"),
    "i_c starved": stalls.starved("i_c"),
    "o blocked": stalls.blocked("o"),
    "explicit": Stalls(streams={"o": Stall(bits=(1, 0, 1, 1, 0))}),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_results_are_the_same_under_every_stall_pattern(
    model: Model, spec: MacCoreSpec, name: str
) -> None:
    stim = works_of(spec, 30)
    run = model.run(stim.inputs, stim.expect, stalls=PATTERNS[name], seed=5)
    assert np.array_equal(run.outputs["o"]["o"], stim.expected["o"]["o"])
    assert run.accepted == {key: packed.beats for key, packed in stim.inputs.items()}
    predicted = stim.predicted_cycles()
    assert run.cycles == predicted if PATTERNS[name] is None else run.cycles > predicted


def test_fields_and_packed_beats_are_the_same_thing(model: Model, spec: MacCoreSpec) -> None:
    golden = block("mac_core").golden
    work = stimulus.random_work(spec, np.random.default_rng(1), "small")
    by_field = model.run(golden.beats(spec, work), {"o": 1})
    packed = {
        item.name: item.pack(golden.beats(spec, work)[item.name])
        for item in model.streams
        if item.direction == "in"
    }
    by_bytes = model.run(packed, {"o": 1})
    assert np.array_equal(by_field.packed["o"], by_bytes.packed["o"])
    assert np.array_equal(by_field.outputs["o"]["o"], golden.expected(spec, work)["o"]["o"])


def test_a_cycle_is_known_for_every_output(model: Model, spec: MacCoreSpec) -> None:
    stim = works_of(spec, 4)
    run = model.run(stim.inputs, stim.expect)
    steps = np.array([work.job.k_steps for work in stim.scenario.works])
    assert run.output_cycles["o"].tolist() == (np.cumsum(steps) + 1).tolist()
    assert (run.first_input, run.last_output) == (0, int(steps.sum()) + 1)


def test_reset_in_mid_job_forgets_what_was_under_way(model: Model, spec: MacCoreSpec) -> None:
    stim = works_of(spec, 8)
    for cycle in range(stim.predicted_cycles()):
        run = model.run(stim.inputs, stim.expect, reset_at=cycle)
        before = run.before_reset
        assert before is not None
        count = len(before.packed["o"])
        assert np.array_equal(before.packed["o"], stim.expected_packed["o"][:count])
        assert np.array_equal(run.outputs["o"]["o"], stim.expected["o"]["o"])
        assert run.cycles == stim.predicted_cycles()


def test_a_run_may_go_on_where_the_last_one_stopped(model: Model, spec: MacCoreSpec) -> None:
    first, second = works_of(spec, 3, 1), works_of(spec, 3, 2)
    model.run(first.inputs, first.expect)
    run = model.run(second.inputs, second.expect, reset=False)
    assert np.array_equal(run.outputs["o"]["o"], second.expected["o"]["o"])


def test_a_run_that_cannot_end_says_what_is_missing(model: Model, spec: MacCoreSpec) -> None:
    stim = works_of(spec, 2)
    inputs = {key: value for key, value in stim.inputs.items() if key != "i_w"}
    with pytest.raises(RunError, match=r"no transfer any more.*o 0 of 2") as caught:
        model.run(inputs, stim.expect, idle_limit=50)
    assert caught.value.run.status == states.IDLE


def test_one_output_more_than_expected_is_found(model: Model, spec: MacCoreSpec) -> None:
    stim = works_of(spec, 3)
    with pytest.raises(RunError, match="o: a beat after the 2 expected ones"):
        model.run(stim.inputs, {"o": 2})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        # valid falls although the result was not taken
        ("(o_full & ~o__ready)", "1'b0", "o: valid fell before beat"),
        # the next job starts over a result that waits
        ("& (~o_full | o__ready)", "", "o: payload of beat 0 changed"),
    ],
)
def test_a_broken_stream_rule_is_found(
    spec: MacCoreSpec, text: str, old: str, new: str, words: str
) -> None:
    assert old in text
    stim = works_of(spec, 30)
    with load(spec, text.replace(old, new), effort=RUN_SHORT) as broken:
        broken.run(stim.inputs, stim.expect, check=False)
        with pytest.raises(RunError, match=words):
            broken.run(stim.inputs, stim.expect, stalls=stalls.blocked("o"))


def test_a_design_that_does_not_settle_is_an_error_and_no_crash(
    spec: MacCoreSpec, text: str
) -> None:
    loop = text.replace(
        "assign o__valid = o_full;", "wire x = ~(x & o_full); assign o__valid = o_full & x;"
    )
    stim = works_of(spec, 3)
    with (
        load(spec, loop, effort=RUN_SHORT) as broken,
        pytest.raises(RunError, match=r"could not be evaluated: .*converge"),
    ):
        broken.run(stim.inputs, stim.expect)


@pytest.mark.parametrize(
    ("inputs", "expect", "words"),
    [
        ({"o": np.zeros((1, 1), np.uint8)}, {}, "'o' is not an input"),
        ({}, {"i_a": 1}, "'i_a' is not an output"),
        ({"i_a": np.zeros((1, 99), np.uint8)}, {}, "i_a: packed beats must be uint8"),
        ({"i_a": {"a": np.full((1, 2, 5), 8)}}, {}, r"i_a.a: values must lie in \[-8, 7\]"),
    ],
)
def test_bad_requests_are_refused(model: Model, inputs: dict, expect: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model.run(inputs, expect)


def test_a_closed_model_is_refused(spec: MacCoreSpec, text: str) -> None:
    made = load(spec, text, effort=RUN_SHORT)
    made.close()
    with pytest.raises(ValueError, match="the model was closed"):
        made.run({}, {})


def test_a_wave_needs_a_model_with_tracing(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="built without tracing"):
        model.wave(tmp_path / "x.fst")


def test_a_wave_holds_the_run(spec: MacCoreSpec, text: str, tmp_path: Path) -> None:
    stim = works_of(spec, 5)
    file = tmp_path / "run.fst"
    with load(spec, text, effort=RUN_SHORT, trace="fst") as traced:
        traced.wave(file)
        run = traced.run(stim.inputs, stim.expect)
        traced.wave(None)
    raw = file.read_bytes()
    assert raw[0] == 0
    assert int.from_bytes(raw[1:9], "big") == 329
    # Its end time: two half cycles a cycle, and the one of reset.
    assert int.from_bytes(raw[17:25], "big") == 2 * (run.total_cycles + 1) - 1


def test_the_cache_gives_the_same_library(spec: MacCoreSpec, text: str) -> None:
    ports = block("mac_core").golden.streams(spec)
    first = harness_compile.build(text, spec.name, ports, effort=RUN_SHORT)
    assert harness_compile.build(text, spec.name, ports, effort=RUN_SHORT) == first
    other = harness_compile.build(text + "\n", spec.name, ports, effort=RUN_SHORT)
    assert other != first


def test_two_cores_in_one_process_do_not_meet(
    model: Model, spec: MacCoreSpec, behavioural: Callable[[MacCoreSpec], str]
) -> None:
    other_spec = MacCoreSpec(
        **{**spec.model_dump(), "name": "other_mac", "tile": {"m": 1, "n": 1, "k": 2}}
    )
    with load(other_spec, behavioural(other_spec), effort=RUN_SHORT) as other:
        for seed in range(3):
            for made in (model, other):
                stim = works_of(made.spec, 5, seed)
                run = made.run(stim.inputs, stim.expect)
                assert np.array_equal(run.outputs["o"]["o"], stim.expected["o"]["o"])


def test_fold_repeats_keeps_the_meaning() -> None:
    folded = fold_repeats("assign y = { a[1], a[1], a[1], b, \\$x , \\$x , c[2:1] };")
    assert folded == "assign y = { {3{a[1]}}, b, {2{\\$x }}, c[2:1] };"
    assert fold_repeats("{ a, b } { 2{x} } (p, q)") == "{ a, b } { 2{x} } (p, q)"


def test_repeated_modules_are_shared_and_small_ones_are_not() -> None:
    body = "\n".join("  // line" for _ in range(80))
    column = f"module column(w, t);\n  input [3:0] w;\n  input t;\n{body}\nendmodule\n"
    small = "module small(w);\n  input w;\nendmodule\n"
    top = "module top(x);\n" + "".join(
        f"  column column_{i} (\n    .t(x),\n    .w(x[{i}:0])\n  );\n  small small_{i} (\n"
        f"    .w(x[{i}])\n  );\n"
        for i in range(2)
    )
    rules = repeated_modules(column + small + top + "endmodule\n")
    assert rules.splitlines()[1:] == [
        'no_inline -module "column"',
        'public_flat_rw -module "column" -var "w"',
    ]
    assert repeated_modules(small) == ""
