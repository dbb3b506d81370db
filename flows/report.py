"""What a synthesis reports."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.liberty import Library
    from flows.netlist import Module
    from flows.sta import Step


@dataclass(frozen=True)
class BlockArea:
    """All instances of one module below one place of the hierarchy.

    Attributes:
        path: place, ``*`` for an instance where there are several.
        module: its name.
        instances: how many in the design.
        area_each: area of one, the modules below it apart; ``area`` of all of these.
        area_total: area of all with everything below them.
        cells, flip_flops: in one, the modules below apart.
    """

    path: str
    module: str
    depth: int
    instances: int
    area_each: float
    area: float
    area_total: float
    cells: int
    flip_flops: int


@dataclass(frozen=True)
class Trial:
    """One recipe on one module: its area, and its delay by itself (ns; inputs at 0), unrepaired."""

    module: str
    recipe: str
    area: float
    delay_ns: float | None
    chosen: bool


@dataclass(frozen=True)
class SynthReport:
    """Area, cells and timing of a synthesized design.

    Attributes:
        area: all cells, in ``area_unit`` (``µm²``, or ``NAND2`` equivalents); the sum of ``area``
            over ``by_block`` exactly.
        cell_counts, cell_areas: by library cell.
        clock_gates: integrated clock gates; ``gated_from`` flip-flops sharing an enable get one, 0
            if the library has none.
        buffers: added for loads and timing, after mapping.
        delay_ns: the worst path, setup included; ``time_note`` says what a nanosecond is.
        met: whether ``clock_ns`` is met; None if none was asked for.
        overloaded: nets still above their driver's largest capacitance.
        path: the worst path, cell by cell.
        recipes: the recipe kept, by module; ``trials`` every recipe tried.
        digest: SHA-256 of the Verilog.
        left_out: memories that are in no figure, ``(place, words, bits a word)``.
    """

    top: str
    technology: str
    technology_digest: str
    area_unit: str
    time_note: str
    effort: str
    objective: str
    area: float
    by_block: tuple[BlockArea, ...]
    cells: int
    cell_counts: Mapping[str, int]
    cell_areas: Mapping[str, float]
    flip_flops: int
    clock_gates: int
    gated_from: int
    full_adders: int
    buffers: int
    delay_ns: float
    clock_ns: float | None
    met: bool | None
    setup_ns: float
    path_start: str
    path_end: str
    path: tuple[Step, ...]
    overloaded: int
    wire_cap_ff: float
    recipes: Mapping[str, str]
    trials: tuple[Trial, ...]
    digest: str
    tools: Mapping[str, str]
    left_out: tuple[tuple[str, int, int], ...] = ()

    @property
    def fmax_mhz(self) -> float:
        """Highest clock by the flow's own timing analysis, MHz."""
        return 1000.0 / self.delay_ns if self.delay_ns > 0 else math.inf

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = asdict(self)
        data["fmax_mhz"] = self.fmax_mhz if self.delay_ns > 0 else None
        return data

    def table(self) -> str:
        """The report as text."""
        unit = self.area_unit
        clock = ""
        if self.met is not None:
            clock = f", {self.clock_ns:g} ns {'met' if self.met else 'NOT met'}"
        gates = f"{self.clock_gates:14,}"
        if self.gated_from:
            gates += f" (from {self.gated_from} flip-flops sharing an enable)"
        lines = [
            f"{self.top} in {self.technology}, effort {self.effort}",
            f"  area           {self.area:14,.1f} {unit}",
            f"  critical delay {self.delay_ns:14.3f} ns ({self.fmax_mhz:,.0f} MHz{clock})",
            f"                 {self.time_note}",
            f"  cells          {self.cells:14,}",
            f"  flip-flops     {self.flip_flops:14,}",
            f"  clock gates    {gates}",
            f"  full adders    {self.full_adders:14,}",
            f"  buffers added  {self.buffers:14,}",
        ]
        for name, words, bits in self.left_out:
            lines.append(
                f"  NOT INCLUDED   {words:14,} words of {bits:,} bits: the memory {name}, its "
                "access time and its setup"
            )
        if self.overloaded:
            lines.append(f"  OVERLOADED     {self.overloaded:14,} nets above their driver's limit")
        lines.append("  by sub-block:")
        width = max((2 * b.depth + len(b.module) for b in self.by_block), default=0)
        for block in self.by_block:
            label = "  " * block.depth + block.module
            share = 100 * block.area / self.area if self.area else 0.0
            lines.append(
                f"    {label:{width}} {block.instances:6,} × {block.area_each:12,.2f} = "
                f"{block.area:14,.1f} {unit} {share:5.1f} %   {self.recipes[block.module]}"
            )
        lines.append("  by cell:")
        for kind, area in sorted(self.cell_areas.items(), key=lambda item: -item[1])[:12]:
            lines.append(f"    {kind:30} {self.cell_counts[kind]:8,}   {area:14,.1f} {unit}")
        lines.append(f"  worst path: {self.path_start} -> {self.path_end}")
        for step in self.path:
            lines.append(
                f"    {step.arrival:8.4f} +{step.delay:7.4f} {step.edge} {step.cell} {step.arc} "
                f"{step.load:.1f} fF, {step.fanout} pins   {step.instance}"
            )
        lines.append(f"    {self.delay_ns:8.4f} +{self.setup_ns:7.4f} setup")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


def blocks(modules: Mapping[str, Module], top: str, library: Library) -> tuple[BlockArea, ...]:
    """Areas by place in the hierarchy, a row for all copies of a module in a place."""
    rows: list[BlockArea] = []

    def below(name: str) -> float:
        module = modules[name]
        return module.area(library) + sum(below(i.module) for i in module.instances)

    def visit(name: str, path: str, times: int, depth: int) -> None:
        module = modules[name]
        each = module.area(library)
        kinds = Counter(gate.kind for gate in module.gates.values())
        rows.append(
            BlockArea(
                path,
                name,
                depth,
                times,
                each,
                each * times,
                below(name) * times,
                sum(kinds.values()),
                sum(n for kind, n in kinds.items() if library.cells[kind].kind == "ff"),
            )
        )
        children: dict[str, list[str]] = {}
        for instance in module.instances:
            children.setdefault(instance.module, []).append(instance.name)
        for child, names in children.items():
            label = names[0] if len(names) == 1 else "*"
            visit(child, f"{path}/{label}", times * len(names), depth + 1)

    visit(top, top, 1, 0)
    return tuple(rows)


def cell_counts(modules: Mapping[str, Module], copies: Mapping[str, int]) -> dict[str, int]:
    """Cells of the design by library cell."""
    total: Counter[str] = Counter()
    for name, times in copies.items():
        for gate in modules[name].gates.values():
            total[gate.kind] += times
    return dict(sorted(total.items()))


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
