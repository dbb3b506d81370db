"""Carry-save heaps: many weighted bits down to one row, by full adders that a flow can map.

Every full adder is an instance of the one small module ``rtlgen_fa``, plain behavioural Verilog
that a synthesis flow may replace by its library's own cell. The tree is built by arrival time,
column by column, the three earliest bits of a column first and the latest on the carry input (V. G.
Oklobdzija et al., "A method for speed optimized partial product reduction", 1996); it goes on until
one bit a column is left, so that the final carry ripples behind the tree instead of after it.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

from amaranth.hdl import Const, Instance, Module, Signal, Value

from hw.lib.cuts import Cuts

LIBRARY = (
    """\
`ifndef RTLGEN_FA
`define RTLGEN_FA
// WIDTH independent full adders. A synthesis flow may map each bit onto a library cell.
module rtlgen_fa #(parameter WIDTH = 1) (
  input  [WIDTH-1:0] a,
  input  [WIDTH-1:0] b,
  input  [WIDTH-1:0] c,
  output [WIDTH-1:0] s,
  output [WIDTH-1:0] co
);
  assign s = a ^ b ^ c;
  assign co = (a & b) | (c & (a ^ b));
endmodule
`endif
""",
    """\
`ifndef RTLGEN_ADD
`define RTLGEN_ADD
// Carry-propagate addition. A synthesis flow may choose the adder.
module rtlgen_add #(parameter WIDTH = 1) (
  input  [WIDTH-1:0] a,
  input  [WIDTH-1:0] b,
  input              ci,
  output [WIDTH-1:0] s,
  output             co
);
  assign {co, s} = {1'b0, a} + {1'b0, b} + {{(WIDTH){1'b0}}, ci};
endmodule
`endif
""",
    """\
