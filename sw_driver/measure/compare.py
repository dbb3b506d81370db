"""Cores side by side: area with everything charged, delay, cycles of a model, bits and error.

Every specification goes through the same synthesis, the same mapping and the same real layer. What
a core leaves to others, scaling and quantizing, is charged as units of this project beside it
(:mod:`sw_driver.runner.companions`). Areas are for a whole multiplication and accumulation a
cycle: a core that takes ``c`` cycles for a step of ``M·N·K`` of them counts ``c`` times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rtl_gen import __version__
from rtl_gen.console import Progress
from rtl_gen.errors import InputError
from sw_driver import report as lay
from sw_driver.checkpoint import load_model
from sw_driver.mapper import mapping as maps
from sw_driver.mapper.core import Core, core_of
from sw_driver.mapper.mapping import Choices, map_workload
from sw_driver.mapper.phases import workloads_of
from sw_driver.mapper.workload import Workload
from sw_driver.report import Report, Table
from sw_driver.runner.companions import LAYER, companions, uncharged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flows.areas import Synthesis
    from hw.gemm import GemmSpec
    from sw_driver.text.bert import Bert

WIDTHS = (1, 2, 4, 6, 8)
INTEGERS = ("unsigned", "twos_complement", "bipolar")
GROUP = 128


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A core at one width of weights.

    Attributes:
        bits_each: memory a weight takes, scales included.
        mac_area: area of the core for a multiplication and accumulation a cycle.
        scale_area, quantizer_area: the same of the units beside it; 0 where there is none.
        uncharged: which of the two the core needs although there is none.
        density: multiplications and accumulations per ns and mm² at the specification's clock, the
            units beside it included; 0 where the technology has no mm².
        cycles: of the model's phases; seconds: with memory, whichever binds.
        sqnr_db: of the projections of a real layer, mean; None where it was not measured.
    """

    spec: str
    digest: str
    block: str
    formats: str
    weight_bits: int
    bits_each: float
    mac_area: float
    scale_area: float
    quantizer_area: float
    uncharged: tuple[str, ...]
    unit: str
    delay_ns: float
    met: bool
    density: float
    cycles: dict[str, int]
    seconds: dict[str, float]
    tokens_per_second: dict[str, float]
    sqnr_db: float | None

    @property
    def total_area(self) -> float:
        return self.mac_area + self.scale_area + self.quantizer_area


@dataclass(frozen=True, kw_only=True)
class CompareReport(Report):
    """Every core and width."""

    candidates: tuple[Candidate, ...]


