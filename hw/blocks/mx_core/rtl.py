"""RTL of the core for block-scaled operands: the column, and the design.

A block's sum is one carry-save heap an output, exact. Integers: the weights' bits look up sums of
pairs of activations, as ``lut_core`` does. Floats: products of significands, digit by digit of the
weight's, chosen from one to three times the activation's; moved up by the sum of the exponents,
complemented by the sign, and added in units of the smallest product there is. The heap is resolved
into two's complement, times the product of the scales' significands where they have any, and an
accumulator of :mod:`hw.lib.float_accumulator` takes it with the sum of the scales' exponents.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Fragment, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.block import Design
from hw.blocks.mx_core import golden
from hw.blocks.mx_core.front import Decoded, Front, Plan, Scale, moved_up, product
from hw.blocks.mx_core.spec import MxCoreSpec
from hw.lib.cuts import Cuts
from hw.lib.float_accumulator import Term, accumulate
from hw.lib.floats import NO
from hw.lib.gemm_shell import design
from hw.lib.heap import Bit, Heap
from hw.lib.passes import PlanePasses
from hw.lib.select import equals

# Estimated delays in full adders: a looked-up term behind the registers, a product of one digit,
# every further digit, a move, an exclusive or, an AND with a factor.
SELECT, DIGIT_TIME, MORE, MOVE, XOR, FACTOR, POWER = 3.0, 3.5, 2.0, 1.2, 0.6, 0.5, 2.5
COARSE, WIDE = 8, 16
"""Products that move by as much as ``WIDE`` go to digits of ``COARSE`` bits in the end."""
EARLY = {"running": 4.0, "fixed": 4.0, "fp32": 6.0}
"""How long before a block's sum is there the last register can come, by the accumulator behind."""


