"""Reference of the quantizer: ``BlockFormat.quantize`` of :mod:`hw.formats` on every group.

All of it follows from that one definition, which decides exactly: scale and element are each the
correctly rounded quotient (ties to even) of what goes in, an integer is clipped after rounding, a
group of zeros has the smallest scale, one with a NaN or an infinity the scale NaN and codes 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hw.blocks.quantize.spec import JOB_GROUPS_BITS, QuantizeSpec
from hw.formats import FP32, IntegerFormat, Quantized
from hw.lazy import np
from hw.streams import Stream, StreamField

LENGTHS = {"minimum": (1, 1), "small": (1, 6), "large": (24, 48)}


@dataclass(frozen=True, kw_only=True)
class QuantizeWork:
    """Groups of one length, one job where there are jobs.

    Attributes:
        x: codes of the input format, ``(groups, elements)``.
        tensor_scale: an FP32 code above 0 and finite; nv only.
    """

    x: np.ndarray
    tensor_scale: int | None = None


def element_stream(spec: QuantizeSpec) -> Stream:
    """``i``: elements as they come."""
    fields = (StreamField(name="x", width=spec.source.width, shape=(spec.lanes,), doc="elements"),)
    return Stream(name="i", direction="in", fields=fields, doc="groups one after another")


def code_stream(spec: QuantizeSpec) -> Stream:
    """``o``: codes; every beat carries the scale of its group."""
    element, scale = spec.format.element, spec.format.scale
    signed = isinstance(element, IntegerFormat)
    return Stream(
        name="o",
        direction="out",
        doc="codes of the elements in their order",
        fields=(
            StreamField(
                name="q", width=element.width, signed=signed, shape=(spec.lanes,), doc="codes"
            ),
            StreamField(name="scale", width=scale.width, doc=f"{scale.name} scale of the group"),
            StreamField(name="last", width=1, doc="last beat of its group"),
        ),
    )


def job_stream(spec: QuantizeSpec) -> Stream:
    """``i_job``: how many groups follow and what they have in common."""
    fields = [StreamField(name="groups_m1", width=JOB_GROUPS_BITS, doc="groups less one")]
    if spec.length == "job":
        width = max(1, (spec.beats - 1).bit_length())
        fields.append(StreamField(name="beats_m1", width=width, doc="beats of a group less one"))
    if spec.kind == "nv":
        doc = "tensor scale in FP32, above 0 and finite"
        fields.append(StreamField(name="tensor_scale", width=32, doc=doc))
    return Stream(name="i_job", direction="in", fields=tuple(fields), doc="what follows on i")


def streams(spec: QuantizeSpec) -> tuple[Stream, ...]:
    """``i_job`` (lengths by job, or nv), ``i``, ``o``."""
    jobs = (job_stream(spec),) if spec.has_job else ()
    return (*jobs, element_stream(spec), code_stream(spec))


def check_work(spec: QuantizeSpec, work: QuantizeWork) -> None:
    """``ValueError`` if a work is none for this specification."""
    if work.x.ndim != 2 or not 1 <= work.x.shape[0] <= 1 << JOB_GROUPS_BITS:
        raise ValueError(f"x: must be (1 to 65536 groups, elements), got {work.x.shape}")
    length = work.x.shape[1]
    if spec.length == "fixed" and length != spec.group:
        raise ValueError(f"x: groups must have {spec.group} elements, got {length}")
    if length % spec.lanes or not 0 < length <= spec.group:
        raise ValueError(
            f"x: groups must have a multiple of {spec.lanes} up to {spec.group} elements, "
            f"got {length}"
        )
    if (work.tensor_scale is not None) != (spec.kind == "nv"):
        raise ValueError(f"tensor_scale: for nv and for nothing else, got {work.tensor_scale}")


def quantized(spec: QuantizeSpec, work: QuantizeWork) -> Quantized:
    """Codes ``(groups, elements)`` and scales ``(groups, 1)``."""
    check_work(spec, work)
    form = replace(spec.format, block=work.x.shape[1])
    return form.quantize(spec.source.decode(work.x), tensor_scale=work.tensor_scale)


def beats(spec: QuantizeSpec, work: QuantizeWork) -> dict[str, dict[str, np.ndarray]]:
    """Input beats."""
    check_work(spec, work)
    values = {"i": {"x": work.x.astype(np.int64).reshape(-1, spec.lanes)}}
    if spec.has_job:
        job = {"groups_m1": len(work.x) - 1}
        if spec.length == "job":
            job["beats_m1"] = work.x.shape[1] // spec.lanes - 1
        if work.tensor_scale is not None:
            job["tensor_scale"] = int(work.tensor_scale)
        values["i_job"] = {name: np.array([value]) for name, value in job.items()}
    return values


def expected(spec: QuantizeSpec, work: QuantizeWork) -> dict[str, dict[str, np.ndarray]]:
    """Output beats."""
    found = quantized(spec, work)
    per_group = work.x.shape[1] // spec.lanes
    beat = np.arange(len(work.x) * per_group)
    return {
        "o": {
            "q": found.elements.astype(np.int64).reshape(-1, spec.lanes),
            "scale": found.scales.astype(np.int64).reshape(-1).repeat(per_group),
            "last": (beat % per_group == per_group - 1).astype(np.int64),
        }
    }


def _tensor_scale(spec: QuantizeSpec, rng: np.random.Generator, absmax: float) -> int | None:
    """One that suits a tensor, or is off by some, or any."""
    if spec.kind != "nv":
        return None
    kind = rng.integers(0, 6)
    if kind == 0:
        codes = (0x0000_0001, 0x007F_FFFF, 0x0080_0000, 0x7F7F_FFFF, 0x3F80_0000, 0x3FFF_FFFF)
        return int(rng.choice(codes))
    if kind == 1:
        return int(rng.integers(1, 0x7F80_0000))
    form = spec.format
    factor = absmax / (form.scale.max * form.element.max) * 2.0 ** int(rng.integers(-3, 12))
    factor = min(max(factor, FP32.min_normal), FP32.max) if factor else 1.0
    code = int(FP32.encode(factor, overflow="saturate"))
    # Ties need a step of few bits.
    return code & 0x7F80_0000 if kind == 2 and factor >= FP32.min_normal else code


def _groups(spec: QuantizeSpec, rng: np.random.Generator, groups: int, length: int) -> np.ndarray:
    """Codes of every kind of group: smooth, with an outlier, tiny, on ties, special."""
    form = spec.source
    shape = (groups, length)
    low, high = form.min_exponent - form.mantissa_bits, form.max_exponent
    centre = rng.integers(low, high + 1, size=(groups, 1))
    near = rng.integers(-4, 5, size=(groups, 1)) if rng.random() < 0.5 else centre
    values = np.ldexp(rng.standard_normal(shape), np.minimum(near, high - 3))
    codes = form.encode(values, overflow="saturate").astype(np.int64)
    kind = rng.integers(0, 9, size=(groups, 1))
    # Few significant bits: quotients that are ties.
    coarse = rng.integers(0, 3, size=(groups, 1))
    rough = np.where(
        coarse == 0,
        form.encode(np.ldexp(rng.integers(-127, 128, size=shape) / 2.0, np.minimum(near, 3))),
        codes & ~((1 << (form.mantissa_bits - 1)) - 1),
    )
    codes = np.where(kind == 0, rough, codes)
    codes = np.where(kind == 1, form.random_codes(rng, shape, finite=True), codes)
    codes = np.where(kind == 2, rng.integers(0, 1 << form.width, size=shape), codes)
    any_finite = np.where(form.is_nan(codes) | form.is_inf(codes), 1, codes)
    codes = np.where(kind == 2, any_finite, codes)
    # Subnormal numbers and the first normal ones.
    signs = rng.integers(0, 2, size=shape) << (form.width - 1)
    tiny = rng.integers(0, 4 << form.mantissa_bits, size=shape) | signs
    codes = np.where(kind == 3, tiny, codes)
    few = np.where(rng.random(shape) < 0.9, signs, codes)
    codes = np.where(kind == 4, few, codes)
    # Largest magnitudes around a power of two and around the largest element's significand.
    base = rng.integers(1, (1 << form.exponent_bits) - 1, size=(groups, 1)) << form.mantissa_bits
    edges = base + rng.integers(-3, 4, size=shape)
    top = round((np.frexp(spec.format.element.max)[0] * 2 - 1) * (1 << form.mantissa_bits))
    edges = np.where(rng.random((groups, 1)) < 0.5, edges, edges + top)
    codes = np.where(kind == 5, np.clip(edges, 0, form.max_code) | signs, codes)
    special = rng.random(shape) < 1 / length
    infinity, nan = form.inf_code, form.nan_code
    if infinity is not None and nan is not None:
        picked = rng.choice([infinity, nan, infinity + 1, (1 << (form.width - 1)) - 1], size=shape)
        codes = np.where((kind == 6) & special, picked | signs, codes)
    return codes


def random_work(
    spec: QuantizeSpec, rng: np.random.Generator, *, size: str = "small"
) -> QuantizeWork:
    """Corner-heavy random groups."""
    if size not in LENGTHS:
        raise ValueError(f"size: must be minimum, small or large, got {size!r}")
    low, high = LENGTHS[size]
    groups = int(rng.integers(low, high + 1))
    length = spec.group
    if spec.length == "job":
        most = 1 if size == "minimum" else spec.beats
        length = spec.lanes * int(rng.integers(1, most + 1))
        if size == "small" and rng.random() < 0.3:
            # As many of the shortest groups as fill the buffer when nobody takes results.
            groups, length = spec.beats + int(rng.integers(4, 12)), spec.lanes
    return _work(spec, rng, _groups(spec, rng, groups, length))


def _work(spec: QuantizeSpec, rng: np.random.Generator, x: np.ndarray) -> QuantizeWork:
    values = np.abs(spec.source.decode(x))
    finite = values[np.isfinite(values)]
    absmax = float(finite.max(initial=0.0))
    return QuantizeWork(x=x, tensor_scale=_tensor_scale(spec, rng, absmax))


def corner_works(spec: QuantizeSpec, rng: np.random.Generator) -> tuple[QuantizeWork, ...]:
    """A ladder of magnitudes under every kind of largest one, zeros, specials."""
    form = spec.source
    works = []
    zero = np.zeros((3, spec.group), dtype=np.int64)
    zero[1] = 1 << (form.width - 1)
    works.append(_work(spec, rng, zero))
    corners = form.corners().astype(np.int64)
    every = np.resize(corners, (len(corners), spec.group)).copy()
    # Each corner once alone among zeros, and once as the first of many.
    alone = np.zeros((len(corners), spec.group), dtype=np.int64)
    alone[np.arange(len(corners)), rng.integers(0, spec.group, len(corners))] = corners
    works.append(_work(spec, rng, alone))
    every = np.where(form.is_nan(every) | form.is_inf(every), form.max_code, every)
    works.append(_work(spec, rng, every))
    for _ in range(4):
        works.append(_work(spec, rng, _groups(spec, rng, 40, spec.group)))
    return tuple(works)


def exhaustive_works(spec: QuantizeSpec) -> tuple[QuantizeWork, ...] | None:
    """Every code of 16 bits as the largest of its group, and under a few largest ones."""
    form = spec.source
    if form.width > 16 or spec.beats > 8 or spec.lanes > 64:
        return None
    rng = np.random.default_rng(0)
    half = 1 << (form.width - 1)
    codes = np.arange(half)
    alone = np.zeros((half, spec.group), dtype=np.int64)
    alone[codes, rng.integers(0, spec.group, half)] = codes | (half * (codes & 1))
    sets = [alone]
    # The least, the last subnormal, around one, any, the largest.
    one, leading = form.bias << form.mantissa_bits, 1 << form.mantissa_bits
    for largest in (1, leading - 1, one, int(rng.integers(leading, form.max_code)), form.max_code):
        below = np.arange(largest + 1)
        both = np.concatenate([below, below | half])
        groups = -(-len(both) // max(1, spec.group - 1))
        under = np.resize(both, (groups, max(1, spec.group - 1)))
        if spec.group > 1:
            under = np.insert(under, 0, largest, axis=1)
        sets.append(under)
    return tuple(_work(spec, rng, part) for whole in sets for part in _parts(whole))


def _parts(x: np.ndarray) -> Iterator[np.ndarray]:
    """Groups in works of as many as a job counts."""
    for start in range(0, len(x), 1 << JOB_GROUPS_BITS):
        yield x[start : start + (1 << JOB_GROUPS_BITS)]


def explain(
    spec: QuantizeSpec, work: QuantizeWork, stream: str, field: str, index: tuple[int, ...]
) -> str:
    """The group behind an element."""
    per_group = work.x.shape[1] // spec.lanes
    group, beat = divmod(index[0], per_group)
    values = spec.source.decode(work.x[group])
    finite = np.where(np.isfinite(values), np.abs(values), 0)
    text = f"group {group} absmax={finite.max().hex()}"
    if not np.isfinite(values).all():
        text += " with a NaN or an infinity"
    if work.tensor_scale is not None:
        text += f" tensor_scale=0x{work.tensor_scale:08x}"
    if field == "q":
        place = beat * spec.lanes + index[1]
        text += f" x=0x{int(work.x[group, place]):x} ({float(values[place]).hex()})"
    return text


def coverage(spec: QuantizeSpec, work: QuantizeWork) -> Iterator[str]:
    """Coverage points of one work."""
    values = spec.source.decode(work.x)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        yield "group=with a NaN or an infinity"
    if (values == 0).all(axis=1).any():
        yield "group=zeros"
    magnitude = np.abs(np.where(np.isfinite(values), values, 0.0)).max(axis=1)
    if ((magnitude < spec.source.min_normal) & (magnitude > 0)).any():
        yield "absmax=subnormal"
    found = quantized(spec, work)
    codes = found.elements[finite].astype(np.int64)
    element = spec.format.element
    top = codes & ((1 << (element.width - 1)) - 1)
    if isinstance(element, IntegerFormat):
        if (codes == element.max_code).any():
            yield "code=highest"
        if (codes == -element.max_code).any():
            yield "code=lowest"
    else:
        sign = codes >> (element.width - 1) & 1
        if ((top == element.max_code) & (sign == 0)).any():
            yield "code=highest"
        if ((top == element.max_code) & (sign == 1)).any():
            yield "code=lowest"
    step = spec.format.scale.decode(found.scales[finite]).astype(np.float64)
    if work.tensor_scale is not None:
        step = step * float(FP32.decode(work.tensor_scale))
    usable = step[:, 0] > 0
    ratio = (
        np.abs(values[finite][usable])
        / step[usable]
        * 2.0 ** (element.fraction_bits if isinstance(element, IntegerFormat) else 0)
    )
    if isinstance(element, IntegerFormat):
        inside = ratio < element.max_code
        if (inside & (ratio % 1 == 0.5)).any():
            yield "rounding=tie"
        if (np.rint(ratio) > element.max_code).any():
            yield "rounding=clipped"


def coverage_points(spec: QuantizeSpec) -> tuple[str, ...]:
    """Every coverage point."""
    points = [
        "group=with a NaN or an infinity",
        "group=zeros",
        "absmax=subnormal",
        "code=highest",
        "code=lowest",
    ]
    if isinstance(spec.format.element, IntegerFormat):
        points.append("rounding=tie")
    return tuple(points)
