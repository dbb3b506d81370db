"""Mutants of the Hadamard rotation, and the specifications that mutants are tried on."""

from __future__ import annotations

from sim.mutants.entry import Entry, Specs

RTL = "hw.blocks.hadamard.rtl"

SPECS: Specs = {
    "signs": {"size": 4, "bits": 3, "signs": "job", "shift": 2, "registers": 1},
    "plain": {"size": 8, "bits": 4, "registers": 2},
    "half": {"size": 2, "bits": 4, "shift": 1, "registers": 0},
}


def _on(spec: str) -> dict[str, str]:
    return {"hadamard": spec}


_FULL = "full[i].eq(load[i] | (full[i] & ~move[i]))"
_UP = "up.eq(half & (below.any() | whole[0]))"

MUTANTS: tuple[Entry, ...] = (
    ("port_accepts_while_full", RTL, _on("signs"), "beats are taken into a full register",
     "self.i.ready.eq(~full[0] | move[0])", "self.i.ready.eq(1)"),
    ("port_ready_late", RTL, _on("plain"), "a bubble between beats",
     "self.i.ready.eq(~full[0] | move[0])", "self.i.ready.eq(~full[0])"),
    ("load_without_valid", RTL, _on("plain"), "beats are taken that nobody offers",
     "load[0].eq(self.i.valid & self.i.ready)", "load[0].eq(self.i.ready)"),
    ("load_without_ready", RTL, _on("half"), "beats are taken twice",
     "load[0].eq(self.i.valid & self.i.ready)", "load[0].eq(self.i.valid)"),
    ("held_always", RTL, _on("half"), "the port's register is loaded in every cycle",
     "with m.If(load[0]):", "with m.If(Const(1)):"),
    ("stage_stays", RTL, _on("plain"), "a stage never empties",
     _FULL, "full[i].eq(load[i] | full[i])"),
    ("stage_forgets", RTL, _on("plain"), "a stage that waits is emptied",
     _FULL, "full[i].eq(load[i])"),
    ("stage_overrun", RTL, _on("plain"), "a beat runs into one that waits",
     "self.o.ready if i == stages - 1 else ~full[i + 1] | move[i + 1]",
     "self.o.ready if i == stages - 1 else Const(1, 1)"),
    ("stage_bubble", RTL, _on("plain"), "a bubble between stages",
     "else ~full[i + 1] | move[i + 1]", "else ~full[i + 1]"),
    ("result_dropped", RTL, _on("half"), "a result leaves whether taken or not",
     "self.o.ready if i == stages - 1", "Const(1, 1) if i == stages - 1"),
    ("move_without_job", RTL, _on("signs"), "beats go on before their job",
     "move[i].eq(go & ready if i == 0 else go)", "move[i].eq(go)"),
    ("reset_leaves_beats", RTL, _on("plain"), "reset leaves beats behind",
     'Signal(name=f"full_{i}")', 'Signal(name=f"full_{i}", reset_less=True)'),
    ("reset_forgets_job", RTL, _on("signs"), "reset leaves a job running",
     "active, finish, load = Signal(), Signal(), Signal()",
     "active, finish, load = Signal(reset_less=True), Signal(), Signal()"),
    ("job_bubble", RTL, _on("signs"), "a bubble between jobs",
     "self.i_job.ready.eq(~active | finish)", "self.i_job.ready.eq(~active)"),
    ("job_taken_early", RTL, _on("signs"), "a job is taken while another runs",
     "self.i_job.ready.eq(~active | finish)", "self.i_job.ready.eq(1)"),
    ("job_one_beat", RTL, _on("signs"), "a job ends after its first beat",
     "finish.eq(move & ~left.any())", "finish.eq(move)"),
    ("job_never_ends", RTL, _on("signs"), "a job goes on for ever",
     "finish.eq(move & ~left.any())", "finish.eq(0)"),
    ("job_count", RTL, _on("signs"), "beats of a job are not counted",
     "left.eq(left - 1)", "left.eq(left)"),
    ("signs_late", RTL, _on("signs"), "signs are read from the port, not from the job",
     "return Cat(signs, active)",
     'return Cat(field_slice(job, self.i_job.payload, "signs"), active)'),
    ("signs_reversed", RTL, _on("signs"), "signs are read in reverse",
     "(wide ^ signs[lane].replicate", "(wide ^ signs[spec.size - 1 - lane].replicate"),
    ("signs_ones_complement", RTL, _on("signs"), "a negated element is one too low",
     "replicate(spec.bits + 1)) + signs[lane])", "replicate(spec.bits + 1)))"),
    ("signs_narrow", RTL, _on("signs"), "the lowest element stays when negated",
     'Signal(signed(spec.bits + 1), name=f"signed_{lane}")',
     'Signal(signed(spec.bits), name=f"signed_{lane}")'),
    ("elements_unsigned", RTL, _on("plain"), "elements are taken as unsigned",
     "held.word_select(lane, spec.bits).as_signed()", "held.word_select(lane, spec.bits)"),
    ("lanes_reversed", RTL, _on("plain"), "elements are read in reverse",
     "held.word_select(lane, spec.bits)", "held.word_select(spec.size - 1 - lane, spec.bits)"),
    ("difference_negated", RTL, _on("half"), "differences have the wrong sign",
     "difference.eq(a - b)", "difference.eq(b - a)"),
    ("difference_is_sum", RTL, _on("plain"), "differences are sums",
     "difference.eq(a - b)", "difference.eq(a + b)"),
    ("sum_negated", RTL, _on("half"), "sums are differences",
     "total.eq(a + b)", "total.eq(a - b)"),
    ("sum_narrow", RTL, _on("plain"), "a stage does not grow by a bit",
     "width = max(len(a), len(b)) + 1", "width = max(len(a), len(b))"),
    ("outputs_swapped", RTL, _on("plain"), "a butterfly's outputs are swapped",
     "found[low], found[high] = total, difference", "found[low], found[high] = difference, total"),
    ("order_of_stages", RTL, _on("plain"), "the last stage works on neighbours again",
     "distance = 1 << stage", "distance = 1 << min(stage, 1)"),
    ("cut_in_every_cycle", RTL, _on("plain"), "a register between stages does not hold",
     "with m.If(enable):", "with m.If(Const(1)):"),
    ("cut_enable", RTL, _on("plain"), "the registers between stages take their values too early",
     "load[cuts[stage + 1] + 1]", "load[cuts[stage + 1]]"),
    ("round_down", RTL, _on("signs"), "nothing rounds up", _UP, "up.eq(0)"),
    ("round_half_up", RTL, _on("half"), "ties go up", _UP, "up.eq(half)"),
    ("round_ties_odd", RTL, _on("half"), "ties go to odd results",
     _UP, "up.eq(half & (below.any() | ~whole[0]))"),
    ("round_sticky", RTL, _on("signs"), "what is more than a tie counts as one",
     _UP, "up.eq(half & whole[0])"),
    ("shift_unsigned", RTL, _on("half"), "negative sums are shifted as unsigned",
     "whole = (value >> spec.shift).as_signed()", "whole = value.as_unsigned() >> spec.shift"),
    ("result_in_every_cycle", RTL, _on("half"), "a result that waits is overwritten",
     "with m.If(load[-1]):", "with m.If(Const(1)):"),
)  # fmt: skip
