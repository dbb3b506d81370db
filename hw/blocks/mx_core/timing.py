"""Cycles of the core for block-scaled operands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hw.blocks.mx_core.spec import MxCoreSpec
from hw.gemm import GemmWork

FORMULA = "latency + sum over jobs of k_steps"


def constants(spec: MxCoreSpec) -> dict[str, int]:
    """Constants of :data:`FORMULA`."""
    return {"latency": latency(spec)}


def latency(spec: MxCoreSpec) -> int:
    """Cycles besides those of the steps: port registers, extra registers, result transfer."""
    return 2 + spec.pipeline.front + spec.cuts + spec.tail


def job_cycles(spec: MxCoreSpec, k_steps: Any, weight_bits: Any) -> Any:
    """Cycles that a job adds to a steady stream of jobs: a step is one block."""
    return k_steps + 0 * weight_bits


def cycles(spec: MxCoreSpec, works: Sequence[GemmWork]) -> int:
    """First input transfer to last output transfer, both counted, nothing stalling.

    Jobs follow one another without a bubble, of one step each, too.
    """
    return latency(spec) + sum(work.job.k_steps for work in works)
