"""Carry-save heaps: many weighted bits down to two rows, by full adders that a flow can map.

Every full adder is an instance of the one small module ``rtlgen_fa`` (a vector of independent full
adders), plain behavioural Verilog that a synthesis flow may replace by its library's own cell. The
reduction is Dadda's (L. Dadda, "Some schemes for parallel multipliers", 1965): as few adders as
possible at every level; bits that arrive late join late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Instance, Module, Signal, Value

FULL_ADDER = """\
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
"""

# Delays in units of one full adder, for deciding what joins when and where a cut balances.
CARRY_BIT = 0.5


@dataclass(frozen=True)
class _Bit:
    value: Value
    level: int


class Heap:
    """A sum of weighted bits modulo ``2**width``.

    Args:
        m: the module that gets the adders.
        name: prefix of every generated signal and submodule.
        width: bits of the sum; columns above are dropped.
    """

    def __init__(self, m: Module, name: str, width: int):
        self.m = m
        self.name = name
        self.width = width
        self.const = 0
        self._columns: list[list[_Bit]] = [[] for _ in range(width)]
        self._level = 0

    def add(
        self,
        value: Value,
        *,
        lsb: int = 0,
        signed: bool = False,
        negative: bool = False,
        level: int = 0,
    ) -> None:
        """Add ``±value · 2**lsb``; what inversion and signs cost goes into :attr:`const`.

        With ``b`` the sign bit of a signed value and ``low`` the bits below it,
        ``x = low + (1 − b)·2^t − 2^t`` and ``−x = ~low − (2^t − 1) + b·2^t``.

        Args:
            level: full-adder levels after which the value has settled.
        """
        count = len(value)
        top = count - 1 if signed else count
        for i in range(count):
            bit = value[i] ^ 1 if (i == top) ^ negative else value[i]
            self._put(bit, lsb + i, level)
        if negative:
            self.const -= ((1 << top) - 1) << lsb
        elif signed:
            self.const -= 1 << (top + lsb)

    def add_row(self, value: Value, *, lsb: int = 0, level: int = 0) -> None:
        """Add an unsigned row as it stands."""
        for i in range(len(value)):
            self._put(value[i], lsb + i, level)

    def add_constant(self) -> None:
        """Turn :attr:`const` into constant bits."""
        value = self.const % (1 << self.width)
        for column in range(self.width):
            if value >> column & 1:
                self._put(Const(1, 1), column, 0)
        self.const = 0

    def _put(self, bit: Value, column: int, level: int) -> None:
        if column < self.width:
            self._columns[column].append(_Bit(bit, level))

    @property
    def height(self) -> int:
        """Bits of the fullest column."""
        return max(len(column) for column in self._columns)

    def levels(self, rows: int = 2) -> int:
        """Levels of full adders that :meth:`reduce` will make if everything is there at once."""
        return len(_dadda(self.height, rows))

    def reduce(
        self,
        rows: int = 2,
        *,
        cut: Callable[[Signal, int], Signal] | None = None,
        cuts: Sequence[int] = (),
    ) -> list[list[Value]]:
        """Reduce every column to at most ``rows`` bits; returns that many rows of bits.

        Args:
            cut: makes a register of a signal (``cut(signal, index)``).
            cuts: numbers of levels after which all bits are registered.
        """
        if self.const:
            raise AssertionError("constants are still pending: add_constant() first")
        done = 0
        for index, at in enumerate(cuts):
            if at == 0 and done == 0:
                self._register(cut, index)
        for target in _dadda(self.height, rows):
            self._reduce_level(target)
            done += 1
            for index, at in enumerate(cuts):
                if at == done:
                    self._register(cut, index)
        return [
            [col[row].value if row < len(col) else Const(0, 1) for col in self._columns]
            for row in range(rows)
        ]

    def _register(self, cut: Callable[[Signal, int], Signal] | None, index: int) -> None:
        assert cut is not None
        places = []
        for column, bits in enumerate(self._columns):
            for row, bit in enumerate(bits):
                if not isinstance(bit.value, Const):
                    places.append((row, column))
        rows: dict[int, list[int]] = {}
        for row, column in places:
            rows.setdefault(row, []).append(column)
        for row, columns in sorted(rows.items()):
            before = Signal(len(columns), name=f"{self.name}_cut{index}_{row}_d")
            self.m.d.comb += before.eq(Cat(*(self._columns[c][row].value for c in columns)))
            after = cut(before, index)
            for i, column in enumerate(columns):
                self._columns[column][row] = _Bit(after[i], self._level)

    def _reduce_level(self, target: int) -> None:
        """One level: columns higher than ``target`` come down to it."""
        name, level = self.name, self._level
        following: list[list[_Bit]] = [[] for _ in range(self.width)]
        full: dict[int, list[tuple[int, list[Value]]]] = {}
        carries = [0] * (self.width + 1)
        half: list[tuple[int, list[Value]]] = []
        kept: list[list[_Bit]] = []
        for column in range(self.width):
            # Late bits wait; constants go into adders last, where they make half adders.
            bits = sorted(
                self._columns[column],
                key=lambda bit: (bit.level > level, isinstance(bit.value, Const)),
            )
            height = len(bits) + carries[column]
            slot = 0
            while height > target and len(bits) >= 2:
                if height == target + 1 or len(bits) == 2:
                    # Of three bits one constant makes the cheaper half adder.
                    if len(bits) >= 3 and height >= target + 1 and isinstance(bits[-1].value, Const):
                        taken = [bits.pop(0), bits.pop(0), bits.pop(-1)]
                        height -= 2
                    else:
                        taken = [bits.pop(0), bits.pop(0)]
                        height -= 1
                    half.append((column, [bit.value for bit in taken]))
                else:
                    taken = [bits.pop(0), bits.pop(0), bits.pop(0)]
                    height -= 2
                    if any(isinstance(bit.value, Const) for bit in taken):
                        half.append((column, [bit.value for bit in taken]))
                    else:
                        full.setdefault(slot, []).append((column, [bit.value for bit in taken]))
                        slot += 1
                carries[column + 1] += 1
            kept.append(bits)
        for slot, adders in sorted(full.items()):
            for run in _runs(adders):
                self._full_adders(level, slot, run, following)
        for column, values in half:
            self._half_adder(level, column, values, following)
        for column in range(self.width):
            following[column] = kept[column] + following[column]
        self._columns = following
        self._level += 1

    def _full_adders(
        self,
        level: int,
        slot: int,
        run: list[tuple[int, list[Value]]],
        following: list[list[_Bit]],
    ) -> None:
        first, width = run[0][0], len(run)
        label = f"{self.name}_l{level}_{slot}_{first}"
        total = Signal(width, name=f"{label}_s")
        carry = Signal(width, name=f"{label}_co")
        a, b, c = (Cat(*(values[i] for _, values in run)) for i in range(3))
        self.m.submodules[f"fa_{label}"] = Instance(
            "rtlgen_fa", p_WIDTH=width, i_a=a, i_b=b, i_c=c, o_s=total, o_co=carry
        )
        for i in range(width):
            following[first + i].append(_Bit(total[i], level + 1))
            if first + i + 1 < self.width:
                following[first + i + 1].append(_Bit(carry[i], level + 1))

    def _half_adder(
        self, level: int, column: int, values: list[Value], following: list[list[_Bit]]
    ) -> None:
        ones = sum(value.value for value in values if isinstance(value, Const))
        bits = [value for value in values if not isinstance(value, Const)]
        label = f"{self.name}_l{level}_h{column}_{len(following[column])}"
        total = Signal(name=f"{label}_s")
        carry = Signal(name=f"{label}_co")
        if len(bits) == 2:
            parity = bits[0] ^ bits[1]
            self.m.d.comb += total.eq(~parity if ones else parity)
            self.m.d.comb += carry.eq(bits[0] | bits[1] if ones else bits[0] & bits[1])
        elif len(bits) == 1:
            self.m.d.comb += total.eq(bits[0] ^ (ones & 1))
            self.m.d.comb += carry.eq(bits[0] if ones == 1 else ones >> 1)
        else:
            self.m.d.comb += [total.eq(ones & 1), carry.eq(ones >> 1)]
        following[column].append(_Bit(total, level + 1))
        if column + 1 < self.width:
            following[column + 1].append(_Bit(carry, level + 1))


def _dadda(height: int, rows: int) -> list[int]:
    """Target heights of the levels, largest first: …, 13, 9, 6, 4, 3, 2."""
    targets = [rows]
    while targets[-1] * 3 // 2 < height:
        targets.append(targets[-1] * 3 // 2)
    return list(reversed(targets)) if height > rows else []


def _runs(adders: list[tuple[int, list[Value]]]) -> list[list[tuple[int, list[Value]]]]:
    """Adders of neighbouring columns together."""
    runs: list[list[tuple[int, list[Value]]]] = []
    for column, values in adders:
        if runs and runs[-1][-1][0] == column - 1:
            runs[-1].append((column, values))
        else:
            runs.append([(column, values)])
    return runs