class Column(wiring.Component):
    """One n: its weights, and for every m a block's sum and the accumulator.

    Members:
        w, w_scale: this column's part of ``i_w``, taken when ``w_load`` is high.
        outputs of the front end: see :class:`hw.blocks.mx_core.front.Plan`.
        acc_en, hold: a step is accumulated; keep the sum. ``shift`` is for cores of several passes.
        cut_en: enables of the registers through the heap and of those ahead of the accumulators.
        tail_en: enables of the registers behind the accumulators.
        o: results, of every field those of every m.
    """

    def __init__(self, spec: MxCoreSpec):
        self.spec = spec
        self.plan = Plan(spec)
        members = self.plan.shared.inputs(spec.tile.m, ())
        if spec.cuts:
            members["cut_en"] = spec.cuts
        if spec.tail:
            members["tail_en"] = spec.tail
        super().__init__(
            {
                "w": In(spec.tile.k * spec.w_elements.width),
                "w_scale": In(spec.scale.width),
                **{name: In(1) for name in ("w_load", "acc_en", "hold", "shift")},
                **{name: In(width) for name, width in members.items()},
                "o": Out(sum(item.bits for item in spec.results) // spec.tile.n),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        w = Signal(len(self.w), name="w_q", reset_less=True)
        w_scale = Signal(len(self.w_scale), name="w_scale_q", reset_less=True)
        with m.If(self.w_load):
            m.d.sync += [w.eq(self.w), w_scale.eq(self.w_scale)]

        cuts = Cuts(m)
        pipeline = spec.pipeline
        if pipeline.heap:
            # Once on a scratch module to learn when the sum is there, then for good.
            scratch = Module()
            self._prepare(scratch, w, w_scale)
            trial = self._value(scratch, Cuts(scratch), 0)
            Fragment.get(scratch, None)  # Amaranth warns of modules that nobody elaborates.
            # Few bits more cross a cut before the carries have all rippled through, and what comes
            # behind it has that time to spare.
            last = max(bit.time for bit in trial)
            if pipeline.placement == "speed":
                last = max(last - EARLY[spec.sums.kind], last / 2)
            when = tuple(last * (index + 1) / pipeline.heap for index in range(pipeline.heap))
            cuts = Cuts(m, when, self.cut_en[: pipeline.heap])
        self._prepare(m, w, w_scale)
        results: list[dict[str, Value]] = []
        for row in range(spec.tile.m):
            value = [cuts.to(bit.value, bit.stage, cuts.count) for bit in self._value(m, cuts, row)]
            code, flags = self._exponent(m, row), self._specials(m, row)
            results.append(
                accumulate(
                    m,
                    f"m{row}",
                    spec.sums,
                    Term(
                        value=Cat(*value),
                        code=cuts.to(code, 0, cuts.count),
                        **{name: cuts.to(flag, 0, cuts.count) for name, flag in flags.items()},
                    ),
                    enable=self.acc_en,
                    hold=self.hold,
                    ahead=lambda value: self._ahead(m, value),
                    tail=self.tail_en if spec.tail else None,
                )
            )
        m.d.comb += self.o.eq(
            Cat(*(result[item.name] for item in spec.results for result in results))
        )
        return m

    def _ahead(self, m: Module, value: Value) -> Value:
        """A value behind the register ahead of the accumulators."""
        register = Signal(len(value), reset_less=True, name=f"ahead_{self._ahead_count}")
        self._ahead_count += 1
        with m.If(self.cut_en[-1]):
            m.d.sync += register.eq(value)
        return register

    def _prepare(self, m: Module, w: Value, w_scale: Value) -> None:
        """What all rows share: weights and their scale taken apart."""
        spec, plan = self.spec, self.plan
        self._ahead_count = 0
        bits = spec.w_elements.width
        codes = [w.word_select(lane, bits) for lane in range(spec.tile.k)]
        self._scale = Scale(m, "w_scale", spec.scale, w_scale)
        nan = [self._scale.nan]
        if plan.tables:
            self._selects = [
                [
                    self._lines(
                        m, f"select_{plane}_{pair[0]}", [codes[lane][plane] for lane in pair]
                    )
                    for pair in plan.pairs()
                ]
                for plane in range(bits)
            ]
        else:
            self._weights = [
                Decoded(m, f"w_{lane}", spec.w_elements, code) for lane, code in enumerate(codes)
            ]
            self._digits = [self._digit_lines(m, lane) for lane in range(spec.tile.k)]
            nan += [weight.nan for weight in self._weights if weight.nan is not NO]
        self._nan = Signal(name="w_nan")
        m.d.comb += self._nan.eq(Cat(*nan).any())

    def _lines(self, m: Module, name: str, bits: list[Value]) -> list[Value]:
        """One-hot lines of a number of one or two bits: one, two, three."""
        if len(bits) == 1:
            return [bits[0]]
        low, high = bits
        lines = []
        for index, value in enumerate((low & ~high, ~low & high, low & high)):
            line = Signal(name=f"{name}_{index + 1}")
            m.d.comb += line.eq(value)
            lines.append(line)
        return lines

    def _digit_lines(self, m: Module, lane: int) -> list[list[Value]]:
        """Lines of every digit of a weight's significand."""
        plan = self.plan
        value = self._weights[lane].significand
        found = []
        for index in range(plan.digits):
            bits = [value[i] for i in range(2 * index, min(2 * index + 2, plan.w_bits))]
            bits += [Const(0, 1)] * (2 - len(bits))
            lines = self._lines(m, f"digit_{lane}_{index}", bits)
            found.append(lines if plan.w_bits > 1 else lines[:2])
        return found

    def _value(self, m: Module, cuts: Cuts, row: int) -> list[Bit]:
        """A block's sum times the product of the scales' significands, two's complement."""
        spec = self.spec
        terms = spec.sums.terms
        factor = (1 << spec.scale_significand) - 1 if spec.scale.mantissa_bits else 1
        bits = terms.bits
        if factor > 1:
            low, high = -(-terms.low // factor**2), terms.high // factor**2
            bits = max((~low).bit_length(), high.bit_length()) + 1
        heap = Heap(m, f"m{row}_heap", bits, cuts)
        make = self._looked_up if self.plan.tables else self._products
        found = make(m, heap, row)
        return found if factor == 1 else self._scaled(m, cuts, row, found)

    def _looked_up(self, m: Module, heap: Heap, row: int) -> list[Bit]:
        """The complement of the complement of the sum: AND-OR-INVERT gates give complements."""
        plan, spec = self.plan, self.spec
        position = row * sum(plan.entry_bits(pair) for pair in plan.pairs())
        top = spec.w_elements.width - 1
        for index, pair in enumerate(plan.pairs()):
            size = plan.a_bits + len(pair) - 1
            entries = []
            for number in range(2 * len(pair) - 1):
                width = plan.a_bits + (number == 2)
                entry = self.t[position : position + width]
                position += width
                entries.append(Cat(entry, entry[-1])[:size])
            for plane in range(top + 1):
                chosen: Value = Const(0, size)
                for line, entry in zip(self._selects[plane][index], entries, strict=True):
                    chosen = chosen | (line.replicate(size) & entry)
                term = Signal(size, name=f"term_{row}_{plane}_{index}")
                m.d.comb += term.eq(chosen)
                heap.add(term, lsb=plane, signed=True, negative=plane != top, time=SELECT)
        heap.const -= 1
        return [Bit(~bit.value, bit.time, bit.stage) for bit in heap.resolve()]

    def _products(self, m: Module, heap: Heap, row: int) -> list[Bit]:
        """Products of significands at their places, complemented where they are negative.

        ``−x = ~x + 1 − 2^bits``: negative signs are counted, once for both. Wide moves are made in
        two: by less than a digit before the sign, and to one of a few digits behind it, where a bit
        has two digits that it can come from; signs are then counted digit by digit.
        """
        plan, k = self.plan, self.spec.tile.k
        width = plan.a_bits + plan.w_bits
        most = plan.a_power + plan.w_power
        places = most // COARSE + 1 if most >= WIDE else 1
        fine = most if places == 1 else COARSE - 1
        time = DIGIT_TIME + MORE * (plan.digits - 1) + MOVE * fine.bit_length() + XOR
        counts = [
            Heap(m, f"m{row}_signs_{digit}", k.bit_length(), heap.cuts) for digit in range(places)
        ]
        size = width + fine
        adding = POWER if plan.a_power and plan.w_power else 0.0
        for lane in range(k):
            name = f"product_{row}_{lane}"
            weight, place = self._weights[lane], row * k + lane
            value = self.a.word_select(place, plan.a_bits)
            triple = self.a3.word_select(place, plan.a_bits + 2) if plan.w_bits > 1 else None
            made = Signal(width, name=name)
            m.d.comb += made.eq(product(m, name, value, triple, self._digits[lane], width))
            power = self._power(m, name, weight, place, most)
            moved = self._moved(m, name, made, power, fine)
            sign = Signal(name=f"{name}_sign")
            term = Signal(size, name=f"{name}_term")
            m.d.comb += [
                sign.eq(self.a_sign[place] ^ weight.sign),
                term.eq(moved ^ sign.replicate(size)),
            ]
            if places == 1:
                heap.add(term, time=time)
                counts[0].add_bit(sign, 0, time=1.0)
                continue
            whole: Value = Const(0, size + COARSE * (places - 1))
            for digit in range(places):
                line = Signal(name=f"{name}_digit_at_{digit}")
                m.d.comb += line.eq(equals(power[COARSE.bit_length() - 1 :], digit))
                whole = whole | Cat(Const(0, COARSE * digit), line.replicate(size) & term)
                counts[digit].add_bit(line & sign, 0, time=DIGIT_TIME + adding)
            placed = Signal(len(whole), name=f"{name}_placed")
            m.d.comb += placed.eq(whole)
            heap.add(placed, time=time + MOVE)
        for digit, count in enumerate(counts):
            for column, bit in enumerate(count.resolve(), COARSE * digit):
                heap.add_bit(bit.value, column, time=bit.time, stage=bit.stage)
                top = column + size
                if top < heap.width:
                    heap.add_bit(~bit.value, top, time=bit.time, stage=bit.stage)
                    heap.const -= 1 << top
        return heap.resolve()

    def _power(self, m: Module, name: str, weight: Decoded, place: int, most: int) -> Value:
        """The exponents of a product that are still to be applied."""
        plan = self.plan
        if not plan.a_power:
            return weight.power
        power = Signal(most.bit_length(), name=f"{name}_power")
        total: Value = self.a_power.word_select(place, plan.power_bits)
        if plan.w_power:
            total = total + weight.power
        m.d.comb += power.eq(total)
        return power

    def _moved(self, m: Module, name: str, value: Value, power: Value, most: int) -> Value:
        """A product moved up by no more than ``most``."""
        if not most:
            return value
        if most > 2 or self.plan.a_power:
            return moved_up(m, f"{name}_up", value, power, most)
        size = len(value) + most
        chosen: Value = Const(0, size)
        for number in range(most + 1):
            line = equals(power, number)
            chosen = chosen | (line.replicate(size) & Cat(Const(0, number), value)[:size])
        return chosen

    def _scaled(self, m: Module, cuts: Cuts, row: int, value: list[Bit]) -> list[Bit]:
        """Times the significands of both scales."""
        spec = self.spec
        size = spec.scale_significand
        a_factor = self.a_factor.word_select(row, size)
        both = Heap(m, f"m{row}_factor", 2 * size, Cuts(m))
        for index in range(size):
            both.add(self._scale.factor & a_factor[index].replicate(size), lsb=index)
        factor = [bit.value for bit in both.resolve()]
        heap = Heap(m, f"m{row}_scaled", spec.sums.terms.bits, cuts)
        top = len(value) - 1
        for index, bit in enumerate(factor):
            for column, other in enumerate(value):
                part = Signal(name=f"m{row}_part_{index}_{column}")
                both_bits = other.value & cuts.to(bit, 0, other.stage)
                # The sign bit counts negative: −x = ~x − 1.
                m.d.comb += part.eq(~both_bits if column == top else both_bits)
                heap.add_bit(part, index + column, time=other.time + FACTOR, stage=other.stage)
            heap.const -= 1 << (index + top)
        return heap.resolve()

    def _exponent(self, m: Module, row: int) -> Value:
        """The code of a term: the sum of those of the scales."""
        plan = self.plan
        code = Signal(self.spec.sums.terms.code_bits, name=f"m{row}_code")
        m.d.comb += code.eq(self.a_code.word_select(row, plan.code_bits) + self._scale.code)
        return code

    def _specials(self, m: Module, row: int) -> dict[str, Value]:
        """Flags of a term."""
        k = self.spec.tile.k
        nan: Value = self.a_nan[row] | self._nan
        flags: dict[str, Value] = {}
        if self.spec.sums.terms.inf:
            invalid, plus, minus = [], [], []
            for lane, weight in enumerate(self._weights):
                place = row * k + lane
                a_inf, a_zero = self.a_inf[place], self.a_zero[place]
                some = (a_inf & ~weight.zero) | (weight.inf & ~a_zero)
                sign = self.a_sign[place] ^ weight.sign
                invalid.append((a_inf & weight.zero) | (weight.inf & a_zero))
                plus.append(some & ~sign)
                minus.append(some & sign)
            nan = nan | Cat(*invalid).any()
            flags = {"pinf": Cat(*plus).any(), "ninf": Cat(*minus).any()}
        made = {}
        for name, value in {"nan": nan, **flags}.items():
            made[name] = Signal(name=f"m{row}_{name}")
            m.d.comb += made[name].eq(value)
        return made


def build(spec: MxCoreSpec) -> Design:
    """The design of a specification."""
    return design(
        spec,
        golden.streams(spec),
        sequencer=PlanePasses(spec),
        shared=Plan(spec).shared,
        front=Front(spec),
        column=Column(spec),
    )
