"""Reference of the multiplier array: the plain integer product."""

from __future__ import annotations

from collections.abc import Iterator

from hw import gemm, integers
from hw.blocks.mac_core.spec import MacCoreSpec
from hw.gemm import GemmWork
from hw.lazy import np
from hw.streams import Stream, StreamField


def streams(spec: MacCoreSpec) -> tuple[Stream, ...]:
    """Ports: ``i_job``, ``i_a``, ``i_w``, ``i_c`` (with an addend), ``o``."""
    tile, bits = spec.tile, spec.max_weight_bits
    a = Stream(
        name="i_a",
        direction="in",
        doc="activations, by K step",
        fields=(
            StreamField(
                name="a",
                width=spec.activations.bits,
                signed=spec.activations.signed,
                shape=(tile.m, tile.k),
                doc="activations",
            ),
        ),
    )
    signed = spec.weight_encoding in ("twos_complement", "ternary")
    fields = [
        StreamField(name="w", width=bits, signed=signed, shape=(tile.n, tile.k), doc="weights")
    ]
    if spec.zero_point:
        fields.append(StreamField(name="z", width=bits, shape=(tile.n,), doc="zero points"))
    w = Stream(name="i_w", direction="in", fields=tuple(fields), doc="weights, by K step")
    return gemm.shared_streams(spec, a, w)


def beats(spec: MacCoreSpec, work: GemmWork) -> dict[str, dict[str, np.ndarray]]:
    """Every input stream's beats of one job. Bipolar weights travel as their codes."""
    integers.check_work(spec, work)
    k_steps = work.job.k_steps
    w = np.asarray(work.w, dtype=np.int64)
    if spec.weight_encoding == "bipolar":
        w = integers.weight_codes("bipolar", w, spec.max_weight_bits)
    weights = {"w": gemm.step_view(w, k_steps)}
    if spec.zero_point:
        weights["z"] = np.repeat(np.asarray(work.z)[None], k_steps, axis=0)
    values = {
        "i_job": gemm.job_beats(spec, work.job),
        "i_a": {"a": gemm.step_view(work.a, k_steps)},
        "i_w": weights,
    }
    if spec.addend:
        c = work.c[None] if work.c is not None else np.zeros((0, spec.tile.m, spec.tile.n))
        values["i_c"] = {"c": c.astype(np.int64)}
    return values


def gemm_result(spec: MacCoreSpec, work: GemmWork) -> np.ndarray:
    """``(M, N)`` results, two's complement of ``result_bits``."""
    integers.check_work(spec, work)
    return integers.wrap(integers.product(work), spec.result_bits)


def expected(spec: MacCoreSpec, work: GemmWork) -> dict[str, dict[str, np.ndarray]]:
    """The one result beat of a job."""
    return {"o": {"o": gemm_result(spec, work)[None]}}


def random_work(spec: MacCoreSpec, rng: np.random.Generator, *, size: str = "small") -> GemmWork:
    """Corner-heavy random job."""
    return integers.random_work(spec, rng, size=size)


def random_operands(spec: MacCoreSpec, rng: np.random.Generator, job: gemm.Job) -> GemmWork:
    """Corner-heavy operands for a given job."""
    return integers.random_operands(spec, rng, job)


def explain(
    spec: MacCoreSpec, work: GemmWork, stream: str, field: str, index: tuple[int, ...]
) -> str:
    """The inputs of one result."""
    return integers.explain(work, index)


def coverage(spec: MacCoreSpec, work: GemmWork) -> Iterator[str]:
    """Coverage points of one job."""
    return integers.coverage(spec, work)


def coverage_points(spec: MacCoreSpec) -> tuple[str, ...]:
    """Every coverage point."""
    return integers.coverage_points(spec)