def compare(
    specs: Sequence[object],
    *,
    model: str | Path = "llama-2-7b",
    weight_bits: Sequence[int] = (),
    widths: Mapping[str, Sequence[int]] | None = None,
    prefill: int | None = None,
    decode: int | None = None,
    context: int | None = None,
    group: int = GROUP,
    liberty: Path | None = None,
    effort: str = "normal",
    measure: bool = True,
    progress: bool = True,
) -> CompareReport:
    """Cores side by side.

    Args:
        specs: GEMM cores.
        model: what is mapped: a shipped configuration's name or a ``config.json``.
        weight_bits: widths of integer weights; by default 1, 2, 4, 6 and 8 as far as a core has
            them. A ternary core has its own, a floating or block format too.
        widths: of single cores, by the specification's name, in place of ``weight_bits``.
        prefill, decode, context: phases of the mapping, see ``rtlgen map``.
        group: elements of K that share a scale of integers.
        liberty, effort: of the synthesis, see ``rtlgen synth``.
        measure: measure the error on a real layer, too.

    Raises:
        InputError: a specification, the model or a number is wrong.
        ToolError: a synthesis failed.
    """
    from flows.areas import synthesis
    from hw.gemm import GemmSpec
    from sw_driver.text.bert import Bert

    problems = [
        f"{getattr(spec, 'name', 'specification')}: block: must be a GEMM core to compare, got "
        f"{getattr(spec, 'block', None)!r}"
        for spec in specs
        if not isinstance(spec, GemmSpec)
    ]
    problems += [
        f"weight_bits: must lie in [1, 8], got {bits}" for bits in weight_bits if not 1 <= bits <= 8
    ]
    asked = {name: tuple(dict.fromkeys(found)) for name, found in (widths or {}).items()}
    problems += _refused(specs, asked)
    if not 1 <= group <= 1 << 16:
        problems.append(f"group: must lie in [1, {1 << 16}], got {group}")
    if problems:
        raise InputError("\n".join(problems))
    cores = [spec for spec in specs if isinstance(spec, GemmSpec)]
    # Every core is listed at widths of its own, whatever a checkpoint stores.
    arch = replace(load_model(model), storage=())
    works = workloads_of(arch, prefill=prefill, decode=decode, context=context)
    chosen = [
        (spec, bits)
        for spec in cores
        for bits in asked.get(spec.name) or _widths(core_of(spec), weight_bits)
    ]
    if not chosen:
        raise InputError(f"weight_bits: no core has one of {', '.join(map(str, weight_bits))}")
    encoder = Bert() if measure else None
    known: dict[str, Synthesis] = {}
    candidates = []
    with Progress("comparing", total=len(chosen), enabled=progress) as shown:
        for spec, bits in chosen:
            shown.describe(f"comparing {spec.name} at W{bits}")
            core = core_of(spec)
            beside = companions(spec, bits=bits, group=group)
            for item in (spec, *(companion.spec for companion in beside)):
                if item.digest not in known:
                    known[item.digest] = synthesis(item, liberty=liberty, effort=effort)
            areas = {item.purpose: known[item.spec.digest] for item in beside}
            own = known[spec.digest]
            mapped = [map_workload(work, core, _choices(core, bits, group)) for work in works]
            error = None if encoder is None else _error(spec, encoder, bits, group)
            candidates.append(_candidate(spec, core, bits, group, own, areas, mapped, error))
            shown.advance()
    technology = next(iter(known.values())).technology
    return _report(candidates, works, technology, group, effort, model)


def _refused(specs: Sequence[object], asked: Mapping[str, Sequence[int]]) -> list[str]:
    """What is wrong with widths that are asked of single cores."""
    from hw.gemm import GemmSpec

    cores = {spec.name: core_of(spec) for spec in specs if isinstance(spec, GemmSpec)}
    problems = []
    for name, widths in asked.items():
        if name not in cores:
            problems.append(f"widths: {name} is not one of the cores")
            continue
        has = cores[name].widths
        problems += [
            f"{name}: has weights of {', '.join(map(str, has))} bits, got {bits}"
            for bits in widths
            if bits not in has
        ]
    return problems


def _widths(core: Core, asked: Sequence[int]) -> list[int]:
    """Widths of one core: of those asked for, or its only one."""
    if len(core.widths) == 1:
        return list(core.widths)
    return [bits for bits in asked or WIDTHS if bits in core.widths]


def _choices(core: Core, bits: int, group: int) -> Choices:
    return Choices(weight_bits=bits, group=None if core.own_scales else group)


def _error(spec: GemmSpec, encoder: Bert, bits: int, group: int) -> float:
    """SQNR of the projections of the encoder's first layer, mean, dB."""
    from sw_driver.measure.accuracy import measure
    from sw_driver.quantize.treatments import treatments
    from sw_driver.runner.run import DEFAULT_TEXT

    (row,), _ = measure(
        spec,
        encoder,
        bits=bits,
        group=group,
        layer=0,
        text=DEFAULT_TEXT,
        treated=treatments(16)[:1],
        grouped=True,
    )
    return row.projections_db


