"""From Verilog to mapped modules: elaboration once, then every module through every recipe.

Three steps, each a process of Yosys: *elaborate* reads the design, optimises it and gates clocks,
and writes every unique module by itself; *expand* makes the carry-propagate additions of one form
of a module; *map* runs ABC scripts over it and maps onto library cells. What a module becomes under
a recipe is kept by content, so a design in which one module changed maps that module only.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from flows import adders, recipes, yosys
from flows.errors import FlowError
from flows.liberty import Library
from flows.recipes import Recipe
from flows.technology import Technology, write_whole

MAPPING = 1
"""Counts changes of the scripts below: what another version mapped is not used."""

_OWN = ("rtlgen_fa", "rtlgen_add", "rtlgen_step")
_FLATTENED_CELLS = 24
"""Modules of fewer gates than this are dissolved in the module that holds them."""


@dataclass(frozen=True)
class Elaborated:
    """A design as unique modules.

    Attributes:
        modules: RTLIL of each module by name, without source locations.
        ports: of each module, ``{port: (direction, bits)}``, as every recipe keeps them.
        children: instances in each module: module names, one an instance.
        multiplies: whether a ``*`` is in the design.
        gated: flip-flops behind clock gates, by module.
    """

    top: str
    modules: Mapping[str, str]
    ports: Mapping[str, Mapping[str, tuple[str, int]]]
    children: Mapping[str, tuple[str, ...]]
    multiplies: bool


def elaborate(
    texts: Sequence[str], top: str, technology: Technology, *, booth: bool = False
) -> Elaborated:
    """Read, optimise and divide a design.

    Raises:
        FlowError: Yosys refused it.
    """
    library = technology.library()
    gated = recipes.minimum_gated(library)
    declared = {name for text in texts for name in re.findall(r"^\s*module\s+(\w+)", text, re.M)}
    own = [name for name in _OWN if name in declared]
    with tempfile.TemporaryDirectory(prefix="rtlgen-elaborate-") as name:
        folder = Path(name)
        for index, text in enumerate(texts):
            (folder / f"source{index}.v").write_text(text, encoding="utf-8")
        (folder / "boxes.v").write_text(recipes.BOXES, encoding="utf-8")
        (folder / "state.lib").write_text(_state_cells(library), encoding="utf-8")
        for file in ("full_adders.v", "constant_adders.v"):
            (folder / file).write_text((recipes.DATA / file).read_text())
        constant = ["techmap -map constant_adders.v", "opt -full"]
        yosys.run(
            [
                *(f"read_verilog -sv source{index}.v" for index in range(len(texts))),
                *(["techmap -map full_adders.v"] if "rtlgen_fa" in own else []),
                "read_verilog -lib boxes.v",
                *(f"setattr -mod -set blackbox 1 {item}" for item in own),
                f"hierarchy -check -top {top}",
                "setattr -unset init w:*",
                "proc -norom",
                "opt_clean",
                "opt_hier",
                "opt",
                "wreduce",
                "peepopt",
                "opt_clean",
                "tee -o multiplies.txt select -count t:$mul",
                *(["booth"] if booth else []),
                "alumacc",
                "share",
                "opt",
                "memory -nomap",
                "opt_clean",
                "memory_map",
                # As of registers: cells have no first value, words neither.
                "setattr -unset init w:*",
                "opt -full",
                "maccmap -unmap",
                "techmap -map full_adders.v",
                *constant,
                *constant,
                "opt_hier",
                "opt -full",
                "simplemap",
                "opt_dff",
                "dfflegalize -cell $_DFF_P_ x -cell $_DFFE_PP_ x",
                "opt_merge",
                "opt_clean",
                *([f"clockgate -liberty state.lib -min_net_size {gated}"] if gated else []),
                "dfflegalize -cell $_DFF_P_ x",
                "opt -fast",
                "write_json sizes.json",
                "tee -o sizes.txt stat",
                "write_rtlil whole.il",
            ],
            ["sizes.json", "whole.il", "multiplies.txt"],
            folder=folder,
        )
        data = json.loads((folder / "sizes.json").read_text(encoding="utf-8"))["modules"]
        tiny = _tiny(data, top)
        if tiny:
            yosys.run(
                [
                    "read_rtlil whole.il",
                    *(
                        f"setattr -mod -set keep_hierarchy 1 {_escaped(item)}"
                        for item in data
                        if item not in tiny
                    ),
                    "flatten",
                    "opt -fast",
                    "write_json sizes.json",
                    "write_rtlil whole.il",
                ],
                ["sizes.json", "whole.il"],
                folder=folder,
            )
            data = json.loads((folder / "sizes.json").read_text(encoding="utf-8"))["modules"]
        counted = re.findall(r"\d+", (folder / "multiplies.txt").read_text())
        whole = (folder / "whole.il").read_text(encoding="utf-8")
    real = {
        item: module
        for item, module in data.items()
        if not module["attributes"].get("blackbox") and item not in library.cells
    }
    reached = _reached(real, top)
    bodies = _divided(whole)
    return Elaborated(
        top=top,
        modules={item: bodies[item] for item in reached},
        ports={
            item: {
                port: (entry["direction"], len(entry["bits"]))
                for port, entry in real[item]["ports"].items()
            }
            for item in reached
        },
        children={
            item: tuple(
                cell["type"] for cell in real[item]["cells"].values() if cell["type"] in real
            )
            for item in reached
        },
        multiplies=bool(counted and int(counted[-1])),
    )


def _state_cells(library: Library) -> str:
    """Flip-flops and clock gates alone, without tables: what mapping registers needs."""
    from flows import liberty

    chosen = {}
    for cell in (
        library.flip_flop,
        library.clock_gate.cell if library.clock_gate else None,
        *(c for c in library.cells.values() if c.kind == "ff" and "!" in c.clocked_on),
    ):
        if cell is not None:
            chosen[cell.name] = liberty.Cell(
                cell.name,
                cell.area,
                cell.kind,
                {
                    pin.name: liberty.Pin(
                        pin.name,
                        pin.direction,
                        pin.capacitance,
                        pin.max_capacitance,
                        pin.function,
                        pin.clock,
                        pin.gate_role,
                    )
                    for pin in cell.pins.values()
                },
                cell.state,
                cell.next_state,
                cell.clocked_on,
                cell.gate,
            )
    return liberty.write(liberty.Library(library.name, "", chosen))


def _logic_cells(library: Library) -> str:
    """The cells that ABC may map to: one output, at most one of each function and area."""
    from flows import liberty

    chosen = {
        name: cell
        for name, cell in library.cells.items()
        if cell.kind == "comb" and len(cell.outputs) == 1
    }
    return liberty.write(liberty.Library(library.name, "", chosen))


def _escaped(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) else "\\" + name.lstrip("\\")


def _tiny(data: Mapping[str, Any], top: str) -> set[str]:
    """Modules to dissolve: small, with no instances below, and not the top."""
    found = set()
    for name, module in data.items():
        if name == top or module["attributes"].get("blackbox"):
            continue
        cells = list(module["cells"].values())
        if len(cells) < _FLATTENED_CELLS and not any(
            cell["type"] in data and not data[cell["type"]]["attributes"].get("blackbox")
            for cell in cells
        ):
            weight = sum(
                len(cell["connections"].get("Y", [0])) if cell["type"] == "$alu" else 1
                for cell in cells
            )
            if weight < _FLATTENED_CELLS:
                found.add(name)
    return found


def _reached(data: Mapping[str, Any], top: str) -> list[str]:
    """Modules below the top, each after the modules it holds."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        for cell in data[name]["cells"].values():
            if cell["type"] in data:
                visit(cell["type"])
        order.append(name)

    visit(top)
    return order


