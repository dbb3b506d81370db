"""RTL of the floating-point core: front end, column and design.

What a sharing of operands can pay for is done where they are shared: the front end takes the
activations apart and triples their significands for all columns; a column takes its weights apart,
dequantizes them and makes the lines that choose multiples for all rows. A row
(:mod:`hw.blocks.fp_core.row`) multiplies, aligns and adds; :mod:`hw.lib.float_accumulator` keeps
the sum. Rows, accumulators, multipliers and dequantizers are modules of their own, each mapped
once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.block import Design
from hw.blocks.fp_core import golden, multiply
from hw.blocks.fp_core.dequantize import Dequantizer
from hw.blocks.fp_core.multiply import Multiplier
from hw.blocks.fp_core.row import Row, operand_lines
from hw.blocks.fp_core.spec import FpCoreSpec
from hw.blocks.fp_core.stages import stages
from hw.lib import align, float_accumulator
from hw.lib.cuts import Cuts
from hw.lib.floats import Unpacked, unpack
from hw.lib.gemm_shell import Shared, design, field_slice
from hw.lib.passes import PlanePasses

LATE = ("late_sign", "part", "triple", "choices")
"""Lines of an operand that are used in the stage of the products."""


def shared(spec: FpCoreSpec) -> Shared:
    """What the front end hands to every column: of every row its lines, and whether one is NaN."""
    at, tile = stages(spec), spec.tile
    lines = {f"a_{name}": tile.m * tile.k * width for name, width in operand_lines(spec)[0].items()}
    return Shared(outputs={**lines, "a_nan": tile.m}, cuts=at.products)


def early_lines(spec: FpCoreSpec, side: int, parts: Unpacked) -> dict[str, Value]:
    """What a row needs to know of an operand, without its significand."""
    wanted = operand_lines(spec)[side]
    exact = spec.window == "exact"
    number = ~parts.zero & ~parts.nan
    values = {
        "exponent": ~parts.exponent if exact else parts.exponent,
        "sign": parts.sign,
        "late_sign": parts.sign,
        "live": number & ~parts.inf,
        "inf": parts.inf,
        "some": number,
    }
    return {name: value for name, value in values.items() if name in wanted}


class Front(wiring.Component):
    """Operand register, and the activations taken apart.

    Members:
        operand: payload of ``i_a``, taken when ``a_load`` is high.
        f_load: take the outputs into their register (``pipeline.front = 1``).
        cut_en: enables of the registers that outputs pass together with their step.
        a_…: see :func:`shared`.
    """

    def __init__(self, spec: FpCoreSpec):
        self.spec = spec
        self.shared = shared(spec)
        self.stream = golden.streams(spec)[1]
        members = {"operand": In(self.stream.width), "a_load": In(1), "f_load": In(1)}
        if self.shared.cuts:
            members["cut_en"] = In(self.shared.cuts)
        super().__init__(
            {**members, **{name: Out(width) for name, width in self.shared.outputs.items()}}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, form, k = self.spec, self.spec.product.a, self.spec.tile.k
        held = Signal(self.stream.width, reset_less=True)
        with m.If(self.a_load):
            m.d.sync += held.eq(self.operand)
        payload = field_slice(self.stream, held, "a")
        made: dict[str, list[Value]] = {name: [] for name in operand_lines(spec)[0]}
        nans = []
        for index in range(spec.tile.m * k):
            parts = unpack(m, f"a_{index}", form, payload.word_select(index, form.width))
            part = parts.significand
            triple = align.add(m, f"triple_{index}", part, Cat(part[1:], Const(0, 1)))
            lines = {**early_lines(spec, 0, parts), "part": part, "triple": triple}
            for name, value in lines.items():
                made[name].append(value)
            nans.append(parts.nan)
        values = {f"a_{name}": Cat(*lanes) for name, lanes in made.items()}
        values["a_nan"] = Cat(
            *(Cat(*nans[row * k : (row + 1) * k]).any() for row in range(spec.tile.m))
        )
        at = stages(spec)
        cuts = Cuts(m)
        if self.shared.cuts:
            cuts = Cuts(m, tuple(range(self.shared.cuts)), self.cut_en)
        for name, value in values.items():
            wire = Signal(len(value), name=f"{name}_made")
            m.d.comb += wire.eq(value)
            if spec.pipeline.front:
                register = Signal(len(wire), name=f"{name}_q", reset_less=True)
                with m.If(self.f_load):
                    m.d.sync += register.eq(wire)
                wire = register
            late = name.removeprefix("a_") in LATE
            stage = at.products if late else at.exponents
            m.d.comb += getattr(self, name).eq(cuts.to(wire, 0, stage))
        return m


class Column(wiring.Component):
    """One n: its weights, a row for every m, and the accumulators.

    Members:
        fields of ``i_w``: this column's part of the payload, taken when ``w_load`` is high.
        a_…: see :func:`shared`.
        acc_en, hold, shift: a step is accumulated; keep the sum; not used.
        cut_en, tail_en: enables of the registers before and behind the accumulators.
        o: results of every m, field by field.
    """

    def __init__(self, spec: FpCoreSpec):
        self.spec = spec
        weights = golden.streams(spec)[2]
        self.lanes = {item.name: item.bits // spec.tile.n for item in weights.fields}
        members = {name: In(width) for name, width in self.lanes.items()}
        members |= {name: In(1) for name in ("w_load", "acc_en", "hold", "shift")}
        members |= {name: In(width) for name, width in shared(spec).inputs(spec.tile.m, ()).items()}
        members |= {"cut_en": In(spec.cuts)} if spec.cuts else {}
        members |= {"tail_en": In(spec.tail)} if spec.tail else {}
        super().__init__({**members, "o": Out(spec.tile.m * spec.result_bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, tile, heap = self.spec, self.spec.tile, self.spec.pipeline.heap
        held = {}
        for name, bits in self.lanes.items():
            register = Signal(bits, name=f"{name}_q", reset_less=True)
            with m.If(self.w_load):
                m.d.sync += register.eq(getattr(self, name))
            held[name] = register
        cuts = Cuts(m, tuple(range(spec.cuts)), self.cut_en) if spec.cuts else Cuts(m)
        weights = self._weights(m, cuts, held)

        results: dict[str, list[Value]] = {item.name: [] for item in spec.results}
        terms = spec.sums.terms
        clock = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
        for row in range(tile.m):
            flags = ("nan", "pinf", "ninf") if terms.inf else ("nan",)
            widths = {"value": terms.bits, "code": terms.code_bits, **dict.fromkeys(flags, 1)}
            term = {name: Signal(width, name=f"m{row}_{name}") for name, width in widths.items()}
            activations = {
                f"i_{name}": getattr(self, name).word_select(row, width // tile.m)
                for name, width in shared(spec).outputs.items()
            }
            m.submodules[f"row_{row}"] = Instance(
                f"{spec.name}_row",
                **(clock if heap else {}),
                **({"i_cut_en": self.cut_en[:heap]} if heap else {}),
                **{f"i_{name}": value for name, value in weights.items()},
                **activations,
                **{f"o_{name}": value for name, value in term.items()},
            )
            kept = {
                name: Signal(item.bits // (tile.m * tile.n), name=f"m{row}_{name}_kept")
                for name, item in ((item.name, item) for item in spec.results)
            }
            m.submodules[f"sum_{row}"] = Instance(
                f"{spec.name}_sum",
                **clock,
                i_acc_en=self.acc_en,
                i_hold=self.hold,
                **({"i_ahead_en": self.cut_en[-1]} if spec.sums.ahead else {}),
                **({"i_tail_en": self.tail_en} if spec.tail else {}),
                **{f"i_{name}": value for name, value in term.items()},
                **{f"o_r_{name}": value for name, value in kept.items()},
            )
            for name, value in kept.items():
                results[name].append(value)
        m.d.comb += self.o.eq(Cat(*(Cat(*rows) for rows in results.values())))
        return m

    def _weights(self, m: Module, cuts: Cuts, held: Mapping[str, Value]) -> dict[str, Value]:
        """What rows need to know of the weights, by name."""
        spec, at, k = self.spec, stages(self.spec), self.spec.tile.k
        made: dict[str, list[Value]] = {name: [] for name in operand_lines(spec)[1]}
        nans = []
        for lane in range(k):
            if spec.dequantizes:
                parts = self._dequantized(m, held, lane)
            else:
                form = spec.product.w
                code = held["w"].word_select(lane, form.width)
                parts = unpack(m, f"w_{lane}", form, code)
            kept = parts.through(lambda _, value: cuts.to(value, 0, at.exponents))
            lines = early_lines(spec, 1, kept)
            late = cuts.to(kept.significand, at.exponents, at.products)
            lines["late_sign"] = cuts.to(kept.sign, at.exponents, at.products)
            lines["choices"] = multiply.choices(late)
            for name, value in lines.items():
                wire = Signal(len(value), name=f"w_{lane}_{name}_line")
                m.d.comb += wire.eq(value)
                made[name].append(wire)
            nans.append(kept.nan)
        values: dict[str, Value] = {f"w_{name}": Cat(*lanes) for name, lanes in made.items()}
        values["w_nan"] = Cat(*nans).any()
        return values

    def _dequantized(self, m: Module, held: Mapping[str, Value], lane: int) -> Unpacked:
        """A weight as FP16, taken apart."""
        spec = self.spec
        group = lane // spec.group if spec.groups > 1 else 0
        bits = spec.max_weight_bits
        ports: dict[str, Value] = {
            "i_q": held["w"].word_select(lane, bits),
            "i_scale": held["w_scale"].word_select(group, 16),
        }
        if spec.zeros:
            ports["i_z"] = held["w_zero"].word_select(group, bits)
        names = {"sign": 1, "exponent": 5, "significand": 11, "zero": 1, "nan": 1, "inf": 1}
        made = {name: Signal(width, name=f"w_{lane}_{name}") for name, width in names.items()}
        m.submodules[f"dequantizer_{lane}"] = Instance(
            f"{spec.name}_dequantizer",
            **ports,
            **{f"o_{name}": value for name, value in made.items()},
        )
        return Unpacked(**made)


class Sum(wiring.Component):
    """The accumulator of one output.

    Members:
        value, code, nan, pinf, ninf: a step's sum, see :class:`hw.blocks.fp_core.row.Row`.
        ahead_en, tail_en: enables of the registers before and behind the accumulator.
        acc_en, hold: a step is accumulated; keep the sum.
        r_…: the fields of the result.
    """

    def __init__(self, spec: FpCoreSpec):
        self.spec = spec
        sums = spec.sums
        members = {"value": In(sums.terms.bits), "code": In(sums.terms.code_bits), "nan": In(1)}
        members |= {"pinf": In(1), "ninf": In(1)} if sums.terms.inf else {}
        members |= {"acc_en": In(1), "hold": In(1)}
        members |= {"ahead_en": In(1)} if sums.ahead else {}
        members |= {"tail_en": In(sums.tail)} if sums.tail else {}
        for item in sums.results(1, 1):
            members[f"r_{item.name}"] = Out(item.bits)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sums = self.spec.sums
        cuts = Cuts(m, (0,), self.ahead_en) if sums.ahead else Cuts(m)
        flags = ("nan", "pinf", "ninf") if sums.terms.inf else ("nan",)
        results = float_accumulator.accumulate(
            m,
            "sum",
            sums,
            float_accumulator.Term(
                value=self.value,
                code=self.code,
                **{name: getattr(self, name) for name in flags},
            ),
            enable=self.acc_en,
            hold=self.hold,
            ahead=lambda value: cuts.to(value, 0, cuts.count),
            tail=self.tail_en if sums.tail else None,
        )
        for name, value in results.items():
            m.d.comb += getattr(self, f"r_{name}").eq(value)
        return m


def build(spec: FpCoreSpec) -> Design:
    """The design of a specification."""
    made = design(
        spec,
        golden.streams(spec),
        sequencer=PlanePasses(spec),
        shared=shared(spec),
        front=Front(spec),
        column=Column(spec),
    )
    parts = {
        f"{spec.name}_row": Row(spec),
        f"{spec.name}_sum": Sum(spec),
        f"{spec.name}_multiplier": Multiplier(spec.product),
    }
    if spec.dequantizes:
        parts[f"{spec.name}_dequantizer"] = Dequantizer(spec)
    return replace(made, parts={**made.parts, **parts})
