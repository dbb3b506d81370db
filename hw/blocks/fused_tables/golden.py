"""Reference of the fused table generator.

``q = clip(rint(x · gain · multiplier))``, the product exact, rounded once (ties to even) and then
clipped to ``±(2^(bits − 1) − 1)``; tables of ``q`` as :mod:`hw.blocks.lut_core.tables` defines.
Products are integers times powers of two: no floating-point arithmetic is done here. A NaN, or an
infinity times zero, gives 0; any other infinity is clipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hw.blocks.fused_tables.spec import JOB_BEATS_BITS, FusedTablesSpec
from hw.blocks.lut_core import golden as core
from hw.formats import FP16, FloatFormat
from hw.lazy import np
from hw.streams import Stream, StreamField

LENGTHS = {"minimum": (1, 1), "small": (1, 8), "large": (32, 64)}


@dataclass(frozen=True, kw_only=True)
class FusedWork:
    """One job: rows that share their multipliers.

    Attributes:
        x: codes of the elements ``(beats, M, K)``.
        gain: FP16 codes ``(beats, K)``; None without gains.
        multiplier: codes ``(M,)``.
        entry_shift: of the table entries; 0 where entries are exact.
    """

    x: np.ndarray
    gain: np.ndarray | None
    multiplier: np.ndarray
    entry_shift: int = 0


def job_stream(spec: FusedTablesSpec) -> Stream:
    """``i_job``."""
    fields = [
        StreamField(name="beats_m1", width=JOB_BEATS_BITS, doc="beats less one"),
        StreamField(
            name="multiplier", width=spec.factor.width, shape=(spec.tile.m,), doc="one a row"
        ),
    ]
    if spec.core.quantized:
        words = "table entries are divided by 2 to this power"
        fields.append(StreamField(name="entry_shift", width=spec.core.shift_bits, doc=words))
    return Stream(name="i_job", direction="in", fields=tuple(fields), doc="what follows on i_x")


def element_stream(spec: FusedTablesSpec) -> Stream:
    """``i_x``."""
    shape = (spec.tile.m, spec.tile.k)
    field = StreamField(name="x", width=spec.source.width, shape=shape, doc="elements")
    return Stream(name="i_x", direction="in", fields=(field,), doc="elements, by K step")


def gain_stream(spec: FusedTablesSpec) -> Stream:
    """``i_g``."""
    field = StreamField(name="gain", width=16, shape=(spec.tile.k,), doc="gains in FP16")
    return Stream(name="i_g", direction="in", fields=(field,), doc="gains, by K step")


def streams(spec: FusedTablesSpec) -> tuple[Stream, ...]:
    """``i_job``, ``i_x``, ``i_g`` (with gains), ``o``: what ``lut_core`` takes on ``i_t``."""
    gains = (gain_stream(spec),) if spec.gain else ()
    tables = core.table_stream(spec.core, "o", "out")
    return (job_stream(spec), element_stream(spec), *gains, tables)


def codes(spec: FusedTablesSpec, work: FusedWork) -> np.ndarray:
    """``q`` ``(beats, M, K)``."""
    if (work.gain is not None) != spec.gain:
        raise ValueError(f"gain: for specifications with gains and no others, got {work.gain}")
    factors: list[tuple[FloatFormat, np.ndarray]] = [
        (spec.source, work.x),
        (spec.factor, work.multiplier[None, :, None]),
    ]
    if work.gain is not None:
        factors.append((FP16, work.gain[:, None, :]))
    zero = np.zeros(work.x.shape, dtype=np.int64)
    product, power, sign = zero + 1, zero, zero
    nan, infinite, nothing = zero > 0, zero > 0, zero > 0
    for form, value in factors:
        fields = form.fields(value)
        product = product * fields.significand  # at most 24 + 11 + 24 bits
        power = power + fields.power
        sign = sign ^ fields.sign
        nan = nan | form.is_nan(value)
        infinite = infinite | form.is_inf(value)
        nothing = nothing | (fields.significand == 0)
    most = spec.activations.high
    # Beyond these shifts there is nothing left, or nothing but what is clipped.
    down = np.clip(-power, 0, 62)
    whole, rest = product >> down, product & ((np.int64(1) << down) - 1)
    half = np.where(down > 0, np.int64(1) << np.maximum(down - 1, 0), 0)
    up = (rest > half) | ((rest == half) & (down > 0) & (whole % 2 == 1))
    rounded = np.minimum(whole + up, most + 1)
    rounded = np.where(power > 0, rounded << np.clip(power, 0, 40), rounded)
    rounded = np.where(infinite, most, np.minimum(rounded, most))
    rounded = np.where(nan | (infinite & nothing), 0, rounded)
    return np.where(sign == 1, -rounded, rounded)


def beats(spec: FusedTablesSpec, work: FusedWork) -> dict[str, dict[str, np.ndarray]]:
    """Input beats."""
    job = {
        "beats_m1": np.array([len(work.x) - 1]),
        "multiplier": work.multiplier[None].astype(np.int64),
    }
    if spec.core.quantized:
        job["entry_shift"] = np.array([work.entry_shift])
    values = {"i_job": job, "i_x": {"x": work.x.astype(np.int64)}}
    if work.gain is not None:
        values["i_g"] = {"gain": work.gain.astype(np.int64)}
    return values


def expected(spec: FusedTablesSpec, work: FusedWork) -> dict[str, dict[str, np.ndarray]]:
    """Output beats."""
    return {"o": core.table_beats(spec.core, codes(spec, work), work.entry_shift)}


def random_work(
    spec: FusedTablesSpec, rng: np.random.Generator, *, size: str = "small"
) -> FusedWork:
    """Corner-heavy random beats whose products are mostly in the range of the codes."""
    if size not in LENGTHS:
        raise ValueError(f"size: must be minimum, small or large, got {size!r}")
    low, high = LENGTHS[size]
    return _work(spec, rng, int(rng.integers(low, high + 1)))


def _work(spec: FusedTablesSpec, rng: np.random.Generator, count: int) -> FusedWork:
    m, k = spec.tile.m, spec.tile.k
    kind = rng.integers(0, 5)
    gain = None
    if spec.gain:
        gain = FP16.encode(np.exp2(rng.normal(0, 1, (count, k)))).astype(np.int64)
        gain ^= rng.integers(0, 2, (count, k)) << 15
        if kind == 1:
            gain = np.full((count, k), 0x3C00)
    power = rng.integers(-6, 7, (m,))
    multiplier = np.ldexp(1 + rng.random(m), power)
    x = np.ldexp(rng.normal(0, spec.activations.high, (count, m, k)), -power[:, None])
    if kind == 1:  # multiples of half a code: ties
        multiplier = np.ldexp(1.0, power)
        top = 2 * spec.activations.high
        x = np.ldexp(rng.integers(-top - 4, top + 5, (count, m, k)) / 2.0, -power[:, None])
    if kind == 2:  # the ends of every format
        multiplier = spec.factor.decode(spec.factor.random_codes(rng, (m,), finite=True))
        if rng.random() < 0.5:
            multiplier = np.ldexp(1.0, rng.integers(-14, 15, (m,)))
    codes_of_x = spec.source.encode(x, overflow="saturate").astype(np.int64)
    codes_of_m = spec.factor.encode(multiplier, overflow="saturate").astype(np.int64)
    if kind == 2:
        codes_of_x = spec.source.random_codes(rng, x.shape, finite=True).astype(np.int64)
        if gain is not None:
            gain = FP16.random_codes(rng, gain.shape, finite=True).astype(np.int64)
    if kind == 3:
        where = rng.random(x.shape) < 0.2
        codes_of_x = np.where(where, spec.source.random_codes(rng, x.shape), codes_of_x)
        if gain is not None:
            random = FP16.random_codes(rng, gain.shape)
            gain = np.where(rng.random(gain.shape) < 0.2, random, gain)
        random = spec.factor.random_codes(rng, (m,))
        codes_of_m = np.where(rng.random(m) < 0.3, random, codes_of_m)
    shift = int(rng.integers(0, spec.core.exact_entry_bits)) if spec.core.quantized else 0
    return FusedWork(
        x=codes_of_x.astype(np.int64),
        gain=gain,
        multiplier=codes_of_m.astype(np.int64),
        entry_shift=shift,
    )


def corner_works(spec: FusedTablesSpec, rng: np.random.Generator) -> tuple[FusedWork, ...]:
    """More of every kind."""
    return tuple(_work(spec, rng, 24) for _ in range(12))


def exhaustive_works(spec: FusedTablesSpec) -> tuple[FusedWork, ...] | None:
    """Every element of 16 bits under a few gains and multipliers."""
    m, k = spec.tile.m, spec.tile.k
    if spec.source.width > 16 or m * k > 64:
        return None
    every = np.resize(np.arange(1 << 16), (-(-(1 << 16) // (m * k)), m, k))
    works = []
    gains = FP16.encode([1.0, -0.375, 6.0e-8]).astype(np.int64)
    factors = spec.factor.encode([0.5, 8.0, 11.3, -3.0e-5], overflow="saturate").astype(np.int64)
    for index in range(4):
        gain = np.roll(np.resize(gains, (len(every), k)), index) if spec.gain else None
        multiplier = np.roll(np.resize(factors, 4), index)[np.arange(m) % 4]
        works.append(FusedWork(x=every, gain=gain, multiplier=multiplier))
    return tuple(works)


def explain(
    spec: FusedTablesSpec, work: FusedWork, stream: str, field: str, index: tuple[int, ...]
) -> str:
    """The elements behind an entry."""
    beat, row = index[0], index[1]
    found = codes(spec, work)[beat, row].tolist()
    text = f"x={[hex(int(v)) for v in work.x[beat, row]]} "
    if work.gain is not None:
        text += f"gain={[hex(int(v)) for v in work.gain[beat]]} "
    text += f"multiplier={int(work.multiplier[row]):#x} codes={found}"
    return text + (f" shift={work.entry_shift}" if spec.core.quantized else "")


def coverage(spec: FusedTablesSpec, work: FusedWork) -> Iterator[str]:
    """Coverage points of one work."""
    q = codes(spec, work)
    if (q == -spec.activations.high).any():
        yield "code=lowest"
    if (q == spec.activations.high).any():
        yield "code=highest"
    form = spec.source
    if form.is_nan(work.x).any():
        yield "x=NaN"
    if form.is_inf(work.x).any():
        yield "x=infinity"
    magnitude = work.x & ((1 << (form.width - 1)) - 1)
    if ((magnitude > 0) & (magnitude < 1 << form.mantissa_bits)).any():
        yield "x=subnormal"


def coverage_points(spec: FusedTablesSpec) -> tuple[str, ...]:
    """Every coverage point."""
    return ("code=lowest", "code=highest", "x=NaN", "x=infinity", "x=subnormal")
