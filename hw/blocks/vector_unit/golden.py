"""Reference of the vector unit: every function as a sequence of operations that round once.

Operands are decoded exactly; each step below is ``a·b + c`` or a maximum of :mod:`arithmetic`,
rounded to the significand between the ports; a result is rounded once more to the port's format
(floats: overflow to infinity; fixed point: saturated symmetrically).

A row's elements lie in beats of ``lanes``, and beats are worked on in turn by ``SLOTS`` slots. Sums
and maxima over a row are taken slot by slot and lane by lane in the order of the beats, then over
slots a half and a quarter of the turn apart, then over lanes ``lanes/2``, …, 1 apart.

What is special:

- a NaN anywhere in a row makes all of the row NaN in softmax and norms, its element elsewhere;
- softmax: −inf is a masked element and gives 0, +inf or nothing but −inf makes the row NaN;
- norms: an infinity makes the row NaN; a row whose variance and epsilon are 0 gives the bias, or 0;
- GELU and SiLU: +inf stays, −inf gives −0;
- fixed point has none of these; its results are clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from hw.blocks.vector_unit import coefficients
from hw.blocks.vector_unit.arithmetic import Internal
from hw.blocks.vector_unit.spec import (
    FUNCTION_BITS,
    FUNCTIONS,
    JOB_ROWS_BITS,
    NORMS,
    SLOTS,
    WITH_U,
    WITH_V,
    Function,
    VectorUnitSpec,
)
from hw.formats import FloatFormat, IntegerFormat
from hw.lazy import np
from hw.streams import Stream, StreamField

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

EPSILON_RANGE = (2.0**-100, 2.0**20)
"""Of an epsilon that is not 0."""

POINTWISE: tuple[Function, ...] = ("gelu", "gelu_tanh", "silu")
"""Functions of one element."""


@dataclass(frozen=True, kw_only=True)
class VectorWork:
    """A job: rows that are treated alike.

    Attributes:
        x: codes of the port's format, ``(rows, length)``; of ``reduce`` the rows that are added up.
        u: second operands, ``(rows, length)``: summand, gain or cosine.
        v: third operands, ``(rows, length)``: bias or sine.
        epsilon: what a norm adds to the mean square, a number of the format between the ports.
    """

    function: Function
    x: np.ndarray
    u: np.ndarray | None = None
    v: np.ndarray | None = None
    epsilon: float = 0.0


# Streams -------------------------------------------------------------


def _elements(spec: VectorUnitSpec, name: str, doc: str) -> StreamField:
    port = spec.port
    signed = isinstance(port, IntegerFormat)
    return StreamField(name=name, width=port.width, signed=signed, shape=(spec.lanes,), doc=doc)


def job_stream(spec: VectorUnitSpec) -> Stream:
    """``i_job``: function, shape of the rows, epsilon."""
    names = ", ".join(f"{FUNCTIONS.index(name)} {name}" for name in spec.functions)
    length = max(1, (spec.max_length - 1).bit_length())
    fields = [
        StreamField(name="function", width=FUNCTION_BITS, doc=names),
        StreamField(name="length_m1", width=length, doc="elements of a row less one"),
        StreamField(name="rows_m1", width=JOB_ROWS_BITS, doc="rows less one"),
    ]
    if spec.has_epsilon:
        number = spec.number
        doc = f"mantissa ({number.significand - 1} bits), exponent ({number.exponent_bits})"
        fields.append(StreamField(name="epsilon", width=number.width - 1, doc=doc))
    return Stream(name="i_job", direction="in", fields=tuple(fields), doc="rows that follow")


def operand_stream(spec: VectorUnitSpec) -> Stream:
    """``i_q``: second and third operands."""
    fields = [_elements(spec, "u", "add: summand; norms: gain; rotary: cosine")]
    if spec.has_v:
        fields.append(_elements(spec, "v", "layer_norm: bias; rotary: sine"))
    doc = "beside i, a beat for each of its beats, for the functions that need it"
    return Stream(name="i_q", direction="in", fields=tuple(fields), doc=doc)


def element_stream(spec: VectorUnitSpec) -> Stream:
    """``i``: elements."""
    fields = (_elements(spec, "x", "elements; those behind a row's end are not looked at"),)
    return Stream(name="i", direction="in", fields=fields, doc="rows, each in whole beats")


def result_stream(spec: VectorUnitSpec) -> Stream:
    """``o``: results."""
    fields = (
        _elements(spec, "y", "results; 0 behind a row's end"),
        StreamField(name="last", width=1, doc="last beat of its row"),
    )
    return Stream(name="o", direction="out", fields=fields, doc="rows, each in whole beats")


def streams(spec: VectorUnitSpec) -> tuple[Stream, ...]:
    """``i_job``, ``i``, ``i_q`` (if a function needs it), ``o``."""
    more = (operand_stream(spec),) if spec.has_u else ()
    return (job_stream(spec), element_stream(spec), *more, result_stream(spec))


def check_work(spec: VectorUnitSpec, work: VectorWork) -> None:
    """``ValueError`` if a work is none for this specification."""
    if work.function not in spec.functions:
        raise ValueError(f"function: must be one of {', '.join(spec.functions)}: {work.function}")
    if work.x.ndim != 2 or not 1 <= len(work.x) <= 1 << JOB_ROWS_BITS:
        raise ValueError(f"x: must be (1 to 65536 rows, elements), got {work.x.shape}")
    if not 1 <= work.x.shape[1] <= spec.max_length:
        raise ValueError(f"x: rows must have 1 to {spec.max_length} elements, got {work.x.shape}")
    if work.function == "rotary" and work.x.shape[1] % 2:
        raise ValueError(f"x: rows must be pairs for rotary, got {work.x.shape[1]} elements")
    for name, value, needed in (("u", work.u, WITH_U), ("v", work.v, WITH_V)):
        if (value is not None) != (work.function in needed):
            raise ValueError(f"{name}: for {', '.join(needed)} and for nothing else")
        if value is not None and value.shape != work.x.shape:
            raise ValueError(f"{name}: must be {work.x.shape}, got {value.shape}")
    _check_epsilon(spec, work.function, work.epsilon)


def _check_epsilon(spec: VectorUnitSpec, function: Function, epsilon: float) -> None:
    low, high = EPSILON_RANGE
    if epsilon and (function not in NORMS or not low <= epsilon <= high):
        raise ValueError(f"epsilon: must be 0, or for norms {low} to {high}, got {epsilon}")
    if epsilon != spec.number.nearest(epsilon):
        bits = spec.internal.significand
        raise ValueError(f"epsilon: must have {bits} significant bits, got {epsilon!r}")


# Parts of functions ----------------------------------------------------


def exponential(number: Internal, t: np.ndarray) -> np.ndarray:
    """``e^t`` for ``t ≤ 0``, not below the limit; NaN of NaN.

    ``n = rint(t·log2(e))``, ``f = t − n·ln(2)``, a polynomial in ``f``, times ``2^n``.
    """
    log2e, ln2 = number.nearest(coefficients.LOG2E), number.nearest(coefficients.LN2)
    n = np.rint(t * log2e)  # the product is exact
    f = number.fma(n, -ln2, t)
    found = _horner(number, f, (1.0, *coefficients.exp_coefficients(number)))
    power = np.where(np.isnan(n), 0, n).astype(np.int64)
    return np.ldexp(found, power)


def _horner(number: Internal, x: np.ndarray, constants: tuple[float, ...]) -> np.ndarray:
    """``c0 + c1·x + …``, from the highest power on, a rounding a step."""
    found: np.ndarray | float = constants[-1]
    for constant in constants[-2::-1]:
        found = number.fma(x, found, constant)
    return np.asarray(found)


def reciprocal(number: Internal, y: np.ndarray) -> np.ndarray:
    """``1/y`` of positive numbers: a seed, and two steps of Newton's, ``r + r·(1 − y·r)``."""
    r = _reciprocal_seed(number, y)
    for _ in range(2):
        r = number.fma(number.fma(-y, r, 1.0), r, r)
    return r


