"""What is chosen for a mapping, and what follows of it for every operator: widths and groups."""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rtl_gen.errors import InputError
from sw_driver.architecture import Storage
from sw_driver.mapper import cost
from sw_driver.mapper.cache_format import SCALE_BITS, CacheScheme
from sw_driver.mapper.core import Core
from sw_driver.mapper.cost import CoreInts, System
from sw_driver.mapper.workload import Attention, Linear, Operator, Workload

BUFFER_BYTES = 2 * 1024 * 1024

FUSED_BITS = 16
"""Elements and gains that ``fused_tables`` takes: FP16, its default."""

Tables = Literal["core", "unit", "fused", "memory"]


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
        kv: a cache that is not of integers per token, in place of ``kv_bits``.
        tables: where the tables of a core come from that looks its sums up: made in the core; by a
            ``lut_tables`` or a ``fused_tables`` unit that streams them to its port; or written to
            memory and read from there. None for the core's own: in the core, or by a unit.
    """

    weight_bits: int | None = None
    operator_bits: MappingType[str, int] = field(default_factory=dict)
    kv_bits: int | None = None
    group: int | None = None
    buffer_bytes: int = BUFFER_BYTES
    output_bits: int | None = None
    scale_bits: int = SCALE_BITS
    kv: CacheScheme | None = None
    tables: Tables | None = None


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
    # What fused units take is not quantized before them.
    width = FUSED_BITS if tables_of(core, choices) == "fused" else core.activation_bits
    return System(
        buffer=choices.buffer_bytes,
        output_bits=choices.output_bits or width,
        scale_bits=choices.scale_bits,
    )


def operator_bits(operator: Operator, core: Core, choices: Choices) -> int:
    """The width of an operator's W."""
    if isinstance(operator, Attention):
        return kv_width(core, choices)
    chosen = chosen_bits(operator, choices)
    if chosen:
        return chosen
    if operator.storage is not None and operator.storage.bits:
        return _stored_bits(operator.storage, core)
    return 2 if operator.ternary and 2 in core.widths else core.max_weight_bits


def as_stored(operator: Linear, choices: Choices) -> bool:
    """Whether an operator's weights are the codes and scales that the checkpoint holds."""
    return bool(operator.storage and operator.storage.bits) and not chosen_bits(operator, choices)


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


def group_of(operator: Linear, choices: Choices, k: int) -> int:
    """Elements of K that share a scale."""
    if as_stored(operator, choices) and operator.storage is not None:
        return min(operator.storage.group or k, k)
    return min(choices.group or k, k)


def group_scale_bits(operator: Linear, choices: Choices, ints: CoreInts, system: System) -> Any:
    """Bits of the scale of a group and of what lies beside it, applied outside of the core."""
    if as_stored(operator, choices) and operator.storage is not None:
        return (1 - ints.own_scales) * operator.storage.group_bits
    return cost.scale_bits(ints, system)


def kv_width(core: Core, choices: Choices) -> int:
    """The width of the KV cache: the core's only one, or its widest up to 8, unless chosen."""
    if choices.kv_bits is not None:
        return choices.kv_bits
    if choices.kv is not None and choices.kv.kind != "xquant":
        return choices.kv.bits
    if core.ternary:
        return 8
    return core.max_weight_bits if len(core.widths) == 1 else min(8, core.max_weight_bits)


def attention_covered(core: Core, bits: int) -> bool:
    """Whether a core multiplies activations with a KV cache of that width.

    It does if jobs can have the width and its encoding holds integers of any sign at it: unsigned
    with a zero point, two's complement, or bipolar from two bits on. {−1, 0, +1} holds no cache.
    """
    return bits in core.widths and not core.ternary and (core.encoding != "bipolar" or bits > 1)


def attends(core: Core, choices: Choices) -> bool:
    """Whether a core does attention on the cache that is chosen.

    Floats are those that the core multiplies with, or none. KIVI's are not done: the scales of keys
    lie along their channels, which a product sums over, and the latest tokens are floats.
    """
    if choices.kv is None or choices.kv.kind == "xquant":
        return attention_covered(core, kv_width(core, choices))
    return choices.kv.kind == "float" and choices.kv.name == core.weight_format


def tables_of(core: Core, choices: Choices) -> str:
    """Where the tables come from; "" for a core that has none."""
    if choices.tables is not None:
        return choices.tables
    return {"internal": "core", "port": "unit"}.get(core.table_source, "")


def _scheme_problems(choices: Choices, workloads: Sequence[Workload]) -> list[str]:
    """What is wrong with a cache's scheme for these phases."""
    scheme = choices.kv
    problems = []
    if scheme is not None and choices.kv_bits is not None:
        problems.append(f"kv_bits: must not be given beside kv {scheme.name}")
    for work in workloads:
        arch = work.architecture
        wanted = scheme is not None and scheme.kind == "xquant"
        if work.inputs_cached != wanted:
            asked = scheme.name if scheme else "none"
            problems.append(
                f"kv: {work.name}: {work.phase}: xquant and inputs_cached of the workload must "
                f"come together, got kv {asked} and inputs_cached {work.inputs_cached}"
            )
        if scheme is None or scheme.kind != "kivi":
            continue
        rule = f"kv: {scheme.name}: must not be asked of"
        if not arch.causal:
            problems.append(f"{rule} an encoder, {arch.name} has no cache")
        if arch.latent is not None:
            problems.append(f"{rule} {arch.name}, whose cache keeps latents")
        if any(group.window for group in arch.layer_groups):
            problems.append(f"{rule} {arch.name}, which has sliding windows")
        if work.phase == "draft":
            problems.append(f"{rule} a draft")
    return list(dict.fromkeys(problems))


def _tables_problems(core: Core, choices: Choices) -> list[str]:
    """What is wrong with where tables come from."""
    if choices.tables is None:
        return []
    if not core.table_source:
        return [
            f"tables: must not be given for {core.name}, a {core.block} that takes no tables, got "
            f"{choices.tables}"
        ]
    allowed = ("core",) if core.table_source == "internal" else ("unit", "fused", "memory")
    if choices.tables not in allowed:
        port = "no port for tables" if core.table_source == "internal" else "a port for them"
        return [
            f"tables: must be {', '.join(allowed)} for {core.name}, which has table.source "
            f"{core.table_source} and {port}, got {choices.tables}"
        ]
    if choices.tables == "fused" and not core.fused_latency:
        return [f"tables: fused: needs signed activations, {core.name} has unsigned ones"]
    if choices.tables == "memory" and choices.kv is not None and choices.kv.kind == "xquant":
        return ["tables: memory: must not be asked beside kv xquant, whose inputs are no rows of A"]
    return []


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
    known = {name for item in linears for name in names_of(item)}
    unfit: dict[Storage, list[str]] = {}
    for item in linears:
        if item.storage and as_stored(item, choices) and not takes(core, item.storage):
            unfit.setdefault(item.storage, []).append(names_of(item)[0])
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
    problems += _scheme_problems(choices, workloads)
    problems += _tables_problems(core, choices)
    if problems:
        raise InputError("\n".join(problems))


def names_of(operator: Linear) -> tuple[str, str]:
    """What an operator is called in choices: with and without what marks it as an expert's."""
    name = operator.name.split(" (")[0]
    return name, name.removeprefix("expert ").removeprefix("shared ")


def chosen_bits(operator: Linear, choices: Choices) -> int:
    """The width that was chosen for an operator, 0 for none."""
    for key in names_of(operator):
        if key in choices.operator_bits:
            return choices.operator_bits[key]
    return choices.weight_bits or 0
