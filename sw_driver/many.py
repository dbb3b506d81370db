"""Many workloads on many cores at once: the closed forms of a mapping on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtl_gen.errors import InputError
from sw_driver import cost
from sw_driver.choices import (
    Choices,
    attention_covered,
    check_choices,
    chosen_bits,
    core_ints,
)
from sw_driver.core import Core
from sw_driver.cost import CoreInts, System
from sw_driver.mapping import TABLE_BITS
from sw_driver.operator_cost import with_tables
from sw_driver.workload import Attention, Linear, Workload

if TYPE_CHECKING:
    import numpy as np

_BY_WIDTH = (
    *("latency", "job_start", "step_cycles", "passes", "step_bits"),
    *("zero_bits", "weight_bits"),
)
"""Fields of a core that depend on the width of W."""

MAX_MACS = 1 << 56
"""Largest workload whose every count fits 64 bits; a single mapping has no such bound."""


@dataclass(frozen=True, kw_only=True)
class ManyCosts:
    """Totals of cores and workloads, each an array ``(cores, workloads)``.

    Attributes:
        cycles, bytes: ``int64``. seconds, tokens_per_second, utilisation: ``float64``.
        uncovered_macs: MACs that a core does not do.
    """

    cycles: np.ndarray
    bytes: np.ndarray
    seconds: np.ndarray
    tokens_per_second: np.ndarray
    utilisation: np.ndarray
    uncovered_macs: np.ndarray


def evaluate_many(
    cores: Sequence[Core], workloads: Sequence[Workload], choices: Choices | None = None
) -> ManyCosts:
    """Every workload on every core: the totals of :func:`map_workload`, vectorised over cores and
    operators.

    Raises:
        InputError: as :func:`map_workload`, or there is no core or no workload.
    """
    import numpy as np

    choices = choices or Choices()
    _single(choices, workloads)
    if not cores or not workloads:
        raise InputError("cores and workloads: must not be empty")
    for work in workloads:
        if work.macs > MAX_MACS:
            raise InputError(
                f"{work.name}: {work.phase}: must have at most {MAX_MACS} MACs to be evaluated in "
                f"64-bit integers, got {work.macs}"
            )
    stored = any(
        item.storage is not None
        for work in workloads
        for item in work.operators
        if isinstance(item, Linear)
    )
    if choices != Choices() or stored:
        for core in cores:
            check_choices(core, choices, workloads)
    table = _core_table(cores, choices)
    parts = [_evaluate(table, work, choices) for work in workloads]
    return ManyCosts(
        **{name: np.stack([part[name] for part in parts], axis=1) for name in parts[0]}
    )


def _single(choices: Choices, workloads: Sequence[Workload]) -> None:
    """Refuses what is mapped one by one: sums and expectations that no array form is kept for."""
    problems = []
    if choices.kv is not None:
        problems.append(f"kv: {choices.kv.name}: must be integers here, see map_workload")
    if choices.tables in ("fused", "memory"):
        problems.append(f"tables: {choices.tables}: must be core or unit here, see map_workload")
    for work in workloads:
        if work.routing.kind == "uniform":
            problems.append(
                f"routing: {work.name}: must be balanced or a histogram here, see map_workload"
            )
        if work.inputs_cached:
            problems.append(f"kv: {work.name}: must not cache inputs here, see map_workload")
        elif any(isinstance(item, Linear) and item.rising for item in work.operators):
            problems.append(
                f"chunk: {work.name}: must not be given with latents that are expanded here, see "
                "map_workload"
            )
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))


def _core_table(cores: Sequence[Core], choices: Choices) -> dict[str, np.ndarray]:
    """Cores as columns; what depends on the weight width is ``(cores, widths)``, by width − 1."""
    import numpy as np

    deepest = max(16, max(core.max_weight_bits for core in cores))
    names = (
        *("m", "n", "k", "max_k_steps", "latency", "activation_bits", "max_weight_bits"),
        *("min_weight_bits", "weight_passes", "activation_step_bits", "own_scales"),
    )
    rows = [tuple(getattr(core, name) for name in names) for core in cores]
    table = dict(zip(names, np.array(rows, dtype=np.int64).T, strict=True))
    # Cores of a sweep differ in few of their width tables: each distinct one is laid out once.
    keys: dict[tuple[Any, ...], int] = {}
    which = np.empty(len(cores), dtype=np.int64)
    for index, core in enumerate(cores):
        key = (
            *(core.job_cycles, core.passes, core.step_bits, core.k),
            *(core.zero_point, core.encoding, core.min_weight_bits),
            *(core.latency, core.table_source, core.table_latency, core.weight_format),
        )
        which[index] = keys.setdefault(key, len(keys))
    first: dict[int, Core] = {}
    for core, number in zip(cores, which.tolist(), strict=True):
        first.setdefault(number, core)
    fields = ("latency", "job_start", "step_cycles", "passes", "step_bits", "zero_bits")
    widths = np.array(
        [
            [
                [
                    getattr(with_tables(core, core_ints(core, bits), choices), name)
                    for bits in range(1, deepest + 1)
                ]
                for name in fields
            ]
            for core in first.values()
        ],
        dtype=np.int64,
    )
    for position, name in enumerate(fields):
        table[f"{name}_at"] = widths[which, position]
    table["covered_at"] = np.array(
        [
            [attention_covered(core, bits) for bits in range(1, deepest + 1)]
            for core in first.values()
        ]
    )[which]
    table["clock"] = np.array([core.clock_mhz for core in cores]) * 1e6
    table["bandwidth"] = np.array([core.bandwidth_gb_s for core in cores]) * 1e9
    table["ternary"] = np.array([core.ternary for core in cores])
    table["weight_format"] = np.array([core.weight_format for core in cores])
    return table


def _evaluate(
    table: dict[str, np.ndarray], workload: Workload, choices: Choices
) -> dict[str, np.ndarray]:
    """Totals of one workload, ``(cores,)``."""
    import numpy as np

    # Experts of different rows are columns of their own; their sums are those of the operators.
    pieces: list[tuple[Linear, int, int, int]] = []
    firsts = []
    for item in workload.operators:
        if not isinstance(item, Linear):
            continue
        firsts.append(len(pieces))
        if not item.ragged:
            pieces.append((item, item.m, item.instances * item.runs, item.runs))
        for index, (rows, count) in enumerate(item.ragged):
            pieces.append((item, rows, int(count), 0 if index else item.runs))
    linears = [piece[0] for piece in pieces]
    rows_of, times, starts = (
        np.array([[piece[at] for piece in pieces]], dtype=np.int64) for at in (1, 2, 3)
    )
    attentions = [item for item in workload.operators if isinstance(item, Attention)]
    widest = table["max_weight_bits"][:, None]
    most, least = table["max_weight_bits"], table["min_weight_bits"]
    kv = np.where(table["ternary"], 8, np.where(least == most, most, np.minimum(8, most)))[:, None]
    if choices.kv_bits is not None:
        kv = np.full_like(kv, choices.kv_bits)

    chosen = np.array([[chosen_bits(item, choices) for item in linears]], dtype=np.int64)
    native = np.array([[item.ternary for item in linears]])
    codes = np.array([[item.storage.integer_bits if item.storage else 0 for item in linears]])
    kept = (codes > 0) & (chosen == 0)
    bits = np.where(
        chosen > 0, chosen, np.where(native & (least <= 2)[:, None] & (widest >= 2), 2, widest)
    )
    formats = np.array([[item.storage.float_format if item.storage else "" for item in linears]])
    own_format = (table["weight_format"][:, None] == formats) & (formats != "")
    bits = np.where(kept, np.where(own_format, widest, np.maximum(codes, least[:, None])), bits)

    def ints(width: np.ndarray) -> CoreInts:
        at = width - 1
        rows = np.arange(len(at))[:, None]

        def by_width(name: str) -> np.ndarray:
            return table[f"{name}_at"][rows, at]

        return CoreInts(
            m=table["m"][:, None],
            n=table["n"][:, None],
            k=table["k"][:, None],
            max_k_steps=table["max_k_steps"][:, None],
            latency=by_width("latency"),
            job_start=by_width("job_start"),
            step_cycles=by_width("step_cycles"),
            passes=by_width("passes"),
            weight_passes=table["weight_passes"][:, None],
            step_bits=by_width("step_bits"),
            activation_bits=table["activation_bits"][:, None],
            activation_step_bits=table["activation_step_bits"][:, None],
            own_scales=table["own_scales"][:, None],
            zero_bits=by_width("zero_bits"),
            weight_bits=width,
        )

    system = System(
        buffer=np.int64(choices.buffer_bytes),
        output_bits=(
            table["activation_bits"][:, None]
            if choices.output_bits is None
            else np.int64(choices.output_bits)
        ),
        scale_bits=np.int64(choices.scale_bits),
    )

    def column(items: Sequence[Any], name: str) -> np.ndarray:
        return np.array([[getattr(item, name) for item in items]], dtype=np.int64)

    kv_core = ints(kv)
    cache_scale = cost.scale_bits(kv_core, system)
    # Vectors of a result row, of those operators that write any: two at most.
    cache_row = np.zeros((1, 1), dtype=np.int64)
    for number in range(max((len(item.written) for item in linears), default=0)):
        vectors = np.array(
            [[item.written[number] if len(item.written) > number else (0, 1) for item in linears]],
            dtype=np.int64,
        )
        heads, dims = vectors[..., 0], vectors[..., 1]
        cache_row = cache_row + heads * (cost.row_bits(kv_core, dims) + cache_scale)
    k = column(linears, "k")
    core_at = ints(bits)
    group = np.minimum(choices.group, k) if choices.group else k
    own = np.array([[item.storage.group if item.storage else 0 for item in linears]])
    group = np.where(kept, np.minimum(np.where(own > 0, own, k), k), group)
    beside = np.array([[item.storage.group_bits if item.storage else 0 for item in linears]])
    group_bits = np.where(kept, (1 - core_at.own_scales) * beside, cost.scale_bits(core_at, system))
    linear = cost.linear(
        core_at,
        system,
        m=rows_of,
        n=column(linears, "n"),
        k=k,
        runs=times,
        instances=np.int64(1),
        starts=starts,
        group=group,
        group_bits=group_bits,
        cache_row_bits=cache_row,
        bias=column(linears, "bias"),
    )
    kv_at = np.broadcast_to(kv, (len(kv), len(attentions)))
    covered = table["covered_at"][np.arange(len(kv))[:, None], kv_at - 1]
    cache_core = ints(kv_at)
    cache_core = cache_core._replace(
        latency=cache_core.latency * covered,
        job_start=cache_core.job_start * covered,
        step_cycles=cache_core.step_cycles * covered,
    )
    # Products that see the same steps are evaluated together.
    sorts: dict[tuple[Any, ...], list[int]] = {}
    for index, operator in enumerate(attentions):
        same = (operator.tokens, operator.past, operator.steps, operator.causal)
        sorts.setdefault((*same, operator.rise, operator.serial), []).append(index)
    cycles_of = np.zeros((len(kv), len(attentions)), dtype=np.int64)
    bytes_of = np.zeros_like(cycles_of)
    for (tokens, past, steps, causal, rise, serial), places in sorts.items():
        items = [attentions[index] for index in places]
        result = cost.attention(
            cache_core._replace(
                **{name: getattr(cache_core, name)[:, places] for name in _BY_WIDTH}
            ),
            system,
            values=np.array([[int(item.kind == "values") for item in items]], dtype=np.int64),
            layers=column(items, "layers"),
            instances=column(items, "instances"),
            group=column(items, "group"),
            head_dim=column(items, "head_dim"),
            tokens=tokens,
            past=past,
            steps=steps,
            window=np.array([[item.window or cost.NO_WINDOW for item in items]], dtype=np.int64),
            causal=causal,
            rise=rise,
            serial=serial,
        )
        cycles_of[:, places], bytes_of[:, places] = result.cycles, result.bytes
    lookups = sum(item.vectors * item.width * TABLE_BITS // 8 for item in workload.lookups)
    # `linear` is of pieces; an operator's cycles and bytes are summed before the larger one binds.
    whole_cycles, whole_bytes = (
        np.add.reduceat(np.broadcast_to(part, (len(kv), len(pieces))), firsts, axis=1)
        for part in (linear.cycles, linear.bytes)
    )
    cycles = np.concatenate([whole_cycles, cycles_of], axis=1)
    size = np.concatenate([whole_bytes, bytes_of], axis=1)
    clock, bandwidth = table["clock"][:, None], table["bandwidth"][:, None]
    seconds = np.maximum(cycles / clock, size / bandwidth).sum(axis=1)
    seconds = seconds + lookups / table["bandwidth"]
    tile = table["m"] * table["n"] * table["k"]
    # Cycles times peak: the MACs that were possible. Off the core both are 0.
    rates = [
        spent / np.maximum(at.step_cycles, 1)
        for spent, at in ((linear.cycles, core_at), (cycles_of, cache_core))
    ]
    possible = np.concatenate(rates, axis=1).sum(axis=1) * tile
    macs = column(attentions, "macs")
    uncovered = (macs * ~covered).sum(axis=1)
    useful = workload.macs - uncovered
    return {
        "cycles": cycles.sum(axis=1),
        "bytes": size.sum(axis=1) + lookups,
        "seconds": seconds,
        "tokens_per_second": workload.new_tokens / seconds,
        "utilisation": np.divide(useful, possible, out=np.zeros(len(possible)), where=possible > 0),
        "uncovered_macs": uncovered,
    }
