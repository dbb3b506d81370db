"""Formal proofs: the quick ones hold, and every kind of proof fails on hardware that is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from hw.block import block
from hw.gemm import GemmSpec, GemmWork, Job, passes
from rtl_gen.build import verilog
from rtl_gen.errors import InputError, ToolError
from sim import mutation
from sim.formal import Monitor, Proof, Row, catalogue, cones, datapath, jobs, proofs, prove, steps
from sim.formal.__main__ import formal
from sim.source import streams

DAILY_PARTS = ("streams", "cones", "jobs")
DAILY = {
    ("lut_core", "serial", "cycles"),
    ("lut_core", "planes_2", "cycles"),
    ("mac_core", "zero", "cycles"),
    ("mac_core", "twos", "cycles"),
    ("lut_core", "unsigned 1×w2", "product"),
    ("lut_core", "unsigned_2_steps 2×w2", "product"),
    ("lut_core", "unsigned_parallel 1×w1", "product"),
    ("lut_core", "unsigned_addend 1×w2+c", "product"),
    ("lut_core", "twos_symmetric 1×w2", "product"),
    ("lut_core", "bipolar 1×w2", "product"),
    ("lut_core", "unsigned 1×w2 stalls", "product"),
    ("lut_core", "ternary 1×w2", "product"),
    ("lut_core", "base3 1×w2", "product"),
    ("mac_core", "unsigned_addend 1×w2+c", "product"),
    ("lut_core", "piped_2_steps 2×w1+c stalls", "product"),
    ("mac_core", "piped_2_steps 2×w1+c stalls", "product"),
    ("mac_core", "tile 1×w1+c", "product"),
    ("mac_core", "twos_piped 1×w3", "product"),
    ("mac_core", "bipolar 1×w2", "product"),
    ("lut_core", "unsigned", "steps"),
    ("lut_core", "bipolar", "steps"),
    ("mac_core", "twos_steps", "steps"),
}
"""What every run of the tests proves; `make formal` and the nightly tests prove the rest."""

QUICK = list(proofs())
THOROUGH = list(proofs(thorough=True))


def label(proof: Proof) -> str:
    return f"{proof.core}-{proof.name}-{proof.part}".replace(" ", "_")


def key(proof: Proof) -> tuple[str, str, str]:
    return proof.core, proof.name, proof.part


def daily(proof: Proof) -> bool:
    return proof.part in DAILY_PARTS or key(proof) in DAILY


def hold(rows: Sequence[Row]) -> None:
    assert rows
    wrong = [f"{row.name}: {row.result}: {row.reason}\n" + "\n".join(row.trace) for row in rows]
    assert all(row.good for row in rows), "\n".join(wrong)


def test_daily_proofs_exist() -> None:
    assert {key(proof) for proof in QUICK} >= DAILY
    assert len({label(proof) for proof in THOROUGH}) == len(THOROUGH)


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
    for core in ("lut_core", "mac_core"):
        own = [spec for spec in gemm if spec.block == core]
        encodings = {spec.weight_encoding for spec in own}
        assert encodings == {"unsigned", "twos_complement", "bipolar", "ternary"}
        assert {spec.addend for spec in own} == {False, True}
        assert {spec.pipeline.heap for spec in own} >= {0, 1}
        assert {spec.activations.signed for spec in own} == {False, True}
        assert max(spec.tile.n for spec in own) > 1
        assert max(spec.tile.m for spec in own) > 1


# Hardware that is wrong.


def mutant(name: str, core: str, spec: str = "") -> mutation.Mutant:
    found = next(m for m in mutation.mutants() if m.name == name and m.core == core)
    return replace(found, spec=spec or found.spec)


def change(old: str, new: str, core: str = "lut_core", spec: str = "serial") -> mutation.Mutant:
    return mutation.Mutant(
        name="change", what="", core=core, spec=spec, module=mutation.SHELL, old=old, new=new
    )


SMALL = {
    core: {item.name: item.data for item in catalogue.SMALL if item.core == core}
    for core in ("lut_core", "mac_core")
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
        ("payload_changes", "lut_core", "streams", "payload_holds_o"),
        ("result_dropped", "lut_core", "streams", "valid_holds_o"),
        ("reset_forgets_result", "mac_core", "streams", "reset_empties_o"),
        ("reset_forgets_w", "lut_core", "streams", "reset_idles_i_w"),
        ("w_used_twice", "mac_core", "jobs", "order_i_w"),
        ("a_accept_while_full", "lut_core", "jobs", "exact_i_a"),
        ("addend_ready_always", "lut_core", "jobs", "asked_i_c"),
        ("addend_not_awaited", "mac_core", "jobs", "spent_i_c"),
        ("result_repeated", "mac_core", "jobs", "spent_i_c"),
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
            change("w_full.eq(w_load | (w_full & ~fire))",
                   "w_full.eq((w_load & weights.payload[0]) | (w_full & ~fire))"),
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
        ("corrections_swapped", "lut_core", "unsigned_symmetric", "product"),
        ("parity_carry_dropped", "lut_core", "bipolar_2_steps", "product"),
        ("ternary_sign", "lut_core", "ternary", "product"),
        ("base3_order", "lut_core", "base3", "product"),
        ("columns_swapped", "lut_core", "unsigned_columns", "product"),
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


@pytest.mark.parametrize("core", ["lut_core", "mac_core"])
@pytest.mark.parametrize(
    ("name", "spec", "k_steps", "stalls"),
    [
        ("cut_enable_stuck", "piped_2_steps", 2, True),
        ("rows_swapped", "tile", 1, False),
        ("columns_swapped", "tile", 1, False),
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
        ("hold_swapped", "lut_core", "ternary"),
        ("a_load_without_ready", "lut_core", "twos"),
        ("accumulator_not_held", "lut_core", "twos"),
        ("corrections_swapped", "lut_core", "unsigned_symmetric"),
        ("parity_not_cleared", "lut_core", "bipolar"),
        ("bipolar_even", "mac_core", "bipolar"),
        ("w_load_without_ready", "mac_core", "bipolar"),
        ("hold_swapped", "mac_core", "bipolar"),
    ],
)
@pytest.mark.usefixtures("_small")
def test_steps_that_are_wrong_are_refuted(name: str, core: str, spec: str) -> None:
    found = refuted(rows_of(mutant(name, core, spec), "steps"))
    assert any(item.startswith(("sum_", "h_")) for item in found)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "broken",
    [m for m in mutation.mutants() if m.module == mutation.SHELL and m.name not in (
        # These are about values, not about when and how often; the arithmetic's proofs are.
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
    monitor = fixed(datapath.product_rules(spec, job, catalogue._latency(spec)), spec, work)
    cycles = datapath.due_cycles(spec, job, catalogue._latency(spec))
    result = prove.bounded(verilog(spec), monitor, spec.name, cycles=cycles)
    assert result.holds, result.reason


def fixed(monitor: Monitor, spec: GemmSpec, work: GemmWork) -> Monitor:
    """The monitor of a job with its operands given, and checks of what the golden model says."""
    golden = block(spec.block).golden
    job = work.job
    bits = 2 if spec.weight_encoding == "ternary" else job.weight_bits
    values: dict[str, int] = {}
    for (row, i), a in np.ndenumerate(work.a):
        values[f"a_{row}_{i}"] = int(a)
    for (column, i), w in np.ndenumerate(work.w):
        value = (int(w) + (1 << bits) - 1) // 2 if spec.weight_encoding == "bipolar" else int(w)
        values[f"w_{column}_{i}"] = value
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
    assert sum(name.startswith("beat_i_w") for name in wires) == job.k_steps * passes(
        spec, job.weight_bits
    )
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
