"""Reference of the core for block-scaled operands: exact integer sums of blocks, then their sum.

An element is an integer times the smallest step of its format, a scale a significand times a power
of two. So a block's dot product is an integer ``D`` times ``2^(code + bias)``: exact, whatever its
width. What becomes of the blocks' sums is :mod:`hw.formats.sums`. A tensor scale is a factor of the
whole result and is applied outside.

By OCP a block with a NaN scale is NaN, as is a sum with a NaN element, infinity times zero, or
infinities of both signs; another infinity makes the sum infinite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hw import gemm
from hw.blocks.mx_core.spec import Elements, MxCoreSpec
from hw.formats import FP32, FloatFormat, IntegerFormat
from hw.formats.sums import DIGIT
from hw.gemm import GemmWork, Job
from hw.lazy import np
from hw.streams import Stream, StreamField


def streams(spec: MxCoreSpec) -> tuple[Stream, ...]:
    """Ports: ``i_job``, ``i_a``, ``i_w``, ``o``. Codes travel as they are, scales beside them."""
    tile = spec.tile

    def operand(name: str, elements: Elements, rows: int, doc: str) -> Stream:
        return Stream(
            name=f"i_{name}",
            direction="in",
            doc=f"{doc}, by K step",
            fields=(
                StreamField(
                    name=name,
                    width=elements.width,
                    signed=elements.integer,
                    shape=(rows, tile.k),
                    doc=f"{doc}: {elements.form.name} codes",
                ),
                StreamField(
                    name=f"{name}_scale",
                    width=spec.scale.width,
                    shape=(rows,),
                    doc=f"{spec.scale.name} codes of the blocks' scales",
                ),
            ),
        )

    a = operand("a", spec.a_elements, tile.m, "activations")
    w = operand("w", spec.w_elements, tile.n, "weights")
    return gemm.shared_streams(spec, a, w)


def check_work(spec: MxCoreSpec, work: GemmWork) -> None:
    """Every operand against the specification.

    Raises:
        ValueError: names the operand, the rule and the value.
    """
    job, tile = work.job, spec.tile
    gemm.check_steps(spec, job)
    if job.weight_bits != spec.max_weight_bits:
        raise ValueError(f"weight_bits: must be {spec.max_weight_bits}, got {job.weight_bits}")
    if job.accumulate or work.c is not None:
        raise ValueError("c: the core has no addend")
    if work.z is not None:
        raise ValueError("z: the core has no zero points")
    depth = job.k_steps * tile.k
    _check("a", work.a, (tile.m, depth), spec.a_elements.form)
    _check("w", work.w, (tile.n, depth), spec.w_elements.form)
    for name, rows in (("a_scale", tile.m), ("w_scale", tile.n)):
        if name not in work.extra:
            raise ValueError(f"{name}: is required")
        _check(name, work.extra[name], (rows, job.k_steps), spec.scale)


def _check(
    name: str, array: np.ndarray, shape: tuple[int, ...], form: FloatFormat | IntegerFormat
) -> None:
    array = np.asarray(array)
    if array.shape != shape:
        raise ValueError(f"{name}: shape must be {shape}, got {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name}: must hold integers, got {array.dtype}")
    low = -form.max_code - 1 if isinstance(form, IntegerFormat) else 0
    high = low + (1 << form.width) - 1
    if array.size and (array.min() < low or array.max() > high):
        raise ValueError(
            f"{name}: codes of {form.name} lie in [{low}, {high}], got "
            f"[{array.min()}, {array.max()}]"
        )


def beats(spec: MxCoreSpec, work: GemmWork) -> dict[str, dict[str, np.ndarray]]:
    """Every input stream's beats of one job."""
    check_work(spec, work)
    k_steps = work.job.k_steps
    found = {"i_job": gemm.job_beats(spec, work.job)}
    for name, codes in (("a", work.a), ("w", work.w)):
        scales = np.asarray(work.extra[f"{name}_scale"], dtype=np.int64)
        found[f"i_{name}"] = {
            name: gemm.step_view(np.asarray(codes, dtype=np.int64), k_steps),
            f"{name}_scale": scales.T,
        }
    return found


