"""Mutants of requantization and of the floating-point parts that it is made of."""

from __future__ import annotations

from sim.mutants.entry import Entry, Specs

RTL, FLOATS, OPS = "hw.blocks.requantize.rtl", "hw.lib.floats", "hw.lib.float_ops"
PRODUCT = "hw.lib.product"

CONTROL = "zero"

SPECS: Specs = {
    # A multiplier and a zero point a row: jobs, and every stage.
    "zero": {
        "tile": {"m": 2, "n": 1},
        "clip": "full",
        "zero_point": True,
        "max_beats": 8,
    },
    "symmetric": {"tile": {"m": 1, "n": 2}, "scale": {"format": "e8m0"}, "max_beats": 8},
    "integers": {
        "tile": {"m": 1, "n": 2},
        "input": "int32",
        "target": "uint8",
        "clip": "full",
        "max_beats": 8,
    },
    "e4m3": {"tile": {"m": 1, "n": 2}, "target": "fp8_e4m3", "max_beats": 8},
    # Without jobs, and without a shift before the rounding.
    "fp16": {
        "tile": {"m": 1, "n": 2},
        "target": "fp16",
        "scale": {"format": "none"},
        "overflow": "nonsaturating",
    },
}


def _on(spec: str) -> dict[str, str]:
    return {"requantize": spec}


ZERO, SYMMETRIC, INTEGERS, E4M3, HALF = (
    _on(name) for name in ("zero", "symmetric", "integers", "e4m3", "fp16")
)

