"""Mutants of the fused table generator, and the specifications that mutants are tried on."""

from __future__ import annotations

from sim.mutants.entry import Entry, Specs

RTL = "hw.blocks.fused_tables.rtl"
FLOATS, FRONT, INTEGERS = "hw.lib.floats", "hw.blocks.lut_core.front", "hw.lib.integers"

SPECS: Specs = {
    "exact": {"tile": {"m": 2, "k": 3}, "activations": {"bits": 5}, "table": {"group": 2}},
    "int8": {
        "tile": {"m": 1, "k": 4},
        "input": "bf16",
        "multiplier": "bf16",
        "gain": False,
        "activations": {"bits": 8},
        "encoding": "bipolar",
        "table": {"group": 4, "entries": "int8"},
    },
}


def _on(spec: str) -> dict[str, str]:
    return {"fused_tables": spec}


_FULL = "full[i].eq(enables[i] | (full[i] & ~move[i]))"
_TAKE = "take.eq(ready & active & (~full[0] | move[0]))"
_UP = "half & (below | whole[0])"

MUTANTS: tuple[Entry, ...] = (
    ("port_accepts_while_full", RTL, _on("exact"), "beats are taken into a full register",
     "port.ready.eq(~full | take)", "port.ready.eq(1)"),
    ("port_ready_late", RTL, _on("exact"), "a bubble between beats",
     "port.ready.eq(~full | take)", "port.ready.eq(~full)"),
    ("port_stays", RTL, _on("exact"), "a beat is used again",
     "full.eq((port.valid & port.ready) | (full & ~take))",
     "full.eq((port.valid & port.ready) | full)"),
    ("port_in_every_cycle", RTL, _on("exact"), "a beat that waits is overwritten",
     "with m.If(port.valid & port.ready):", "with m.If(port.valid):"),
    ("take_without_gain", RTL, _on("exact"), "elements do not wait for their gains",
     "ready = ready & gain_full", "ready = ready"),
    ("take_without_job", RTL, _on("exact"), "elements do not wait for their job",
     _TAKE, "take.eq(ready & (~full[0] | move[0]))"),
    ("take_overrun", RTL, _on("int8"), "a beat runs into one that waits",
     _TAKE, "take.eq(ready & active)"),
    ("take_late", RTL, _on("int8"), "a bubble between beats",
     _TAKE, "take.eq(ready & active & ~full[0])"),
    ("stage_stays", RTL, _on("int8"), "a stage never empties",
     _FULL, "full[i].eq(enables[i] | full[i])"),
    ("stage_forgets", RTL, _on("int8"), "a stage that waits is emptied",
     _FULL, "full[i].eq(enables[i])"),
    ("stage_bubble", RTL, _on("int8"), "a bubble between stages",
     "else ~full[i + 1] | move[i + 1]", "else ~full[i + 1]"),
    ("result_dropped", RTL, _on("exact"), "a result leaves whether taken or not",
     "self.o.ready if i == stages - 1", "Signal(init=1) if i == stages - 1"),
    ("result_in_every_cycle", RTL, _on("exact"), "a result that waits is overwritten",
     "with m.If(enables[-1]):", "with m.If(full[-2]):"),
    ("reset_leaves_beats", RTL, _on("exact"), "reset leaves beats behind",
     'Signal(name=f"full_{i}")', 'Signal(name=f"full_{i}", reset_less=True)'),
    ("reset_forgets_job", RTL, _on("exact"), "reset leaves a job running",
     "active, finish, load = Signal(), Signal(), Signal()",
     "active, finish, load = Signal(reset_less=True), Signal(), Signal()"),
    ("job_bubble", RTL, _on("exact"), "a bubble between jobs",
     "self.i_job.ready.eq(~active | finish)", "self.i_job.ready.eq(~active)"),
    ("job_taken_early", RTL, _on("exact"), "a job is taken while another runs",
     "self.i_job.ready.eq(~active | finish)", "self.i_job.ready.eq(1)"),
    ("job_one_beat", RTL, _on("int8"), "a job ends after its first beat",
     "finish.eq(take & ~left.any())", "finish.eq(take)"),
    ("job_count", RTL, _on("int8"), "beats of a job are not counted",
     "left.eq(left - 1)", "left.eq(left)"),
    ("row_of_next_job", RTL, _on("exact"), "multipliers do not travel with their beats",
     "with m.If(enables[0]):", "with m.If(Signal(init=1)):"),
    ("shift_of_next_job", RTL, _on("int8"), "the shift of the entries is early",
     "for i in range(3):", "for i in range(2):"),
    ("one_row", RTL, _on("exact"), "every row has the first one's multiplier",
     ".word_select(row, width)", ".word_select(0, width)"),
    ("one_row_of_x", RTL, _on("exact"), "every row has the first one's elements",
     "x.word_select(row * k + lane, spec.source.width)",
     "x.word_select(lane, spec.source.width)"),
    ("gain_order", RTL, _on("exact"), "gains are read in reverse",
     "gain.word_select(lane, 16)", "gain.word_select(k - 1 - lane, 16)"),
    ("power_of_gain", RTL, _on("exact"), "exponents are not added",
     "power.eq(a.power + b.power)", "power.eq(a.power)"),
    ("significands", RTL, _on("int8"), "significands are added",
     "product.eq(a.significand * b.significand)", "product.eq(a.significand + b.significand)"),
    ("sign_of_factor", RTL, _on("exact"), "factors' signs are forgotten",
     "a.sign ^ b.sign", "a.sign | b.sign"),
    ("subnormal_power", RTL, _on("exact"), "subnormal numbers keep their exponent",
     "held.eq(found.exponent)", "held.eq(power)"),
    ("zero_times_infinity", RTL, _on("exact"), "infinity times zero is infinity",
     "number = ~found.nan & ~found.zero", "number = ~found.nan"),
    ("nan_forgotten", RTL, _on("int8"), "a NaN has a code",
     "nan.eq(a.nan | b.nan)", "nan.eq(0)"),
    ("infinity_forgotten", RTL, _on("int8"), "an infinity is not clipped",
     "over.eq(number & (found.inf | (down < 0) | kept[bits:].any()))",
     "over.eq(number & ((down < 0) | kept[bits:].any()))"),
    ("overflow_far", RTL, _on("int8"), "what is far too large wraps",
     "over.eq(number & (found.inf | (down < 0) | kept[bits:].any()))",
     "over.eq(number & (found.inf | kept[bits:].any()))"),
    ("overflow_near", RTL, _on("exact"), "what is a little too large wraps",
     "over.eq(number & (found.inf | (down < 0) | kept[bits:].any()))",
     "over.eq(number & (found.inf | (down < 0)))"),
    ("spare_bit", RTL, _on("exact"), "products of three are clipped a bit early",
     "spare = 2 if spec.gain else 1", "spare = 1"),
    ("place", RTL, _on("int8"), "codes are doubled",
     "bits - 2 + spare - (len(product) - 1)", "bits - 3 + spare - (len(product) - 1)"),
    ("sticky", RTL, _on("int8"), "what is more than a tie counts as one",
     "below=below & some", "below=below & 0"),
    ("round_half_up", INTEGERS, _on("exact"), "ties go up", _UP, "half"),
    ("round_down", INTEGERS, _on("exact"), "nothing rounds up", _UP, "0"),
    ("clip_forgotten", INTEGERS, _on("exact"), "what rounds to one code too many wraps",
     "rounded[:-1] | (over | rounded[-1])", "rounded[:-1] | (over)"),
    ("far_below", INTEGERS, _on("exact"), "what is far below a code comes back",
     "with m.If(down > most):", "with m.If(0):"),
    ("leading_zero_count", FLOATS, _on("exact"), "subnormal numbers are moved too little",
     "shifted.eq(Mux(empty, value << step, value))",
     "shifted.eq(Mux(empty, value << (step - 1), value))"),
    ("table_entry", FRONT, _on("exact"), "an entry is a difference",
     "value = right + left if sign > 0", "value = right - left if sign > 0"),
    ("table_clip", FRONT, _on("int8"), "entries above 127 wrap",
     "with self.m.If(shifted > 127):", "with self.m.If(0):"),
)  # fmt: skip
