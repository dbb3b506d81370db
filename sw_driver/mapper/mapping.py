"""A workload on a GEMM core: cycles, bytes, seconds and what binds, operator by operator.

:func:`map_workload` maps one workload without numpy; :func:`sw_driver.mapper.many.evaluate_many`
maps many workloads on many cores at once, by the same closed forms
(:mod:`sw_driver.mapper.cost`) on arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from sw_driver.mapper import cost
from sw_driver.mapper.cache_format import SCALE_BITS
from sw_driver.mapper.choices import (
    BUFFER_BYTES,
    Choices,
    as_stored,
    attends,
    attention_covered,
    check_choices,
    core_ints,
    group_of,
    group_scale_bits,
    kv_width,
    names_of,
    needs_sums,
    operator_bits,
    system_of,
    tables_of,
    takes,
)
from sw_driver.mapper.core import Core
from sw_driver.mapper.operator_cost import attention_cost, cache_bits, linear_cost
from sw_driver.mapper.workload import Attention, Linear, Workload

__all__ = [
    "BUFFER_BYTES",
    "SCALE_BITS",
    "Choices",
    "Mapping",
    "OperatorCost",
    "attention_covered",
    "check_choices",
    "core_ints",
    "kv_width",
    "map_workload",
    "operator_bits",
    "system_of",
    "takes",
]

TABLE_BITS = 16
"""Width of embedding tables."""


@dataclass(frozen=True, kw_only=True)
class OperatorCost:
    """One operator of a phase on a core; all figures are of the whole phase.

    Attributes:
        shape: ``(M, N, K)`` of one GEMM; of attention N or K is the longest run of visible tokens,
            of experts that do not get the same M is the mean.
        gemms: how many of them. bits: width of W.
        covered: whether the core does it; if not, jobs and cycles are 0 and only its memory traffic
            is in the seconds.
        utilisation: useful MACs by those that the core could do in these cycles at this width.
        outside: elements that are scaled or added outside the core.
        weight_reads, activation_reads: how often each operand comes from memory.
        peak_seconds: what its MACs would take at the core's peak for the width.
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
    peak_seconds: float

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
        return self.workload.new_tokens / self.seconds

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
            group = group_of(item, self.choices, k)
            scales = (
                n * cost.ceil_div(k, group) * group_scale_bits(item, self.choices, ints, system)
            )
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
            item = by_role["lm_head"][0]
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
        if work.rise is not None:
            # Of the last step's tokens all are there before some are rejected.
            drafted = work.drafted + (work.phase == "verify")
            last = work.context + work.rise.at(work.steps // self._runs - 1) + drafted
        sequences = [(work.batch, last)]
        if work.riders:
            sequences.append((work.riders, work.rider_context + work.steps))
        scheme = self.choices.kv
        if scheme is not None:
            return sum(
                count
                * group.count
                * scheme.token_layer_bytes(min(tokens, group.window or tokens), work.cached)
                for count, tokens in sequences
                for group in arch.layer_groups
            )
        token_bits = cache_bits(work.cached, self.core, self.choices)
        held = sum(
            count * group.count * min(tokens, group.window or tokens)
            for count, tokens in sequences
            for group in arch.layer_groups
        )
        return cost.ceil_div(held * token_bits, 8)

    @property
    def _runs(self) -> int:
        """Runs through all layers of a step: of a draft one for each token."""
        return self.workload.drafted if self.workload.phase == "draft" else 1


def map_workload(workload: Workload, core: Core, choices: Choices | None = None) -> Mapping:
    """A workload on a core.

    Raises:
        InputError: a choice does not fit the core or the model; one line per problem.
    """
    choices = choices or Choices()
    check_choices(core, choices, [workload])
    system = system_of(core, choices)
    clock, bandwidth = core.clock_mhz * 1e6, core.bandwidth_gb_s * 1e9
    covers = attends(core, choices)
    rows = []
    outside = sums = 0
    for operator in workload.operators:
        bits = operator_bits(operator, core, choices)
        covered = True
        if isinstance(operator, Attention):
            covered = covers
            result = attention_cost(operator, core, system, choices)
            seen = min(operator.window or cost.NO_WINDOW, operator.last)
            shape = (operator.rows, seen, operator.head_dim)
            if operator.kind == "values":
                shape = (operator.rows, operator.head_dim, seen)
            gemms = operator.runs * operator.instances
        else:
            result = linear_cost(operator, core, core_ints(core, bits), system, choices)
            storage = operator.storage
            if storage and as_stored(operator, choices) and needs_sums(core, storage):
                sums += operator.total_rows * operator.k
            gemms = operator.gemms
            rows_each = operator.m
            if operator.ragged:
                rows_each = max(1, round(operator.total_rows / max(1, gemms)))
            shape = (rows_each, operator.n, operator.k)
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
                peak_seconds=operator.macs / (peak * clock) if covered else 0.0,
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
                peak_seconds=0.0,
            )
        )
    # A fused unit quantizes what it makes tables of.
    done = ("quantize activations",) if tables_of(core, choices) == "fused" and covers else ()
    vector = [(item.name, item.elements) for item in workload.vector if item.name not in done]
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


