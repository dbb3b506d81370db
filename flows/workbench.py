"""A mapped design that is changed and measured again and again, and the changes there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flows import netlist, sta
from flows.liberty import Arc, Cell, Library
from flows.netlist import Compiled, Flat, Gate, Module, Place
from flows.sta import Boundary, Tables, Timing

LATE = "late "
CLONE = "clone"

Change = tuple[str, str, str, str]
"""Module, gate, library cell before and after; or after it ``late <pin>`` for a full adder in
gates, ``clone`` for a second gate that shares the load."""

_Sinks = list[tuple[str, str, int]]


@dataclass(frozen=True)
class Kept:
    """A design as it was, measured: see :meth:`Workbench.keep`."""

    modules: dict[str, Module]
    compiled: dict[str, Compiled]
    softened: dict[tuple[str, str], Gate]
    twins: dict[tuple[str, str], list[tuple[str, _Sinks]]]
    flat: Flat
    timing: Timing


@dataclass(frozen=True)
class Stage:
    """The cell and arc that decide a node's arrival: edge of its output, ns, fF."""

    module: str
    gate: str
    cell: Cell
    pin: str
    arc: Arc
    edge: int
    slew: float
    load: float


class Workbench:
    """A design that is changed and measured again and again."""

    def __init__(
        self,
        modules: Mapping[str, Module],
        top: str,
        tables: Tables,
        boundary: Boundary,
        compiled: Mapping[str, Compiled] | None = None,
    ):
        self.modules = dict(modules)
        self.top = top
        self.tables = tables
        self.library: Library = tables.library
        self.boundary = boundary
        self.copies = netlist.counts(modules, top)
        self.compiled = dict(compiled or {})
        self._own: set[str] = set()
        self._serial = 0
        self._loads: dict[str, np.ndarray] = {}
        self._pin_delays: dict[tuple[str, str], float] = {}
        self.softened: dict[tuple[str, str], Gate] = {}
        self.twins: dict[tuple[str, str], list[tuple[str, _Sinks]]] = {}
        self.exclusive = self.library.find(2, 0b0110)
        self.nand = self.library.find(2, 0b0111)
        self.flat: Flat
        self.timing: Timing

    def edit(self, name: str) -> Module:
        """A module to change; the one that came in stays as it is."""
        if name not in self._own:
            self.modules[name] = self.modules[name].copy()
            self._own.add(name)
        self.compiled.pop(name, None)
        if name != self.top:
            self._loads.clear()
        return self.modules[name]

    def keep(self) -> Kept:
        """What the design is now; changes from here on leave it as it is."""
        self._own = set()
        return Kept(
            dict(self.modules),
            dict(self.compiled),
            dict(self.softened),
            {gate: list(twins) for gate, twins in self.twins.items()},
            self.flat,
            self.timing,
        )

    def restore(self, kept: Kept) -> None:
        """Make the design what it was."""
        self.modules, self.compiled = dict(kept.modules), dict(kept.compiled)
        self.softened = dict(kept.softened)
        self.twins = {gate: list(twins) for gate, twins in kept.twins.items()}
        self.flat, self.timing = kept.flat, kept.timing
        self._own = set()
        self._loads.clear()

    def measure(self, *, whole: bool = False) -> Timing:
        """Analyse one copy of each module, or all of them."""
        self._loads.clear()
        for name, module in self.modules.items():
            if name not in self.compiled:
                self.compiled[name] = netlist.compile_module(module, self.tables.arcs)
        self.flat = netlist.flatten(self.modules, self.top, self.compiled, one_of_each=not whole)
        self.timing = sta.analyse(self.flat, self.tables, self.boundary)
        return self.timing

    def input_loads(self, name: str) -> np.ndarray:
        """fF on every net of a module, from itself and below."""
        if name not in self._loads:
            self._loads[name] = _input_loads(self, name)
        return self._loads[name]

    def stage(self, node: int) -> Stage | None:
        """What decides a node's arrival; None if that is no cell."""
        timing, flat = self.timing, self.flat
        number = int(timing.worst_arc[node])
        if number == -1 or timing.joined(node):
            return None
        if number < -1:
            place, gate, kind = flat.gate(int(flat.start_gate[-2 - number]))
            _, pin, index = self.tables.start_key[int(flat.start_kind[-2 - number])]
            slew = self.tables.inverter_slew
        else:
            place, gate, kind = flat.gate(int(timing.arc_gate[number]))
            _, pin, index = self.tables.comb_key[int(timing.arc_kind[number])]
            slew = float(timing.slew[timing.arc_source[number]])
        cell = self.library.cells[kind]
        load = float(timing.load[node >> 1])
        arc = cell.pins[pin].arcs[index]
        return Stage(place.module, gate, cell, pin, arc, node & 1, slew, load)

    def output(self, place: Place, gate: str, net: int) -> tuple[str, int]:
        """Output pin of a gate that drives a flat net, and the net's number in its module."""
        pins = self.modules[place.module].gates[gate].pins
        return next(
            (pin, local)
            for pin, local in pins.items()
            if local < len(place.nets) and place.nets[local] == net
        )

    def area(self) -> float:
        return netlist.total_area(self.modules, self.top, self.library)

    def resize(self, module: str, gate: str, kind: str) -> None:
        """Another strength of a cell."""
        self.edit(module).gates[gate].kind = kind

    def soften(self, module: str, gate: str, change: str) -> None:
        """Gates in the place of a full-adder cell: larger, and fast from the pin that is late."""
        full, exclusive, nand = self.library.full_adder, self.exclusive, self.nand
        if full is None or exclusive is None or nand is None:
            raise ValueError("no full adder to replace, or nothing to replace it by")
        owner = self.edit(module)
        cell = owner.gates.pop(gate)
        self.softened[module, gate] = cell
        late = change.removeprefix(LATE)
        a, b = (cell.pins[pin] for pin in full.inputs if pin != late)
        c = cell.pins[late]
        half = owner.new_net()
        owner.gates[f"{gate}.half"] = _two_input(exclusive, a, b, half)
        if full.sum in cell.pins:
            owner.gates[f"{gate}.sum"] = _two_input(exclusive, half, c, cell.pins[full.sum])
        if full.carry in cell.pins:
            both, passed = owner.new_net(), owner.new_net()
            owner.gates[f"{gate}.both"] = _two_input(nand, a, b, both)
            owner.gates[f"{gate}.pass"] = _two_input(nand, half, c, passed)
            owner.gates[f"{gate}.carry"] = _two_input(nand, passed, both, cell.pins[full.carry])

    def harden(self, module: str, gate: str) -> None:
        """Undo :meth:`soften`."""
        owner = self.edit(module)
        for part in ("half", "sum", "both", "pass", "carry"):
            owner.gates.pop(f"{gate}.{part}", None)
        owner.gates[gate] = self.softened.pop((module, gate))

    def clone(self, module: str, gate: str) -> None:
        """A second gate beside one of a single output, which takes over half of its sinks."""
        owner = self.edit(module)
        cell = owner.gates[gate]
        (output,) = (pin.name for pin in self.library.cells[cell.kind].outputs)
        net = cell.pins[output]
        found = sorted(sinks(self, owner, net), key=lambda item: -item[0])
        moved = [place for _, place in found[1::2]]
        behind = owner.new_net()
        twin = self.name("clone")
        owner.gates[twin] = Gate(cell.kind, {**cell.pins, output: behind})
        move(owner, moved, behind)
        self.twins.setdefault((module, gate), []).append((twin, moved))

    def merge(self, module: str, gate: str) -> None:
        """Undo the last :meth:`clone` of a gate."""
        owner = self.edit(module)
        twin, moved = self.twins[module, gate].pop()
        del owner.gates[twin]
        cell = owner.gates[gate]
        (output,) = (pin.name for pin in self.library.cells[cell.kind].outputs)
        move(owner, moved, cell.pins[output])

    def apply(self, change: Change) -> None:
        """Make a change."""
        module, gate, _, new = change
        if new == CLONE:
            self.clone(module, gate)
        elif new.startswith(LATE):
            self.soften(module, gate, new)
        else:
            self.resize(module, gate, new)

    def revert(self, change: Change) -> None:
        """Undo a change; the last made comes first."""
        module, gate, old, new = change
        if new == CLONE:
            self.merge(module, gate)
        elif new.startswith(LATE):
            self.harden(module, gate)
        else:
            self.resize(module, gate, old)

    def pin_delay(self, kind: str, pin: str) -> float:
        """The slowest arc from an input pin, ns, at an inverter's slew and load."""
        if (kind, pin) not in self._pin_delays:
            tables = self.tables
            self._pin_delays[kind, pin] = max(
                (
                    table.at(tables.inverter_slew, tables.inverter_load)
                    for output in self.library.cells[kind].outputs
                    for arc in output.arcs
                    if arc.related == pin
                    for table in arc.delay
                    if table is not None
                ),
                default=0.0,
            )
        return self._pin_delays[kind, pin]

    def name(self, base: str) -> str:
        self._serial += 1
        return f"rtlgen_{base}_{self._serial}"


