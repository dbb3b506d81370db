"""Mapped netlists: one editable form a module, and flat numpy arrays over all its instances.

A module's net is an integer; nets 0 and 1 are the constants. Flattening copies a module's arrays
once for every instance with its nets renumbered, so that 64 equal columns cost one reading.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flows.errors import FlowError
from flows.liberty import Library

_CONSTANTS = {"0": 0, "1": 1, "x": 0, "z": 0}
FIRST_NET = 2


@dataclass
class Instance:
    """A submodule: nets of the parent by port, bit by bit."""

    name: str
    module: str
    nets: dict[str, list[int]]


@dataclass
class Gate:
    """A library cell in a module: the cell's name and its nets by pin."""

    kind: str
    pins: dict[str, int]


@dataclass
class Module:
    """A mapped module.

    Attributes:
        ports: ``{port: (direction, nets)}``.
        gates: by name.
        nets: how many there are, the two constants included.
    """

    name: str
    ports: dict[str, tuple[str, list[int]]]
    gates: dict[str, Gate]
    instances: list[Instance]
    nets: int

    def copy(self) -> Module:
        """An independent copy."""
        return Module(
            self.name,
            {port: (way, list(nets)) for port, (way, nets) in self.ports.items()},
            {name: Gate(gate.kind, dict(gate.pins)) for name, gate in self.gates.items()},
            [
                Instance(i.name, i.module, {port: list(nets) for port, nets in i.nets.items()})
                for i in self.instances
            ],
            self.nets,
        )

    def area(self, library: Library) -> float:
        """Area of its own cells, submodules apart."""
        counts = Counter(gate.kind for gate in self.gates.values())
        return sum(library.cells[kind].area * count for kind, count in sorted(counts.items()))

    def new_net(self) -> int:
        self.nets += 1
        return self.nets - 1


def from_json(
    name: str, data: Mapping[str, Any], library: Library, modules: Iterable[str]
) -> Module:
    """From one module of Yosys' ``write_json``.

    Raises:
        FlowError: a cell is neither in the library nor a module.
    """
    known = set(modules)
    numbers: dict[int, int] = {}

    def net(bit: int | str) -> int:
        if isinstance(bit, str):
            return _CONSTANTS[bit]
        return numbers.setdefault(bit, FIRST_NET + len(numbers))

    ports = {
        key: (item["direction"], [net(bit) for bit in item["bits"]])
        for key, item in data["ports"].items()
    }
    gates: dict[str, Gate] = {}
    instances = []
    for key, item in sorted(data["cells"].items()):
        bits = {pin: [net(bit) for bit in value] for pin, value in item["connections"].items()}
        kind = item["type"]
        if kind in library.cells:
            gates[key] = Gate(kind, {pin: value[0] for pin, value in bits.items() if value})
        elif kind in known:
            instances.append(Instance(key, kind, bits))
        else:
            raise FlowError("yosys", f"module {name}: no library cell for {kind} ({key})")
    return Module(name, ports, gates, instances, FIRST_NET + len(numbers))


def counts(modules: Mapping[str, Module], top: str) -> dict[str, int]:
    """Instances of every module in the design."""
    found: dict[str, int] = defaultdict(int)

    def visit(name: str, times: int) -> None:
        found[name] += times
        below = Counter(instance.module for instance in modules[name].instances)
        for child, number in below.items():
            visit(child, times * number)

    visit(top, 1)
    return dict(found)


def total_area(modules: Mapping[str, Module], top: str, library: Library) -> float:
    """Area of all cells of the design."""
    number = counts(modules, top)
    return sum(modules[name].area(library) * times for name, times in sorted(number.items()))


# ---------------------------------------------------------------------------------------------
# Clean-up of one module after mapping.


def clean(module: Module, library: Library) -> None:
    """Take out, in place, what mapping leaves behind; nothing changes a port's function.

    Inverters behind a flip-flop with two outputs become its other output; an inverter of an
    inverter, a second inverter of a net and buffers go; then cells that drive nothing.
    """
    drop_dead(module, library)
    _drop_buffers(module, library)
    _use_complements(module, library)
    _share_inverters(module, library)
    _use_complements(module, library)
    drop_dead(module, library)


