"""The list of mutants fits the sources, samples of it are caught, and the run can fail."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from hw.block import block
from sim import mutation
from sim.mutants import entry
from sim.mutation import Mutant, MutantError

BY_BEHAVIOUR = ("value", "protocol", "cycles", "hang", "input")

# By what goes wrong: sign plane, plane order, counts, stalls, widths, symmetry, clips, zero points.
SAMPLE = (
    ("lut_core", "sign_plane_positive", "value"),
    ("lut_core", "plane_order", "value"),
    ("lut_core", "passes_short", "value"),
    ("lut_core", "payload_changes", "protocol"),
    ("lut_core", "accumulator_narrow", "value"),
    ("lut_core", "fold_sign", "value"),
    ("lut_core", "clip_high", "value"),
    ("mac_core", "zero_point_sign", "value"),
    ("mac_core", "k_steps_short", "value"),
    ("mac_core", "job_ready_late", "cycles"),
    ("mac_core", "reset_forgets_stage", "value"),
    ("mac_core", "result_dropped", "protocol"),
    ("mac_core", "booth_odd_sign", "value"),
    ("bitserial_core", "shift_every_pair", "value"),
    ("bitserial_core", "idle_takes_steps", "cycles"),
    ("bitserial_core", "signs_or", "value"),
    ("bitserial_core", "next_ignores_mask", "value"),
    ("mx_core", "tail_overrun", "protocol"),
    ("mx_core", "tie_up", "value"),
    ("mx_core", "below_off", "value"),
    ("mx_core", "running_over", "value"),
    ("mx_core", "nan_of_w", "value"),
    ("scale_accumulate", "group_wait_long", "cycles"),
    ("scale_accumulate", "even_ties", "value"),
    ("requantize", "fix_sticky", "value"),
    ("sram_lut_gemv", "never_hits", "cycles"),
    ("sram_lut_gemv", "counts_in_binary", "value"),
    ("sram_lut_gemv", "drain_overrun", "value"),
)

# Parts of integer cores that a core has its own of.
OWN = {
    "mx_core": {entry.COLUMN, entry.ACCUMULATOR},
    "fp_core": {entry.COLUMN, entry.ACCUMULATOR, entry.CUTS},
    "sram_lut_gemv": {entry.SHELL, entry.COLUMN, entry.ACCUMULATOR, entry.CUTS},
}


def named(core: str, name: str) -> Mutant:
    (found,) = [item for item in mutation.mutants() if (item.core, item.name) == (core, name)]
    return found


# What the run must not take for a caught mutant ------------------------------------------------

# Changes the Verilog and nothing else; see the comment at ``_ALSO``.
HARMLESS = replace(named("mac_core", "reset_forgets_stage"), name="harmless", also=())
# Text that Verilator does not take.
REFUSED = replace(
    named("mac_core", "full_adder_carry"), name="refused", new="assign co = (a & b | (a & c);"
)
# A change of the generator that does not reach the Verilog.
UNCHANGED = replace(
    named("mac_core", "digit_sign"), name="unchanged", new="positive.eq( ~digit.negative)"
)
# A change that the generator itself stumbles over.
BROKEN = replace(named("mac_core", "digit_sign"), name="broken", new="positive.eq(no_such_name)")
# Text that the sources do not have (any more), or have more than once.
GONE = replace(named("mac_core", "digit_sign"), name="gone", old="no such text anywhere")
TWICE = replace(named("mac_core", "digit_sign"), name="twice", old="Signal(")


# The list --------------------------------------------------------------------------------------


@pytest.mark.parametrize("core", mutation.CORES)
def test_every_mutant_applies_to_exactly_one_place_of_the_sources(core: str) -> None:
    chosen = [item for item in mutation.mutants() if item.core == core]
    for mutant in chosen:
        # Raises where the text before is not there once; what comes out is Python still.
        compile(mutation.mutated_source(mutant), mutant.name, "exec")


@pytest.mark.parametrize("core", mutation.CORES)
def test_the_list_is_long_and_wide(core: str) -> None:
    chosen = [item for item in mutation.mutants() if item.core == core]
    names = [item.name for item in chosen]
    assert len(names) == len(set(names)) >= 30
    changes = {(item.module, item.old, item.new, item.spec) for item in chosen}
    assert len(changes) == len(chosen)
    # The block itself, and every specification has its use.
    modules = {item.module for item in chosen}
    assert any(module.startswith(f"hw.blocks.{core}.") for module in modules)
    assert {item.spec for item in chosen} == set(mutation.SPECS[core])
    if block(core).kind != "gemm":
        return
    # Control, accumulators and heaps of what every core is made of.
    shared = {entry.SHELL, entry.COLUMN, entry.ACCUMULATOR, entry.HEAP, entry.CUTS}
    assert modules >= shared - OWN.get(core, set())
    if core in OWN:
        return
    kinds = ("reset_", "addend_", "accumulator_", "zero", "sign", "order", "_short")
    for kind in kinds:
        assert any(kind in name for name in names), kind


@pytest.mark.parametrize(("mutant", "count"), [(GONE, "0"), (TWICE, r"\d+")])
def test_a_mutant_that_does_not_apply_is_said(mutant: Mutant, count: str) -> None:
    with pytest.raises(MutantError, match=rf"^hw\.blocks\.mac_core\.rtl: {count} places instead"):
        mutation.mutated_source(mutant)


# Outcomes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("core", "name", "kind"), SAMPLE)
def test_a_sample_is_caught(core: str, name: str, kind: str) -> None:
    outcome = mutation.try_mutant(named(core, name))
    assert (outcome.status, outcome.kind) == ("caught", kind), outcome
    assert outcome.good


@pytest.mark.parametrize(
    ("mutant", "status", "words"),
    [
        (HARMLESS, "survived", "nothing noticed it"),
        (REFUSED, "invalid", "syntax error"),
        (UNCHANGED, "invalid", "the emitted Verilog is unchanged"),
        (BROKEN, "invalid", "does not elaborate: NameError: name 'no_such_name' is not defined"),
        (GONE, "invalid", "0 places instead of one have 'no such text anywhere'"),
    ],
    ids=lambda value: value.name if isinstance(value, Mutant) else None,
)
def test_what_is_not_caught_is_not_counted(mutant: Mutant, status: str, words: str) -> None:
    outcome = mutation.try_mutant(mutant)
    assert outcome.status == status
    assert words in outcome.words
    assert not outcome.good


def test_an_unchanged_design_that_fails_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    good = mutation.original_verilog("mac_core", "bipolar")
    wrong = good.replace("assign s = a ^ b ^ c;", "assign s = a ^ b;")
    assert wrong != good
    monkeypatch.setattr(mutation, "original_verilog", lambda core, name: wrong)
    outcome = mutation.try_original("mac_core", "bipolar")
    assert (outcome.status, outcome.kind, outcome.good) == ("failed", "value", False)


# The command -----------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, chosen: tuple[Mutant, ...], *words: str) -> Result:
    monkeypatch.setattr(mutation, "mutants", lambda: chosen)
    return CliRunner().invoke(mutation.mutation, ["--jobs", "1", *words])


def test_the_table_and_the_summary_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    caught = named("mac_core", "step_constant")
    result = run(monkeypatch, (caught, GONE, UNCHANGED))
    assert result.exit_code == 1
    rows = {line.split()[1]: line for line in result.stdout.splitlines()[2:6]}
    assert list(rows) == ["(unchanged)", "step_constant", "gone", "unchanged"]
    assert " passed " in rows["(unchanged)"]
    assert caught.what in rows["step_constant"]
    assert rows["step_constant"].split("caught")[1].split()[:3] == ["value", "seed", "0,"]
    assert " invalid " in rows["gone"]
    line = "mac_core: 1 of 3 mutants caught (by value 1), 1 of 1 unchanged designs passed"
    assert line in result.stdout.splitlines()
    assert "mac_core: unchanged (twos): invalid: the emitted Verilog is unchanged" in result.stderr
    assert "mac_core: gone (twos): invalid: " in result.stderr
    assert "step_constant" not in result.stderr


def test_the_run_ends_well_when_every_mutant_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, (named("mac_core", "step_constant"),), "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["counts"] == {"mac_core": {"mutants": 1, "caught": 1, "designs": 1, "passed": 1}}
    original, mutant = report["outcomes"]
    assert (original["status"], original["kind"]) == ("passed", "")
    assert (mutant["name"], mutant["status"], mutant["kind"]) == (
        "step_constant",
        "caught",
        "value",
    )


def test_the_list_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(mutation.mutation, ["--list", "--core", "lut_core"])
    assert result.exit_code == 0
    assert "the sign plane is never negated" in result.stdout
    assert "mac_core" not in result.stdout


def test_a_name_that_no_mutant_has_is_refused() -> None:
    result = CliRunner().invoke(mutation.mutation, ["--name", "no such name"])
    assert result.exit_code == 2
    assert result.stderr == "--name: no mutant has 'no such name' in its name\n"


@pytest.mark.nightly
@pytest.mark.parametrize("core", mutation.CORES)
def test_every_mutant_is_caught(core: str) -> None:
    result = CliRunner().invoke(mutation.mutation, ["--core", core, "--jobs", "1", "--json"])
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    mutants = [item for item in report["outcomes"] if item["name"] != "(unchanged)"]
    assert len(mutants) == report["counts"][core]["caught"] >= 30
    assert {item["kind"] for item in mutants} <= set(BY_BEHAVIOUR)
