"""Synthesis: every module through every recipe, the best of each kept, repaired and timed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import mapping, memories, netlist, recipes, report, sizing, sta, yosys
from flows.errors import FlowError
from flows.liberty import Library
from flows.models import cell_models
from flows.netlist import Compiled, Module
from flows.recipes import Recipe
from flows.report import SynthReport, Trial
from flows.sizing import Sized
from flows.sta import Boundary, Tables
from flows.technology import Technology, write_whole
from flows.workbench import Workbench
from rtl_gen.errors import InputError

FLOW = 1
"""Counts changes of the flow that change a result; part of every report."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """A design in cells.

    Attributes:
        report: of it. modules: the mapped modules, repaired. tables: of their library.
        boundary: what surrounds the design.
    """

    report: SynthReport
    modules: Mapping[str, Module]
    tables: Tables
    boundary: Boundary

    @property
    def kinds(self) -> set[str]:
        """Library cells that are used."""
        return {gate.kind for module in self.modules.values() for gate in module.gates.values()}

    def verilog(self) -> str:
        """The mapped Verilog, with the behaviour of its cells under ``ifdef RTLGEN_CELLS``."""
        library = self.tables.library
        return netlist.verilog(self.modules, library) + cell_models(library, self.kinds)


_TRIALS = {"fast": 2, "normal": 6, "high": 16}


@dataclass
class Candidate:
    """One module under one recipe, cleaned; ``delay`` by itself, None if it holds others."""

    recipe: Recipe
    module: Module
    area: float
    compiled: Compiled
    delay: float | None


def synthesize(
    verilog: Path | str | Sequence[Path | str],
    top: str,
    *,
    netlist_file: Path | None = None,
    **options: Any,
) -> SynthReport:
    """Area by sub-block, cells and critical delay of a design.

    Args:
        netlist_file: the mapped Verilog is written there; it instantiates the library's cells,
            whose behaviour follows under ``ifdef RTLGEN_CELLS``.
        verilog, top, options: as of :func:`implement`, which raises what this does.
    """
    found = implement(verilog, top, **options)
    if netlist_file is not None:
        write_whole(netlist_file, found.verilog())
    return found.report


def implement(
    verilog: Path | str | Sequence[Path | str],
    top: str,
    *,
    technology: Technology | None = None,
    clock_ns: float | None = None,
    objective: str = "area",
    effort: str = "normal",
    cache_dir: Path | None = None,
    jobs: int = 2,
    wire_cap_per_fanout: float = 0.0,
    progress: Progress | None = None,
) -> Implementation:
    """A design in cells: every module through every recipe, the best of each kept and repaired.

    Args:
        verilog: the source file or files.
        top: the top module.
        technology: the cell library; the embedded one if None.
        clock_ns: the smallest area that meets this period by the flow's own timing analysis, or
            the fastest found and ``met`` False. Without it the smallest area, whatever its delay.
        objective: ``area``, or ``density``: without a clock the largest ``1 / (area · delay)``.
        effort: ``fast``, ``normal`` or ``high``: how many recipes are tried.
        cache_dir: what modules map to is kept there, by content.
        jobs: processes at a time.
        wire_cap_per_fanout: fF of wire for every pin that a net reaches.
        progress: called with a label, steps done and steps in all.

    Raises:
        FlowError: Yosys failed, or the design has a combinational loop.
        LibertyError: the library cannot serve.
        InputError: a source that cannot be read, or an argument that is none of its choices.
    """
    for name, value, choices in (
        ("effort", effort, tuple(recipes.EFFORTS)),
        ("objective", objective, ("area", "density")),
    ):
        if value not in choices:
            raise InputError(f"{name}: must be one of {', '.join(choices)}, got {value!r}")
    if clock_ns is not None and not clock_ns > 0:
        raise InputError(f"clock_ns: must be above 0, got {clock_ns!r}")
    if wire_cap_per_fanout < 0:
        raise InputError(f"wire_cap_per_fanout: must be at least 0, got {wire_cap_per_fanout!r}")
    technology = technology or Technology.embedded()
    library = technology.library(cache_dir)
    sources = read_sources(verilog)
    texts, left_out = memories.leave_out(sources, top)

    design = {False: mapping.elaborate(texts, top, technology)}
    chosen = list(recipes.EFFORTS[effort])
    if design[False].multiplies and effort != "fast":
        design[True] = mapping.elaborate(texts, top, technology, booth=True)
        if design[True].ports == design[False].ports:
            chosen += [
                Recipe(recipe.tree, recipe.carry, recipe.script, True)
                for recipe in chosen
                if recipe.script == "amap" or effort == "high"
            ]
    mapped = mapping.map_modules(
        design,
        chosen,
        technology,
        clock_ns=clock_ns,
        cache_dir=cache_dir,
        jobs=jobs,
        progress=progress,
    )
    tables = Tables(library)
    candidates = {
        name: _candidates(name, found, mapped, library, tables) for name, found in mapped.items()
    }
    boundary = Boundary(wire_cap=wire_cap_per_fanout)
    picked, sized = _choose(candidates, top, tables, boundary, clock_ns, objective, _TRIALS[effort])
    if clock_ns is not None and sized.timing.delay > clock_ns + 1e-9:
        # More recipes lead elsewhere, not always further: what fewer come to counts as well.
        for fewer in recipes.EFFORTS:
            if fewer == effort:
                break
            some = {
                name: [item for item in items if item.recipe in recipes.EFFORTS[fewer]]
                for name, items in candidates.items()
            }
            if not all(some.values()):
                continue
            other = _choose(some, top, tables, boundary, clock_ns, objective, _TRIALS[fewer])
            if other[1].timing.delay < sized.timing.delay:
                picked, sized = other

    modules, timing = sized.modules, sized.timing
    copies = netlist.counts(modules, top)
    kinds = report.cell_counts(modules, copies)
    full = library.full_adder
    by_block = report.blocks(modules, top, library)

    def total(kind: str) -> int:
        return sum(number for cell, number in kinds.items() if library.cells[cell].kind == kind)

    found = SynthReport(
        top=top,
        technology=technology.name,
        technology_digest=technology.digest,
        area_unit=technology.area_unit,
        time_note=technology.time_note,
        effort=effort,
        objective=objective,
        area=sum(block.area for block in by_block),
        by_block=by_block,
        cells=sum(kinds.values()),
        cell_counts=kinds,
        cell_areas={cell: library.cells[cell].area * number for cell, number in kinds.items()},
        flip_flops=total("ff"),
        clock_gates=total("gate"),
        gated_from=recipes.minimum_gated(library),
        full_adders=kinds.get(full.cell.name, 0) if full else 0,
        buffers=sum(number * copies[name] for name, number in sized.buffers.items()),
        delay_ns=timing.delay,
        clock_ns=clock_ns,
        met=None if clock_ns is None else timing.delay <= clock_ns + 1e-9,
        setup_ns=timing.setup,
        path_start=timing.start,
        path_end=timing.end,
        path=timing.path,
        overloaded=len(timing.overloaded),
        wire_cap_ff=wire_cap_per_fanout,
        recipes={name: picked[name].recipe.name for name in copies},
        trials=tuple(_trials(candidates, picked)),
        digest=hashlib.sha256("\0".join(sources).encode()).hexdigest(),
        tools={**yosys.versions(), "flow": f"{FLOW}.{mapping.MAPPING}"},
        left_out=left_out,
    )
    return Implementation(report=found, modules=modules, tables=tables, boundary=boundary)


def read_sources(verilog: Path | str | Sequence[Path | str]) -> list[str]:
    """Texts of the source files.

    Raises:
        InputError: one cannot be read.
    """
    paths = [verilog] if isinstance(verilog, str | Path) else list(verilog)
    texts = []
    for path in paths:
        try:
            texts.append(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"{path}: must be a Verilog file, cannot be read: {reason}") from None
    if not texts:
        raise InputError("verilog: must name at least one file, got none")
    return texts


def _candidates(
    name: str,
    found: Mapping[Recipe, mapping.Mapped],
    modules: Mapping[str, object],
    library: Library,
    tables: Tables,
) -> list[Candidate]:
    """A module under every recipe, smallest first."""
    result = []
    for recipe, data in found.items():
        module = netlist.from_json(name, data, library, modules)
        netlist.clean(module, library)
        compiled = netlist.compile_module(module, tables.arcs)
        delay = _alone(module, compiled, tables)
        result.append(Candidate(recipe, module, module.area(library), compiled, delay))
    return sorted(result, key=lambda item: (round(item.area, 6), item.delay or 0.0, item.recipe))


def _bench(
    picked: Mapping[str, Candidate], top: str, tables: Tables, boundary: Boundary
) -> Workbench:
    modules = {name: item.module for name, item in picked.items()}
    copies = netlist.counts(modules, top)
    # Joining changes modules that hold others, so those are copied first.
    modules = {
        name: module.copy() if module.instances else module
        for name, module in modules.items()
        if name in copies
    }
    netlist.join_feedthroughs(modules, tables.library)
    compiled = {
        name: picked[name].compiled for name, module in modules.items() if not module.instances
    }
    return Workbench(modules, top, tables, boundary, compiled)


def _choose(
    candidates: Mapping[str, list[Candidate]],
    top: str,
    tables: Tables,
    boundary: Boundary,
    clock_ns: float | None,
    objective: str,
    trials: int,
) -> tuple[dict[str, Candidate], Sized]:
    """A candidate for every module, and the repaired design of them.

    Starts from the smallest of each. For a clock or for density, modules are then gone through from
    the largest in all, and other candidates that could do better are tried in the whole design. If
    that misses the clock, once more from the fastest of each.
    """
    options = {name: _alternatives(items, clock_ns) for name, items in candidates.items()}
    picked = {name: items[0] for name, items in options.items()}

    def outcome(
        choice: Mapping[str, Candidate], area_limit: float = float("inf")
    ) -> tuple[tuple[float, float], Workbench, Sized]:
        bench = _bench(choice, top, tables, boundary)
        sized = sizing.repair(bench, clock_ns=clock_ns, objective=objective, area_limit=area_limit)
        delay = sized.timing.delay
        if objective == "density" and clock_ns is None:
            return (0.0, sized.area * delay), bench, sized
        if clock_ns is None or delay <= clock_ns + 1e-9:
            return (0.0, sized.area), bench, sized
        return (delay, sized.area), bench, sized

    copies = netlist.counts({n: c.module for n, c in picked.items()}, top)
    order = sorted(copies, key=lambda name: -copies[name] * candidates[name][0].area)

    def improved(
        best: tuple[tuple[float, float], Workbench, Sized], picked: dict[str, Candidate]
    ) -> tuple[tuple[tuple[float, float], Workbench, Sized], dict[str, Candidate]]:
        """Other candidates of each module in turn, as far as they are better."""
        for name in order:
            for item in options[name][:trials]:
                if item is picked[name]:
                    continue
                area = sum(
                    (item if other == name else picked[other]).area * copies[other]
                    for other in copies
                )
                # Repair adds area, or nearly so: what starts larger than the best cannot win.
                met = clock_ns is not None and best[0][0] == 0.0
                if met and area >= best[0][1]:
                    continue
                trial = outcome({**picked, name: item}, best[0][1] if met else float("inf"))
                if trial[0] < best[0]:
                    best, picked = trial, {**picked, name: item}
        return best, picked

    best = outcome(picked)
    if clock_ns is not None or objective == "density":
        best, picked = improved(best, picked)
    if clock_ns is not None and best[0][0] > 0.0:
        # Paths through several modules want several fast ones at once: from the other end.
        fastest = {
            name: min(items, key=lambda item: item.delay or 0.0) for name, items in options.items()
        }
        trial = outcome(fastest)
        if trial[0] < best[0]:
            best, picked = improved(trial, fastest)
    _, bench, sized = best
    timing = bench.measure(whole=True)
    if clock_ns is not None and timing.delay > clock_ns >= sized.timing.delay:
        # A path between copies that one of each does not show: aim at a shorter period.
        bench.measure()
        sizing.repair_timing(bench, clock_ns - (timing.delay - sized.timing.delay))
        timing = bench.measure(whole=True)
    return picked, Sized(dict(bench.modules), timing, bench.area(), sizing.added_buffers(bench))


def _alone(module: Module, compiled: Compiled, tables: Tables) -> float | None:
    """Delay of a module by itself, None if it holds others."""
    if module.instances:
        return None
    flat = netlist.flatten({module.name: module}, module.name, {module.name: compiled})
    try:
        return sta.analyse(flat, tables).delay
    except FlowError:
        return None  # a loop through the module shows in the whole design, with its name


# How far repair brings a module's delay down, as a share: what is slower starts out hopeless.
_REPAIRABLE = 0.7


def _alternatives(items: list[Candidate], clock_ns: float | None) -> list[Candidate]:
    """Candidates that are the fastest of all as small as they are, the likeliest first.

    Those that a repair may bring to the clock go by area, the others after them by delay.
    """
    kept: list[Candidate] = []
    fastest = float("inf")
    for item in items:
        if item.delay is None:
            kept.append(item)
        elif item.delay < fastest * 0.995:
            kept.append(item)
            fastest = item.delay
    if clock_ns is None:
        return kept
    reach = clock_ns / _REPAIRABLE
    near = [item for item in kept if (item.delay or 0.0) <= reach]
    far = [item for item in kept if (item.delay or 0.0) > reach]
    return near + sorted(far, key=lambda item: item.delay or 0.0)


def _trials(
    candidates: Mapping[str, list[Candidate]], picked: Mapping[str, Candidate]
) -> list[Trial]:
    return [
        Trial(name, item.recipe.name, item.area, item.delay, item is picked[name])
        for name, items in candidates.items()
        for item in items
    ]
