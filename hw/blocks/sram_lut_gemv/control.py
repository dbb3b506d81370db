"""Control of the table array: what each cycle does, and the patterns of the batch.

A K step is ``words`` cycles in which the table is written, then a cycle a lookup. Words are written
in the order of a Gray code, so that each is the one before with one weight added or taken away.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.blocks.sram_lut_gemv.spec import SramLutGemvSpec


class Patterns(wiring.Component):
    """The batch's activations, plane by plane, and the reuse table of one round.

    The register moves down by a bit a plane, so that the plane at hand is always bit 0.

    Members:
        operand, load: payload of ``i_a``, taken when ``load`` is high.
        shift: go on to the next plane.
        round: rows at hand, ``capacity`` of them from ``round · capacity`` on.
        fresh: no lookup of this round was made yet; every row that needs one waits.
        take: the lookup at hand is made.
        reuse: of the job: rows with the same pattern share a lookup, rows of pattern 0 need none.
        pattern: the word to look up: that of the first row that waits, 0 if none does.
        rows: rows that take the word.
        last: no row waits behind this lookup.
    """

    def __init__(self, spec: SramLutGemvSpec):
        self.spec = spec
        members = {
            "operand": In(spec.tile.m * spec.tile.k * spec.activations.max_bits),
            "load": In(1),
            "fresh": In(1),
            "take": In(1),
            "pattern": Out(spec.tile.k),
            "rows": Out(spec.reuse.capacity),
            "last": Out(1),
        }
        if spec.activations.max_bits > 1:
            members["shift"] = In(1)
        if spec.rounds > 1:
            members["round"] = In((spec.rounds - 1).bit_length())
        if spec.reuses:
            members["reuse"] = In(1)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        k, bits, capacity = spec.tile.k, spec.activations.max_bits, spec.reuse.capacity
        held = [
            Signal(bits, name=f"a_{row}_{lane}", reset_less=True)
            for row in range(spec.tile.m)
            for lane in range(k)
        ]
        if bits > 1:
            with m.If(self.shift):
                m.d.sync += [item[:-1].eq(item[1:]) for item in held]
        with m.If(self.load):
            m.d.sync += [
                item.eq(self.operand.word_select(index, bits)) for index, item in enumerate(held)
            ]
        plane = [
            Cat(*(item[0] for item in held[row * k : row * k + k])) for row in range(spec.tile.m)
        ]
        patterns = [Signal(k, name=f"pattern_{row}") for row in range(capacity)]
        if spec.rounds == 1:
            m.d.comb += [found.eq(word) for found, word in zip(patterns, plane, strict=True)]
        else:
            with m.Switch(self.round):
                for number in range(spec.rounds):
                    with m.Case(number) if number < spec.rounds - 1 else m.Default():
                        m.d.comb += [
                            found.eq(plane[number * capacity + row])
                            for row, found in enumerate(patterns)
                        ]
        some = Cat(*(item.any() for item in patterns))
        waiting, kept = Signal(capacity), Signal(capacity, reset_less=True)
        first, share = Signal(capacity), Signal(capacity)
        behind = Signal(capacity)
        reuse = self.reuse if spec.reuses else Const(0, 1)
        m.d.comb += [
            # Without reuse rows of pattern 0 wait for their turn as well.
            waiting.eq(Mux(self.fresh, some | ~reuse.replicate(capacity), kept)),
            first.eq(waiting & (~waiting + 1)),
            self.pattern.eq(_chosen(first, patterns)),
            behind.eq(waiting & ~share),
            self.rows.eq(share & some),
            self.last.eq(~behind.any()),
        ]
        if spec.reuses:
            # Rows that were served have other patterns, those of pattern 0 take nothing.
            same = Cat(*(item == self.pattern for item in patterns))
            m.d.comb += share.eq(Mux(reuse, same, first))
        else:
            m.d.comb += share.eq(first)
        with m.If(self.take):
            m.d.sync += kept.eq(behind)
        return m


def _chosen(select: Value, words: list[Signal]) -> Value:
    """The word whose bit of ``select`` is set, 0 if none is."""
    legs = [word & select[index].replicate(len(word)) for index, word in enumerate(words)]
    while len(legs) > 1:
        legs = [left | right for left, right in zip(legs[::2], legs[1::2], strict=False)] + (
            [legs[-1]] if len(legs) % 2 else []
        )
    return legs[0]


class Steps:
    """The sequencer's registers and what they say of the cycle at hand.

    Attributes:
        writes: a word of the table is written: ``turn`` counts them from 1, ``weight`` is the one
            that changes, a bit each, ``minus`` whether it is taken away, ``word`` its address.
        looks: a lookup is made, or an empty round passes.
        plane: of the lookup; sign: it is the sign plane.
        frees_w, frees_a: the step has no more use for its operand.
        finish: the job's last lookup.
    """

    def __init__(self, spec: SramLutGemvSpec):
        k = spec.tile.k
        self.spec = spec
        self.writes, self.looks = Signal(name="writes"), Signal(name="looks")
        self.turn = Signal(k, init=1, name="turn")
        self.weight = Signal(k, name="weight")
        self.word = Signal(k, name="word")
        self.minus = Signal(name="minus")
        self.plane = Signal(range(max(2, spec.activations.max_bits)), name="plane")
        self.round = Signal(range(max(2, spec.rounds)), name="round")
        self.fresh = Signal(init=1, name="fresh")
        self.sign = Signal(name="sign")
        self.shift = Signal(name="shift")
        self.frees_w, self.frees_a = Signal(name="frees_w"), Signal(name="frees_a")
        self.finish = Signal(name="finish")

    def elaborate(
        self,
        m: Module,
        *,
        go: Value,
        active: Value,
        w_full: Value,
        a_full: Value,
        last_row: Value,
        last_plane: Value,
        last_step: Value,
    ) -> None:
        """Make them.

        Args:
            go: the pipeline moves. last_row: the lookup at hand is the last of its round.
            last_plane: top plane of the job. last_step: the job's last K step.
        """
        spec, turn = self.spec, self.turn
        using, full = Signal(name="using"), Signal(name="table_full")
        top, end = Signal(name="top_plane"), Signal(name="end_round")
        m.d.comb += [
            self.writes.eq(go & active & w_full & ~using),
            self.looks.eq(go & active & a_full & using),
            # Bit i of a Gray code changes in the turns whose lowest bit is i.
            self.weight.eq(turn & (~turn + 1)),
            self.word.eq(turn ^ turn[1:]),
            self.minus.eq((self.weight & turn[1:]).any()),
            full.eq(turn.all()),
            self.frees_w.eq(self.writes & full),
            top.eq(self.plane == last_plane),
            end.eq(self.looks & last_row & (self.round == spec.rounds - 1)),
            self.sign.eq(top),
            self.shift.eq(end & ~top),
            self.frees_a.eq(end & top),
            self.finish.eq(self.frees_a & last_step),
        ]
        with m.If(self.writes):
            m.d.sync += turn.eq(turn + 1)
        with m.If(self.frees_w):
            m.d.sync += [turn.eq(1), using.eq(1)]
        with m.If(self.looks):
            m.d.sync += self.fresh.eq(last_row)
            with m.If(last_row):
                m.d.sync += self.round.eq(self.round + 1)
        with m.If(end):
            m.d.sync += [self.round.eq(0), self.plane.eq(self.plane + 1)]
        with m.If(self.frees_a):
            m.d.sync += [self.plane.eq(0), using.eq(0)]
