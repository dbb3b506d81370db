"""Reference of floating activations: aligned to a row's exponent, then integers.

An activation of stored exponent ``e`` (subnormals and zero: 1) becomes, for an exponent ``R``, the
integer nearest to ``significand · 2^(bits − 1 − p) / 2^(R − e)``, ties to even, with ``p`` bits of
significand, clipped to ``±(2^(bits − 1) − 1)``; NaN and infinity become 0 and are flagged. Results
are in units of ``2^(R − bias − (bits − 2) − guard)``.

- ``given``: ``R`` comes with the activations; where ``e`` exceeds it the activation saturates.
- ``exact``: ``R`` is the format's largest exponent and ``bits`` so many that nothing is lost.
- ``running``: in K step ``t`` of a job, ``R_t`` is the largest exponent of the row in steps 0 to
  ``t``. A result is made in passes over the steps, the highest planes of the weights first: in the
  first pass, what was summed is brought to ``R_t`` by ``floor(y / 2^(R_t − R_(t−1)))`` before the
  step is added, or dropped where that rises by ``bits + guard`` or more; later passes find the last
  ``R`` of the job. ``y`` has ``guard`` bits below the point, and one more where accumulators hold
  twice the result (see ``plan``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hw import gemm, integers
from hw.gemm import GemmWork, Job
from hw.lazy import np

if TYPE_CHECKING:
    from hw.blocks.lut_core.spec import LutActivations, LutCoreSpec
    from hw.formats import FloatFormat


def exponents(a: LutActivations, codes: np.ndarray) -> np.ndarray:
    """Stored exponents of codes: 1 of subnormals, of zero, and of NaN and infinity."""
    stored = a.form.fields(codes).exponent
    return np.where(special(a, codes), 1, np.maximum(stored, 1))


def special(a: LutActivations, codes: np.ndarray) -> np.ndarray:
    """Where a code is NaN or infinity."""
    return a.form.is_nan(codes) | a.form.is_inf(codes)


def align(a: LutActivations, codes: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """Codes as integers of ``a.widest`` bits.

    Args:
        highest: the exponent ``R`` as it is stored, at least 1; broadcast against ``codes``.
    """
    fields = a.form.fields(codes)
    scale = a.widest - 1 - (a.form.mantissa_bits + 1)
    # Exact in float64: a significand of at most 11 bits, its point moved.
    value = np.ldexp(fields.significand.astype(np.float64), scale - highest + exponents(a, codes))
    magnitude = np.where(special(a, codes), 0, np.minimum(np.rint(value), a.high)).astype(np.int64)
    return np.where(fields.sign == 1, -magnitude, magnitude)


def highest_exponents(spec: LutCoreSpec, work: GemmWork) -> np.ndarray:
    """``(k_steps, M)``: the stored exponent ``R`` that every step is aligned to."""
    a, steps = spec.activations, work.job.k_steps
    if a.exponent == "exact":
        return np.full((steps, len(work.a)), a.top)
    if a.given:
        return np.tile(np.maximum(work.extra["exponent"], 1), (steps, 1))
    largest = exponents(a, gemm.step_view(work.a, steps)).max(axis=2)
    return np.maximum.accumulate(largest, axis=0)


def plane_values(spec: LutCoreSpec, work: GemmWork) -> list[np.ndarray]:
    """What each pass multiplies with, ``(N, K)``, highest planes first: ``W − z`` is
    ``Σ values · 2^planes_below``."""
    count = spec.planes_per_cycle
    w = work.w.astype(np.int64)
    passes = gemm.passes(spec, work.job.weight_bits)
    if spec.ternary or passes == 1:
        return [w if work.z is None else w - work.z.astype(np.int64)[:, None]]
    mask = (1 << count) - 1
    lows = range((passes - 1) * count, -1, -count)
    if spec.weight_encoding == "bipolar":
        codes = integers.weight_codes("bipolar", w, passes * count)
        return [2 * (codes >> low & mask) - mask for low in lows]
    if work.z is None:
        # The highest planes hold the sign.
        return [w >> low if low == lows[0] else w >> low & mask for low in lows]
    z = work.z.astype(np.int64)[:, None]
    return [(w >> low & mask) - (z >> low & mask) for low in lows]


def result(spec: LutCoreSpec, work: GemmWork) -> dict[str, np.ndarray]:
    """Fields of ``o``: ``o`` ``(M, N)``, ``exponent`` and ``invalid`` ``(M,)``."""
    a, steps = spec.activations, work.job.k_steps
    highest = highest_exponents(spec, work)
    codes = gemm.step_view(work.a, steps)
    aligned = align(a, codes, highest[..., None])
    values = [gemm.step_view(value, steps) for value in plane_values(spec, work)]
    # Bits of y below the point, and those of them that results keep.
    below = a.guard + (spec.doubled and a.running)
    y = np.zeros((len(work.a), len(work.w)), dtype=np.int64)
    for number, value in enumerate(values):
        if number:
            y = y << spec.planes_per_cycle
        if number == 1:
            aligned = align(a, codes, highest[-1][:, None])
        for step in range(steps):
            if a.running and step and not number:
                rise = (highest[step] - highest[step - 1])[:, None]
                y = y >> np.minimum(rise, 63)
                if a.drops:
                    y = np.where(rise >= a.reach, 0, y)
            y = y + ((aligned[step] @ value[step].T) << below)
    o = y >> (below - a.guard)
    return {
        "o": integers.wrap(o, spec.result_bits),
        "exponent": a.result_exponent(highest[-1]),
        "invalid": special(a, work.a).any(axis=1).astype(np.int64),
    }


def explain(spec: LutCoreSpec, work: GemmWork, index: tuple[int, ...]) -> str:
    """The inputs of one result, for a failure message; ``index`` is (beat, m, n) or (beat, m)."""
    m = index[1]
    parts = [
        f"job {work.job}",
        f"codes a[{m},:]={work.a[m].tolist()}",
        f"values {spec.activations.form.decode(work.a[m]).tolist()}",
        f"exponents by step {highest_exponents(spec, work)[:, m].tolist()}",
    ]
    if len(index) > 2:
        n = index[2]
        parts.append(f"w[{n},:]={work.w[n].tolist()}")
        parts += [f"z[{n}]={int(work.z[n])}"] if work.z is not None else []
    return " ".join(parts)


def check_exponent(spec: LutCoreSpec, work: GemmWork) -> None:
    """The exponents that come with a row.

    Raises:
        ValueError: they are missing, or have the wrong shape, type or range.
    """
    given = work.extra.get("exponent")
    if given is None:
        raise ValueError("exponent: is required")
    given = np.asarray(given)
    top = (1 << spec.activations.form.exponent_bits) - 1
    if given.shape != (spec.tile.m,) or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(
            f"exponent: must be ({spec.tile.m},) integers, got {given.shape} {given.dtype}"
        )
    if given.min() < 0 or given.max() > top:
        raise ValueError(
            f"exponent: values must lie in [0, {top}], got [{given.min()}, {given.max()}]"
        )


# Stimulus ------------------------------------------------------------


def random_codes(a: LutActivations, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Corner-heavy rows of codes ``(M, K)``.

    Of a row most activations lie within a few powers of two of each other, as they do in a layer:
    only then is anything rounded that still counts. Others are taken from all codes, are a ladder
    of exponents, or are sparse.
    """
    form = a.form
    bits = form.mantissa_bits
    rows = []
    for _ in range(shape[0]):
        kind = rng.integers(6)
        width = shape[1]
        if kind == 0:
            row = form.random_codes(rng, width)
        elif kind == 1:
            row = form.random_codes(rng, width, finite=True)
        else:
            reach = min(a.widest + 3, a.top) if kind < 5 else 2
            high = int(rng.integers(1, a.top + 1))
            stored = np.clip(high - rng.integers(0, reach + 1, size=width), 0, a.top)
            if kind == 4:
                # Rising, so that a running exponent moves again and again.
                stored = np.sort(stored)
            mantissa = rng.integers(0, 1 << bits, size=width)
            # Few bits of mantissa make ties.
            kept = rng.integers(0, bits + 1, size=width)
            mantissa = mantissa >> kept << kept
            row = np.minimum(stored << bits | mantissa, form.max_code)
            row = row | rng.integers(0, 2, size=width) << (form.width - 1)
            if kind == 3:
                row = np.where(rng.random(width) < 0.7, 0, row)
        rows.append(np.asarray(row, dtype=np.int64))
    return np.stack(rows)


