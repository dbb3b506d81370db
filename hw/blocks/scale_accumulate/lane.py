"""One lane of scale-and-accumulate: correction, multiplication, addition, and its outputs' sums."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.blocks.scale_accumulate.spec import ScaleAccumulateSpec
from hw.formats import FP32, FloatFormat
from hw.lib.float_ops import (
    MINUS_ZERO,
    Cut,
    Factor,
    add,
    as_factor,
    either,
    factor,
    integer_factor,
    multiply,
    product,
    registers,
)
from hw.lib.floats import NO, round_to, unpack
from hw.lib.select import choice


class Lane(wiring.Component):
    """Takes one output a cycle through a pipeline that never stops, and keeps the FP32 sums.

    Stages: products of zero point and row sum, and of two scales, if there are such (1); a
    multiplier (operands, product, normalised, rounded: 4, and 5 where it is wide), which closes a
    job, too: its operands are then the sum and what that is multiplied by; addition (aligned,
    counted, rounded into the sum's register: 3). :attr:`multiply_at`, :attr:`bias_at` and
    :attr:`add_at` say how many cycles behind the first stage operands are wanted.

    Members:
        p, exponent, invalid, z, r, w_scale: an output's partial sum, its power of two, whether it
            is NaN, its zero point, row sum and scale, in stage 0.
        a_scale: with a scale a group that of the output's row, in stage 0; else that of a closing
            turn, at ``multiply_at``.
        tensor: the tensor scale.
        close, close_tensor: at ``multiply_at``: the turn multiplies the sum; by the tensor scale.
        turn_close, turn_add, turn_write: the output's number at ``multiply_at``, at ``add_at``, and
            when ``write`` says that its sum is there.
        bias: at ``bias_at``; the rest at ``add_at``.
        first, closing, bias_turn: add to 0; add nothing, or the bias, to the scaled sum; add the
            bias.
        o: the sums.
    """

    def __init__(self, spec: ScaleAccumulateSpec):
        self.spec = spec
        self.turn_bits = max(1, (spec.turns - 1).bit_length())
        members: dict[str, int] = {"p": spec.partial_bits, "w_scale": spec.weight_format.width}
        if spec.partial_exponent_bits:
            members |= {"exponent": spec.partial_exponent_bits, "invalid": 1}
        if spec.zero_point_bits:
            members |= {"z": spec.zero_point_bits, "r": spec.row_sum_bits}
        if spec.activation_format is not None:
            members["a_scale"] = spec.activation_format.width
        if spec.tensor_scale:
            members["tensor"] = FP32.width
        if self.closes:
            members |= {"close": 1, "turn_close": self.turn_bits}
        if spec.scales_jobs and spec.tensor_scale:
            members["close_tensor"] = 1
        if spec.closing:
            members["closing"] = 1
        if spec.bias_format is not None:
            members |= {"bias": spec.bias_format.width, "bias_turn": 1}
        members |= {"first": 1, "turn_add": self.turn_bits}
        members |= {"turn_write": self.turn_bits, "write": 1}
        super().__init__(
            {
                **{name: In(width) for name, width in members.items()},
                "o": Out(spec.turns * FP32.width),
            }
        )

    @property
    def closes(self) -> bool:
        """Whether a job ends with multiplications."""
        return self.spec.scales_jobs or self.spec.tensor_scale

    @property
    def multiply_at(self) -> int:
        return int(self.spec.prepares)

    @property
    def _multiply_cuts(self) -> tuple[str, ...]:
        return (*_MULTIPLY_AT, "rows") if self.spec.wide else _MULTIPLY_AT

    @property
    def add_at(self) -> int:
        # Both operands are one register.
        return self.multiply_at + len(self._multiply_cuts) - 1

    @property
    def bias_at(self) -> int:
        # One that is not in FP32 becomes so in a stage of its own.
        return self.add_at - (self.spec.bias_format != FP32)

    @property
    def depth(self) -> int:
        """Cycles from the first stage to the cycle in which the sum is written."""
        return self.add_at + len(_ADD_AT)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        words = [Signal(FP32.width, name=f"sum_{turn}") for turn in range(spec.turns)]
        m.d.comb += self.o.eq(Cat(*words))

        left, right = self._group_factors(m)
        if self.closes:
            total = self._read(m, "closing", words, "turn_close")
            sum_factor = factor(FP32, unpack(m, "closing", FP32, total))
            left = either(m, "left", self.close, left, sum_factor)
            right = either(m, "right", self.close, right, self._closing_factor(m))
        x = self._multiply(m, "scaled", left, right)

        before: Value = self._read(m, "adding", words, "turn_add")
        if spec.closing and self.closes:
            before = Mux(self.closing, self._bias_or_nothing(m), before)
        elif spec.closing:
            x = Mux(self.closing, self._bias(m), x)
        addend = Signal(FP32.width, name="addend")
        m.d.comb += addend.eq(before & (~self.first).replicate(FP32.width))
        result = add(m, "add", FP32, addend, x, cut=registers(m, "add", _ADD_AT))
        for turn, word in enumerate(words):
            mine = Signal(name=f"mine_{turn}")
            m.d.comb += mine.eq(self.write & ~(self.turn_write ^ turn).any())
            with m.If(mine):
                m.d.sync += word.eq(result)
        return m

    def _group_factors(self, m: Module) -> tuple[Factor, Factor]:
        """A corrected partial sum and its scale, at :attr:`multiply_at`."""
        spec = self.spec
        p: Value = self.p.as_signed()
        power: Value = Const(0, signed(1))
        invalid: Value = NO
        if spec.partial_exponent_bits:
            power, invalid = self.exponent.as_signed(), self.invalid
        scale = factor(spec.weight_format, unpack(m, "w", spec.weight_format, self.w_scale))
        if spec.scales_groups:
            other = self._factor(m, "a", spec.activation_format, self.a_scale)
            both = product(m, "scales", scale, other, cut=lambda point, field, value: value)
            scale = as_factor(both, scale.zero | other.zero)
        if self.multiply_at:
            prepared = registers(m, "prepared", ("p", "scale", "share"))
            scale = _behind(prepared, "scale", scale)
            p = prepared("p", "q", p)
            power, invalid = prepared("p", "power", power), prepared("p", "invalid", invalid)
            if spec.zero_point_bits:
                share = self.z * self.r.as_signed()
                q = Signal(signed(spec.corrected_bits), name="q")
                m.d.comb += q.eq(p - prepared("share", "q", share))
                p = q
        low = -(1 << (spec.partial_exponent_bits - 1)) if spec.partial_exponent_bits else 0
        return integer_factor(m, "q", p, power=power, nan=invalid, low=low), scale

    def _factor(self, m: Module, name: str, form: FloatFormat | None, code: Value) -> Factor:
        assert form is not None  # noqa: S101  (asked for where there is one)
        return factor(form, unpack(m, name, form, code))

    def _closing_factor(self, m: Module) -> Factor:
        """What the sum is multiplied by in a closing turn."""
        spec = self.spec
        if not spec.tensor_scale:
            return self._factor(m, "a", spec.activation_format, self.a_scale)
        tensor = self._factor(m, "tensor", FP32, self.tensor)
        if not spec.scales_jobs:
            return tensor
        scale = self._factor(m, "a", spec.activation_format, self.a_scale)
        return either(m, "last", self.close_tensor, scale, tensor)

    def _multiply(self, m: Module, name: str, left: Factor, right: Factor) -> Value:
        """A unit: operands behind a register, and the product behind its last."""
        register = registers(m, name, self._multiply_cuts)
        left, right = (
            _behind(register, side, each) for side, each in (("left", left), ("right", right))
        )
        return register("rounded", "code", multiply(m, name, FP32, left, right, cut=register))

    def _read(self, m: Module, name: str, words: list[Signal], turn: str) -> Value:
        if len(words) == 1:
            return words[0]
        word = Signal(FP32.width, name=f"{name}_sum")
        with m.Switch(getattr(self, turn)):
            for number, each in enumerate(words):
                with choice(m, number, len(words)):
                    m.d.comb += word.eq(each)
        return word

    def _bias(self, m: Module) -> Value:
        """The bias in FP32, exactly, at :attr:`add_at`."""
        form = self.spec.bias_format
        assert form is not None  # noqa: S101  (asked for where there is one)
        if form == FP32:
            return self.bias
        parts = unpack(m, "bias", form, self.bias)
        code = round_to(
            m,
            "bias",
            FP32,
            sign=parts.sign & ~parts.nan,
            magnitude=parts.significand,
            exponent=parts.exponent - (form.bias + form.mantissa_bits),
            nan=parts.nan,
            inf=parts.inf,
            low=form.min_exponent - form.mantissa_bits,
        )
        return registers(m, "bias", ("converted",))("converted", "code", code)

    def _bias_or_nothing(self, m: Module) -> Value:
        nothing = Const(MINUS_ZERO, FP32.width)
        if self.spec.bias_format is None:
            return nothing
        return Mux(self.bias_turn, self._bias(m), nothing)


_MULTIPLY_AT = ("left", "right", "product", "moved", "rounded")
"""Cuts of a unit that have registers; both operands are one cut."""

_ADD_AT = ("aligned", "counted")
"""Cuts of the addition that have registers."""


def _behind(cut: Cut, point: str, parts: Factor) -> Factor:
    return parts.through(lambda field, value: cut(point, field, value))
