"""Reference of the LUT tensor core.

With exact entries the result is the plain integer product. With INT8 entries it is defined by the
quantized entries ``T``, in units of ``2^entry_shift`` (``S`` is the sum of the all-ones entries):

- 0/1 planes (full tables): ``Σ_b ±2^b·Σ_g T_g[…]``, where planes with a zero-point bit (of two's
  complement the sign plane) count negative and are indexed by the complement (of two's complement
  the sign bits); bipolar ``2·Σ_b 2^b·Σ_g T_g[u_b] − (2^B − 1)·S``;
- ±1 planes (symmetric tables): ``X = Σ_b 2^b·Σ_g ±T_g[…]``; bipolar ``X``, else
  ``floor((X + (2^B − 1 − 2z)·S) / 2)``; two's complement has ``z = 2^(B−1)``.

Of floating activations see :mod:`hw.blocks.lut_core.floating`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hw import gemm, integers
from hw.blocks.lut_core import floating, tables
from hw.blocks.lut_core.spec import LutCoreSpec
from hw.gemm import GemmWork
from hw.lazy import np
from hw.streams import Stream, StreamField


def streams(spec: LutCoreSpec) -> tuple[Stream, ...]:
    """Ports: ``i_job``, ``i_a`` (or ``i_t`` with tables from outside), ``i_w``, ``i_c``, ``o``."""
    return gemm.shared_streams(spec, operand_stream(spec), weight_stream(spec))


def activation_stream(spec: LutCoreSpec) -> Stream:
    """``i_a``: one step of activations, and the shift that makes their table entries INT8."""
    fields = [
        StreamField(
            name="a",
            width=spec.activation_width,
            signed=spec.activations.signed and not spec.activations.floating,
            shape=(spec.tile.m, spec.tile.k),
            doc="activations",
        )
    ]
    if spec.activations.given:
        fields.append(
            StreamField(
                name="exponent",
                width=spec.activations.form.exponent_bits,
                shape=(spec.tile.m,),
                doc="stored exponent that a row is aligned to, 0 as 1; the same in a whole job",
            )
        )
    if spec.quantized:
        fields.append(
            StreamField(
                name="entry_shift",
                width=spec.shift_bits,
                doc="table entries are divided by 2 to this power; the same in a whole job",
            )
        )
    return Stream(name="i_a", direction="in", fields=tuple(fields), doc="activations, by K step")


def entry_bits(spec: LutCoreSpec) -> int:
    """Width of a table entry as the columns see it."""
    return 8 if spec.quantized else spec.exact_entry_bits


def sum_bits(spec: LutCoreSpec) -> int:
    """Width of the sum of one row's all-ones entries."""
    return entry_bits(spec) + (len(spec.groups) - 1).bit_length()


def table_stream(spec: LutCoreSpec, name: str = "i_t", direction: str = "in") -> Stream:
    """``i_t``: one step of tables, as the generator makes them."""
    fields = [
        StreamField(
            name="t",
            width=entry_bits(spec),
            signed=True,
            shape=(spec.tile.m, tables.entry_count(spec)),
            doc="entries of every group, group by group",
        )
    ]
    if spec.needs_sum:
        fields.append(
            StreamField(
                name="s",
                width=sum_bits(spec),
                signed=True,
                shape=(spec.tile.m,),
                doc="sum of the all-ones entries",
            )
        )
    return Stream(name=name, direction=direction, fields=tuple(fields), doc="tables, by K step")


def operand_stream(spec: LutCoreSpec) -> Stream:
    """The stream that carries the activations' side."""
    return table_stream(spec) if spec.table.source == "port" else activation_stream(spec)


