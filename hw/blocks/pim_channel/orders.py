"""What a host says to a channel, and the steps that a channel makes of it.

An order is one beat of ``i_cmd``. Legal orders become steps: commands on the DRAM's port, and
doings inside the channel that take a cycle of the sequencer. Refused ones become a status.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from hw.dram import Command

if TYPE_CHECKING:
    from hw.blocks.pim_channel.spec import PimChannelSpec


class Op(IntEnum):
    """Orders; the value is the encoding. Every other one is refused."""

    WRITE = 1  # columns of a bank from i_data
    WRITE_ALL = 2  # the same columns to every bank
    READ = 3  # columns of a bank to o_data
    WRITE_BUFFER = 4  # words of the global buffer from i_data
    WRITE_BIAS = 5  # an accumulator of every bank from one beat of i_data
    MAC = 6  # a dot product in a bank
    MAC_ALL = 7  # one in every bank
    READ_MAC = 8  # an accumulator of every bank to o_data
    ACTIVATE = 9  # an activation function, in every bank
    MULTIPLY = 10  # buffer times columns of a bank, element by element, to the buffer
    ADD = 11  # the same for a sum
    COPY_TO_BUFFER = 12  # columns of a bank to the buffer
    COPY_TO_BANK = 13  # words of the buffer to a bank


class Status(IntEnum):
    """What became of an order; the first rule that it breaks, in this sequence."""

    DONE = 0
    OPCODE = 1  # no such order or function, or this channel has it not
    LENGTH = 2  # length is 0, or more than a dot product may have
    BANK = 3  # there is no such bank
    PLACE = 4  # there is no such row or column, or the last column lies beyond the bank
    BUFFER = 5  # a word lies beyond the buffer, or a dot product's first is not aligned
    ACCUMULATOR = 6  # there is no such accumulator


IDENTITY, RELU, TABLE = 0, 1, 2
"""Functions of ``Op.ACTIVATE``."""


class Order(NamedTuple):
    """One beat of ``i_cmd``, in the order of its fields. What an order does not need is ignored."""

    op: int
    bank: int = 0
    row: int = 0
    column: int = 0
    length: int = 1  # columns, words, or K steps of a dot product
    word: int = 0
    accumulator: int = 0
    keep: int = 0  # a dot product is added to the accumulator, else it replaces it
    function: int = 0


WIDTHS = Order(
    op=5,
    bank=7,
    row=19,
    column=11,
    length=16,
    word=16,
    accumulator=5,
    keep=1,
    function=2,
)
"""Bits of each field: wide enough for places that no channel has."""


MOST_LENGTH = (1 << WIDTHS.length) - 1


class Step(IntEnum):
    """Kinds of steps. Those of the DRAM's port come first."""

    RD = 0
    WR = 1
    WRA = 2
    MAC = 3
    MACA = 4
    AF = 5
    CP = 6  # a column to the buffer
    EW = 7  # a column, combined with a word of the buffer
    CPW = 8  # a word of the buffer to a bank
    BUFFER = 9  # a word from i_data to the buffer
    BIAS = 10  # a beat from i_data to the accumulators
    FUNCTION = 11  # a function without a table
    FETCH = 12  # every bank's accumulator to its port
    GIVE = 13  # a beat of accumulators to o_data
    REFUSE = 14  # nothing but a status


COMMANDS = {
    Step.RD: Command.RD,
    Step.WR: Command.WR,
    Step.WRA: Command.WRA,
    Step.MAC: Command.MAC,
    Step.MACA: Command.MACA,
    Step.AF: Command.AF,
    Step.CP: Command.RDCP,
    Step.EW: Command.RDCP,
    Step.CPW: Command.WRCP,
}
"""The command of a step on the port; other steps stay inside."""

STEPS = {
    Op.WRITE: Step.WR,
    Op.WRITE_ALL: Step.WRA,
    Op.READ: Step.RD,
    Op.WRITE_BUFFER: Step.BUFFER,
    Op.WRITE_BIAS: Step.BIAS,
    Op.MAC: Step.MAC,
    Op.MAC_ALL: Step.MACA,
    Op.READ_MAC: Step.FETCH,
    Op.MULTIPLY: Step.EW,
    Op.ADD: Step.EW,
    Op.COPY_TO_BUFFER: Step.CP,
    Op.COPY_TO_BANK: Step.CPW,
}
"""The first step of an order; ``Op.ACTIVATE`` has AF with a table, else FUNCTION."""

TAKES_DATA = (Step.WR, Step.WRA, Step.BUFFER, Step.BIAS)
"""Steps that take a beat of ``i_data``."""
GIVES_DATA = (Step.RD, Step.GIVE)
"""Steps that make a beat of ``o_data``."""

ONE_BANK = (Op.WRITE, Op.READ, Op.MAC, Op.MULTIPLY, Op.ADD, Op.COPY_TO_BUFFER, Op.COPY_TO_BANK)
COUNTED = (*ONE_BANK, Op.WRITE_ALL, Op.MAC_ALL, Op.WRITE_BUFFER)
ALL_PLACED = (Op.WRITE_ALL, Op.MAC_ALL)
PLACED = (*ONE_BANK, *ALL_PLACED)
BUFFERED = (
    Op.WRITE_BUFFER,
    Op.MAC,
    Op.MAC_ALL,
    Op.MULTIPLY,
    Op.ADD,
    Op.COPY_TO_BUFFER,
    Op.COPY_TO_BANK,
)
ACCUMULATED = (Op.WRITE_BIAS, Op.MAC, Op.MAC_ALL, Op.READ_MAC, Op.ACTIVATE)
DOT = (Op.MAC, Op.MAC_ALL)
ELEMENTWISE = (Op.MULTIPLY, Op.ADD)


