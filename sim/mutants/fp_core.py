"""Mutants of the floating-point core, and the specifications that mutants are tried on."""

from __future__ import annotations

from sim.mutants.entry import SHELL, Entry, Specs, shape

RTL, ROW = "hw.blocks.fp_core.rtl", "hw.blocks.fp_core.row"
MULTIPLY, DEQUANTIZE = "hw.blocks.fp_core.multiply", "hw.blocks.fp_core.dequantize"
ALIGN, HEAP = "hw.lib.align", "hw.lib.heap"

CONTROL = "half"

_RUNNING = {"kind": "running", "guard": 0}

SPECS: Specs = {
    # A window, all registers, a tail, infinities on both sides.
    "half": {
        "tile": shape(2, 2, 3),
        "window": 26,
        "accumulator": {"kind": "fp32"},
        "pipeline": {"front": 1, "heap": 4},
        "max_k": 9,
    },
    # An exact window: nothing is searched, complements of exponents.
    "exact": {
        "tile": shape(2, 2, 2),
        "activations": {"format": "fp8_e4m3"},
        "weights": {"format": "fp8_e5m2"},
        "window": "exact",
        "accumulator": {"kind": "fixed", "low": -25, "bits": 96},
        "pipeline": {"front": 0, "heap": 2},
        "max_k": 6,
    },
    # A window below the product's own bits, and results as they are.
    "narrow": {
        "tile": shape(1, 2, 5),
        "activations": {"format": "bf16"},
        "weights": {"format": "fp8_e4m3"},
        "window": 9,
        "accumulator": _RUNNING,
        "max_k": 10,
    },
    # Weights of 3 bits with zero points, groups within a step.
    "zero": {
        "tile": shape(2, 2, 4),
        "weights": {
            "format": "int", "bits": 3, "encoding": "unsigned", "scale": "fp16", "group": 2
        },
        "window": 22,
        "accumulator": _RUNNING,
        "pipeline": {"front": 0, "heap": 3},
        "max_k": 8,
    },
    # Two's complement weights, a group of several steps.
    "signed": {
        "tile": shape(2, 2, 2),
        "activations": {"format": "fp8_e5m2"},
        "weights": {
            "format": "int", "bits": 4, "encoding": "twos_complement", "scale": "fp16", "group": 4
        },
        "window": 20,
        "accumulator": _RUNNING,
        "max_k": 8,
    },
}  # fmt: skip


def _on(spec: str) -> dict[str, str]:
    return {"fp_core": spec}