def _is(library: Library, kind: str, truth: int) -> bool:
    cell = library.cells[kind]
    return cell.kind == "comb" and len(cell.inputs) == 1 and list(cell.truths.values()) == [truth]


def _ends(library: Library, gate: Gate) -> tuple[int, int]:
    """Input and output net of a one-input gate."""
    cell = library.cells[gate.kind]
    return gate.pins[cell.inputs[0].name], gate.pins[cell.outputs[0].name]


def _rename(module: Module, library: Library, renamed: Mapping[int, int]) -> None:
    """Readers of a net read another."""

    def last(net: int) -> int:
        while net in renamed:
            net = renamed[net]
        return net

    if not renamed:
        return
    for gate in module.gates.values():
        pins = library.cells[gate.kind].pins
        for pin, net in gate.pins.items():
            if net in renamed and pins[pin].direction == "input":
                gate.pins[pin] = last(net)
    for instance in module.instances:
        for nets in instance.nets.values():
            nets[:] = [last(net) for net in nets]


def _port_nets(module: Module) -> set[int]:
    return {net for way, nets in module.ports.values() if way != "input" for net in nets}


def _drop_buffers(module: Module, library: Library) -> None:
    """Buffers go: repair puts its own where loads and delays ask for them."""
    fixed = _port_nets(module)
    renamed = {}
    for name in [n for n, gate in module.gates.items() if _is(library, gate.kind, 0b10)]:
        source, target = _ends(library, module.gates[name])
        if target not in fixed:
            renamed[target] = source
            del module.gates[name]
    _rename(module, library, renamed)


def _use_complements(module: Module, library: Library) -> None:
    """An inverter of a flip-flop's Q, or of its complement, becomes the flip-flop's other pin."""
    states: dict[int, tuple[Gate, str]] = {}
    for gate in module.gates.values():
        pair = library.cells[gate.kind].inverted_output
        if pair:
            for pin, other in (pair, pair[::-1]):
                if pin in gate.pins:
                    states[gate.pins[pin]] = (gate, other)
    fixed = _port_nets(module)
    renamed = {}
    for name in [n for n, gate in module.gates.items() if _is(library, gate.kind, 0b01)]:
        source, target = _ends(library, module.gates[name])
        if source not in states:
            continue
        gate, other = states[source]
        if other not in gate.pins:
            gate.pins[other] = target
        elif target not in fixed:
            renamed[target] = gate.pins[other]
        else:
            continue
        del module.gates[name]
    _rename(module, library, renamed)


def _share_inverters(module: Module, library: Library) -> None:
    """An inverter of an inverter is its source; two inverters of a net are one."""
    fixed = _port_nets(module)
    inverse: dict[int, int] = {}
    of: dict[int, int] = {}
    renamed: dict[int, int] = {}
    names = [n for n, gate in module.gates.items() if _is(library, gate.kind, 0b01)]
    for name in names:
        source, target = _ends(library, module.gates[name])
        if source in inverse and target not in fixed:
            renamed[target] = inverse[source]
            del module.gates[name]
        else:
            inverse.setdefault(source, target)
            of[target] = source
    _rename(module, library, renamed)
    renamed = {}
    for name in names:
        if name in module.gates:
            source, target = _ends(library, module.gates[name])
            if source in of and target not in fixed:
                renamed[target] = of[source]
    _rename(module, library, renamed)


def drop_dead(module: Module, library: Library) -> None:
    """Take out cells none of whose outputs is read, and unread pins' nets."""
    readers: Counter[int] = Counter(_port_nets(module))
    for instance in module.instances:
        for nets in instance.nets.values():
            readers.update(nets)
    for gate in module.gates.values():
        pins = library.cells[gate.kind].pins
        readers.update(net for pin, net in gate.pins.items() if pins[pin].direction == "input")
    driver = {
        net: name
        for name, gate in module.gates.items()
        for pin, net in gate.pins.items()
        if library.cells[gate.kind].pins[pin].direction == "output"
    }
    pending = list(module.gates)
    while pending:
        name = pending.pop()
        if name not in module.gates:
            continue
        gate = module.gates[name]
        cell = library.cells[gate.kind]
        if any(readers[gate.pins[p.name]] for p in cell.outputs if p.name in gate.pins):
            continue
        del module.gates[name]
        for pin in cell.inputs:
            net = gate.pins.get(pin.name)
            if net is not None:
                readers[net] -= 1
                if not readers[net] and net in driver:
                    pending.append(driver[net])
    for gate in module.gates.values():
        for pin in library.cells[gate.kind].outputs:
            if pin.name in gate.pins and not readers[gate.pins[pin.name]]:
                del gate.pins[pin.name]