def _divided(rtlil: str) -> dict[str, str]:
    """The text of every module, without source locations and counters."""
    text = re.sub(r"^\s*attribute \\src .*\n", "", rtlil, flags=re.M)
    found = {}
    for match in re.finditer(r"^(?:attribute [^\n]*\n)*module (\S+)\n.*?^end\n", text, re.M | re.S):
        found[match.group(1).lstrip("\\")] = match.group(0)
    return found


Mapped = dict[str, Any]
"""A mapped module as ``write_json`` has it, ports and cells only."""


def map_modules(
    design: Mapping[bool, Elaborated],
    chosen: Sequence[Recipe],
    technology: Technology,
    *,
    clock_ns: float | None,
    cache_dir: Path | None,
    jobs: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, dict[Recipe, Mapped]]:
    """Every module under every recipe.

    Args:
        design: elaborations without and with Booth's multipliers, by that.
        clock_ns: for the scripts that size.

    Raises:
        FlowError: a module came through no recipe at all.
    """
    library = technology.library()
    results: dict[str, dict[Recipe, Mapped]] = {}
    jobs_of: dict[tuple[str, str, str, bool], list[Recipe]] = {}
    for recipe in chosen:
        for name in design[recipe.booth].modules:
            results.setdefault(name, {})
            # Trees of one carry form share the expansion; a process maps all scripts of a pair.
            jobs_of.setdefault((name, recipe.tree, recipe.carry, recipe.booth), []).append(recipe)
    failures: dict[str, FlowError] = {}
    state, logic = _state_cells(library), _logic_cells(library)
    done = 0

    def one(job: tuple[tuple[str, str, str, bool], list[Recipe]]) -> None:
        nonlocal done
        (name, tree, carry, booth), wanted = job
        body = design[booth].modules[name]
        keys = {recipe: _key(body, recipe, technology, clock_ns) for recipe in wanted}
        missing = []
        for recipe in wanted:
            kept = cache_dir / "synthesis" / f"{keys[recipe]}.json" if cache_dir else None
            if kept and kept.is_file():
                results[name][recipe] = json.loads(kept.read_text(encoding="utf-8"))
            else:
                missing.append(recipe)
        if missing:
            try:
                made = _map(body, name, missing, library, state, logic, clock_ns)
            except FlowError as error:
                failures[f"{name} {tree}/{carry}"] = error
                made = {}
            for recipe, mapped in made.items():
                results[name][recipe] = mapped
                if cache_dir:
                    write_whole(
                        cache_dir / "synthesis" / f"{keys[recipe]}.json", json.dumps(mapped)
                    )
        done += 1
        if progress:
            progress("map", done, len(jobs_of))

    # Large modules first: the last process to end should be a short one.
    ordered = sorted(jobs_of.items(), key=lambda job: -len(design[job[0][3]].modules[job[0][0]]))
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        list(pool.map(one, ordered))
    for name, found in results.items():
        if not found:
            raise next(error for key, error in failures.items() if key.split()[0] == name)
    return results


