"""A workload on a GEMM core: cycles, bytes, seconds and what binds, operator by operator.

:func:`map_workload` maps one workload without numpy; :func:`evaluate_many` maps many workloads on
many cores at once, by the same closed forms (:mod:`sw_driver.cost`) on arrays.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rtl_gen.errors import InputError
from sw_driver import cost
from sw_driver.architecture import Storage
from sw_driver.core import Core
from sw_driver.cost import CoreInts, System
from sw_driver.workload import Attention, Linear, Operator, Workload

if TYPE_CHECKING:
    import numpy as np

BUFFER_BYTES = 2 * 1024 * 1024
SCALE_BITS = 16
TABLE_BITS = 16
"""Width of embedding tables."""

MAX_MACS = 1 << 56
"""Largest workload whose every count fits 64 bits; a single mapping has no such bound."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What is chosen for a mapping.

    Attributes:
        weight_bits: of all linear layers; None for 2 where the checkpoint is ternary and the core's
            widest elsewhere.
        operator_bits: exceptions by operator name.
        kv_bits: width of the KV cache; None for the core's widest. A width beyond the core's leaves
            attention off the core, as ternary weights do.
        group: elements of K that share a scale; None for one scale a row.
        buffer_bytes: on-chip buffer for operands beside the core.
        output_bits: width of results in memory; None for the width of activations.
        scale_bits: width of a scale.
    """

    weight_bits: int | None = None
    operator_bits: MappingType[str, int] = field(default_factory=dict)
    kv_bits: int | None = None
    group: int | None = None
    buffer_bytes: int = BUFFER_BYTES
    output_bits: int | None = None
    scale_bits: int = SCALE_BITS


@dataclass(frozen=True, kw_only=True)
class OperatorCost:
    """One operator of a phase on a core; all figures are of the whole phase.

    Attributes:
        shape: ``(M, N, K)`` of one GEMM; of attention N or K is the longest run of visible tokens.
        gemms: how many of them. bits: width of W.
        covered: whether the core does it; if not, jobs and cycles are 0 and only its memory traffic
            is in the seconds.
        utilisation: useful MACs by those that the core could do in these cycles at this width.
        outside: elements that are scaled or added outside the core.
        weight_reads, activation_reads: how often each operand comes from memory.
    """

    name: str
    kind: str
    shape: tuple[int, int, int]
    gemms: int
    bits: int
    covered: bool
    macs: int
    jobs: int
    cycles: int
    utilisation: float
    weight_bytes: int
    scale_bytes: int
    activation_bytes: int
    output_bytes: int
    outside: int
    weight_reads: int
    activation_reads: int
    compute_seconds: float
    memory_seconds: float

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.scale_bytes + self.activation_bytes + self.output_bytes

    @property
    def seconds(self) -> float:
        return max(self.compute_seconds, self.memory_seconds)

    @property
    def bound(self) -> str:
        return "compute" if self.compute_seconds >= self.memory_seconds else "memory"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = asdict(self)
        data["shape"] = list(self.shape)
        return {**data, "bytes": self.bytes, "seconds": self.seconds, "bound": self.bound}


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """A workload on a core.

    Attributes:
        vector: elements outside matrix products by name; no seconds are charged for them.
    """

    workload: Workload
    core: Core
    choices: Choices
    kv_bits: int
    operators: tuple[OperatorCost, ...]
    vector: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]

    @cached_property
    def cycles(self) -> int:
        return sum(item.cycles for item in self.operators)

    @cached_property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.operators)

    @cached_property
    def seconds(self) -> float:
        return sum(item.seconds for item in self.operators)

    @cached_property
    def macs(self) -> int:
        return sum(item.macs for item in self.operators)

    @cached_property
    def uncovered_macs(self) -> int:
        """MACs that this core does not do, and that no seconds of computing are charged for."""
        return sum(item.macs for item in self.operators if not item.covered)

    @cached_property
    def utilisation(self) -> float:
        """Useful MACs by those possible in the cycles spent, each operator at its width."""
        possible = sum(
            item.cycles * self.core.peak_macs(item.bits) for item in self.operators if item.cycles
        )
        return (self.macs - self.uncovered_macs) / possible if possible else 0.0

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all sequences per second."""
        return self.workload.batch * self.workload.tokens / self.seconds

    @cached_property
    def parameter_bytes(self) -> int:
        """Memory that the parameters take: packed weights with scales, the rest at 16 bits."""
        arch = self.workload.architecture
        system = system_of(self.core, self.choices)
        by_role: dict[str, list[Linear]] = {}
        for item in self.workload.operators:
            if isinstance(item, Linear):
                by_role.setdefault(item.role, []).append(item)
        if arch.latent and "kv_b" not in by_role:
            # Its absorbed parts are the whole, one along N and one across it.
            by_role["kv_b"] = by_role["v_up"]

        def matrix(item: Linear, n: int, k: int) -> int:
            ints = core_ints(self.core, operator_bits(item, self.core, self.choices))
            group = _group(item, self.core, self.choices, k)
            scales = n * cost.ceil_div(k, group) * _scale_bits(item, self.choices, ints, system)
            return int(cost.ceil_div(n * cost.row_bits(ints, k) + scales, 8))

        packed = 0
        for tensor in arch.tensors:
            items = by_role.get(tensor.role)
            if items is None or len(tensor.shape) != 2:
                packed += 2 * tensor.parameters
                continue
            # Operators of one role differ in format or in rows; those of one format are alike.
            runs = {item.storage: item for item in items}
            layers = {item.storage: 0 for item in items}
            for storage, count in arch.stored.get(tensor.role, ()):
                if storage in layers:
                    layers[storage] += count
            whole = sum(layers.values()) or len(runs)
            for kind, item in runs.items():
                share = tensor.count * (layers[kind] or 1) // whole
                packed += share * matrix(item, *tensor.shape)
        if arch.head and arch.tied:
            # The table is read as vectors at 16 bits and multiplied as packed weights: two copies.
            (item,) = by_role["lm_head"]
            packed += matrix(item, arch.vocab, arch.embedding_width or arch.hidden)
        return packed

    @cached_property
    def cache_bytes(self) -> int:
        """Memory that the KV cache takes after the phase, a window's length where there is one."""
        work = self.workload
        arch = work.architecture
        if not arch.causal:
            return 0
        last = work.context + work.tokens
        token_bits = _cache_bits(work.cached, self.core, self.choices)
        tokens = sum(group.count * min(last, group.window or last) for group in arch.layer_groups)
        return cost.ceil_div(work.batch * tokens * token_bits, 8)


