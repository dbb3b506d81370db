"""Formal proofs: the quick ones hold, and every kind of proof fails on hardware that is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hw.block import block
from hw.gemm import GemmSpec, GemmWork, Job, activation_bits
from rtl_gen.build import verilog
from rtl_gen.errors import InputError, ToolError
from sim import mutation
from sim.formal import Monitor, Proof, Row, catalogue, cones, datapath, jobs, proofs, prove, steps
from sim.formal.__main__ import formal
from sim.mutants import entry
from sim.source import streams

DAILY_PARTS = ("streams", "cones", "jobs")
DAILY = {
    ("lut_core", "serial", "cycles"),
    ("lut_core", "planes_2", "cycles"),
    ("lut_core", "float_running", "cycles"),
    ("mac_core", "zero", "cycles"),
    ("mac_core", "twos", "cycles"),
    ("lut_core", "unsigned 1×w2", "product"),
    ("lut_core", "unsigned_2_steps 2×w2", "product"),
    ("lut_core", "unsigned_parallel 1×w1", "product"),
    ("lut_core", "unsigned_addend 1×w2+c", "product"),
    ("lut_core", "twos_symmetric 1×w2", "product"),
    ("lut_core", "bipolar 1×w2", "product"),
    ("lut_core", "ternary 1×w2", "product"),
    ("lut_core", "base3 1×w2", "product"),
    ("mac_core", "unsigned_addend 1×w2+c", "product"),
    ("lut_core", "piped_2_steps 2×w1+c stalls", "product"),
    ("mac_core", "piped_2_steps 2×w1+c stalls", "product"),
    ("mac_core", "tile 1×w1+c", "product"),
    ("mac_core", "twos_piped 1×w3", "product"),
    ("mac_core", "bipolar 1×w2", "product"),
    ("bitserial_core", "even", "cycles"),
    ("bitserial_core", "unsigned 1×a2w2 a10 w11", "product"),
    ("bitserial_core", "zero_addend 1×a2w2+c", "product"),
    ("bitserial_core", "zero_addend 1×a2w2 a0 w11+c stalls", "product"),
    ("bitserial_core", "twos 1×a2w2", "product"),
    ("bitserial_core", "twos_gap 1×a3w2 a101 w10", "product"),
    ("bitserial_core", "bipolar 1×a2w2", "product"),
    ("bitserial_core", "mixed 1×a2w2 a1", "product"),
    ("bitserial_core", "tile 1×a2w1+c", "product"),
    ("lut_core", "unsigned", "steps"),
    ("lut_core", "bipolar", "steps"),
    ("mac_core", "twos_steps", "steps"),
}
"""What every run of the tests proves; `make formal` and the nightly tests prove the rest."""

NIGHTLY_CONTROL = {
    *(("bitserial_core", name) for name in ("twos", "odd", "wide")),
    *(("mx_core", name) for name in ("powers", "infinite")),
    *(("quantize", name) for name in ("mx", "mxint", "tiny", "nvfp", "nvint")),
    ("pim_channel", "plain"),
}
"""Specifications whose control is left to the nightly tests."""

QUICK = list(proofs())
THOROUGH = list(proofs(thorough=True))


def label(proof: Proof) -> str:
    return f"{proof.core}-{proof.name}-{proof.part}".replace(" ", "_")


def key(proof: Proof) -> tuple[str, str, str]:
    return proof.core, proof.name, proof.part


def daily(proof: Proof) -> bool:
    control = proof.part in DAILY_PARTS and (proof.core, proof.name) not in NIGHTLY_CONTROL
    return control or key(proof) in DAILY


def hold(rows: Sequence[Row]) -> None:
    assert rows
    wrong = [f"{row.name}: {row.result}: {row.reason}\n" + "\n".join(row.trace) for row in rows]
    assert all(row.good for row in rows), "\n".join(wrong)


def test_daily_proofs_exist() -> None:
    assert {key(proof) for proof in QUICK} >= DAILY
    assert len({label(proof) for proof in THOROUGH}) == len(THOROUGH)


def nightly(*values: object) -> Any:
    """A case that only the nightly tests try."""
    return pytest.param(*values, marks=pytest.mark.nightly)


@pytest.mark.parametrize("proof", [item for item in QUICK if daily(item)], ids=label)
def test_proof(proof: Proof) -> None:
    hold(proof.run())


@pytest.mark.nightly
@pytest.mark.parametrize(
    "proof",
    [item for item in THOROUGH if item.name.endswith(".yaml") or not daily(item)],
    ids=label,
)
def test_thorough_proof(proof: Proof) -> None:
    hold(proof.run())


def test_proofs_reach_every_encoding_form_and_register() -> None:
    shown = [proof.spec for proof in QUICK if proof.part in ("product", "steps")]
    gemm = [spec for spec in shown if isinstance(spec, GemmSpec)]
    integers = {"unsigned", "twos_complement"}
    planes = {*integers, "bipolar"}
    for core, activations, weights in (
        ("lut_core", integers, {*planes, "ternary"}),
        ("mac_core", integers, {*planes, "ternary"}),
        ("bitserial_core", planes, planes),
    ):
        own = [spec for spec in gemm if spec.block == core]
        assert {spec.activations.code for spec in own} == activations
        assert {spec.weight_encoding for spec in own} == weights
        assert {spec.addend for spec in own} == {False, True}
        assert {spec.pipeline.heap for spec in own} >= {0, 1}
        assert max(spec.tile.n for spec in own) > 1
        assert max(spec.tile.m for spec in own) > 1


# Hardware that is wrong.


def mutant(name: str, core: str, spec: str = "") -> mutation.Mutant:
    found = next(m for m in mutation.mutants() if m.name == name and m.core == core)
    return replace(found, spec=spec or found.spec)


def change(
    old: str,
    new: str,
    core: str = "lut_core",
    spec: str = "serial",
    module: str = entry.SHELL,
) -> mutation.Mutant:
    return mutation.Mutant(
        name="change", what="", core=core, spec=spec, module=module, old=old, new=new
    )


def pairs(old: str, new: str, spec: str) -> mutation.Mutant:
    """A change of the order of pairs of planes."""
    return change(old, new, "bitserial_core", spec, "hw.blocks.bitserial_core.passes")


SMALL = {
    core: {item.name: item.data for item in catalogue.SMALL if item.core == core}
    for core in ("lut_core", "mac_core", "bitserial_core")
}


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutants of the instances whose arithmetic is proven."""
    for core, specs in SMALL.items():
        monkeypatch.setitem(mutation.SPECS, core, {**mutation.SPECS[core], **specs})


