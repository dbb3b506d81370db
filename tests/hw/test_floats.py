"""Floating-point parts against the number formats, over all codes and over every way to round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Const, Fragment, Module, Signal, Value

from hw.formats import E8M0, FLOAT_FORMATS, FP8_E4M3, FP32, UE4M3, FloatFormat
from hw.lib import floats

Evaluate = Callable[..., Callable[..., Mapping[str, np.ndarray]]]

NO_ZERO = FloatFormat(
    name="no_zero", exponent_bits=4, mantissa_bits=2, bias=7, specials="top_nan", subnormals=False
)
PLAIN = FloatFormat(
    name="plain", exponent_bits=3, mantissa_bits=0, bias=3, specials="none", signed=True
)
FORMATS = {**FLOAT_FORMATS, "no_zero": NO_ZERO, "plain": PLAIN}
"""The named ones, and two that nothing uses: other combinations of what a format can lack."""


def test_every_code_comes_apart(evaluate: Evaluate) -> None:
    widths = {
        f"{form.name}_{name}": width
        for form in FORMATS.values()
        for name, width in {
            "sign": 1,
            "exponent": form.exponent_bits,
            "significand": form.mantissa_bits + 1,
            "zero": 1,
            "nan": 1,
            "inf": 1,
        }.items()
    }

    def build(m: Module, values: Mapping[str, Value]) -> dict[str, Value]:
        made = {}
        for form in FORMATS.values():
            parts = floats.unpack(m, form.name, form, values["code"][: form.width])
            made |= {f"{form.name}_{name}": value for name, value in vars(parts).items()}
        return made

    wide = FP32.random_codes(np.random.default_rng(0), 10_000).astype(np.int64)
    codes = np.concatenate([np.arange(1 << 16), wide])
    found = evaluate(build, {"code": 32}, widths)(code=codes)
    for form in FORMATS.values():
        own = codes & ((1 << form.width) - 1)
        parts = {name: found[f"{form.name}_{name}"] for name in floats.Unpacked.__annotations__}
        want = form.fields(own)
        nan, inf = form.is_nan(own), form.is_inf(own)
        finite = ~(nan | inf)
        np.testing.assert_array_equal(parts["sign"], want.sign)
        np.testing.assert_array_equal(parts["nan"], nan)
        np.testing.assert_array_equal(parts["inf"], inf)
        np.testing.assert_array_equal(parts["zero"], finite & (want.significand == 0))
        np.testing.assert_array_equal(parts["significand"][finite], want.significand[finite])
        power = parts["exponent"] - form.bias - form.mantissa_bits
        np.testing.assert_array_equal(power[finite], want.power[finite])


@pytest.mark.parametrize("width", [1, 2, 5, 8, 13])
def test_shifts_of_every_value(evaluate: Evaluate, width: int) -> None:
    count_bits = max(width - 1, 0).bit_length()
    outputs = {"top": width, "right": width, "sticky": 1}
    if count_bits:
        outputs["count"] = count_bits

    def build(m: Module, values: Mapping[str, Value]) -> dict[str, Value]:
        top, count = floats.leading_zeros(m, "lz", values["value"])
        right, sticky = floats.shift_right_sticky(
            m, "sr", values["value"], values["amount"], values["sticky"]
        )
        return {"top": top, "count": count, "right": right, "sticky": sticky}

    value, amount, sticky = (
        part.reshape(-1)
        for part in np.meshgrid(
            np.arange(1 << width), np.r_[0 : width + 3, 31], [0, 1], indexing="ij"
        )
    )
    call = evaluate(build, {"value": width, "amount": 5, "sticky": 1}, outputs)
    found = call(value=value, amount=amount, sticky=sticky)
    length = np.array([int(v).bit_length() for v in value])
    zeros = np.where(value == 0, 0, width - length)
    np.testing.assert_array_equal(found["top"], value << zeros)
    if count_bits:
        counted = np.where(value == 0, (1 << count_bits) - 1, zeros)
        np.testing.assert_array_equal(found["count"], counted)
    np.testing.assert_array_equal(found["right"], value >> amount)
    np.testing.assert_array_equal(found["sticky"], sticky | (value % (1 << amount) != 0))


def _exact(form: FloatFormat, value: Fraction, overflow: str) -> int:
    """The code of a positive value by comparing exact fractions; no arithmetic of ``encode``."""
    finite = [_value(form, code) for code in (0, form.max_code)]
    if value <= finite[0]:
        return 0
    low, high = 0, form.max_code
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _value(form, middle) <= value else (low, middle)
    if value >= finite[1]:
        # Beyond the largest value the grid goes on by one step, which stands for overflow.
        step = finite[1] - _value(form, form.max_code - 1)
        if form.mantissa_bits == 0:
            step *= 2
        special = form.specials != "none" and overflow == "nonsaturating"
        tie = finite[1] + step / 2
        up = form.max_code % 2 == 1 or form.mantissa_bits == 0
        return form.max_code + int(special and (value > tie or (value == tie and up)))
    below, above = _value(form, low), _value(form, high)
    if value - below != above - value:
        return low if value - below < above - value else high
    if form.mantissa_bits == 0 and below > 0:
        return high  # a tie between powers of two goes up
    return low if low % 2 == 0 else high


def _value(form: FloatFormat, code: int) -> Fraction:
    return Fraction(form.decode(np.array(code)).item())


WIDTH, EXPONENT = 28, 10


def _inputs(rng: np.random.Generator, count: int, form: FloatFormat) -> dict[str, np.ndarray]:
    """Magnitudes of every length, near ties, with exponents where the format ends."""
    length = rng.integers(0, WIDTH + 1, size=count)
    whole = rng.integers(0, 1 << WIDTH, size=count) | (1 << (WIDTH - 1))
    magnitude = whole >> (WIDTH - length)
    # A tie or its neighbours: few ones at the top, then zeros or ones.
    cut = np.maximum(length - form.mantissa_bits - 2, 0)
    tie = (magnitude >> cut << cut) | (np.arange(count) % 3 == 1)
    ones = magnitude | ((1 << cut) - 1)
    magnitude = np.choose(rng.integers(0, 3, size=count), [magnitude, tie, ones])
    bottom = form.min_exponent - form.mantissa_bits
    ends = np.array([bottom, form.min_exponent, form.max_exponent])
    near = rng.choice(ends, size=count) + rng.integers(-3, 4, size=count)
    inside = rng.integers(bottom, form.max_exponent + 1, size=count)
    near = np.where(rng.random(count) < 0.6, near, inside) - length + 1
    anywhere = rng.integers(-(1 << (EXPONENT - 1)), 1 << (EXPONENT - 1), size=count)
    exponent = np.where(rng.random(count) < 0.8, near, anywhere)
    # A sticky bit is right only below the result's mantissa: of lengths that fill it.
    sticky = rng.integers(0, 2, size=count) & (length > form.mantissa_bits + 1)
    return {
        "sign": rng.integers(0, 2, size=count),
        "magnitude": magnitude,
        "exponent": np.clip(exponent, -(1 << (EXPONENT - 1)), (1 << (EXPONENT - 1)) - 1),
        "sticky": sticky,
        "nan": (rng.random(count) < 0.02).astype(np.int64),
        "inf": (rng.random(count) < 0.04).astype(np.int64),
    }


def _wanted(form: FloatFormat, values: Mapping[str, np.ndarray], overflow: Any) -> np.ndarray:
    """Codes by ``encode``; the sticky bit as the half bit that it is as good as."""
    magnitude = values["magnitude"] * 2 + values["sticky"]
    x = np.ldexp(magnitude.astype(np.float64), values["exponent"] - 1)
    x = np.where(values["inf"] == 1, np.inf, x)
    x = np.where(values["sign"] == 1, -x, x)
    if form.nan_code is not None:
        x = np.where(values["nan"] == 1, np.copysign(np.nan, x), x)
    return form.encode(x, overflow=overflow)


def test_rounding_is_that_of_the_formats(evaluate: Evaluate) -> None:
    modes = ("nonsaturating", "saturate")

    def build(m: Module, values: Mapping[str, Value]) -> dict[str, Value]:
        given = dict(values)
        made = {}
        for form in FORMATS.values():
            for mode in modes:
                arguments = dict(given)
                if form.nan_code is None:
                    arguments["nan"] = Const(0, 1)
                name = f"{form.name}_{mode}"
                made[name] = floats.round_to(m, name, form, overflow=mode, **arguments)
        return made

    call = evaluate(
        build,
        {"sign": 1, "magnitude": WIDTH, "exponent": -EXPONENT, "sticky": 1, "nan": 1, "inf": 1},
        {f"{form.name}_{mode}": form.width for form in FORMATS.values() for mode in modes},
    )
    rng = np.random.default_rng(1)
    for form in FORMATS.values():
        values = _inputs(rng, 20_000, form)
        found = call(**values)
        for mode in modes:
            wanted = _wanted(form, values, mode)
            wrong = np.flatnonzero(found[f"{form.name}_{mode}"] != wanted)
            assert not len(wrong), (
                form.name,
                mode,
                {name: int(array[wrong[0]]) for name, array in values.items()},
                hex(found[f"{form.name}_{mode}"][wrong[0]]),
                hex(wanted[wrong[0]]),
            )
            codes = wanted[values["nan"] == 0]
            assert len(np.unique(codes)) > min(1000, (1 << form.width) * 0.8)


@pytest.mark.parametrize("form", [FP8_E4M3, UE4M3, E8M0, PLAIN])
@pytest.mark.parametrize("overflow", ["nonsaturating", "saturate"])
def test_the_wanted_codes_are_the_nearest(form: FloatFormat, overflow: str) -> None:
    values = _inputs(np.random.default_rng(2), 400, form)
    values |= {name: np.zeros(400, dtype=np.int64) for name in ("nan", "inf", "sign")}
    values["magnitude"] = np.maximum(values["magnitude"], 1)
    wanted = _wanted(form, values, overflow)
    for i, code in enumerate(wanted):
        whole = 2 * int(values["magnitude"][i]) + int(values["sticky"][i])
        exact = Fraction(whole) * Fraction(2) ** (int(values["exponent"][i]) - 1)
        assert code == _exact(form, exact, overflow)


def test_registers_between_the_steps_keep_what_belongs_together() -> None:
    m = Module()
    names: list[str] = []

    def register(field: str, value: Value) -> Value:
        names.append(field)
        return Signal(value.shape(), name=field)

    parts = floats.unpack(m, "a", E8M0, Signal(8)).through(register)
    assert names == ["exponent", "significand", "nan"]
    assert parts.exponent.name == "exponent"
    names.clear()
    moved = floats.normalise(m, "n", Signal(9), Signal(4)).through(register)
    assert names == ["magnitude", "exponent"]
    assert moved.low == 0
    Fragment.get(m, None)  # Amaranth warns of modules that nobody elaborates.


@pytest.mark.parametrize("under", [0, 1])
def test_a_least_exponent_spares_the_second_shifter(evaluate: Evaluate, under: int) -> None:
    low = FP8_E4M3.min_exponent - under

    def build(m: Module, values: Mapping[str, Value]) -> dict[str, Value]:
        moved = floats.normalise(m, "n", values["magnitude"], values["exponent"], low=low)
        placed = floats.place(m, "p", FP8_E4M3, moved)
        assert ("p_down" in repr(placed.guard)) == bool(under)
        return {"code": floats.pack(m, "k", FP8_E4M3, placed, sign=Const(0, 1))}

    magnitude, exponent = (
        part.reshape(-1) for part in np.meshgrid(np.arange(256), np.arange(low, 8), indexing="ij")
    )
    call = evaluate(build, {"magnitude": 8, "exponent": -4}, {"code": 8})
    wanted = FP8_E4M3.encode(np.ldexp(magnitude.astype(np.float64), exponent))
    np.testing.assert_array_equal(call(magnitude=magnitude, exponent=exponent)["code"], wanted)


@pytest.mark.parametrize(("width", "bits"), [(6, 3), (3, 6), (1, 1), (9, 2)])
def test_every_magnitude_as_an_integer(evaluate: Evaluate, width: int, bits: int) -> None:
    def build(m: Module, values: Mapping[str, Value]) -> dict[str, Value]:
        return vars(floats.fix(m, "f", values["magnitude"], values["exponent"], bits))

    outputs = {"whole": bits, "guard": 1, "sticky": 1, "over": 1}
    magnitude, exponent = (
        part.reshape(-1)
        for part in np.meshgrid(np.arange(1 << width), np.arange(-32, 32), indexing="ij")
    )
    found = evaluate(build, {"magnitude": width, "exponent": -6}, outputs)(
        magnitude=magnitude, exponent=exponent
    )
    for index, (value, power) in enumerate(zip(magnitude, exponent, strict=True)):
        exact = Fraction(int(value)) * Fraction(2) ** int(power)
        whole = int(exact)
        assert found["over"][index] == (whole >= 1 << bits)
        if whole < 1 << bits:
            rest = (exact - whole) * 2
            assert found["whole"][index] == whole
            assert found["guard"][index] == int(rest)
            assert found["sticky"][index] == (rest != int(rest))


def test_leading_zeros_up_to_a_limit_and_narrow_numbers(evaluate: Evaluate) -> None:
    def build(m: Module, values: Mapping[str, Value]) -> dict[str, Value]:
        value, limit = values["value"], values["limit"]
        count = floats.count_leading_zeros(m, "count", value, limit)
        moved = floats.normalise(m, "n", value, values["exponent"], low=-6, count=count)
        short = floats.narrow(m, "s", FP8_E4M3, moved)
        assert len(short.magnitude) == FP8_E4M3.mantissa_bits + 2
        placed = floats.place(m, "p", FP8_E4M3, short)
        code = floats.pack(m, "k", FP8_E4M3, placed, sign=Const(0, 1))
        return {"count": count, "code": code}

    call = evaluate(
        build, {"value": 11, "limit": 4, "exponent": -6}, {"count": 4, "code": FP8_E4M3.width}
    )
    value, limit = (
        part.reshape(-1)
        for part in np.meshgrid(np.arange(1 << 11), np.arange(1, 16), indexing="ij")
    )
    # Stored exponents of the top bit from 1 on: `limit` below it is where subnormals begin.
    exponent = limit + FP8_E4M3.min_exponent - 10
    found = call(value=value, limit=limit, exponent=exponent)
    length = np.array([int(each).bit_length() for each in value])
    np.testing.assert_array_equal(found["count"], np.minimum(11 - length, limit))
    wanted = FP8_E4M3.encode(np.ldexp(value.astype(np.float64), exponent))
    np.testing.assert_array_equal(found["code"], wanted)


def test_what_has_no_code_is_refused() -> None:
    m = Module()
    value = floats.place(m, "p", PLAIN, floats.normalise(m, "n", Signal(4), Signal(4)))
    with pytest.raises(ValueError, match="k: plain has no NaN"):
        floats.pack(m, "k", PLAIN, value, sign=Const(0, 1), nan=Signal(1))
    with pytest.raises(ValueError, match="must be nonsaturating or saturate, got 'wrap'"):
        floats.pack(m, "k", PLAIN, value, sign=Const(0, 1), overflow="wrap")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a code of e8m0 has 8 bits, got 7"):
        floats.unpack(m, "u", E8M0, Signal(7))
    Fragment.get(m, None)