def integers(elements: Elements, codes: np.ndarray) -> np.ndarray:
    """Codes as ``int64`` multiples of ``2^elements.unit``.

    IEEE infinities and NaNs are 0; the one NaN of other formats is the number its bits would be.
    """
    form = elements.form
    codes = np.asarray(codes)
    if isinstance(form, IntegerFormat):
        return codes.astype(np.int64)
    parts = form.fields(codes)
    values = parts.significand << (parts.power - elements.unit)
    if elements.inf:
        values = np.where(form.is_nan(codes) | form.is_inf(codes), 0, values)
    return np.where(parts.sign == 1, -values, values)


def scale_parts(spec: MxCoreSpec, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Significand, non-negative power and NaN of scale codes; a NaN is the number it would be."""
    parts = spec.scale.fields(codes)
    least = spec.scale.min_exponent - spec.scale.mantissa_bits
    return parts.significand, parts.power - least, spec.scale.is_nan(codes)


def _flags(elements: Elements, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where codes are NaN, and where infinite."""
    form = elements.form
    if isinstance(form, IntegerFormat):
        nothing = np.zeros(np.shape(codes), dtype=bool)
        return nothing, nothing
    return np.asarray(form.is_nan(codes)), np.asarray(form.is_inf(codes))


def _dot(a: np.ndarray, w: np.ndarray, largest: int) -> np.ndarray:
    """``(steps, M, k) · (steps, N, k)`` to ``(steps, M, N)``, exactly.

    ``largest``: bound of any sum. Below 2^53 every product and sum is an integer that float64 has.
    """
    w = w.transpose(0, 2, 1)
    if largest < 1 << 53:
        return (a.astype(np.float64) @ w.astype(np.float64)).astype(np.int64)
    if largest < 1 << 63:
        return a @ w
    # Halves of 24 bits: a = high·2^24 + low with low in [0, 2^24).
    high_a, low_a, high_w, low_w = a >> 24, a & 0xFFFFFF, w >> 24, w & 0xFFFFFF
    middle = high_a @ low_w + low_a @ high_w
    whole = (high_a @ high_w).astype(object) * (1 << 48) + middle.astype(object) * (1 << 24)
    return whole + low_a @ low_w


def block_sums(spec: MxCoreSpec, work: GemmWork) -> dict[str, np.ndarray]:
    """What the blocks add, each ``(steps, M, N)``: ``values``, ``codes``, ``nan``, ``pinf``,
    ``ninf`` as :meth:`hw.formats.sums.Sums.total` takes them."""
    k_steps = work.job.k_steps
    a_codes = gemm.step_view(np.asarray(work.a), k_steps)
    w_codes = gemm.step_view(np.asarray(work.w), k_steps)
    a, w = integers(spec.a_elements, a_codes), integers(spec.w_elements, w_codes)
    terms = spec.sums.terms
    values = _dot(a, w, max(-terms.low, terms.high))
    a_sig, a_power, a_nan = scale_parts(spec, np.asarray(work.extra["a_scale"]).T)
    w_sig, w_power, w_nan = scale_parts(spec, np.asarray(work.extra["w_scale"]).T)
    found = {
        "values": values * (a_sig[:, :, None] * w_sig[:, None, :]),
        "codes": a_power[:, :, None] + w_power[:, None, :],
    }
    nan: np.ndarray = a_nan[:, :, None] | w_nan[:, None, :]
    element_nan_a, inf_a = _flags(spec.a_elements, a_codes)
    element_nan_w, inf_w = _flags(spec.w_elements, w_codes)
    nan = nan | np.any(element_nan_a, axis=2)[:, :, None]
    nan = nan | np.any(element_nan_w, axis=2)[:, None, :]
    plus = minus = np.zeros(nan.shape, dtype=bool)
    if spec.sums.terms.inf:
        # Infinite, zero, positive and negative elements, and how many pairs of them there are.
        a_kind, w_kind = _kinds(spec.a_elements, a_codes), _kinds(spec.w_elements, w_codes)

        def pairs(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return (x.astype(np.int64) @ y.astype(np.int64).transpose(0, 2, 1)) > 0

        nan = nan | pairs(inf_a, w_kind["zero"]) | pairs(a_kind["zero"], inf_w)
        for name, other in (("positive", "negative"), ("negative", "positive")):
            plus = plus | pairs(inf_a & a_kind[name], w_kind[name])
            plus = plus | pairs(a_kind[name], inf_w & w_kind[name])
            minus = minus | pairs(inf_a & a_kind[name], w_kind[other])
            minus = minus | pairs(a_kind[name], inf_w & w_kind[other])
    return {**found, "nan": nan, "pinf": plus, "ninf": minus}


def _kinds(elements: Elements, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Where codes are zero, above and below zero, infinities included and NaN left out."""
    nan, _ = _flags(elements, codes)
    if isinstance(elements.form, IntegerFormat):
        return {"zero": codes == 0, "positive": codes > 0, "negative": codes < 0}
    parts = elements.form.fields(codes)
    zero = elements.form.decode(codes) == 0
    some = ~zero & ~nan
    return {
        "zero": zero,
        "positive": some & (parts.sign == 0),
        "negative": some & (parts.sign == 1),
    }


def gemm_result(spec: MxCoreSpec, work: GemmWork) -> dict[str, np.ndarray]:
    """Results ``(M, N, …)`` by field."""
    check_work(spec, work)
    found = block_sums(spec, work)
    return spec.sums.total(
        found["values"], found["codes"], nan=found["nan"], pinf=found["pinf"], ninf=found["ninf"]
    )


def expected(spec: MxCoreSpec, work: GemmWork) -> dict[str, dict[str, np.ndarray]]:
    """The one result beat of a job."""
    return {"o": {name: array[None] for name, array in gemm_result(spec, work).items()}}


# Works -----------------------------------------------------------------------


def random_work(spec: MxCoreSpec, rng: np.random.Generator, *, size: str = "small") -> GemmWork:
    """Corner-heavy random job. ``size``: ``minimum``, ``small`` or ``large``."""
    k_steps = gemm.random_steps(spec, rng, size)
    return random_operands(spec, rng, Job(k_steps=k_steps, weight_bits=spec.max_weight_bits))


def random_operands(spec: MxCoreSpec, rng: np.random.Generator, job: Job) -> GemmWork:
    """Corner-heavy operands for a given job: extremes, exponents near and far, sums that cancel,
    and now and then what is no number."""
    tile = spec.tile
    work = GemmWork(
        job=job,
        a=_random_codes(spec.a_elements, rng, (tile.m, job.k_steps * tile.k)),
        w=_random_codes(spec.w_elements, rng, (tile.n, job.k_steps * tile.k)),
        extra={
            "a_scale": _random_scales(spec, rng, (tile.m, job.k_steps)),
            "w_scale": _random_scales(spec, rng, (tile.n, job.k_steps)),
        },
    )
    kind = rng.integers(10)
    if kind < 2:
        _cancel(spec, rng, work)
    elif kind == 2 and job.k_steps > 1:
        step = int(rng.integers(job.k_steps))
        work.a[:, step * tile.k : (step + 1) * tile.k] = 0
    if rng.integers(4) == 0:
        _spoil(spec, rng, work)
    return work


def _random_codes(
    elements: Elements, rng: np.random.Generator, shape: tuple[int, ...]
) -> np.ndarray:
    """Finite codes, a third of all draws constant, sparse, or of extremes alone."""
    form = elements.form
    if isinstance(form, IntegerFormat):
        corners, codes = form.corners(), form.random_codes(rng, shape)
    else:
        corners, codes = form.corners(), form.random_codes(rng, shape, finite=True)
        corners = corners[~(form.is_nan(corners) | form.is_inf(corners))]
    kind = rng.integers(9)
    if kind == 0:
        codes = np.full(shape, rng.choice(corners))
    elif kind == 1:
        codes = rng.choice(corners, size=shape)
    elif kind == 2:
        codes = np.where(rng.random(shape) < 0.9, 0, codes)
    return codes.astype(np.int64)


def _random_scales(
    spec: MxCoreSpec, rng: np.random.Generator, shape: tuple[int, ...]
) -> np.ndarray:
    """Codes of numbers: near one another around any place, at the ends, or anywhere."""
    top = spec.scale.max_code
    centre = int(rng.integers(0, top + 1)) if rng.integers(3) else top // 2
    spread = int(rng.choice([0, 2, 12, 40, top]))
    codes = rng.integers(centre - spread, centre + spread + 1, size=shape)
    if rng.integers(8) == 0:
        codes = np.where(rng.random(shape) < 0.5, 0, top)
    return np.clip(codes, 0, top).astype(np.int64)


def _cancel(spec: MxCoreSpec, rng: np.random.Generator, work: GemmWork) -> None:
    """Make every other step take back what the one before added, or all but a little of it."""
    form, k = spec.a_elements.form, spec.tile.k
    for step in range(1, work.job.k_steps, 2):
        here, before = (slice(at * k, (at + 1) * k) for at in (step, step - 1))
        work.w[:, here] = work.w[:, before]
        if isinstance(form, IntegerFormat):
            work.a[:, here] = np.clip(-work.a[:, before], -form.max_code, form.max_code)
        else:
            work.a[:, here] = work.a[:, before] ^ (1 << (form.width - 1))
        for name in ("a_scale", "w_scale"):
            work.extra[name][:, step] = work.extra[name][:, step - 1]
        if rng.integers(2):
            work.a[:, step * k + int(rng.integers(k))] = 0


def _spoil(spec: MxCoreSpec, rng: np.random.Generator, work: GemmWork) -> None:
    """Put one or two of what is no number into a job."""
    spots: list[tuple[np.ndarray, list[int]]] = []
    for array, elements in ((work.a, spec.a_elements), (work.w, spec.w_elements)):
        form = elements.form
        if isinstance(form, FloatFormat):
            codes = [code for code in (form.inf_code, form.nan_code) if code is not None]
            codes += [code | 1 << (form.width - 1) for code in codes]
            if codes:
                spots.append((array, codes))
    for name in ("a_scale", "w_scale"):
        assert spec.scale.nan_code is not None  # noqa: S101  (every block format's scale has one)
        spots.append((work.extra[name], [spec.scale.nan_code]))
    for _ in range(int(rng.integers(1, 3))):
        array, codes = spots[int(rng.integers(len(spots)))]
        at = tuple(int(rng.integers(size)) for size in array.shape)
        array[at] = int(rng.choice(codes))


def corner_works(spec: MxCoreSpec, rng: np.random.Generator) -> tuple[GemmWork, ...]:
    """Jobs of a step or two at every end of elements and scales, and all that is no number."""
    works: list[GemmWork] = []
    a_ends, w_ends = (_ends(item) for item in (spec.a_elements, spec.w_elements))
    top = spec.scale.max_code
    middle = top // 2
    for number, (a_scale, w_scale) in enumerate(
        [(middle, middle), (0, 0), (top, top), (0, top), (0, 1), (top, middle), (top, top - 1)]
    ):
        for a in a_ends:
            w = w_ends[(number + int(a)) % len(w_ends)]
            works.append(_constant(spec, 1 + number % 2, a, w, a_scale, w_scale))
    for a in a_ends:
        for w in w_ends:
            works.append(_constant(spec, min(2, spec.max_k_steps), a, w, middle, middle))
    assert spec.scale.nan_code is not None  # noqa: S101  (every block format's scale has one)
    bad = spec.scale.nan_code
    works.append(_constant(spec, 1, a_ends[-1], w_ends[-1], bad, middle))
    works.append(_constant(spec, 1, a_ends[-1], w_ends[-1], middle, bad))
    works += _powers_of_two(spec, rng)
    for name, elements in (("a", spec.a_elements), ("w", spec.w_elements)):
        # Infinities of both signs, a step apart.
        form = elements.form
        if isinstance(form, FloatFormat) and form.inf_code is not None and spec.max_k_steps > 1:
            both = _constant(
                spec, 2, _code(spec.a_elements, 1, 0), _code(spec.w_elements, 1, 0), middle, middle
            )
            infinities = both.a if name == "a" else both.w
            infinities[:] = form.inf_code
            infinities[:, spec.tile.k :] |= 1 << (form.width - 1)
            works.append(both)
    for _ in range(12):
        work = random_operands(
            spec, rng, Job(k_steps=min(2, spec.max_k_steps), weight_bits=spec.max_weight_bits)
        )
        _spoil(spec, rng, work)
        works.append(work)
    return tuple(works)


def _powers_of_two(spec: MxCoreSpec, rng: np.random.Generator) -> list[GemmWork]:
    """Steps that add powers of two where roundings of FP32 are decided: a tie at every distance
    from what breaks it, in a sum that it falls out of or in a term; and the edge of overflow."""
    # Each term: sign, power, and whether the block's sum is as long as it gets, 2^(top + power) and
    # 2^power.
    steps: list[list[tuple[int, int, bool]]] = []
    top = _top_bit(spec)
    for a in range(1, FP32.mantissa_bits + 1):
        sign = int(rng.choice([-1, 1]))
        tie = [(sign, a, False), (sign, a + FP32.mantissa_bits + 1, False)]
        steps += [[(1, 0, False), *tie], [(-1, 0, False), *tie]]
    for a in range(DIGIT):
        for sign in (-1, 1):
            steps.append([(1, a + top + FP32.mantissa_bits + 1, False), (sign, a, True)])
    # A sum of 0 far above what comes next.
    steps.append([(1, 120, False), (-1, 120, False), (1, 0, False)])
    if spec.sums.kind == "fp32":
        steps += _pending_carries()
    most = FP32.max_exponent
    half = most - FP32.mantissa_bits - 1
    for sign in (-1, 1):
        for low in (half, half + 1):
            # What overflows stays infinite.
            edge = [(sign, most, False), (-sign, low, False), (sign, most, False)]
            steps += [edge, [*edge, (-sign, most, False)]]
    works = []
    for terms in steps:
        ends = [power for _, power, _ in terms]
        # Ties lie anywhere, each at its own place in a digit; the edge is where it is.
        shift = _room(spec, rng, min(ends), max(ends)) if max(ends) < most else 0
        work = None if shift is None else _of_powers(spec, [(s, p + shift, x) for s, p, x in terms])
        works += [work] if work else []
    return works


def _pending_carries() -> list[list[tuple[int, int, bool]]]:
    """A sum that is still to be rounded up falls in part out of a much larger one, whose guard bit
    is 0 and below it are ones as far as the sum is kept: a carry must not reach them."""
    found = []
    for place in range(DIGIT):
        for guard in range(16, 24):
            powers = [(1, 24), (1, guard), (-1, 8), (1, 1), (1, 0), (1, guard + 24)]
            found.append([(sign, power + place, False) for sign, power in powers])
    return found


def _power_of_two(elements: Elements) -> int:
    """Exponent of the largest element that is a power of two, of the format's smallest step."""
    values = integers(elements, _all_codes(elements))
    return int(values.max()).bit_length() - 1


def _top_bit(spec: MxCoreSpec) -> int:
    """Exponent of the largest power of two that all lanes but the last make."""
    lanes = max(spec.tile.k - 1, 1).bit_length() - 1
    return _power_of_two(spec.a_elements) + _power_of_two(spec.w_elements) + lanes


def _scale_powers(spec: MxCoreSpec) -> dict[int, int]:
    """By exponent the code of each scale that is a power of two."""
    codes = np.arange(spec.scale.max_code + 1)
    significand, power, nan = scale_parts(spec, codes)
    single = ~nan & (significand > 0) & (significand & (significand - 1) == 0)
    exponents = power[single] + np.round(np.log2(significand[single])).astype(np.int64)
    return dict(zip(exponents.tolist(), codes[single].tolist(), strict=True))


def _room(spec: MxCoreSpec, rng: np.random.Generator, low: int, high: int) -> int | None:
    """A shift that brings two powers of two into the range of a block's sum; None if none does."""
    powers = _scale_powers(spec)
    bias = spec.sums.terms.bias
    first, last = 2 * min(powers) + bias - low, 2 * max(powers) + bias - high
    first, last = -(-first // DIGIT), last // DIGIT
    return None if first > last else DIGIT * int(rng.integers(first, last + 1))


def _of_powers(spec: MxCoreSpec, terms: Sequence[tuple[int, int, bool]]) -> GemmWork | None:
    """A job whose steps add such terms; None where the scales do not reach that far."""
    if len(terms) > spec.max_k_steps:
        return None
    powers = _scale_powers(spec)
    work = _constant(spec, len(terms), 0, 0, 0, 0)
    for step, (sign, power, wide) in enumerate(terms):
        wanted = power - spec.sums.terms.bias
        found = [x for x in powers if wanted - x in powers]
        if not found:
            return None
        first = found[len(found) // 2]
        work.extra["a_scale"][:, step] = powers[first]
        work.extra["w_scale"][:, step] = powers[wanted - first]
        at = step * spec.tile.k
        lanes = 1 << max(spec.tile.k - 1, 1).bit_length() - 1
        if wide and lanes < spec.tile.k:
            work.a[:, at : at + lanes] = _code(spec.a_elements, 1, _power_of_two(spec.a_elements))
            work.w[:, at : at + lanes] = _code(
                spec.w_elements, sign, _power_of_two(spec.w_elements)
            )
            at += lanes
        work.a[:, at] = _code(spec.a_elements, 1, 0)
        work.w[:, at] = _code(spec.w_elements, sign, 0)
    return work


def _code(elements: Elements, sign: int, power: int) -> int:
    """Code of the element that is ``sign · 2^power`` smallest steps."""
    codes = _all_codes(elements)
    values = integers(elements, codes)
    return int(codes[np.flatnonzero(values == sign << power)[0]])


def _ends(elements: Elements) -> list[int]:
    """Codes at the ends of a format, those that are no numbers included."""
    return [int(code) for code in elements.form.corners()]


def _constant(
    spec: MxCoreSpec, k_steps: int, a: int, w: int, a_scale: int, w_scale: int
) -> GemmWork:
    k_steps = min(k_steps, spec.max_k_steps)
    tile, depth = spec.tile, k_steps * spec.tile.k
    return GemmWork(
        job=Job(k_steps=k_steps, weight_bits=spec.max_weight_bits),
        a=np.full((tile.m, depth), a, dtype=np.int64),
        w=np.full((tile.n, depth), w, dtype=np.int64),
        extra={
            "a_scale": np.full((tile.m, k_steps), a_scale, dtype=np.int64),
            "w_scale": np.full((tile.n, k_steps), w_scale, dtype=np.int64),
        },
    )


MOST_JOBS = 1 << 11
"""Jobs beyond which :func:`exhaustive_works` gives up."""


def exhaustive_works(spec: MxCoreSpec) -> tuple[GemmWork, ...] | None:
    """Every pair of element codes, each in one lane, the others 0, and the lane going round; with
    scales in the middle and at the ends. None if there are too many."""
    tile = spec.tile
    a_all, w_all = (_all_codes(item) for item in (spec.a_elements, spec.w_elements))
    if -(-len(a_all) // tile.m) * -(-len(w_all) // tile.n) > MOST_JOBS:
        return None
    top = spec.scale.max_code
    scales = [(top // 2, top // 2), (0, 0), (top, top), (top // 2, top)]
    works: list[GemmWork] = []
    lane = 0
    for start_a in range(0, len(a_all), tile.m):
        for start_w in range(0, len(w_all), tile.n):
            a_scale, w_scale = scales[len(works) % len(scales)]
            work = _constant(spec, 1, 0, 0, a_scale, w_scale)
            work.a[:, lane] = np.resize(a_all[start_a : start_a + tile.m], tile.m)
            work.w[:, lane] = np.resize(w_all[start_w : start_w + tile.n], tile.n)
            works.append(work)
            lane = (lane + 1) % tile.k
    return tuple(works)


def _all_codes(elements: Elements) -> np.ndarray:
    form = elements.form
    low = -form.max_code - 1 if isinstance(form, IntegerFormat) else 0
    return np.arange(low, low + (1 << form.width))


def explain(
    spec: MxCoreSpec, work: GemmWork, stream: str, field: str, index: tuple[int, ...]
) -> str:
    """The inputs of one result."""
    m, n = index[1:3]
    found = block_sums(spec, work)
    return (
        f"job {work.job} a[{m},:]={np.asarray(work.a)[m].tolist()} "
        f"w[{n},:]={np.asarray(work.w)[n].tolist()} "
        f"a_scale[{m},:]={np.asarray(work.extra['a_scale'])[m].tolist()} "
        f"w_scale[{n},:]={np.asarray(work.extra['w_scale'])[n].tolist()}; by block "
        f"D={found['values'][:, m, n].tolist()} code={found['codes'][:, m, n].tolist()}"
    )


def coverage(spec: MxCoreSpec, work: GemmWork) -> Iterator[str]:
    """Coverage points that one work hits; see :func:`coverage_points`."""
    yield "k_steps=1" if work.job.k_steps == 1 else "k_steps>1"
    top = spec.scale.max_code
    for side, elements, codes in (("a", spec.a_elements, work.a), ("w", spec.w_elements, work.w)):
        form = elements.form
        codes = np.asarray(codes)
        nan, inf = _flags(elements, codes)
        if nan.any():
            yield f"{side}=NaN"
        if inf.any():
            yield f"{side}=infinite"
        if isinstance(form, IntegerFormat):
            if (codes == -form.max_code - 1).any():
                yield f"{side}=lowest code"
        else:
            magnitude = codes & ((1 << (form.width - 1)) - 1)
            if ((magnitude > 0) & (magnitude < 1 << form.mantissa_bits)).any():
                yield f"{side}=subnormal"
        if (np.abs(integers(elements, codes)) == _largest(elements)).any():
            yield f"{side}=largest"
        scales = np.asarray(work.extra[f"{side}_scale"])
        for name, code in (("NaN", spec.scale.nan_code), ("lowest", 0), ("highest", top)):
            if (scales == code).any():
                yield f"{side}_scale={name}"
    found = block_sums(spec, work)
    codes = found["codes"]
    if work.job.k_steps > 1:
        if (np.diff(codes, axis=0) > 0).any():
            yield "exponent=rises"
        if (np.diff(codes, axis=0) < 0).any():
            yield "exponent=falls"
        if _cancels(found).any():
            yield "sum=cancels"
    if spec.sums.terms.inf and (found["pinf"].any(axis=0) & found["ninf"].any(axis=0)).any():
        yield "sum=infinity less infinity"
    result = gemm_result(spec, work)
    if spec.sums.fp32 and _can_overflow(spec):
        finite = ~(found["nan"] | found["pinf"] | found["ninf"]).any(axis=0)
        if (finite & ((result["o"] & 0x7FFFFFFF) == 0x7F800000)).any():
            yield "sum=overflows"
    if spec.sums.fp32 and _can_be_subnormal(spec):
        magnitude = result["o"] & 0x7FFFFFFF
        if ((magnitude > 0) & (magnitude < 1 << 23)).any():
            yield "sum=subnormal"
    if "outside" in result:
        yield f"outside={int(result['outside'].any())}"


def _cancels(found: dict[str, np.ndarray]) -> np.ndarray:
    """Where a step takes back exactly what the one before added."""
    values, codes = found["values"], found["codes"]
    return (values[1:] != 0) & (values[1:] == -values[:-1]) & (codes[1:] == codes[:-1])


def _largest(elements: Elements) -> int:
    """Magnitude of the largest number."""
    form = elements.form
    if isinstance(form, IntegerFormat):
        return form.max_code
    return int(integers(elements, np.array([form.max_code]))[0])


def _can_overflow(spec: MxCoreSpec) -> bool:
    terms = spec.sums.terms
    return terms.bits - 2 + terms.bias + terms.codes - 3 >= 128


def _can_be_subnormal(spec: MxCoreSpec) -> bool:
    return spec.sums.terms.bias < -126


def coverage_points(spec: MxCoreSpec) -> tuple[str, ...]:
    """Every coverage point of a specification."""
    points = ["k_steps=1"]
    for side, elements in (("a", spec.a_elements), ("w", spec.w_elements)):
        points += [f"{side}=NaN"] if elements.nan else []
        points += [f"{side}=infinite"] if elements.inf else []
        points.append(f"{side}=lowest code" if elements.integer else f"{side}=subnormal")
        points.append(f"{side}=largest")
        points += [f"{side}_scale={name}" for name in ("NaN", "lowest", "highest")]
    if spec.max_k_steps > 1:
        points += ["k_steps>1", "exponent=rises", "exponent=falls", "sum=cancels"]
    if spec.sums.terms.inf:
        points.append("sum=infinity less infinity")
    if spec.sums.fp32:
        points += ["sum=overflows"] if _can_overflow(spec) else []
        points += ["sum=subnormal"] if _can_be_subnormal(spec) else []
    if spec.sums.kind == "fixed" and not spec.sums.exact:
        points += ["outside=0", "outside=1"]
    return tuple(points)


def values(spec: MxCoreSpec, fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """Results by field as numbers, ``float64``."""
    return spec.sums.values(fields)