def rows_of(
    broken: mutation.Mutant, part: str, job: Job | None = None, *, stalls: bool = False
) -> list[Row]:
    """The rows of a proof on a mutant."""
    spec = mutation.specification(broken.core, broken.spec)
    proof = Proof(core=broken.core, name=broken.spec, part=part, spec=spec, job=job, stalls=stalls)
    return proof.run(mutation.mutated_verilog(broken))


def refuted(rows: Sequence[Row]) -> dict[str, Row]:
    """What a proof refuted; nothing that was not decided counts as proven."""
    found = {row.name: row for row in rows if row.result == "refuted"}
    assert found
    return found


@pytest.mark.parametrize(
    ("name", "core", "part", "check"),
    [
        nightly("payload_changes", "lut_core", "streams", "payload_holds_o"),
        ("result_dropped", "lut_core", "streams", "valid_holds_o"),
        ("reset_forgets_result", "mac_core", "streams", "reset_empties_o"),
        ("reset_forgets_w", "lut_core", "streams", "reset_idles_i_w"),
        ("w_used_twice", "mac_core", "jobs", "order_i_w"),
        ("a_accept_while_full", "lut_core", "jobs", "exact_i_a"),
        ("addend_ready_always", "lut_core", "jobs", "asked_i_c"),
        ("addend_not_awaited", "mac_core", "jobs", "spent_i_c"),
        nightly("result_repeated", "mac_core", "jobs", "spent_i_c"),
        ("stage_bubble", "mac_core", "jobs", "no_bubble"),
        ("out_free_late", "lut_core", "cycles", "cycles"),
        ("job_never_ends", "mac_core", "cycles", "cycles"),
    ],
)
def test_control_that_is_wrong_is_refuted(core: str, name: str, part: str, check: str) -> None:
    rows = rows_of(mutant(name, core), part)
    found = refuted(rows)
    row = found[check]
    # The last line is the first cycle that is wrong.
    assert f"fails in cycle {len(row.trace)}: " in row.reason
    assert row.depth == len(row.trace)
    assert row.trace[0].startswith("cycle 1: rst=1, i_job valid=")


