"""One lane of the vector unit: its registers, its column of the buffer, one fused multiply-add."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Instance, Module, Mux, Signal, Value
from amaranth.hdl import signed as signed_shape
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.blocks.vector_unit import coefficients
from hw.blocks.vector_unit.arithmetic import Internal
from hw.blocks.vector_unit.program import Op
from hw.blocks.vector_unit.spec import SLOTS, VectorUnitSpec
from hw.formats import FloatFormat, IntegerFormat
from hw.lib.floats import (
    NO,
    Normalised,
    fix,
    leading_zeros,
    pack,
    place,
    shift_right_sticky,
    unpack,
)
from hw.lib.integers import clipped
from hw.lib.product import product_rows

REGISTERS = ("x", "t", "n", "p", "s")

SOURCES = {
    "a": ("in", "row", *REGISTERS, "fold", "one"),
    "b": ("k", "u", "t", "n", "p", "power", "reciprocal", "root"),
    "c": ("k", "u", "v", "row", *REGISTERS),
}
"""Where operands come from, see :class:`Op`."""


class Plan:
    """What a set of operations needs of a lane.

    Attributes:
        sources: by operand those that occur, in the order of :data:`SOURCES`.
        registers: those that are written.
        flags: properties of operations that occur.
        folds: steps of folding that occur.
    """

    FLAGS = ("negative", "magnitude", "swapped", "minus", "positive", "maximum", "masked",
             "keep", "save", "capture")  # fmt: skip

    def __init__(self, spec: VectorUnitSpec, ops: list[Op]):
        self.sources = {
            operand: [name for name in names if any(getattr(op, operand) == name for op in ops)]
            for operand, names in SOURCES.items()
        }
        if any(op.first for op in ops) and "k" not in self.sources["c"]:
            self.sources["c"].insert(0, "k")
        written = {op.to for op in ops} | ({"n"} if any(op.capture for op in ops) else set())
        self.registers = [name for name in REGISTERS if name in written]
        self.flags = {name for name in self.FLAGS if any(getattr(op, name) for op in ops)}
        self.folds = sorted({op.fold for op in ops if op.fold >= 0})
        self.beats = spec.beats if spec.has_buffer else 0
        self.saves = any(op.save or op.to in ("row", "out_row") for op in ops)
        self.address_bits = max(2, (-(-self.beats // SLOTS) * SLOTS - 1).bit_length())


class Word:
    """A code of the format between the ports, taken apart."""

    def __init__(self, number: Internal, code: Value):
        bits = number.significand - 1
        self.code = code
        self.mantissa, self.stored = code[:bits], code[bits:-1]
        self.magnitude, self.sign = code[:-1], code[-1]
        self.zero = ~self.stored.any()
        special = self.stored.all() if number.specials else NO
        self.inf = special & ~self.mantissa[-1]
        self.nan = special & self.mantissa[-1]
        self.special = special
        self.significand = Cat(self.mantissa, ~self.zero)


class Lane(wiring.Component):
    """One lane.

    Five stages: an operand is chosen of each kind; the product, and how far the smaller summand
    lies below; the sum; the sum rounded, into a register, the buffer or the output; the output
    rounded to the port's format.

    Members:
        x, u, v: operands at the ports. kb, kc: constants. peers: S of the other lanes of a fold.
        a, b, c, fold: one bit a source, those that :class:`Plan` lists.
        negative, magnitude, minus, positive, maximum: see :class:`Op`, of what is chosen.
        kill: c is the result. alive: the lane has an element.
        read: place in the buffer. write_element, write_result: one bit a place.
        go: one bit a stage: chosen, multiplied, added, rounded for the output, put out.
        put: one bit a register: the result goes there. capture: v goes to N.
        s: the slot's S. y: the result at the port.
    """

    def __init__(self, spec: VectorUnitSpec, plan: Plan):
        self.spec, self.plan = spec, plan
        self.number = spec.number
        width, port = self.number.width, spec.port.width
        members: dict[str, int] = {"x": port, "kb": width, "kc": width}
        if spec.has_u:
            members["u"] = port
        if spec.has_v:
            members["v"] = port
        for operand, names in plan.sources.items():
            if len(names) > 1:
                members[operand] = len(names)
        if len(plan.folds) > 1:
            members["fold"] = len(plan.folds)
        peers = [step for step in plan.folds if step >= spec.folds[0]]
        if peers:
            members["peers"] = len(peers) * width
        for name in ("negative", "magnitude", "minus", "positive", "maximum"):
            if name in plan.flags or (name == "negative" and "swapped" in plan.flags):
                members[name] = 1
        if "masked" in plan.flags:
            members["kill"] = 1
        if plan.beats:
            members["read"] = plan.address_bits
            if "keep" in plan.flags:
                members["write_element"] = plan.beats
            if plan.saves:
                members["write_result"] = plan.beats
        if plan.registers:
            members["put"] = len(plan.registers)
        if "capture" in plan.flags:
            members["capture"] = 1
        members |= {"alive": 1, "go": 5}
        outputs = {"y": port} | ({"s": width} if peers else {})
        super().__init__(
            {name: In(bits) for name, bits in members.items()}
            | {name: Out(bits) for name, bits in outputs.items()}
        )
        self.members = set(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        result = Signal(self.number.width, name="result")
        sources = self._sources(m, result)
        chosen = self._choose(m, sources)
        self._round(m, self._add(m, self._multiply(m, chosen)), result)
        self._put_out(m, result, self._is_alive(m))
        return m

    def _flag(self, name: str) -> Value:
        return getattr(self, name) if name in self.members else Const(0, 1)

    # Where operands come from.

    def _sources(self, m: Module, result: Signal) -> dict[str, Value]:
        """Every source of an operand, by name."""
        plan = self.plan
        found: dict[str, Value] = {"in": self._converted(m, "x")}
        for name in ("u", "v"):
            if name in self.members:
                found[name] = self._converted(m, name)
        found["one"] = Const(self.number.code(1.0), self.number.width)
        for place_, name in enumerate(plan.registers):
            # A ring: the slot at hand stands in front, the one whose result comes behind it.
            ring = [
                Signal(self.number.width, name=f"{name}_{i}", reset_less=True) for i in range(SLOTS)
            ]
            back: Value = ring[0]
            if name == "n" and "capture" in plan.flags:
                back = Mux(self.capture, found["v"], ring[0])
            with m.If(self.go[0]):
                m.d.sync += [
                    ring[0].eq(Mux(self.put[place_], result, ring[1])),
                    *(ring[i].eq(ring[i + 1]) for i in range(1, SLOTS - 1)),
                    ring[-1].eq(back),
                ]
            found[name] = ring[0]
            if name == "s" and plan.folds:
                found["fold"] = self._fold(m, ring)
                if "peers" in self.members:
                    m.d.comb += self.s.eq(ring[0])
        if plan.beats:
            found["row"] = self._buffer(m, found["in"], result)
        if "power" in plan.sources["b"]:
            found["power"] = self._power(m, found["n"])
        if "s" in found:
            for name in ("reciprocal", "root"):
                if name in plan.sources["b"]:
                    found[name] = self._seed(m, name, found["s"])
        return found

    def _fold(self, m: Module, ring: list[Signal]) -> Value:
        """S of the slot or lane that a step joins to this one."""
        width, slots = self.number.width, self.spec.folds[0]
        choices: list[Value] = [
            ring[(SLOTS // 2) >> step] for step in self.plan.folds if step < slots
        ]
        peers = len(self.plan.folds) - len(choices)
        choices += [self.peers.word_select(i, width) for i in range(peers)]
        if len(choices) == 1:
            return choices[0]
        return _either(m, "fold_chosen", choices, self.fold)

    def _buffer(self, m: Module, element: Value, result: Value) -> Value:
        """The row's words in this lane."""
        width = self.number.width
        words = [Signal(width, name=f"row_{i}", reset_less=True) for i in range(self.plan.beats)]
        for i, word in enumerate(words):
            if "write_element" in self.members:
                with m.If(self.write_element[i]):
                    m.d.sync += word.eq(element)
            if "write_result" in self.members:
                with m.If(self.write_result[i]):
                    m.d.sync += word.eq(result)
        found = Signal(width, name="row_word")
        with m.Switch(self.read):
            for i, word in enumerate(words[:-1]):
                with m.Case(i):
                    m.d.comb += found.eq(word)
            with m.Default():
                m.d.comb += found.eq(words[-1])
        return found

    def _converted(self, m: Module, name: str) -> Value:
        """A code of the port as one between the ports, exactly."""
        port, number = self.spec.port, self.number
        code = getattr(self, name)
        bits = number.significand - 1
        found = Signal(number.width, name=f"{name}_word")
        if isinstance(port, IntegerFormat):
            sign = code[-1]
            magnitude = Signal(port.bits, name=f"{name}_magnitude")
            m.d.comb += magnitude.eq((code ^ sign.replicate(port.bits)) + sign)
            moved, count = leading_zeros(m, f"{name}_norm", magnitude)
            top = number.bias + port.bits - 1 - port.fraction_bits
            nan = inf = NO
        else:
            parts = unpack(m, name, port, code)
            sign, nan, inf = parts.sign & ~parts.nan, parts.nan, parts.inf
            moved, count = leading_zeros(m, f"{name}_norm", parts.significand)
            top = number.bias - port.bias
        stored = Signal(number.exponent_bits, name=f"{name}_stored")
        if isinstance(port, IntegerFormat):
            m.d.comb += stored.eq(top - count)
        else:
            m.d.comb += stored.eq(parts.exponent + top - count)
        mantissa = Cat(Const(0, max(bits - len(moved) + 1, 0)), moved[:-1])[-bits:]
        usual = Cat(mantissa, stored) & moved[-1].replicate(number.width - 1)
        special = Cat(Const(0, bits - 1), nan, Const(-1, number.exponent_bits))
        m.d.comb += found.eq(Cat(Mux(nan | inf, special, usual), sign))
        return found

    def _power(self, m: Module, code: Value) -> Value:
        """``2^n`` of ``3·2^(p−2) + n``: the lowest bits of the significand are ``n``'s."""
        number = self.number
        word = Word(number, code)
        found = Signal(number.width, name="power")
        stored = Signal(number.exponent_bits, name="power_stored")
        m.d.comb += [
            stored.eq(word.mantissa[: number.exponent_bits] + number.bias),
            found.eq(Mux(word.special, code, Cat(Const(0, number.significand - 1), stored, NO))),
        ]
        return found

    def _seed(self, m: Module, name: str, code: Value) -> Value:
        """A first guess of ``1/s`` or ``1/√s``."""
        number = self.number
        word = Word(number, code)
        bits, size = coefficients.seed_bits(number), coefficients.seed_mantissa_bits(number)
        stored = Signal(number.exponent_bits, name=f"{name}_stored")
        index: Value = word.mantissa[-bits:]
        if name == "reciprocal":
            seeds = coefficients.reciprocal_seeds(number)
            m.d.comb += stored.eq(2 * number.bias - 1 - word.stored)
        else:
            # The power is e = stored − bias; the bias is odd and one less than a power of two.
            seeds = coefficients.root_seeds(number)
            up = Signal(number.exponent_bits + 1, name="root_up")
            m.d.comb += [
                up.eq(word.stored + 1),
                stored.eq(number.bias - 1 + (1 << (number.exponent_bits - 2)) - up[1:]),
            ]
            index = Cat(index, up[0])
        mantissa = Signal(size, name=f"{name}_mantissa")
        with m.Switch(index):
            for i, seed in enumerate(seeds[:-1]):
                with m.Case(i):
                    m.d.comb += mantissa.eq(seed)
            with m.Default():
                m.d.comb += mantissa.eq(seeds[-1])
        found = Signal(number.width, name=f"{name}_seed")
        usual = Cat(Const(0, number.significand - 1 - size), mantissa, stored, NO)
        m.d.comb += found.eq(Mux(word.special, self._nan, usual) if number.specials else usual)
        return found

    @property
    def _top(self) -> int:
        """The largest stored exponent, in its place."""
        number = self.number
        return ((1 << number.exponent_bits) - 1) << (number.significand - 1)

    @property
    def _nan(self) -> Const:
        number = self.number
        return Const(self._top | (1 << (number.significand - 2)), number.width)

    # Stages.

    def _choose(self, m: Module, sources: dict[str, Value]) -> dict[str, Value]:
        """Operands behind the first register."""
        sources = {**sources}
        found: dict[str, Value] = {}
        for operand, names in self.plan.sources.items():
            here = {**sources, "k": getattr(self, f"k{operand}", NO)}
            if len(names) == 1:
                found[operand] = here[names[0]]
            else:
                found[operand] = _either(
                    m, f"{operand}_source", [here[name] for name in names], getattr(self, operand)
                )
        a, c = Word(self.number, found["a"]), Word(self.number, found["c"])
        negative, magnitude = self._flag("negative"), self._flag("magnitude")
        a_sign = ((a.sign & ~magnitude) ^ negative) & ~a.nan
        gone = self._flag("positive") & c.sign
        c_size = c.magnitude & (~gone).replicate(self.number.width - 1)
        c_sign = (c.sign ^ self._flag("minus")) & ~gone & ~c.nan
        values = {
            "a": Cat(a.magnitude, a_sign),
            "b": found["b"],
            "c": Cat(c_size, c_sign),
            "maximum": self._flag("maximum") & ~self._flag("kill"),
            "kill": self._flag("kill"),
        }
        return self._registered(m, "chosen", values, self.go[0])

    def _registered(
        self, m: Module, stage: str, values: dict[str, Value], enable: Value
    ) -> dict[str, Value]:
        made: dict[str, Value] = {}
        with m.If(enable):
            for name, value in values.items():
                if isinstance(value, Const):
                    made[name] = value
                    continue
                register = Signal(value.shape(), name=f"{stage}_{name}", reset_less=True)
                m.d.sync += register.eq(value)
                made[name] = register
        return made

    def _multiply(self, m: Module, chosen: dict[str, Value]) -> dict[str, Value]:
        """The exact product, the summand, and how far the smaller lies below the larger."""
        number, bits = self.number, self.number.significand
        a, b, c = (Word(number, chosen[name]) for name in "abc")
        maximum, kill = chosen["maximum"], chosen["kill"]
        first, second = product_rows(m, "product", a.significand, b.significand)
        product = Signal(2 * bits, name="product")
        m.submodules.product_add = Instance(
            "rtlgen_add",
            p_WIDTH=2 * bits,
            i_a=first,
            i_b=second,
            i_ci=Const(0, 1),
            o_s=product,
            o_co=Signal(name="product_over"),
        )
        larger, dead = Signal(name="a_larger"), Signal(name="dead")
        summand = Signal(number.width, name="summand")
        m.d.comb += [
            larger.eq(Mux(a.sign ^ c.sign, ~a.sign, (a.magnitude > c.magnitude) ^ a.sign)),
            dead.eq(kill | maximum),
            summand.eq(Mux(maximum & larger, a.code, c.code)),
        ]
        other = Word(number, summand)
        sign, nothing = Signal(name="product_sign"), Signal(name="product_zero")
        infinite, nan = Signal(name="product_inf"), Signal(name="any_nan")
        m.d.comb += [
            sign.eq(Mux(dead, other.sign, a.sign ^ b.sign)),
            nothing.eq(a.zero | b.zero | dead),
            infinite.eq((a.inf | b.inf) & ~dead),
            nan.eq(
                c.nan
                | (a.nan & ~kill)
                | (~dead & (b.nan | (a.inf & b.zero) | (a.zero & b.inf)))
                | (infinite & other.inf & (sign ^ other.sign))
            ),
        ]
        # Exponents of the top bits: the product's is that of its upper half.
        size = number.exponent_bits + 3
        top = Signal(signed_shape(size), name="product_top")
        gap = Signal(signed_shape(size), name="gap")
        leads = Signal(name="product_leads")
        far = Signal(size, name="far")
        reach = (2 * bits + 3).bit_length()
        amount = Signal(reach, name="amount")
        m.d.comb += [
            top.eq(a.stored + b.stored - (number.bias - 1)),
            gap.eq(top - other.stored),
            leads.eq(~nothing & (other.zero | (gap >= 0))),
            far.eq(Mux(gap[-1], -gap, gap)),
            amount.eq(far[:reach] | far[reach:].any().replicate(reach)),
        ]
        highest = Signal(signed_shape(size), name="highest")
        m.d.comb += highest.eq(Mux(leads, top, other.stored))
        values = {
            "product": product & (~nothing).replicate(2 * bits),
            "summand": other.significand,
            "minus": sign ^ other.sign,
            "sign": sign,
            "leads": leads,
            "amount": amount,
            "highest": highest,
            "nan": nan,
            "inf": infinite | other.inf,
            "inf_sign": Mux(infinite, sign, other.sign),
        }
        return self._registered(m, "multiplied", values, self.go[1])

    def _add(self, m: Module, values: dict[str, Value]) -> dict[str, Value]:
        """The magnitude of the sum, exact but for a lowest bit that stands for what is below."""
        bits = self.number.significand
        width = 2 * bits + 3
        product = values["product"]
        summand = Cat(Const(0, bits), values["summand"])
        leads, minus = values["leads"], values["minus"]
        large, small = Signal(width, name="large"), Signal(2 * bits + 2, name="small")
        m.d.comb += [
            large.eq(Cat(Const(0, 3), Mux(leads, product, summand))),
            small.eq(Cat(Const(0, 2), Mux(leads, summand, product))),
        ]
        moved, sticky = shift_right_sticky(m, "align", small, values["amount"])
        shifted = Cat(sticky, moved)
        total, over = Signal(width, name="total"), Signal(name="total_over")
        back = Signal(width, name="total_back")
        m.submodules.total_add = Instance(
            "rtlgen_add",
            p_WIDTH=width,
            i_a=large,
            i_b=shifted ^ minus.replicate(width),
            i_ci=minus,
            o_s=total,
            o_co=over,
        )
        # Which of two numbers with close exponents is the larger one shows only in the carry.
        m.submodules.back_add = Instance(
            "rtlgen_add",
            p_WIDTH=width,
            i_a=shifted,
            i_b=~large,
            i_ci=Const(1, 1),
            o_s=back,
            o_co=Signal(name="back_over"),
        )
        magnitude = Signal(width + 1, name="magnitude")
        turned = Signal(name="turned")
        upper = Signal(name="upper_sign")
        m.d.comb += [
            turned.eq(minus & ~over),
            magnitude.eq(Mux(turned, back, Cat(total, over & ~minus))),
            upper.eq(values["sign"] ^ (minus & ~leads)),
        ]
        made = {
            "magnitude": magnitude,
            "highest": values["highest"],
            "sign": upper ^ turned,
            "zero_sign": values["sign"] & ~minus,
            "nan": values["nan"],
            "inf": values["inf"],
            "inf_sign": values["inf_sign"],
        }
        return self._registered(m, "added", made, self.go[2])

    def _round(self, m: Module, values: dict[str, Value], result: Signal) -> None:
        """The sum rounded to a code: exponents stay in range, which the reference checks."""
        number, bits = self.number, self.number.significand
        shifted, count = leading_zeros(m, "sum", values["magnitude"])
        lowest = len(shifted) - bits
        kept, guard = shifted[lowest:], shifted[lowest - 1]
        stored = Signal(number.exponent_bits, name="stored")
        up, code = Signal(name="up"), Signal(number.width - 1, name="rounded")
        m.d.comb += [
            stored.eq(values["highest"] + 1 - count),
            up.eq(guard & (kept[0] | shifted[: lowest - 1].any())),
            # A significand that rounds up to the next power of two carries into the exponent.
            code.eq(Cat(kept[:-1], stored) + up),
        ]
        usual = Mux(shifted[-1], Cat(code, values["sign"]),
                    Cat(Const(0, number.width - 1), values["zero_sign"]))  # fmt: skip
        if number.specials:
            infinity = Const(self._top, number.width - 1)
            usual = Mux(values["inf"], Cat(infinity, values["inf_sign"]), usual)
            usual = Mux(values["nan"], self._nan, usual)
        m.d.comb += result.eq(usual)

    def _is_alive(self, m: Module) -> Value:
        """Whether the lane has an element, beside what is rounded for the output."""
        value: Value = self.alive
        for i in range(4):
            register = Signal(name=f"alive_{i}", reset_less=True)
            with m.If(self.go[i]):
                m.d.sync += register.eq(value)
            value = register
        return value

    def _put_out(self, m: Module, result: Signal, alive: Value) -> None:
        """The result at the port."""
        port, number = self.spec.port, self.number
        waiting = Signal(number.width, name="waiting", reset_less=True)
        with m.If(self.go[3]):
            m.d.sync += waiting.eq(result)
        word = Word(number, waiting)
        bits = number.significand
        exponent = Signal(signed_shape(number.exponent_bits + 2), name="out_exponent")
        if isinstance(port, FloatFormat):
            m.d.comb += exponent.eq(word.stored - (number.bias + bits - 1))
            value = Normalised(
                magnitude=word.significand,
                exponent=exponent,
                sticky=NO,
                low=1 - number.bias,
            )
            placed = place(m, "out", port, value)
            code = pack(m, "out", port, placed, sign=word.sign, nan=word.nan, inf=word.inf)
        else:
            m.d.comb += exponent.eq(word.stored - (number.bias + bits - 1 - port.fraction_bits))
            fixed = fix(m, "out", word.significand, exponent, port.bits - 1)
            code = clipped(
                m,
                port.bits,
                sign=word.sign,
                magnitude=Cat(fixed.guard, fixed.whole),
                below=fixed.sticky,
                over=fixed.over,
            )
        register = Signal(port.width, name="y_held", reset_less=True)
        with m.If(self.go[4]):
            m.d.sync += register.eq(code & alive.replicate(port.width))
        m.d.comb += self.y.eq(register)


def _either(m: Module, name: str, values: list[Value], chosen: Value) -> Value:
    """The value whose bit is set."""
    found = Signal(len(values[0]), name=name)
    parts = [value & chosen[i].replicate(len(value)) for i, value in enumerate(values)]
    total = parts[0]
    for part in parts[1:]:
        total = total | part
    m.d.comb += found.eq(total)
    return found
