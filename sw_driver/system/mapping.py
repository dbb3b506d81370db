"""A workload on a system: a schedule for every operator, and what all of it takes.

Operators follow one another: the next one starts when the last result of the one before is
written. Each runs on all cores of one kind, the fastest of those that take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from rtl_gen.errors import InputError
from sw_driver.mapper import cost
from sw_driver.mapper.choices import (
    Choices,
    attention_covered,
    check_choices,
    core_ints,
    kv_width,
    operator_bits,
    tables_of,
)
from sw_driver.mapper.mapping import TABLE_BITS, Mapping, map_workload
from sw_driver.mapper.workload import Attention, Linear, Operator, Workload
from sw_driver.system.schedule import (
    Blocking,
    Channel,
    Gemm,
    Sram,
    Traffic,
    buffer_bytes,
    compute_cycles,
    extents,
    fits,
    makespan,
    traffic,
)
from sw_driver.system.search import EFFORT, GAP, Found, roofline, search
from sw_driver.system.shapes import Work, gemms
from sw_driver.system.spec import Kind, System
from sw_driver.system.vector import VectorCost, vector_costs

SEARCHED = 12
"""Spans of an attention product that are searched; others take the next longer one's blocking."""

found_by = lru_cache(maxsize=1 << 14)(search)
"""The search, done once for a shape."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One shape of an operator.

    Attributes:
        gemm, times: the shape, and how many runs of it. cut: its blocking.
        cycles: of a run. bound: fewest of any blocking, as far as the search has shown.
        roofline: fewest by cores and channel alone.
        busy: cycles of a run in which the cores of a stage have work; traffic: of a run.
        scaling: cycles of a run that the unit behind a core takes for its results.
    """

    gemm: Gemm
    times: int
    cut: Blocking
    cycles: int
    bound: int
    roofline: int
    busy: int
    traffic: Traffic
    scaling: int

    @property
    def taken(self) -> int:
        """Cycles of a run: of the schedule, or of the unit behind it if that is slower."""
        return max(self.cycles, self.scaling)


@dataclass(frozen=True, kw_only=True)
class SystemOperator:
    """One operator of a phase on a system; figures are of the whole phase.

    Attributes:
        shape: ``(M, N, K)`` of its largest GEMM. gemms: how many GEMMs in all.
        kind: name of the cores that it runs on. bits: width of W.
        covered: whether any core does it; else only its memory traffic is in the cycles.
        cycles: from its first transfer to its last, all runs. schedule: the same without waiting
            for units behind the cores.
        bound, roofline: see :class:`Piece`; busy: cycles in which cores have work.
        channel: cycles in which the DRAM channel is held.
        peak: MACs a cycle of all cores of the kind at this width.
        sram: bytes of the buffers of A, W and results at their largest.
    """

    name: str
    operator: str
    shape: tuple[int, int, int]
    gemms: int
    kind: str
    bits: int
    covered: bool
    macs: int
    cycles: int
    schedule: int
    bound: int
    roofline: int
    busy: int
    channel: int
    peak: float
    bytes: int
    activation_bytes: int
    weight_bytes: int
    beside_bytes: int
    partial_bytes: int
    output_bytes: int
    scaling: int
    sram: tuple[int, int, int]
    pieces: tuple[Piece, ...]

    @property
    def gap(self) -> float:
        """Share of the schedule's cycles that a better blocking might save at most."""
        return 1 - self.bound / self.schedule if self.schedule else 0.0

    @property
    def utilisation(self) -> float:
        """Useful MACs by what all cores of the kind could do in these cycles."""
        return self.macs / (self.cycles * self.peak) if self.covered and self.cycles else 0.0

    @property
    def intensity(self) -> float:
        """Operations (two a MAC) a byte of DRAM traffic."""
        return 2 * self.macs / self.bytes if self.bytes else float("inf")

    @property
    def limit(self) -> str:
        """What its cycles are made of first: ``cores``, ``DRAM``, or the units that scale."""
        if not self.covered:
            return "DRAM"
        if self.scaling > self.schedule:
            return "scaling"
        return "cores" if self.busy >= self.channel else "DRAM"

    @property
    def piece(self) -> Piece | None:
        """The shape that most cycles go to."""
        return max(self.pieces, key=lambda item: item.times * item.cycles, default=None)