@pytest.mark.parametrize(
    ("broken", "part", "check"),
    [
        (pairs("idle.eq(~left.any())", "idle.eq(0)", "twos"), "jobs", "ahead_i_w"),
        (pairs("idle | ~steps_left.any()", "~steps_left.any()", "twos"), "cycles", "cycles"),
        (pairs("last_pair.eq(~rest.any())", "last_pair.eq(1)", "odd"), "jobs", "order_i_a"),
        nightly(pairs("left.eq(a_planes & partners[1 : 1 + a_bits])",
                      "left.eq(partners[1 : 1 + a_bits])", "twos"), "jobs", "ahead_i_a"),
        nightly(pairs("with m.If(empty):", "with m.If(Const(0, 1)):", "twos"),
                "jobs", "idle_steps"),
        nightly(change("fire if steps.idle is None else fire & ~steps.idle", "fire",
                       "bitserial_core", "twos"), "jobs", "ahead_i_a"),
    ],
    ids=["idle_waits", "idle_long", "pair_left_out", "mask_ignored", "nothing_long", "idle_takes"],
)  # fmt: skip
def test_order_of_pairs_that_is_wrong_is_refuted(
    broken: mutation.Mutant, part: str, check: str
) -> None:
    assert check in refuted(rows_of(broken, part))


def test_counter_example_shows_the_ports() -> None:
    row = refuted(rows_of(mutant("payload_changes", "lut_core"), "streams"))["payload_holds_o"]
    pattern = r"o valid=(\d) ready=(\d)(?: \{o=(.*?)\})?$"
    before, last = (re.search(pattern, line) for line in row.trace[-2:])
    assert before is not None
    assert last is not None
    assert before.group(1, 2) == ("1", "0"), "the result stalls"
    assert last[1] == "1"
    shape = np.array(json.loads(last[3])).shape
    assert shape == (2, 2), "payloads are shown by field"
    assert before[3] != last[3], "and changes"


@pytest.mark.parametrize(
    ("broken", "check", "words"),
    [
        (
            change("operand.ready.eq(~a_full | a_move)",
                   "operand.ready.eq((~a_full | a_move) & operand.valid)"),
            "ready_alone_i_a",
            "i_a__ready depends on i_a__valid: i_a__ready <- i_a__valid",
        ),
        (
            change("m.d.comb += out.payload.eq(Cat(*words))",
                   "m.d.comb += out.payload.eq(Cat(*words) & out.ready.replicate(32))"),
            "registered_o",
            "o__payload depends on o__ready: o__payload",
        ),
        (
            # Data that decides when: a weight of zero makes its beat count as none.
            change("w_full.eq(w_load | (w_full & ~take))",
                   "w_full.eq((w_load & weights.payload[0]) | (w_full & ~take))"),
            "timing_blind",
            "i_w__ready depends on i_w__payload: i_w__ready <- w_full <- i_w__payload[0]",
        ),
    ],
    ids=["ready_waits_for_valid", "payload_follows_ready", "data_decides_when"],
)  # fmt: skip
def test_dependence_is_found_with_its_path(broken: mutation.Mutant, check: str, words: str) -> None:
    found = refuted(rows_of(broken, "cones"))
    assert set(found) == {check}
    assert words in found[check].reason


ONE = Job(k_steps=1, weight_bits=2)


@pytest.mark.parametrize(
    ("name", "core", "spec", "check"),
    [
        ("sign_plane_positive", "lut_core", "twos", "product"),
        ("shift_missing", "lut_core", "twos", "product"),
        ("zero_carry_missing", "lut_core", "unsigned", "product"),
        ("addend_less_one", "lut_core", "unsigned_addend", "product"),
        ("fold_sign", "lut_core", "twos_symmetric", "product"),
        nightly("corrections_swapped", "lut_core", "unsigned_symmetric", "product"),
        ("parity_carry_dropped", "lut_core", "bipolar_2_steps", "product"),
        ("ternary_sign", "lut_core", "ternary", "product"),
        ("base3_order", "lut_core", "base3", "product"),
        nightly("columns_swapped", "lut_core", "unsigned_columns", "product"),
        ("digit_sign", "mac_core", "twos_steps", "product"),
        ("zero_point_sign", "mac_core", "unsigned", "product"),
        ("bipolar_top", "mac_core", "bipolar", "product"),
        ("passes_long", "lut_core", "twos", "cycle"),
    ],
)
@pytest.mark.usefixtures("_small")
def test_arithmetic_that_is_wrong_is_refuted(name: str, core: str, spec: str, check: str) -> None:
    # Where a pass too many is the fault, the narrowest weights show it.
    job = replace(ONE, weight_bits=1) if check == "cycle" else ONE
    if spec.endswith("_2_steps"):
        job = replace(ONE, k_steps=2)
    found = refuted(rows_of(mutant(name, core, spec), "product", job))
    assert any(item.startswith(check) for item in found)
    (row, *_) = found.values()
    assert re.search(r"want_0_0=\d+", row.trace[-1]) is not None


