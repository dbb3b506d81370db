"""Products of unsigned numbers: Booth digits, a carry-save heap, two rows for one addition."""

from __future__ import annotations

import heapq
import itertools

from amaranth.hdl import Cat, Const, Module, Signal, Value

from hw.lib import booth
from hw.lib.cuts import Cuts
from hw.lib.heap import Bit, Heap

SELECT = 1.0
"""When a Booth digit's multiple is there, in units of a full adder."""


class _Rows(Heap):
    """A heap that stops at two bits a column: what is left is an adder's work."""

    def rows(self) -> tuple[Value, Value]:
        constant = self.const % (1 << self.width)
        self.const = 0
        ordinal = itertools.count()
        carries: list[Bit] = []
        left: list[list[Value]] = []
        for column in range(self.width):
            queue = [(bit.time, next(ordinal), bit) for bit in (*self._columns[column], *carries)]
            heapq.heapify(queue)
            carries = []
            one = constant >> column & 1
            index = 0
            while len(queue) + one > 2:
                label = f"{self.name}_{column}_{index}"
                index += 1
                if one and len(queue) == 2:
                    taken = [heapq.heappop(queue)[2] for _ in range(2)]
                    total, carry = self._with_one(label, taken, column == self.width - 1)
                    one = 0
                else:
                    taken = [heapq.heappop(queue)[2] for _ in range(3)]
                    total, carry = self._full(label, taken)
                heapq.heappush(queue, (total.time, next(ordinal), total))
                carries.append(carry)
            ones: list[Value] = [Const(1, 1)] if one else []
            left.append([*(bit.value for _, _, bit in sorted(queue)), *ones])
        nothing = Const(0, 1)
        first, second = (
            Cat(*(bits[row] if row < len(bits) else nothing for bits in left)) for row in (0, 1)
        )
        return first, second


def product_rows(m: Module, name: str, left: Value, right: Value) -> tuple[Value, Value]:
    """Two numbers of ``len(left) + len(right)`` bits whose sum, modulo that, is the product.

    The shorter factor is recoded (radix 4), the longer one is multiplied by its digits.
    """
    if len(right) > len(left):
        left, right = right, left
    width = len(left) + len(right)
    if len(right) == 1:
        return Cat(left & right.replicate(len(left)), Const(0, 1)), Const(0, width)
    heap = _Rows(m, f"{name}_heap", width, Cuts(m))
    value = Cat(left, Const(0, 1))
    size = len(value)
    for index, digit in enumerate(booth.recode(m, Cat(right, Const(0, 1)), f"{name}_digit")):
        picked = (digit.one.replicate(size) & value) | (
            digit.two.replicate(size) & Cat(Const(0, 1), left)
        )
        term = Signal(size, name=f"{name}_term_{index}")
        # A negative multiple is the complement and one; its sign is that of the digit.
        m.d.comb += term.eq(picked ^ digit.negative.replicate(size))
        heap.add(Cat(term, digit.negative), lsb=2 * index, signed=True, time=SELECT)
        heap.add_bit(digit.negative, 2 * index)
    return heap.rows()
