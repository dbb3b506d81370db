"""Reference of the table array: the plain integer product, and its conversion with one rounding.

With ``exact`` results these are the integers ``O = A·(W − z)ᵀ``. Else

- ``integer``: ``clip(rne(O / 2^shift))`` to the two's complement of ``result.bits`` bits;
- ``fp16``, ``fp32``: the product of ``O`` and the column's FP16 scale, exact in integers (at most
  59 bits), rounded once to nearest, ties to even. Subnormal numbers are kept; what is too large
  becomes an infinity; NaN, and an infinite scale times 0, become the positive quiet NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from hw import gemm, integers
from hw.blocks.sram_lut_gemv import patterns
from hw.blocks.sram_lut_gemv.spec import Result, SramLutGemvSpec
from hw.exact import numbers
from hw.formats import FP16
from hw.gemm import GemmWork, Job
from hw.lazy import np
from hw.streams import Stream, StreamField


def streams(spec: SramLutGemvSpec) -> tuple[Stream, ...]:
    """Ports: ``i_job``, ``i_a``, ``i_w``, ``o``. Narrow numbers travel extended."""
    tile, bits = spec.tile, spec.max_weight_bits
    a = Stream(
        name="i_a",
        direction="in",
        doc="activations, by K step",
        fields=(
            StreamField(
                name="a",
                width=spec.activations.max_bits,
                signed=spec.signed,
                shape=(tile.m, tile.k),
                doc="activations",
            ),
        ),
    )
    fields = [
        StreamField(
            name="w", width=bits, signed=not spec.zero_point, shape=(tile.n, tile.k), doc="weights"
        )
    ]
    if spec.zero_point:
        fields.append(StreamField(name="z", width=bits, shape=(tile.n,), doc="zero points"))
    w = Stream(name="i_w", direction="in", fields=tuple(fields), doc="weights, by K step")
    return gemm.shared_streams(spec, a, w)


def _sums(spec: SramLutGemvSpec) -> SramLutGemvSpec:
    """The same array without a conversion."""
    return spec if spec.exact else spec.model_copy(update={"result": Result()})


def check_work(spec: SramLutGemvSpec, work: GemmWork) -> None:
    """Every operand against the specification and the job.

    Raises:
        ValueError: names the operand, the rule and the value.
    """
    integers.check_work(_sums(spec), work)
    for item in spec.job_operands:
        given = work.extra.get(item.name)
        if given is None:
            raise ValueError(f"{item.name}: is required")
        given = np.asarray(given)
        if given.shape != item.shape or not np.issubdtype(given.dtype, np.integer):
            raise ValueError(
                f"{item.name}: must be {item.shape} integers, got {given.shape} {given.dtype}"
            )
        high = spec.sum_bits - 1 if item.name == "shift" else (1 << item.width) - 1
        if given.min() < 0 or given.max() > high:
            raise ValueError(
                f"{item.name}: values must lie in [0, {high}], got [{given.min()}, {given.max()}]"
            )


def beats(spec: SramLutGemvSpec, work: GemmWork) -> dict[str, dict[str, np.ndarray]]:
    """Every input stream's beats of one job."""
    check_work(spec, work)
    steps = work.job.k_steps
    weights = {"w": gemm.step_view(np.asarray(work.w, dtype=np.int64), steps)}
    if work.z is not None:
        weights["z"] = np.repeat(np.asarray(work.z)[None], steps, axis=0)
    return {
        "i_job": gemm.job_beats(spec, work.job, work.extra),
        "i_a": {"a": gemm.step_view(np.asarray(work.a, dtype=np.int64), steps)},
        "i_w": weights,
    }


def nearest(values: np.ndarray, shift: int) -> np.ndarray:
    """``values / 2^shift`` to the nearest integer, ties to even."""
    floor = values >> shift
    twice = (values - (floor << shift)) << 1
    unit = np.int64(1) << shift
    up = (twice > unit) | ((twice == unit) & (floor & 1 == 1))
    found: np.ndarray = floor + up
    return found