`ifndef RTLGEN_STEP
`define RTLGEN_STEP
// The upper half of adding a short signed number: a + ci if up, else a - 1 + ci.
module rtlgen_step #(parameter WIDTH = 1) (
  input  [WIDTH-1:0] a,
  input              up,
  input              ci,
  output [WIDTH-1:0] s
);
  wire [WIDTH:0] sum = {1'b0, a} + {1'b0, {(WIDTH){~up}}} + {{(WIDTH){1'b0}}, ci};
  assign s = sum[WIDTH-1:0];
endmodule
`endif
""",
)

# Delays of a full adder in units of its slowest path: a and b or c, to sum or carry.
AB_SUM, C_SUM, AB_CARRY, C_CARRY = 1.0, 0.9, 0.8, 0.65
HALF_SUM, HALF_CARRY = 0.5, 0.35


@dataclass(frozen=True)
class Bit:
    """A bit, when it settles, and the cuts that it has crossed."""

    value: Value
    time: float
    stage: int = 0


class Heap:
    """A sum of weighted bits modulo ``2**width``.

    Args:
        m: the module that gets the adders.
        name: prefix of every generated signal and submodule.
        width: bits of the sum; columns above are dropped.
        cuts: where registers go.
    """

    def __init__(self, m: Module, name: str, width: int, cuts: Cuts):
        self.m = m
        self.name = name
        self.width = width
        self.cuts = cuts
        self.const = 0
        self._columns: list[list[Bit]] = [[] for _ in range(width)]

    def add(
        self,
        value: Value,
        *,
        lsb: int = 0,
        signed: bool = False,
        negative: bool = False,
        time: float = 0.0,
        stage: int = 0,
    ) -> None:
        """Add ``±value · 2**lsb``; what inversion and signs cost goes into :attr:`const`.

        With ``b`` the sign bit of a signed value and ``low`` the ``t`` bits below it,
        ``x = low + (1 − b)·2^t − 2^t`` and ``−x = ~low − (2^t − 1) + b·2^t``.
        """
        count = len(value)
        top = count - 1 if signed else count
        for i in range(count):
            inverted = (i == top) ^ negative
            self.add_bit(value[i] ^ 1 if inverted else value[i], lsb + i, time=time, stage=stage)
        if negative:
            self.const -= ((1 << top) - 1) << lsb
        elif signed:
            self.const -= 1 << (top + lsb)

    def add_bit(self, value: Value, column: int, *, time: float = 0.0, stage: int = 0) -> None:
        """Add one bit as it stands."""
        if column < self.width:
            self._columns[column].append(Bit(value, time, stage))

    @property
    def empty(self) -> bool:
        """Whether nothing but the constant has been added."""
        return not any(self._columns)

    def resolve(self) -> list[Bit]:
        """The sum, one bit a column, least significant first."""
        constant = self.const % (1 << self.width)
        self.const = 0
        ordinal = itertools.count()
        carries: list[Bit] = []
        result = []
        for column in range(self.width):
            queue = [(bit.time, next(ordinal), bit) for bit in (*self._columns[column], *carries)]
            heapq.heapify(queue)
            carries = []
            one = constant >> column & 1
            last = column == self.width - 1
            index = 0
            while len(queue) + one > 1:
                label = f"{self.name}_{column}_{index}"
                index += 1
                if one and len(queue) <= 2:
                    # A constant one is cheapest where it meets two bits, or the last one.
                    taken = [heapq.heappop(queue)[2] for _ in range(len(queue))]
                    total, carry = self._with_one(label, taken, last)
                    one = 0
                elif len(queue) >= 3:
                    taken = [heapq.heappop(queue)[2] for _ in range(3)]
                    total, carry = self._full(label, taken)
                else:
                    taken = [heapq.heappop(queue)[2] for _ in range(2)]
                    total, carry = self._half(label, taken, last)
                heapq.heappush(queue, (total.time, next(ordinal), total))
                if not last:
                    carries.append(carry)
            if queue:
                result.append(queue[0][2])
            else:
                result.append(Bit(Const(one, 1), 0.0, 0))
        return result

    def compress(self) -> list[list[Bit]]:
        """The sum, at most two bits a column, least significant first.

        By stages, each of which leaves columns of no more than two thirds of the height before it
        and adds no more than that takes (L. Dadda, "Some schemes for parallel multipliers", 1965):
        unlike those of :meth:`resolve`, carries never ripple; the rest is for one carry-propagate
        addition.
        """
        constant = self.const % (1 << self.width)
        self.const = 0
        columns = [list(bits) for bits in self._columns]
        for column, bits in enumerate(columns):
            if constant >> column & 1:
                bits.append(Bit(Const(1, 1), 0.0, 0))
        heights = [2]
        while heights[-1] < max(map(len, columns)):
            heights.append(heights[-1] * 3 // 2)
        for height in reversed(heights[:-1]):
            columns = self._stage(columns, height)
        return [bits or [Bit(Const(0, 1), 0.0, 0)] for bits in columns]

    def _stage(self, columns: list[list[Bit]], height: int) -> list[list[Bit]]:
        """Columns of at most ``height`` bits, by adders side by side."""
        result: list[list[Bit]] = [[] for _ in columns]
        for column, bits in enumerate(columns):
            last = column == self.width - 1
            queue = sorted(bits, key=lambda bit: bit.time)
            index = 0
            while len(queue) + len(result[column]) > height:
                label = f"{self.name}_{height}_{column}_{index}"
                index += 1
                count = min(3, len(queue), len(queue) + len(result[column]) - height + 1)
                taken, queue = queue[:count], queue[count:]
                rest = [bit for bit in taken if not isinstance(bit.value, Const)]
                if len(rest) < count:
                    total, carry = self._with_one(label, rest, last)
                elif count == 3:
                    total, carry = self._full(label, taken)
                else:
                    total, carry = self._half(label, taken, last)
                result[column].append(total)
                if not last:
                    result[column + 1].append(carry)
            result[column] += queue
        return result

    def _aligned(self, label: str, bits: list[Bit], delay: float) -> tuple[list[Value], float, int]:
        """Values of bits in one stage, the time they are all there, and that stage."""
        time = max(bit.time for bit in bits)
        stage = max(self.cuts.stage(time + delay), *(bit.stage for bit in bits))
        values = [self.cuts.to(bit.value, bit.stage, stage) for bit in bits]
        return values, max(time, self.cuts.start(stage)), stage

    def _full(self, label: str, bits: list[Bit]) -> tuple[Bit, Bit]:
        values, _, stage = self._aligned(label, bits, AB_SUM)
        early, late = max(bits[0].time, bits[1].time), bits[2].time
        start = self.cuts.start(stage)
        early, late = max(early, start), max(late, start)
        total = Signal(name=f"{label}_s")
        carry = Signal(name=f"{label}_co")
        self.m.submodules[f"fa_{label}"] = Instance(
            "rtlgen_fa",
            p_WIDTH=1,
            i_a=values[0],
            i_b=values[1],
            i_c=values[2],
            o_s=total,
            o_co=carry,
        )
        return (
            Bit(total, max(early + AB_SUM, late + C_SUM), stage),
            Bit(carry, max(early + AB_CARRY, late + C_CARRY), stage),
        )

    def _half(self, label: str, bits: list[Bit], last: bool) -> tuple[Bit, Bit]:
        values, time, stage = self._aligned(label, bits, HALF_SUM)
        total = Signal(name=f"{label}_s")
        self.m.d.comb += total.eq(values[0] ^ values[1])
        carry = Signal(name=f"{label}_co")
        if not last:
            self.m.d.comb += carry.eq(values[0] & values[1])
        return Bit(total, time + HALF_SUM, stage), Bit(carry, time + HALF_CARRY, stage)

    def _with_one(self, label: str, bits: list[Bit], last: bool) -> tuple[Bit, Bit]:
        """One or two bits and a constant one."""
        values, time, stage = self._aligned(label, bits, HALF_SUM)
        total = Signal(name=f"{label}_s")
        carry = Signal(name=f"{label}_co")
        if len(values) == 2:
            self.m.d.comb += total.eq(~(values[0] ^ values[1]))
            if not last:
                self.m.d.comb += carry.eq(values[0] | values[1])
        else:
            self.m.d.comb += total.eq(~values[0])
            if not last:
                self.m.d.comb += carry.eq(values[0])
        return Bit(total, time + HALF_SUM, stage), Bit(carry, time + HALF_CARRY, stage)
