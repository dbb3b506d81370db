"""Mutants of the multiplier array, and the specifications that mutants are tried on."""

from __future__ import annotations

from sim.mutants.entry import BOOTH, Entry, Specs, shape

MAC = "hw.blocks.mac_core.rtl"

CONTROL = "zero"

SPECS: Specs = {
    # Recoded activations, zero points, addend, both registers.
    "zero": {
        "tile": shape(2, 2, 3),
        "activations": {"bits": 4},
        "weights": {"encoding": "unsigned", "bits": 3},
        "pipeline": {"front": 1, "heap": 1},
        "addend": True,
        "max_k": 9,
    },
    # Recoded weights, of an even and of an odd number of bits.
    "twos": {
        "tile": shape(2, 2, 3),
        "activations": {"bits": 6},
        "weights": {"bits": 4},
        "pipeline": {"front": 0, "heap": 2},
        "max_k": 9,
    },
    "odd": {
        "tile": shape(2, 2, 2),
        "activations": {"bits": 7},
        "weights": {"bits": 3},
        "max_k": 6,
    },
    "bipolar": {
        "tile": shape(1, 2, 3),
        "activations": {"bits": 3, "signed": False},
        "weights": {"encoding": "bipolar", "bits": 2},
        "max_k": 9,
    },
}


def _on_mac(spec: str) -> dict[str, str]:
    return {"mac_core": spec}


MUTANTS: tuple[Entry, ...] = (
    ("operand_not_held", MAC, _on_mac("zero"), "activations are loaded in every cycle",
     "with m.If(self.a_load):", "with m.If(Const(1)):"),
    ("front_not_held", MAC, _on_mac("zero"), "the front register is loaded in every cycle",
     "with m.If(self.f_load):", "with m.If(Const(1)):"),
    ("booth_one", BOOTH, _on_mac("zero"), "a digit of one where there is none",
     "one.eq(low ^ below)", "one.eq(low | below)"),
    ("booth_two_positive", BOOTH, _on_mac("zero"), "the digit +2 is missing",
     "(high & ~low & ~below) | (~high & low & below)", "(high & ~low & ~below)"),
    ("booth_two_negative", BOOTH, _on_mac("zero"), "the digit −2 is missing",
     "(high & ~low & ~below) | (~high & low & below)", "(~high & low & below)"),
    ("booth_two_first", BOOTH, _on_mac("zero"), "the first digit −1 is −3",
     "two.eq(0 if alike else high & ~low)", "two.eq(0 if alike else high)"),
    ("booth_below", BOOTH, _on_mac("twos"), "digits overlap at the wrong bit",
     "below = high", "below = low"),
    ("booth_odd_sign", BOOTH, _on_mac("odd"), "an odd number of bits is not sign-extended",
     "bits.append(bits[-1])", "bits.append(Signal())"),
    ("booth_lines_swapped", BOOTH, _on_mac("zero"), "one and two are swapped at the port",
     "Digit(value[3 * i], value[3 * i + 1], value[3 * i + 2])",
     "Digit(value[3 * i + 1], value[3 * i], value[3 * i + 2])"),
    ("digit_position", MAC, _on_mac("twos"), "digits are worth twice the last one, not four times",
     "heap.add(term, lsb=2 * index, signed=True,", "heap.add(term, lsb=index, signed=True,"),
    ("digit_bit_position", MAC, _on_mac("twos"), "the correction of a digit is misplaced",
     "heap.add_bit(positive, 2 * index,", "heap.add_bit(positive, index,"),
    ("digit_sign", MAC, _on_mac("twos"), "every product has the wrong sign",
     "positive.eq(~digit.negative)", "positive.eq(digit.negative)"),
    ("double_missing", MAC, _on_mac("twos"), "a digit of two counts once",
     "doubled = Cat(Const(0, 1), value)", "doubled = wide"),
    ("product_sign", MAC, _on_mac("twos"), "partial products are not sign-extended",
     "wide = Cat(value, value[-1])", "wide = Cat(value, Const(0, 1))"),
    ("zero_point_sign", MAC, _on_mac("zero"), "the zero point is subtracted twice over",
     "booth.Digit(digit.one, digit.two, ~digit.negative)",
     "booth.Digit(digit.one, digit.two, digit.negative)"),
    ("zero_point_signed", MAC, _on_mac("zero"), "large zero points are taken as negative",
     'Cat(held["z"], Const(0, 1))', 'held["z"]'),
    ("weight_signed", MAC, _on_mac("zero"), "large unsigned weights are taken as negative",
     "return Cat(code, Const(0, 1))", "return Cat(code, code[-1])"),
    ("bipolar_top", MAC, _on_mac("bipolar"), "the top bit of bipolar weights is not inverted",
     "Cat(Const(1, 1), code[:-1], ~code[-1])", "Cat(Const(1, 1), code[:-1], code[-1])"),
    ("bipolar_even", MAC, _on_mac("bipolar"), "bipolar weights are even",
     "Cat(Const(1, 1), code[:-1], ~code[-1])", "Cat(Const(0, 1), code[:-1], ~code[-1])"),
    ("activation_signed", MAC, _on_mac("bipolar"), "large unsigned activations become negative",
     "else Cat(lane, Const(0, 1))", "else Cat(lane, lane[-1])"),
    ("lane_order", MAC, _on_mac("twos"), "the lanes of the weights are read in reverse",
     'held["w"].word_select(lane, spec', 'held["w"].word_select(k - 1 - lane, spec'),
    ("one_row_of_a", MAC, _on_mac("twos"), "every row has the first one's activations",
     "self.a.word_select(row * k + lane, plan.a_bits)", "self.a.word_select(lane, plan.a_bits)"),
    ("one_row_of_digits", MAC, _on_mac("zero"), "every row has the first one's digits",
     "self.digits.word_select(row * k + lane, 3 * count)",
     "self.digits.word_select(lane, 3 * count)"),
    ("one_row_of_sums", MAC, _on_mac("zero"), "every row has the first one's sum",
     "self.total.word_select(row, plan.sum_bits)", "self.total.word_select(0, plan.sum_bits)"),
    ("sum_narrow", MAC, _on_mac("zero"), "the sum of the activations has one bit too few",
     "self.sum_bits = self.a_bits + (spec.tile.k - 1).bit_length()",
     "self.sum_bits = self.a_bits + (spec.tile.k - 1).bit_length() - 1"),
    ("sum_misses_lane", MAC, _on_mac("zero"), "the sum of the activations misses a lane",
     "lanes[row * k : (row + 1) * k]", "lanes[row * k : (row + 1) * k - 1]"),
    ("step_constant", MAC, _on_mac("twos"), "the constant of a step's sum is missing",
     "heap.const += offset(width)", "heap.const += 0"),
)  # fmt: skip