def core_ints(core: Core, bits: int) -> CoreInts:
    """The core at a weight width; one that it does not have gets no cycles, only bytes."""
    inside = bits in core.widths
    at = bits - 1
    start, step = core.job_cycles[at] if inside else (0, 0)
    return CoreInts(
        m=core.m,
        n=core.n,
        k=core.k,
        max_k_steps=core.max_k_steps,
        latency=core.latency if inside else 0,
        job_start=start,
        step_cycles=step,
        passes=core.passes[at] if inside else 1,
        weight_passes=core.weight_passes,
        step_bits=core.step_bits[at] if inside else core.k * bits,
        activation_bits=core.activation_bits,
        activation_step_bits=core.activation_step_bits,
        own_scales=core.own_scales,
        zero_bits=bits if core.zero_point else 0,
        weight_bits=bits,
    )


def system_of(core: Core, choices: Choices) -> System:
    return System(
        buffer=choices.buffer_bytes,
        output_bits=choices.output_bits or core.activation_bits,
        scale_bits=choices.scale_bits,
    )


def operator_bits(operator: Operator, core: Core, choices: Choices) -> int:
    """The width of an operator's W."""
    if isinstance(operator, Attention):
        return kv_width(core, choices)
    chosen = _chosen_bits(operator, choices)
    if chosen:
        return chosen
    if operator.storage is not None and operator.storage.bits:
        return _stored_bits(operator.storage, core)
    return 2 if operator.ternary and 2 in core.widths else core.max_weight_bits


def as_stored(operator: Linear, choices: Choices) -> bool:
    """Whether an operator's weights are the codes and scales that the checkpoint holds."""
    return bool(operator.storage and operator.storage.bits) and not _chosen_bits(operator, choices)