def random_exponents(a: LutActivations, rng: np.random.Generator, codes: np.ndarray) -> np.ndarray:
    """Exponents to give with rows: mostly the largest, at times more, less, or any."""
    largest = exponents(a, codes).max(axis=1)
    top = (1 << a.form.exponent_bits) - 1
    moved = largest + rng.choice([0, 0, 0, 0, 1, -1, -3, 2], size=len(largest))
    anywhere = rng.integers(0, top + 1, size=len(largest))
    return np.where(rng.random(len(largest)) < 0.1, anywhere, np.clip(moved, 0, top))


def _with_codes(
    spec: LutCoreSpec, rng: np.random.Generator, job: Job, codes: np.ndarray
) -> GemmWork:
    """Random weights for given activations."""
    base = integers.random_operands(spec, rng, job)
    extra = {}
    if spec.activations.given:
        extra["exponent"] = random_exponents(spec.activations, rng, codes)
    return GemmWork(job=job, a=codes, w=base.w, z=base.z, extra=extra)


def random_operands(spec: LutCoreSpec, rng: np.random.Generator, job: Job) -> GemmWork:
    """Corner-heavy operands for a given job."""
    shape = (spec.tile.m, job.k_steps * spec.tile.k)
    return _with_codes(spec, rng, job, random_codes(spec.activations, rng, shape))


