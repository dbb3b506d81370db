"""What all columns share: the operand register, the table generator and the corrections."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.blocks.lut_core import golden, tables
from hw.blocks.lut_core.align import Aligner
from hw.blocks.lut_core.plan import Plan
from hw.blocks.lut_core.spec import LutCoreSpec
from hw.lib.gemm_shell import field_slice
from hw.streams import Stream


class TableGenerator:
    """Tables and all-ones sums of one step, combinational.

    Entries are built from shared partial sums of halves, so a table of two takes one addition and
    a full table of four eleven (FIGLUT, arXiv 2503.06862, counts 14 for a generator of four).
    """

    def __init__(self, m: Module, spec: LutCoreSpec, row: int, lanes: list[Value], shift: Value):
        self.m, self.spec, self.row = m, spec, row
        self.lanes, self.shift = lanes, shift
        self._sums: dict[tuple[tuple[int, int], ...], Value] = {}

    def entries(self) -> list[Value]:
        """Every stored entry, group by group, signed, of the width columns see."""
        found = []
        width = golden.entry_bits(self.spec)
        for g, group in enumerate(self.spec.groups):
            for i, pattern in enumerate(tables.group_patterns(self.spec)[g]):
                terms = tuple(
                    (lane, int(sign)) for lane, sign in zip(group, pattern, strict=True) if sign
                )
                entry = Signal(signed(width), name=f"entry_{self.row}_{g}_{i}")
                self.m.d.comb += entry.eq(self._quantized(self._sum(terms), f"{self.row}_{g}_{i}"))
                found.append(entry)
        return found

    def total(self, entries: list[Value]) -> Value:
        """Sum of the all-ones entries, which are the last ones of each group."""
        spec = self.spec
        last, position = [], 0
        for pattern in tables.group_patterns(spec):
            position += len(pattern)
            last.append(entries[position - 1])
        while len(last) > 1:
            pairs = [a + b for a, b in zip(last[::2], last[1::2], strict=False)]
            last = pairs + last[len(pairs) * 2 :]
        total = Signal(signed(golden.sum_bits(spec)), name=f"sum_{self.row}")
        self.m.d.comb += total.eq(last[0])
        return total

    def _sum(self, terms: tuple[tuple[int, int], ...]) -> Value:
        """``Σ sign · a[lane]``, from sums of its two halves; the last sign is +1."""
        if terms in self._sums:
            return self._sums[terms]
        if len(terms) == 1:
            ((lane, sign),) = terms
            value = self.lanes[lane] if sign > 0 else -self.lanes[lane]
        else:
            middle = len(terms) // 2
            low, high = terms[:middle], terms[middle:]
            # Keep halves in canonical sign so that they are shared.
            sign = low[-1][1]
            left = self._sum(tuple((lane, s * sign) for lane, s in low))
            right = self._sum(high)
            value = right + left if sign > 0 else right - left
        name = "_".join(f"{'p' if s > 0 else 'n'}{lane}" for lane, s in terms)
        result = Signal(value.shape(), name=f"sum_{self.row}_{name}")
        self.m.d.comb += result.eq(value)
        self._sums[terms] = result
        return result

    def _quantized(self, value: Value, name: str) -> Value:
        """``clip(floor(value / 2^shift + 1/2))`` to INT8 where the core quantizes its entries."""
        if not self.spec.quantized:
            return value
        wide = Signal(signed(self.spec.exact_entry_bits + 1), name=f"wide_{name}")
        # One more bit below the point, then the rounding addition, then drop it.
        shifted = Signal(signed(self.spec.exact_entry_bits + 1), name=f"shifted_{name}")
        self.m.d.comb += [
            wide.eq(value << 1),
            shifted.eq(((wide >> self.shift) + 1) >> 1),
        ]
        result = Signal(signed(8), name=f"int8_{name}")
        with self.m.If(shifted > 127):
            self.m.d.comb += result.eq(127)
        with self.m.Elif(shifted < -128):
            self.m.d.comb += result.eq(-128)
        with self.m.Else():
            self.m.d.comb += result.eq(shifted)
        return result


def lanes(spec: LutCoreSpec, item: Stream, payload: Value, row: int) -> tuple[list[Value], Value]:
    """One row's activations and the shift of its entries, from a payload of ``i_a``."""
    bits, k = spec.activations.bits, spec.tile.k
    a = field_slice(item, payload, "a")
    found: list[Value] = []
    for lane in range(k):
        value = a.word_select(row * k + lane, bits)
        found.append(value.as_signed() if spec.activations.signed else value)
    shift = field_slice(item, payload, "entry_shift") if spec.quantized else Cat()
    return found, shift


