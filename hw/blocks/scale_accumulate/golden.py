"""Reference of scale-and-accumulate: exact integers, and one IEEE operation after the other.

For output ``(m, n)`` and groups ``g`` in their order, ``fl`` rounding to FP32, to nearest, ties to
even::

    q[g]   = p[g, m, n] - z[g, n] * r[g, m]            exact integer
    x[g]   = fl(q[g] * 2^e[g, m] * w_scale[g, n] * a_scale[g, m])
                                                       one rounding of the exact product; a_scale
                                                       only where activations have one a group, an
                                                       exponent where partial sums have one
    sum    = fl(sum + x[g])                            from +0
    result = fl(sum * a_scale[m])                      with an activation scale a job
    result = fl(result * tensor_scale)                 with a tensor scale
    result = fl(result + bias[n])                      with a bias

Infinities, signed zeros and subnormal numbers are those of IEEE 754; the integer 0 is +0, and an
invalid row's partial sums are NaN. Every NaN
that comes out is the positive quiet one, 0x7FC00000.

Why ``float64`` does where it is used: a product of two FP32 numbers has 48 bits, of 53. The sum of
two FP32 numbers is rounded to ``float64`` first, which changes nothing: 53 bits are at least twice
24 and two more (S. A. Figueroa, "When is double rounding innocuous?", 1995), and a sum too small
for a leading one is exact. Products of three are in ``hw.exact``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hw.blocks.scale_accumulate.spec import ScaleAccumulateSpec
from hw.exact import Exact, numbers
from hw.formats import FP32, FloatFormat
from hw.integers import random_operand
from hw.lazy import np
from hw.streams import Stream, StreamField

QUIET = 0x7FC00000
"""The NaN that every operation makes."""

GROUPS = {"minimum": (1, 1), "small": (1, 4), "large": (6, 16)}


@dataclass(frozen=True, kw_only=True)
class ScaleWork:
    """One job of ``G`` groups; scales and bias are codes of their formats.

    Attributes:
        p: partial sums ``(G, M, N)``.
        w_scale: ``(G, N)``.
        exponent: powers of two ``(G, M)``, and ``invalid`` marks ``(G, M)``, or None.
        z: zero points ``(G, N)``, and ``r`` row sums of the activations ``(G, M)``, or None.
        a_scale: ``(G, M)`` per group, ``(1, M)`` per job, or None.
        tensor_scale: one code, or None.
        bias: ``(N,)``, or None.
    """

    p: np.ndarray
    w_scale: np.ndarray
    exponent: np.ndarray | None = None
    invalid: np.ndarray | None = None
    z: np.ndarray | None = None
    r: np.ndarray | None = None
    a_scale: np.ndarray | None = None
    tensor_scale: int | None = None
    bias: np.ndarray | None = None

    @property
    def groups(self) -> int:
        return len(self.p)


def streams(spec: ScaleAccumulateSpec) -> tuple[Stream, ...]:
    """``i_job``, ``i_p``, ``i_s``, what the specification asks for of ``i_r``, ``i_a`` and
    ``i_b``, and ``o``."""
    m, n = spec.tile.m, spec.tile.n
    job = [
        StreamField(
            name="groups_m1",
            width=max(1, (spec.max_groups - 1).bit_length()),
            doc="groups of the job, less one",
        )
    ]
    if spec.tensor_scale:
        job.append(StreamField(name="tensor_scale", width=32, doc="FP32"))
    scales = [
        StreamField(
            name="w_scale",
            width=spec.weight_format.width,
            shape=(n,),
            doc=f"scale of every column, {spec.weight_scale}",
        )
    ]
    partial = [
        StreamField(
            name="p",
            width=spec.partial_bits,
            signed=True,
            shape=(m, n),
            doc="partial sums of one group",
        )
    ]
    if spec.partial_exponent_bits:
        partial += [
            StreamField(
                name="exponent",
                width=spec.partial_exponent_bits,
                signed=True,
                shape=(m,),
                doc="power of two of the row's partial sums",
            ),
            StreamField(name="invalid", width=1, shape=(m,), doc="1: the row's are NaN"),
        ]
    if spec.zero_point_bits:
        scales.append(
            StreamField(name="z", width=spec.zero_point_bits, shape=(n,), doc="zero points")
        )
    found = [
        _input("i_job", job, "job descriptors"),
        _input("i_p", partial, "partial sums, one beat a group: what a GEMM core puts out"),
        _input("i_s", scales, "scales of the weights, one beat a group"),
    ]
    if spec.zero_point_bits:
        sums = StreamField(
            name="r", width=spec.row_sum_bits, signed=True, shape=(m,), doc="sum of A over K"
        )
        found.append(_input("i_r", [sums], "row sums of the activations, one beat a group"))
    if spec.activation_format is not None:
        scale = StreamField(
            name="a_scale",
            width=spec.activation_format.width,
            shape=(m,),
            doc=f"scale of every row, {spec.activation_scale.format}",
        )
        each = spec.activation_scale.per
        found.append(_input("i_a", [scale], f"scales of the activations, one beat a {each}"))
    if spec.bias_format is not None:
        bias = StreamField(
            name="bias", width=spec.bias_format.width, shape=(n,), doc=f"{spec.bias}, a column"
        )
        found.append(_input("i_b", [bias], "bias, one beat a job"))
    out = StreamField(name="o", width=32, shape=(m, n), doc="FP32")
    found.append(Stream(name="o", direction="out", fields=(out,), doc="results, one beat a job"))
    return tuple(found)


def _input(name: str, fields: list[StreamField], doc: str) -> Stream:
    return Stream(name=name, direction="in", fields=tuple(fields), doc=doc)


def fl(exact: np.ndarray) -> np.ndarray:
    """``float64`` values rounded to FP32, as ``float64``."""
    return FP32.decode(FP32.encode(exact))


def _given(name: str, operand: np.ndarray | None) -> np.ndarray:
    """An operand that the specification asks for. ``ValueError``: the job has none."""
    if operand is None:
        raise ValueError(f"{name}: is required")
    return operand


def _values(name: str, form: FloatFormat | None, codes: np.ndarray | None) -> np.ndarray | None:
    """Values of codes; None where the specification has no such format."""
    return None if form is None else form.decode(_given(name, codes))


def sums(spec: ScaleAccumulateSpec, work: ScaleWork) -> np.ndarray:
    """``(G, M, N)`` ``float64``: the FP32 sum behind every group."""
    scale = numbers(spec.weight_format, work.w_scale[:, None, :])
    if spec.scales_groups:
        scale = scale * numbers(spec.activation_format, _given("a_scale", work.a_scale)[:, :, None])
    x = fl((_partial(spec, work) * scale).as_float64())
    total = np.zeros(x.shape[1:])
    found = []
    with np.errstate(invalid="ignore"):
        for each in x:
            total = fl(total + each)
            found.append(total)
    return np.stack(found)


def _partial(spec: ScaleAccumulateSpec, work: ScaleWork) -> Exact:
    """Corrected partial sums, ``(G, M, N)``."""
    q = numbers(None, corrected(work))
    if not spec.partial_exponent_bits:
        return q
    exponent = _given("exponent", work.exponent).astype(np.int64)
    invalid = _given("invalid", work.invalid).astype(bool)
    return replace(
        q,
        power=q.power + exponent[:, :, None],
        nan=np.broadcast_to(invalid[:, :, None], q.nan.shape),
    )


def corrected(work: ScaleWork) -> np.ndarray:
    """``q``, ``(G, M, N)`` ``int64``."""
    q = work.p.astype(np.int64)
    if work.z is not None:
        r = _given("r", work.r).astype(np.int64)
        q = q - work.z.astype(np.int64)[:, None, :] * r[:, :, None]
    return q


def results(spec: ScaleAccumulateSpec, work: ScaleWork) -> np.ndarray:
    """``(M, N)`` FP32 codes, ``int64``."""
    value = sums(spec, work)[-1]
    a_scale = _values("a_scale", spec.activation_format, work.a_scale)
    bias = _values("bias", spec.bias_format, work.bias)
    with np.errstate(invalid="ignore"):
        if a_scale is not None and spec.scales_jobs:
            value = fl(value * a_scale[0][:, None])
        if spec.tensor_scale:
            value = fl(value * FP32.decode(_tensor(work)))
        if bias is not None:
            value = fl(value + bias[None, :])
    codes = FP32.encode(value).astype(np.int64)
    return np.where(np.isnan(value), QUIET, codes)


def _tensor(work: ScaleWork) -> np.ndarray:
    if work.tensor_scale is None:
        raise ValueError("tensor_scale: is required")
    return np.array([work.tensor_scale])


def beats(spec: ScaleAccumulateSpec, work: ScaleWork) -> dict[str, dict[str, np.ndarray]]:
    """Input beats."""
    job = {"groups_m1": np.array([work.groups - 1])}
    if spec.tensor_scale:
        job["tensor_scale"] = _tensor(work)
    found: dict[str, dict[str, np.ndarray]] = {
        "i_job": job,
        "i_p": {"p": work.p},
        "i_s": {"w_scale": work.w_scale},
    }
    if spec.partial_exponent_bits:
        found["i_p"]["exponent"] = _given("exponent", work.exponent)
        found["i_p"]["invalid"] = _given("invalid", work.invalid)
    if spec.zero_point_bits:
        found["i_s"]["z"] = _given("z", work.z)
        found["i_r"] = {"r": _given("r", work.r)}
    if spec.activation_format is not None:
        found["i_a"] = {"a_scale": _given("a_scale", work.a_scale)}
    if spec.bias_format is not None:
        found["i_b"] = {"bias": _given("bias", work.bias)[None, :]}
    return found


def expected(spec: ScaleAccumulateSpec, work: ScaleWork) -> dict[str, dict[str, np.ndarray]]:
    """Output beats: one."""
    return {"o": {"o": results(spec, work)[None]}}


def explain(
    spec: ScaleAccumulateSpec, work: ScaleWork, stream: str, field: str, index: tuple[int, ...]
) -> str:
    """The inputs of one output."""
    _, m, n = index
    parts = [f"p[:,{m},{n}]={work.p[:, m, n].tolist()}", f"w_scale={_hex(work.w_scale[:, n])}"]
    if work.exponent is not None:
        invalid = _given("invalid", work.invalid)
        parts.append(f"exponent={work.exponent[:, m].tolist()} invalid={invalid[:, m].tolist()}")
    if work.z is not None:
        r = _given("r", work.r)
        parts.append(f"z={work.z[:, n].tolist()} r={r[:, m].tolist()}")
    if work.a_scale is not None:
        parts.append(f"a_scale={_hex(work.a_scale[:, m])}")
    if work.tensor_scale is not None:
        parts.append(f"tensor_scale={work.tensor_scale:#x}")
    if work.bias is not None:
        parts.append(f"bias={_hex(work.bias[n : n + 1])}")
    running = FP32.encode(sums(spec, work)[:, m, n])
    return " ".join([*parts, f"sums={_hex(running)}"])


def _hex(codes: np.ndarray) -> str:
    return "[" + ", ".join(f"{int(code):#x}" for code in codes) + "]"


# Stimulus ------------------------------------------------------------

KINDS = ("plain", "wide", "special", "cancel", "tiny", "huge")
"""Plain: scales as models have them, near one another. Wide: any finite code. Special: NaN and
infinities too. Cancel: every other group undoes the one before. Tiny, huge: where the format ends.
"""


def random_work(
    spec: ScaleAccumulateSpec, rng: np.random.Generator, *, size: str = "small"
) -> ScaleWork:
    """Corner-heavy random job of one of :data:`KINDS`."""
    if size not in GROUPS:
        raise ValueError(f"size: must be minimum, small or large, got {size!r}")
    low, high = (min(bound, spec.max_groups) for bound in GROUPS[size])
    groups = int(rng.integers(low, high + 1))
    return job_of(spec, rng, groups, str(rng.choice(KINDS)))


def job_of(
    spec: ScaleAccumulateSpec, rng: np.random.Generator, groups: int, kind: str
) -> ScaleWork:
    """A random job of a kind."""
    m, n = spec.tile.m, spec.tile.n
    half = 1 << (spec.partial_bits - 1)
    p = random_operand(rng, -half, half - 1, (groups, m, n))
    if kind in ("tiny", "cancel"):
        # Short numbers: of a product's bits few are lost.
        p >>= rng.integers(0, spec.partial_bits, size=(groups, m, n))
    w_scale = _scales(rng, spec.weight_format, (groups, n), kind)
    exponent = invalid = z = r = a_scale = tensor = bias = None
    if spec.partial_exponent_bits:
        exponent, invalid = _powers(spec, rng, (groups, m), kind)
    if spec.zero_point_bits:
        z = random_operand(rng, 0, (1 << spec.zero_point_bits) - 1, (groups, n))
        bound = 1 << (spec.row_sum_bits - 1)
        r = random_operand(rng, -bound, bound - 1, (groups, m))
        if rng.integers(2):
            # What is left is small, or nothing.
            share = z[:, None, :] * r[:, :, None]
            p = np.clip(share + rng.integers(-2, 3, size=p.shape), -half, half - 1)
    if spec.activation_format is not None:
        count = groups if spec.scales_groups else 1
        a_scale = _scales(rng, spec.activation_format, (count, m), kind)
    if spec.tensor_scale:
        tensor = int(_scales(rng, FP32, (1,), kind)[0])
    if spec.bias_format is not None:
        bias = _scales(rng, spec.bias_format, (n,), kind)
    if kind == "cancel":
        for g in range(1, groups, 2):
            # A group that takes the last one back, but for a bit here and there.
            p[g] = np.clip(-p[g - 1] + (rng.random((m, n)) < 0.2), -half, half - 1)
            w_scale[g] = w_scale[g - 1]
            for each in (exponent, invalid, z, r, a_scale if spec.scales_groups else None):
                if each is not None:
                    each[g] = each[g - 1]
            if z is not None and r is not None:
                p[g] = np.clip(2 * z[g][None, :] * r[g][:, None] - p[g - 1], -half, half - 1)
    return ScaleWork(
        p=p,
        w_scale=w_scale,
        exponent=exponent,
        invalid=invalid,
        z=z,
        r=r,
        a_scale=a_scale,
        tensor_scale=tensor,
        bias=bias,
    )


def _powers(
    spec: ScaleAccumulateSpec, rng: np.random.Generator, shape: tuple[int, ...], kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Exponents of partial sums, and marks of invalid rows."""
    half = 1 << (spec.partial_exponent_bits - 1)
    low, high = {"tiny": (-half, -half // 2), "huge": (half // 2, half - 1)}.get(
        kind, (max(-half, -20), min(half - 1, 4))
    )
    exponent = rng.integers(low, high + 1, size=shape)
    if kind in ("wide", "special"):
        exponent = random_operand(rng, -half, half - 1, shape)
    return exponent, (rng.random(shape) < (0.25 if kind == "special" else 0.0)).astype(np.int64)


def _scales(
    rng: np.random.Generator, form: FloatFormat, shape: tuple[int, ...], kind: str
) -> np.ndarray:
    """Codes of a scale or bias."""
    bits = form.mantissa_bits
    fraction = rng.integers(0, 1 << bits, size=shape)
    top = form.max_code >> bits
    if kind == "special":
        codes = form.random_codes(rng, shape).astype(np.int64)
    elif kind == "wide":
        codes = form.random_codes(rng, shape, finite=True).astype(np.int64)
    elif kind == "tiny":
        codes = (rng.integers(0, 4, size=shape) << bits) | fraction
    elif kind == "huge":
        codes = ((top - rng.integers(0, 4, size=shape)) << bits) | fraction
    else:
        middle = rng.integers(max(form.bias - 6, 1), form.bias + 1, size=shape)
        codes = (middle << bits) | fraction
    magnitude = codes & ((1 << (form.exponent_bits + bits)) - 1)
    if kind != "special":
        magnitude = np.minimum(magnitude, form.max_code)
        sign = rng.integers(0, 2, size=shape) if kind == "wide" else 0
        return magnitude | (sign << (form.width - 1) if form.signed else 0)
    return codes


def corner_works(spec: ScaleAccumulateSpec, rng: np.random.Generator) -> tuple[ScaleWork, ...]:
    """Some jobs of every kind, with one group, with two, and with many."""
    return tuple(
        job_of(spec, rng, min(groups, spec.max_groups), kind)
        for kind in KINDS
        for groups in (1, 2, 2, 9)
    )


def coverage(spec: ScaleAccumulateSpec, work: ScaleWork) -> Iterator[str]:
    """Coverage points of one job."""
    yield f"groups={'one' if work.groups == 1 else 'many'}"
    codes = results(spec, work)
    if FP32.is_nan(codes).any():
        yield "result=nan"
    if FP32.is_inf(codes).any():
        yield "result=infinity"
    magnitude = codes & 0x7FFFFFFF
    if (magnitude == 0).any():
        yield "result=zero"
    if ((magnitude > 0) & (magnitude < 1 << 23)).any():
        yield "result=subnormal"
    if work.groups > 1:
        running = sums(spec, work)
        before, after = np.abs(running[:-1]), np.abs(running[1:])
        with np.errstate(invalid="ignore"):
            if (after < before / 16).any():
                yield "sum=cancels"
    if (corrected(work) == 0).any():
        yield "q=zero"


def coverage_points(spec: ScaleAccumulateSpec) -> tuple[str, ...]:
    """Every coverage point."""
    points = ["groups=one", "result=zero", "q=zero"]
    if _reaches(spec, "huge"):
        points.append("result=infinity")
    if spec.weight_format.nan_code is not None or spec.partial_exponent_bits:
        points.append("result=nan")
    if _reaches(spec, "tiny"):
        points.append("result=subnormal")
    if spec.max_groups > 1:
        points += ["groups=many", "sum=cancels"]
    return tuple(points)


def _reaches(spec: ScaleAccumulateSpec, end: str) -> bool:
    """Whether finite scales can bring a product beyond an end of FP32."""
    forms = [spec.weight_format, spec.activation_format, FP32 if spec.tensor_scale else None]
    given = [form for form in forms if form is not None]
    half = 1 << (spec.partial_exponent_bits - 1) if spec.partial_exponent_bits else 0
    if end == "tiny":
        smallest = sum(form.min_exponent - form.mantissa_bits for form in given) - half
        return smallest < FP32.min_exponent - 1
    infinite = any(form.inf_code is not None for form in given)
    largest = sum(form.max_exponent for form in given) + spec.partial_bits - 2 + max(half - 1, 0)
    return infinite or largest > FP32.max_exponent