MUTANTS: tuple[Entry, ...] = (
    ("input_accepted_full", RTL, ZERO, "a beat is taken into a full register",
     "self.i.ready.eq(~full | move[0])", "self.i.ready.eq(1)"),
    ("input_ready_late", RTL, ZERO, "a bubble between beats",
     "self.i.ready.eq(~full | move[0])", "self.i.ready.eq(~full)"),
    ("input_not_held", RTL, ZERO, "a beat is loaded without ready",
     "with m.If(self.i.valid & self.i.ready):", "with m.If(self.i.valid):"),
    ("input_never_empties", RTL, ZERO, "a beat is used twice",
     "full.eq(self.i.valid | (full & ~move[0]))", "full.eq(self.i.valid | full)"),
    ("stage_overrun", RTL, ZERO, "a stage moves on into a full one",
     "move[i].eq(valid[i] & (free[i] | after[i]))", "move[i].eq(valid[i])"),
    ("stage_bubble", RTL, ZERO, "a stage waits until the next is empty",
     "move[i].eq(valid[i] & (free[i] | after[i]))", "move[i].eq(valid[i] & free[i])"),
    ("stage_repeats", RTL, ZERO, "a stage keeps what has moved on",
     "valid[i].eq(move[i - 1] | (valid[i] & ~move[i]))", "valid[i].eq(move[i - 1] | valid[i])"),
    ("stage_forgets", RTL, ZERO, "a stage that waits is lost",
     "valid[i].eq(move[i - 1] | (valid[i] & ~move[i]))", "valid[i].eq(move[i - 1])"),
    ("output_dropped", RTL, ZERO, "a result does not wait to be taken",
     "self.o.valid.eq(move[-1] | (self.o.valid & ~self.o.ready))", "self.o.valid.eq(move[-1])"),
    ("output_repeated", RTL, ZERO, "a result stays when it was taken",
     "self.o.valid.eq(move[-1] | (self.o.valid & ~self.o.ready))",
     "self.o.valid.eq(move[-1] | self.o.valid)"),
    ("output_overwritten", RTL, HALF, "a result is overwritten while it waits",
     "~self.o.valid | self.o.ready]", "Const(1, 1)]"),
    ("lane_not_held", OPS, ZERO, "a stage takes what comes before in every cycle",
     "with nullcontext() if enable is None else m.If(enable[points.index(point)]):",
     "with nullcontext():"),
    ("result_not_held", RTL, ZERO, "the last stage takes what comes before in every cycle",
     "with m.If(self.enable[-1]):", "with m.If(1):"),
    ("zero_not_held", RTL, ZERO, "the zero point overtakes its beat in a stall",
     "with m.If(move[i]):", "with m.If(1):"),
    ("zero_early", RTL, ZERO, "the zero point is that of the job at the port",
     "zero = register\n", "zero = zero\n"),
    ("job_ready_early", RTL, ZERO, "a job is taken while another runs",
     "self.i_job.ready.eq(~active | finish)", "self.i_job.ready.eq(1)"),
    ("job_ready_late", RTL, ZERO, "a bubble between jobs",
     "self.i_job.ready.eq(~active | finish)", "self.i_job.ready.eq(~active)"),
    ("job_ignored", RTL, ZERO, "a beat does not wait for its job",
     "ready.eq(full & active)", "ready.eq(full)"),
    ("job_never_ends", RTL, ZERO, "a job goes on for ever",
     "m.d.sync += active.eq(0)", "m.d.sync += active.eq(1)"),
    ("job_short", RTL, ZERO, "a job has one beat too few",
     "left.eq(left - 1)", "left.eq(left - 2)"),
    ("job_long", RTL, ZERO, "a job counts stalls as beats",
     "with m.If(taken):", "with m.If(full):"),
    ("row_of_scale", RTL, ZERO, "every row has the first one's scale and zero point",
     "row = index // spec.tile.n if spec.scales > 1 else 0", "row = 0"),
    ("integer_magnitude", OPS, INTEGERS, "a negative integer is its complement",
     "(value ^ sign.replicate(len(value))).as_unsigned() + sign",
     "(value ^ sign.replicate(len(value))).as_unsigned()"),
    ("even_ties_integer", RTL, ZERO, "ties are rounded up",
     "up.eq(fixed.guard & (fixed.sticky | fixed.whole[0]))", "up.eq(fixed.guard)"),
    ("sticky_ignored", RTL, SYMMETRIC, "what is more than a tie is rounded to even",
     "up.eq(fixed.guard & (fixed.sticky | fixed.whole[0]))",
     "up.eq(fixed.guard & fixed.whole[0])"),
    ("nan_is_far", RTL, ZERO, "a NaN is clipped like an infinity",
     "far.eq((fixed.over | inf) & ~nan)", "far.eq(fixed.over | inf | nan)"),
    ("nan_counts", RTL, SYMMETRIC, "a NaN is what its significand says",
     "(fixed.whole + up) & (~nan).replicate(len(nearest))", "fixed.whole + up"),
    ("infinity_counts", RTL, SYMMETRIC, "an infinity is what its significand says",
     "far.eq((fixed.over | inf) & ~nan)", "far.eq(fixed.over & ~nan)"),
    ("over_ignored", RTL, INTEGERS, "large values wrap",
     "far.eq((fixed.over | inf) & ~nan)", "far.eq(inf & ~nan)"),
    ("negative_complement", RTL, SYMMETRIC, "a negative result is its complement",
     "i_ci=sign,", "i_ci=Const(0, 1),"),
    ("zero_unsigned", RTL, ZERO, "a negative zero point is positive",
     "self.zero.as_signed() if spec.signed else self.zero", "self.zero"),
    ("clip_high", RTL, SYMMETRIC, "the largest result wraps",
     "total > high)", "total > high + 1)"),
    ("clip_low", RTL, SYMMETRIC, "the smallest result is not symmetric",
     "total < low)", "total < low - 1)"),
    ("clip_signs", RTL, INTEGERS, "far values are clipped to the other end",
     "with m.If(Mux(far, ~sign,", "with m.If(Mux(far, sign,"),
    ("fix_widest", FLOATS, ZERO, "bits above the integer are forgotten",
     "above.append(shifted[reach:].any())", "above.append(Const(0, 1))"),
    ("fix_sticky", FLOATS, ZERO, "bits below the guard are forgotten",
     "sticky.eq(Mux(beyond, some, Cat(*lost).any())),", "sticky.eq(Mux(beyond, some, 0)),"),
    ("fix_up", FLOATS, SYMMETRIC, "a large power is taken for a small one",
     "over.eq(Mux(up, some, Cat(*above).any() & ~beyond)),",
     "over.eq(Cat(*above).any() & ~beyond),"),
    ("fix_beyond", FLOATS, SYMMETRIC, "a small power wraps",
     "kept.eq(value & (~beyond).replicate(bits + 1)),", "kept.eq(value),"),
    ("even_ties", FLOATS, E4M3, "ties are rounded up",
     "up.eq(value.guard & (value.sticky | value.kept[0]))", "up.eq(value.guard)"),
    ("overflow_carry", FLOATS, E4M3, "a rounding up beyond the largest number is a NaN",
     "high.eq(inf | value.over | (total > form.max_code))", "high.eq(inf | value.over)"),
    ("saturates_not", FLOATS, E4M3, "what overflows does not saturate",
     'if overflow == "nonsaturating" and form.specials != "none":', "if True:"),
    ("saturates", FLOATS, HALF, "what overflows saturates",
     'if overflow == "nonsaturating" and form.specials != "none":', "if False:"),
    ("denormal_shift", FLOATS, HALF, "subnormal results are shifted by one too few",
     "Mux(fits, 0, lowest - ideal)", "Mux(fits, 0, lowest - 1 - ideal)"),
    ("denormal_sticky", FLOATS, HALF, "bits that were shifted out break no tie",
     "m.d.comb += out.eq(Cat(*lost).any())", "m.d.comb += out.eq(sticky)"),
    ("nan_sign", OPS, HALF, "a NaN keeps its sign",
     "sign=value.sign & ~value.nan,", "sign=value.sign,"),
    ("infinity_times_zero", OPS, E4M3, "infinity times 0 is infinite",
     "nan.eq(left.nan | right.nan | (left.inf & right.zero) | (left.zero & right.inf)),",
     "nan.eq(left.nan | right.nan),"),
    ("product_sign", OPS, E4M3, "a negative scale is positive",
     "sign.eq((left.sign ^ right.sign) & ~nan),", "sign.eq(left.sign & ~nan),"),
    ("booth_complement", PRODUCT, E4M3, "a negative digit's multiple lacks its one",
     "heap.add_bit(digit.negative, 2 * index)", "heap.add_bit(Const(0, 1), 2 * index)"),
)  # fmt: skip