def _candidate(
    spec: GemmSpec,
    core: Core,
    bits: int,
    group: int,
    own: Synthesis,
    beside: dict[str, Synthesis],
    mapped: Sequence[maps.Mapping],
    error: float | None,
) -> Candidate:
    rate = core.peak_macs(bits)
    areas = {purpose: found.area / rate for purpose, found in beside.items()}
    total = own.area / rate + sum(areas.values())
    delay = max([own.delay_ns, *(found.delay_ns for found in beside.values())])
    physical = own.unit == "µm²"
    scales = 0.0 if core.own_scales else (16 + core.zero_point * bits) / group
    return Candidate(
        spec=core.name,
        digest=core.digest,
        block=core.block,
        formats=f"{core.activation_name} × {_weights(core, bits)}",
        weight_bits=bits,
        bits_each=core.step_bits[bits - 1] / core.k + scales,
        mac_area=own.area / rate,
        scale_area=areas.get("scales", 0.0),
        quantizer_area=areas.get("quantizer", 0.0),
        uncharged=uncharged(spec, bits),
        unit=own.unit,
        delay_ns=delay,
        met=bool(own.met) and all(found.met for found in beside.values()),
        density=1e6 / total * core.clock_mhz / 1000 if physical else 0.0,
        cycles={item.workload.phase: item.cycles for item in mapped},
        seconds={item.workload.phase: item.seconds for item in mapped},
        tokens_per_second={item.workload.phase: item.tokens_per_second for item in mapped},
        sqnr_db=error,
    )


def _weights(core: Core, bits: int) -> str:
    if core.ternary or (core.own_scales and core.encoding not in INTEGERS):
        return core.encoding
    return f"W{bits}"


def _report(
    candidates: Sequence[Candidate],
    works: Sequence[Workload],
    technology: str,
    group: int,
    effort: str,
    model: str | Path,
) -> CompareReport:
    phases = [work.phase for work in works]
    unit = candidates[0].unit
    order = sorted(candidates, key=lambda item: (item.weight_bits, item.total_area))
    rows = [
        (
            item.spec,
            item.formats,
            f"{item.bits_each:.2f}",
            lay.fixed(item.mac_area, 4),
            _beside(item, "scales", item.scale_area),
            _beside(item, "quantizer", item.quantizer_area),
            lay.fixed(item.total_area, 4),
            f"{item.delay_ns:.3f}" + ("" if item.met else " missed"),
            lay.count(round(item.density)) if item.density else "–",
            *(lay.count(item.cycles[phase]) for phase in phases),
            *(lay.fixed(item.tokens_per_second[phase], 4) for phase in phases),
            "–" if item.sqnr_db is None else f"{item.sqnr_db:.1f}",
        )
        for item in order
    ]
    columns = (
        "core",
        "formats",
        "bits W",
        f"{unit} core",
        "scales",
        "quantizer",
        "in all",
        "ns",
        "MAC/ns/mm²",
        *(f"{phase} cycles" for phase in phases),
        *(f"{phase} tok/s" for phase in phases),
        "dB",
    )
    name = works[0].architecture.name
    facts = [
        f"{technology}, effort {effort}, least area that meets each specification's clock; model "
        f"{name}; integers in groups of {group} along K",
    ]
    notes = [
        f"{unit}: for a multiplication and accumulation a cycle at the given width; scales and "
        f"quantizer: units beside the core, sized for a layer of {LAYER} × {LAYER}",
        "–: a core needs none; not charged: it needs one that there is no unit for here",
        "MAC/ns/mm²: at the specification's clock, everything in; tok/s: compute or memory, "
        "whichever binds, at the specification's clock and bandwidth",
        "dB: signal to quantization noise of the projections of a real layer (all-MiniLM-L6-v2), "
        "mean of the six",
    ]
    return CompareReport(
        title=f"{len({item.spec for item in candidates})} cores side by side",
        facts=facts,
        tables=[Table(columns=columns, rows=rows)],
        notes=notes,
        data={
            "rtlgen": __version__,
            "technology": technology,
            "effort": effort,
            "model": name,
            "group": group,
            "layer": LAYER,
            "candidates": [{**asdict(item), "total_area": item.total_area} for item in order],
        },
        draw=lambda figure: draw(figure, candidates),
        size=(13.0, max(5.0, 1.6 + 0.21 * len(candidates))),
        candidates=tuple(candidates),
    )


def _beside(item: Candidate, purpose: str, area: float) -> str:
    """The cell of a unit beside a core."""
    if purpose in item.uncharged:
        return "not charged"
    return lay.fixed(area, 3) if area else "–"


COLOURS = (lay.BLUE, lay.ORANGE, lay.GREEN, lay.RED, lay.PURPLE, lay.SKY, lay.GREY, lay.YELLOW)


PARTS = (
    ("core", "mac_area", ""),
    ("scales", "scale_area", "////"),
    ("quantizer", "quantizer_area", "xxxx"),
)