def weight_stream(spec: LutCoreSpec) -> Stream:
    """``i_w``: one step of weights, ``planes_per_cycle`` planes of it, folded offline."""
    n, k, planes = spec.tile.n, spec.tile.k, spec.planes_per_cycle
    if spec.weights.packing == "base3":
        field = StreamField(
            name="w", width=8, shape=(n, -(-k // 5)), doc="five trits a byte, Σ (t+1)·3^i"
        )
    elif spec.ternary:
        field = StreamField(
            name="w", width=1, shape=(n, k, 2), doc="per trit: 1 if not zero, 1 if negative"
        )
    else:
        field = StreamField(
            name="w", width=1, shape=(n, k, planes), doc="weight bits, least significant first"
        )
    fields = [field]
    if spec.zero_point:
        fields.append(
            StreamField(name="z", width=1, shape=(n, planes), doc="bits of the zero points")
        )
    return Stream(name="i_w", direction="in", fields=tuple(fields), doc="weights, by pass and step")


def operand_beats(spec: LutCoreSpec, a: np.ndarray, shift: int) -> dict[str, np.ndarray]:
    """Fields of :func:`operand_stream` for steps ``a`` ``(steps, M, K)``."""
    if spec.table.source == "port":
        return table_beats(spec, a, shift)
    values = {"a": a}
    if spec.quantized:
        values["entry_shift"] = np.full(len(a), shift)
    return values


def table_beats(spec: LutCoreSpec, a: np.ndarray, shift: np.ndarray | int) -> dict[str, np.ndarray]:
    """Fields of :func:`table_stream` for steps ``a`` ``(steps, M, K)``."""
    shift = np.asarray(shift, dtype=np.int64).reshape(-1, 1)
    values = {"t": np.concatenate(tables.tables(spec, a, shift[..., None]), axis=-1)}
    if spec.needs_sum:
        values["s"] = tables.row_sum(spec, a, shift)
    return values


def fold_symmetric(spec: LutCoreSpec, bits: np.ndarray) -> np.ndarray:
    """Plane bits ``(..., K, planes)`` to what symmetric tables are indexed by.

    In every group the top lane carries ``negate`` (the bit was 0), and the lanes below it are
    complemented if it does: ``LUT[u] = −LUT[~u]``.
    """
    folded = bits.copy()
    for group in spec.groups:
        top = bits[..., group[-1] : group[-1] + 1, :]
        folded[..., group[0] : group[-1], :] = bits[..., group[0] : group[-1], :] ^ (1 - top)
        folded[..., group[-1] : group[-1] + 1, :] = 1 - top
    return folded


def weight_beats(spec: LutCoreSpec, work: GemmWork) -> dict[str, np.ndarray]:
    """Fields of ``i_w``, most significant planes first."""
    job, count = work.job, spec.planes_per_cycle
    steps = gemm.step_view(work.w, job.k_steps)
    if spec.weights.packing == "base3":
        trits = np.ones((*steps.shape[:2], -(-spec.tile.k // 5) * 5), dtype=np.int64)
        trits[..., : spec.tile.k] = steps + 1
        return {"w": trits.reshape(*trits.shape[:2], -1, 5) @ 3 ** np.arange(5)}
    if spec.ternary:
        return {"w": np.stack([steps != 0, steps < 0], axis=-1).astype(np.int64)}
    width = gemm.passes(spec, job.weight_bits) * count
    bits = integers.planes(integers.weight_codes(spec.weight_encoding, steps, width), width)
    if spec.symmetric:
        if spec.weight_encoding == "twos_complement":
            # Offset binary: the zero point is 2^(B−1), the sign plane complemented.
            bits[..., width - 1] ^= 1
        bits = fold_symmetric(spec, bits)
    elif work.z is not None:
        # Σ a·(u − 1) = −Σ a·ū: where the zero point has a bit the complement is stored.
        bits = bits ^ integers.planes(work.z, width)[:, None, :]
    ordered = [bits[..., low : low + count] for low in range(width - count, -1, -count)]
    values = {"w": np.concatenate(ordered)}
    if work.z is not None:
        z = integers.planes(work.z, width)
        passes = [z[:, low : low + count] for low in range(width - count, -1, -count)]
        values["z"] = np.repeat(np.stack(passes), job.k_steps, axis=0)
    return values


def check_work(spec: LutCoreSpec, work: GemmWork) -> None:
    """Every operand against the specification.

    Raises:
        ValueError: names the operand, the rule and the value.
    """
    integers.check_work(spec, work)
    if spec.activations.given:
        floating.check_exponent(spec, work)


def beats(spec: LutCoreSpec, work: GemmWork) -> dict[str, dict[str, np.ndarray]]:
    """Every input stream's beats of one job."""
    check_work(spec, work)
    a = gemm.step_view(work.a, work.job.k_steps)
    a = np.concatenate([a] * gemm.passes(spec, work.job.weight_bits))
    if spec.ternary:
        a = a[: work.job.k_steps]
    operands = operand_beats(spec, a, entry_shift(spec, work))
    if spec.activations.given:
        operands["exponent"] = np.repeat(work.extra["exponent"][None], len(a), axis=0)
    values = {
        "i_job": gemm.job_beats(spec, work.job),
        operand_stream(spec).name: operands,
        "i_w": weight_beats(spec, work),
    }
    if spec.addend:
        c = work.c[None] if work.c is not None else np.zeros((0, spec.tile.m, spec.tile.n))
        values["i_c"] = {"c": c.astype(np.int64)}
    return values


def entry_shift(spec: LutCoreSpec, work: GemmWork) -> int:
    """The shift of a job's table entries; 0 where entries are exact."""
    return int(work.extra["entry_shift"]) if spec.quantized else 0


def gemm_result(spec: LutCoreSpec, work: GemmWork) -> np.ndarray:
    """``(M, N)`` results ``o``, two's complement of ``result_bits``."""
    check_work(spec, work)
    if spec.activations.floating:
        return floating.result(spec, work)["o"]
    exact = integers.product(work) if not spec.quantized else quantized_result(spec, work)
    return integers.wrap(exact, spec.result_bits)


def quantized_result(spec: LutCoreSpec, work: GemmWork) -> np.ndarray:
    """Result from INT8 entries, not wrapped; see the top of this module."""
    shift, bits = entry_shift(spec, work), work.job.weight_bits
    a = gemm.step_view(work.a, work.job.k_steps)
    w = gemm.step_view(work.w, work.job.k_steps)
    total = np.zeros((spec.tile.m, spec.tile.n), dtype=np.int64)
    sums = np.zeros(spec.tile.m, dtype=np.int64)
    # A parallel core extends narrow codes to all of its planes: that is part of the definition.
    width = gemm.passes(spec, bits) * spec.planes_per_cycle
    if spec.ternary:
        planes = [(1, w)]
    else:
        codes = integers.weight_codes(spec.weight_encoding, w, width)
        if spec.symmetric and spec.weight_encoding == "twos_complement":
            codes = codes ^ (1 << (width - 1))
        planes = [(1 << b, codes >> b & 1) for b in range(width)]
    ones = np.ones((spec.tile.n, width), dtype=np.int64)
    if not spec.symmetric and not spec.ternary:
        if spec.weight_encoding == "twos_complement":
            ones[:, width - 1] = -1
        elif work.z is not None:
            flipped = integers.planes(work.z, width)
            planes = [
                (factor, plane ^ flipped[None, :, b, None])
                for b, (factor, plane) in enumerate(planes)
            ]
            ones = 1 - 2 * flipped
    for group in spec.groups:
        lanes = list(group)
        ag = a[..., lanes].astype(np.int64)
        sums += tables.quantize(ag.sum(-1), shift).sum(0)
        for b, (factor, plane) in enumerate(planes):
            u = plane[..., lanes]
            if spec.ternary or spec.symmetric:
                u = u if spec.ternary else 2 * u - 1
                # Clip and rounding act on the stored half; the other half is its negation.
                top = np.zeros(u.shape[:-1], dtype=np.int64)
                for lane in range(len(lanes)):
                    top = np.where(u[..., lane] != 0, u[..., lane], top)
                stored = np.einsum("smk,snk->smn", ag, u * top[..., None])
                entry = tables.quantize(stored, shift) * top[:, None, :]
            else:
                entry = tables.quantize(np.einsum("smk,snk->smn", ag, u), shift)
            total += factor * entry.sum(0) * ones[None, :, b]
    if spec.ternary or (spec.symmetric and spec.weight_encoding == "bipolar"):
        result = total
    elif spec.weight_encoding == "bipolar":
        result = 2 * total - (2**width - 1) * sums[:, None]
    elif spec.symmetric:
        z = 2 ** (width - 1) if work.z is None else work.z.astype(np.int64)[None, :]
        result = (total + (2**width - 1 - 2 * z) * sums[:, None]) >> 1
    else:
        result = total
    return result if work.c is None else result + work.c


def expected(spec: LutCoreSpec, work: GemmWork) -> dict[str, dict[str, np.ndarray]]:
    """The one result beat of a job."""
    if spec.activations.floating:
        check_work(spec, work)
        return {"o": {name: item[None] for name, item in floating.result(spec, work).items()}}
    return {"o": {"o": gemm_result(spec, work)[None]}}


def random_work(spec: LutCoreSpec, rng: np.random.Generator, *, size: str = "small") -> GemmWork:
    """Corner-heavy random job."""
    if spec.activations.floating:
        work = integers.random_work(spec, rng, size=size)
        return random_operands(spec, rng, work.job)
    return with_shift(spec, rng, integers.random_work(spec, rng, size=size))


def random_operands(spec: LutCoreSpec, rng: np.random.Generator, job: gemm.Job) -> GemmWork:
    """Corner-heavy operands for a given job."""
    if spec.activations.floating:
        return floating.random_operands(spec, rng, job)
    return with_shift(spec, rng, integers.random_operands(spec, rng, job))


def with_shift(spec: LutCoreSpec, rng: np.random.Generator, work: GemmWork) -> GemmWork:
    """The work with a random entry shift where the core quantizes its entries."""
    if not spec.quantized:
        return work
    shift = np.array(rng.integers(0, spec.exact_entry_bits))
    return GemmWork(
        job=work.job, a=work.a, w=work.w, z=work.z, c=work.c, extra={"entry_shift": shift}
    )


def explain(
    spec: LutCoreSpec, work: GemmWork, stream: str, field: str, index: tuple[int, ...]
) -> str:
    """The inputs of one result."""
    if spec.activations.floating:
        return floating.explain(spec, work, index)
    return integers.explain(work, index)


def coverage(spec: LutCoreSpec, work: GemmWork) -> Iterator[str]:
    """Coverage points of one job."""
    if spec.activations.floating:
        yield from floating.coverage(spec, work)
        return
    yield from integers.coverage(spec, work)
    if spec.quantized:
        yield "entry_shift=0" if entry_shift(spec, work) == 0 else "entry_shift>0"


def coverage_points(spec: LutCoreSpec) -> tuple[str, ...]:
    """Every coverage point."""
    if spec.activations.floating:
        return floating.coverage_points(spec)
    extra = ("entry_shift=0", "entry_shift>0") if spec.quantized else ()
    return (*integers.coverage_points(spec), *extra)


def corner_works(spec: LutCoreSpec, rng: np.random.Generator) -> tuple[GemmWork, ...]:
    """Works of floating activations that hit what chance may not; of integers the bench has its
    own."""
    return floating.corner_works(spec, rng) if spec.activations.floating else ()


def exhaustive_gemms(spec: LutCoreSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    """GEMMs, named, that show every code of a floating activation; of integers the bench has its
    own."""
    if spec.activations.floating:
        yield from floating.exhaustive_gemms(spec)


def values(spec: LutCoreSpec, fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """Results by field as numbers, ``float64``; NaN where a row is invalid."""
    o = fields["o"].astype(np.float64)
    if not spec.activations.floating:
        return o
    rows = np.ldexp(o, fields["exponent"][..., None])
    return np.where(fields["invalid"][..., None] > 0, np.nan, rows)
