"""A model mapped onto a core, as a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtl_gen import __version__
from rtl_gen.errors import InputError
from sw_driver import report as lay
from sw_driver.architecture import Architecture
from sw_driver.checkpoint import load_model
from sw_driver.config_file import ConfigError, read_json, shown
from sw_driver.mapper.core import Core, load_core
from sw_driver.mapper.energy import Power, check_dram, read_power
from sw_driver.mapper.figures import Figures, phase_name
from sw_driver.mapper.mapping import Choices, Mapping, map_workload
from sw_driver.mapper.phases import workloads_of
from sw_driver.mapper.roofline import draw_roofline, phase_position, position
from sw_driver.mapper.routing import BALANCED, Routing, load_routing
from sw_driver.report import Report, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "MAX_SYNTH_BYTES",
    "Area",
    "MapReport",
    "draw_mapping",
    "draw_mappings",
    "map_model",
    "phase_title",
    "read_area",
    "report_of",
    "workloads_of",
]

MAX_SYNTH_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Area:
    """What a synthesis report says of a core.

    Attributes:
        digest: SHA-256 of the Verilog; spec_digest: of the specification, where the report has it.
    """

    area: float
    unit: str
    technology: str
    delay_ns: float
    digest: str
    spec_digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class MapReport(Report):
    """A report of mapped phases.

    Attributes:
        figures: times a user waits, places under the roof, memory and energy.
    """

    mappings: tuple[Mapping, ...]
    figures: Figures
    area: Area | None = None


def read_area(path: Path | str, core: Core) -> Area:
    """The area in a synthesis report (the JSON of ``rtlgen synth --json``).

    Raises:
        ConfigError: it is malformed, has no area in an ASIC technology, or is of another design.
    """
    data = read_json(Path(path), limit=MAX_SYNTH_BYTES)
    problems = []
    wanted = {
        "top": str,
        "area": float,
        "area_unit": str,
        "technology": str,
        "delay_ns": float,
        "digest": str,
    }
    for name, kind in wanted.items():
        value = data.get(name)
        if value is None:
            problems.append(f"{name}: is required")
        elif kind is str and not isinstance(value, str):
            problems.append(f"{name}: must be a text, got {shown(value)}")
        elif kind is float and (isinstance(value, bool) or not isinstance(value, (int, float))):
            problems.append(f"{name}: must be a number, got {shown(value)}")
        elif kind is float and not 0 < value < float("inf"):
            problems.append(f"{name}: must be above 0, got {shown(value)}")
    if not problems and data["top"] != core.name:
        problems.append(
            f"top: must be {core.name}, the core that is mapped, got {shown(data['top'])}"
        )
    if problems:
        raise ConfigError(str(path), problems)
    return Area(
        area=float(data["area"]),
        unit=data["area_unit"],
        technology=data["technology"],
        delay_ns=float(data["delay_ns"]),
        digest=data["digest"],
        spec_digest=data.get("spec_digest"),
    )


def map_model(
    model: str | Path | Architecture,
    core: Core | Path | str,
    *,
    prefill: int | None = None,
    decode: int | None = None,
    context: int | None = None,
    batch: int = 1,
    choices: Choices | None = None,
    synth_report: Path | str | None = None,
    power_report: Path | str | None = None,
    dram_pj_per_bit: float | None = None,
    activation_bits: int | None = None,
    expanded: bool = False,
    chunk: int | None = None,
    piggyback: int = 0,
    piggyback_context: int | None = None,
    speculate: int | None = None,
    accept: float | None = None,
    draft: str | Path | Architecture | None = None,
    routing: str | Routing = BALANCED,
) -> MapReport:
    """A model's phases on a core.

    Args:
        model: name of a shipped configuration, path of a ``config.json``, or of a checkpoint (a
            Hugging Face folder, a safetensors or a GGUF file), whose weights are mapped as they are
            stored.
        core: a core, or the path of its specification.
        prefill, decode, context, batch, chunk, piggyback, piggyback_context, speculate, accept: see
            :func:`workloads_of`.
        choices: widths, groups, buffer, cache, tables. With a cache of inputs (``kv`` of XQuant)
            the phases compute keys and values again. Of a draft, the widths for all of its layers
            and the buffer; its cache is of integers.
        synth_report: JSON of the core's synthesis, for areas.
        power_report: JSON of the core's power, for energies; see
            :func:`sw_driver.mapper.energy.read_power`.
        dram_pj_per_bit: energy of a bit of DRAM traffic; not charged if None.
        activation_bits: width of activations, where the core's jobs choose it and ``core`` is a
            path; the widest if None.
        expanded: of latent attention, the cache keeps keys and values of every head.
        draft: a model that drafts, named as ``model`` is.
        routing: how tokens are spread over experts, or what :func:`load_routing` reads.

    Raises:
        InputError: model, specification, numbers or report are wrong; one line per problem.
    """
    problems: list[InputError] = []
    arch = drafting = None
    try:
        arch = model if isinstance(model, Architecture) else load_model(model)
    except InputError as error:
        problems.append(error)
    try:
        if draft is not None:
            drafting = draft if isinstance(draft, Architecture) else load_model(draft)
    except InputError as error:
        problems.append(error)
    try:
        core = core if isinstance(core, Core) else load_core(core, activation_bits)
    except InputError as error:
        problems.append(error)
    try:
        routing = load_routing(routing) if isinstance(routing, str) else routing
    except InputError as error:
        problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems or arch is None or isinstance(core, (str, Path)) or isinstance(routing, str):
        raise InputError("\n".join(map(str, problems)))
    choices = choices or Choices()
    area = read_area(synth_report, core) if synth_report is not None else None
    check_dram(dram_pj_per_bit)
    power = read_power(power_report, core) if power_report is not None else None
    if dram_pj_per_bit is not None and power is None:
        raise InputError("dram_pj_per_bit: must come with a power report")
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
        draft=drafting,
        routing=routing,
        inputs_cached=choices.kv is not None and choices.kv.kind == "xquant",
    )
    drafts = replace(choices, operator_bits={}, kv=None)
    mappings = [
        map_workload(work, core, choices if work.architecture is arch else drafts) for work in works
    ]
    return report_of(mappings, area, power, dram_pj_per_bit)


def report_of(
    mappings: Sequence[Mapping],
    area: Area | None = None,
    power: Power | None = None,
    dram_pj_per_bit: float | None = None,
) -> MapReport:
    """Mapped phases of one model, and of what drafts for it, on one core, as a report."""
    first = mappings[0]
    core, arch, choices = first.core, first.workload.architecture, first.choices
    own = [mapping for mapping in mappings if mapping.workload.architecture is arch]
    last = own[-1]
    widths = core.widths
    cache = choices.kv.name if choices.kv else f"W{first.kv_bits}"
    facts = [
        f"core: {core.name} ({core.block}), {core.m} × {core.n} × {core.k} a step, "
        f"{core.activation_name} × {core.encoding} W"
        f"{widths[0] if len(widths) == 1 else f'{widths[0]} to {widths[-1]}'}, "
        f"{core.clock_mhz:g} MHz, DRAM {core.bandwidth_gb_s:g} GB/s, "
        f"buffer {choices.buffer_bytes / 1024:g} KiB",
        f"model: {lay.count(arch.parameters)} parameters"
        + (
            f" ({lay.count(arch.active_parameters)} active)"
            if arch.active_parameters != arch.parameters
            else ""
        )
        + f", {lay.engineering(first.parameter_bytes, 'B')} packed"
        + (f"; KV cache {cache}, {lay.engineering(last.cache_bytes, 'B')}" if arch.causal else ""),
    ]
    if area:
        facts.append(
            f"area: {area.area:,.0f} {area.unit} in {area.technology}, critical delay "
            f"{area.delay_ns:.3f} ns"
        )
    figures = Figures.of(mappings, power, dram_pj_per_bit)
    facts += figures.facts()
    notes = list(dict.fromkeys(note for mapping in mappings for note in mapping.notes))
    notes += _digest_notes(core, area, power)
    for mapping in mappings:
        other = mapping.workload.architecture
        if other is not arch and other.vocab != arch.vocab:
            notes.append(
                f"{other.name} has {other.vocab} tokens and {arch.name} {arch.vocab}: it drafts "
                "for it only if the two have one tokenizer"
            )
    if power:
        notes.append(figures.charged())
    notes = list(dict.fromkeys(notes))
    return MapReport(
        title=f"{arch.name} on {core.name}",
        facts=facts,
        tables=[
            *(_table(mapping, mapping not in own) for mapping in mappings),
            figures.table(),
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
                "storage": _storage(arch),
                "parameter_bytes": first.parameter_bytes,
            },
            "core": core.as_dict(),
            "choices": {**asdict(choices), "operator_bits": dict(choices.operator_bits)},
            "area": asdict(area) if area else None,
            "phases": [
                {**_phase(mapping, area), **figures.of_phase(index)}
                for index, mapping in enumerate(mappings)
            ],
            **figures.totals(),
            "notes": notes,
        },
        draw=lambda figure: draw_mappings(figure, mappings),
        size=(11.0, 4.6 + 3.2 * len(mappings)),
        mappings=tuple(mappings),
        figures=figures,
        area=area,
    )


def _digest_notes(core: Core, area: Area | None, power: Power | None) -> list[str]:
    """What is to be known of reports that are perhaps of another design."""
    notes = []
    if area and area.spec_digest not in (None, core.digest):
        notes.append(
            f"the area is of another specification of the name {core.name}: it is this core's only "
            "if the two differ in clock and memory alone"
        )
    if area and area.delay_ns * core.clock_mhz > 1000:
        notes.append(
            f"the critical delay of {area.delay_ns:.3f} ns does not reach the clock of "
            f"{core.clock_mhz:g} MHz that these seconds are of"
        )
    if power and power.spec_digest != core.digest:
        notes.append(
            f"the power is of another specification than {core.name}: it is this core's only if "
            "the two differ in clock and memory alone"
        )
    return notes


def _storage(arch: Architecture) -> dict[str, list[dict[str, Any]]]:
    """How a checkpoint stores every operator, empty where none was read."""
    return {
        role: [{**asdict(storage), "layers": layers} for storage, layers in shares]
        for role, shares in arch.storage
    }


def phase_title(mapping: Mapping) -> str:
    """One line: what the phase is."""
    work = mapping.workload
    batch = f", batch {work.batch}" if work.batch > 1 else ""
    after = f" after {work.context}" if work.context or work.phase != "prefill" else ""
    noun = "token" if work.tokens == 1 else "tokens"
    chunk = f" in chunks of {work.chunk}" if work.chunk else ""
    riders = ""
    if work.riders:
        each = "one decodes" if work.riders == 1 else f"{work.riders} decode"
        riders = f", {each} a token a chunk after {work.rider_context}"
    drafted = f", {work.drafted} drafted a step" if work.drafted else ""
    return f"{work.phase}: {work.tokens} {noun}{chunk}{after}{batch}{riders}{drafted}"


def _table(mapping: Mapping, draft: bool) -> Table:
    rows = []
    total = mapping.seconds
    whole = phase_position(mapping)
    for item in mapping.operators:
        off = not item.covered
        place = position(mapping, item)
        lookup = item.kind == "lookup"
        shape = (item.shape[0], item.shape[2]) if lookup else item.shape
        rows.append(
            (
                item.name,
                "×".join(map(str, shape)),
                lay.count(item.gemms),
                str(item.bits),
                "-" if off or lookup else lay.count(item.cycles),
                "-" if off or lookup else f"{item.utilisation:.1%}",
                lay.fixed(item.bytes / 1e6, 4),
                lay.fixed(item.seconds * 1e3, 4),
                f"{item.seconds / total:.1%}",
                lay.fixed(place.intensity, 3) if place else "-",
                f"{place.fraction:.1%}" if place else "-",
                ("off core, " if off else "") + item.bound,
            )
        )
    footer = [
        (
            "total",
            "",
            "",
            "",
            lay.count(mapping.cycles),
            f"{mapping.utilisation:.1%}",
            lay.fixed(mapping.bytes / 1e6, 4),
            lay.fixed(total * 1e3, 4),
            "",
            lay.fixed(whole.intensity, 3),
            f"{whole.fraction:.1%}",
            f"{lay.fixed(mapping.tokens_per_second, 4)} tokens/s",
        )
    ]
    columns = (
        "operator", "M×N×K", "GEMMs", "W bits", "cycles", "util.", "MB", "ms", "share",
        "ops/B", "of roof", "bound by",
    )  # fmt: skip
    name = mapping.workload.name
    of = f"draft {name}, " if draft else ""
    return Table(title=of + phase_title(mapping), columns=columns, rows=rows, footer=footer)


def _vector_table(mappings: Sequence[Mapping]) -> Table:
    """What is not a matrix product: a core does none of it, and no seconds are charged for it."""
    names = list(dict.fromkeys(name for mapping in mappings for name, _ in mapping.vector))
    columns = [dict(mapping.vector) for mapping in mappings]
    return Table(
        columns=(
            "not done by the core, in no seconds",
            *(f"elements in {phase_name(mappings, mapping)}" for mapping in mappings),
        ),
        rows=[(name, *(lay.count(column.get(name, 0)) for column in columns)) for name in names],
    )


def _phase(mapping: Mapping, area: Area | None) -> dict[str, Any]:
    work = mapping.workload
    data: dict[str, Any] = {
        "phase": work.phase,
        "batch": work.batch,
        "tokens": work.tokens,
        "context": work.context,
        "cycles": mapping.cycles,
        "macs": mapping.macs,
        "uncovered_macs": mapping.uncovered_macs,
        "utilisation": mapping.utilisation,
        "dram_bytes": mapping.bytes,
        "seconds": mapping.seconds,
        "steps": work.steps,
        "new_tokens": work.new_tokens,
        "tokens_per_second": mapping.tokens_per_second,
        "kv_bits": mapping.kv_bits,
        "cache_bytes": mapping.cache_bytes,
        "kv": mapping.choices.kv.name if mapping.choices.kv else None,
        "model": work.name,
        "chunk": work.chunk,
        "piggyback": work.riders,
        "piggyback_context": work.rider_context,
        "drafted": work.drafted,
        "tokens_per_step": list(work.rise) if work.rise else None,
        "routing": work.routing.kind,
        "experts_touched": work.experts_touched,
        "operators": [
            {
                **item.as_dict(),
                "roofline": place.as_dict() if (place := position(mapping, item)) else None,
            }
            for item in mapping.operators
        ],
        "vector_elements": dict(mapping.vector),
    }
    if area:
        per_area = mapping.tokens_per_second / area.area
        data[f"tokens_per_second_per_{area.unit}"] = per_area
    return data


def draw_mappings(figure: Figure, mappings: Sequence[Mapping]) -> None:
    """Per operator the time of computing and of memory, one panel a phase, and the roofline."""
    heights = [3.2] * len(mappings) + [3.8]
    panels = figure.subplots(
        len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    first = mappings[0]
    figure.suptitle(
        f"{first.workload.name} on {first.core.name}", fontweight="bold", x=0.01, ha="left"
    )
    for axes, mapping in zip(panels, mappings, strict=False):
        draw_mapping(axes, mapping)
        draft = mapping.workload.architecture is not first.workload.architecture
        of = f"draft {mapping.workload.name}, " if draft else ""
        axes.set_title(
            f"{of}{phase_title(mapping)}: {lay.fixed(mapping.tokens_per_second, 4)} tokens/s"
        )
    draw_roofline(panels[-1], mappings)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="upper right", ncols=2)


def draw_mapping(axes: Any, mapping: Mapping) -> None:
    """Bars of one phase."""
    items = mapping.operators
    scale, unit = (1e3, "ms") if mapping.seconds < 10 else (1.0, "s")
    places = range(len(items))
    width = 0.4
    axes.bar(
        [place - width / 2 for place in places],
        [item.compute_seconds * scale for item in items],
        width,
        label="computing",
        color=lay.BLUE,
    )
    axes.bar(
        [place + width / 2 for place in places],
        [item.memory_seconds * scale for item in items],
        width,
        label="memory",
        color=lay.ORANGE,
    )
    names = [item.name + (" (off core)" if not item.covered else "") for item in items]
    if len(items) > 12:
        turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(list(places), names, fontsize=8, **turned)
    else:
        names = [name.replace(" (", "\n(") for name in names]
        axes.set_xticks(list(places), names, fontsize=8)
    axes.set_ylabel(unit)
    axes.margins(y=0.18)