def gemm_result(spec: SramLutGemvSpec, work: GemmWork) -> np.ndarray:
    """``(M, N)`` results: integers, or codes of the result's format."""
    check_work(spec, work)
    exact = integers.product(work)
    if spec.exact:
        return exact
    form = spec.result_form
    if form is None:
        half = 1 << (spec.result.bits - 1)
        return np.clip(nearest(exact, int(work.extra["shift"])), -half, half - 1)
    value = numbers(None, exact) * numbers(FP16, np.asarray(work.extra["scale"])[None, :])
    x = np.where(value.nan, 0.0, value.as_float64())
    codes = form.encode(x, overflow="nonsaturating").astype(np.int64)
    return np.where(value.nan, int(form.encode(np.nan)), codes)


def expected(spec: SramLutGemvSpec, work: GemmWork) -> dict[str, dict[str, np.ndarray]]:
    """The one result beat of a job."""
    return {"o": {"o": gemm_result(spec, work)[None]}}


def values(spec: SramLutGemvSpec, fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """Results as numbers: integers as they are, codes decoded."""
    form = spec.result_form
    codes = fields["o"]
    found: np.ndarray = codes.astype(np.float64) if form is None else form.decode(codes)
    return found


def explain(
    spec: SramLutGemvSpec, work: GemmWork, stream: str, field: str, index: tuple[int, ...]
) -> str:
    """The inputs of one result."""
    _, m, n = index
    exact = int(integers.product(work)[m, n])
    return f"{integers.explain(work, index)} exact sum {exact}"


# Stimulus ------------------------------------------------------------


def random_work(
    spec: SramLutGemvSpec, rng: np.random.Generator, *, size: str = "small"
) -> GemmWork:
    """Corner-heavy random job; of two jobs of a reuse table one uses it, mostly on rows that
    repeat, are zero or differ in few planes."""
    work = integers.random_work(_sums(spec), rng, size=size)
    work = replace(work, extra=_random_extra(spec, rng, work))
    if not spec.reuses or rng.integers(2):
        return work
    a = work.a
    kind = rng.integers(5)
    if kind == 1:
        a = a[rng.integers(0, len(a), size=len(a))]
    elif kind == 2:
        a = np.where(rng.random(a.shape) < 0.7, 0, a)
    elif kind == 3:
        # Small numbers: the planes of their signs repeat.
        a = a >> rng.integers(0, gemm.activation_bits(spec, work.job), size=(1, a.shape[1]))
    elif kind == 4:
        a = np.where(rng.random(a.shape) < 0.1, a, a[:1])
    elif kind == 0 and spec.reuse.capacity <= spec.words:
        a = _all_different(spec, rng, work)
    return replace(work, job=replace(work.job, reuse=True), a=a)


def _all_different(spec: SramLutGemvSpec, rng: np.random.Generator, work: GemmWork) -> np.ndarray:
    """Activations of which no two rows of a round have the same pattern in any plane, nor 0."""
    k, bits = spec.tile.k, gemm.activation_bits(spec, work.job)
    ones = -1 if spec.signed else (1 << bits) - 1
    words = np.stack(
        [
            rng.permutation(spec.words)[: spec.reuse.capacity] + 1
            for _ in range(spec.rounds * work.job.k_steps)
        ]
    )
    rows = words.reshape(work.job.k_steps, spec.tile.m).T
    return np.where(rows[..., None] >> np.arange(k) & 1, ones, 0).reshape(work.a.shape)


def random_operands(spec: SramLutGemvSpec, rng: np.random.Generator, job: Job) -> GemmWork:
    """Corner-heavy operands for a given job."""
    work = integers.random_operands(_sums(spec), rng, job)
    return replace(work, extra=_random_extra(spec, rng, work))


def _random_extra(
    spec: SramLutGemvSpec, rng: np.random.Generator, work: GemmWork
) -> dict[str, np.ndarray]:
    """The operands of a conversion: mostly such that results lie within the format."""
    if spec.exact:
        return {}
    largest = int(np.abs(integers.product(work)).max())
    if spec.result_form is None:
        fitting = largest.bit_length() + 1 - spec.result.bits
        shift = fitting + int(rng.integers(-2, 3))
        if rng.integers(4) == 0:
            shift = int(rng.integers(0, spec.sum_bits))
        return {"shift": np.array(min(max(shift, 0), spec.sum_bits - 1))}
    n = spec.tile.n
    if rng.integers(3) == 0:
        return {"scale": FP16.random_codes(rng, (n,)).astype(np.int64)}
    # Results around one, and around both ends of the format.
    reach = int(rng.choice([-24, 0, 15])) - largest.bit_length()
    scale = np.ldexp(1 + rng.random(n), reach + rng.integers(-2, 3, size=n))
    codes = FP16.encode(scale * rng.choice([-1, 1], size=n)).astype(np.int64)
    return {"scale": codes}


def corner_works(spec: SramLutGemvSpec, rng: np.random.Generator) -> tuple[GemmWork, ...]:
    """Converted results at the ends of their range and half-way between two of them.

    Sums of one activation 1 and a ladder of weights are any integers near 0; every shift, and
    scales of every kind, go over them.
    """
    tile = spec.tile
    low, high = integers.weight_range(spec.weight_encoding, spec.max_weight_bits)
    works = []
    turns = 3 * spec.sum_bits if spec.result_form is None else 48
    for turn in range(turns):
        job = Job(
            k_steps=1 + turn % min(2, spec.max_k_steps),
            weight_bits=spec.max_weight_bits,
            activation_bits=int(spec.activation_bits[-1 - turn % len(spec.activation_bits)])
            if len(spec.activation_bits) > 1
            else None,
        )
        work = integers.random_operands(_sums(spec), rng, job)
        if turn % 3 == 0:
            a_low, a_high = integers.activation_range(_sums(spec), gemm.activation_bits(spec, job))
            ends = np.array([a_low, 0, a_high])
            w_ends = np.array([low, high] + ([-1, 1] if not spec.zero_point else [0, 1]))
            work = replace(
                work,
                a=rng.choice(ends, size=work.a.shape),
                w=rng.choice(np.clip(w_ends, low, high), size=work.w.shape),
            )
        extra = _random_extra(spec, rng, work)
        if spec.result_form is None:
            extra = {"shift": np.array(turn // 3)}
        elif turn % 4 == 1:
            special = np.array([0, 1, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0x7E00, 0x3C00, 0xBC00, 0xFC01])
            extra = {"scale": rng.choice(special, size=tile.n)}
        works.append(replace(work, extra=extra))
    return tuple(works)


def coverage(spec: SramLutGemvSpec, work: GemmWork) -> Iterator[str]:
    """Coverage points of one job."""
    yield from integers.coverage(_sums(spec), work)
    if spec.reuses:
        yield f"reuse={int(work.job.reuse)}"
        if work.job.reuse:
            found = patterns.of_work(spec, work)
            for name in ("zeros", "hits", "misses", "empty"):
                if getattr(found, name):
                    yield f"reuse={name}"
            if found.zeros == found.rows:
                yield "reuse=nothing looked up"
            if found.hits == found.zeros == 0:
                yield "reuse=every row looked up"
    if spec.exact:
        return
    result = gemm_result(spec, work)
    form = spec.result_form
    if form is None:
        half = 1 << (spec.result.bits - 1)
        rest = integers.product(work) & ((1 << int(work.extra["shift"])) - 1)
        tie = (rest << 1) == 1 << int(work.extra["shift"])
        for name, some in (
            ("lowest", result == -half),
            ("highest", result == half - 1),
            ("tie", tie),
        ):
            if some.any():
                yield f"result={name}"
        return
    largest = form.max_code
    magnitude = result & ((1 << (form.width - 1)) - 1)
    kinds = {
        "zero": magnitude == 0,
        "normal": (magnitude >= 1 << form.mantissa_bits) & (magnitude <= largest),
        "infinite": form.is_inf(result),
        "nan": form.is_nan(result),
    }
    if form.width == 16:
        kinds["subnormal"] = (magnitude > 0) & (magnitude < 1 << form.mantissa_bits)
    for name, some in kinds.items():
        if some.any():
            yield f"result={name}"


def coverage_points(spec: SramLutGemvSpec) -> tuple[str, ...]:
    """Every coverage point."""
    points = list(integers.coverage_points(_sums(spec)))
    if spec.reuses:
        points += ["reuse=0", "reuse=1", "reuse=zeros", "reuse=hits", "reuse=misses", "reuse=empty"]
        points.append("reuse=nothing looked up")
        if spec.reuse.capacity <= spec.words:
            points.append("reuse=every row looked up")
    if spec.exact:
        return tuple(points)
    if spec.result_form is None:
        return (*points, "result=lowest", "result=highest", "result=tie")
    kinds = ["zero", "normal", "infinite", "nan"]
    if spec.result_form.width == 16:
        kinds.append("subnormal")
    return (*points, *(f"result={kind}" for kind in kinds))
