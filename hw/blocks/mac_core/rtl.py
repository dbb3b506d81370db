"""RTL of the multiplier array: front end, column and design.

Booth digits are made where they are shared most. Recoded activations are shared by all N columns
and recoded weights by the M rows of one; narrow weights have few digits, which saves more. Every
partial product of a step, and the zero point's, enters one carry-save heap an output.
"""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.block import Design
from hw.blocks.mac_core import golden
from hw.blocks.mac_core.spec import MacCoreSpec
from hw.lib import booth, column
from hw.lib.accumulator import offset, window
from hw.lib.cuts import Cuts
from hw.lib.gemm_shell import Shared, design, field_slice
from hw.lib.heap import Bit, Heap
from hw.lib.passes import PlanePasses

# Estimated delay of a partial product behind the registers, in full adders.
SELECT = 3.5


class Plan:
    """Derived widths.

    Attributes:
        a_bits, w_bits: two's complement widths of the operands (one more if unsigned).
        recode_weights: whether the digits are the weights', else the activations'.
        sum_bits: width of the step's sum of activations, for zero points.
    """

    def __init__(self, spec: MacCoreSpec):
        self.spec = spec
        widen = spec.weight_encoding in ("unsigned", "bipolar")
        self.a_bits = spec.activations.bits + (not spec.activations.signed)
        self.w_bits = spec.max_weight_bits + widen
        by_weights = booth.digit_count(self.w_bits) * (self.a_bits + 2)
        by_activations = booth.digit_count(self.a_bits) * (self.w_bits + 2)
        self.recode_weights = by_weights < by_activations
        self.sum_bits = self.a_bits + (spec.tile.k - 1).bit_length()
        outputs = {}
        if self.recode_weights:
            outputs["a"] = spec.tile.m * spec.tile.k * self.a_bits
        else:
            digits = booth.digit_count(self.a_bits)
            outputs["digits"] = spec.tile.m * spec.tile.k * digits * 3
        if spec.zero_point:
            outputs["total"] = spec.tile.m * self.sum_bits
        self.shared = Shared(outputs=outputs)


class Front(wiring.Component):
    """Operand register, digits of the activations or the activations, and their sum.

    Members:
        operand: payload of ``i_a``, taken when ``a_load`` is high.
        f_load: take the outputs into their register (``pipeline.front = 1``).
        digits or a, total: see :class:`Plan`.
    """

    def __init__(self, spec: MacCoreSpec):
        self.spec = spec
        self.plan = Plan(spec)
        self.stream = golden.streams(spec)[1]
        super().__init__(
            {
                "operand": In(self.stream.width),
                "a_load": In(1),
                "f_load": In(1),
                **{name: Out(width) for name, width in self.plan.shared.outputs.items()},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, plan = self.spec, self.plan
        held = Signal(self.stream.width, reset_less=True)
        with m.If(self.a_load):
            m.d.sync += held.eq(self.operand)
        bits, k = spec.activations.bits, spec.tile.k
        payload = field_slice(self.stream, held, "a")
        lanes = []
        for index in range(spec.tile.m * k):
            lane = payload.word_select(index, bits)
            lanes.append(lane if spec.activations.signed else Cat(lane, Const(0, 1)))
        values: dict[str, Value] = {}
        if plan.recode_weights:
            values["a"] = Cat(*lanes)
        else:
            values["digits"] = Cat(
                *(
                    booth.lines(booth.recode(m, lane, f"a_{index}"))
                    for index, lane in enumerate(lanes)
                )
            )
        if spec.zero_point:
            totals = []
            for row in range(spec.tile.m):
                terms = [lane.as_signed() for lane in lanes[row * k : (row + 1) * k]]
                while len(terms) > 1:
                    pairs = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)]
                    terms = pairs + terms[len(pairs) * 2 :]
                total = Signal(signed(plan.sum_bits), name=f"total_{row}")
                m.d.comb += total.eq(terms[0])
                totals.append(total)
            values["total"] = Cat(*totals)
        for name, value in values.items():
            port = getattr(self, name)
            if spec.pipeline.front:
                register = Signal(len(port), name=f"{name}_q", reset_less=True)
                with m.If(self.f_load):
                    m.d.sync += register.eq(value)
                m.d.comb += port.eq(register)
            else:
                m.d.comb += port.eq(value)
        return m