def move(owner: Module, sinks: Sequence[tuple[str, str, int]], net: int) -> None:
    """Connect sinks, as :func:`sinks` names them, to another net."""
    for name, pin, at in sinks:
        if not name:
            owner.ports[pin][1][at] = net
        elif at < 0:
            owner.gates[name].pins[pin] = net
        else:
            next(i for i in owner.instances if i.name == name).nets[pin][at] = net


def _two_input(cell: Cell, first: int, second: int, output: int) -> Gate:
    """A gate of two inputs; the second gets the pin that is usually the faster."""
    a, b = sorted(pin.name for pin in cell.inputs)
    return Gate(cell.name, {a: second, b: first, cell.outputs[0].name: output})


Sink = tuple[float, tuple[str, str, int]]
"""fF, and the place: (gate, pin, −1), (instance, port, bit) or, of the top, ("", port, bit)."""


def sinks(bench: Workbench, module: Module, net: int) -> list[Sink]:
    """Every sink of a net in a module; output ports are sinks of the top alone."""
    cells, wire = bench.library.cells, bench.boundary.wire_cap
    found: list[Sink] = []
    if module.name == bench.top:
        for port, (way, nets) in module.ports.items():
            if way == "output":
                weight = bench.boundary.port_load(bench.tables)
                found += [(weight, ("", port, bit)) for bit, at in enumerate(nets) if at == net]
    for name, gate in module.gates.items():
        if net in gate.pins.values():
            pins = cells[gate.kind].pins
            for pin, at in gate.pins.items():
                if at == net and pins[pin].direction == "input":
                    found.append((pins[pin].capacitance + wire, (name, pin, -1)))
    for instance in module.instances:
        ports = bench.modules[instance.module].ports
        for port, nets in instance.nets.items():
            way, inner = ports[port]
            if way == "input" and net in nets:
                loads = bench.input_loads(instance.module)
                for bit, outer in enumerate(nets):
                    if outer == net:
                        found.append((float(loads[inner[bit]]), (instance.name, port, bit)))
    return found


def _input_loads(bench: Workbench, name: str) -> np.ndarray:
    """fF on every net of a module, from itself and below."""
    module = bench.modules[name]
    load = np.zeros(module.nets)
    for gate in module.gates.values():
        pins = bench.library.cells[gate.kind].pins
        for pin, net in gate.pins.items():
            if pins[pin].direction == "input":
                load[net] += pins[pin].capacitance + bench.boundary.wire_cap
    for instance in module.instances:
        below = bench.input_loads(instance.module)
        for port, nets in instance.nets.items():
            way, inner = bench.modules[instance.module].ports[port]
            if way == "input":
                for inside, outer in zip(inner, nets, strict=False):
                    load[outer] += below[inside]
    return load