def corner_works(spec: LutCoreSpec, rng: np.random.Generator) -> tuple[GemmWork, ...]:
    """Every width with constant extremes and specials; every rise of the exponent, with negative
    and with positive sums before it; ties at every distance below the largest; the deepest job."""
    a, tile = spec.activations, spec.tile
    form = a.form
    works = []
    widths = range(1, spec.max_weight_bits + 1)
    corners = [int(code) for code in form.corners()]
    # Widths down and up again, so that every one follows a wider and a narrower one.
    for position, bits in enumerate((*reversed(widths), *widths)):
        for number in range(4):
            job = Job(k_steps=min(spec.max_k_steps, 1 + number % 2), weight_bits=bits)
            code = corners[(position * 4 + number) * 5 % len(corners)]
            codes = np.full((tile.m, job.k_steps * tile.k), code)
            works.append(_with_codes(spec, rng, job, codes))
    top_width = spec.max_weight_bits
    one = 1 << form.mantissa_bits
    low, high = integers.weight_range(spec.weight_encoding, top_width)
    if spec.max_k_steps > 1:
        # Step 0 sums at exponent 1 or a few more, step 1 has one larger activation in some lane.
        for rise in (*range(min(a.top, a.widest + 4)), a.top - 1):
            for negative in (0, 1):
                job = Job(k_steps=2, weight_bits=int(rng.choice(widths)))
                base = int(rng.integers(1, a.top - rise + 1))
                first = _codes(form, base, rng.integers(0, one, (tile.m, tile.k)), negative)
                second = np.full((tile.m, tile.k), 0)
                lane = int(rng.integers(tile.k))
                second[:, lane] = _codes(form, base + rise, rng.integers(0, one, tile.m), 0)
                works.append(_with_codes(spec, rng, job, np.concatenate([first, second], axis=1)))
    # A largest activation beside others so much smaller, half a unit and what is around it.
    distances = range(min(a.top - 1, a.widest + 2) + 1)
    for distance in distances:
        job = Job(k_steps=1, weight_bits=int(rng.choice(widths)))
        stored = int(rng.integers(1 + distance, a.top + 1))
        mantissa = rng.choice(_tie_mantissas(form.mantissa_bits), size=(tile.m, tile.k))
        codes = _codes(form, stored - distance, mantissa, rng.integers(0, 2, (tile.m, tile.k)))
        codes[:, int(rng.integers(tile.k))] = _codes(form, stored, rng.integers(0, one, tile.m), 0)
        works.append(_with_codes(spec, rng, job, codes))
    # Sums that cancel: the same numbers of both signs.
    job = Job(k_steps=min(2, spec.max_k_steps), weight_bits=top_width)
    half = random_codes(a, rng, (tile.m, -(-job.k_steps * tile.k // 2)))
    mirrored = np.concatenate([half, half ^ (1 << (form.width - 1))], axis=1)
    works.append(_with_codes(spec, rng, job, mirrored[:, : job.k_steps * tile.k]))
    works += _deepest(spec, rng, low, high)
    return tuple(works)


def _deepest(spec: LutCoreSpec, rng: np.random.Generator, low: int, high: int) -> list[GemmWork]:
    """Jobs of the largest K, or of a few hundred cycles, that drive the accumulator furthest."""
    a, bits = spec.activations, spec.max_weight_bits
    steps = min(spec.max_k_steps, max(1, 256 // gemm.passes(spec, bits)))
    job = Job(k_steps=steps, weight_bits=bits)
    works = []
    rises = (0, 1) if a.running and steps > 1 else (0,)
    for negative, upward, rise in itertools.product((0, 1), (0, 1), rises):
        base = integers.random_operands(spec, rng, job)
        z = None
        weight = high if upward else low
        if base.z is not None:
            z = np.full_like(base.z, 0 if upward else 2**bits - 1)
            weight = 2**bits - 1 if upward else 0
        code = a.form.max_code | negative << (a.form.width - 1)
        # One exponent less, and in the last step the largest: all of the sum is shifted.
        codes = np.full_like(base.a, code - (rise << a.form.mantissa_bits))
        codes[:, -1] = code
        extra = {}
        if a.given:
            # The largest magnitude: everything saturates.
            extra["exponent"] = np.full(len(base.a), a.top - 1)
        w = np.full_like(base.w, weight)
        works.append(GemmWork(job=job, a=codes, w=w, z=z, extra=extra))
    return works


def _codes(
    form: FloatFormat, stored: int, mantissa: np.ndarray, negative: np.ndarray | int
) -> np.ndarray:
    """Finite codes with that exponent."""
    code = np.minimum((stored << form.mantissa_bits) | mantissa, form.max_code)
    return code | (np.asarray(negative) << (form.width - 1))


def _tie_mantissas(bits: int) -> np.ndarray:
    """Mantissas that are a tie at some distance, and their neighbours."""
    ties = [0, *(1 << i for i in range(bits)), *(3 << i for i in range(bits - 1))]
    near = {tie + off for tie in ties for off in (-1, 0, 1)}
    return np.array(sorted(value for value in near if 0 <= value < 1 << bits))


def exhaustive_gemms(spec: LutCoreSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every code in one lane, its neighbours 0 or one of a few powers of two; of FP16 and BF16
    every seventh code, in another phase beside each neighbour."""
    a, tile = spec.activations, spec.tile
    form = a.form
    rng = np.random.default_rng(1)
    bits = spec.max_weight_bits
    job = Job(k_steps=1, weight_bits=bits)
    w = np.concatenate([integers.random_operands(spec, rng, job).w for _ in range(2)])[: 2 * tile.n]
    z = rng.integers(0, 2**bits, size=len(w)) if spec.zero_point else None
    stride = 1 if form.width <= 8 else 7
    neighbours = [0, 1, a.top // 2, a.top] if tile.k > 1 or a.given else [0]
    for turn, stored in enumerate(neighbours):
        every = np.arange(turn % stride, 1 << form.width, stride)
        codes = np.full((len(every), tile.k), stored << form.mantissa_bits if tile.k > 1 else 0)
        codes[np.arange(len(every)), np.arange(len(every)) % tile.k] = every
        extra = {"exponent": np.full(len(every), stored)} if a.given else {}
        yield (
            f"codes beside exponent {stored}",
            {"a": codes, "w": w, "z": z, "weight_bits": bits, "extra": extra},
        )


# Coverage ------------------------------------------------------------


def coverage(spec: LutCoreSpec, work: GemmWork) -> Iterator[str]:
    """Coverage points of one job; see :func:`coverage_points`."""
    a, steps = spec.activations, work.job.k_steps
    form = a.form
    yield f"weight_bits={work.job.weight_bits}"
    yield "k_steps=1" if steps == 1 else "k_steps>1"
    codes = gemm.step_view(work.a, steps)
    highest = highest_exponents(spec, work)[..., None]
    wrong = special(a, codes)
    yield f"invalid={int(wrong.any())}"
    parts = form.fields(codes)
    finite = ~wrong
    if (finite & (parts.exponent == 0) & (parts.significand > 0)).any():
        yield "a=subnormal"
    if (form.decode(codes[finite]) == 0).any():
        yield "a=zero"
    if (np.abs(form.decode(codes[finite])) == form.max).any():
        yield "a=largest"
    scale = a.widest - 1 - (form.mantissa_bits + 1)
    away = scale - highest + exponents(a, codes)
    value = np.where(finite, np.ldexp(parts.significand.astype(np.float64), away), 0.0)
    fraction = value - np.floor(value)
    if (fraction == 0.5).any():
        odd = np.floor(value) % 2 == 1
        if ((fraction == 0.5) & odd).any():
            yield "rounding=tie up"
        if ((fraction == 0.5) & ~odd).any():
            yield "rounding=tie down"
    if ((fraction > 0) & (fraction < 0.5)).any():
        yield "rounding=down"
    if (fraction > 0.5).any():
        yield "rounding=up"
    if (np.rint(value) > a.high).any():
        yield "a=clipped"
    if a.running and steps > 1:
        rise = np.diff(highest[..., 0], axis=0)
        if ((rise > 0) & (rise < a.reach)).any():
            yield "exponent=rises"
        if (rise >= a.reach).any():
            yield "exponent=rises, sum dropped"
    low, high = integers.weight_range(spec.weight_encoding, work.job.weight_bits)
    if work.w.min() == low:
        yield "w=lowest"
    if work.w.max() == high:
        yield "w=highest"
    if work.z is not None:
        if work.z.min() == 0:
            yield "z=0"
        if work.z.max() == 2**work.job.weight_bits - 1:
            yield "z=highest"


def coverage_points(spec: LutCoreSpec) -> tuple[str, ...]:
    """Every coverage point of floating activations."""
    a = spec.activations
    points = [f"weight_bits={bits}" for bits in range(1, spec.max_weight_bits + 1)]
    points += ["k_steps=1"] + (["k_steps>1"] if spec.max_k_steps > 1 else [])
    points += ["invalid=0", "invalid=1", "a=subnormal", "a=zero", "a=largest"]
    lost = a.form.mantissa_bits + 1 - (a.widest - 1)
    if a.exponent != "exact":
        # Alone in its row, an activation is only rounded where its significand does not fit.
        if a.given or lost > 0 or spec.tile.k > 1 or spec.max_k_steps > 1:
            points += [f"rounding={kind}" for kind in ("up", "down", "tie up", "tie down")]
        if a.given or lost > 0:
            points.append("a=clipped")
    if a.running and spec.max_k_steps > 1:
        points.append("exponent=rises")
        points += ["exponent=rises, sum dropped"] if a.drops else []
    points += ["w=lowest", "w=highest"]
    points += ["z=0", "z=highest"] if spec.zero_point else []
    return tuple(points)