class Front(wiring.Component):
    """Operand register, tables, corrections, and with ``pipeline.front`` a register behind them.

    Members:
        operand: payload of the operand stream, taken when ``a_load`` is high.
        f_load: take the outputs into their register (``pipeline.front`` 1 and 2); with floats and
            no such register, the step is taken.
        g_load: take what is behind the largest exponents into theirs (``pipeline.front = 2``).
        first: the step that ``f_load`` takes is a job's first (floats).
        others: see :class:`hw.blocks.lut_core.plan.Plan`.
    """

    def __init__(self, spec: LutCoreSpec):
        self.spec = spec
        self.plan = Plan(spec)
        self.stream = golden.operand_stream(spec)
        super().__init__(
            {
                "operand": In(self.stream.width),
                "a_load": In(1),
                "f_load": In(1),
                **({"g_load": In(1)} if spec.pipeline.front > 1 else {}),
                **({"first": In(1)} if self.plan.shared.begins else {}),
                **{name: Out(width) for name, width in self.plan.shared.outputs.items()},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, plan = self.spec, self.plan
        held = Signal(self.stream.width, reset_less=True)
        with m.If(self.a_load):
            m.d.sync += held.eq(self.operand)

        entries: list[Value] = []
        totals: list[Value | None] = []
        aligners: list[Aligner] = []
        for row in range(spec.tile.m):
            if spec.activations.floating:
                aligner = Aligner(m, spec, row, self._floats(held, row), self)
                aligners.append(aligner)
                generator = TableGenerator(m, spec, row, aligner.lanes(), Cat())
                row_entries = generator.entries()
                total = generator.total(row_entries) if spec.needs_sum else None
            elif spec.table.source == "port":
                row_entries, total = self._from_port(held, row)
            else:
                generator = TableGenerator(m, spec, row, *lanes(spec, self.stream, held, row))
                row_entries = generator.entries()
                total = generator.total(row_entries) if spec.needs_sum else None
            entries.extend(row_entries)
            totals.append(total)
        values: dict[str, Value] = {"t": Cat(*entries)}
        for name in plan.shared.outputs:
            if aligners and name in aligners[0].outputs:
                values[name] = Cat(*(aligner.outputs[name] for aligner in aligners))
            elif name != "t":
                values[name] = Cat(*(plan.correction(name, total) for total in totals))
        for name, value in values.items():
            port = getattr(self, name)
            made = Signal(len(port), name=f"made_{name}")
            m.d.comb += made.eq(value)
            if spec.pipeline.front and name not in Aligner.registered:
                register = Signal(len(port), name=f"{name}_q", reset_less=True)
                with m.If(self.f_load):
                    m.d.sync += register.eq(made)
                m.d.comb += port.eq(register)
            else:
                m.d.comb += port.eq(made)
        return m

    def _floats(self, held: Value, row: int) -> tuple[list[Value], Value | None]:
        """One row's codes, and the exponent that is given with them."""
        a, k = self.spec.activations, self.spec.tile.k
        codes = field_slice(self.stream, held, "a")
        given = None
        if a.given:
            given = field_slice(self.stream, held, "exponent").word_select(
                row, a.form.exponent_bits
            )
        return [codes.word_select(row * k + lane, a.form.width) for lane in range(k)], given

    def _from_port(self, held: Value, row: int) -> tuple[list[Value], Value | None]:
        spec = self.spec
        width, count = golden.entry_bits(spec), tables.entry_count(spec)
        t = field_slice(self.stream, held, "t")
        entries: list[Value] = [t.word_select(row * count + i, width) for i in range(count)]
        if not spec.needs_sum:
            return entries, None
        s = field_slice(self.stream, held, "s")
        return entries, s.word_select(row, golden.sum_bits(spec)).as_signed()
