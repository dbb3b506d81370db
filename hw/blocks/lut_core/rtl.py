"""RTL of the LUT tensor core: the column, and the design."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Signal, Value

from hw.block import Design
from hw.blocks.lut_core import golden, tables
from hw.blocks.lut_core.front import Front
from hw.blocks.lut_core.plan import Plan
from hw.blocks.lut_core.spec import LutCoreSpec
from hw.lib import column
from hw.lib.accumulator import offset, window
from hw.lib.cuts import Cuts
from hw.lib.gemm_shell import design
from hw.lib.heap import Bit, Heap
from hw.lib.passes import PlanePasses

# Estimated delays in full adders: a looked-up term behind the registers, an exclusive or.
SELECT = 3.0
XOR = 0.5


class Column(column.Column):
    """Lookups of a column; from the front end it gets ``t``, ``row``, ``z_0`` and ``z_1``.

    ``first`` says that the step is in a job's first pass; for the others see
    :class:`hw.blocks.lut_core.plan.Plan`.
    """

    spec: LutCoreSpec

    def __init__(self, spec: LutCoreSpec):
        self.plan = plan = Plan(spec)
        super().__init__(
            spec,
            golden.weight_stream(spec),
            plan.shared.inputs(spec.tile.m, sequencer(spec).lines),
            planes=plan.planes if plan.multi_pass else 0,
            doubled=plan.doubled,
            halved=plan.halved,
            guard=spec.activations.guard,
            down=plan.down,
            moving=plan.moving,
        )

    def prepare(self, m: Module, held: Mapping[str, Value]) -> None:
        self._held = held
        self._selects = self._select_lines(m, held["w"])

    def step(self, m: Module, cuts: Cuts, row: int) -> tuple[list[Bit], Value]:
        plan, z, selects = self.plan, self._held.get("z"), self._selects
        bits = window(*plan.bounds)
        negate = {p: z[p] if z is not None else self.first for p in plan.negated}
        parts: dict[int, list[Bit]] = {}
        for plane in plan.negated:
            part = Heap(m, f"m{row}_p{plane}", bits, cuts)
            self._add_terms(m, part, row, plane, 0, selects[plane])
            part.const += offset(bits)
            # ±D = value + carry − 2^(bits−1), see hw.lib.accumulator.
            parts[plane] = [
                Bit(bit.value ^ cuts.to(negate[plane], 0, bit.stage), bit.time + XOR, bit.stage)
                for bit in part.resolve()
            ]
        if plan.planes == 1 and plan.negated:
            positive = Signal(name=f"m{row}_positive")
            m.d.comb += positive.eq(~negate[0])
            return parts[0], positive
        width = window(*plan.step_bounds())
        heap = Heap(m, f"m{row}_heap", width, cuts)
        for plane in range(plan.planes):
            if plane in parts:
                for column, bit in enumerate(parts[plane]):
                    heap.add_bit(bit.value, plane + column, time=bit.time, stage=bit.stage)
                heap.add_bit(~negate[plane], plane)
                heap.const -= 1 << (bits - 1 + plane)
            else:
                self._add_terms(
                    m, heap, row, plane, plane, selects[plane], fixed=plane in plan.fixed
                )
        self._add_corrections(m, heap, row, z)
        heap.const += offset(width)
        return heap.resolve(), Const(1, 1)

    def _select_lines(self, m: Module, w: Value) -> list[list[tuple[list[Value], Value | None]]]:
        """Per plane and group: one-hot selects of the entries, and the sign where folded.

        The sign line is high where the entry is to be *added to* the accumulator's complement,
        that is where the term is negative.
        """
        spec, plan = self.spec, self.plan
        if spec.ternary:
            return [self._ternary_selects(m, w)]
        found = []
        for plane in range(plan.planes):
            groups: list[tuple[list[Value], Value | None]] = []
            for g, group in enumerate(spec.groups):
                bits = [w[lane * plan.planes + plane] for lane in group]
                negative = None
                if plan.folded:
                    negative = bits.pop()
                patterns = tables.group_patterns(spec)[g]
                first = 0 if plan.folded else 1
                lines = []
                for i in range(len(patterns)):
                    index = i + first
                    literals = [bit if index >> k & 1 else ~bit for k, bit in enumerate(bits)]
                    line = Signal(name=f"select_{plane}_{g}_{i}")
                    m.d.comb += line.eq(Cat(*literals).all() if literals else 1)
                    lines.append(line)
                groups.append((lines, negative))
            found.append(groups)
        return found

    def _ternary_selects(self, m: Module, w: Value) -> list[tuple[list[Value], Value | None]]:
        spec = self.spec
        present, negative = self._trits(m, w)
        found: list[tuple[list[Value], Value | None]] = []
        for g, group in enumerate(spec.groups):
            sign = Signal(name=f"negative_{g}")
            chosen: Value = negative[group[0]]
            for lane in group[1:]:
                chosen = (present[lane] & negative[lane]) | (~present[lane] & chosen)
            m.d.comb += sign.eq(chosen)
            lines = []
            for i, pattern in enumerate(tables.group_patterns(spec)[g]):
                top = max(k for k, value in enumerate(pattern) if value)
                literals = []
                for k, (lane, value) in enumerate(zip(group, pattern, strict=True)):
                    literals.append(present[lane] if value else ~present[lane])
                    if value and k != top:
                        differs = negative[lane] ^ negative[group[top]]
                        literals.append(differs if value < 0 else ~differs)
                line = Signal(name=f"select_{g}_{i}")
                m.d.comb += line.eq(Cat(*literals).all())
                lines.append(line)
            found.append((lines, sign))
        return found

    def _trits(self, m: Module, w: Value) -> tuple[list[Value], list[Value]]:
        """Per lane: whether the trit is not zero, and whether it is negative."""
        k = self.spec.tile.k
        if self.spec.weights.packing == "planes":
            return [w[2 * lane] for lane in range(k)], [w[2 * lane + 1] for lane in range(k)]
        present: list[Value] = []
        negative: list[Value] = []
        for index in range(-(-k // 5)):
            decoded = Signal(10, name=f"trits_{index}")
            with m.Switch(w.word_select(index, 8)):
                for byte in range(243):
                    trits = [byte // 3**i % 3 - 1 for i in range(5)]
                    value = sum(
                        (t != 0) << 2 * i | (t < 0) << 2 * i + 1 for i, t in enumerate(trits)
                    )
                    with m.Case(byte):
                        m.d.comb += decoded.eq(value)
                with m.Default():
                    m.d.comb += decoded.eq(0)
            for i in range(min(5, k - 5 * index)):
                present.append(decoded[2 * i])
                negative.append(decoded[2 * i + 1])
        return present, negative

    def _add_terms(
        self,
        m: Module,
        heap: Heap,
        row: int,
        plane: int,
        lsb: int,
        groups: list[tuple[list[Value], Value | None]],
        *,
        fixed: bool = False,
    ) -> None:
        """Put ``−Σ terms`` of one plane into a heap, or ``+Σ`` of a plane that counts negative."""
        spec, plan = self.spec, self.plan
        count, width, look = tables.entry_count(spec), plan.entry_bits, plan.look_bits
        position = row * count
        for g, (lines, negative) in enumerate(groups):
            entries = [self.t.word_select(position + i, width) for i in range(len(lines))]
            position += len(lines)
            picked = reduce(
                or_,
                (
                    line.replicate(look) & entry[:look]
                    for line, entry in zip(lines, entries, strict=True)
                ),
            )
            term = Signal(look, name=f"term_{row}_{plane}_{g}")
            if negative is None:
                m.d.comb += term.eq(picked)
                heap.add(term, lsb=lsb, signed=plan.entry_signed, negative=not fixed, time=SELECT)
            else:
                # −(±E): E where the term is negative, else ~E + 1.
                positive = Signal(name=f"positive_{row}_{plane}_{g}")
                m.d.comb += [positive.eq(~negative), term.eq(picked ^ positive.replicate(look))]
                heap.add(term, lsb=lsb, signed=True, time=SELECT + XOR)
                heap.add_bit(positive, lsb, time=1.0)

    def _add_corrections(self, m: Module, heap: Heap, row: int, z: Value | None) -> None:
        plan = self.plan
        if not plan.multiples:
            return
        width = plan.row_bits
        if z is not None:
            for plane in range(plan.planes):
                zero, one = self.z_0.word_select(row, width), self.z_1.word_select(row, width)
                chosen = Signal(width, name=f"corrected_{row}_{plane}")
                gate = z[plane].replicate(width)
                m.d.comb += chosen.eq((one & gate) | (zero & ~gate))
                heap.add(chosen, lsb=plane, signed=True, time=1.5)
            return
        heap.add(self.row.word_select(row, width), signed=True, time=1.0)
        if plan.halved:
            heap.add(self.carry[row], negative=True, time=1.0)


def sequencer(spec: LutCoreSpec) -> PlanePasses:
    """Order of a job's passes."""
    return PlanePasses(spec, first=Plan(spec).first)


def build(spec: LutCoreSpec) -> Design:
    """The design of a specification."""
    return design(
        spec,
        golden.streams(spec),
        sequencer=sequencer(spec),
        shared=Plan(spec).shared,
        front=Front(spec),
        column=Column(spec),
    )