def join_feedthroughs(modules: Mapping[str, Module], library: Library) -> None:
    """Where a module's output is its own input, a constant or another output, read only that.

    In place; every net then has one name all the way down, which flat analysis relies on.
    """
    done: set[str] = set()

    def visit(name: str) -> None:
        if name in done:
            return
        done.add(name)
        module = modules[name]
        renamed: dict[int, int] = {}
        for instance in module.instances:
            visit(instance.module)
            child = modules[instance.module]
            outer = {0: 0, 1: 1}
            for port, nets in instance.nets.items():
                way, inner = child.ports[port]
                if way == "input":
                    outer.update(zip(inner, nets, strict=False))
            for port, nets in instance.nets.items():
                way, inner = child.ports[port]
                if way == "input":
                    continue
                for index, (inside, net) in enumerate(zip(inner, nets, strict=False)):
                    known = outer.setdefault(inside, net)
                    if net >= FIRST_NET and net != known:
                        renamed[net] = known
                        nets[index] = known
        _rename(module, library, renamed)
        for _, nets in module.ports.values():
            nets[:] = [renamed.get(net, net) for net in nets]

    for name in modules:
        visit(name)


def verilog(modules: Mapping[str, Module], library: Library) -> str:
    """The mapped modules as Verilog that instantiates the library's cells."""
    lines = []
    for module in modules.values():
        lines.append(f"module {_escaped(module.name)} ({', '.join(map(_escaped, module.ports))});")
        assigned: list[tuple[str, int]] = []
        for port, (way, nets) in module.ports.items():
            lines.append(f"  {way} [{len(nets) - 1}:0] {_escaped(port)};")
            for index, net in enumerate(nets):
                bit = f"{_escaped(port)}[{index}]"
                if way == "input":
                    lines.append(f"  wire n{net} = {bit};")
                else:
                    assigned.append((bit, net))
        inputs = {n for way, nets in module.ports.values() if way == "input" for n in nets}
        for net in range(FIRST_NET, module.nets):
            if net not in inputs:
                lines.append(f"  wire n{net};")
        for number, gate in enumerate(module.gates.values()):
            pins = ", ".join(f".{pin}({_net(net)})" for pin, net in gate.pins.items())
            lines.append(f"  {_escaped(gate.kind)} g{number} ({pins});")
        for number, instance in enumerate(module.instances):
            child = modules[instance.module]
            fed = {n for way, nets in child.ports.values() if way == "input" for n in nets}
            driven: set[int] = set()
            connections: list[str] = []
            for port, nets in instance.nets.items():
                way, inner = child.ports[port]
                bits = [_net(net) for net in nets]
                if way == "output":
                    # One name of a net drives it, and no net is driven by what it feeds itself.
                    for index, (inside, net) in enumerate(zip(inner, nets, strict=False)):
                        if net in driven or net < FIRST_NET or inside < FIRST_NET or inside in fed:
                            bits[index] = _escaped(f"u{number}_{port}_{index}")
                            lines.append(f"  wire {bits[index]};")
                        driven.add(net)
                connections.append(f".{_escaped(port)}({{{', '.join(reversed(bits))}}})")
            lines.append(f"  {_escaped(instance.module)} u{number} ({', '.join(connections)});")
        lines += [f"  assign {bit} = {_net(net)};" for bit, net in assigned]
        lines.append("endmodule")
    return "\n".join(lines) + "\n"


def _net(net: int) -> str:
    return f"n{net}" if net >= FIRST_NET else f"1'b{net}"


def _escaped(name: str) -> str:
    simple = name.isascii() and name.isidentifier()
    return name if simple else f"\\{name} "


# ---------------------------------------------------------------------------------------------
# Flat arrays.