MUTANTS: tuple[Entry, ...] = (
    # The products.
    ("digit_three", MULTIPLY, _on("half"), "the digit 3 is the digit 1",
     "one & two]", "one & ~two]"),
    ("digit_double", MULTIPLY, _on("half"), "the digit 2 counts once",
     "Cat(Const(0, 1), self.a, Const(0, 1)),", "Cat(self.a, Const(0, 2)),"),
    ("digit_place", MULTIPLY, _on("half"), "digits are worth twice the last one",
     "heap.add(term, lsb=2 * digit, time=SELECT)", "heap.add(term, lsb=digit, time=SELECT)"),
    ("digit_top", MULTIPLY, _on("half"), "the top bit of a significand is misplaced",
     "lsb=product.w_bits - 1,", "lsb=product.w_bits - 2,"),
    ("digit_top_lost", MULTIPLY, _on("exact"), "the top bit of an odd significand is ignored",
     "lines.append(significand[-1])", "lines.append(Const(0, 1))"),
    ("triple_low", MULTIPLY, _on("half"), "3A has the wrong lowest bit",
     "Cat(self.a[0], self.triple)", "Cat(self.a[1], self.triple)"),
    ("triple_is_double", RTL, _on("half"), "3A is made of A and A",
     "part, Cat(part[1:], Const(0, 1))", "part, part"),
    ("sign_of_a", ROW, _on("half"), "products have the sign of A",
     'sign.eq(self.lane("a_late_sign", k) ^ self.lane("w_late_sign", k))',
     'sign.eq(self.lane("a_late_sign", k))'),
    # Exponents and alignment.
    ("largest_of_all", ROW, _on("half"), "zeros take part in the largest exponent",
     'both.eq(self.lane("a_live", k) & self.lane("w_live", k))', "both.eq(1)"),
    ("infinities_live", RTL, _on("zero"), "infinities take part in the largest exponent",
     '"live": number & ~parts.inf,', '"live": number,'),
    ("survivors", ALIGN, _on("half"), "candidates with a 0 are not dropped",
     "stays.eq(one & (line | ~any_of).all())", "stays.eq(one)"),
    ("survivors_all_drop", ALIGN, _on("half"), "all drop out where none has a 1",
     "stays.eq(one & (line | ~any_of).all())", "stays.eq(one & line.all())"),
    ("last_candidate", ALIGN, _on("narrow"), "the last product does not count for the largest",
     "Cat(*(one & line[i] for one, line in zip(alive, reach, strict=True))).any()",
     "Cat(*(one & line[i] for one, line in zip(alive[:-1], reach[:-1], strict=True))).any()"),
    ("distance_less_one", ROW, _on("half"), "products are moved one place too little",
     "largest, ~sums[k], 1)", "largest, ~sums[k], 0)"),
    ("far_products", ALIGN, _on("half"), "products far below the window come back",
     "kept.eq(result & (~gone).replicate(width))", "kept.eq(result)"),
    ("far_products_narrow", ALIGN, _on("narrow"), "a high bit of the distance is ignored",
     "gone.eq(amount[matter:].any())", "gone.eq(amount[matter + 1 :].any())"),
    ("shift_fills", ALIGN, _on("half"), "the top is not cleared by a shift",
     "shifted[at] = here & ~amount[stage]", "shifted[at] = here"),
    ("shift_enters", ALIGN, _on("half"), "bits appear below without a shift",
     "shifted[at] = above & amount[stage]", "shifted[at] = above"),
    ("window_low", ROW, _on("half"), "the window begins one bit too low",
     "low = window - product.bits\n", "low = window - product.bits - 1\n"),
    ("exact_low", ROW, _on("exact"), "the exact window is misplaced",
     "low += top - product.high", "low += top - product.high - 1"),
    ("exact_complement", RTL, _on("exact"), "exponents are not complemented",
     '"exponent": ~parts.exponent if exact else parts.exponent', '"exponent": parts.exponent'),
    ("code_cut", ROW, _on("narrow"), "the sum's exponent loses its top bit",
     "return largest[: spec.sums.terms.code_bits], distances",
     "return Cat(largest[: spec.sums.terms.code_bits - 1], Const(0, 1)), distances"),
    # The heap.
    ("sign_bit_of_another", ROW, _on("half"), "negations are completed by the first sign",
     "heap.add_bit(signs[k], 0)", "heap.add_bit(signs[0], 0)"),
    ("sign_lost", ROW, _on("half"), "magnitudes are never negated",
     "^ signs[k].replicate(window + 1)", "^ Const(0, window + 1)"),
    ("compress_constant", HEAP, _on("half"), "the constant of the sum is lost",
     "bits.append(Bit(Const(1, 1), 0.0, 0))", "bits.append(Bit(Const(0, 1), 0.0, 0))"),
    ("compress_carry", HEAP, _on("half"), "the first carry of a column is lost",
     "if not last:\n                    result[column + 1].append(carry)",
     "if not last and index > 1:\n                    result[column + 1].append(carry)"),
    ("compress_rest", HEAP, _on("half"), "bits that need no adder are lost",
     "result[column] += queue", "result[column] += queue[1:]"),
    ("rows_swapped_low", ALIGN, _on("half"), "the second row is dropped",
     "Cat(*(bits[1].value if len(bits) > 1 else Const(0, 1) for bits in rest)),",
     "Cat(*(Const(0, 1) for bits in rest)),"),
    # What is no number.
    ("nan_of_w", ROW, _on("half"), "NaN among the weights is ignored",
     "nans: list[Value] = [self.a_nan, self.w_nan]", "nans: list[Value] = [self.a_nan]"),
    ("nan_of_a", ROW, _on("half"), "NaN among the activations is ignored",
     "nans: list[Value] = [self.a_nan, self.w_nan]", "nans: list[Value] = [self.w_nan]"),
    ("infinity_by_zero", ROW, _on("half"), "an infinity by zero is no NaN",
     'nans.append(one & ~self.lane(f"{other}_some", k))', "nans.append(Const(0, 1))"),
    ("infinity_by_any", RTL, _on("half"), "an infinity by an infinity is NaN",
     '"some": number,', '"some": number & ~parts.inf,'),
    ("infinity_sign", ROW, _on("half"), "infinities have the sign of A",
     'negative.eq(self.lane("a_sign", k) ^ self.lane("w_sign", k))',
     'negative.eq(self.lane("a_sign", k))'),
    ("infinity_lost", ROW, _on("zero"), "of an infinity among the weights nothing is seen",
     "infinite.append(one)", 'infinite.append(one if side == "a" else Const(0, 1))'),
    ("special_kept", ROW, _on("narrow"), "a sum that is no number leaves something behind",
     "value = value & (~special).replicate(len(value))", "value = value"),
    ("one_row_of_nans", RTL, _on("half"), "every row has the first one's NaN",
     "nans[row * k : (row + 1) * k]", "nans[:k]"),
    # Integers to FP16.
    ("factor_sign", DEQUANTIZE, _on("zero"), "negative factors count as positive",
     "self.sign.eq(scale.sign ^ negative)", "self.sign.eq(scale.sign)"),
    ("factor_borrow", DEQUANTIZE, _on("zero"), "q − z is one too small",
     "self.q, ~self.z, 1)", "self.q, ~self.z, 0)"),
    ("factor_negated", DEQUANTIZE, _on("signed"), "negative weights are not negated",
     "magnitude.eq((low ^ negative.replicate(bits)) + negative)", "magnitude.eq(low)"),
    ("round_tie", DEQUANTIZE, _on("zero"), "ties go up",
     "up.eq(guard & (sticky | kept[0]))", "up.eq(guard)"),
    ("round_sticky", DEQUANTIZE, _on("zero"), "what lies below the guard bit is ignored",
     "up.eq(guard & (sticky | kept[0]))", "up.eq(guard & kept[0])"),
    ("round_never", DEQUANTIZE, _on("zero"), "weights are cut, not rounded",
     "up.eq(guard & (sticky | kept[0]))", "up.eq(0)"),
    ("round_carry", DEQUANTIZE, _on("zero"), "a carry of rounding does not reach the exponent",
     "scale.exponent + distance + carry", "scale.exponent + distance"),
    ("round_leading", DEQUANTIZE, _on("zero"), "a carry of rounding loses the leading one",
     "rounded[-1] | carry", "rounded[-1]"),
    ("scale_overflow", DEQUANTIZE, _on("zero"), "what overflows is a number",
     "over.eq((exponent > TOP) | scale.inf)", "over.eq(scale.inf)"),
    ("scale_infinite", DEQUANTIZE, _on("zero"), "an infinite scale times 0 is an infinity",
     "self.nan.eq(scale.nan | (scale.inf & none))", "self.nan.eq(scale.nan)"),
    ("scale_group", RTL, _on("zero"), "every weight has the first group's scale",
     'held["w_scale"].word_select(group, 16)', 'held["w_scale"].word_select(0, 16)'),
    ("zero_group", RTL, _on("zero"), "every weight has the first group's zero point",
     'held["w_zero"].word_select(group, bits)', 'held["w_zero"].word_select(0, bits)'),
    # Registers and order.
    ("operand_not_held", RTL, _on("half"), "activations are loaded in every cycle",
     "with m.If(self.a_load):", "with m.If(1):"),
    ("front_not_held", RTL, _on("half"), "the front register is loaded in every cycle",
     "with m.If(self.f_load):", "with m.If(1):"),
    ("weights_not_held_fp", RTL, _on("half"), "weights are loaded in every cycle",
     "with m.If(self.w_load):", "with m.If(1):"),
    ("front_stage", RTL, _on("half"), "significands of A come a step early",
     "stage = at.products if late else at.exponents", "stage = at.exponents"),
    ("front_cut_stuck", SHELL, _on("half"), "the front end's stages load in every cycle",
     "Cat(*move[: self.shared.cuts])", "Cat(*([1] * self.shared.cuts))"),
    ("distance_stage", ROW, _on("half"), "distances come a step early",
     "distance = cuts.to(distances[k], at.exponents, at.rows)",
     "distance = cuts.to(distances[k], at.exponents, at.rows - 1)"),
    ("flag_stage", ROW, _on("half"), "flags come a step early",
     "flags[name] = cuts.to(flag, at.exponents, at.last)",
     "flags[name] = cuts.to(flag, at.exponents, at.last - 1)"),
    ("tail_not_held", SHELL, _on("half"), "a waiting result is overwritten by the next",
     'slices["i_tail_en"] = Cat(*leave)', 'slices["i_tail_en"] = Cat(*([1] * len(leave)))'),
    ("tail_free", SHELL, _on("half"), "the accumulators are overwritten before their result left",
     "free.eq(~held[0] | leave[0])", "free.eq(1)"),
    ("ahead_stuck", RTL, _on("half"), "the accumulator's first register loads in every cycle",
     '{"i_ahead_en": self.cut_en[-1]}', '{"i_ahead_en": Const(1, 1)}'),
    ("sum_not_held", RTL, _on("narrow"), "a job starts from the last one's sum",
     "i_hold=self.hold,", "i_hold=Const(1, 1),"),
    ("sum_always", RTL, _on("narrow"), "a step is accumulated in every cycle",
     "i_acc_en=self.acc_en,", "i_acc_en=Const(1, 1),"),
    ("one_row_of_a_fp", RTL, _on("half"), "every row has the first one's activations",
     "getattr(self, name).word_select(row, width // tile.m)",
     "getattr(self, name).word_select(0, width // tile.m)"),
)  # fmt: skip