@dataclass(frozen=True, kw_only=True)
class SystemMapping:
    """A phase on a system."""

    workload: Workload
    system: System
    choices: Choices
    plain: Mapping
    operators: tuple[SystemOperator, ...]
    lookup_cycles: int
    lookup_bytes: int
    vector: tuple[VectorCost, ...]
    notes: tuple[str, ...]

    @cached_property
    def vector_cycles(self) -> int:
        return sum(item.cycles for item in self.vector)

    @cached_property
    def cycles(self) -> int:
        """Everything that is charged, one after another."""
        return sum(item.cycles for item in self.operators) + self.lookup_cycles + self.vector_cycles

    @cached_property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.operators) + self.lookup_bytes

    @property
    def seconds(self) -> float:
        return self.cycles / self.system.clock

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all sequences per second."""
        return self.workload.batch * self.workload.tokens / self.seconds

    @property
    def core_utilisation(self) -> float:
        """Share of the cycles in which cores have work."""
        return sum(item.busy for item in self.operators) / self.cycles

    @property
    def dram_utilisation(self) -> float:
        """Share of the cycles in which the channel is held."""
        held = sum(item.channel for item in self.operators) + self.lookup_cycles
        return held / self.cycles

    @property
    def vector_utilisation(self) -> float:
        """Share of the cycles in which vector units have work."""
        return self.vector_cycles / self.cycles

    @cached_property
    def peak_sram(self) -> tuple[int, int, int, int]:
        """Bytes of the buffers of A, W, results at their largest, and of all at once."""
        sizes = [item.sram for item in self.operators] or [(0, 0, 0)]
        every = max(
            (
                sum(buffer_bytes(part.gemm, part.cut))
                for item in self.operators
                for part in item.pieces
            ),
            default=0,
        )
        a, w, o = (max(column) for column in zip(*sizes, strict=True))
        return a, w, o, every

    @cached_property
    def peak_dram(self) -> int:
        """Bytes of parameters, the KV cache after the phase, and an operator's A and results."""
        moving = 0
        for item in self.operators:
            for part in item.pieces:
                gemm = part.gemm
                a = 0 if gemm.keep_a else gemm.a_size(gemm.m, 0, gemm.units)
                bits = gemm.instances * (a + gemm.written(gemm.m, gemm.n))
                moving = max(moving, -(-bits // 8))
        return self.parameter_bytes + self.plain.cache_bytes + moving

    @cached_property
    def parameter_bytes(self) -> int:
        """Memory of the parameters: those of the first kind's mapping, and what wider or narrower
        weights of operators on other kinds make of it."""
        arch, main = self.workload.architecture, self.system.kinds[0].core
        kinds = {kind.core.name: kind.core for kind in self.system.kinds}
        total = self.plain.parameter_bytes
        by_role = {}
        for item, operator in zip(self.workload.operators, self.operators, strict=True):
            if isinstance(item, Linear) and operator.kind != main.name:
                by_role[item.role] = (item, operator)
        shapes = [(item.role, item.shape, item.count) for item in arch.tensors]
        if arch.head and arch.tied:
            shapes.append(("lm_head", (arch.vocab, arch.embedding_width or arch.hidden), 1))
        for role, shape, count in shapes:
            if role not in by_role or len(shape) != 2:
                continue
            item, operator = by_role[role]
            before = core_ints(main, operator_bits(item, main, self.plain.choices))
            after = core_ints(kinds[operator.kind], operator.bits)
            more = cost.row_bits(after, shape[1]) - cost.row_bits(before, shape[1])
            total += count * shape[0] * int(more) // 8
        return total


def map_on_system(
    workload: Workload,
    system: System,
    choices: Choices | None = None,
    *,
    gap: float = GAP,
    effort: int | None = EFFORT,
) -> SystemMapping:
    """A workload on a system.

    Args:
        gap, effort: of the search, see :func:`sw_driver.system.search.search`.

    Raises:
        InputError: a choice fits no core, no tile fits the buffers, or a row no vector unit; one
            line per problem.
    """
    choices = choices or Choices()
    _check(workload, system, choices)
    choices = replace(choices, kv_bits=_kv_bits(system, choices))
    channel = system.spec.channel
    operators = []
    problems: list[_MisfitError] = []
    outside = 0
    for operator in workload.operators:
        found = []
        misfits = []
        for kind in _candidates(operator, system, choices, workload):
            own = _own_choices(operator, choices)
            try:
                found.append(_operator(operator, kind, system, own, gap, effort))
            except _MisfitError as error:
                misfits.append(error)
        if not found:
            problems += misfits
            continue
        best = min(found, key=lambda item: (not item.covered, item.cycles))
        operators.append(best)
        kind = next(item for item in system.kinds if item.core.name == best.kind)
        if kind.scale is None:
            outside += _outside(best)
    if problems:
        # What helps the largest helps the others.
        largest = max(problems, key=lambda item: item.need)
        raise InputError(f"{system.name}: {largest}")
    lookups = [(item.vectors, item.width * TABLE_BITS) for item in workload.lookups if item.vectors]
    further = (("scale and add partial results", outside),) if outside else ()
    vector = vector_costs(workload, system, further)
    plain = map_workload(workload, system.kinds[0].core, _main_choices(system, choices))
    notes = [note for note in plain.notes if "only the memory traffic" not in note]
    mapping = SystemMapping(
        workload=workload,
        system=system,
        choices=choices,
        plain=plain,
        operators=tuple(operators),
        lookup_cycles=sum(count * channel.cycles(bits) for count, bits in lookups),
        lookup_bytes=sum(count * bits // 8 for count, bits in lookups),
        vector=tuple(vector),
        notes=(*notes, *_notes(workload, system, operators, vector)),
    )
    capacity = system.spec.dram.capacity_gib
    if capacity is not None and mapping.peak_dram > capacity * 2**30:
        raise InputError(
            f"{system.name}: dram.capacity_gib: must be at least {mapping.peak_dram / 2**30:.4g} "
            f"for {workload.phase} of {workload.name}, got {capacity:g}"
        )
    return mapping


def _main_choices(system: System, choices: Choices) -> Choices:
    """The choices less those that only other kinds than the first can take."""
    main = system.kinds[0].core
    every = choices.weight_bits if choices.weight_bits in main.widths else None
    return replace(
        choices,
        operator_bits={
            name: width for name, width in choices.operator_bits.items() if width in main.widths
        },
        weight_bits=every,
        group=None if main.own_scales else choices.group,
    )


def _check(workload: Workload, system: System, choices: Choices) -> None:
    """Choices against the kinds: wrong is what no kind takes.

    Raises:
        InputError: with every problem.
    """
    if choices.kv is not None:
        raise InputError("kv: must be a width of integers on a system: schemes need --core")
    if choices.tables is not None:
        raise InputError("tables: must not be given for a system: they need --core")
    for operator in workload.operators:
        if _candidates(operator, system, choices, workload):
            continue
        problems: list[str] = []
        for kind in system.kinds:
            try:
                check_choices(kind.core, choices, [workload])
            except InputError as error:
                problems += str(error).splitlines()
        raise InputError("\n".join(dict.fromkeys(problems)))
    known = {name for operator in workload.operators for name in _names(operator)}
    unknown = [name for name in choices.operator_bits if name not in known]
    if unknown:
        among = ", ".join(sorted(known))
        raise InputError(
            "\n".join(f"weight_bits: must name one of {among}, got {name!r}" for name in unknown)
        )


def _own_choices(operator: Operator, choices: Choices) -> Choices:
    """The choices that are of this operator."""
    if isinstance(operator, Attention):
        return replace(choices, weight_bits=None, operator_bits={}, group=None)
    name = operator.name.split(" (")[0]
    names = (name, name.removeprefix("expert ").removeprefix("shared "))
    bits = {key: value for key, value in choices.operator_bits.items() if key in names}
    return replace(choices, operator_bits=bits)


def _names(operator: Operator) -> set[str]:
    """What an operator may be called in a system file."""
    name = operator.name.split(" (")[0]
    return {name, name.removeprefix("expert ").removeprefix("shared ")}


def _candidates(
    operator: Operator, system: System, choices: Choices, workload: Workload
) -> list[Kind]:
    """Kinds that take an operator: those that name it, or else those that name none."""
    named = [kind for kind in system.kinds if _names(operator) & set(kind.operators)]
    kinds = named or [kind for kind in system.kinds if not kind.operators] or list(system.kinds)
    alone = replace(workload, operators=(operator,))
    found = []
    for kind in kinds:
        try:
            check_choices(kind.core, _own_choices(operator, choices), [alone])
        except InputError:
            continue
        found.append(kind)
    return found


def _kv_bits(system: System, choices: Choices) -> int:
    """The width of the KV cache: that of the first kind that does attention, unless chosen."""
    if choices.kv_bits is not None:
        return choices.kv_bits
    for kind in system.kinds:
        bits = kv_width(kind.core, choices)
        if attention_covered(kind.core, bits):
            return bits
    return kv_width(system.kinds[0].core, choices)


def _operator(
    operator: Operator,
    kind: Kind,
    system: System,
    choices: Choices,
    gap: float,
    effort: int | None,
) -> SystemOperator:
    """An operator on all cores of a kind.

    Raises:
        _MisfitError: not one tile of it fits the buffers.
    """
    core, channel, sram = kind.core, system.spec.channel, system.spec.buffers
    bits = operator_bits(operator, core, choices)
    covered = isinstance(operator, Linear) or attention_covered(core, bits)
    works = gemms(operator, core, choices, sram)
    pieces = []
    if covered:
        pieces = _pieces(operator, works, kind, channel, sram, gap, effort)
        sums = [_times(pieces, index) for index in range(5)]
        cycles = sum(item.times * item.taken for item in pieces)
        held = sum(item.times * item.traffic.channel for item in pieces)
    else:
        sums = [0] * 5
        held = 0
        for gemm, times in works:
            parts = (
                0 if gemm.keep_a else gemm.instances * gemm.a_size(gemm.m, 0, gemm.units),
                gemm.instances * gemm.w_size(gemm.n, 0, gemm.units),
                gemm.instances * gemm.beside(gemm.m, gemm.n),
                0,
                gemm.instances * gemm.written(gemm.m, gemm.n),
            )
            sums = [have + times * -(-more // 8) for have, more in zip(sums, parts, strict=True)]
            held += times * channel.cycles(sum(parts))
        cycles = held
    largest = max(works, key=lambda work: work.gemm.m * work.gemm.n * work.gemm.k).gemm
    buffers = [buffer_bytes(item.gemm, item.cut) for item in pieces] or [(0, 0, 0)]
    schedule = sum(item.times * item.cycles for item in pieces) if covered else cycles
    a, w, o = (max(column) for column in zip(*buffers, strict=True))
    return SystemOperator(
        name=operator.name,
        operator="linear" if isinstance(operator, Linear) else operator.kind,
        shape=(largest.m, largest.n, largest.k),
        gemms=sum(work.gemm.instances * work.times for work in works),
        kind=core.name,
        bits=bits,
        covered=covered,
        macs=operator.macs,
        cycles=cycles,
        schedule=schedule,
        bound=sum(item.times * item.bound for item in pieces) if covered else cycles,
        roofline=sum(item.times * item.roofline for item in pieces) if covered else cycles,
        busy=sum(item.times * item.busy for item in pieces),
        channel=held,
        peak=kind.count * core.peak_macs(bits) if covered else 0.0,
        bytes=sum(sums),
        activation_bytes=sums[0],
        weight_bytes=sums[1],
        beside_bytes=sums[2],
        partial_bytes=sums[3],
        output_bytes=sums[4],
        scaling=sum(item.times * item.scaling for item in pieces),
        sram=(a, w, o),
        pieces=tuple(pieces),
    )


def _times(pieces: Sequence[Piece], index: int) -> int:
    """Bytes of one kind of traffic."""
    return sum(item.times * -(-item.traffic[index] // 8) for item in pieces)


def _pieces(
    operator: Operator,
    works: Sequence[Work],
    kind: Kind,
    channel: Channel,
    sram: Sram,
    gap: float,
    effort: int | None,
) -> list[Piece]:
    """Every shape with its blocking: searched, or taken from a shape a little longer.

    Without a bound on the effort every shape is searched.
    """
    # Long ones first, evenly spread over the spans.
    order = sorted(works, key=lambda work: -(work.gemm.m * work.gemm.n * work.gemm.k))
    count = len(order)
    most = count if effort is None else min(count, SEARCHED)
    chosen = {number * count // most for number in range(most)}
    pieces: list[Piece] = []
    cut: Blocking | None = None
    for number, (gemm, times) in enumerate(order):
        shown = 0
        clipped = _clipped(gemm, cut) if cut is not None else None
        if number in chosen or clipped is None or not fits(gemm, clipped, sram):
            found: Found | None = found_by(gemm, channel, sram, kind.count, gap=gap, effort=effort)
            if found is None:
                raise _misfit(operator, gemm, kind, sram)
            cut, cycles, shown = found.cut, found.cycles, found.bound
        else:
            cut, cycles = clipped, makespan(gemm, clipped, channel)
        least = roofline(gemm, channel, kind.count)
        pieces.append(
            Piece(
                gemm=gemm,
                times=times,
                cut=cut,
                cycles=cycles,
                bound=max(shown, least),
                roofline=least,
                busy=compute_cycles(gemm, cut),
                traffic=traffic(gemm, cut, channel),
                scaling=_scaling(gemm, cut, kind.scale),
            )
        )
    return pieces


def _clipped(gemm: Gemm, cut: Blocking) -> Blocking:
    """A blocking with blocks no larger than a shape has tiles."""
    _, m, n, k = extents(gemm, cut)
    return cut._replace(bm=min(cut.bm, m), bn=min(cut.bn, n), bk=min(cut.bk, k))


def _scaling(gemm: Gemm, cut: Blocking, unit: Any) -> int:
    """Cycles of a run of the unit behind a core that has most to do, by its closed form."""
    if unit is None:
        return 0
    from hw.blocks.scale_accumulate import timing

    rounds, m, n, _ = extents(gemm, cut)
    parts = gemm.k_span(0, gemm.units)[2]
    return 1 + rounds * m * n * timing.job_cycles(unit, parts)


def _outside(operator: SystemOperator) -> int:
    """Partial results that are scaled or added outside the cores, in elements."""
    return sum(
        item.times * item.gemm.instances * item.gemm.m * item.gemm.n
        * item.gemm.k_span(0, item.gemm.units)[2]
        for item in operator.pieces
    )  # fmt: skip


class _MisfitError(InputError):
    """Buffers that are too small, and by how many bytes in all they would not be."""

    def __init__(self, text: str, need: int):
        self.need = need
        super().__init__(text)


def _misfit(operator: Operator, gemm: Gemm, kind: Kind, sram: Sram) -> _MisfitError:
    """What the least blocks of an operator need, and what there is."""
    a, w, o = buffer_bytes(gemm, Blocking("mnk", 1, 1, 1, 1, 1, 1))
    have = (
        f"sram.shared_kib: must be at least {(a + w + o) / 1024:.6g} (now {sram.shared / 1024:g})"
        if sram.shared
        else ", ".join(
            f"sram.{name}_kib: must be at least {need / 1024:.6g} (now {size / 1024:g})"
            for name, need, size in (
                ("activations", a, sram.activations),
                ("weights", w, sram.weights),
                ("results", o, sram.results),
            )
            if need > size
        )
    )
    text = f"{have} for one tile of {operator.name} on {kind.core.name}"
    return _MisfitError(text, a + w + o)


def _notes(
    workload: Workload,
    system: System,
    operators: Sequence[SystemOperator],
    vector: Sequence[VectorCost],
) -> list[str]:
    notes = []
    idle = [item for item in operators if not item.covered]
    if idle:
        macs = sum(item.macs for item in idle)
        names = ", ".join(item.name for item in idle)
        notes.append(
            f"{names}: no core of {system.name} takes this KV cache; of their {macs:,} MACs in "
            f"{workload.phase} only the memory traffic is in the cycles"
        )
    used = {item.kind for item in operators}
    for kind in system.kinds:
        if kind.core.name in used and tables_of(kind.core, Choices()) not in ("", "core"):
            notes.append(
                f"{kind.core.name} takes tables at its port: the unit that makes them is not in "
                "these cycles"
            )
    left = [item.name for item in vector if item.function is None]
    if left:
        notes.append(f"not charged in {workload.phase}: {', '.join(left)}")
    known = {name for operator in workload.operators for name in _names(operator)}
    for number, kind in enumerate(system.kinds):
        unknown = [name for name in kind.operators if name not in known]
        if unknown:
            notes.append(
                f"cores.{number}.operators: {', '.join(unknown)}: no operator of "
                f"{workload.name} in {workload.phase}"
            )
    return notes
