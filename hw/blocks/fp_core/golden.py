"""Reference of the floating-point core: :mod:`hw.blocks.fp_core.dot`, then the accumulator.

Operands are codes of their formats. Integer weights are their values (two's complement) or codes
``q`` (unsigned, the weight is ``q − z``); ``extra`` holds ``w_scale`` and ``w_zero``, ``(N, K /
group)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from hw import gemm
from hw.blocks.fp_core.dot import StepSum, dequantized, step_sum
from hw.blocks.fp_core.spec import FpCoreSpec
from hw.formats import FP16, FloatFormat
from hw.gemm import GemmWork, Job
from hw.lazy import np
from hw.streams import Stream, StreamField

MOST = 1 << 21
"""Products that are held at a time."""


def streams(spec: FpCoreSpec) -> tuple[Stream, ...]:
    """Ports: ``i_job``, ``i_a``, ``i_w``, ``o``."""
    tile = spec.tile
    a = Stream(
        name="i_a",
        direction="in",
        doc="activations, by K step",
        fields=(
            StreamField(
                name="a",
                width=spec.activation_width,
                shape=(tile.m, tile.k),
                doc=f"{spec.activations.format} codes",
            ),
        ),
    )
    fields = [
        StreamField(
            name="w",
            width=spec.max_weight_bits,
            signed=spec.weight_encoding == "twos_complement",
            shape=(tile.n, tile.k),
            doc="weights" if spec.dequantizes else f"{spec.weights.format} codes",
        )
    ]
    shape = (tile.n, spec.groups)
    if spec.dequantizes:
        fields.append(StreamField(name="w_scale", width=16, shape=shape, doc="FP16 codes"))
    if spec.zeros:
        bits = spec.max_weight_bits
        fields.append(StreamField(name="w_zero", width=bits, shape=shape, doc="zero points"))
    w = Stream(name="i_w", direction="in", fields=tuple(fields), doc="weights, by K step")
    return gemm.shared_streams(spec, a, w)


def check_work(spec: FpCoreSpec, work: GemmWork) -> None:
    """Every operand against the specification.

    Raises:
        ValueError: names the operand, the rule and the value.
    """
    job, tile = work.job, spec.tile
    gemm.check_steps(spec, job)
    if job.weight_bits != spec.max_weight_bits:
        raise ValueError(f"weight_bits: must be {spec.max_weight_bits}, got {job.weight_bits}")
    if gemm.activation_bits(spec, job) != spec.activation_width:
        rule = f"must be {spec.activation_width}, got {job.activation_bits}"
        raise ValueError(f"activation_bits: {rule}")
    if job.accumulate or work.c is not None:
        raise ValueError("c: the specification has no addend")
    if job.a_planes is not None or job.w_planes is not None or work.z is not None:
        raise ValueError("a_planes, w_planes, z: the core has none")
    depth, bits = job.k_steps * tile.k, spec.max_weight_bits
    signed = spec.weight_encoding == "twos_complement"
    _check("a", work.a, (tile.m, depth), 0, (1 << spec.activation_width) - 1)
    _check(
        "w",
        work.w,
        (tile.n, depth),
        -(1 << bits >> 1) if signed else 0,
        (1 << bits >> signed) - 1,
    )
    wanted = {name: 16 if name == "w_scale" else bits for name in spec.further}
    if set(work.extra) != set(wanted):
        names = ", ".join(wanted) or "nothing"
        raise ValueError(f"extra: must hold {names}, got {', '.join(work.extra) or 'nothing'}")
    for name, width in wanted.items():
        groups = -(-depth // spec.group)
        _check(name, work.extra[name], (tile.n, groups), 0, (1 << width) - 1)


def _check(name: str, array: np.ndarray, shape: tuple[int, ...], low: int, high: int) -> None:
    array = np.asarray(array)
    if array.shape != shape:
        raise ValueError(f"{name}: shape must be {shape}, got {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name}: must hold integers, got {array.dtype}")
    if array.size and (array.min() < low or array.max() > high):
        raise ValueError(
            f"{name}: values must lie in [{low}, {high}], got [{array.min()}, {array.max()}]"
        )


def beats(spec: FpCoreSpec, work: GemmWork) -> dict[str, dict[str, np.ndarray]]:
    """Every input stream's beats of one job. Groups of several steps repeat their scales."""
    check_work(spec, work)
    k_steps = work.job.k_steps
    weights = {"w": gemm.step_view(np.asarray(work.w, dtype=np.int64), k_steps)}
    # The groups of each step, (k_steps, groups).
    first = np.arange(k_steps) * spec.tile.k // spec.group
    places = first[:, None] + np.arange(spec.groups)
    for name, array in work.extra.items():
        weights[name] = np.asarray(array, dtype=np.int64)[:, places].transpose(1, 0, 2)
    return {
        "i_job": gemm.job_beats(spec, work.job),
        "i_a": {"a": gemm.step_view(np.asarray(work.a, dtype=np.int64), k_steps)},
        "i_w": weights,
    }


