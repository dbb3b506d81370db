"""A column of the table array, and the converter of its results."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Instance, Module, Mux, Signal, Value
from amaranth.hdl import signed as signed_shape
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.blocks.sram_lut_gemv.spec import SramLutGemvSpec
from hw.formats import FP16
from hw.lib.float_ops import Cut, Factor, factor, product, registers, round_exact
from hw.lib.floats import NO, shift_right_sticky, unpack
from hw.lib.select import equals


def _wide(m: Module, name: str, value: Value, width: int) -> Signal:
    """A signed or unsigned value in ``width`` bits of two's complement."""
    found = Signal(width, name=name)
    m.d.comb += found.eq(value)
    return found


def _add(m: Module, name: str, a: Value, b: Value, carry: Value) -> Signal:
    """``a + b + carry`` modulo their width."""
    total = Signal(len(a), name=name)
    m.submodules[f"{name}_add"] = Instance(
        "rtlgen_add",
        p_WIDTH=len(a),
        i_a=a,
        i_b=b,
        i_ci=carry,
        o_s=total,
        o_co=Signal(name=f"{name}_over"),
    )
    return total


class Column(wiring.Component):
    """Weights of one n, their table, and the accumulators of all rows of the batch.

    The running word is the one before plus or minus one weight. A word that was read goes through
    one shifter to its plane's place (and is negated in the sign plane), and from there to an adder
    for each row of a round; rows that take it store what their adder gives.

    Members:
        w, z, w_load: payload of ``i_w`` for this column, taken when ``w_load`` is high.
        step: make the next word, of ``weight`` (a bit each), taken away if ``minus``; the first
            word of a table starts from 0 (``start``).
        write, address, read: registers: write the running word (a bit a word), read.
        word, entry: memory: the running word to write, and the word that was read.
        plane, sign, term_en: the plane of the word that was read; take it into the register behind
            the shifter (``pipeline.front = 1``).
        negate: the word at the adders is of the sign plane.
        round, rows: accumulators that take the sum.
        clear: make them 0.
        row: accumulator for the converter.
        o: all accumulators, or that one.
    """

    def __init__(self, spec: SramLutGemvSpec):
        self.spec = spec
        k, bits = spec.tile.k, spec.max_weight_bits
        members = {
            "w": In(k * bits),
            "w_load": In(1),
            "step": In(1),
            "weight": In(k),
            "minus": In(1),
            "start": In(1),
            "rows": In(spec.reuse.capacity),
            "clear": In(1),
            "o": Out(spec.sum_bits * (spec.tile.m if spec.exact else 1)),
        }
        if spec.zero_point:
            members["z"] = In(bits)
        if spec.array.style == "registers":
            members |= {"write": In(spec.words), "address": In(k), "read": In(1)}
        else:
            members |= {"word": Out(spec.entry_bits), "entry": In(spec.entry_bits)}
        if spec.activations.max_bits > 1:
            members["plane"] = In((spec.activations.max_bits - 1).bit_length())
        if spec.signed:
            members["negate"] = In(1)
        if spec.pipeline.front:
            members["term_en"] = In(1)
        if spec.rounds > 1:
            members["round"] = In((spec.rounds - 1).bit_length())
        if not spec.exact and spec.tile.m > 1:
            members["row"] = In((spec.tile.m - 1).bit_length())
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word = self._running(m)
        if self.spec.array.style == "registers":
            entry = self._table(m, word)
        else:
            m.d.comb += self.word.eq(word)
            entry = self.entry.as_signed()
        self._accumulate(m, self._term(m, entry))
        return m

    def _running(self, m: Module) -> Signal:
        """The word of the turn: the one before and one weight more or less."""
        spec = self.spec
        k, bits, width = spec.tile.k, spec.max_weight_bits, spec.entry_bits
        held = Signal(k * bits, name="w_held", reset_less=True)
        with m.If(self.w_load):
            m.d.sync += held.eq(self.w)
        chosen = Signal(bits, name="chosen")
        legs: Value = Const(0, bits)
        for lane in range(k):
            legs = legs | (held.word_select(lane, bits) & self.weight[lane].replicate(bits))
        m.d.comb += chosen.eq(legs)
        weight: Value = chosen.as_signed()
        if spec.zero_point:
            zero = Signal(bits, name="z_held", reset_less=True)
            with m.If(self.w_load):
                m.d.sync += zero.eq(self.z)
            weight = chosen - zero
        change = _wide(m, "change", weight, width)
        running = Signal(signed_shape(width), name="running", reset_less=True)
        base = Signal(width, name="base")
        m.d.comb += base.eq(running & (~self.start).replicate(width))
        total = _add(m, "next", base, change ^ self.minus.replicate(width), self.minus)
        with m.If(self.step):
            m.d.sync += running.eq(total)
        return running

    def _table(self, m: Module, word: Signal) -> Value:
        """The table in flip-flops, and the register of the word that was read."""
        spec = self.spec
        words = [
            Signal(signed_shape(spec.entry_bits), name=f"word_{index}", reset_less=True)
            for index in range(1, spec.words + 1)
        ]
        for index, item in enumerate(words):
            with m.If(self.write[index]):
                m.d.sync += item.eq(word)
        entry = Signal(signed_shape(spec.entry_bits), name="entry", reset_less=True)
        with m.If(self.read), m.Switch(self.address):
            for index, item in enumerate(words[:-1], 1):
                with m.Case(index):
                    m.d.sync += entry.eq(item)
            with m.Default():
                m.d.sync += entry.eq(words[-1])
        return entry

    def _term(self, m: Module, entry: Value) -> Value:
        """The word at its plane's place."""
        spec = self.spec
        width = spec.entry_bits + spec.activations.max_bits - 1
        term = Signal(signed_shape(width), name="term")
        if spec.activations.max_bits > 1:
            m.d.comb += term.eq(entry << self.plane)
        else:
            m.d.comb += term.eq(entry)
        if not spec.pipeline.front:
            return term
        register = Signal(signed_shape(width), name="term_q", reset_less=True)
        with m.If(self.term_en):
            m.d.sync += register.eq(term)
        return register

    def _accumulate(self, m: Module, term: Value) -> None:
        spec = self.spec
        capacity, width = spec.reuse.capacity, spec.sum_bits
        sums = [Signal(width, name=f"sum_{row}") for row in range(spec.tile.m)]
        negate = self.negate if spec.signed else Const(0, 1)
        addend = Signal(width, name="addend")
        m.d.comb += addend.eq(_wide(m, "term_wide", term, width) ^ negate.replicate(width))
        for place in range(capacity):
            own = sums[place::capacity]
            base = own[-1]
            if spec.rounds > 1:
                base = Signal(width, name=f"base_{place}")
                with m.Switch(self.round):
                    for number, item in enumerate(own[:-1]):
                        with m.Case(number):
                            m.d.comb += base.eq(item)
                    with m.Default():
                        m.d.comb += base.eq(own[-1])
            total = _add(m, f"total_{place}", base, addend, negate)
            for number, item in enumerate(own):
                here = self.rows[place]
                if spec.rounds > 1:
                    here = here & equals(self.round, number)
                with m.If(here):
                    m.d.sync += item.eq(total)
                with m.Elif(self.clear):
                    m.d.sync += item.eq(0)
        if spec.exact:
            m.d.comb += self.o.eq(Cat(*sums))
        elif spec.tile.m == 1:
            m.d.comb += self.o.eq(sums[0])
        else:
            with m.Switch(self.row):
                for row, item in enumerate(sums[:-1]):
                    with m.Case(row):
                        m.d.comb += self.o.eq(item)
                with m.Default():
                    m.d.comb += self.o.eq(sums[-1])