class Column(column.Column):
    """Partial products of a column; from the front end it gets what :class:`Plan` names."""

    spec: MacCoreSpec

    def __init__(self, spec: MacCoreSpec):
        self.plan = Plan(spec)
        shared = self.plan.shared.inputs(spec.tile.m, ())
        super().__init__(spec, golden.streams(spec)[2], shared)

    def prepare(self, m: Module, held: Mapping[str, Value]) -> None:
        spec, plan, k = self.spec, self.plan, self.spec.tile.k
        weights = [
            self._weight(held["w"].word_select(lane, spec.max_weight_bits)) for lane in range(k)
        ]
        digits: dict[str, list[booth.Digit]] = {}
        if plan.recode_weights:
            for lane, weight in enumerate(weights):
                digits[f"w_{lane}"] = booth.recode(m, weight, f"w_{lane}")
        if spec.zero_point:
            # −D + z·S: the digits of z, negated, are subtracted.
            digits["z"] = [
                booth.Digit(digit.one, digit.two, ~digit.negative)
                for digit in booth.recode(m, Cat(held["z"], Const(0, 1)), "z")
            ]
        self._weights, self._digits = weights, digits

    def step(self, m: Module, cuts: Cuts, row: int) -> tuple[list[Bit], Value]:
        spec, plan, k = self.spec, self.plan, self.spec.tile.k
        weights, digits = self._weights, self._digits
        width = window(-spec.step_magnitude, spec.step_magnitude)
        heap = Heap(m, f"m{row}_heap", width, cuts)
        for lane in range(k):
            name = f"product_{row}_{lane}"
            if plan.recode_weights:
                value = self.a.word_select(row * k + lane, plan.a_bits)
                self._subtract(m, heap, value, digits[f"w_{lane}"], name)
            else:
                count = booth.digit_count(plan.a_bits)
                lines = self.digits.word_select(row * k + lane, 3 * count)
                self._subtract(m, heap, weights[lane], booth.from_lines(lines, count), name)
        if spec.zero_point:
            total = self.total.word_select(row, plan.sum_bits)
            self._subtract(m, heap, total, digits["z"], f"zero_{row}")
        heap.const += offset(width)
        return heap.resolve(), Const(1, 1)

    def _weight(self, code: Value) -> Value:
        """A weight in two's complement of ``w_bits``."""
        encoding = self.spec.weight_encoding
        if encoding == "unsigned":
            return Cat(code, Const(0, 1))
        if encoding == "bipolar":
            # 2u − (2^B − 1): u doubled, the top bit complemented, the lowest bit one.
            return Cat(Const(1, 1), code[:-1], ~code[-1])
        return code

    def _subtract(
        self, m: Module, heap: Heap, value: Value, digits: list[booth.Digit], name: str
    ) -> None:
        """Put ``−value · digits`` into the heap: a digit of one sign adds the complement."""
        width = len(value) + 1
        for index, digit in enumerate(digits):
            wide = Cat(value, value[-1])
            doubled = Cat(Const(0, 1), value)
            picked = (digit.one.replicate(width) & wide) | (digit.two.replicate(width) & doubled)
            positive = Signal(name=f"{name}_positive_{index}")
            term = Signal(width, name=f"{name}_{index}")
            m.d.comb += [
                positive.eq(~digit.negative),
                term.eq(picked ^ positive.replicate(width)),
            ]
            heap.add(term, lsb=2 * index, signed=True, time=SELECT)
            heap.add_bit(positive, 2 * index, time=1.0)


def build(spec: MacCoreSpec) -> Design:
    """The design of a specification."""
    return design(
        spec,
        golden.streams(spec),
        sequencer=PlanePasses(spec),
        shared=Plan(spec).shared,
        front=Front(spec),
        column=Column(spec),
    )