def takes(core: Core, storage: Storage) -> bool:
    """Whether a core multiplies with weights as a checkpoint stores them, to the same value.

    Integers of ``B`` bits are codes of every integer encoding of at least ``B`` bits: two's
    complement, zero points and odd levels differ by a shift that a sum of activations undoes
    (arXiv 2408.06003, section 3). A ternary core takes ternary codes, a core that has its own
    scales weights of its own format.
    """
    if core.own_scales or core.weight_format:
        return storage.float_format == core.weight_format != ""
    if core.ternary:
        return storage.ternary
    return _stored_bits(storage, core) in core.widths


def needs_sums(core: Core, storage: Storage) -> bool:
    """Whether a product of stored weights takes sums of activations beside what a core computes.

    It does for offsets, and for codes that are shifted into an encoding without zero points.
    """
    if core.own_scales or core.ternary:
        return False
    shifted = not core.zero_point and not (storage.signed and core.encoding == "twos_complement")
    return storage.offset or shifted


def _stored_bits(storage: Storage, core: Core) -> int:
    """The width that stored codes have in a core: narrower ones than it has are its narrowest."""
    if core.weight_format and core.weight_format == storage.float_format:
        return core.max_weight_bits
    return max(storage.integer_bits, core.min_weight_bits)


def _group(operator: Linear, core: Core, choices: Choices, k: int) -> int:
    """Elements of K that share a scale."""
    if as_stored(operator, choices) and operator.storage is not None:
        return min(operator.storage.group or k, k)
    return min(choices.group or k, k)


def _scale_bits(operator: Linear, choices: Choices, ints: CoreInts, system: System) -> Any:
    """Bits of the scale of a group and of what lies beside it, applied outside of the core."""
    if as_stored(operator, choices) and operator.storage is not None:
        return (1 - ints.own_scales) * operator.storage.group_bits
    return cost.scale_bits(ints, system)


def kv_width(core: Core, choices: Choices) -> int:
    """The width of the KV cache: the core's only one, or its widest up to 8, unless chosen."""
    if choices.kv_bits is not None:
        return choices.kv_bits
    if core.ternary:
        return 8
    return core.max_weight_bits if len(core.widths) == 1 else min(8, core.max_weight_bits)


def attention_covered(core: Core, bits: int) -> bool:
    """Whether a core multiplies activations with a KV cache of that width.

    It does if jobs can have the width and its encoding holds integers of any sign at it: unsigned
    with a zero point, two's complement, or bipolar from two bits on. {−1, 0, +1} holds no cache.
    """
    return bits in core.widths and not core.ternary and (core.encoding != "bipolar" or bits > 1)


def check_choices(core: Core, choices: Choices, workloads: Sequence[Workload]) -> None:
    """Every choice against the core and the operators.

    Raises:
        InputError: with every problem.
    """
    problems = []
    least, most = core.widths[0], core.widths[-1]
    rule = f"must lie in [{least}, {most}] for {core.name}"
    if core.ternary:
        rule = f"must be {most} for {core.name}, whose weights are ternary"
    if choices.weight_bits is not None and choices.weight_bits not in core.widths:
        problems.append(f"weight_bits: {rule}, got {choices.weight_bits}")
    linears = [item for work in workloads for item in work.operators if isinstance(item, Linear)]
    known = {name for item in linears for name in _names(item)}
    unfit: dict[Storage, list[str]] = {}
    for item in linears:
        if item.storage and as_stored(item, choices) and not takes(core, item.storage):
            unfit.setdefault(item.storage, []).append(_names(item)[0])
    for storage, names in unfit.items():
        among = ", ".join(dict.fromkeys(names))
        problems.append(
            f"weight_bits: {among}: stored as {storage.name}, {storage.integer_bits}-bit integers "
            f"that are no weights of {core.name}; a width for them requantizes"
        )
    for name, bits in choices.operator_bits.items():
        if name not in known:
            among = ", ".join(sorted(known))
            problems.append(f"weight_bits: {name}: must be one of {among}, got {name!r}")
        elif bits not in core.widths:
            problems.append(f"weight_bits: {name}: {rule}, got {bits}")
    if choices.kv_bits is not None and not 1 <= choices.kv_bits <= 16:
        problems.append(f"kv_bits: must lie in [1, 16], got {choices.kv_bits}")
    if choices.group is not None and core.own_scales:
        problems.append(
            f"group: must not be given for {core.name}, whose format says where scales are, got "
            f"{choices.group}"
        )
    elif choices.group is not None and not 1 <= choices.group <= 1 << 20:
        problems.append(f"group: must lie in [1, {1 << 20}], got {choices.group}")
    if not 0 <= choices.buffer_bytes <= 1 << 40:
        problems.append(f"buffer_bytes: must lie in [0, {1 << 40}], got {choices.buffer_bytes}")
    if choices.output_bits is not None and not 1 <= choices.output_bits <= 64:
        problems.append(f"output_bits: must lie in [1, 64], got {choices.output_bits}")
    if not 0 <= choices.scale_bits <= 64:
        problems.append(f"scale_bits: must lie in [0, 64], got {choices.scale_bits}")
    if problems:
        raise InputError("\n".join(problems))


