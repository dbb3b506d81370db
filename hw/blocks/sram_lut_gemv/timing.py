"""Cycles of the table array, and SAIL's own count for an array whose adders are bit-serial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hw.blocks.sram_lut_gemv import patterns
from hw.blocks.sram_lut_gemv.spec import SramLutGemvSpec
from hw.gemm import GemmWork, activation_bits

FORMULA = (
    "latency + sum over jobs of job_start + k_steps * words + lookups, where lookups are rows * "
    "activation_bits * k_steps; with reuse the sum over K steps, planes and rounds of capacity "
    "rows of the different patterns but 0, at least 1"
)


def constants(spec: SramLutGemvSpec) -> dict[str, int]:
    """Constants of :data:`FORMULA`."""
    return {
        "latency": latency(spec),
        "job_start": job_start(spec),
        "words": spec.words,
        "rows": spec.tile.m,
        "capacity": spec.reuse.capacity,
    }


def pipeline(spec: SramLutGemvSpec) -> int:
    """Cycles from a job's last lookup to its finished sums: address, word, term, addition."""
    return 3 + spec.pipeline.front


def converter(spec: SramLutGemvSpec) -> int:
    """Cycles from an accumulator to the register of the port, through a converter."""
    if spec.exact:
        return 0
    return 3 if spec.result_form is None else 4


def latency(spec: SramLutGemvSpec) -> int:
    """Cycles besides those of the jobs: the port's register, the pipeline, the result's transfer.

    Where results are converted a job waits for the one before until its sums have gone to the
    converters, and the last job has nobody behind it: what is left is the converters' depth.
    """
    if spec.exact:
        return 1 + pipeline(spec)
    return 1 + converter(spec)


def job_start(spec: SramLutGemvSpec) -> int:
    """Cycles of a job besides those of its steps: none, or until its sums are in the converters."""
    return 0 if spec.exact else pipeline(spec) - 1 + spec.drain


def job_cycles(
    spec: SramLutGemvSpec, k_steps: Any, weight_bits: Any, activation_bits: Any = None
) -> Any:
    """Cycles that a job without reuse adds to a steady stream of jobs; integers or numpy arrays.

    Words are written and read whole, so the width of the weights does not matter.
    ``activation_bits`` are the specification's widest if None.
    """
    if activation_bits is None:
        activation_bits = spec.activations.max_bits
    return job_start(spec) + k_steps * (spec.words + spec.tile.m * activation_bits)


def work_cycles(spec: SramLutGemvSpec, work: GemmWork) -> int:
    """The same of a job with its operands, which decide where rows share lookups."""
    job = work.job
    if not job.reuse:
        return int(job_cycles(spec, job.k_steps, job.weight_bits, activation_bits(spec, job)))
    found = patterns.of_work(spec, work)
    return job_start(spec) + job.k_steps * spec.words + found.cycles


def cycles(spec: SramLutGemvSpec, works: Sequence[GemmWork]) -> int:
    """First input transfer to last output transfer, both counted, nothing stalling."""
    return latency(spec) + sum(work_cycles(spec, work) for work in works)


def published(
    *,
    k: int,
    group: int,
    weight_bits: int,
    activation_bits: int,
    batch: int,
    lookup: int = 1,
    hits: float = 0.0,
) -> float:
    """Cycles of one column's array by SAIL's own model, whose adders take a bit a cycle.

    Building a table takes ``(2^g − g − 1)·(b_w + ceil(log2 g) + 1)`` cycles: an addition of ``n``
    bits is ``n + 1`` of them. Using it takes ``b_a·(lookup + b_acc + 1)`` for every row of the
    batch, with accumulators of ``b_acc = b_w + b_a + ceil(log2 K)`` bits.

    Args:
        k: length of the dot product. group: ``g``. hits: share of the lookups that reuse skips.
        lookup: cycles of reading a word.
    """
    levels = (group - 1).bit_length()
    build = ((1 << group) - group - 1) * (weight_bits + levels + 1)
    accumulator = weight_bits + activation_bits + (k - 1).bit_length()
    use = activation_bits * (lookup + accumulator + 1) * batch * (1.0 - hits)
    return -(-k // group) * (build + use)