class Converter(wiring.Component):
    """One result a cycle: to a shorter integer, or times a scale to a float; rounded once.

    Registers follow the magnitude, the product (floats alone), the shift and the result, which is
    taken from ``y`` into the register of the port. Nothing stalls inside.

    Members:
        value: an exact sum. scale or shift: what the job has for it.
        enable: a bit a register.
        y: the result, behind the last of them.
    """

    def __init__(self, spec: SramLutGemvSpec):
        self.spec = spec
        self.steps = ("magnitude", "product", "moved") if spec.result_form else (
            "magnitude", "moved"
        )  # fmt: skip
        (item,) = spec.job_operands
        self.operand = item.name
        super().__init__(
            {
                "value": In(spec.sum_bits),
                item.name: In(item.width),
                "enable": In(len(self.steps)),
                "y": Out(spec.result_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, width = self.spec, self.spec.sum_bits

        cut = registers(m, "", self.steps, self.enable)
        flip = self.value[-1]
        magnitude = Signal(width, name="magnitude")
        m.d.comb += magnitude.eq((self.value ^ flip.replicate(width)) + flip)
        operand = cut("magnitude", self.operand, getattr(self, self.operand))
        sign = cut("magnitude", "sign", flip)
        magnitude = cut("magnitude", "value", magnitude)
        form = spec.result_form
        if form is None:
            m.d.comb += self.y.eq(self._integer(m, sign, magnitude, operand, cut))
            return m
        zero = Signal(name="zero")
        m.d.comb += zero.eq(~magnitude.any())
        whole = Factor(
            sign=sign,
            significand=magnitude,
            power=Const(0, signed_shape(1)),
            zero=zero,
            nan=NO,
            inf=NO,
            low=0,
        )
        scale = factor(FP16, unpack(m, "scale", FP16, operand))
        exact = product(m, "scaled", whole, scale, cut=cut)
        m.d.comb += self.y.eq(round_exact(m, "rounded", form, exact, cut=cut))
        return m

    def _integer(self, m: Module, sign: Value, magnitude: Value, shift: Value, cut: Cut) -> Value:
        """Nearest integer of ``magnitude / 2^shift``, ties to even, clipped."""
        width, bits = self.spec.sum_bits, self.spec.result.bits
        # One bit below the point, and what is below that.
        moved, below = shift_right_sticky(m, "moved", Cat(Const(0, 1), magnitude), shift)
        moved, below = cut("moved", "value", moved), cut("moved", "below", below)
        sign = cut("moved", "sign", sign)
        nearest = Signal(width + 1, name="nearest")
        limit = Signal(bits, name="limit")
        clipped = Signal(bits, name="clipped")
        half = 1 << (bits - 1)
        m.d.comb += [
            nearest.eq(moved[1:] + (moved[0] & (below | moved[1]))),
            limit.eq(half - 1 + sign),
            clipped.eq(Mux(nearest > limit, limit, nearest)),
        ]
        code = Signal(bits, name="code")
        m.d.comb += code.eq((clipped ^ sign.replicate(bits)) + sign)
        return code
