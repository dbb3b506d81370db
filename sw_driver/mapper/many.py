"""Many workloads on many cores at once: the closed forms of a mapping on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from rtl_gen.errors import InputError
from sw_driver.mapper import cost
from sw_driver.mapper.choices import (
    Choices,
    attention_covered,
    check_choices,
    chosen_bits,
    core_ints,
)
from sw_driver.mapper.core import Core
from sw_driver.mapper.cost import CoreInts, System
from sw_driver.mapper.mapping import TABLE_BITS
from sw_driver.mapper.operator_cost import with_tables
from sw_driver.mapper.workload import Attention, Linear, Workload

if TYPE_CHECKING:
    import numpy as np

_PLAIN = (
    *("m", "n", "k", "max_k_steps", "activation_bits", "max_weight_bits", "min_weight_bits"),
    *("weight_passes", "activation_step_bits", "own_scales"),
)
"""Integers of a core."""

_OF_KIND = (
    *("job_cycles", "passes", "step_bits", "k", "zero_point", "encoding", "min_weight_bits"),
    *("latency", "table_source", "table_latency", "weight_format", "own_scales"),
)
"""What the figures of a width, and whether a choice fits, depend on."""

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


class Cores:
    """Cores as columns, laid out once for any number of evaluations.

    Args:
        cores: at least one.

    Attributes:
        kinds: one core of each sort that differs in what depends on widths, in their order.
        kind: ``(cores,)``, which of them each core is.

    Raises:
        InputError: there is none.
    """

    def __init__(self, cores: Sequence[Core]):
        import numpy as np

        if not cores:
            raise InputError("cores and workloads: must not be empty")
        columns = np.array(list(map(attrgetter(*_PLAIN), cores)), dtype=np.int64).T
        self.plain = dict(zip(_PLAIN, columns, strict=True))
        self.clock = np.array([core.clock_mhz for core in cores]) * 1e6
        self.bandwidth = np.array([core.bandwidth_gb_s for core in cores]) * 1e9
        # Cores of a sweep differ in few of their width tables: each distinct one is laid out once.
        numbers: dict[tuple[Any, ...], int] = {}
        keys = map(attrgetter(*_OF_KIND), cores)
        self.kind = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
        _, firsts = np.unique(self.kind, return_index=True)
        self.kinds = tuple(cores[index] for index in firsts)

    def __len__(self) -> int:
        return len(self.kind)


def evaluate_many(
    cores: Sequence[Core] | Cores, workloads: Sequence[Workload], choices: Choices | None = None
) -> ManyCosts:
    """Every workload on every core: the totals of :func:`map_workload`, vectorised over cores and
    operators.

    Raises:
        InputError: as :func:`map_workload`, or there is no core or no workload.
    """
    import numpy as np

    columns = cores if isinstance(cores, Cores) else Cores(cores)
    every = np.arange(len(columns))
    return evaluate_points(
        columns, [choices or Choices()], workloads, core=every, choice=np.zeros_like(every)
    )


def evaluate_points(
    cores: Sequence[Core] | Cores,
    choices: Sequence[Choices],
    workloads: Sequence[Workload],
    *,
    core: np.ndarray,
    choice: np.ndarray,
    clock_mhz: np.ndarray | None = None,
    bandwidth_gb_s: np.ndarray | None = None,
) -> ManyCosts:
    """Every workload at every design point, on arrays: no loop runs over points.

    Args:
        core, choice: ``(points,)``, indices into cores and choices.
        clock_mhz, bandwidth_gb_s: ``(points,)``, or one number for all; the core's if None.

    Returns:
        The totals of :func:`map_workload`, ``(points, workloads)``.

    Raises:
        InputError: as :func:`map_workload` (of a choice and the first core of a kind that it does
            not fit), or there is no core or no workload.
    """
    import numpy as np

    columns = cores if isinstance(cores, Cores) else Cores(cores)
    if not choices or not workloads:
        raise InputError("cores and workloads: must not be empty")
    for item in choices:
        _single(item, workloads)
    for work in workloads:
        if work.macs > MAX_MACS:
            raise InputError(
                f"{work.name}: {work.phase}: must have at most {MAX_MACS} MACs to be evaluated in "
                f"64-bit integers, got {work.macs}"
            )
    core, choice = np.asarray(core), np.asarray(choice)
    kind = columns.kind[core]
    pairs = np.unique(kind * len(choices) + choice)
    stored = any(
        item.storage is not None
        for work in workloads
        for item in work.operators
        if isinstance(item, Linear)
    )
    for pair in pairs.tolist():
        number, chosen = divmod(pair, len(choices))
        if stored or choices[chosen] != Choices():
            check_choices(columns.kinds[number], choices[chosen], workloads)
    table = {name: column[core] for name, column in columns.plain.items()}
    table |= _width_tables(columns, choices, kind, choice)
    table["ternary"] = np.array([item.ternary for item in columns.kinds])[kind]
    table["weight_format"] = np.array([item.weight_format for item in columns.kinds])[kind]
    for name, given, own in (
        ("clock", None if clock_mhz is None else np.asarray(clock_mhz) * 1e6, columns.clock),
        (
            "bandwidth",
            None if bandwidth_gb_s is None else np.asarray(bandwidth_gb_s) * 1e9,
            columns.bandwidth,
        ),
    ):
        table[name] = own[core] if given is None else np.broadcast_to(given, core.shape)
        if given is not None and not (np.isfinite(table[name]) & (table[name] > 0)).all():
            unit = "clock_mhz" if name == "clock" else "bandwidth_gb_s"
            raise InputError(f"{unit}: must be above 0 at every point")
    for name, values in (
        ("kv", [item.kv_bits or 0 for item in choices]),
        ("group", [item.group or 0 for item in choices]),
        ("buffer", [item.buffer_bytes for item in choices]),
        ("output_bits", [item.output_bits or 0 for item in choices]),
        ("scale_bits", [item.scale_bits for item in choices]),
    ):
        table[name] = np.array(values, dtype=np.int64)[choice]
    parts = [_evaluate(table, work, choices, choice) for work in workloads]
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


def _width_tables(
    columns: Cores, choices: Sequence[Choices], kind: np.ndarray, choice: np.ndarray
) -> dict[str, np.ndarray]:
    """What depends on the weight width, ``(points, widths)``, by width − 1."""
    import numpy as np

    deepest = max(16, int(columns.plain["max_weight_bits"].max()))
    # Of the choices, widths depend on where tables come from alone.
    forms = list(dict.fromkeys(item.tables for item in choices))
    form = np.array([forms.index(item.tables) for item in choices])[choice]
    widths = np.array(
        [
            [
                [
                    attrgetter(*_BY_WIDTH)(
                        with_tables(item, core_ints(item, bits), Choices(tables=of))
                    )
                    for bits in range(1, deepest + 1)
                ]
                for of in forms
            ]
            for item in columns.kinds
        ],
        dtype=np.int64,
    )
    covered = np.array(
        [
            [attention_covered(item, bits) for bits in range(1, deepest + 1)]
            for item in columns.kinds
        ]
    )
    found = {f"{name}_at": widths[kind, form, :, at] for at, name in enumerate(_BY_WIDTH)}
    return {**found, "covered_at": covered[kind]}


def _evaluate(
    table: dict[str, np.ndarray],
    workload: Workload,
    choices: Sequence[Choices],
    choice: np.ndarray,
) -> dict[str, np.ndarray]:
    """Totals of one workload, ``(points,)``."""
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
    kv = np.where(table["ternary"], 8, np.where(least == most, most, np.minimum(8, most)))
    kv = np.where(table["kv"] > 0, table["kv"], kv)[:, None]

    asked = [[chosen_bits(item, one) for item in linears] for one in choices]
    chosen = np.array(asked, dtype=np.int64)[choice]
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
        buffer=table["buffer"][:, None],
        output_bits=np.where(
            table["output_bits"] > 0, table["output_bits"], table["activation_bits"]
        )[:, None],
        scale_bits=table["scale_bits"][:, None],
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
    given = table["group"][:, None]
    group = np.where(given > 0, np.minimum(given, k), k)
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
