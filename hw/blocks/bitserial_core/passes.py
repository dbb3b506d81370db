"""Which step of which pair of planes is next."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import Cat, Const, Module, Signal, Value

from hw.blocks.bitserial_core.spec import BitserialCoreSpec
from hw.lib.passes import Steps


class PlanePairs:
    """Passes over pairs of planes ``(i, j)``, by ``i + j`` from the highest, lowest ``i`` first.

    A descriptor names the planes of A and W that come (``a_planes``, ``w_planes``) and, where there
    are signs, the sign's. A sum ``i + j`` that no pair has takes one step without operands. Columns
    are told as ``negative`` that a pair counts negative, where one can in all of them.
    """

    def __init__(self, spec: BitserialCoreSpec):
        self.spec = spec
        self.a_bits, self.w_bits = spec.activations.max_bits, spec.weights.max_bits
        formats = {"a_sign": spec.activations.encoding, "w_sign": spec.weights.encoding}
        self.signs = [name for name, code in formats.items() if code == "twos_complement"]
        self.lines: tuple[str, ...] = ("negative",) if self.signs else ()

    def elaborate(self, m: Module, job: Callable[[str], Value], load: Value, fire: Value) -> Steps:
        """``left`` are the pairs of the sum at hand that are still to come, by ``i``.

        Bit ``i`` of ``partners`` is plane ``sum − i`` of W: the next sum is a shift away.
        """
        a_bits, sums = self.a_bits, self.a_bits + self.w_bits - 1
        steps_left = Signal(range(max(2, self.spec.max_k_steps)))
        k_steps_m1 = Signal.like(steps_left)
        sums_left = Signal(range(max(2, sums)))
        a_planes = Signal(a_bits)
        partners = Signal(sums)
        left = Signal(a_bits)
        rest = Signal(a_bits)
        first_step = Signal()
        first_sum = Signal()
        fresh = Signal()
        idle = Signal()
        last_step = Signal()
        last_pair = Signal()
        last_pass = Signal()
        m.d.comb += [
            rest.eq(left & (left - 1)),
            last_pair.eq(~rest.any()),
            idle.eq(~left.any()) if self.spec.skips_planes else idle.eq(0),
            last_step.eq(idle | ~steps_left.any()),
            last_pass.eq(last_pair & ~sums_left.any()),
        ]
        with m.If(fire):
            m.d.sync += [first_step.eq(last_step), steps_left.eq(steps_left - 1), fresh.eq(0)]
            with m.If(last_step):
                m.d.sync += [steps_left.eq(k_steps_m1), left.eq(rest)]
                with m.If(last_pair):
                    m.d.sync += [
                        sums_left.eq(sums_left - 1),
                        partners.eq(partners >> 1),
                        left.eq(a_planes & partners[1 : 1 + a_bits]),
                        fresh.eq(1),
                        first_sum.eq(0),
                    ]

        # The first sum is that of the highest planes.
        above = Signal(range(sums + 2))
        highest = self._by_partner(job("w_planes")) >> above
        empty = ~job("a_planes").any() | ~job("w_planes").any()
        m.d.comb += above.eq(_leading(m, job("a_planes"), "a") + _leading(m, job("w_planes"), "w"))
        with m.If(load):
            m.d.sync += [
                steps_left.eq(job("k_steps_m1")),
                k_steps_m1.eq(job("k_steps_m1")),
                a_planes.eq(job("a_planes")),
                partners.eq(highest),
                left.eq(job("a_planes") & highest),
                sums_left.eq(sums - 1 - above),
                first_step.eq(1),
                first_sum.eq(1),
                fresh.eq(1),
            ]
            with m.If(empty):
                m.d.sync += sums_left.eq(0)

        negative: Value = Const(0, 1)
        now = left & ~rest
        if "a_sign" in self.signs:
            a_sign = Signal(a_bits)
            with m.If(load):
                m.d.sync += a_sign.eq(job("a_sign"))
            negative = negative ^ (now & a_sign).any()
        if "w_sign" in self.signs:
            w_sign = Signal(sums)
            with m.If(fire & last_step & last_pair):
                m.d.sync += w_sign.eq(w_sign >> 1)
            with m.If(load):
                m.d.sync += w_sign.eq(self._by_partner(job("w_sign")) >> above)
            negative = negative ^ (now & w_sign[:a_bits]).any()
        return Steps(
            first_step=first_step,
            last_step=last_step,
            first_pass=first_sum,
            last_pass=last_pass,
            hold=~fresh,
            shift=fresh & ~first_sum,
            idle=idle if self.spec.skips_planes else None,
            lines=dict.fromkeys(self.lines, negative),
        )

    def _by_partner(self, planes: Value) -> Value:
        """A mask of W's planes by ``i`` of the partner in the highest sum that there is."""
        return Cat(Const(0, self.a_bits - 1), *(planes[j] for j in reversed(range(self.w_bits))))


def _leading(m: Module, mask: Value, name: str) -> Value:
    """Zeros above a mask's highest one."""
    width = len(mask)
    found = Signal(range(width + 1), name=f"above_{name}")
    m.d.comb += found.eq(width)
    for index in range(width):
        with m.If(mask[index]):
            m.d.comb += found.eq(width - 1 - index)
    return found