def _notes(workload: Workload, core: Core, choices: Choices) -> list[str]:
    notes = _cache_notes(workload, core, choices)
    form = tables_of(core, choices)
    if form in ("unit", "fused", "memory"):
        notes.append(_TABLES[form].format(core=core.name))
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
        touched = workload.experts_touched
        most = " at most" if workload.routing.kind == "histogram" else ""
        notes.append(
            f"{mlp.active} of {mlp.experts} experts a token, {workload.routing} routing: "
            f"{touched:.6g} distinct experts a layer and step of {workload.phase}{most}"
        )
        if workload.routing.kind == "uniform":
            notes.append(
                "figures of the experts are expectations over random routing, each rounded to the "
                "nearest integer"
            )
    if workload.rise is not None and workload.phase == "verify":
        rise = workload.rise
        notes.append(
            f"{workload.drafted} tokens drafted a step, {rise.up / rise.down:.4g} tokens a step "
            f"expected ({rise.up}/{rise.down}): {workload.steps} steps for {workload.tokens} "
            "tokens, step s after context + floor(s · expected) tokens"
        )
    return notes


_TABLES = {
    "unit": "tables of {core} come from a lut_tables unit at its port, whose area is its own",
    "fused": "tables of {core} come from a fused_tables unit, which takes FP16 rows (all results "
    "are written as such) and quantizes them; its area is its own",
    "memory": "tables of {core} are made in a pass before each product, written to memory and "
    "read from there",
}


def _cache_notes(workload: Workload, core: Core, choices: Choices) -> list[str]:
    """What a cache's format means for attention."""
    notes = []
    scheme, bits = choices.kv, kv_width(core, choices)
    if scheme is not None and scheme.kind == "xquant":
        notes.append(
            f"{scheme.name}: keys and values of all visible tokens are computed again from cached "
            "inputs in every step and go to attention on the chip"
        )
    if attends(core, choices):
        return notes
    if scheme is not None and scheme.kind == "kivi":
        why = (
            f"the scales of {scheme.name} lie along the channels of keys, which a product sums over"
        )
    elif scheme is not None and scheme.kind == "float":
        why = f"a KV cache of {scheme.name} is none of its weights"
    else:
        why = (
            f"a KV cache of {bits} bits does not fit {core.encoding} weights of up to "
            f"{core.max_weight_bits} bits"
        )
    notes.append(
        f"scores and values are not done by {core.name}: {why}; of their "
        f"{_attention_macs(workload):,} MACs in {workload.phase} only the memory traffic is in "
        "the seconds"
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
            changed.setdefault(storage.name, []).append(names_of(item)[0])
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


def _attention_macs(workload: Workload) -> int:
    return sum(item.macs for item in workload.operators if isinstance(item, Attention))