def draw(figure: Figure, candidates: Sequence[Candidate]) -> None:
    """Areas by width and core, split by what they are for; and error against area."""
    blocks = list(dict.fromkeys(item.block for item in candidates))
    colour = {block: COLOURS[index % len(COLOURS)] for index, block in enumerate(blocks)}
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_areas(left, candidates, colour)
    _draw_errors(right, candidates, colour)


def _draw_areas(axes: Axes, candidates: Sequence[Candidate], colour: Mapping[str, str]) -> None:
    """A bar a core and width, the smallest of a width on top, widths from the top."""
    from matplotlib.patches import Patch

    order = sorted(candidates, key=lambda item: (item.weight_bits, item.total_area))
    places, place = [], 0.0
    for before, item in zip([None, *order], order, strict=False):
        place += 1.0 if before is None or before.weight_bits == item.weight_bits else 1.6
        places.append(place)
    ends = [0.0] * len(order)
    for _, name, hatch in PARTS:
        values = [getattr(item, name) for item in order]
        axes.barh(
            places,
            values,
            left=ends,
            height=0.8,
            color=[colour[item.block] for item in order],
            alpha=0.5 if hatch else 1.0,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.4,
        )
        ends = [a + b for a, b in zip(ends, values, strict=True)]
    for place, end, item in zip(places, ends, order, strict=True):
        text = f" {end:,.0f}" + ("" if item.met else " (misses its clock)")
        axes.text(end, place, text, va="center", fontsize=7)
    axes.set_yticks(places, [f"W{item.weight_bits}  {item.formats}  {item.spec}" for item in order])
    axes.tick_params(axis="y", labelsize=7, length=0)
    axes.set_ylim(places[-1] + 0.8, places[0] - 0.8)
    axes.set_xlim(0, 1.14 * max(ends))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{candidates[0].unit} for a MAC a cycle, everything charged", fontsize=10)
    shown = [
        Patch(
            facecolor="0.5",
            alpha=0.5 if hatch else 1.0,
            hatch=hatch,
            edgecolor="white",
            label=label,
        )
        for label, name, hatch in PARTS
        if any(getattr(item, name) for item in order)
    ]
    axes.legend(
        handles=shown,
        frameon=False,
        fontsize=8,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.05),
        ncols=len(shown),
    )


def _draw_errors(axes: Axes, candidates: Sequence[Candidate], colour: Mapping[str, str]) -> None:
    """A point a core and width; those that nothing beats in both stand on a line."""
    measured = [(item, item.sqnr_db) for item in candidates if item.sqnr_db is not None]
    for block in dict.fromkeys(item.block for item, _ in measured):
        points = [(item.total_area, error) for item, error in measured if item.block == block]
        axes.scatter(
            [area for area, _ in points],
            [error for _, error in points],
            color=colour[block],
            label=block,
            s=24,
            zorder=3,
        )
    best: list[tuple[Candidate, float]] = []
    for item, error in sorted(measured, key=lambda pair: (pair[0].total_area, -pair[1])):
        if not best or error > best[-1][1]:
            best.append((item, error))
    axes.plot(
        [item.total_area for item, _ in best],
        [error for _, error in best],
        color="0.75",
        linewidth=1.0,
        drawstyle="steps-post",
        zorder=1,
    )
    for number, (item, error) in enumerate(best):
        # On either side in turn, as neighbours are close; the last one has no room on its right.
        right = number % 2 == 1 and number < len(best) - 1
        axes.annotate(
            item.spec,
            (item.total_area, error),
            xytext=(5, -3) if right else (-4, 4),
            textcoords="offset points",
            ha="left" if right else "right",
            va="top" if right else "bottom",
            fontsize=6,
        )
    if measured:
        axes.set_xscale("log")
        axes.margins(x=0.12)
        least, most = axes.get_xlim()
        decades = [10.0**power * step for power in range(-2, 7) for step in (1, 2, 5)]
        ticks = [tick for tick in decades if least <= tick <= most]
        axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel(f"{candidates[0].unit} for a MAC a cycle, everything charged")
    axes.set_ylabel("SQNR on a real layer, dB")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.set_title("error against area (line: the best)", fontsize=10)