HOLD_FOR_SHIFT = replace(
    change('"hold": steps.hold,', '"hold": steps.shift,', "bitserial_core", "twos"),
    also=(('"shift": steps.shift,', '"shift": steps.hold,'),),
)
GAP = Job(k_steps=1, weight_bits=2, activation_bits=3, a_planes=0b101, w_planes=0b10)
PAIR = Job(k_steps=1, weight_bits=2, activation_bits=2)


@pytest.mark.parametrize(
    ("broken", "job", "checks"),
    [
        (HOLD_FOR_SHIFT, PAIR, {"product_0_0"}),
        (pairs("idle.eq(~left.any())", "idle.eq(0)", "twos_gap"), GAP, {"cycle"}),
        nightly(pairs("shift=fresh & ~first_sum", "shift=first_step & ~first_sum", "twos"), PAIR,
         {"product_0_0"}),
        nightly(pairs("now & w_sign[:a_bits]", "now & w_sign[1 : 1 + a_bits]", "twos"), PAIR,
         {"product_0_0"}),
        (pairs("now = left & ~rest", "now = left", "zero"), PAIR, {"product_0_0"}),
        nightly(change("negative = negative ^ held[\"z\"]", "negative = negative | held[\"z\"]",
                "bitserial_core", "zero", "hw.blocks.bitserial_core.rtl"), PAIR, {"product_0_0"}),
        (change("a ^ w if plan.both else a & w", "a ^ w", "bitserial_core", "mixed",
                "hw.blocks.bitserial_core.rtl"), PAIR, {"product_0_0"}),
    ],
    ids=["hold_for_shift", "idle_left_out", "shift_every_pair", "sign_late", "sign_of_all",
         "zero_point_or", "differ_for_and"],
)  # fmt: skip
@pytest.mark.usefixtures("_small")
def test_products_of_planes_that_are_wrong_are_refuted(
    broken: mutation.Mutant, job: Job, checks: set[str]
) -> None:
    found = refuted(rows_of(broken, "product", job))
    assert set(found) >= checks


@pytest.mark.parametrize("core", ["lut_core", "mac_core"])
@pytest.mark.parametrize(
    ("name", "spec", "k_steps", "stalls"),
    [
        ("cut_enable_stuck", "piped_2_steps", 2, True),
        nightly("rows_swapped", "tile", 1, False),
        nightly("columns_swapped", "tile", 1, False),
        ("one_weight_for_all", "tile", 1, False),
        ("addend_transposed", "tile", 1, False),
    ],
)
@pytest.mark.usefixtures("_small")
def test_values_that_go_astray_are_refuted(
    core: str, name: str, spec: str, k_steps: int, stalls: bool
) -> None:
    job = Job(k_steps=k_steps, weight_bits=1, accumulate=True)
    found = refuted(rows_of(mutant(name, core, spec), "product", job, stalls=stalls))
    assert any(item.startswith("product_") for item in found)


@pytest.mark.parametrize(
    ("name", "core", "spec"),
    [
        ("sign_plane_positive", "lut_core", "twos"),
        ("shift_every_step", "lut_core", "twos"),
        nightly("hold_swapped", "lut_core", "ternary"),
        nightly("a_load_without_ready", "lut_core", "twos"),
        nightly("accumulator_not_held", "lut_core", "twos"),
        nightly("corrections_swapped", "lut_core", "unsigned_symmetric"),
        ("parity_not_cleared", "lut_core", "bipolar"),
        nightly("bipolar_even", "mac_core", "bipolar"),
        ("w_load_without_ready", "mac_core", "bipolar"),
        ("hold_swapped", "mac_core", "bipolar"),
    ],
)
@pytest.mark.usefixtures("_small")
def test_steps_that_are_wrong_are_refuted(name: str, core: str, spec: str) -> None:
    found = refuted(rows_of(mutant(name, core, spec), "steps"))
    assert any(item.startswith(("sum_", "h_")) for item in found)


