"""Cycles of the vector units for what is no matrix product, by the block's own closed form."""

from __future__ import annotations

from dataclasses import dataclass

from hw.blocks.vector_unit import timing
from hw.blocks.vector_unit.spec import JOB_ROWS_BITS, SLOTS, Function
from rtl_gen.errors import InputError
from sw_driver.mapper.workload import Attention, Linear, Workload
from sw_driver.system.shapes import rows_of, spans
from sw_driver.system.spec import System

ACTIVATIONS: dict[str, Function] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
"""Functions of a ``config.json``, as the vector unit calls them."""

MOST_ROWS = 1 << JOB_ROWS_BITS
WHOLE_ROWS = ("softmax", "layer_norm", "rms_norm")
"""Functions of a whole row; of the others a row may be cut anywhere."""


@dataclass(frozen=True, kw_only=True)
class VectorCost:
    """Vector work of a phase.

    Attributes:
        name: as the workload calls it. elements: in the whole phase.
        function: of the vector unit; None where no unit of the system does it.
        cycles: in which the units work on it, 0 where they do not.
    """

    name: str
    elements: int
    function: str | None
    cycles: int


def unit_cycles(system: System, function: Function, rows: int, length: int) -> int:
    """Cycles of the system's units for ``rows`` rows at once, first input to last output.

    Whole rows are shared out; of functions that take elements one by one, elements are.

    Raises:
        InputError: a row is longer than the unit's.
    """
    spec, units = system.spec.vector, system.spec.vector_units
    if function in WHOLE_ROWS:
        if length > spec.max_length:
            raise InputError(
                f"{system.name}: vector_unit.max_length: must be at least {length} for {function} "
                f"over {length} elements, got {spec.max_length}"
            )
        share, longest = -(-rows // units), length
    else:
        # One long row, as far as a unit's rows go: rows of elements are as good as one another.
        elements = -(-rows * length // units)
        longest = min(elements, spec.max_length)
        share, rest = divmod(elements, longest)
        if rest:
            share += 1
    jobs = [MOST_ROWS] * (share // MOST_ROWS)
    jobs += [share % MOST_ROWS] if share % MOST_ROWS else []
    whole = sum(timing.job_cycles(spec, function, count, longest) for count in jobs)
    return timing.OVERHEAD + whole + 1 + (-(-longest // spec.lanes) - 1) % SLOTS


def vector_costs(
    workload: Workload, system: System, further: tuple[tuple[str, int], ...]
) -> list[VectorCost]:
    """Every sort of vector work of a phase; what no unit of the system does costs nothing.

    Args:
        further: work that the mapping adds, as ``(name, elements)``.

    Raises:
        InputError: as :func:`unit_cycles`.
    """
    spec = system.spec.vector
    names = [(item.name, item.elements) for item in workload.vector] + list(further)
    runs = _runs(workload) if spec is not None else {}
    found = []
    for name, elements in names:
        function, shapes = runs.get(name.split(" (")[0], (None, []))
        if function is None or function not in spec.functions:
            found.append(VectorCost(name=name, elements=elements, function=None, cycles=0))
            continue
        cycles = sum(
            times * unit_cycles(system, function, rows, length) for rows, length, times in shapes
        )
        found.append(VectorCost(name=name, elements=elements, function=function, cycles=cycles))
    return found


def _runs(workload: Workload) -> dict[str, tuple[Function | None, list[tuple[int, int, int]]]]:
    """By name of the work its function and ``(rows, length, times)`` of every run.

    Rows of a run are there at once: those of one layer and step.
    """
    arch = workload.architecture
    linears = [item for item in workload.operators if isinstance(item, Linear)]
    scores = [
        item for item in workload.operators if isinstance(item, Attention) and item.kind == "scores"
    ]
    # Runs through a layer, and rows of each, rounded up where they are not all alike: every token
    # is added twice in every layer.
    steps = max((item.runs // item.layers for item in scores), default=1)
    layers = arch.layers
    added = sum(item.elements for item in workload.vector if item.name == "residual")
    rows = -(-added // (2 * layers * arch.hidden * steps))
    norms = []
    for name, size in arch.norms:
        heads = {"q_norm": arch.heads, "k_norm": arch.kv_heads}.get(name, 1)
        norms.append((rows * heads, size, layers * steps))
    extra = arch.final_norm + arch.embedding_norm + arch.head_transform
    if extra:
        norms.append((rows, arch.hidden, steps * extra))
    turned = arch.heads + (1 if arch.latent else arch.kv_heads)
    softmax = [
        (seen * item.instances, tokens, times * item.layers)
        for item in scores
        for seen, tokens, times in spans(item, item.group, 1)
    ]
    activation = [
        (count * instances, item.n, times)
        for item in linears
        if item.role in ("up", "expert up", "shared up")
        for count, instances, times in rows_of(item)
    ]
    return {
        "norm": ("layer_norm" if arch.norm_bias else "rms_norm", norms),
        "rotary": ("rotary", [(rows * turned, arch.rotary, layers * steps)]),
        "softmax": ("softmax", softmax),
        "activation": (ACTIVATIONS.get(arch.activation), activation),
        "residual": ("add", [(rows, arch.hidden, 2 * layers * steps)]),
    }