@cache
def _sources() -> str:
    """Digest of everything of this package that decides what a module maps to."""
    files = [Path(__file__), Path(adders.__file__), *sorted(recipes.DATA.glob("*.v"))]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _key(body: str, recipe: Recipe, technology: Technology, clock_ns: float | None) -> str:
    script = recipes.SCRIPTS[recipe.script]
    facts = [
        body,
        technology.digest,
        recipe.name,
        script,
        recipes.final_adders(technology.library().full_adder, recipe.tree),
        _sources(),
        clock_ns if "{D}" in script else None,
        yosys.versions(),
        MAPPING,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _map(
    body: str,
    name: str,
    wanted: Sequence[Recipe],
    library: Library,
    state: str,
    logic: str,
    clock_ns: float | None,
) -> dict[Recipe, Mapped]:
    """One module under recipes of one tree and carry form."""
    tree, carry = wanted[0].tree, wanted[0].carry
    with tempfile.TemporaryDirectory(prefix="rtlgen-map-") as folder_name:
        folder = Path(folder_name)
        for file, text in {
            "module.il": body,
            "boxes.v": recipes.BOXES,
            "state.lib": state,
            "logic.lib": logic,
            "final.v": recipes.final_adders(library.full_adder, tree),
            "load.constr": _constraints(library),
        }.items():
            (folder / file).write_text(text, encoding="utf-8")
        for file in ("constant_adders.v", "carry_entry.v", f"carry_{carry}.v", "full_adders.v"):
            (folder / file).write_text((recipes.DATA / file).read_text())
        constant = ["techmap -map constant_adders.v", "techmap", "opt -full"]
        yosys.run(
            [
                "read_verilog -lib boxes.v",
                "read_rtlil module.il",
                "techmap -map carry_entry.v",
                f"techmap -map carry_{carry}.v",
                "techmap -map full_adders.v",
                "techmap",
                "opt -full",
                *constant,
                *constant,
                "opt_clean -purge",
                "write_json expanded.json",
                "write_rtlil expanded.il",
            ],
            ["expanded.json", "expanded.il"],
            folder=folder,
        )
        expanded = json.loads((folder / "expanded.json").read_text(encoding="utf-8"))
        flip_flop = library.flip_flop
        planned = adders.plan(
            expanded["modules"][name],
            flip=tree == "flip" and library.full_adder is not None,
            both_outputs=flip_flop is not None and flip_flop.inverted_output is not None,
        )
        chosen = []
        for kind, cells in planned.items():
            (folder / f"{kind}.sel").write_text(
                "".join(f"{name}/{cell}\n" for cell in cells), encoding="utf-8"
            )
            chosen += [f"select -read {kind}.sel", f"chtype -set {kind} %", "select -clear"]
        commands = [
            "read_verilog -lib boxes.v",
            "read_rtlil expanded.il",
            *chosen,
            "techmap -map final.v",
            "techmap",
            "opt -full",
            "dfflibmap -liberty state.lib",
            "opt_clean",
            "design -save ready",
        ]
        for index, recipe in enumerate(wanted):
            script = recipes.SCRIPTS[recipe.script].replace(
                "{D}", "" if clock_ns is None else f"{clock_ns * 1000:g}"
            )
            (folder / f"script{index}.abc").write_text(
                script.replace("; ", "\n") + "\n", encoding="utf-8"
            )
            commands += [
                "design -load ready",
                f"abc -liberty logic.lib -constr load.constr -script script{index}.abc",
                "opt_clean",
                f"write_json mapped{index}.json",
            ]
        outputs = [f"mapped{index}.json" for index in range(len(wanted))]
        try:
            yosys.run(commands, outputs, folder=folder)
        except FlowError:
            # A script that some structure upsets must not take the others with it.
            if len(wanted) > 1:
                made = {}
                last = None
                for recipe in wanted:
                    try:
                        made.update(_map(body, name, [recipe], library, state, logic, clock_ns))
                    except FlowError as error:
                        last = error
                if not made and last:
                    raise last from None
                return made
            raise
        return {
            recipe: _slim(json.loads((folder / output).read_text(encoding="utf-8")), name)
            for recipe, output in zip(wanted, outputs, strict=True)
        }


def _constraints(library: Library) -> str:
    buffers = library.buffers
    driver = buffers[min(1, len(buffers) - 1)] if buffers else library.inverter
    load = 4 * library.inverter.inputs[0].capacitance
    return f"set_driving_cell {driver.name}\nset_load {load:g}\n"


def _slim(data: Mapping[str, Any], name: str) -> Mapped:
    module = data["modules"][name]
    return {
        "ports": module["ports"],
        "cells": {
            key: {"type": cell["type"], "connections": cell["connections"]}
            for key, cell in module["cells"].items()
        },
    }
