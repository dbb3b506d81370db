"""Power of a mapped netlist from its real switching activity.

``P = Σ nets ½·C·V²·toggles + Σ pins E(slew, load)·toggles + leakage``: the loads, slews and
energies are those of the timing analysis and of the library's NLPM tables, the toggles those of a
simulation of this very netlist, gate by gate. The simulation has no delays, so that pulses within
a cycle (glitches) are not in it; nor are the wires' capacitance unless one is given, and the
buffers of a clock tree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flows import netlist, sta
from flows.energies import Energies
from flows.errors import FlowError
from flows.netlist import FIRST_NET, Flat, Module
from flows.saif import Activity
from flows.sta import Boundary, Tables


@dataclass(frozen=True, kw_only=True)
class Energy:
    """What a part of a design takes.

    Attributes:
        switching: fJ a cycle of the nets that its cells drive, and of its input ports.
        internal: fJ a cycle inside of its cells.
        clock: fJ a cycle, of both, of nets that end in clock pins and of these pins.
        leakage: nW.
    """

    switching: float
    internal: float
    clock: float
    leakage: float

    @property
    def dynamic(self) -> float:
        """fJ a cycle."""
        return self.switching + self.internal

    def dynamic_mw(self, clock_mhz: float) -> float:
        """mW at a clock: fJ · MHz is nW."""
        return self.dynamic * clock_mhz * 1e-6

    @property
    def leakage_mw(self) -> float:
        return self.leakage * 1e-6


@dataclass(frozen=True, kw_only=True)
class PowerReport:
    """Energy of a design in a run.

    Attributes:
        total: of the whole. by_module: of the own cells of all copies of a module, by name.
        copies: of each module. cycles: that were recorded.
        toggles: changes of a net a cycle, the mean over the nets that gates drive.
    """

    total: Energy
    by_module: Mapping[str, Energy]
    copies: Mapping[str, int]
    cycles: float
    toggles: float


def power(
    modules: Mapping[str, Module],
    top: str,
    tables: Tables,
    energies: Energies,
    activity: Activity,
    boundary: Boundary | None = None,
) -> PowerReport:
    """Energy of a netlist in a run that was recorded.

    Args:
        modules: as :func:`flows.synthesis.implement` leaves them; activity names their nets as
            :func:`flows.netlist.verilog` does.
        energies: of every kind of cell that is used.

    Raises:
        FlowError: the activity is of another netlist.
    """
    boundary = boundary or Boundary()
    compiled = {name: netlist.compile_module(item, tables.arcs) for name, item in modules.items()}
    flat = netlist.flatten(modules, top, compiled)
    timing = sta.analyse(flat, tables, boundary)
    rates = _rates(modules, top, flat, activity)
    slew = (timing.slew[0::2] + timing.slew[1::2]) / 2

    kinds: dict[tuple[str, tuple[str, ...]], tuple[list[int], list[list[int]]]]
    kinds = defaultdict(lambda: ([], []))
    owner: list[str] = []
    for number, place in enumerate(flat.places):
        owner.append(place.module)
        for gate in modules[place.module].gates.values():
            at, nets = kinds[gate.kind, tuple(gate.pins)]
            at.append(number)
            nets.append([int(place.nets[net]) for net in gate.pins.values()])

    count = len(flat.places)
    internal, clock = np.zeros(count), np.zeros(count)
    leakage = np.zeros(count)
    is_clock = np.zeros(flat.nets, dtype=bool)
    driven = np.full(flat.nets, -1)
    for (kind, pins), (at, rows) in kinds.items():
        cell, energy = tables.library.cells[kind], energies.cells[kind]
        places, table = np.array(at), np.array(rows)
        column = {name: table[:, index] for index, name in enumerate(pins)}
        np.add.at(leakage, places, energy.leakage)
        for name, net in column.items():
            pin = cell.pins[name]
            if pin.direction == "output":
                driven[net] = places
            clocked = pin.direction == "input" and (
                pin.clock or (cell.kind == "ff" and name == cell.clocked_on.strip("() "))
            )
            if clocked:
                is_clock[net] = True
            load = timing.load[net]
            parts = []
            weights = []
            for item in energy.pins.get(name, ()):
                if item.related and item.related not in column:
                    continue
                source = column[item.related] if item.related else net
                parts.append(item.at(slew[source], load))
                weights.append(rates[source])
            if not parts:
                continue
            # A change of an output costs what the input that causes it makes it cost.
            share = np.array(weights) + 1e-12
            each = (np.array(parts) * share).sum(axis=0) / share.sum(axis=0) * rates[net]
            np.add.at(internal, places, each)
            if clocked:
                np.add.at(clock, places, each)

    real = np.arange(flat.nets) >= FIRST_NET
    load = flat.load + boundary.wire_cap * flat.sinks
    wire = np.where(real, load * energies.transition * rates, 0.0)
    # Nets of input ports are the top's: somebody has to drive them.
    driven[flat.inputs] = 0
    switching = np.bincount(driven[driven >= 0], wire[driven >= 0], minlength=count)
    of_clock = (driven >= 0) & is_clock
    clock += np.bincount(driven[of_clock], wire[of_clock], minlength=count)

    by_module: dict[str, Energy] = {}
    for name in dict.fromkeys(owner):
        own = np.array([item == name for item in owner])
        by_module[name] = Energy(
            switching=float(switching[own].sum()),
            internal=float(internal[own].sum()),
            clock=float(clock[own].sum()),
            leakage=float(leakage[own].sum()),
        )
    gates = flat.drive_net
    return PowerReport(
        total=Energy(
            switching=float(switching.sum()),
            internal=float(internal.sum()),
            clock=float(clock.sum()),
            leakage=float(leakage.sum()),
        ),
        by_module=by_module,
        copies=netlist.counts(modules, top),
        cycles=activity.cycles,
        toggles=float(rates[gates].mean()) if len(gates) else 0.0,
    )


def _rates(modules: Mapping[str, Module], top: str, flat: Flat, activity: Activity) -> np.ndarray:
    """Changes of every flat net a cycle."""
    paths = _paths(modules, top)
    if len(paths) != len(flat.places):
        raise FlowError("flows", f"{top}: places of the netlist are not those of its Verilog")
    rates = np.zeros(flat.nets)
    for place, (path, name) in zip(flat.places, paths, strict=True):
        if place.module != name:
            raise FlowError("flows", f"{top}: places of the netlist are not those of its Verilog")
        counted = activity.toggles.get(path, {})
        module = modules[name]
        inside = list(range(FIRST_NET, module.nets))
        found = [counted.get(f"n{net}", -1) for net in inside]
        used = place.nets[inside]
        if any(count < 0 for count in found):
            missing = inside[found.index(-1)]
            raise FlowError("simulation", f"{path or top}: net n{missing} was not recorded")
        # A net that leaves a module is recorded in both; they are one wire and agree.
        rates[used] = np.maximum(rates[used], np.array(found) / activity.cycles)
    rates[:FIRST_NET] = 0.0
    return rates


def _paths(modules: Mapping[str, Module], top: str) -> Sequence[tuple[str, str]]:
    """Instance paths as the Verilog names them, with their modules, in the order of flattening."""
    found: list[tuple[str, str]] = []

    def visit(name: str, path: str) -> None:
        found.append((path, name))
        for number, instance in enumerate(modules[name].instances):
            visit(instance.module, f"{path}/u{number}" if path else f"u{number}")

    visit(top, "")
    return found