CONTROL = (entry.SHELL, entry.PASSES, "hw.blocks.bitserial_core.passes")


@pytest.mark.nightly
@pytest.mark.parametrize(
    "broken",
    [m for m in mutation.mutants() if m.module in CONTROL and m.name not in (
        # These are about values, not about when and how often; the arithmetic's proofs are.
        "shift_every_pair", "shift_never", "shift_first_sum", "hold_always", "first_sum_stays",
        "a_sign_lost", "w_sign_lost", "signs_or", "w_sign_stays", "w_sign_unaligned",
        "sign_of_all_left", "pair_order",
        "hold_swapped", "shift_first_pass", "shift_every_step", "first_pass_stays",
        "a_load_without_ready", "w_load_without_ready", "columns_swapped", "rows_swapped",
        "one_weight_for_all", "addend_transposed", "cut_enable_stuck", "pass_kinds_swapped",
        "parity_carry_dropped", "parity_carry_always", "parity_not_cleared",
    )],
    ids=lambda m: f"{m.core}-{m.name}",
)  # fmt: skip
def test_every_mutant_of_the_control_is_refuted(broken: mutation.Mutant) -> None:
    rows = [row for part in ("streams", "jobs", "cycles") for row in rows_of(broken, part)]
    refuted(rows)


# The machinery.


def small(core: str, name: str) -> Proof:
    return next(p for p in QUICK if p.core == core and p.name == name and p.part == "jobs")


def test_without_helpers_nothing_is_claimed() -> None:
    """An induction that does not carry is reported as open, never as proven."""
    spec = small("mac_core", "bipolar").spec
    assert isinstance(spec, GemmSpec)
    monitor = jobs.job_rules(spec)
    text = monitor.text
    for name in monitor.helpers:
        text = text.replace(f"always @* assert(ok_{name});\n", "")
    weak = replace(monitor, text=text, helpers={})
    result = prove.induction(verilog(spec), weak, spec.name, depth=2, search=6)
    assert result.status == prove.OPEN
    assert not result.holds
    assert "no induction up to 2 cycles for " in result.reason
    assert "no counter-example within 6 cycles of reset" in result.reason


@pytest.mark.parametrize("method", ["induction", "bounded"])
def test_assumptions_that_nothing_meets_prove_nothing(method: str) -> None:
    spec = small("mac_core", "bipolar").spec
    assert isinstance(spec, GemmSpec)
    monitor = jobs.job_rules(spec)
    void = replace(
        monitor, text=monitor.text.replace("endmodule", "always @* assume(!o__valid);\nendmodule")
    )
    if method == "induction":
        result = prove.induction(verilog(spec), void, spec.name)
    else:
        result = prove.bounded(verilog(spec), void, spec.name, cycles=5)
    assert result.status == prove.OPEN
    assert result.reason.startswith("proven of nothing: no run gives within ")


def test_missing_probe_is_an_error() -> None:
    spec = small("mac_core", "bipolar").spec
    assert isinstance(spec, GemmSpec)
    monitor = jobs.job_rules(spec)
    wrong = replace(monitor, probes={**monitor.probes, "p_active": "no_such_net"})
    with pytest.raises(ToolError, match="no_such_net"):
        prove.induction(verilog(spec), wrong, spec.name)


def test_reset_is_from_every_state() -> None:
    """A register that keeps its value through reset is found although power-on clears it."""
    text = """
module keeps(input clk, input rst, input [3:0] i__payload, input i__valid, output i__ready,
             output [3:0] o__payload, output o__valid, input o__ready);
  reg full; reg [3:0] data;
  assign i__ready = ~full | o__ready;
  assign o__valid = full;
  assign o__payload = data;
  always @(posedge clk) begin
    if (i__ready) full <= i__valid;
    if (i__ready & i__valid) data <= i__payload;
    RESET
  end
endmodule
"""
    from hw.streams import Stream, StreamField
    from sim.formal.rules import stream_rules

    ports = tuple(
        Stream(name=name, direction=direction, fields=(StreamField(name="x", width=4),))
        for name, direction in (("i", "in"), ("o", "out"))
    )
    monitor = stream_rules("keeps", ports, latency=2)
    good = prove.induction(text.replace("RESET", "if (rst) full <= 0;"), monitor, "keeps")
    assert good.status == prove.PROVEN
    bad = prove.induction(text.replace("RESET", "if (rst & i__valid) full <= 0;"), monitor, "keeps")
    assert bad.status == prove.REFUTED
    assert bad.failed in (
        ("reset_empties_o",),
        ("reset_idles_i",),
        ("reset_empties_o", "reset_idles_i"),
    )


