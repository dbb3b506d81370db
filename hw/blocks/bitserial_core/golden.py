"""Reference of the bit-serial core: the plain integer product, and the order of its planes.

With ``a = Σ_i ±2^i·a_i`` and ``w − z = Σ_j ±2^j·u_j`` the product is ``Σ_{i,j} ±2^{i+j}·Σ_k
a_i·u_j`` (FlexQ, arXiv 2508.04405). A plane of unsigned weights is stored as ``u_j = w_j XOR z_j``:
where the zero point's bit is 1, ``w_j − z_j = −u_j``, so that a zero point is a sign a column and
plane. Bipolar planes hold −1 and +1 (arXiv 2409.17870).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hw import gemm, integers
from hw.blocks.bitserial_core.spec import BitserialCoreSpec
from hw.gemm import GemmWork, Job
from hw.lazy import np
from hw.streams import Stream, StreamField


def streams(spec: BitserialCoreSpec) -> tuple[Stream, ...]:
    """Ports: ``i_job``, ``i_a``, ``i_w``, ``i_c`` (with an addend), ``o``."""
    tile = spec.tile
    a = Stream(
        name="i_a",
        direction="in",
        doc="one plane of the activations, by K step",
        fields=(StreamField(name="a", width=1, shape=(tile.m, tile.k), doc="bits of the plane"),),
    )
    fields = [StreamField(name="w", width=1, shape=(tile.n, tile.k), doc="bits of the plane")]
    if spec.zero_point:
        fields.append(
            StreamField(name="z", width=1, shape=(tile.n,), doc="the zero points' bit of the plane")
        )
    w = Stream(
        name="i_w", direction="in", doc="one plane of the weights, by K step", fields=tuple(fields)
    )
    return gemm.shared_streams(spec, a, w)


def plane_pairs(spec: BitserialCoreSpec, job: Job) -> list[tuple[int, int] | None]:
    """Planes ``(i, j)`` of A and W in the order of their passes, None for a step without operands.

    Pairs go by ``i + j``, highest first, so that the accumulators never move by more than a bit,
    and by ``i`` within that. A sum ``i + j`` that no pair has costs a step, which moves them.
    """
    a, w = spec.job_planes(job)
    top = a.bit_length() + w.bit_length() - 2 if a and w else 0
    order: list[tuple[int, int] | None] = []
    for total in range(top, -1, -1):
        pairs = [(i, total - i) for i in range(total + 1) if a >> i & 1 and w >> (total - i) & 1]
        order += pairs or [None]
    return order


def activation_planes(spec: BitserialCoreSpec, a: np.ndarray, bits: int) -> np.ndarray:
    """Planes of activations, ``(..., bits)``, least significant first."""
    return integers.planes(integers.weight_codes(spec.activations.code, a, bits), bits)


def weight_planes(
    spec: BitserialCoreSpec, w: np.ndarray, z: np.ndarray | None, bits: int
) -> np.ndarray:
    """Planes of weights as they travel, ``(N, K, bits)``, least significant first."""
    found = integers.planes(integers.weight_codes(spec.weight_encoding, w, bits), bits)
    return found if z is None else found ^ integers.planes(z, bits)[:, None]


def without_zero_planes(spec: BitserialCoreSpec, work: GemmWork) -> GemmWork:
    """The same work with every plane left out that is zero throughout."""
    if not spec.skips_planes:
        return work
    a, w = _present(spec, work)
    both = spec.weight_encoding != "bipolar"
    return replace(work, job=replace(work.job, a_planes=a, w_planes=w if both else None))


def _present(spec: BitserialCoreSpec, work: GemmWork) -> tuple[int, int]:
    """Masks of the planes that are not zero throughout."""
    a = activation_planes(spec, work.a, gemm.activation_bits(spec, work.job))
    w = weight_planes(spec, work.w, work.z, work.job.weight_bits)
    return _mask(a), _mask(w)


def _mask(planes: np.ndarray) -> int:
    some = planes.reshape(-1, planes.shape[-1]).max(axis=0, initial=0)
    return int((some << np.arange(len(some))).sum())


def check_work(spec: BitserialCoreSpec, work: GemmWork) -> None:
    """Every operand against the specification and the job.

    Raises:
        ValueError: names the operand, the rule and the value.
    """
    integers.check_work(spec, work)
    job = work.job
    for name, mask, there, bits in zip(
        ("a_planes", "w_planes"),
        (job.a_planes, job.w_planes),
        _present(spec, work),
        (gemm.activation_bits(spec, job), job.weight_bits),
        strict=True,
    ):
        if mask is None:
            continue
        if not 0 <= mask < 1 << bits:
            raise ValueError(f"{name}: must be planes of {bits} bits, got {mask:#b}")
        bipolar = name == "w_planes" and spec.weight_encoding == "bipolar"
        if bipolar and mask != (1 << bits) - 1:
            raise ValueError(f"{name}: planes of bipolar weights are never zero, got {mask:#b}")
        if not bipolar and there & ~mask:
            raise ValueError(f"{name}: {mask:#b} leaves out planes that are not zero, {there:#b}")


def beats(spec: BitserialCoreSpec, work: GemmWork) -> dict[str, dict[str, np.ndarray]]:
    """Every input stream's beats of one job."""
    check_work(spec, work)
    job = work.job
    a = activation_planes(spec, work.a, gemm.activation_bits(spec, job))
    w = weight_planes(spec, work.w, work.z, job.weight_bits)
    pairs = [pair for pair in plane_pairs(spec, job) if pair is not None]
    weights = {"w": _passes(w, [j for _, j in pairs], job.k_steps)}
    if work.z is not None:
        z = integers.planes(work.z, job.weight_bits)
        weights["z"] = np.repeat(z[:, [j for _, j in pairs]].T, job.k_steps, axis=0)
    values = {
        "i_job": gemm.job_beats(spec, job),
        "i_a": {"a": _passes(a, [i for i, _ in pairs], job.k_steps)},
        "i_w": weights,
    }
    if spec.addend:
        c = work.c[None] if work.c is not None else np.zeros((0, spec.tile.m, spec.tile.n))
        values["i_c"] = {"c": c.astype(np.int64)}
    return values