def _apart(number: Internal, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stored exponent and upper mantissa bits of positive numbers or 0, and what is no number."""
    bad = ~np.isfinite(y)
    part, power = np.frexp(np.where(bad | (y == 0), 1.0, y))
    zero = (y == 0) & ~bad
    stored = np.where(zero, 0, power.astype(np.int64) - 1 + number.bias)
    bits = coefficients.seed_bits(number)
    upper = np.floor((part * 2 - 1) * (1 << bits)).astype(np.int64)
    return stored, np.where(zero, 0, upper), bad


def _made(number: Internal, stored: np.ndarray, mantissa: np.ndarray) -> np.ndarray:
    """Numbers with the mantissa of a seed."""
    scale = 1.0 / (1 << coefficients.seed_mantissa_bits(number))
    return np.ldexp(1.0 + mantissa * scale, stored - number.bias)


def _reciprocal_seed(number: Internal, y: np.ndarray) -> np.ndarray:
    stored, upper, bad = _apart(number, y)
    seeds = np.array(coefficients.reciprocal_seeds(number))
    return np.where(bad, np.nan, _made(number, 2 * number.bias - 1 - stored, seeds[upper]))


def _root_seed(number: Internal, y: np.ndarray) -> np.ndarray:
    """A seed of ``1/√y``; of 0 that of the number one below the smallest exponent."""
    stored, upper, bad = _apart(number, y)
    power = stored - number.bias
    parity = power & 1
    seeds = np.array(coefficients.root_seeds(number))
    found = seeds[(parity << coefficients.seed_bits(number)) + upper]
    return np.where(bad, np.nan, _made(number, number.bias - 1 - (power >> 1), found))


def reciprocal_root(number: Internal, y: np.ndarray) -> np.ndarray:
    """``1/√y`` of positive numbers: a seed, and two steps ``r + r·(1/2 − (y/2·r)·r)``.

    Of 0 it is some large number.
    """
    half = number.fma(y, 0.5, 0.0)
    r = _root_seed(number, y)
    for _ in range(2):
        r = number.fma(number.fma(-number.fma(half, r, 0.0), r, 0.5), r, r)
    return r


Combine = Callable[["np.ndarray", "np.ndarray"], "np.ndarray"]


def _over_rows(
    spec: VectorUnitSpec, combine: Combine, values: np.ndarray, identity: float
) -> np.ndarray:
    """Rows combined to one number each, ``(rows, 1)``, in the order of the module's docstring."""
    rows, length = values.shape
    shape = (rows, spec.chunks(length), SLOTS, spec.lanes)
    padded = np.zeros((rows, shape[1] * SLOTS * spec.lanes))
    padded[:, :length] = values
    there = np.zeros(padded.shape, dtype=bool)
    there[:, :length] = True
    padded, there = padded.reshape(shape), there.reshape(shape)
    found = np.full((rows, SLOTS, spec.lanes), identity)
    for chunk in range(shape[1]):
        found = np.where(there[:, chunk], combine(padded[:, chunk], found), found)
    slot, lane = np.arange(SLOTS), np.arange(spec.lanes)
    step = SLOTS // 2
    while step:
        found = combine(found[:, (slot + step) % SLOTS], found)
        step //= 2
    step = spec.lanes // 2
    while step:
        found = combine(found[..., lane ^ step], found)
        step //= 2
    return found[:, 0, :1]


def _sum(spec: VectorUnitSpec, values: np.ndarray) -> np.ndarray:
    number = spec.number
    return _over_rows(spec, lambda a, c: number.fma(a, 1.0, c), values, 0.0)


def _sum_of_squares(spec: VectorUnitSpec, values: np.ndarray) -> np.ndarray:
    """The squares are added in the same operation that squares."""
    number = spec.number
    rows, length = values.shape
    shape = (rows, spec.chunks(length), SLOTS, spec.lanes)
    # A chunk at a time: what is behind the end is 0, and 0·0 + c is c.
    padded = np.zeros((rows, shape[1] * SLOTS * spec.lanes))
    padded[:, :length] = values
    padded = padded.reshape(shape)
    found = np.zeros((rows, SLOTS, spec.lanes))
    for chunk in range(shape[1]):
        found = number.fma(padded[:, chunk], padded[:, chunk], found)
    return _sum(spec, found.reshape(rows, -1))


# Functions -------------------------------------------------------------


def _softmax(spec: VectorUnitSpec, x: np.ndarray) -> np.ndarray:
    number = spec.number
    largest = _over_rows(spec, number.maximum, x, -np.inf)
    t = number.fma(x, 1.0, -largest)
    e = exponential(number, number.maximum(t, -coefficients.limits(number)[0]))
    return number.fma(e, reciprocal(number, _sum(spec, e)), 0.0)


def _inverse_length(spec: VectorUnitSpec, x: np.ndarray) -> np.ndarray:
    return reciprocal(spec.number, np.array([[float(x.shape[1])]]))


def _layer_norm(
    spec: VectorUnitSpec, x: np.ndarray, gain: np.ndarray, bias: np.ndarray, epsilon: float
) -> np.ndarray:
    number = spec.number
    inverse = _inverse_length(spec, x)
    mean = number.fma(_sum(spec, x), inverse, 0.0)
    centred = number.fma(x, 1.0, -mean)
    variance = number.fma(_sum_of_squares(spec, centred), inverse, epsilon)
    scaled = number.fma(centred, reciprocal_root(number, variance), 0.0)
    return number.fma(scaled, gain, bias)


def _rms_norm(spec: VectorUnitSpec, x: np.ndarray, gain: np.ndarray, epsilon: float) -> np.ndarray:
    number = spec.number
    square = number.fma(_sum_of_squares(spec, x), _inverse_length(spec, x), epsilon)
    return number.fma(number.fma(x, reciprocal_root(number, square), 0.0), gain, 0.0)


def _positive(x: np.ndarray) -> np.ndarray:
    """``max(x, 0)``, NaN of NaN."""
    return np.where(np.signbit(x) & ~np.isnan(x), 0.0, x)


def _below(number: Internal, x: np.ndarray, limit: float) -> np.ndarray:
    """``−min(|x|, limit)``."""
    return number.maximum(-np.abs(x), -limit)


def _logistic_tail(number: Internal, t: np.ndarray) -> np.ndarray:
    """``e^t / (1 + e^t)``."""
    e = exponential(number, t)
    return number.fma(e, reciprocal(number, number.fma(e, 1.0, 1.0)), 0.0)


def _silu(spec: VectorUnitSpec, x: np.ndarray) -> np.ndarray:
    """``max(x, 0) − z·σ(−z)`` with ``z = |x|``."""
    number = spec.number
    minus = _below(number, x, coefficients.limits(number)[0])
    return number.fma(minus, _logistic_tail(number, minus), _positive(x))


def _gelu_tanh(spec: VectorUnitSpec, x: np.ndarray) -> np.ndarray:
    """``max(x, 0) − z·σ(−z·(linear + cubic·z²))``."""
    number = spec.number
    linear = number.nearest(coefficients.TANH_LINEAR)
    cubic = number.nearest(coefficients.TANH_CUBIC)
    minus = _below(number, x, coefficients.limits(number)[2])
    inner = number.fma(number.fma(minus, minus, 0.0), cubic, linear)
    tail = _logistic_tail(number, number.fma(minus, inner, 0.0))
    return number.fma(minus, tail, _positive(x))


def _gelu(spec: VectorUnitSpec, x: np.ndarray) -> np.ndarray:
    """``max(x, 0) − z·Φ(−z)``."""
    number = spec.number
    minus = _below(number, x, coefficients.limits(number)[1])
    t = reciprocal(number, number.fma(minus, -coefficients.TAIL_STEP, 1.0))
    scale = _horner(number, t, (0.0, *coefficients.tail_coefficients(number)))
    power = number.fma(minus, number.fma(minus, -0.5, 0.0), 0.0)
    tail = number.fma(scale, exponential(number, power), 0.0)
    return number.fma(minus, tail, _positive(x))


def _rotary(spec: VectorUnitSpec, x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Pairs of neighbours: ``x0·cos − x1·sin`` and ``x1·cos + x0·sin``."""
    number = spec.number
    place = np.arange(x.shape[1])
    other = np.where(place & 1, x[:, place ^ 1], -x[:, place ^ 1])
    return number.fma(other, sin, number.fma(x, cos, 0.0))


def _reduce(spec: VectorUnitSpec, x: np.ndarray) -> np.ndarray:
    """Rows added up in their order, ``(1, length)``."""
    total = np.zeros((1, x.shape[1]))
    for row in x:
        total = spec.number.fma(row[None], 1.0, total)
    return total


def rounded(spec: VectorUnitSpec, values: np.ndarray) -> np.ndarray:
    """Results as codes of the port's format, ``int64``; a NaN is the positive quiet one."""
    port = spec.port
    if isinstance(port, FloatFormat):
        return port.encode(np.where(np.isnan(values), np.nan, values)).astype(np.int64)
    return port.encode(values).astype(np.int64)


def results(spec: VectorUnitSpec, work: VectorWork) -> np.ndarray:
    """Codes ``(rows, length)``; of ``reduce`` one row."""
    check_work(spec, work)
    port = spec.port
    x = port.decode(work.x)
    u = None if work.u is None else port.decode(work.u)
    v = None if work.v is None else port.decode(work.v)
    if work.function == "reduce":
        return rounded(spec, _reduce(spec, x))
    if u is None:
        alone = {"softmax": _softmax, "gelu": _gelu, "gelu_tanh": _gelu_tanh, "silu": _silu}
        return rounded(spec, alone[work.function](spec, x))
    if work.function == "rms_norm":
        return rounded(spec, _rms_norm(spec, x, u, work.epsilon))
    if v is None:
        return rounded(spec, spec.number.fma(x, 1.0, u))
    if work.function == "rotary":
        return rounded(spec, _rotary(spec, x, u, v))
    return rounded(spec, _layer_norm(spec, x, u, v, work.epsilon))


# For programs that compute with floats -----------------------------------


@lru_cache(maxsize=16)
def _table(spec: VectorUnitSpec, function: Function) -> np.ndarray:
    """Values of a function of one element for every code of the port, by code."""
    port = spec.port
    codes = np.arange(1 << port.width)
    if isinstance(port, IntegerFormat):
        codes = (codes ^ (1 << (port.width - 1))) - (1 << (port.width - 1))
    functions = {"gelu": _gelu, "gelu_tanh": _gelu_tanh, "silu": _silu}
    found = rounded(spec, functions[function](spec, port.decode(codes)[None]))
    return port.decode(found[0])


def apply(
    spec: VectorUnitSpec,
    function: Function,
    x: ArrayLike,
    *,
    u: ArrayLike | None = None,
    v: ArrayLike | None = None,
    epsilon: float = 0.0,
) -> np.ndarray:
    """A function of real numbers as the hardware computes it: :func:`results` in floats.

    Args:
        x: ``(…, length)``, rounded to the port's format first; of ``reduce`` ``(rows, length)``.
        u, v: what broadcasts to ``x``, rounded in the same way.
        epsilon: rounded to the format between the ports.

    Returns:
        Exact values of the results, ``float64``, shaped like ``x``; of ``reduce`` ``(length,)``.

    Raises:
        ValueError: as :func:`check_work`, without the limits on lengths and numbers of rows.
    """
    if function not in spec.functions:
        raise ValueError(f"function: must be one of {', '.join(spec.functions)}: {function}")
    port = spec.port
    values = np.atleast_1d(np.asarray(x, dtype=np.float64))
    codes = port.encode(values).astype(np.int64)
    if function in POINTWISE:
        return _table(spec, function)[codes & ((1 << port.width) - 1)].reshape(np.shape(x))
    flat = codes.reshape(-1, values.shape[-1])
    more: list[np.ndarray | None] = []
    for each in (u, v):
        if each is None:
            more.append(None)
            continue
        broad = np.broadcast_to(np.asarray(each, dtype=np.float64), values.shape)
        more.append(port.encode(broad).astype(np.int64).reshape(flat.shape))
    near = spec.number.nearest(epsilon)
    wide_spec = spec.model_copy(update={"max_length": max(spec.max_length, flat.shape[1])})
    if function == "reduce":
        work = VectorWork(function=function, x=flat, u=more[0], v=more[1])
        return port.decode(results(wide_spec, work))[0]
    parts = []
    for start in range(0, len(flat), 1 << JOB_ROWS_BITS):
        part = slice(start, start + (1 << JOB_ROWS_BITS))
        own = [None if each is None else each[part] for each in more]
        work = VectorWork(function=function, x=flat[part], u=own[0], v=own[1], epsilon=near)
        parts.append(results(wide_spec, work))
    return port.decode(np.concatenate(parts)).reshape(values.shape)


# Beats -------------------------------------------------------------------


def _in_beats(spec: VectorUnitSpec, codes: np.ndarray, fill: int) -> np.ndarray:
    """``(rows, length)`` to ``(beats, lanes)``, each row filled up to whole beats."""
    rows, length = codes.shape
    padded = np.full((rows, -(-length // spec.lanes) * spec.lanes), fill, dtype=np.int64)
    padded[:, :length] = codes
    return padded.reshape(-1, spec.lanes)


def beats(spec: VectorUnitSpec, work: VectorWork) -> dict[str, dict[str, np.ndarray]]:
    """Input beats; behind a row's end stands what would be seen: a NaN, or −1."""
    check_work(spec, work)
    job = {
        "function": FUNCTIONS.index(work.function),
        "length_m1": work.x.shape[1] - 1,
        "rows_m1": len(work.x) - 1,
    }
    if spec.has_epsilon:
        job["epsilon"] = spec.number.code(work.epsilon)
    port = spec.port
    fill = -1 if isinstance(port, IntegerFormat) else (1 << port.width) - 1
    values = {
        "i_job": {name: np.array([value]) for name, value in job.items()},
        "i": {"x": _in_beats(spec, work.x, fill)},
    }
    if spec.has_u:
        nothing = np.zeros((0, spec.lanes), dtype=np.int64)
        u = nothing if work.u is None else _in_beats(spec, work.u, fill)
        values["i_q"] = {"u": u}
        if spec.has_v:
            v = np.full_like(u, fill) if work.v is None else _in_beats(spec, work.v, fill)
            values["i_q"]["v"] = v
    return values


def expected(spec: VectorUnitSpec, work: VectorWork) -> dict[str, dict[str, np.ndarray]]:
    """Output beats."""
    found = _in_beats(spec, results(spec, work), 0)
    per_row = -(-work.x.shape[1] // spec.lanes)
    last = np.arange(len(found)) % per_row == per_row - 1
    return {"o": {"y": found, "last": last.astype(np.int64)}}


# Stimulus ------------------------------------------------------------------


def _numbers(
    spec: VectorUnitSpec, rng: np.random.Generator, shape: tuple[int, int], spread: float
) -> np.ndarray:
    """Codes of numbers of about a size."""
    values = rng.standard_normal(shape) * spread
    port = spec.port
    if isinstance(port, FloatFormat):
        return port.encode(values, overflow="saturate").astype(np.int64)
    return port.encode(values).astype(np.int64)


def _rows(
    spec: VectorUnitSpec, rng: np.random.Generator, function: Function, shape: tuple[int, int]
) -> np.ndarray:
    """Rows of every kind: usual, wide, tiny, all codes, constant, masked, with specials."""
    port = spec.port
    spread = float(rng.choice([0.03, 1.0, 4.0, 30.0]))
    codes = _numbers(spec, rng, shape, spread)
    kind = rng.integers(0, 12)
    if isinstance(port, IntegerFormat):
        if kind in (0, 1):
            return port.random_codes(rng, shape).astype(np.int64)
        if kind == 2:
            return np.repeat(port.random_codes(rng, (shape[0], 1)), shape[1], axis=1).astype(
                np.int64
            )
        return codes
    if kind == 0:
        return rng.integers(0, 1 << port.width, size=shape)
    if kind == 1:
        return port.random_codes(rng, shape, finite=True).astype(np.int64)
    if kind == 2:
        return np.repeat(codes[:, :1], shape[1], axis=1)
    if kind == 3:
        tiny = rng.integers(0, 4 << port.mantissa_bits, size=shape)
        return tiny | (rng.integers(0, 2, size=shape) << (port.width - 1))
    if kind == 4:
        every = rng.random() < 0.25
        masked = (rng.random(shape) < 0.4) | every
        return np.where(masked, (port.inf_code or 0) | (1 << (port.width - 1)), codes)
    if kind == 5:
        picked = port.random_codes(rng, shape).astype(np.int64)
        return np.where(rng.random(shape) < 1 / shape[1], picked, codes)
    if kind == 6 and function in POINTWISE:
        # Around the end of what is not 0, and of the polynomial's last piece.
        return _numbers(spec, rng, shape, 1.0) % 64 + port.encode(
            np.where(rng.random(shape) < 0.5, -12.0, 4.0)
        ).astype(np.int64)
    return codes


def _work(
    spec: VectorUnitSpec,
    rng: np.random.Generator,
    function: Function,
    shape: tuple[int, int],
) -> VectorWork:
    rows, length = shape
    if function == "rotary":
        length += length % 2
        if length > spec.max_length:
            length -= 2
    shape = (rows, length)
    u = v = None
    if function in WITH_U:
        u = _rows(spec, rng, function, shape)
    if function in WITH_V:
        v = _rows(spec, rng, function, shape)
    epsilon = 0.0
    if function in NORMS:
        chosen = float(rng.choice([0.0, 1e-12, 1e-5, 1e-6, 1.0, EPSILON_RANGE[0]]))
        epsilon = spec.number.nearest(chosen)
    x = _rows(spec, rng, function, shape)
    return VectorWork(function=function, x=x, u=u, v=v, epsilon=epsilon)


def random_work(
    spec: VectorUnitSpec, rng: np.random.Generator, *, size: str = "small"
) -> VectorWork:
    """Corner-heavy random rows."""
    if size not in ("minimum", "small", "large"):
        raise ValueError(f"size: must be minimum, small or large, got {size!r}")
    names = [name for name in spec.functions if name != "rotary" or spec.max_length > 1]
    function = names[int(rng.integers(len(names)))]
    turn = SLOTS * spec.lanes
    most = {
        "minimum": min(2, spec.max_length),
        "small": min(3 * turn, spec.max_length),
        "large": min(16 * turn, spec.max_length),
    }[size]
    length = int(rng.integers(1, most + 1))
    if rng.random() < 0.3:
        # Whole beats, whole chunks, one element more or less.
        around = int(rng.choice([spec.lanes, turn, 2 * turn, most])) + int(rng.integers(-1, 2))
        length = min(max(around, 1), most)
    rows = 1 if size == "minimum" and function != "reduce" else int(rng.integers(1, 4))
    return _work(spec, rng, function, (rows, length))


def corner_works(spec: VectorUnitSpec, rng: np.random.Generator) -> tuple[VectorWork, ...]:
    """Each function on rows of every length around beats and chunks, and on the longest."""
    turn = SLOTS * spec.lanes
    lengths = {1, 2, spec.lanes, spec.lanes + 1, turn - 1, turn, turn + 1, spec.max_length}
    works = []
    for function in spec.functions:
        for length in sorted(lengths):
            if length <= spec.max_length and (function != "rotary" or spec.max_length > 1):
                works += [_work(spec, rng, function, (1 + (length < turn), length))]
        shape = (2, min(turn, spec.max_length))
        works += [_work(spec, rng, function, shape) for _ in range(8)]
        if function in WITH_U:
            # Corners of the format beside each other, infinities and zeros among them.
            works += [_cornered(spec, rng, work) for work in works[-6:]]
            if isinstance(spec.port, FloatFormat):
                works += [_zeroed(spec, rng, work) for work in works[-2:]]
        if function == "rotary":
            works += [_broken_ties(spec, rng, work) for work in works[-2:]]
    return tuple(works)


def _cornered(spec: VectorUnitSpec, rng: np.random.Generator, work: VectorWork) -> VectorWork:
    """A work with corners of the port's format for operands."""

    def codes(old: np.ndarray) -> np.ndarray:
        return spec.port.random_codes(rng, old.shape).astype(np.int64)

    u = None if work.u is None else codes(work.u)
    v = None if work.v is None else codes(work.v)
    return replace(work, x=codes(work.x), u=u, v=v)


def _zeroed(spec: VectorUnitSpec, rng: np.random.Generator, work: VectorWork) -> VectorWork:
    """A work with zeros of either sign for most operands."""

    def codes(old: np.ndarray) -> np.ndarray:
        sign = rng.integers(0, 2, size=old.shape) << (spec.port.width - 1)
        return np.where(rng.random(old.shape) < 0.7, sign, old)

    u = None if work.u is None else codes(work.u)
    v = None if work.v is None else codes(work.v)
    return replace(work, x=codes(work.x), u=u, v=v)


def _broken_ties(spec: VectorUnitSpec, rng: np.random.Generator, work: VectorWork) -> VectorWork:
    """A rotation whose sums are ties between two numbers, but for a product far below.

    Of products of two significands those are taken that the bits between the ports tie, upwards
    into a tie of the port's bits: the last rounding shows what the first one made of it.
    """
    port, bits = spec.port, spec.number.significand
    if not isinstance(port, FloatFormat):
        return work
    mantissa = port.mantissa_bits
    below, extra = 2 * (mantissa + 1) - bits, bits - (mantissa + 1)
    if below < 1 or extra < 1:
        return work
    kept = 2 if extra == 1 else 1 << (extra - 1)
    wanted = (kept << below) | (1 << (below - 1))
    significands = np.arange(1 << mantissa, 2 << mantissa)
    products = significands[:, None] * significands
    usable = products % (1 << (below + extra + 1)) == wanted
    usable &= products >= 2 << (2 * mantissa)
    left, right = np.nonzero(usable)
    if not len(left):
        return work
    chosen = rng.integers(0, len(left), size=work.x[:, ::2].shape)
    one, least = port.bias << mantissa, 1 << mantissa

    def signed(codes: np.ndarray) -> np.ndarray:
        return codes | (rng.integers(0, 2, size=codes.shape) << (port.width - 1))

    x, cos, sin = (np.full(work.x.shape, least) for _ in range(3))
    x[:, 1::2], sin[:, ::2] = one | left[chosen], one | right[chosen]
    return replace(work, x=signed(x), u=signed(cos), v=signed(sin))


def exhaustive_works(spec: VectorUnitSpec) -> tuple[VectorWork, ...] | None:
    """Every code of the port through every function of one element, where lanes are few."""
    names = [name for name in spec.functions if name in POINTWISE]
    if not names or spec.lanes > 4 or spec.max_length < 16 * SLOTS * spec.lanes:
        return None
    port = spec.port
    codes = np.arange(1 << port.width)
    if isinstance(port, IntegerFormat):
        codes -= 1 << (port.width - 1)
    length = SLOTS * spec.lanes
    while 2 * length <= spec.max_length:
        length *= 2
    rows = np.resize(codes, (-(-len(codes) // length), length))
    return tuple(VectorWork(function=name, x=rows) for name in names)


def explain(
    spec: VectorUnitSpec, work: VectorWork, stream: str, field: str, index: tuple[int, ...]
) -> str:
    """The operands behind an element."""
    per_row = -(-work.x.shape[1] // spec.lanes)
    row, beat = divmod(index[0], per_row)
    text = f"{work.function} of {work.x.shape[1]} elements, row {row} of {len(work.x)}"
    if work.function in NORMS:
        text += f", epsilon {float(work.epsilon).hex()}"
    if field != "y":
        return text
    place = beat * spec.lanes + index[1]
    if place >= work.x.shape[1]:
        return f"{text}, behind its end"
    text += f", element {place}"
    for name, codes in (("x", work.x), ("u", work.u), ("v", work.v)):
        if codes is None:
            continue
        own = codes[:, place] if work.function == "reduce" else codes[row, place]
        values = spec.port.decode(np.atleast_1d(own)).tolist()
        text += f", {name} " + " + ".join(float(value).hex() for value in values)
    return text


def coverage(spec: VectorUnitSpec, work: VectorWork) -> Iterator[str]:
    """Coverage points of one work."""
    yield f"function={work.function}"
    rows, length = work.x.shape
    if rows > 1:
        yield "rows=several"
    if length == 1:
        yield "length=1"
    if length % spec.lanes:
        yield "beat=in part"
    if spec.chunks(length) > 1:
        yield "chunks=several"
    if length % (SLOTS * spec.lanes) == 0:
        yield "chunk=full"
    port = spec.port
    x = port.decode(work.x)
    if np.isnan(x).any():
        yield "operand=NaN"
    if np.isinf(x).any():
        yield "operand=infinity"
    if work.function == "softmax" and (np.isneginf(x).any(1) & np.isfinite(x).any(1)).any():
        yield "softmax=masked"
    if work.function in NORMS and (x == x[:, :1]).all(axis=1).any():
        yield "norm=constant row"
    found = port.decode(results(spec, work))
    if isinstance(port, FloatFormat):
        size = np.abs(found)
        if ((size > 0) & (size < port.min_normal)).any():
            yield "result=subnormal"
        if (np.isinf(found).any(axis=1) & np.isfinite(x).all()).any():
            yield "result=overflow"
    elif (np.abs(found) == port.max).any():
        yield "result=clipped"


def coverage_points(spec: VectorUnitSpec) -> tuple[str, ...]:
    """Every coverage point."""
    points = [f"function={name}" for name in spec.functions]
    points += ["rows=several", "length=1", "beat=in part", "chunks=several", "chunk=full"]
    if spec.lanes == 1:
        points.remove("beat=in part")
    if spec.max_length <= SLOTS * spec.lanes:
        points.remove("chunks=several")
    if spec.max_length < SLOTS * spec.lanes:
        points.remove("chunk=full")
    if isinstance(spec.port, FloatFormat):
        points += ["operand=NaN", "operand=infinity", "result=subnormal"]
        if "softmax" in spec.functions and spec.max_length > 1:
            points.append("softmax=masked")
        if spec.has_u:
            points.append("result=overflow")
    elif spec.asks(("layer_norm", "rms_norm", "rotary", "add", "reduce")):
        points.append("result=clipped")
    if spec.has_epsilon:
        points.append("norm=constant row")
    return tuple(points)
