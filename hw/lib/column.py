"""The part that every column of a GEMM core shares: weights, pipeline and accumulators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amaranth.hdl import Cat, Fragment, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.gemm import GemmSpec
from hw.lib.accumulator import accumulate
from hw.lib.cuts import Cuts, moments
from hw.lib.heap import Bit
from hw.streams import Stream


class Column(wiring.Component):
    """One n: its weights, and for every m what a step adds, and the accumulator.

    Members:
        fields of ``i_w``: this column's part of the payload, taken when ``w_load`` is high.
        others of the front end and of control: see ``inputs``.
        acc_en, hold, shift: a step is accumulated; keep the sum; double it.
        cut_en: enables of the registers through the heap.
        c, take_c: the addend and when to take it.
        o: results of every m.

    Args:
        weights: the stream ``i_w``.
        inputs: width of what every column gets, by name.
        planes: times the accumulators double between passes; 0 if a job makes one pass.
        doubled: the accumulators hold twice the result.
        halved: the accumulators hold the result without its lowest bit, which the shell knows.
        guard: bits of the results below the steps' sums.

        down: radices of the digits of ``down``, which says row by row how far accumulators are
            shifted down before a step is added, and ``moving`` the bits of any sum that is; see
            ``hw.lib.accumulator``.
    """

    def __init__(
        self,
        spec: GemmSpec,
        weights: Stream,
        inputs: Mapping[str, int],
        *,
        planes: int = 0,
        doubled: bool = False,
        halved: bool = False,
        guard: int = 0,
        down: Sequence[int] = (),
        moving: int = 0,
    ):
        self.spec = spec
        self.planes, self.doubled, self.halved, self.guard = planes, doubled, halved, guard
        self.radices, self.moving = tuple(down), moving
        self.lanes = {item.name: item.bits // spec.tile.n for item in weights.fields}
        members = dict(inputs)
        if spec.pipeline.heap:
            members["cut_en"] = spec.pipeline.heap
        if spec.addend:
            members |= {"c": spec.tile.m * spec.result_bits, "take_c": 1}
        super().__init__(
            {
                **{name: In(bits) for name, bits in self.lanes.items()},
                **{name: In(1) for name in ("w_load", "acc_en", "hold", "shift")},
                **{name: In(width) for name, width in members.items()},
                "o": Out(spec.tile.m * spec.result_bits),
            }
        )

    def step(self, m: Module, cuts: Cuts, row: int) -> tuple[list[Bit], Value]:
        """``R`` of a step, complemented where it is negated, and the carry that goes with it.

        See ``hw.lib.accumulator``.
        """
        raise NotImplementedError

    def prepare(self, m: Module, held: Mapping[str, Value]) -> None:
        """Make what all rows share; ``held`` are the weights by field."""
        raise NotImplementedError

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        held = {}
        for name, bits in self.lanes.items():
            register = Signal(bits, name=f"{name}_q", reset_less=True)
            with m.If(self.w_load):
                m.d.sync += register.eq(getattr(self, name))
            held[name] = register

        cuts = Cuts(m)
        if spec.pipeline.heap:
            # Once on a scratch module to learn when the sum is there, then for good.
            scratch = Module()
            self.prepare(scratch, held)
            trial, _ = self.step(scratch, Cuts(scratch), 0)
            Fragment.get(scratch, None)  # Amaranth warns of modules that nobody elaborates.
            pipeline = spec.pipeline
            resolved = max(bit.time for bit in trial)
            when = moments(pipeline.heap, resolved, len(trial), pipeline.placement)
            cuts = Cuts(m, when, self.cut_en)
        self.prepare(m, held)
        results = []
        for row in range(spec.tile.m):
            total, carry = self.step(m, cuts, row)
            y = accumulate(
                m,
                f"m{row}",
                spec.result_bits + self.doubled - self.halved,
                step=Cat(*(cuts.to(bit.value, bit.stage, cuts.count) for bit in total)),
                carry=cuts.to(carry, 0, cuts.count),
                enable=self.acc_en,
                hold=self.hold,
                shift=self.shift if self.planes else None,
                planes=self.planes,
                addend=self._addend(row),
                take=self.take_c if spec.addend else None,
                down=self._down(row),
                moving=self.moving,
                guard=self.guard,
            )
            if self.doubled:
                y = y[1:]
            results.append(Cat(0, y) if self.halved else y)
        m.d.comb += self.o.eq(Cat(*results))
        return m

    def _down(self, row: int) -> list[tuple[int, Value]] | None:
        if not self.radices:
            return None
        position, weight, found = row * sum(self.radices), 1, []
        for radix in self.radices:
            found.append((weight, self.down[position : position + radix]))
            position, weight = position + radix, weight * radix
        return found

    def _addend(self, row: int) -> Value | None:
        if not self.spec.addend:
            return None
        value = self.c.word_select(row, self.spec.result_bits)
        return Cat(0, value) if self.doubled else value