def weight_codes(spec: FpCoreSpec, work: GemmWork) -> np.ndarray:
    """Floating-point codes of the weights, ``(N, K)``."""
    w = np.asarray(work.w)
    if not spec.dequantizes:
        return w
    return dequantized(spec, w, np.asarray(work.extra["w_scale"]), work.extra.get("w_zero"))


def step_sums(spec: FpCoreSpec, work: GemmWork) -> Iterator[StepSum]:
    """Every step's sums."""
    k = spec.tile.k
    a, w = np.asarray(work.a), weight_codes(spec, work)
    rows = max(1, MOST // max(1, len(w) * k))
    for step in range(work.job.k_steps):
        part = slice(step * k, (step + 1) * k)
        parts = [
            step_sum(spec, a[start : start + rows, part], w[:, part])
            for start in range(0, len(a), rows)
        ]
        yield StepSum(
            **{
                name: np.concatenate([getattr(each, name) for each in parts])
                for name in vars(parts[0])
            }
        )


def expected(spec: FpCoreSpec, work: GemmWork) -> dict[str, dict[str, np.ndarray]]:
    """The one result beat of a job."""
    check_work(spec, work)
    steps = list(step_sums(spec, work))

    def stacked(name: str) -> np.ndarray:
        return np.stack([getattr(step, name) for step in steps])

    total = spec.sums.total(
        stacked("d"),
        stacked("code"),
        nan=stacked("nan"),
        pinf=stacked("pinf"),
        ninf=stacked("ninf"),
    )
    return {"o": {name: array[None] for name, array in total.items()}}


# Stimulus ------------------------------------------------------------


def random_work(spec: FpCoreSpec, rng: np.random.Generator, *, size: str = "small") -> GemmWork:
    """Corner-heavy random job. ``size``: ``minimum``, ``small`` or ``large``."""
    k_steps = gemm.random_steps(spec, rng, size)
    return random_operands(spec, rng, Job(k_steps=k_steps, weight_bits=spec.max_weight_bits))


def random_operands(spec: FpCoreSpec, rng: np.random.Generator, job: Job) -> GemmWork:
    """Corner-heavy operands for a given job."""
    tile = spec.tile
    depth = job.k_steps * tile.k
    form, product = spec.weights.format, spec.product
    a = _codes(rng, product.a, (tile.m, depth))
    extra: dict[str, np.ndarray] = {}
    if form == "int":
        bits, groups = spec.max_weight_bits, -(-depth // spec.group)
        low = -(1 << bits >> 1) if spec.weight_encoding == "twos_complement" else 0
        w = rng.integers(low, low + (1 << bits), size=(tile.n, depth))
        extra["w_scale"] = _codes(rng, FP16, (tile.n, groups), rare=0.1)
        if spec.zeros:
            extra["w_zero"] = rng.integers(0, 1 << bits, size=(tile.n, groups))
            if rng.integers(4) == 0:
                zero = np.repeat(extra["w_zero"], spec.group, axis=1)[:, :depth]
                w = np.where(rng.random(w.shape) < 0.5, zero, w)
    else:
        w = _codes(rng, product.w, (tile.n, depth))
        if rng.integers(5) == 0:
            a, w = _cancelling(product.a, product.w, a, w)
    return GemmWork(job=job, a=a.astype(np.int64), w=w.astype(np.int64), extra=extra)


def corner_works(spec: FpCoreSpec, rng: np.random.Generator) -> tuple[GemmWork, ...]:
    """Works that hit what chance may not, most of them of one step.

    Every pair of corner codes in a lane of its own; pairs of products that IEEE 754 has rules for;
    products at every distance from the largest, in and beyond the window; sums as large as they
    get, of both signs; ties in FP32.
    """
    k, (af, wf) = spec.tile.k, (spec.product.a, spec.product.w)
    a_one, w_one = af.bias << af.mantissa_bits, wf.bias << wf.mantissa_bits
    a_minus, w_minus = a_one | 1 << af.width - 1, w_one | 1 << wf.width - 1
    lane = int(rng.integers(k))
    other = (lane + 1) % k
    works = [*_tiled(spec, _rows(af.corners(), k, lane), _rows(wf.corners(), k, lane))]

    # Two products, each of a number, an infinity, NaN or an infinity by zero.
    kinds = [(a_one, w_one), (a_minus, w_one), (0, w_one)]
    for code, others in ((af.inf_code, (w_one, w_minus, 0)), (af.nan_code, (w_one,))):
        kinds += [(code, w) for w in others if code is not None]
    for code, others in ((wf.inf_code, (a_minus, a_one, 0)), (wf.nan_code, (a_one,))):
        kinds += [(a, code) for a in others if code is not None]
    if lane != other:
        for first in kinds:
            rows = np.zeros((2, len(kinds), k), dtype=np.int64)
            rows[:, :, lane] = np.array(first)[:, None]
            rows[:, :, other] = np.array(kinds).T
            works += [_work(spec, a[None], w[None]) for a, w in zip(*rows, strict=True)]

    # A product of all ones at every distance from a largest one, of either sign.
    ones = (1 << af.mantissa_bits) - 1
    top = af.max_code >> af.mantissa_bits
    for down in range(top if lane != other else 0):
        a = np.zeros((2, k), dtype=np.int64)
        a[:, lane] = top << af.mantissa_bits
        a[:, other] = max((top - down) << af.mantissa_bits, 0) | ones
        a[1, lane] |= 1 << af.width - 1
        w = np.zeros((2, k), dtype=np.int64)
        w[:, lane] = [w_one, wf.max_code - (wf.max_code & (1 << wf.mantissa_bits) - 1)]
        w[:, other] = [1 << wf.mantissa_bits - 1, w_one | (1 << wf.mantissa_bits) - 1]
        works += _tiled(spec, a, w)

    # The largest sums, and the same number over and over.
    for sign in (0, 1):
        a = np.full((1, k * min(spec.max_k_steps, 40)), af.max_code | sign << af.width - 1)
        works.append(_work(spec, a, np.full_like(a, wf.max_code)))
    # Ties: 2^12·2^12, then 1 as often as it takes to be lost, to count, and to be lost again.
    if spec.max_k_steps > 2 and af.max_exponent >= 12 <= wf.max_exponent:
        for start in range(1, 4):
            a, w = np.zeros((2, 1, k * 3), dtype=np.int64)
            a[0, 0] = (af.bias + 12) << af.mantissa_bits
            w[0, 0] = (wf.bias + 12) << wf.mantissa_bits
            a[0, k::k] = a_one if start & 1 else a_minus
            w[0, k::k] = w_one
            a[0, 2 * k] = a_one if start & 2 else a_minus
            works.append(_work(spec, a, w))
    works += _dequantized_carries(spec)
    return tuple(works)


def _dequantized_carries(spec: FpCoreSpec) -> Iterator[GemmWork]:
    """For each factor that has one, a scale whose product rounds up to a power of two."""
    most = (1 << spec.max_weight_bits) - 1 if spec.zeros else 1 << spec.max_weight_bits - 1
    part = FP16.mantissa_bits + 1
    one = 1 << FP16.mantissa_bits
    for factor in range(3, most + 1 if spec.dequantizes else 0):
        products = factor * np.arange(one, 2 * one)
        above = 1 << np.ceil(np.log2(products)).astype(np.int64)
        found = np.flatnonzero((products < above) & (2 * products >= 2 * above - (above >> part)))
        if not len(found):
            continue
        code = FP16.bias << FP16.mantissa_bits | int(found[0])
        work = _work(
            spec,
            np.full((1, spec.tile.k), spec.product.a.bias << spec.product.a.mantissa_bits),
            np.full((1, spec.tile.k), code),
        )
        work.w[:] = factor if spec.zeros else -factor
        yield work


def _rows(codes: np.ndarray, k: int, lane: int) -> np.ndarray:
    """A row for each code, in one lane of ``k``, zeros beside it."""
    rows = np.zeros((len(codes), k), dtype=np.int64)
    rows[:, lane] = codes
    return rows


def _tiled(spec: FpCoreSpec, a: np.ndarray, w: np.ndarray) -> Iterator[GemmWork]:
    """Works that between them multiply every row of ``a`` with every row of ``w``."""
    m, n = spec.tile.m, spec.tile.n
    for i in range(0, len(a), m):
        for j in range(0, len(w), n):
            yield _work(spec, a[i : i + m], w[j : j + n])


def _work(spec: FpCoreSpec, a: np.ndarray, w: np.ndarray) -> GemmWork:
    """A work of floating-point codes; rows are repeated to fill the tile.

    Integer weights cannot be any code: they are 1 where the code is a number, and the scale is the
    code of the last weight of its group that is not 0.
    """
    tile = spec.tile
    a, w = np.resize(a, (tile.m, a.shape[1])), np.resize(w, (tile.n, w.shape[1]))
    job = Job(k_steps=a.shape[1] // tile.k, weight_bits=spec.max_weight_bits)
    if not spec.dequantizes:
        return GemmWork(job=job, a=a, w=w)
    q = (w != 0).astype(np.int64)
    if spec.weight_encoding == "twos_complement" and spec.max_weight_bits == 1:
        q = -q
    groups = -(-w.shape[1] // spec.group)
    scale = np.zeros((tile.n, groups), dtype=np.int64)
    places = np.arange(w.shape[1]) // spec.group
    for lane in range(w.shape[1]):
        used = w[:, lane] != 0
        scale[used, places[lane]] = w[used, lane]
    extra = {"w_scale": scale}
    if spec.zeros:
        extra["w_zero"] = np.zeros_like(scale)
    return GemmWork(job=job, a=a, w=q, extra=extra)


def _codes(
    rng: np.random.Generator, form: FloatFormat, shape: tuple[int, ...], rare: float = 0.02
) -> np.ndarray:
    """Codes of one of the kinds below; in one case of four some are NaN or infinite."""
    kinds: tuple[Callable[[], np.ndarray], ...] = (
        lambda: form.random_codes(rng, shape, finite=True),
        lambda: _near(rng, form, shape, int(rng.integers(1, 6))),
        lambda: _near(rng, form, shape, 1 << form.exponent_bits),
        lambda: _with_sign(rng, form, rng.integers(0, 1 << form.mantissa_bits, size=shape)),
        lambda: np.where(rng.random(shape) < 0.85, 0, _near(rng, form, shape, 8)),
    )
    codes = kinds[int(rng.integers(len(kinds)))]().astype(np.int64)
    if rng.integers(4) == 0:
        special = form.corners()
        special = special[form.is_nan(special) | form.is_inf(special)]
        codes = np.where(rng.random(shape) < rare, rng.choice(special, size=shape), codes)
        if rng.integers(2):
            codes = np.where(form.is_nan(codes), 0, codes)
    return codes


def _near(
    rng: np.random.Generator, form: FloatFormat, shape: tuple[int, ...], spread: int
) -> np.ndarray:
    """Finite codes whose exponents lie within ``spread`` of one another."""
    top = form.max_code >> form.mantissa_bits
    first = int(rng.integers(0, top + 1))
    exponent = np.minimum(first + rng.integers(0, spread, size=shape), top)
    mantissa = rng.integers(0, 1 << form.mantissa_bits, size=shape)
    ends = rng.random(shape)
    mantissa = np.where(ends < 0.15, 0, mantissa)
    mantissa = np.where(ends > 0.85, (1 << form.mantissa_bits) - 1, mantissa)
    code = np.minimum((exponent << form.mantissa_bits) + mantissa, form.max_code)
    return _with_sign(rng, form, code)


def _with_sign(rng: np.random.Generator, form: FloatFormat, code: np.ndarray) -> np.ndarray:
    kind = rng.integers(4)
    sign = rng.integers(0, 2, size=code.shape) if kind else np.zeros_like(code)
    return code | (sign << (form.width - 1))


def _cancelling(
    a_form: FloatFormat, w_form: FloatFormat, a: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Operands whose second half is the first with the sign of W turned: sums that cancel."""
    half = a.shape[1] // 2
    a, w = a.copy(), w.copy()
    a[:, half : 2 * half] = a[:, :half]
    w[:, half : 2 * half] = w[:, :half] ^ (1 << (w_form.width - 1))
    return a, w


def explain(
    spec: FpCoreSpec, work: GemmWork, stream: str, field: str, index: tuple[int, ...]
) -> str:
    """The inputs of one result."""
    _, m, n = index[:3]
    codes = weight_codes(spec, work)
    parts = [
        f"job {work.job}",
        f"a[{m},:]={[hex(code) for code in work.a[m].tolist()]}",
        f"w[{n},:]={[hex(code) for code in codes[n].tolist()]}",
        f"= {(spec.product.a.decode(work.a[m])).tolist()} · "
        f"{(spec.product.w.decode(codes[n])).tolist()}",
    ]
    if spec.dequantizes:
        parts.append(f"q[{n},:]={work.w[n].tolist()}")
    parts += [f"{name}[{n}]={array[n].tolist()}" for name, array in work.extra.items()]
    return " ".join(parts)


# Coverage ------------------------------------------------------------


def coverage(spec: FpCoreSpec, work: GemmWork) -> Iterator[str]:
    """Coverage points that one work hits; see :func:`coverage_points`."""
    found = set(_coverage(spec, work))
    return (point for point in coverage_points(spec) if point in found)


def _coverage(spec: FpCoreSpec, work: GemmWork) -> Iterator[str]:
    yield "k_steps=1" if work.job.k_steps == 1 else "k_steps>1"
    w = weight_codes(spec, work)
    for name, form, codes in (("a", spec.product.a, work.a), ("w", spec.product.w, w)):
        magnitude = codes & ((1 << (form.width - 1)) - 1)
        if form.is_nan(codes).any():
            yield f"{name}=nan"
        if form.is_inf(codes).any():
            yield f"{name}=infinity"
        if ((magnitude > 0) & (magnitude < 1 << form.mantissa_bits)).any():
            yield f"{name}=subnormal"
        if (codes == 1 << (form.width - 1)).any():
            yield f"{name}=-0"
        if (magnitude == form.max_code).any():
            yield f"{name}=largest"
    for step in step_sums(spec, work):
        if step.cut.any():
            yield "step=cut"
        if (~step.cut & ~step.nan & ~step.pinf & ~step.ninf & (step.d != 0)).any():
            yield "step=exact"
        if (~step.nan & ~step.pinf & ~step.ninf & (step.d == 0)).any():
            yield "step=0"
        if step.nan.any():
            yield "step=nan"
        if step.pinf.any():
            yield "step=+infinity"
        if step.ninf.any():
            yield "step=-infinity"
        if (step.d > 0).any():
            yield "step>0"
        if (step.d < 0).any():
            yield "step<0"
    if spec.dequantizes:
        yield from _dequantized_coverage(spec, work, w)


def _dequantized_coverage(spec: FpCoreSpec, work: GemmWork, w: np.ndarray) -> Iterator[str]:
    places = np.arange(work.w.shape[1]) // spec.group
    q = work.w - work.extra["w_zero"][:, places] if spec.zeros else work.w
    scale = FP16.decode(work.extra["w_scale"])[:, places]
    with np.errstate(invalid="ignore"):
        exact = q * scale
    if (q == 0).any():
        yield "q=0"
    finite = np.isfinite(exact)
    if (FP16.is_inf(w) & finite).any():
        yield "dequantized=overflow"
    if (FP16.decode(w)[finite] != exact[finite]).any():
        yield "dequantized=rounded"


def coverage_points(spec: FpCoreSpec) -> tuple[str, ...]:
    """Every coverage point."""
    points = ["k_steps=1"] + (["k_steps>1"] if spec.max_k_steps > 1 else [])
    for name, form in (("a", spec.product.a), ("w", spec.product.w)):
        points += [f"{name}=nan", f"{name}=subnormal", f"{name}=-0", f"{name}=largest"]
        points += [f"{name}=infinity"] if form.specials == "ieee" else []
    points += ["step=0", "step=exact", "step=nan", "step>0", "step<0"]
    if spec.window != "exact" and (spec.tile.k > 1 or spec.window < spec.product.bits):
        points.append("step=cut")
    if spec.sums.terms.inf:
        points += ["step=+infinity", "step=-infinity"]
    if spec.dequantizes:
        points += ["q=0"]
        magnitude = (1 << spec.max_weight_bits) - 1 if spec.zeros else 1 << spec.max_weight_bits - 1
        points += ["dequantized=rounded", "dequantized=overflow"] if magnitude > 2 else []
    return tuple(points)


def values(spec: FpCoreSpec, fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """Results by field as numbers, ``float64``."""
    return spec.sums.values(fields)
