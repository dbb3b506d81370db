"""Cycles of scale-and-accumulate."""

from __future__ import annotations

from collections.abc import Sequence

from hw.blocks.scale_accumulate.golden import ScaleWork
from hw.blocks.scale_accumulate.spec import ScaleAccumulateSpec

FORMULA = (
    "1 + sum over jobs of latency - 1 + (groups - 1) * group_interval, where latency counts a job "
    "of one group from its first input to its result"
)

PREPARE = 1
"""Stages of the products of zero points and row sums, and of two scales, if there are such."""
MULTIPLY = 4
"""Stages from operands to their rounded product, one more for a wide one."""
ADD = 3
"""Stages from operands to their rounded sum."""


def constants(spec: ScaleAccumulateSpec) -> dict[str, int]:
    """Constants of :data:`FORMULA`."""
    return {"latency": latency(spec), "group_interval": group_interval(spec)}


def stages(spec: ScaleAccumulateSpec) -> int:
    """Stages that an output passes in each of its turns."""
    return (PREPARE if spec.prepares else 0) + _multiply(spec) + ADD


def _multiply(spec: ScaleAccumulateSpec) -> int:
    return MULTIPLY + spec.wide


def group_interval(spec: ScaleAccumulateSpec) -> int:
    """Cycles from a group to the next: an output's sum has to be there when its turn comes."""
    return max(spec.turns, ADD)


def closing_interval(spec: ScaleAccumulateSpec) -> int:
    """The same for what follows the last group: a scale is applied before the addition."""
    scales = spec.scales_jobs or spec.tensor_scale
    return max(spec.turns, ADD + (_multiply(spec) if scales else 0))


def latency(spec: ScaleAccumulateSpec) -> int:
    """A job of one group: a port register, the turns, the stages, and the result's transfer."""
    return 1 + len(spec.closing) * closing_interval(spec) + spec.turns + stages(spec)


def job_cycles(spec: ScaleAccumulateSpec, groups: int) -> int:
    """Cycles that a job adds to a steady stream of jobs."""
    return latency(spec) - 1 + (groups - 1) * group_interval(spec)


def cycles(spec: ScaleAccumulateSpec, works: Sequence[ScaleWork]) -> int:
    """First input transfer to last output transfer, both counted, nothing stalling.

    A job is taken in the cycle in which the result before it is.
    """
    return 1 + sum(job_cycles(spec, work.groups) for work in works)
