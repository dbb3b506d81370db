"""Cycles of the bit-serial core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hw.blocks.bitserial_core.spec import BitserialCoreSpec
from hw.gemm import GemmWork, Job

FORMULA = (
    "latency + sum over jobs of ones(a_planes) * ones(w_planes) * k_steps + idle, where idle is "
    "the number of sums i + j up to the highest that no pair of planes has, and 1 without a pair; "
    "front less if the first job has no pair"
)


def constants(spec: BitserialCoreSpec) -> dict[str, int]:
    """Constants of :data:`FORMULA`."""
    return {"latency": latency(spec), "front": spec.pipeline.front}


def latency(spec: BitserialCoreSpec) -> int:
    """Cycles besides those of the steps: port registers, extra registers, result transfer."""
    return 2 + spec.pipeline.front + spec.pipeline.heap


def idle_steps(spec: BitserialCoreSpec, job: Job) -> int:
    """Steps without operands: sums ``i + j`` up to the highest that no pair of planes has.

    The sums that there are make up the product of the masks without carries.
    """
    a, w = spec.job_planes(job)
    if not a or not w:
        return 1
    sums = 0
    for plane in range(a.bit_length()):
        if a >> plane & 1:
            sums |= w << plane
    return sums.bit_length() - sums.bit_count()


def job_steps(spec: BitserialCoreSpec, job: Job) -> int:
    """Cycles that a job adds to a steady stream of jobs."""
    return spec.job_passes(job) * job.k_steps + idle_steps(spec, job)


def job_cycles(
    spec: BitserialCoreSpec, k_steps: Any, weight_bits: Any, activation_bits: Any = None
) -> Any:
    """The same of a job that leaves out no plane; integers or numpy arrays.

    ``activation_bits`` are the specification's widest if None.
    """
    if activation_bits is None:
        activation_bits = spec.activations.max_bits
    return weight_bits * activation_bits * k_steps


def cycles(spec: BitserialCoreSpec, works: Sequence[GemmWork]) -> int:
    """First input transfer to last output transfer, both counted, nothing stalling.

    Jobs follow one another without a bubble, whatever their widths and planes. A first job that
    takes no operands does not wait for them to pass the front end's register.
    """
    steps = sum(job_steps(spec, work.job) for work in works)
    early = spec.pipeline.front if works and not spec.job_passes(works[0].job) else 0
    return latency(spec) + steps - early