def map_workload(workload: Workload, core: Core, choices: Choices | None = None) -> Mapping:
    """A workload on a core.

    Raises:
        InputError: a choice does not fit the core or the model; one line per problem.
    """
    choices = choices or Choices()
    check_choices(core, choices, [workload])
    system = system_of(core, choices)
    clock, bandwidth = core.clock_mhz * 1e6, core.bandwidth_gb_s * 1e9
    rows = []
    outside = sums = 0
    for operator in workload.operators:
        bits = operator_bits(operator, core, choices)
        ints = core_ints(core, bits)
        covered = True
        if isinstance(operator, Attention):
            covered = attention_covered(core, bits)
            if not covered:
                ints = ints._replace(latency=0, job_start=0, step_cycles=0)
            result = _attention_cost(operator, ints, system)
            seen = min(operator.window or cost.NO_WINDOW, operator.last)
            shape = (operator.rows, seen, operator.head_dim)
            if operator.kind == "values":
                shape = (operator.rows, operator.head_dim, seen)
            gemms = operator.runs * operator.instances
        else:
            result = _linear_cost(operator, core, ints, system, choices)
            storage = operator.storage
            if storage and as_stored(operator, choices) and needs_sums(core, storage):
                sums += operator.total_rows * operator.k
            shape = (operator.m, operator.n, operator.k)
            gemms = operator.gemms
        outside += result.outside
        peak = core.peak_macs(bits) if covered else 0.0
        rows.append(
            OperatorCost(
                name=operator.name,
                kind="linear" if isinstance(operator, Linear) else operator.kind,
                shape=shape,
                gemms=gemms,
                bits=bits,
                covered=covered,
                macs=operator.macs,
                jobs=result.jobs if covered else 0,
                cycles=result.cycles,
                utilisation=operator.macs / (result.cycles * peak) if covered else 0.0,
                weight_bytes=result.weight_bytes,
                scale_bytes=result.scale_bytes,
                activation_bytes=result.activation_bytes,
                output_bytes=result.output_bytes,
                outside=result.outside,
                weight_reads=result.weight_reads,
                activation_reads=result.activation_reads,
                compute_seconds=result.cycles / clock,
                memory_seconds=result.bytes / bandwidth,
            )
        )
    for table in workload.lookups:
        size = table.vectors * table.width * TABLE_BITS // 8
        rows.append(
            OperatorCost(
                name=table.name,
                kind="lookup",
                shape=(table.vectors, 1, table.width),
                gemms=1,
                bits=TABLE_BITS,
                covered=True,
                macs=0,
                jobs=0,
                cycles=0,
                utilisation=0.0,
                weight_bytes=size,
                scale_bytes=0,
                activation_bytes=0,
                output_bytes=0,
                outside=0,
                weight_reads=1,
                activation_reads=0,
                compute_seconds=0.0,
                memory_seconds=size / bandwidth,
            )
        )
    vector = [(item.name, item.elements) for item in workload.vector]
    vector.append(("scale and add partial results", outside))
    if sums:
        vector.append(("sum activations for offsets", sums))
    return Mapping(
        workload=workload,
        core=core,
        choices=choices,
        kv_bits=kv_width(core, choices),
        operators=tuple(rows),
        vector=tuple(vector),
        notes=(*workload.notes, *_notes(workload, core, choices)),
    )