def test_ready_depends_on_what_the_docs_say() -> None:
    proof = small("lut_core", "serial")
    netlist = cones.Netlist(verilog(proof.spec), proof.spec.name)
    assert cones.ready_inputs(netlist, streams(proof.spec)) == {
        "i_job": ("i_c__valid", "o__ready"),
        "i_a": ("i_c__valid", "o__ready"),
        "i_w": ("i_c__valid", "o__ready"),
        "i_c": ("o__ready",),
    }


REFERENCES = [
    proof for proof in QUICK if proof.part == "product" and key(proof) in DAILY and not proof.stalls
] + [p for p in QUICK if p.name.startswith(("int8_entries", "tables_at_port", "unsigned_columns"))]


@pytest.mark.parametrize("proof", REFERENCES, ids=label)
def test_reference_packs_and_multiplies_as_the_golden_model(proof: Proof) -> None:
    """With operands fixed, beats and results of the monitor are those of the golden model."""
    spec, job = proof.spec, proof.job
    assert isinstance(spec, GemmSpec)
    assert job is not None
    golden = block(spec.block).golden
    rng = np.random.default_rng(7)
    work = golden.random_operands(spec, rng, job)  # type: ignore[attr-defined]
    if getattr(spec, "quantized", False):
        work = replace(work, extra={"entry_shift": np.array(0)})
    work = without_planes(spec, work)
    monitor = fixed(datapath.product_rules(spec, job), spec, work)
    cycles = datapath.due_cycles(spec, job)
    result = prove.bounded(verilog(spec), monitor, spec.name, cycles=cycles)
    assert result.holds, result.reason


def without_planes(spec: GemmSpec, work: GemmWork) -> GemmWork:
    """The operands with planes zero that the job leaves out."""
    job = work.job

    def kept(values: np.ndarray, code: str, mask: int | None, bits: int) -> np.ndarray:
        if mask is None:
            return values
        left = values & mask & ((1 << bits) - 1)
        return left - (left >> (bits - 1) << bits) if code == "twos_complement" else left

    a = kept(work.a, spec.activations.code, job.a_planes, activation_bits(spec, job))
    z = np.zeros(spec.tile.n, dtype=np.int64) if work.z is None else work.z
    # A plane of unsigned weights is zero where it is the zero point's.
    w = kept(work.w ^ z[:, None], spec.weight_encoding, job.w_planes, job.weight_bits)
    return replace(work, a=a, w=w ^ z[:, None])


