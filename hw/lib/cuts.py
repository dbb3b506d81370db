"""Registers through a column's arithmetic, placed by estimated time.

The arithmetic is built with every bit's time known; a cut is a moment. What is made before it and
used after it gets a register, once for each cut in between, shared by all users.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Const, Module, Signal, Value

# Estimated delays of an accumulation, in full adders: whatever its width, and a bit.
ACCUMULATE = 3.5
ACCUMULATE_BIT = 0.45


class Cuts:
    """Registers of one column.

    Args:
        m: the column's module.
        moments: when the cuts are, ascending, in units of a full adder.
        enable: one bit a cut.
    """

    def __init__(self, m: Module, moments: Sequence[float] = (), enable: Value | None = None):
        self.m = m
        self.moments = tuple(moments)
        self.enable = Const(0, len(self.moments)) if enable is None else enable
        self._made: dict[tuple[int, int], tuple[Value, Value]] = {}
        self._count = 0

    @property
    def count(self) -> int:
        return len(self.moments)

    def stage(self, time: float) -> int:
        """Cuts before a moment."""
        return sum(moment < time - 1e-9 for moment in self.moments)

    def start(self, stage: int) -> float:
        """When a stage begins."""
        return self.moments[stage - 1] if stage else 0.0

    def to(self, value: Value, stage: int, target: int) -> Value:
        """A value of one stage as seen in a later one."""
        if isinstance(value, Const) or not len(value):
            return value
        for index in range(stage, target):
            key = (id(value), index)
            if key not in self._made:
                register = Signal(len(value), name=f"cut{index}_{self._count}", reset_less=True)
                self._count += 1
                with self.m.If(self.enable[index]):
                    self.m.d.sync += register.eq(value)
                # The value is kept with its register, so that its identity stays its own.
                self._made[key] = (value, register)
            value = self._made[key][1]
        return value


def moments(cuts: int, resolved: float, bits: int, placement: str) -> tuple[float, ...]:
    """Moments that split a column evenly.

    Args:
        resolved: when the last bit of a step's sum is there.
        bits: bits of that sum, which the accumulation ripples through.
        placement: ``speed`` or ``area``, see ``hw.gemm.Pipeline``.
    """
    if not cuts:
        return ()
    if placement == "area":
        return tuple(resolved * (index + 1) / cuts for index in range(cuts))
    # The accumulation ripples behind the sum, which so may end after the last cut.
    accumulation = ACCUMULATE + ACCUMULATE_BIT * bits
    balanced = (resolved + ACCUMULATE) * cuts / (cuts + 1)
    last = min(resolved, max(balanced, resolved - (accumulation - ACCUMULATE)))
    return tuple(last * (index + 1) / cuts for index in range(cuts))
