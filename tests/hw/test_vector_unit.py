"""The vector unit's arithmetic against exact fractions, its errors against float64, its claims."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from hw.block import block, spec_from_dict
from hw.blocks.vector_unit import coefficients, golden, timing
from hw.blocks.vector_unit.arithmetic import Internal
from hw.blocks.vector_unit.golden import VectorWork
from hw.blocks.vector_unit.program import assemble, programs
from hw.blocks.vector_unit.spec import FUNCTIONS, SLOTS, VectorUnitSpec
from hw.errors import SpecError
from hw.formats import BF16, FP16, FloatFormat
from rtl_gen.emit import emit_verilog
from sim.harness import load
from sim.harness.compile import RUN_SHORT
from sw_driver.measure import vector_accuracy


def _spec(**data: Any) -> VectorUnitSpec:
    spec = spec_from_dict({"block": "vector_unit", "name": "dut", **data})
    assert isinstance(spec, VectorUnitSpec)
    return spec


# Numbers between the ports -------------------------------------------------------

NUMBERS = [Internal(12, 10), Internal(16, 10), Internal(20, 8), Internal(24, 8, specials=False)]


def _nearest(number: Internal, value: Fraction) -> Fraction:
    """A value rounded to the significand, ties to even, by fractions alone."""
    if not value:
        return value
    power = 0
    while abs(value) >= 2 ** (power + 1):
        power += 1
    while abs(value) < Fraction(2) ** power:
        power -= 1
    step = Fraction(2) ** (power - number.significand + 1)
    return round(value / step) * step


def _operands(number: Internal, rng: np.random.Generator, count: int) -> np.ndarray:
    """Numbers of few and of many bits, near to each other and far apart, some of them 0."""
    bits = number.significand
    whole = rng.integers(1 << (bits - 1), 1 << bits, size=count)
    few = rng.integers(0, bits, size=count)
    whole = np.where(rng.random(count) < 0.5, whole >> few << few, whole)
    reach = np.where(rng.random(count) < 0.7, 3, bits + 4)
    power = np.rint(rng.uniform(-1, 1, count) * reach).astype(int)
    sign = rng.choice([-1.0, 1.0], size=count)
    return np.where(rng.random(count) < 0.05, 0.0, sign * np.ldexp(whole, power - bits))


@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_multiply_add_rounds_the_exact_result_once(number: Internal) -> None:
    rng = np.random.default_rng(number.significand)
    a, b, c = (_operands(number, rng, 3000) for _ in range(3))
    # Sums that cancel, and that are a tie but for what lies far below.
    c[::3] = -number.round(a[::3] * b[::3])
    c[1::6] = np.ldexp(c[1::6], number.significand)
    found = number.fma(a, b, c)
    ties = 0
    for x, y, z, result in zip(a, b, c, found, strict=True):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        assert Fraction(result) == _nearest(number, exact), (x, y, z)
        ties += exact != 0 and exact == _nearest(number, exact * 2) / 2 != Fraction(result)
    assert (found == 0).sum() > 50


def test_rounding_goes_to_even() -> None:
    number = Internal(12, 10)
    unit = 2.0**-11
    values = 1.0 + unit * np.array([0.5, 1.5, 2.5, 2.5 + 2**-30, 0.5 - 2**-30])
    np.testing.assert_array_equal(number.round(values), 1.0 + unit * np.array([0, 2, 2, 3, 0]))
    # A far summand breaks a tie either way.
    assert number.fma(1.0 + unit, 1.0, 0.5 * unit) == 1.0 + 2 * unit
    assert number.fma(1.0, 1.0 + unit * 2, 0.5 * unit) == 1.0 + 2 * unit
    assert number.fma(1.0 + unit * 33, 1.0 + unit * 31, 2.0**-300) == number.round(
        np.array([(1.0 + unit * 33) * (1.0 + unit * 31) + 2.0**-40])
    )


def test_zeros_infinities_and_nan() -> None:
    number = Internal(16, 10)
    inf = math.inf
    a = np.array([0.0, -0.0, inf, inf, 1.0, inf, -inf, 2.0])
    b = np.array([1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    c = np.array([-0.0, -0.0, 1.0, -inf, np.nan, inf, 1.0, -2.0])
    found = number.fma(a, b, c)
    np.testing.assert_array_equal(found, [0.0, -0.0, np.nan, np.nan, np.nan, inf, -inf, 0.0])
    np.testing.assert_array_equal(np.signbit(found), [0, 1, 0, 0, 0, 0, 1, 0])
    larger = number.maximum(np.array([-0.0, 0.0, -1.0, np.nan]), np.array([0.0, -0.0, -2.0, 1.0]))
    np.testing.assert_array_equal(larger, [0.0, 0.0, -1.0, np.nan])
    assert not np.signbit(larger[:2]).any()


@pytest.mark.parametrize(("number", "power"), [(NUMBERS[0], 511), (NUMBERS[2], 127)])
def test_leaving_the_range_is_said(number: Internal, power: int) -> None:
    assert number.fma(2.0 ** (power - 1), 1.0, 2.0 ** (power - 2)) > 0
    with pytest.raises(ArithmeticError, match="left 2\\^"):
        number.fma(2.0**power, 1.0, 2.0**power)
    with pytest.raises(ArithmeticError, match="left 2\\^"):
        number.fma(2.0**-power, 0.5, 0.0)


def test_codes_of_numbers() -> None:
    number = Internal(12, 8)
    assert number.code(1.0) == 127 << 11
    assert number.code(-1.5) == (1 << 19) | (127 << 11) | (1 << 10)
    assert number.code(0.0) == 0
    assert number.code(-math.inf) == (1 << 19) | (255 << 11)
    with pytest.raises(ValueError, match="no number of 12 bits"):
        number.code(1.0 + 2.0**-12)
    with pytest.raises(ValueError, match="in range"):
        number.code(2.0**128)


# Parts ---------------------------------------------------------------------------

PARTS = {
    # Format, significand: bits of e^t near 0, e^t to its limit, 1/y, 1/√y.
    ("bf16", 12): (11.7, 7.6, 11.9, 11.7),
    ("bf16", 16): (15.6, 12.0, 15.9, 15.6),
    ("fp16", 20): (19.3, 15.0, 19.9, 19.5),
}


@pytest.mark.parametrize(("form", "bits"), PARTS)
def test_parts_are_as_exact_as_they_say(form: str, bits: int) -> None:
    spec = _spec(format=form, internal={"significand": bits})
    found = vector_accuracy.part_errors(spec)
    for each, least in zip(found, PARTS[form, bits], strict=True):
        assert least < each.bits < bits + 1, each


@pytest.mark.parametrize("degree", [4, 5, 6])
def test_exponential_polynomials(degree: int) -> None:
    f = np.linspace(-1, 1, 4001) * math.log(2) / 2
    found = np.polynomial.polynomial.polyval(f, (1.0, *coefficients.EXP[degree]))
    worst = np.abs(found / np.exp(f) - 1).max()
    assert -math.log2(worst) > {4: 18.4, 5: 23.3, 6: 28.8}[degree]


@pytest.mark.parametrize("degree", [6, 8])
def test_tail_polynomials(degree: int) -> None:
    z = np.linspace(0, 14, 4001)
    t = 1 / (1 + coefficients.TAIL_STEP * z)
    found = np.polynomial.polynomial.polyval(t, (0.0, *coefficients.TAIL[degree]))
    tail = np.array([0.5 * math.erfc(x * math.sqrt(0.5)) * math.exp(x * x / 2) for x in z])
    assert -math.log2(np.abs(found / tail - 1).max()) > {6: 17.3, 8: 22.1}[degree]


def test_the_integer_part_of_an_exponent_is_never_in_doubt() -> None:
    # e^t of 0 is 1; of the limit it is far below what any port can hold.
    for form in ("bf16", "fp16"):
        spec = _spec(format=form)
        number, port = spec.number, spec.port
        limit = coefficients.limits(number)[0]
        assert golden.exponential(number, np.array([0.0, -0.0])).tolist() == [1.0, 1.0]
        least = golden.exponential(number, np.array([-limit]))[0]
        assert isinstance(port, FloatFormat)
        assert 0 < least * limit < port.min_subnormal / 4


# Functions -----------------------------------------------------------------------

PLACES = {
    ("bf16", 16): {
        "softmax": 0.60, "layer_norm": 0.51, "rms_norm": 0.52, "gelu": 0.53, "gelu_tanh": 0.66,
        "silu": 0.55, "rotary": 0.51, "add": 0.51, "reduce": 0.51,
    },
    ("fp16", 20): {
        "softmax": 0.53, "layer_norm": 0.51, "rms_norm": 0.51, "gelu": 0.52, "gelu_tanh": 0.55,
        "silu": 0.52, "rotary": 0.51, "add": 0.51, "reduce": 0.51,
    },
    ("fixed", 18): dict.fromkeys(FUNCTIONS, 0.55) | {"layer_norm": 0.8, "rotary": 0.65},
}  # fmt: skip
"""Largest errors in units of the last place at the scale of a result."""


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("form", "bits"), PLACES)
def test_errors_stay_within_their_bounds(form: str, bits: int, function: Any) -> None:
    more = {"fixed": {"bits": 16, "fraction": 10}} if form == "fixed" else {}
    spec = _spec(format=form, internal={"significand": bits}, **more)
    found = vector_accuracy.function_errors(spec, function)
    if form == "fixed" and function in ("add", "reduce"):
        assert found.places == 0  # 18 bits hold these sums exactly
    else:
        # Rounding to the port alone takes half a place, and some result comes near to it.
        assert 0.3 < found.places <= PLACES[form, bits][function], found
    assert found.results > (60_000 if function in golden.POINTWISE else 1_500)


@pytest.mark.parametrize("form", ["bf16", "fp16"])
@pytest.mark.parametrize("function", golden.POINTWISE)
def test_special_numbers_of_one_element(form: str, function: Any) -> None:
    spec = _spec(format=form)
    x = np.array([math.inf, -math.inf, np.nan, 0.0, -0.0])
    found = golden.apply(spec, function, x)
    np.testing.assert_array_equal(found, [math.inf, 0.0, np.nan, 0.0, 0.0])
    assert np.signbit(found).tolist() == [False, True, False, False, False]
    codes = np.array([[spec.port.nan_code | 1 << 15]])  # type: ignore[union-attr,operator]
    work = VectorWork(function=function, x=codes)
    assert golden.results(spec, work)[0, 0] == spec.port.nan_code  # type: ignore[union-attr]


def test_special_rows_of_softmax() -> None:
    spec = _spec()
    inf = math.inf
    masked = golden.apply(spec, "softmax", [[-inf, 1.0, -inf, 1.0], [-inf, -inf, 3.0, -inf]])
    np.testing.assert_array_equal(masked, [[0, 0.5, 0, 0.5], [0, 0, 1, 0]])
    for row in ([-inf, -inf], [inf, 0.0], [np.nan, 0.0]):
        assert np.isnan(golden.apply(spec, "softmax", row)).all()
    assert golden.apply(spec, "softmax", [-7.0]).tolist() == [1.0]
    same = golden.apply(spec, "softmax", np.full(64, -300.0))
    np.testing.assert_array_equal(same, np.full(64, 1 / 64))
    far = golden.apply(spec, "softmax", [1e30, -1e30, 0.0])
    assert far.tolist() == [1.0, 0.0, 0.0]


def test_special_rows_of_norms() -> None:
    spec = _spec()
    inf = math.inf
    assert golden.apply(spec, "layer_norm", [[5.0]], u=2.0, v=0.25).tolist() == [[0.25]]
    same = np.full((1, 9), -3.0)
    for epsilon in (0.0, 1e-5):
        found = golden.apply(spec, "layer_norm", same, u=1.5, v=-0.5, epsilon=epsilon)
        np.testing.assert_array_equal(found, np.full((1, 9), -0.5))
    zeros = golden.apply(spec, "rms_norm", np.zeros((2, 5)), u=3.0)
    np.testing.assert_array_equal(zeros, np.zeros((2, 5)))
    assert abs(golden.apply(spec, "rms_norm", [-8.0], u=1.0)[0] + 1) < 2**-8
    for row in ([inf, 1.0, 2.0], [np.nan, 1.0, 2.0], [-inf, inf, 0.0]):
        assert np.isnan(golden.apply(spec, "layer_norm", row, u=1.0, v=0.0)).all()
        assert np.isnan(golden.apply(spec, "rms_norm", row, u=1.0)).all()


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e18, 3e38])
def test_norms_do_not_depend_on_the_size_of_a_row(scale: float) -> None:
    spec = _spec()
    rng = np.random.default_rng(3)
    x = BF16.decode(BF16.encode(rng.uniform(-1, 1, (4, 100)) * scale))
    x[:, 0] = BF16.decode(BF16.encode(scale))
    for function, reference in (
        ("layer_norm", vector_accuracy.layer_norm(x / scale, 1.0, 0.0, 0.0)[0]),
        ("rms_norm", vector_accuracy.rms_norm(x / scale, 1.0, 0.0)[0]),
    ):
        more = {"v": 0.0} if function == "layer_norm" else {}
        found = golden.apply(spec, function, x, u=1.0, **more)  # type: ignore[arg-type]
        assert np.abs(found - reference).max() < 2**-7


def test_rotary_turns_pairs_of_neighbours() -> None:
    spec = _spec()
    x = np.array([1.0, 0.0, 0.0, 1.0, 3.0, 4.0])
    found = golden.apply(spec, "rotary", x, u=0.0, v=1.0)
    np.testing.assert_array_equal(found, [0.0, 1.0, -1.0, 0.0, -4.0, 3.0])


def test_sums_of_rows() -> None:
    spec = _spec()
    assert golden.apply(spec, "reduce", [[1.0, 2.0], [3.0, -2.0], [0.5, 7.0]]).tolist() == [4.5, 7]
    # What is added up is wider than the port: 256 + 1 + 1 is 258 where BF16 stays at 256.
    assert golden.apply(spec, "reduce", [[256.0], [1.0], [1.0]]).tolist() == [258.0]
    assert golden.apply(spec, "add", [256.0, math.inf], u=[1.0, -math.inf])[0] == 256.0


def test_fixed_point_is_clipped() -> None:
    spec = _spec(format="fixed", fixed={"bits": 8, "fraction": 4}, lanes=2)
    assert golden.apply(spec, "add", [7.0, -8.0], u=[7.0, -8.0]).tolist() == [127 / 16, -127 / 16]
    lowest = VectorWork(function="add", x=np.array([[-128]]), u=np.array([[127]]))
    assert golden.results(spec, lowest).tolist() == [[-1]]


@pytest.mark.parametrize("lanes", [1, 2, 16])
def test_order_of_a_sum(lanes: int) -> None:
    # Slot by slot and lane by lane, then slots, then lanes: by hand, with numbers of 12 bits.
    spec = _spec(functions=["layer_norm"], lanes=lanes, internal={"significand": 12})
    number = spec.number
    rng = np.random.default_rng(lanes)
    values = number.round(rng.standard_normal(5 * SLOTS * lanes - 3) * 100)
    parts = {(slot, lane): 0.0 for slot in range(SLOTS) for lane in range(lanes)}

    def add(a: float, b: float) -> float:
        return float(_nearest(number, Fraction(a) + Fraction(b)))

    for place, value in enumerate(values.tolist()):
        beat, lane = divmod(place, lanes)
        parts[beat % SLOTS, lane] = add(parts[beat % SLOTS, lane], value)
    for lane in range(lanes):
        pairs = [add(parts[slot, lane], parts[slot + 2, lane]) for slot in (0, 1)]
        parts[0, lane] = add(*pairs)
    width = lanes
    while width > 1:
        width //= 2
        for lane in range(width):
            parts[0, lane] = add(parts[0, lane], parts[0, lane + width])
    assert golden._sum(spec, values[None])[0, 0] == parts[0, 0]


def test_apply_gives_what_the_results_are() -> None:
    rng = np.random.default_rng(8)
    for data in ({}, {"format": "fp16"}, {"format": "fixed", "fixed": {"bits": 10}}):
        spec = _spec(**data)
        port = spec.port
        seen = set()
        while len(seen) < len(FUNCTIONS):
            work = golden.random_work(spec, rng)
            more = {
                name: port.decode(codes)
                for name, codes in (("u", work.u), ("v", work.v))
                if codes is not None
            }
            x = port.decode(work.x)
            if not spec.number.specials and (work.x == -port.max_code - 1).any():
                continue  # decoding and encoding clips it
            if any((codes == -port.max_code - 1).any() for codes in (work.u, work.v)
                   if codes is not None and not spec.number.specials):  # fmt: skip
                continue
            found = golden.apply(spec, work.function, x, epsilon=work.epsilon, **more)
            wanted = port.decode(golden.results(spec, work))
            np.testing.assert_array_equal(found.reshape(wanted.shape), wanted)
            seen.add(work.function)


# Cycles --------------------------------------------------------------------------


@pytest.mark.parametrize("data", block("vector_unit").sweep, ids=str)
def test_rounds_are_those_of_the_programs(data: dict[str, Any]) -> None:
    spec = _spec(**data)
    for name, program in programs(spec).items():
        cost = timing.rounds(spec, name)
        assert len(program.job) == cost.job
        assert sum(len(part) for looped, part in program.parts if not looped) == cost.row
        assert sum(len(part) for looped, part in program.parts if looped) == cost.chunk
    found, entries = assemble(spec)
    assert len(found) == sum(len(list(each.operations())) for each in programs(spec).values())
    assert sorted(entries.values())[0] == 0


def test_cycles_by_hand() -> None:
    spec = _spec()
    # 100 elements are 13 beats of 8, 4 chunks, the last of 1 beat.
    x = np.zeros((3, 100), dtype=np.int64)
    soft = VectorWork(function="softmax", x=x)
    assert timing.cycles(spec, [soft]) == 2 + 4 * 3 * (19 + 13 * 4) + 1
    norm = VectorWork(function="layer_norm", x=x[:1], u=x[:1], v=x[:1])
    assert timing.cycles(spec, [soft, norm]) == 2 + 4 * 3 * 71 + 4 * (6 + 24 + 5 * 4) + 1
    add = VectorWork(function="add", x=x[:, :96], u=x[:, :96])
    assert timing.cycles(spec, [add]) == 2 + 4 * 3 * 3 + 4


# Hardware ------------------------------------------------------------------------


def test_results_of_a_row_do_not_wait_for_what_follows() -> None:
    spec = _spec(functions=["silu", "layer_norm", "reduce"], lanes=2, max_length=20)
    rng = np.random.default_rng(0)
    with load(spec, emit_verilog(spec), effort=RUN_SHORT) as model:
        for function in spec.functions:
            for length in (1, 2, 7, 8, 20):
                shape = (1, length)
                codes = [BF16.encode(rng.standard_normal(shape)).astype(np.int64) for _ in "xuv"]
                operands = {"u": codes[1], "v": codes[2]} if function == "layer_norm" else {}
                work = VectorWork(function=function, x=codes[0], **operands)
                ports = {item.name: item for item in golden.streams(spec)}
                beats = golden.beats(spec, work)
                # The next job is there, and all but the last of its elements.
                offered = {
                    "i_job": np.repeat(ports["i_job"].pack(beats["i_job"]), 2, axis=0),
                    "i": np.concatenate(
                        [ports["i"].pack(beats["i"])] * 2
                    )[:-1],
                    "i_q": ports["i_q"].pack(beats["i_q"]),
                }  # fmt: skip
                wanted = ports["o"].pack(golden.expected(spec, work)["o"])
                run = model.run(offered, {"o": len(wanted)}, check=False)
                np.testing.assert_array_equal(run.packed["o"][: len(wanted)], wanted)
                assert run.last_output is not None


def test_only_what_is_asked_for_is_built() -> None:
    texts = {name: emit_verilog(_spec(functions=[name], lanes=2)) for name in FUNCTIONS}
    for name, text in texts.items():
        assert ("i_q__payload" in text) == (name in ("layer_norm", "rms_norm", "rotary", "add"))
        assert ("row_63" in text) == (name in ("softmax", "layer_norm", "rms_norm", "reduce"))
        assert ("root_mantissa" in text) == (name in ("layer_norm", "rms_norm"))
        assert ("power_stored" in text) == (name in ("softmax", "gelu", "gelu_tanh", "silu"))


# Refusals ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"lanes": 3}, "lanes: must be a power of two, got 3"),
        ({"lanes": 1}, "lanes: must be at least 2 for rotary: a beat holds pairs, got 1"),
        ({"functions": []}, "functions"),
        ({"functions": ["tanh"]}, "functions"),
        ({"functions": ["add", "add"]}, "functions: must name each function once, got 'add'"),
        (
            {"format": "fixed", "internal": {"significand": 12}},
            "internal.significand: must be at least fixed.bits = 16, got 12",
        ),
        (
            {"format": "fixed", "fixed": {"bits": 8, "fraction": 8}},
            "fixed.fraction: must be less than fixed.bits = 8, got 8",
        ),
        (
            {"max_length": 4096, "internal": {"significand": 12}},
            "max_length: must be less than 2^(internal.significand - 1) = 2048 for norms, got 4096",
        ),
    ],
)
def test_specifications_that_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        _spec(**data)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"function": "silu"}, "function: must be one of layer_norm, rotary"),
        ({"x": np.zeros(4, int)}, "x: must be"),
        ({"x": np.zeros((1, 33), int)}, "x: rows must have 1 to 32 elements"),
        ({"u": None}, "u: for layer_norm"),
        ({"v": None}, "v: for layer_norm"),
        ({"u": np.zeros((1, 5), int)}, "u: must be (1, 6), got (1, 5)"),
        ({"epsilon": 1e-5}, "epsilon: must have 16 significant bits"),
        ({"epsilon": 2.0**30}, "epsilon: must be 0, or for norms"),
        ({"function": "rotary", "epsilon": 1.0}, "epsilon: must be 0, or for norms"),
        ({"function": "rotary", **dict.fromkeys("xuv", np.zeros((1, 5), int))}, "x: rows must be"),
    ],
)
def test_works_that_are_refused(change: dict[str, Any], message: str) -> None:
    spec = _spec(functions=["layer_norm", "rotary"], max_length=32)
    rows = np.zeros((1, 6), dtype=np.int64)
    work = VectorWork(function="layer_norm", x=rows, u=rows, v=rows)
    golden.check_work(spec, work)
    with pytest.raises(ValueError, match=re.escape(message)):
        golden.check_work(spec, replace(work, **change))


def test_explanations_name_the_operands() -> None:
    spec = _spec(lanes=2)
    codes = FP16.encode(np.zeros((2, 3))).astype(np.int64)
    work = VectorWork(function="add", x=codes, u=codes + 0x3F80)
    text = golden.explain(spec, work, "o", "y", (2, 0))
    assert text == "add of 3 elements, row 1 of 2, element 0, x 0x0.0p+0, u 0x1.0000000000000p+0"
    assert golden.explain(spec, work, "o", "y", (1, 1)).endswith("behind its end")
    total = VectorWork(function="reduce", x=codes)
    assert golden.explain(spec, total, "o", "y", (0, 0)).endswith("x 0x0.0p+0 + 0x0.0p+0")
