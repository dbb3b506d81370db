"""A model mapped onto a system, as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtl_gen import __version__
from rtl_gen.errors import InputError
from sw_driver import report as lay
from sw_driver.architecture import Architecture
from sw_driver.checkpoint import load_model
from sw_driver.mapper.choices import Choices
from sw_driver.mapper.energy import Energy, Power, check_dram
from sw_driver.mapper.phases import workloads_of
from sw_driver.mapper.routing import BALANCED, Routing, load_routing
from sw_driver.report import Report, Table
from sw_driver.system.energy import charged, energy, read_powers
from sw_driver.system.mapping import SystemMapping, SystemOperator, map_on_system
from sw_driver.system.search import EFFORT, GAP
from sw_driver.system.spec import System, load_system

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class SystemReport(Report):
    """A report of phases mapped onto a system."""

    mappings: tuple[SystemMapping, ...]


def map_model_on_system(
    model: str | Path | Architecture,
    system: System | Path | str,
    *,
    prefill: int | None = None,
    decode: int | None = None,
    context: int | None = None,
    batch: int = 1,
    choices: Choices | None = None,
    activation_bits: int | None = None,
    expanded: bool = False,
    chunk: int | None = None,
    piggyback: int = 0,
    piggyback_context: int | None = None,
    speculate: int | None = None,
    accept: float | None = None,
    routing: str | Routing = BALANCED,
    gap: float = GAP,
    effort: int | None = EFFORT,
    power_reports: Sequence[Path | str] = (),
    dram_pj_per_bit: float | None = None,
) -> SystemReport:
    """A model's phases on a system.

    Args:
        model, prefill, decode, context, batch, choices, expanded, chunk, piggyback,
            piggyback_context, speculate, accept, routing: as for
            :func:`sw_driver.mapper.report.map_model`; the buffer is the system's.
        system: a system, the path of its file, or the name of a shipped one.
        activation_bits: width of activations, for cores whose jobs choose it.
        gap, effort: of the search, see :func:`sw_driver.system.search.search`.
        power_reports: JSON of each kind's power, for energies; see
            :func:`sw_driver.system.energy.read_powers`.
        dram_pj_per_bit: energy of a bit of DRAM traffic; not charged if None.

    Raises:
        InputError: model, system, numbers, choices or reports are wrong; one line per problem.
    """
    problems: list[InputError] = []
    try:
        arch = model if isinstance(model, Architecture) else load_model(model)
    except InputError as error:
        problems.append(error)
    try:
        system = system if isinstance(system, System) else load_system(system, activation_bits)
    except InputError as error:
        problems.append(error)
    try:
        routing = load_routing(routing) if isinstance(routing, str) else routing
    except InputError as error:
        problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems or isinstance(routing, str) or not isinstance(system, System):
        raise InputError("\n".join(map(str, problems)))
    check_dram(dram_pj_per_bit)
    if dram_pj_per_bit is not None and not power_reports:
        raise InputError("dram_pj_per_bit: must come with power reports")
    powers = read_powers(power_reports, system) if power_reports else {}
    works = workloads_of(
        arch,
        prefill=prefill,
        decode=decode,
        context=context,
        batch=batch,
        expanded=expanded,
        chunk=chunk,
        piggyback=piggyback,
        piggyback_context=piggyback_context,
        speculate=speculate,
        accept=accept,
        routing=routing,
    )
    return report_of(
        [map_on_system(work, system, choices, gap=gap, effort=effort) for work in works],
        powers,
        dram_pj_per_bit,
    )


def report_of(
    mappings: Sequence[SystemMapping],
    powers: Mapping[str, Power] | None = None,
    dram_pj_per_bit: float | None = None,
) -> SystemReport:
    """Phases of one model on one system, as a report; with energies if powers are given.

    Raises:
        InputError: a power report lacks a width.
    """
    energies = [energy(item, powers, dram_pj_per_bit) for item in mappings] if powers else []
    first, last = mappings[0], mappings[-1]
    system, arch = first.system, first.workload.architecture
    notes = list(dict.fromkeys(note for mapping in mappings for note in mapping.notes))
    if powers:
        notes.append(charged(powers, dram_pj_per_bit))
    return SystemReport(
        title=f"{arch.name} on {system.name}",
        facts=[*_system_facts(system), _model_fact(first, last), *_area_facts(system)],
        tables=[
            *(_table(mapping) for mapping in mappings),
            _totals_table(mappings, energies),
            _vector_table(mappings),
        ],
        notes=notes,
        data={
            "rtlgen": __version__,
            "model": {
                "name": arch.name,
                "family": arch.family,
                "parameters": arch.parameters,
                "active_parameters": arch.active_parameters,
                "parameter_bytes": first.parameter_bytes,
            },
            "system": _system_data(system),
            "choices": {
                **asdict(first.choices),
                "operator_bits": dict(first.choices.operator_bits),
                "buffer_bytes": None,
            },
            "time_to_first_token": _first_token(mappings),
            "dram_pj_per_bit": dram_pj_per_bit,
            "phases": [
                {**_phase(mapping), "energy": energies[index].as_dict() if energies else None}
                for index, mapping in enumerate(mappings)
            ],
            "notes": notes,
        },
        draw=lambda figure: draw_mappings(figure, mappings),
        size=(13.0, 1.0 + 3.8 * len(mappings)),
        mappings=tuple(mappings),
    )


def _system_facts(system: System) -> list[str]:
    spec = system.spec
    kinds = [
        f"{kind.count} × {kind.core.name} ({kind.core.block}, "
        f"{kind.core.m} × {kind.core.n} × {kind.core.k} a step, {kind.core.activation_name} × "
        f"{kind.core.encoding} W{_widths(kind.core.widths)})"
        + (f" for {', '.join(kind.operators)}" if kind.operators else "")
        for kind in system.kinds
    ]
    sizes = spec.sram
    buffers = (
        f"{sizes.shared_kib:g} KiB shared"
        if sizes.shared_kib
        else f"{sizes.activations_kib:g} KiB for A, {sizes.weights_kib:g} KiB for W, "
        f"{sizes.results_kib:g} KiB for results"
    )
    dram = spec.dram
    lines = [
        f"cores: {'; '.join(kinds)}; {spec.clock_mhz:g} MHz",
        f"memory: {buffers}; DRAM {dram.bandwidth_gb_s:g} GB/s, {dram.latency_ns:g} ns "
        f"({spec.channel.latency} cycles), bursts of {dram.burst_bytes} bytes"
        + (f", {dram.capacity_gib:g} GiB" if dram.capacity_gib else ""),
    ]
    units = []
    if spec.vector is not None:
        units.append(f"{spec.vector_units} × {spec.vector.lanes} lanes of vector unit")
    scales = [kind for kind in system.kinds if kind.scale is not None]
    if scales:
        units.append(f"{scales[0].scale.lanes} lanes of scale_accumulate behind every core")
    return [*lines, f"units: {', '.join(units)}"] if units else lines


def _widths(widths: range) -> str:
    return f"{widths[0]}" if len(widths) == 1 else f"{widths[0]} to {widths[-1]}"


def _model_fact(first: SystemMapping, last: SystemMapping) -> str:
    arch, plain = first.workload.architecture, last.plain
    active = (
        f" ({lay.count(arch.active_parameters)} active)"
        if arch.active_parameters != arch.parameters
        else ""
    )
    cache = (
        f"; KV cache W{plain.kv_bits}, {lay.engineering(plain.cache_bytes, 'B')}"
        if arch.causal
        else ""
    )
    return (
        f"model: {lay.count(arch.parameters)} parameters{active}, "
        f"{lay.engineering(last.parameter_bytes, 'B')} packed{cache}"
    )


def _area_facts(system: System) -> list[str]:
    """Areas of the cores as far as there are reports; one line per unit of area."""
    known = [kind for kind in system.kinds if kind.area is not None]
    totals: dict[tuple[str, str], float] = {}
    for kind in known:
        if kind.area is not None:
            key = kind.area.unit, kind.area.technology
            totals[key] = totals.get(key, 0.0) + kind.count * kind.area.area
    without = [kind.core.name for kind in system.kinds if kind.area is None]
    rest = f"; no report of {', '.join(without)}" if without else ""
    return [
        f"area of cores: {area:,.0f} {unit} in {technology}, without buffers and units{rest}"
        for (unit, technology), area in totals.items()
    ]


def _system_data(system: System) -> dict[str, Any]:
    return {
        "name": system.name,
        "digest": system.spec.digest,
        "spec": system.spec.model_dump(mode="json"),
        "channel": system.spec.channel._asdict(),
        "cores": [
            {
                "count": kind.count,
                "operators": list(kind.operators),
                "core": kind.core.as_dict(),
                "area": asdict(kind.area) if kind.area else None,
            }
            for kind in system.kinds
        ],
    }


def _first_token(mappings: Sequence[SystemMapping]) -> float | None:
    """Seconds to the first token: those of the prefill, where there is one of a decoder."""
    for mapping in mappings:
        if mapping.workload.phase == "prefill" and mapping.workload.architecture.causal:
            return mapping.seconds
    return None


def phase_title(mapping: SystemMapping) -> str:
    """One line: what the phase is."""
    work = mapping.workload
    batch = f", batch {work.batch}" if work.batch > 1 else ""
    after = f" after {work.context}" if work.context or work.phase == "decode" else ""
    noun = "token" if work.tokens == 1 else "tokens"
    return f"{work.phase}: {work.tokens} {noun}{after}{batch}"


def _blocks(item: SystemOperator) -> str:
    """The blocking that most cycles go to: order, tiles by tiles by units, cores, buffers."""
    piece = item.piece
    if piece is None:
        return "-"
    cut = piece.cut
    cores = f" on {cut.pm}·{cut.pn}·{cut.pi}" if cut.cores > 1 else ""
    return (
        f"{cut.order} {cut.bm}×{cut.bn}×{cut.bk}{cores}, "
        f"{cut.a_buffers}{cut.w_buffers}{cut.o_buffers}"
    )


def _table(mapping: SystemMapping) -> Table:
    clock, total = mapping.system.clock, mapping.cycles
    several = len(mapping.system.kinds) > 1
    rows: list[tuple[str, ...]] = []
    for item in mapping.operators:
        rows.append(
            (
                item.name,
                "×".join(map(str, item.shape)),
                lay.count(item.gemms),
                f"{item.kind} W{item.bits}" if several else str(item.bits),
                _blocks(item),
                lay.count(item.cycles),
                f"{item.gap:.1%}" if item.covered else "-",
                f"{item.cycles / item.roofline:.3f}",
                f"{item.utilisation:.1%}" if item.covered else "-",
                lay.fixed(item.bytes / 1e6, 4),
                lay.fixed(item.intensity, 3),
                lay.fixed(item.cycles / clock * 1e3, 4),
                f"{item.cycles / total:.1%}",
                ("off core, " if not item.covered else "") + item.limit,
            )
        )
    if mapping.lookup_cycles:
        lookup = ["embeddings", *["-"] * 4, lay.count(mapping.lookup_cycles), *["-"] * 3]
        lookup += [lay.fixed(mapping.lookup_bytes / 1e6, 4), "-"]
        lookup += [lay.fixed(mapping.lookup_cycles / clock * 1e3, 4)]
        rows.append((*lookup, f"{mapping.lookup_cycles / total:.1%}", "DRAM"))
    for work in mapping.vector:
        if work.function is not None:
            unit = [work.name, *["-"] * 4, lay.count(work.cycles), *["-"] * 5]
            unit += [lay.fixed(work.cycles / clock * 1e3, 4), f"{work.cycles / total:.1%}"]
            rows.append((*unit, "vector unit"))
    footer = [
        (
            "total", "", "", "", "", lay.count(total), "", "", "",
            lay.fixed(mapping.bytes / 1e6, 4), "", lay.fixed(mapping.seconds * 1e3, 4), "",
            f"{lay.fixed(mapping.tokens_per_second, 4)} tokens/s",
        )
    ]  # fmt: skip
    columns = (
        "operator", "M×N×K", "GEMMs", "cores" if several else "W bits", "blocks", "cycles",
        "gap", "× roofline", "util.", "MB", "ops/B", "ms", "share", "limit",
    )  # fmt: skip
    return Table(title=phase_title(mapping), columns=columns, rows=rows, footer=footer)


def _totals_table(mappings: Sequence[SystemMapping], energies: Sequence[Energy]) -> Table:
    """What each phase takes as a whole."""
    lines: list[tuple[str, list[str]]] = []

    def line(name: str, values: Sequence[str]) -> None:
        lines.append((name, list(values)))

    seconds = _first_token(mappings)
    if seconds is not None:
        line(
            "time to first token",
            [
                lay.engineering(mapping.seconds, "s")
                if mapping.workload.phase == "prefill"
                else "-"
                for mapping in mappings
            ],
        )
    line("tokens/s", [lay.fixed(mapping.tokens_per_second, 4) for mapping in mappings])
    line("cores busy", [f"{mapping.core_utilisation:.1%}" for mapping in mappings])
    line("DRAM channel busy", [f"{mapping.dram_utilisation:.1%}" for mapping in mappings])
    if mappings[0].system.spec.vector is not None:
        line("vector units busy", [f"{mapping.vector_utilisation:.1%}" for mapping in mappings])
    line("operations a byte", [lay.fixed(intensity(mapping), 3) for mapping in mappings])
    line("ridge of the cores used most", [lay.fixed(ridge(mapping), 3) for mapping in mappings])
    line(
        "peak buffers, A + W + results",
        [
            " + ".join(lay.engineering(size, "B") for size in item.peak_sram[:3])
            for item in mappings
        ],
    )
    line("peak buffers at once", [lay.engineering(item.peak_sram[3], "B") for item in mappings])
    if energies:
        line("cores' energy", [lay.engineering(item.dynamic, "J") for item in energies])
        line("cores' leakage", [lay.engineering(item.leakage, "J") for item in energies])
        line(
            "DRAM's energy",
            ["-" if item.dram is None else lay.engineering(item.dram, "J") for item in energies],
        )
        line(
            "energy a token", [lay.engineering(item.total / item.tokens, "J") for item in energies]
        )
    line("peak DRAM", [lay.engineering(item.peak_dram, "B") for item in mappings])
    return Table(
        columns=("", *(mapping.workload.phase for mapping in mappings)),
        rows=[(name, *values) for name, values in lines],
    )


def intensity(mapping: SystemMapping) -> float:
    """Operations (two a MAC on the cores) a byte of DRAM traffic."""
    macs = sum(item.macs for item in mapping.operators if item.covered)
    return 2 * macs / mapping.bytes


def ridge(mapping: SystemMapping) -> float:
    """Operations a byte from which on the cores limit: peak over bandwidth, of the cores and the
    width that most MACs are done with."""
    peaks: dict[float, int] = {}
    for item in mapping.operators:
        if item.covered:
            peaks[item.peak] = peaks.get(item.peak, 0) + item.macs
    if not peaks:
        return 0.0
    peak = max(peaks, key=lambda key: peaks[key])
    return 2 * peak * mapping.system.clock / mapping.system.bandwidth


def _vector_table(mappings: Sequence[SystemMapping]) -> Table:
    """What is no matrix product and no unit of the system does."""
    names = list(
        dict.fromkeys(
            item.name for mapping in mappings for item in mapping.vector if item.function is None
        )
    )
    columns = [{item.name: item.elements for item in mapping.vector} for mapping in mappings]
    return Table(
        columns=(
            "in no cycles",
            *(f"elements in {mapping.workload.phase}" for mapping in mappings),
        ),
        rows=[(name, *(lay.count(column.get(name, 0)) for column in columns)) for name in names],
    )


def _phase(mapping: SystemMapping) -> dict[str, Any]:
    work = mapping.workload
    a, w, o, every = mapping.peak_sram
    return {
        "phase": work.phase,
        "batch": work.batch,
        "tokens": work.tokens,
        "context": work.context,
        "cycles": mapping.cycles,
        "seconds": mapping.seconds,
        "tokens_per_second": mapping.tokens_per_second,
        "dram_bytes": mapping.bytes,
        "core_utilisation": mapping.core_utilisation,
        "dram_utilisation": mapping.dram_utilisation,
        "vector_utilisation": mapping.vector_utilisation,
        "operations_per_byte": intensity(mapping),
        "ridge": ridge(mapping),
        "peak_sram_bytes": {"activations": a, "weights": w, "results": o, "at_once": every},
        "peak_dram_bytes": mapping.peak_dram,
        "kv_bits": mapping.plain.kv_bits,
        "cache_bytes": mapping.plain.cache_bytes,
        "lookup_cycles": mapping.lookup_cycles,
        "operators": [_operator(item) for item in mapping.operators],
        "vector": [asdict(item) for item in mapping.vector],
    }


def _operator(item: SystemOperator) -> dict[str, Any]:
    return {
        "name": item.name,
        "kind": item.operator,
        "shape": list(item.shape),
        "gemms": item.gemms,
        "cores": item.kind,
        "bits": item.bits,
        "covered": item.covered,
        "macs": item.macs,
        "cycles": item.cycles,
        "schedule_cycles": item.schedule,
        "search_bound_cycles": item.bound,
        "roofline_cycles": item.roofline,
        "core_cycles": item.busy,
        "channel_cycles": item.channel,
        "scaling_cycles": item.scaling,
        "gap": item.gap,
        "utilisation": item.utilisation,
        "operations_per_byte": item.intensity if item.bytes else None,
        "limit": item.limit,
        "bytes": item.bytes,
        "activation_bytes": item.activation_bytes,
        "weight_bytes": item.weight_bytes,
        "beside_bytes": item.beside_bytes,
        "partial_bytes": item.partial_bytes,
        "output_bytes": item.output_bytes,
        "sram_bytes": list(item.sram),
        "pieces": [
            {
                "shape": [piece.gemm.m, piece.gemm.n, piece.gemm.k],
                "instances": piece.gemm.instances,
                "times": piece.times,
                "cycles": piece.cycles,
                "search_bound_cycles": piece.bound,
                "roofline_cycles": piece.roofline,
                "blocking": piece.cut._asdict(),
            }
            for piece in item.pieces
        ],
    }


def draw_mappings(figure: Figure, mappings: Sequence[SystemMapping]) -> None:
    """Per phase the time of every operator, and where operators are under the roofline."""
    grid = figure.subplots(len(mappings), 2, squeeze=False, width_ratios=(1.7, 1))
    first = mappings[0]
    figure.suptitle(
        f"{first.workload.name} on {first.system.name}", fontweight="bold", x=0.01, ha="left"
    )
    for (bars, roof), mapping in zip(grid, mappings, strict=True):
        draw_times(bars, mapping)
        draw_roofline(roof, mapping)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="upper right", ncols=3)


def draw_times(axes: Any, mapping: SystemMapping) -> None:
    """How long operators take, and how long cores and channel work on them."""
    clock = mapping.system.clock
    rows: list[tuple[str, int, int, int]] = [
        (item.name, item.busy, item.channel, item.cycles) for item in mapping.operators
    ]
    rows += [(item.name, 0, 0, item.cycles) for item in mapping.vector if item.function]
    scale, unit = (1e3, "ms") if mapping.seconds < 10 else (1.0, "s")
    places = range(len(rows))
    width = 0.28
    series = (
        (1, "cores have work", lay.BLUE),
        (2, "DRAM channel held", lay.ORANGE),
        (3, "all, by the schedule", lay.GREY),
    )
    for offset, (column, label, colour) in enumerate(series):
        axes.bar(
            [place + (offset - 1) * width for place in places],
            [row[column] / clock * scale for row in rows],  # type: ignore[operator]
            width,
            label=label,
            color=colour,
        )
    axes.set_xticks(list(places), [row[0] for row in rows], rotation=40, ha="right", fontsize=8)
    axes.set_ylabel(unit)
    axes.set_title(
        f"{phase_title(mapping)}: {lay.fixed(mapping.tokens_per_second, 4)} tokens/s", fontsize=10
    )


def draw_roofline(axes: Any, mapping: SystemMapping) -> None:
    """Operations a second over operations a byte, of every operator that cores do."""
    items = [item for item in mapping.operators if item.covered and item.bytes]
    clock, bandwidth = mapping.system.clock, mapping.system.bandwidth
    peaks = sorted({2 * item.peak * clock for item in items})
    points = [(item.intensity, 2 * item.macs / (item.cycles / clock), item.name) for item in items]
    if not points:
        axes.set_axis_off()
        return
    low = min(point[0] for point in points) / 3
    high = max(*(point[0] for point in points), max(peaks) / bandwidth) * 3
    for peak in peaks:
        corner = peak / bandwidth
        axes.plot([low, corner, high], [low * bandwidth, peak, peak], color=lay.GREY, lw=1)
    axes.scatter([p[0] for p in points], [p[1] for p in points], color=lay.BLUE, s=18, zorder=3)
    # Operators near one another share a label: what lies within a third of a decade either way.
    near: list[tuple[float, float, list[str]]] = []
    for x, y, name in sorted(points):
        for at_x, at_y, names in near:
            if x < 1.6 * at_x and max(y / at_y, at_y / y) < 1.6:
                names.append(name)
                break
        else:
            near.append((x, y, [name]))
    for x, y, names in near:
        left = x > (low * high) ** 0.5
        text = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        axes.annotate(
            text, (x, y), xytext=(-4 if left else 6, -14), textcoords="offset points",
            fontsize=7, ha="right" if left else "left",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations a byte of DRAM", fontsize=8)
    axes.set_ylabel("operations/s", fontsize=8)
    axes.set_title("roofline", fontsize=10)