class Decoder:
    """What a channel's decoder knows: which orders there are, and how far each may reach."""

    def __init__(self, spec: PimChannelSpec):
        bank, geometry = spec.bank, spec.geometry
        self.banks, self.rows, self.columns = (
            geometry.total_banks,
            geometry.rows,
            geometry.columns,
        )
        self.accumulators = bank.unit.accumulators
        self.buffer_words = spec.buffer_words
        self.table_columns = bank.table_columns
        self.most_steps = min(bank.core.max_k_steps, MOST_LENGTH)
        self.operand_words = bank.operand_words
        self.weight_blocks = 1 + max(w for _, w in bank.passes)
        self.activation_blocks = 1 + max(a for a, _ in bank.passes)
        missing = ELEMENTWISE if spec.elementwise.format == "none" else ()
        self.known = frozenset(int(op) for op in Op if op not in missing)

    def status(self, order: Order) -> Status:
        """The first rule that an order breaks, or DONE."""
        op, table = order.op, False
        if op not in self.known:
            return Status.OPCODE
        if op == Op.ACTIVATE:
            table = order.function == TABLE and self.table_columns > 0
            if not table and order.function not in (IDENTITY, RELU):
                return Status.OPCODE
        if op in _COUNTED:
            most = self.most_steps if op in _DOT else MOST_LENGTH
            if not 1 <= order.length <= most:
                return Status.LENGTH
        if op in _ONE_BANK and order.bank >= self.banks:
            return Status.BANK
        if op in _PLACED or table:
            if order.row >= self.rows or order.column >= self.columns:
                return Status.PLACE
            end = order.row * self.columns + order.column + self.reach(order)
            if end > self.rows * self.columns:
                return Status.PLACE
        if op in _BUFFERED:
            if op in _DOT and order.word % self.operand_words:
                return Status.BUFFER
            if order.word + self.words(order) > self.buffer_words:
                return Status.BUFFER
        if op in _ACCUMULATED and order.accumulator >= self.accumulators:
            return Status.ACCUMULATOR
        return Status.DONE

    def reach(self, order: Order) -> int:
        """Columns from an order's first to its last."""
        if order.op == Op.ACTIVATE:
            return self.table_columns
        return order.length * self.weight_blocks if order.op in _DOT else order.length

    def words(self, order: Order) -> int:
        """Words of the buffer from an order's first to its last."""
        if order.op in _DOT:
            return order.length * self.activation_blocks * self.operand_words
        return order.length


_COUNTED, _PLACED, _BUFFERED, _ACCUMULATED, _DOT, _ONE_BANK = (
    frozenset(int(op) for op in which)
    for which in (COUNTED, PLACED, BUFFERED, ACCUMULATED, DOT, ONE_BANK)
)


@dataclass(frozen=True, kw_only=True)
class Interlock:
    """A step waits for steps of orders before it, for what they make or still need.

    Attributes:
        first: only the first step of an order waits.
        cycles: least distance of the two.
    """

    before: tuple[Step, ...]
    after: tuple[Step, ...]
    cycles: int
    first: bool = True


def interlocks(spec: PimChannelSpec) -> tuple[Interlock, ...]:
    """Every interlock; rows of no effect are left out.

    A read's column is in the channel ``arrival`` cycles behind its step. The units' cycles are
    those of :mod:`hw.blocks.pim_bank.timing`: an operation of a unit begins a cycle before its
    first column comes, or two behind a step without columns.
    """
    from hw.blocks.pim_bank import timing as unit

    bank, s = spec.bank, Step
    arrival, combine = spec.arrival, spec.elementwise.latency
    settle, turn, apply = unit.settle(bank), unit.turn(bank), unit.apply(bank)
    dots, inside = (s.MAC, s.MACA), (s.BIAS, s.FUNCTION, s.FETCH)

    def rows() -> Iterator[Interlock]:
        def row(
            before: tuple[Step, ...], after: tuple[Step, ...], cycles: int, first: bool = True
        ) -> Interlock:
            return Interlock(before=before, after=after, cycles=cycles, first=first)

        yield row(dots, dots, turn)
        yield row(dots, (s.AF,), settle + 1)
        yield row(dots, inside, arrival + settle - 2)
        yield row((s.AF,), (*dots, s.AF), apply + 1)
        yield row((s.AF,), inside, arrival + apply - 2)
        yield row((s.FETCH,), (s.GIVE,), 3, first=False)
        yield row((s.RD,), (s.GIVE,), arrival + 1, first=False)
        # The buffer: what is written when its column comes, and what is read then.
        yield row(dots, (s.BUFFER, s.CPW), arrival)
        yield row((s.CP,), (s.BUFFER, s.CPW), arrival + 1)
        yield row((s.EW,), (s.BUFFER, s.CPW), arrival + combine)
        yield row((s.CP,), (*dots, s.EW), 2)
        yield row((s.EW,), (*dots, s.EW), combine + 1)
        yield row((s.EW,), (s.CP,), combine)

    return tuple(item for item in rows() if item.cycles > 1)
