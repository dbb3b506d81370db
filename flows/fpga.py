"""Mapping onto the cells of an FPGA family: look-up tables, registers, block RAM, DSP.

Yosys' own flow of the family. Modules with several instances are mapped once and counted as often
as they are instantiated; everything else is flattened. There is no placement, so no clock.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows import yosys
from flows.errors import FlowError
from flows.synthesis import read_sources
from rtl_gen.errors import InputError


@dataclass(frozen=True)
class _Family:
    """How a family's flow is called and what its cells are, as patterns and what one counts for."""

    command: str
    without_abc9: str
    luts: Mapping[str, int]
    registers: str
    block_rams: str
    dsps: str
    carries: str


_FAMILIES = {
    "ecp5": _Family(
        "synth_ecp5 -noflatten",
        "-noabc9",
        # A CCU2C takes both LUTs of its slice, a distributed RAM four and two for its decoder.
        {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
        "TRELLIS_FF",
        "DP16KD|PDPW16KD",
        "MULT18X18D|ALU54B|MULT9X9D",
        "CCU2C",
    ),
    "ice40": _Family(
        "synth_ice40 -noflatten",
        "-noabc",
        {"SB_LUT4": 1},
        "SB_DFF.*",
        "SB_RAM40_4K.*|SB_SPRAM256KA",
        "SB_MAC16",
        "SB_CARRY",
    ),
    "xilinx": _Family(
        "synth_xilinx -noiopad -noclkbuf",
        "",
        {"LUT[1-6]": 1, "INV": 1, "RAM(32|64)X1[DS]": 2, "RAM32M": 4, "RAM64M": 4, "SRL.*": 1},
        "FD[RSCP]E(_1)?",
        "RAMB.*",
        "DSP48.*",
        "CARRY4|CARRY8",
    ),
}
TARGETS = tuple(_FAMILIES)


@dataclass(frozen=True)
class FpgaReport:
    """Cells of a design on an FPGA family.

    Attributes:
        luts: look-up tables, those that carry cells and distributed RAM take included.
        cell_counts: all cells by type.
        by_module: cells of every module below the top that has several instances, each once, by
            type; ``instances`` how often it is there.
        notes: what the flow had to do otherwise than planned.
    """

    top: str
    target: str
    luts: int
    registers: int
    block_rams: int
    dsps: int
    carries: int
    cell_counts: Mapping[str, int]
    by_module: Mapping[str, Mapping[str, int]]
    instances: Mapping[str, int]
    notes: tuple[str, ...]
    digest: str
    tools: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def table(self) -> str:
        """The report as text."""
        registers = _FAMILIES[self.target].registers
        lines = [
            f"{self.top} on {self.target}",
            f"  LUTs           {self.luts:10,}",
            f"  registers      {self.registers:10,}",
            f"  block RAMs     {self.block_rams:10,}",
            f"  DSPs           {self.dsps:10,}",
            f"  carry cells    {self.carries:10,}",
            "  by sub-block, each:",
            *(
                f"    {module:24} {times:6,} × {_luts(self.target, cells):8,} LUTs "
                f"{_count(registers, cells):8,} registers"
                for module, times in self.instances.items()
                for cells in [self.by_module[module]]
            ),
            "  by cell:",
            *(f"    {kind:20} {number:10,}" for kind, number in self.cell_counts.items()),
            *(f"  note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


def fpga(verilog: Path | str | Sequence[Path | str], top: str, target: str = "ecp5") -> FpgaReport:
    """LUTs, registers, block RAMs and DSPs of a design.

    Args:
        verilog: the source file or files.
        top: the top module.
        target: ``ecp5``, ``ice40`` or ``xilinx`` (7 series).

    Raises:
        FlowError: Yosys failed.
        InputError: a source that cannot be read, or an unknown target.
    """
    if target not in _FAMILIES:
        raise InputError(f"target: must be one of {', '.join(TARGETS)}, got {target!r}")
    family = _FAMILIES[target]
    texts = read_sources(verilog)
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="rtlgen-fpga-") as name:
        folder = Path(name)
        for index, text in enumerate(texts):
            (folder / f"source{index}.v").write_text(text, encoding="utf-8")
        read = [
            *(f"read_verilog -sv source{index}.v" for index in range(len(texts))),
            f"hierarchy -check -top {top}",
            "proc -norom",
        ]
        yosys.run([*read, "write_json read.json"], ["read.json"], folder=folder)
        kept = _repeated(json.loads((folder / "read.json").read_text())["modules"], top)
        prepare = [
            *read,
            *(f"setattr -mod -set keep_hierarchy 1 {module}" for module in kept),
            "flatten",
            # Amaranth's unused wires have upset ABC9.
            "opt_clean -purge",
        ]
        finish = ["opt_clean -purge", "tee -q -o cells.json stat -json"]
        try:
            yosys.run(
                [*prepare, f"{family.command} -top {top}", *finish], ["cells.json"], folder=folder
            )
        except FlowError as error:
            if not family.without_abc9:
                raise
            (folder / "cells.json").unlink(missing_ok=True)
            yosys.run(
                [*prepare, f"{family.command} {family.without_abc9} -top {top}", *finish],
                ["cells.json"],
                folder=folder,
            )
            notes.append(
                f"mapped with {family.without_abc9}: the default flow failed, {error.words}"
            )
        data = json.loads((folder / "cells.json").read_text())
    modules = {
        key.lstrip("\\"): Counter(
            {kind.lstrip("\\"): count for kind, count in item["num_cells_by_type"].items()}
        )
        for key, item in data["modules"].items()
    }
    instances: Counter[str] = Counter()

    def visit(module: str, times: int) -> None:
        instances[module] += times
        for kind, count in modules[module].items():
            if kind in modules:
                visit(kind, times * count)

    visit(top, 1)
    own = {
        module: {
            kind: count
            for kind, count in sorted(modules[module].items())
            if kind not in modules and not kind.startswith("$")
        }
        for module in instances
    }
    total: Counter[str] = Counter()
    for module, kinds in own.items():
        for kind, count in kinds.items():
            total[kind] += count * instances[module]

    return FpgaReport(
        top=top,
        target=target,
        luts=_luts(target, total),
        registers=_count(family.registers, total),
        block_rams=_count(family.block_rams, total),
        dsps=_count(family.dsps, total),
        carries=_count(family.carries, total),
        cell_counts=dict(sorted(total.items())),
        by_module=own,
        instances=dict(instances),
        notes=tuple(notes),
        digest=hashlib.sha256("\0".join(texts).encode()).hexdigest(),
        tools=yosys.versions(),
    )


def _count(pattern: str, cells: Mapping[str, int]) -> int:
    """Cells of the types that match."""
    return sum(count for kind, count in cells.items() if re.fullmatch(pattern, kind))


def _luts(target: str, cells: Mapping[str, int]) -> int:
    weights = _FAMILIES[target].luts.items()
    return sum(weight * _count(pattern, cells) for pattern, weight in weights)


def _repeated(modules: Mapping[str, Any], top: str) -> list[str]:
    """Modules with several instances in one module and more than a few cells."""
    found = set()
    for module in modules.values():
        kinds = Counter(cell["type"] for cell in module["cells"].values())
        found |= {
            kind
            for kind, count in kinds.items()
            if count > 1
            and kind in modules
            and len(modules[kind]["cells"]) > 4
            and not kind.startswith("$paramod")
        }
    return sorted(found - {top})