def _passes(planes: np.ndarray, order: list[int], k_steps: int) -> np.ndarray:
    """``(rows, depth, bits)`` to beats ``(passes · k_steps, rows, k)``, planes in that order."""
    rows, depth, _ = planes.shape
    views = [gemm.step_view(planes[..., index], k_steps) for index in order]
    return np.concatenate(views) if views else np.zeros((0, rows, depth // k_steps), np.int64)


def gemm_result(spec: BitserialCoreSpec, work: GemmWork) -> np.ndarray:
    """``(M, N)`` results, two's complement of ``result_bits``."""
    check_work(spec, work)
    return integers.wrap(integers.product(work), spec.result_bits)


def expected(spec: BitserialCoreSpec, work: GemmWork) -> dict[str, dict[str, np.ndarray]]:
    """The one result beat of a job."""
    return {"o": {"o": gemm_result(spec, work)[None]}}


def random_work(
    spec: BitserialCoreSpec, rng: np.random.Generator, *, size: str = "small"
) -> GemmWork:
    """Corner-heavy random job; of two such jobs one leaves out the planes that are zero."""
    work = integers.random_work(spec, rng, size=size)
    if not spec.skips_planes or rng.integers(2):
        return work
    job, bits = work.job, gemm.activation_bits(spec, work.job)
    a = int(rng.integers(1 << bits))
    w = int(rng.integers(1 << job.weight_bits)) if spec.weight_encoding != "bipolar" else None
    return without_zero_planes(spec, _without(spec, work, a, w))


def random_operands(spec: BitserialCoreSpec, rng: np.random.Generator, job: Job) -> GemmWork:
    """Corner-heavy operands for a given job, zero in the planes that it leaves out."""
    return _without(spec, integers.random_operands(spec, rng, job), job.a_planes, job.w_planes)


def _without(
    spec: BitserialCoreSpec, work: GemmWork, a_planes: int | None, w_planes: int | None
) -> GemmWork:
    """The same work with the planes made zero that masks leave out; None leaves out none."""
    a, w = work.a, work.w
    if a_planes is not None:
        bits = gemm.activation_bits(spec, work.job)
        kept = activation_planes(spec, a, bits) & integers.planes(a_planes, bits)
        a = _value(spec.activations.code, kept)
    if w_planes is not None and spec.weight_encoding != "bipolar":
        bits = work.job.weight_bits
        kept = weight_planes(spec, w, work.z, bits) & integers.planes(w_planes, bits)
        if work.z is not None:
            kept = kept ^ integers.planes(work.z, bits)[:, None]
        w = _value(spec.weight_encoding, kept)
    return replace(work, a=a, w=w)


def _value(code: integers.Encoding, planes: np.ndarray) -> np.ndarray:
    """Numbers of planes, unsigned or two's complement."""
    bits = planes.shape[-1]
    weight = 1 << np.arange(bits)
    if code == "twos_complement":
        weight[-1] = -weight[-1]
    return (planes * weight).sum(axis=-1)


def explain(
    spec: BitserialCoreSpec, work: GemmWork, stream: str, field: str, index: tuple[int, ...]
) -> str:
    """The inputs of one result."""
    return integers.explain(work, index)


def coverage(spec: BitserialCoreSpec, work: GemmWork) -> Iterator[str]:
    """Coverage points of one job."""
    yield from integers.coverage(spec, work)
    if work.job.a_planes is not None:
        order = plane_pairs(spec, work.job)
        if order == [None]:
            yield "planes=none"
        elif None in order:
            yield "planes=gap"
        elif len(order) < gemm.activation_bits(spec, work.job) * work.job.weight_bits:
            yield "planes=fewer"


def coverage_points(spec: BitserialCoreSpec) -> tuple[str, ...]:
    """Every coverage point."""
    points = list(integers.coverage_points(spec))
    if spec.skips_planes:
        points.append("planes=none")
        if (spec.activations.max_bits if spec.mixed else spec.max_passes) > 1:
            points += ["planes=gap", "planes=fewer"]
    return tuple(points)