def fixed(monitor: Monitor, spec: GemmSpec, work: GemmWork) -> Monitor:
    """The monitor of a job with its operands given, and checks of what the golden model says."""
    golden = block(spec.block).golden
    job = work.job
    bits = 2 if spec.weight_encoding == "ternary" else job.weight_bits
    values: dict[str, int] = {}
    for name, operand, code, width in (
        ("a", work.a, spec.activations.code, activation_bits(spec, job)),
        ("w", work.w, spec.weight_encoding, bits),
    ):
        for (row, i), number in np.ndenumerate(operand):
            value = (int(number) + (1 << width) - 1) // 2 if code == "bipolar" else int(number)
            values[f"{name}_{row}_{i}"] = value
    if work.z is not None:
        values |= {f"q_{column}": int(z) for column, z in enumerate(work.z)}
    if work.c is not None:
        values |= {f"c_{row}_{column}": int(c) for (row, column), c in np.ndenumerate(work.c)}

    def given(match: re.Match[str]) -> str:
        width, name = int(match[1]) + 1, match[2]
        return f"(* keep *) wire [{width - 1}:0] {name} = {width}'d{values[name] % (1 << width)};"

    text, count = re.subn(r"\(\* keep, anyconst \*\) reg \[(\d+):0\] (\w+);", given, monitor.text)
    assert count == len(values)
    wires = {}
    beats = golden.beats(spec, work)
    for stream in streams(spec):
        if stream.direction == "in":
            for index, raw in enumerate(stream.pack(beats[stream.name])):
                number = int.from_bytes(raw.tobytes(), "little")
                wires[f"beat_{stream.name}_{index}"] = (
                    f"!({stream.name}__valid & n_{stream.name} == {index})"
                    f" | {stream.name}__payload == {stream.width}'h{number:x}"
                )
    owed = job.k_steps * spec.job_passes(job)
    assert sum(name.startswith("beat_i_w") for name in wires) == owed
    for (row, column), value in np.ndenumerate(golden.expected(spec, work)["o"]["o"][0]):
        width = spec.result_bits
        wires[f"want_{row}_{column}"] = (
            f"want_{row}_{column}[{width - 1}:0] == {width}'d{int(value) % (1 << width)}"
        )
    added = "".join(
        f"(* keep *) wire ok_{name} = {value};\nalways @* assert(ok_{name});\n"
        for name, value in wires.items()
    )
    checks = {**monitor.checks, **dict.fromkeys(wires, "as the golden model")}
    return replace(
        monitor, text=text.removesuffix("endmodule\n") + added + "endmodule\n", checks=checks
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"pipeline": {"front": 1, "heap": 0}}, "without extra registers"),
        ({"table": {"group": 2, "entries": "int8"}}, "exact entries"),
        ({"weights": {"encoding": "ternary", "packing": "base3"}}, "base3"),
    ],
)
def test_steps_say_what_they_cannot_show(data: dict[str, object], words: str) -> None:
    spec = catalogue.proof(
        "lut_core", "odd", "steps", {"tile": {"m": 1, "n": 1, "k": 2}, **data}
    ).spec
    assert isinstance(spec, GemmSpec)
    with pytest.raises(InputError, match=words):
        steps.step_rules(spec)


def test_steps_are_not_shown_of_a_core_whose_digits_are_not_described() -> None:
    spec = small("bitserial_core", "even").spec
    assert isinstance(spec, GemmSpec)
    with pytest.raises(InputError, match="the digits of bitserial_core are not described"):
        steps.step_rules(spec)


def test_wide_masks_get_no_proof_that_would_not_end() -> None:
    data = {"activations": {"max_bits": 8}, "weights": {"max_bits": 8}}
    wide = catalogue.proof("bitserial_core", "wide", "streams", data).spec
    assert catalogue._control_parts(wide) == ("streams", "cones")
    found = {
        proof.part for proof in QUICK if (proof.core, proof.name) == ("bitserial_core", "zero")
    }
    assert found == {"streams", "cones", "jobs", "cycles"}


# The command.


def test_command_reports_as_json() -> None:
    done = CliRunner().invoke(formal, ["--core", "lut_tables", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["proven"] == report["properties"] == len(report["rows"]) == 6
    assert set(report["tools"]) == {"pyosys"}
    names = {row["name"] for row in report["rows"]}
    assert names >= {"payload_holds_o", "reset_empties_o", "registered_o", "ready_alone_i_a"}


def test_command_tabulates() -> None:
    done = CliRunner().invoke(formal, ["--core", "lut_tables", "--part", "streams"])
    assert done.exit_code == 0, done.output
    assert re.search(r"lut_tables +tables +streams +4 proven +induction, 1 deep", done.stdout)
    assert re.search(r"^4 of 4 properties proven in 1 proofs", done.stdout, re.M)


def test_command_refuses_a_name_that_is_none() -> None:
    done = CliRunner().invoke(formal, ["--name", "nothing_like_it"])
    assert done.exit_code == 2
    assert done.stderr == (
        "--name: no proof is about a specification with 'nothing_like_it' in its name\n"
    )


def test_command_fails_with_the_counter_example(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = mutant("result_dropped", "mac_core")
    source = mutation.mutated_verilog(broken)

    class Broken(Proof):
        def run(self, given: str | None = None) -> list[Row]:
            return super().run(source)

    spec = mutation.specification("mac_core", broken.spec)
    proof = Broken(core="mac_core", name="broken", part="streams", spec=spec)
    monkeypatch.setattr("sim.formal.__main__.proofs", lambda core, thorough: [proof])
    done = CliRunner().invoke(formal, [])
    assert done.exit_code == 1
    assert "valid_holds_o refuted" in done.stdout
    first, *trace = done.stderr.splitlines()
    assert first.startswith("mac_core broken: valid_holds_o: refuted: fails in cycle ")
    assert trace[0].startswith("  cycle 1: rst=1, ")
