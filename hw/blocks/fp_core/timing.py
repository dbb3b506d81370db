"""Cycles of the floating-point core."""

from __future__ import annotations

from collections.abc import Sequence

from hw.blocks.fp_core.spec import FpCoreSpec
from hw.gemm import GemmWork, job_cycles

__all__ = ["cycles", "job_cycles", "latency"]


def latency(spec: FpCoreSpec) -> int:
    """Cycles besides those of the steps: port registers, extra registers, result transfer."""
    return 2 + spec.pipeline.front + spec.cuts + spec.tail


def cycles(spec: FpCoreSpec, works: Sequence[GemmWork]) -> int:
    """First input transfer to last output transfer, both counted, nothing stalling.

    Jobs follow one another without a bubble.
    """
    steps = sum(job_cycles(spec, work.job.k_steps, work.job.weight_bits) for work in works)
    return latency(spec) + steps
