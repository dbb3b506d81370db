"""Reference of requantization: exact integers, one rounding.

Every element is ``sign * significand * 2^power``, and so is its scale; their product is exact in
``int64`` (at most 56 bits). To an integer::

    y = clip(rne(x * scale) + zero_point, low, high)

``rne`` rounds to nearest, ties to even; the clip comes after it. A NaN (also infinity times 0)
becomes the zero point, an infinity the end of its sign. To a float: ``encode`` of the target,
saturating or not; a NaN becomes the target's positive quiet one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hw.blocks.requantize.spec import RequantizeSpec
from hw.exact import Exact, numbers
from hw.formats import E8M0, FP32
from hw.integers import random_operand
from hw.lazy import np
from hw.streams import Stream, StreamField

LENGTHS = {"minimum": (1, 1), "small": (1, 6), "large": (32, 64)}

FAR = 1 << 20
"""Stands for every integer beyond the range of the targets."""


@dataclass(frozen=True, kw_only=True)
class RequantizeWork:
    """Beats with the same scales.

    Attributes:
        x: codes, or integers, ``(beats, M, N)``.
        scale: codes ``(M,)`` or ``(1,)``, None without a scale.
        zero: zero points of the same shape, None without.
    """

    x: np.ndarray
    scale: np.ndarray | None = None
    zero: np.ndarray | None = None


def streams(spec: RequantizeSpec) -> tuple[Stream, ...]:
    """``i_job`` if there are scales or zero points, ``i`` and ``o``."""
    m, n = spec.tile.m, spec.tile.n
    found = []
    if spec.has_jobs:
        fields = [
            StreamField(
                name="beats_m1",
                width=max(1, (spec.max_beats - 1).bit_length()),
                doc="beats of the job, less one",
            )
        ]
        if spec.scale_format is not None:
            fields.append(
                StreamField(
                    name="scale",
                    width=spec.scale_format.width,
                    shape=(spec.scales,),
                    doc=f"{spec.scale.format}, one a {spec.scale.per}",
                )
            )
        if spec.zero_point:
            fields.append(
                StreamField(
                    name="zero",
                    width=8,
                    signed=spec.signed,
                    shape=(spec.scales,),
                    doc=f"zero points, one a {spec.scale.per}",
                )
            )
        found.append(
            Stream(name="i_job", direction="in", fields=tuple(fields), doc="job descriptors")
        )
    x = StreamField(
        name="x",
        width=spec.input_bits,
        signed=spec.input_format is None,
        shape=(m, n),
        doc=spec.input,
    )
    y = StreamField(
        name="y",
        width=spec.target_bits,
        signed=spec.integer and spec.signed,
        shape=(m, n),
        doc=spec.target,
    )
    found.append(Stream(name="i", direction="in", fields=(x,), doc="results"))
    found.append(Stream(name="o", direction="out", fields=(y,), doc="requantized, in order"))
    return tuple(found)


def scaled(spec: RequantizeSpec, work: RequantizeWork) -> Exact:
    """``x * scale``, exactly, ``(beats, M, N)``."""
    x = numbers(spec.input_format, work.x)
    if work.scale is None:
        return x
    return x * numbers(spec.scale_format, work.scale[None, :, None])


def rounded(value: Exact) -> np.ndarray:
    """To the nearest integer, ties to even; what exceeds ``FAR`` is that."""
    whole, power = value.significand, value.power
    down = np.clip(-power, 1, 62)
    floor = whole >> down
    rest = whole - (floor << down)
    half = np.int64(1) << (down - 1)
    nearest = floor + ((rest > half) | ((rest == half) & (floor % 2 == 1)))
    up = np.clip(power, 0, 20)
    raised = np.minimum(whole, FAR) << up
    magnitude = np.minimum(np.where(power < 0, nearest, raised), FAR)
    magnitude = np.where(value.inf, FAR, magnitude)
    return np.where(value.nan, 0, np.where(value.sign == 1, -magnitude, magnitude))


def results(spec: RequantizeSpec, work: RequantizeWork) -> np.ndarray:
    """``(beats, M, N)``: integers, or codes of the target."""
    value = scaled(spec, work)
    if spec.integer:
        y = rounded(value)
        if work.zero is not None:
            y = y + work.zero.astype(np.int64)[None, :, None]
        return np.clip(y, *spec.bounds)
    form = spec.target_format
    x = np.where(value.nan, 0.0, value.as_float64())
    codes = form.encode(x, overflow=spec.overflow).astype(np.int64)
    return np.where(value.nan, int(form.encode(np.nan)), codes)


def beats(spec: RequantizeSpec, work: RequantizeWork) -> dict[str, dict[str, np.ndarray]]:
    """Input beats."""
    found: dict[str, dict[str, np.ndarray]] = {"i": {"x": work.x}}
    if spec.has_jobs:
        job = {"beats_m1": np.array([len(work.x) - 1])}
        if work.scale is not None:
            job["scale"] = work.scale[None]
        if work.zero is not None:
            job["zero"] = work.zero[None]
        found["i_job"] = job
    return found


def expected(spec: RequantizeSpec, work: RequantizeWork) -> dict[str, dict[str, np.ndarray]]:
    """Output beats."""
    return {"o": {"y": results(spec, work)}}


def explain(
    spec: RequantizeSpec, work: RequantizeWork, stream: str, field: str, index: tuple[int, ...]
) -> str:
    """The input behind an element, its scale and zero point."""
    beat, row, column = index
    code = int(work.x[beat, row, column])
    parts = [f"x={code}" if spec.input_format is None else f"x={code:#x}"]
    row = row if spec.scales > 1 else 0
    if work.scale is not None:
        parts.append(f"scale={int(work.scale[row]):#x}")
    if work.zero is not None:
        parts.append(f"zero={int(work.zero[row])}")
    return " ".join(parts)


# Stimulus ------------------------------------------------------------

KINDS = ("range", "tie", "codes", "ends")
"""Range: what comes out is spread over the target. Tie: half-way between two codes, or a bit
beside. Codes: any codes, corners over-represented. Ends: around the clip and the overflow."""


def random_work(
    spec: RequantizeSpec, rng: np.random.Generator, *, size: str = "small"
) -> RequantizeWork:
    """Corner-heavy random beats of one of :data:`KINDS`."""
    if size not in LENGTHS:
        raise ValueError(f"size: must be minimum, small or large, got {size!r}")
    low, high = (min(bound, spec.max_beats) for bound in LENGTHS[size])
    return work_of(spec, rng, int(rng.integers(low, high + 1)), str(rng.choice(KINDS)))


def work_of(
    spec: RequantizeSpec, rng: np.random.Generator, count: int, kind: str
) -> RequantizeWork:
    """Random beats of a kind."""
    shape = (count, spec.tile.m, spec.tile.n)
    zero = None
    if spec.zero_point:
        low = -128 if spec.signed else 0
        zero = random_operand(rng, low, low + 255, (spec.scales,))
    scale = _scale(spec, rng, kind)
    if kind == "codes":
        if spec.input_format is None:
            x = random_operand(rng, -(1 << 31), (1 << 31) - 1, shape)
            x >>= rng.integers(0, 32, size=shape)
        else:
            x = spec.input_format.random_codes(rng, shape).astype(np.int64)
        return RequantizeWork(x=x, scale=scale, zero=zero)
    wanted = _wanted(spec, rng, shape, kind, zero)
    factor = np.ones((1, 1, 1))
    if scale is not None and spec.scale_format is not None:
        factor = spec.scale_format.decode(scale)[None, :, None]
    with np.errstate(all="ignore"):
        source = np.nan_to_num(wanted / factor, nan=0.0)
    if spec.input_format is None:
        x = np.rint(np.clip(source, -(2.0**31), 2.0**31 - 1)).astype(np.int64)
        x = np.clip(x + rng.integers(-1, 2, size=shape), -(1 << 31), (1 << 31) - 1)
    else:
        form = spec.input_format
        x = form.encode(source).astype(np.int64)
        beside = np.clip((x & form.max_code) + rng.integers(-1, 2, size=shape), 0, form.max_code)
        x = np.where(rng.random(shape) < 0.5, x, beside | (x >> (form.width - 1) << form.width - 1))
    return RequantizeWork(x=x, scale=scale, zero=zero)


def _scale(spec: RequantizeSpec, rng: np.random.Generator, kind: str) -> np.ndarray | None:
    form = spec.scale_format
    if form is None:
        return None
    if kind == "codes":
        return form.random_codes(rng, (spec.scales,)).astype(np.int64)
    power = rng.integers(-30, 8, size=spec.scales)
    if form == E8M0:
        return power + form.bias
    fraction = rng.integers(0, 1 << 23, size=spec.scales) * rng.integers(0, 2, size=spec.scales)
    sign = (rng.random(spec.scales) < 0.1).astype(np.int64)
    return (sign << 31) | ((power + FP32.bias) << 23) | fraction


def _wanted(
    spec: RequantizeSpec,
    rng: np.random.Generator,
    shape: tuple[int, ...],
    kind: str,
    zero: np.ndarray | None,
) -> np.ndarray:
    """Values that should come out, before rounding."""
    if spec.integer:
        low, high = spec.bounds
        if kind == "ends":
            ends = np.array([low, high, low - 0.5, high + 0.5, low + 0.5, high - 0.5, -0.5, 0.5])
            value = rng.choice(ends, size=shape)
        else:
            value = rng.integers(low - 2, high + 3, size=shape) + 0.5 * (kind == "tie")
            value = value + (0.0 if kind == "tie" else rng.random(shape))
        return value if zero is None else value - zero[None, :, None]
    form = spec.target_format
    codes = form.random_codes(rng, shape, finite=True)
    if kind == "ends":
        near = rng.integers(0, 3, size=shape)
        codes = np.where(rng.integers(0, 2, size=shape) == 1, form.max_code - near, near)
    value = form.decode(codes)
    # The spacing of the codes there.
    exponent = np.maximum(np.frexp(value)[1] - 1, form.min_exponent)
    step = np.ldexp(1.0, exponent - form.mantissa_bits)
    return value + step * (0.5 if kind in ("tie", "ends") else rng.random(shape))


def corner_works(spec: RequantizeSpec, rng: np.random.Generator) -> tuple[RequantizeWork, ...]:
    """Every kind a few times, each followed at once by another."""
    return tuple(
        work_of(spec, rng, min(count, spec.max_beats), kind)
        for count in (1, 3, 8)
        for kind in KINDS
    )


def exhaustive_works(spec: RequantizeSpec) -> tuple[RequantizeWork, ...] | None:
    """Every input code of 16 bits, under a few scales."""
    if spec.input_bits > 16:
        return None
    rng = np.random.default_rng(16)
    codes = np.arange(1 << spec.input_bits)
    per_beat = spec.tile.m * spec.tile.n
    codes = np.concatenate([codes, codes[: -len(codes) % per_beat]])
    x = codes.reshape(-1, spec.tile.m, spec.tile.n)
    found = []
    for kind in ("range", "codes") if spec.has_jobs else ("range",):
        example = work_of(spec, rng, 1, kind)
        for start in range(0, len(x), spec.max_beats):
            part = x[start : start + spec.max_beats]
            found.append(RequantizeWork(x=part, scale=example.scale, zero=example.zero))
    return tuple(found)


def coverage(spec: RequantizeSpec, work: RequantizeWork) -> Iterator[str]:
    """Coverage points of one work."""
    value = scaled(spec, work)
    if spec.input_format is not None or work.scale is not None:
        if value.nan.any():
            yield "x=nan"
        if value.inf.any():
            yield "x=infinity"
    y = results(spec, work)
    if spec.integer:
        low, high = spec.bounds
        if (y == low).any():
            yield "y=lowest"
        if (y == high).any():
            yield "y=highest"
        shift = np.clip(-value.power, 1, 62)
        tie = (value.significand & ((1 << shift) - 1)) == (1 << (shift - 1))
        if (tie & (value.power < 0) & ~value.nan & ~value.inf).any():
            yield "tie"
        return
    form = spec.target_format
    magnitude = y & ((1 << (form.width - 1)) - 1)
    if ((magnitude > 0) & (magnitude < 1 << form.mantissa_bits)).any():
        yield "y=subnormal"
    if (magnitude == form.max_code).any():
        yield "y=highest"
    if (y == 0).any():
        yield "y=zero"


def coverage_points(spec: RequantizeSpec) -> tuple[str, ...]:
    """Every coverage point."""
    special = spec.input_format is not None or spec.scale_format is not None
    points = ["x=nan"] if special else []
    if spec.input_format is not None or spec.scale.format == "fp32":
        points.append("x=infinity")
    if spec.integer:
        fractions = spec.input_format is not None or spec.scale_format is not None
        return (*points, "y=lowest", "y=highest", *(["tie"] if fractions else []))
    # Integers that nothing scales are 0 or at least 1.
    small = ["y=subnormal"] if special else []
    wide = spec.input_format is not None or spec.scale_format is not None or spec.target != "bf16"
    return (*points, "y=zero", *small, *(["y=highest"] if wide else []))
