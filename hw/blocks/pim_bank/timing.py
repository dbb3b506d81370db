"""Cycles of a bank's unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hw.block import block
from hw.blocks.pim_bank.spec import PimBankSpec

if TYPE_CHECKING:
    from hw.blocks.pim_bank.golden import BankWork

FORMULA = (
    "1 + the cycle of the last result, in which operations begin one after another: a mac `turn` "
    "cycles behind the last column of the mac before it, with a column a cycle; any other when "
    "nothing is under way, `settle` cycles behind a mac's last column and `apply` behind a table's"
)

TABLE = 2
"""The function whose values come by columns."""


def constants(spec: PimBankSpec) -> dict[str, int]:
    """Constants of :data:`FORMULA`."""
    return {
        "latency": 3,
        "turn": turn(spec),
        "settle": settle(spec),
        "apply": apply(spec),
        "table_columns": spec.table_columns,
        "passes": len(spec.passes),
    }


def turn(spec: PimBankSpec) -> int:
    """Least distance from the last column of a mac to the first one of the next.

    An addition of FP32 takes three cycles, and the next may need its sum.
    """
    return 3 if spec.fp32 else 1


def settle(spec: PimBankSpec) -> int:
    """Cycles from a mac's last column to its sum in the accumulator."""
    timing = block(spec.core.block).timing
    core: int = timing.latency(spec.core)  # type: ignore[attr-defined]
    return core + (3 if spec.fp32 else 1)


def apply(spec: PimBankSpec) -> int:
    """Cycles from a table's last column to the function's value in the accumulator."""
    return 7 if spec.fp32 else 3


def cycles(spec: PimBankSpec, works: Sequence[BankWork]) -> int:
    """First input transfer to last output transfer, both counted, nothing stalling.

    An operation stands in a register before it begins, and the next is taken when it does.
    """
    begin = 0  # when the operation at hand does
    mac = 0  # when a mac may
    quiet = 0  # when nothing is under way
    last = 0
    for work in works:
        for op in work.ops:
            if op.kind == "mac":
                begin = max(begin + 1, mac)
                end = begin + op.columns(spec)
                mac, quiet = end + turn(spec) - 1, end + settle(spec)
                continue
            begin = max(begin + 1, quiet)
            if op.kind == "read":
                last = begin + 1
            elif op.kind == "activate" and op.function == TABLE:
                mac = quiet = begin + spec.table_columns + apply(spec)
    return last + 1