@dataclass
class Compiled:
    """A module as arrays over its own nets; ``gate`` columns index ``names``."""

    names: list[str]
    kinds: list[str]
    sink_net: np.ndarray
    sink_cap: np.ndarray
    arc_from: np.ndarray
    arc_to: np.ndarray
    arc_kind: np.ndarray
    arc_gate: np.ndarray
    start_to: np.ndarray
    start_kind: np.ndarray
    start_gate: np.ndarray
    end_net: np.ndarray
    end_kind: np.ndarray
    end_gate: np.ndarray
    drive_net: np.ndarray
    drive_limit: np.ndarray
    drive_gate: np.ndarray


@dataclass
class ArcTable:
    """Numbers for the arcs of a library: ``(cell, pin, index of the arc)`` to rows of tables."""

    library: Library
    comb: dict[tuple[str, str, int], int] = field(default_factory=dict)
    start: dict[tuple[str, str, int], int] = field(default_factory=dict)
    end: dict[tuple[str, str, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_cell: dict[str, dict[str, list[tuple[str, str, int]]]] = {}
        for cell in self.library.cells.values():
            entry: dict[str, list[tuple[str, str, int]]] = {"comb": [], "edge": [], "setup": []}
            for pin in cell.pins.values():
                for index, arc in enumerate(pin.arcs):
                    if cell.kind == "gate" and arc.kind != "setup":
                        continue  # the clock network is ideal
                    numbers = {"comb": self.comb, "edge": self.start, "setup": self.end}[arc.kind]
                    key = (cell.name, pin.name, index)
                    numbers[key] = len(numbers)
                    entry[arc.kind].append((pin.name, arc.related, numbers[key]))
            self.by_cell[cell.name] = entry


def compile_module(module: Module, table: ArcTable) -> Compiled:
    """Arrays of a module's own cells, in the order of gates and of their pins and arcs."""
    names, kinds = list(module.gates), [gate.kind for gate in module.gates.values()]
    # Gates of one kind with the same pins are worked on together.
    alike: dict[tuple[str, ...], tuple[list[int], list[int]]] = {}
    for index, gate in enumerate(module.gates.values()):
        found = alike.get(key := (gate.kind, *gate.pins))
        if found is None:
            found = alike[key] = ([], [])
        found[0].append(index)
        found[1].extend(gate.pins.values())
    sinks, arcs, starts, ends, drives = _Rows(2), _Rows(3), _Rows(2), _Rows(2), _Rows(2)
    for (kind, *pins), (indices, flat) in alike.items():
        cell, entry = table.library.cells[kind], table.by_cell[kind]
        gates = np.array(indices)
        nets = dict(zip(pins, np.array(flat).reshape(-1, len(pins)).T, strict=True))
        for order, name in enumerate(pins):
            pin = cell.pins[name]
            if pin.direction == "input":
                sinks.add(gates, order, nets[name], pin.capacitance)
            else:
                # Clocks are ideal: what a clock gate drives is the clock tree's business.
                limit = np.inf if cell.kind == "gate" else pin.max_capacitance or np.inf
                drives.add(gates, order, nets[name], limit)
        for order, (name, related, number) in enumerate(entry["comb"]):
            if name in nets and related in nets:
                real = nets[related] >= FIRST_NET
                arcs.add(gates[real], order, nets[related][real], nets[name][real], number)
        for rows, which in ((starts, "edge"), (ends, "setup")):
            for order, (name, _, number) in enumerate(entry[which]):
                if name in nets:
                    rows.add(gates, order, nets[name], number)
    sink_net, sink_cap, _ = sinks.columns()
    return Compiled(
        names,
        kinds,
        sink_net,
        sink_cap,
        *arcs.columns(),
        *starts.columns(),
        *ends.columns(),
        *drives.columns(),
    )


class _Rows:
    """Rows of ``width`` columns and a gate, gathered kind by kind."""

    def __init__(self, width: int):
        self.width = width
        self.parts: list[tuple[np.ndarray, ...]] = []

    def add(self, gates: np.ndarray, order: int, *values: Any) -> None:
        """A row a gate; ``order`` is its place among the rows of one gate."""
        columns = (np.broadcast_to(np.asarray(value), gates.shape) for value in values)
        self.parts.append((np.full(gates.shape, order), *columns, gates))

    def columns(self) -> list[np.ndarray]:
        """The columns and the gates, sorted by gate and by order."""
        if not self.parts:
            return [np.zeros(0, dtype=np.int64) for _ in range(self.width + 1)]
        order, *columns = (np.concatenate(parts) for parts in zip(*self.parts, strict=True))
        rank = np.lexsort((order, columns[-1]))
        return [column[rank] for column in columns]


@dataclass
class Place:
    """Where a copy of a module lies: its path, the number of its first gate, its nets' numbers."""

    path: str
    module: str
    first_gate: int
    nets: np.ndarray


@dataclass
class Flat:
    """A flat netlist as arrays; gates are numbered place after place.

    Attributes:
        load: fF on each net from cells' pins (and from copies left out).
        sinks: pins on each net.
        places: copies of modules, by first gate.
    """

    nets: int
    load: np.ndarray
    sinks: np.ndarray
    arc_from: np.ndarray
    arc_to: np.ndarray
    arc_kind: np.ndarray
    arc_gate: np.ndarray
    start_to: np.ndarray
    start_kind: np.ndarray
    start_gate: np.ndarray
    end_net: np.ndarray
    end_kind: np.ndarray
    end_gate: np.ndarray
    drive_net: np.ndarray
    drive_limit: np.ndarray
    drive_gate: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    input_names: list[str]
    output_names: list[str]
    places: list[Place]
    compiled: Mapping[str, Compiled]

    def gate(self, number: int) -> tuple[Place, str, str]:
        """Place, name and library cell of a gate."""
        place = self.places[bisect_right(self.places, number, key=lambda p: p.first_gate) - 1]
        local = number - place.first_gate
        arrays = self.compiled[place.module]
        return place, arrays.names[local], arrays.kinds[local]


JOIN = -1
"""Kind of an arc that is no cell's: no delay, and the slew goes through. Its gate is −1."""


def _feeds(
    module: Module, modules: Mapping[str, Module]
) -> dict[str, dict[tuple[str, int], set[int]]]:
    """By module that it holds several copies of: the nets that each input bit comes from."""
    copies: dict[str, list[Instance]] = defaultdict(list)
    for instance in module.instances:
        copies[instance.module].append(instance)
    return {
        name: {
            (port, index): {instance.nets[port][index] for instance in instances}
            for port, (way, inner) in modules[name].ports.items()
            if way == "input"
            for index, below in enumerate(inner)
            if below >= FIRST_NET
            and all(index < len(instance.nets.get(port, ())) for instance in instances)
        }
        for name, instances in copies.items()
        if len(instances) > 1
    }


def flatten(
    modules: Mapping[str, Module],
    top: str,
    compiled: Mapping[str, Compiled],
    *,
    one_of_each: bool = False,
) -> Flat:
    """Flatten a hierarchy.

    Args:
        compiled: arrays of every module.
        one_of_each: keep only the first of the copies that a module holds of another, and leave of
            the others only their loads: for analysing replicated columns again and again. An input
            that the copies get from different nets is joined from all of them by arcs of kind
            :data:`JOIN`, so that the copy that is kept sees the latest. The others' outputs have no
            driver, so a last analysis must take all copies.
    """
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    places: list[Place] = []
    loads: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    state = {"nets": modules[top].nets, "gates": 0}
    port_loads: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    joins: list[tuple[int, int]] = []
    steady = {net for way, port in modules[top].ports.values() if way == "input" for net in port}

    def load_of(name: str) -> tuple[np.ndarray, np.ndarray]:
        """fF and pins on every net of a module from itself and below."""
        if name not in port_loads:
            module, arrays = modules[name], compiled[name]
            total = np.bincount(arrays.sink_net, arrays.sink_cap, minlength=module.nets)
            number = np.bincount(arrays.sink_net, minlength=module.nets)
            for instance in module.instances:
                below, pins = load_of(instance.module)
                for port, nets in instance.nets.items():
                    way, inner = modules[instance.module].ports[port]
                    if way == "input":
                        inner = inner[: len(nets)]
                        np.add.at(total, nets[: len(inner)], below[inner])
                        np.add.at(number, nets[: len(inner)], pins[inner])
            port_loads[name] = total, number
        return port_loads[name]

    def visit(name: str, mapping: np.ndarray, path: str) -> None:
        module, arrays = modules[name], compiled[name]
        first = state["gates"]
        places.append(Place(path, name, first, mapping))
        state["gates"] += len(arrays.names)
        for key in ("sink_net", "arc_from", "arc_to", "start_to", "end_net", "drive_net"):
            parts[key].append(mapping[getattr(arrays, key)])
        for key in ("sink_cap", "arc_kind", "start_kind", "end_kind", "drive_limit"):
            parts[key].append(getattr(arrays, key))
        for key in ("arc_gate", "start_gate", "end_gate", "drive_gate"):
            parts[key].append(getattr(arrays, key) + first)
        seen: set[str] = set()
        feeds = _feeds(module, modules) if one_of_each else {}
        for instance in module.instances:
            child = modules[instance.module]
            if one_of_each and instance.module in seen:
                load, pins = load_of(instance.module)
                for port, nets in instance.nets.items():
                    way, inner = child.ports[port]
                    if way == "input":
                        inner = inner[: len(nets)]
                        where = mapping[np.array(nets[: len(inner)], dtype=np.int64)]
                        loads.append((where, load[inner], pins[inner]))
                continue
            seen.add(instance.module)
            inside = np.full(child.nets, -1, dtype=np.int64)
            inside[:FIRST_NET] = range(FIRST_NET)
            for (port, index), sources in feeds.get(instance.module, {}).items():
                outer = {int(mapping[net]) for net in sources if net >= FIRST_NET}
                if len(outer) < 2 or outer <= steady:
                    continue
                # A net of its own; what hangs on it is the source's to drive all the same.
                below, above = child.ports[port][1][index], instance.nets[port][index]
                inside[below] = state["nets"]
                state["nets"] += 1
                joins.extend((net, int(inside[below])) for net in sorted(outer))
                load, pins = load_of(instance.module)
                where = mapping[np.array([above], dtype=np.int64)]
                loads.append((where, load[[below]], pins[[below]]))
            for port, nets in instance.nets.items():
                for below, above in zip(child.ports[port][1], nets, strict=False):
                    if below >= FIRST_NET and inside[below] < 0:
                        inside[below] = mapping[above]
            free = np.flatnonzero(inside < 0)
            inside[free] = state["nets"] + np.arange(len(free))
            state["nets"] += len(free)
            visit(instance.module, inside, f"{path}/{instance.name}" if path else instance.name)

    visit(top, np.arange(modules[top].nets), "")
    for key, column in (
        ("arc_from", [source for source, _ in joins]),
        ("arc_to", [target for _, target in joins]),
        ("arc_kind", [JOIN] * len(joins)),
        ("arc_gate", [-1] * len(joins)),
    ):
        parts[key].append(np.array(column, dtype=np.int64))
    joined = {key: np.concatenate(items) for key, items in parts.items()}
    nets = state["nets"]
    sink_net = joined.pop("sink_net").astype(np.int64)
    load = np.bincount(sink_net, joined.pop("sink_cap"), minlength=nets).astype(np.float64)
    sinks = np.bincount(sink_net, minlength=nets).astype(np.float64)
    for where, values, pins in loads:
        np.add.at(load, where, values)
        np.add.at(sinks, where, pins)
    ports = [
        (way, f"{port}[{index}]" if len(bits) > 1 else port, net)
        for port, (way, bits) in modules[top].ports.items()
        for index, net in enumerate(bits)
        if net >= FIRST_NET
    ]
    inputs = [(name, net) for way, name, net in ports if way == "input"]
    outputs = [(name, net) for way, name, net in ports if way == "output"]
    return Flat(
        nets=nets,
        load=load,
        sinks=sinks,
        inputs=np.array([net for _, net in inputs], dtype=np.int64),
        outputs=np.array([net for _, net in outputs], dtype=np.int64),
        input_names=[name for name, _ in inputs],
        output_names=[name for name, _ in outputs],
        places=places,
        compiled=dict(compiled),
        **{
            key: value if key == "drive_limit" else value.astype(np.int64)
            for key, value in joined.items()
        },
    )