def _linear_cost(
    operator: Linear,
    core: Core,
    ints: CoreInts,
    system: System,
    choices: Choices,
) -> cost.Cost:
    """What a linear layer takes; of experts of different rows the sum, to the nearest integer."""

    def one(m: int, runs: int, instances: int, starts: int | None = None) -> cost.Cost:
        return cost.linear(
            ints,
            system,
            m=m,
            n=operator.n,
            k=operator.k,
            runs=runs,
            instances=instances,
            group=_group(operator, core, choices, operator.k),
            group_bits=_scale_bits(operator, choices, ints, system),
            cache_row_bits=_cache_bits(operator.written, core, choices),
            bias=int(operator.bias),
            starts=starts,
            rising=operator.rising,
        )

    if not operator.ragged:
        steps = operator.rising.steps if operator.rising else 1
        return one(operator.m, operator.runs // steps, operator.instances)
    sums: list[float] = [0] * len(cost.Cost._fields)
    reads = (cost.Cost._fields.index("weight_reads"), cost.Cost._fields.index("activation_reads"))
    for rows, count in operator.ragged:
        for index, value in enumerate(one(rows, 1, 1, starts=0)):
            if index in reads:
                sums[index] = max(sums[index], value)
            else:
                sums[index] += value * count
    found = cost.Cost(*map(round, sums))
    return found._replace(cycles=found.cycles + operator.runs * ints.latency)


def _cache_bits(vectors: Sequence[tuple[int, int]], core: Core, choices: Choices) -> int:
    """Bits that vectors of a token, ``(heads, channels)``, take in the cache of one layer."""
    ints = core_ints(core, kv_width(core, choices))
    scale = cost.scale_bits(ints, system_of(core, choices))
    return sum(int(heads * (cost.row_bits(ints, dim) + scale)) for heads, dim in vectors)


def _attention_cost(operator: Attention, ints: CoreInts, system: System) -> cost.Cost:
    return cost.attention(
        ints,
        system,
        values=int(operator.kind == "values"),
        layers=operator.layers,
        instances=operator.instances,
        group=operator.group,
        head_dim=operator.head_dim,
        tokens=operator.tokens,
        past=operator.past,
        steps=operator.steps,
        window=operator.window or cost.NO_WINDOW,
        causal=operator.causal,
        rise=operator.rise,
        serial=operator.serial,
    )


def _notes(workload: Workload, core: Core, choices: Choices) -> list[str]:
    notes = []
    bits = kv_width(core, choices)
    if not attention_covered(core, bits):
        notes.append(
            f"scores and values are not done by {core.name}: a KV cache of {bits} bits does not "
            f"fit {core.encoding} weights of up to {core.max_weight_bits} bits; of their "
            f"{_attention_macs(workload):,} MACs in {workload.phase} only the memory traffic is in "
            "the seconds"
        )
    linears = [item for item in workload.operators if isinstance(item, Linear)]
    ternary = any(item.ternary for item in linears)
    notes += _storage_notes(linears, core, choices)
    narrow = [
        item.name for item in linears if item.ternary and operator_bits(item, core, choices) < 2
    ]
    if narrow:
        names = ", ".join(narrow)
        notes.append(f"{{−1, 0, +1}} needs 2 bits: the weights of {names} are requantized")
    kept = all(as_stored(item, choices) for item in linears if item.ternary)
    if ternary and core.encoding == "bipolar" and not kept:
        notes.append("the model's {−1, 0, +1} are no bipolar codes: its weights are requantized")
    dense = [item.name for item in linears if not item.ternary]
    if core.ternary and not ternary:
        notes.append("the model was not trained ternary: its weights are requantized")
    elif core.ternary and dense:
        names = ", ".join(dense)
        notes.append(f"not trained ternary in this model: the weights of {names} are requantized")
    if workload.experts_touched:
        mlp = next(g.mlp for g in workload.architecture.layer_groups if g.mlp.experts)
        notes.append(
            f"{mlp.active} of {mlp.experts} experts a token, balanced routing: "
            f"{workload.experts_touched} distinct experts a layer and step"
        )
    return notes


def _storage_notes(linears: Sequence[Linear], core: Core, choices: Choices) -> list[str]:
    """What becomes of weights as a checkpoint stores them; nothing where none was read."""
    notes = []
    stored = [item for item in linears if item.storage is not None]
    kept: dict[str, None] = {}
    changed: dict[str, list[str]] = {}
    widened: dict[str, None] = {}
    for item in stored:
        storage = item.storage
        if storage is None:
            continue
        if as_stored(item, choices):
            kept[storage.name] = None
            wide = operator_bits(item, core, choices) > storage.integer_bits
            if wide and not core.own_scales:
                widened[storage.name] = None
        else:
            changed.setdefault(storage.name, []).append(_names(item)[0])
    if kept:
        notes.append(f"weights stored as {', '.join(kept)} are mapped as they are")
    if widened:
        notes.append(
            f"codes of {', '.join(widened)} are narrower than those of {core.name}, whose width "
            "they take in memory"
        )
    for name, roles in changed.items():
        among = ", ".join(dict.fromkeys(roles))
        notes.append(f"stored as {name}, quantized for {core.name}: {among}")
    return notes


def _names(operator: Linear) -> tuple[str, str]:
    """What an operator is called in choices: with and without what marks it as an expert's."""
    name = operator.name.split(" (")[0]
    return name, name.removeprefix("expert ").removeprefix("shared ")


def _attention_macs(workload: Workload) -> int:
    return sum(item.macs for item in workload.operators if isinstance(item, Attention))


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
        )
        which[index] = keys.setdefault(key, len(keys))
    first: dict[int, Core] = {}
    for core, number in zip(cores, which.tolist(), strict=True):
        first.setdefault(number, core)
    fields = ("latency", "job_start", "step_cycles", "passes", "step_bits", "zero_bits")
    widths = np.array(
        [
            [
                [getattr(core_ints(core, bits), name) for bits in range(1, deepest + 1)]
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

    linears = [item for item in workload.operators if isinstance(item, Linear)]
    attentions = [item for item in workload.operators if isinstance(item, Attention)]
    widest = table["max_weight_bits"][:, None]
    most, least = table["max_weight_bits"], table["min_weight_bits"]
    kv = np.where(table["ternary"], 8, np.where(least == most, most, np.minimum(8, most)))[:, None]
    if choices.kv_bits is not None:
        kv = np.full_like(kv, choices.kv_bits)

    chosen = np.array([[_chosen_bits(item, choices) for item in linears]], dtype=np.int64)
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
        m=column(linears, "m"),
        n=column(linears, "n"),
        k=k,
        runs=column(linears, "runs"),
        instances=column(linears, "instances"),
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
    one = attentions[0]
    attention = cost.attention(
        cache_core,
        system,
        values=np.array([[int(item.kind == "values") for item in attentions]], dtype=np.int64),
        layers=column(attentions, "layers"),
        instances=column(attentions, "instances"),
        group=column(attentions, "group"),
        head_dim=column(attentions, "head_dim"),
        tokens=one.tokens,
        past=one.past,
        steps=one.steps,
        window=np.array([[item.window or cost.NO_WINDOW for item in attentions]], dtype=np.int64),
        causal=one.causal,
    )
    lookups = sum(item.vectors * item.width * TABLE_BITS // 8 for item in workload.lookups)
    cycles = np.concatenate([linear.cycles, attention.cycles], axis=1)
    size = np.concatenate([linear.bytes, attention.bytes], axis=1)
    clock, bandwidth = table["clock"][:, None], table["bandwidth"][:, None]
    seconds = np.maximum(cycles / clock, size / bandwidth).sum(axis=1)
    seconds = seconds + lookups / table["bandwidth"]
    tile = table["m"] * table["n"] * table["k"]
    # Cycles times peak: the MACs that were possible. Off the core both are 0.
    rates = [
        part.cycles / np.maximum(at.step_cycles, 1)
        for part, at in ((linear, core_at), (attention, cache_core))
    ]
    possible = np.concatenate(rates, axis=1).sum(axis=1) * tile
    macs = column(attentions, "macs")
    uncovered = (macs * ~covered).sum(axis=1)
    useful = workload.macs - uncovered
    return {
        "cycles": cycles.sum(axis=1),
        "bytes": size.sum(axis=1) + lookups,
        "seconds": seconds,
        "tokens_per_second": workload.batch * workload.tokens / seconds,
        "utilisation": np.divide(useful, possible, out=np.zeros(len(possible)), where=possible > 0),
        "uncovered_macs": uncovered,
    }


def _chosen_bits(operator: Linear, choices: Choices) -> int:
    """The width that was chosen for an operator, 0 for none."""
    for key in _names(operator):
        if key in choices.operator_bits:
            return choices.operator_bits[key]
    return choices.weight_bits or 0
