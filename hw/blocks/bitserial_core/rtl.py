"""RTL of the bit-serial core: front end, column and design.

A step multiplies one plane of A by one of W: an AND (or, of two ±1 planes, an exclusive or) a lane,
full adders that count them, and one carry-propagate addition into the accumulator, which doubles
when the next sum of planes begins. So the accumulators are as wide as the result and no wider, and
a product of one bit costs about a gate, a full adder and its share of the weight's register.
"""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.block import Design
from hw.blocks.bitserial_core import golden
from hw.blocks.bitserial_core.passes import PlanePairs
from hw.blocks.bitserial_core.spec import BitserialCoreSpec
from hw.lib import column
from hw.lib.accumulator import offset, window
from hw.lib.cuts import Cuts
from hw.lib.gemm_shell import Shared, design
from hw.lib.heap import Bit, Heap

# Estimated delays in full adders: a product behind the registers, an exclusive or.
SELECT = 1.5
XOR = 0.5


class Plan:
    """Derived facts.

    Attributes:
        shared: ``a``, the plane's bits, zero in a step without operands; with ±1 planes of W and
            0/1 planes of A ``count``, the ones of each row.
        halved: ±1 planes of both and an even number of lanes give even sums.
    """

    def __init__(self, spec: BitserialCoreSpec):
        rows, k = spec.tile.m, spec.tile.k
        self.count_bits = k.bit_length()
        self.both = spec.activations.encoding == "bipolar"
        self.halved = self.both and k % 2 == 0 and not spec.addend
        outputs = {"a": rows * k}
        if spec.mixed:
            outputs["count"] = rows * self.count_bits
        self.shared = Shared(outputs=outputs)


class Front(wiring.Component):
    """The plane's register, and its ones counted where columns need that.

    Members:
        operand: payload of ``i_a``, taken when ``a_load`` is high.
        f_load: take the outputs into their register (``pipeline.front = 1``).
        idle: the step takes no operands; its planes are zero.
        a, count: see :class:`Plan`.
    """

    def __init__(self, spec: BitserialCoreSpec):
        self.spec = spec
        self.plan = Plan(spec)
        members = {"operand": In(spec.tile.m * spec.tile.k), "a_load": In(1), "f_load": In(1)}
        if spec.skips_planes:
            members["idle"] = In(1)
        outputs = {name: Out(width) for name, width in self.plan.shared.outputs.items()}
        super().__init__({**members, **outputs})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, k = self.spec, self.spec.tile.k
        held = Signal(len(self.operand), reset_less=True)
        with m.If(self.a_load):
            m.d.sync += held.eq(self.operand)
        values: dict[str, Value] = {"a": held}
        if spec.mixed:
            counts = []
            for row in range(spec.tile.m):
                heap = Heap(m, f"count_{row}", self.plan.count_bits, Cuts(m))
                for bit in held[row * k : (row + 1) * k]:
                    heap.add_bit(bit, 0)
                counts.append(Cat(*(bit.value for bit in heap.resolve())))
            values["count"] = Cat(*counts)
        for name, value in values.items():
            if spec.pipeline.front:
                register = Signal(len(value), name=f"{name}_q", reset_less=True)
                with m.If(self.f_load):
                    m.d.sync += register.eq(value)
                value = register
            if spec.skips_planes:
                value = value & (~self.idle).replicate(len(value))
            m.d.comb += getattr(self, name).eq(value)
        return m


class Column(column.Column):
    """Products and counts of a column; from the front end it gets what :class:`Plan` names.

    ``negative`` says that the pair of planes counts negative, beside the zero point's bit.
    """

    spec: BitserialCoreSpec

    def __init__(self, spec: BitserialCoreSpec):
        self.plan = Plan(spec)
        super().__init__(
            spec,
            golden.streams(spec)[2],
            self.plan.shared.inputs(spec.tile.m, PlanePairs(spec).lines),
            planes=1 if spec.max_passes > 1 else 0,
            halved=self.plan.halved,
        )

    def prepare(self, m: Module, held: Mapping[str, Value]) -> None:
        self._w = held["w"]
        negative: Value = self.negative if PlanePairs(self.spec).lines else Const(0, 1)
        if "z" in held:
            negative = negative ^ held["z"]
        self._positive = Signal(name="positive")
        m.d.comb += self._positive.eq(~negative)

    def step(self, m: Module, cuts: Cuts, row: int) -> tuple[list[Bit], Value]:
        spec, plan, k = self.spec, self.plan, self.spec.tile.k
        products = []
        for lane in range(k):
            a, w = self.a[row * k + lane], self._w[lane]
            product = Signal(name=f"product_{row}_{lane}")
            m.d.comb += product.eq(a ^ w if plan.both else a & w)
            products.append(product)
        if plan.both:
            # D = K − 2X of X lanes that differ, or half of it.
            scale = 1 if plan.halved else 2
            bound = k * scale // 2
            heap = Heap(m, f"m{row}_heap", window(-bound, bound), cuts)
            for product in products:
                heap.add_bit(product, scale - 1, time=SELECT)
            heap.const += offset(heap.width) - bound
            return heap.resolve(), Const(1, 1)
        if spec.mixed:
            # D = 2P − Σ a of P products.
            heap = Heap(m, f"m{row}_heap", window(-k, k), cuts)
            for product in products:
                heap.add(product, lsb=1, negative=True, time=SELECT)
            heap.add(self.count.word_select(row, plan.count_bits), time=SELECT)
            heap.const += offset(heap.width)
            total = heap.resolve()
            if not spec.signs:
                return total, Const(1, 1)
            return self._signed(total, cuts, inverted=False), self._positive
        heap = Heap(m, f"m{row}_heap", plan.count_bits, cuts)
        for product in products:
            heap.add_bit(product, 0, time=SELECT)
        # R = 2^bits − 1 − D is the count's complement below a zero.
        total = [*heap.resolve(), Bit(Const(1, 1), 0.0)]
        return self._signed(total, cuts, inverted=True), self._positive

    def _signed(self, total: list[Bit], cuts: Cuts, *, inverted: bool) -> list[Bit]:
        """``R``, or its complement where the pair counts negative; ``total`` is ``R`` or ``~R``."""
        found = []
        for bit in total:
            flip = cuts.to(self._positive, 0, bit.stage)
            value = bit.value ^ flip if inverted else ~(bit.value ^ flip)
            found.append(Bit(value, bit.time + XOR, bit.stage))
        return found


def build(spec: BitserialCoreSpec) -> Design:
    """The design of a specification."""
    return design(
        spec,
        golden.streams(spec),
        sequencer=PlanePairs(spec),
        shared=Plan(spec).shared,
        front=Front(spec),
        column=Column(spec),
    )
