"""Buffer trees of late nets, built anew for speed.

Repair of loads puts the fewest buffers on a heavy net. Where such a net is late, its tree is taken
out and one with the least weighted sum of area and delay takes its place: one or two levels of
equal buffers, sinks shared out evenly. Control that reaches every column is the usual case, and
there a few more buffers cost less than faster columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flows import workbench
from flows.liberty import Cell
from flows.netlist import Gate, Module
from flows.workbench import Workbench

_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
# What a FO4 delay is worth, in inverters a sink: about what it costs the sinks to be as much faster
# themselves.
_WORTH = 2.0


@dataclass(frozen=True)
class Tree:
    """Levels of equal buffers, from the root: buffer and how many."""

    levels: tuple[tuple[Cell, int], ...]
    score: float


def rebuild(bench: Workbench, clock_ns: float) -> bool:
    """Build the buffer trees of late nets anew; False if that brings nothing.

    The design is measured, before and after.
    """
    timing = bench.timing
    late = timing.end_arrival - clock_ns
    before = float(late[late > 0].sum())
    if before <= 0:
        return False
    kept = (dict(bench.modules), set(bench._own), dict(bench.compiled))
    changed = False
    roots = _late_roots(bench, clock_ns)
    # Copies are changed, so that what was can be put back.
    for name in {name for name, _, _ in roots}:
        bench.modules[name] = bench.modules[name].copy()
        bench._own.add(name)
    for name, root, node in roots:
        changed |= _rebuild_one(bench, name, root, node)
    if not changed:
        bench.modules, bench._own, bench.compiled = kept
        return False
    flat = bench.flat
    late = bench.measure().end_arrival - clock_ns
    if float(late[late > 0].sum()) < before - 1e-7:
        return True
    bench.modules, bench._own, bench.compiled = kept
    bench.flat, bench.timing = flat, timing
    return False


def _late_roots(bench: Workbench, clock_ns: float) -> list[tuple[str, str, int]]:
    """Module, gate and worst node of drivers whose buffered nets have no time left."""
    timing, flat = bench.timing, bench.flat
    slack = timing.required + (clock_ns - timing.delay) - timing.arrival
    found: dict[tuple[str, str], tuple[float, int]] = {}
    for place in flat.places:
        module = bench.modules[place.module]
        buffered = {
            net
            for gate_name, gate in module.gates.items()
            if _added(gate_name)
            for net in [_input(bench, gate)]
        }
        if not buffered:
            continue
        compiled = flat.compiled[place.module]
        driver = {}
        for row, (net, index) in enumerate(
            zip(compiled.drive_net.tolist(), compiled.drive_gate.tolist(), strict=True)
        ):
            driver[net] = (row, compiled.names[index], index)
        for net in buffered:
            if net not in driver:
                continue
            _, gate_name, index = driver[net]
            if _added(gate_name):
                continue
            rows = np.flatnonzero(flat.drive_gate == place.first_gate + index)
            same = np.flatnonzero(compiled.drive_gate == index)
            at = int(rows[int(np.flatnonzero(compiled.drive_net[same] == net)[0])])
            outer = int(flat.drive_net[at])
            node = max((2 * outer, 2 * outer + 1), key=lambda n: timing.arrival[n])
            room = float(min(slack[2 * outer], slack[2 * outer + 1]))
            key = (place.module, gate_name)
            if room < 0 and (key not in found or room < found[key][0]):
                found[key] = (room, node)
    return [(*key, node) for key, (_, node) in sorted(found.items(), key=lambda item: item[1][0])]


def _added(gate: str) -> bool:
    return gate.startswith(("rtlgen_buffer", "rtlgen_clone"))


def _input(bench: Workbench, gate: Gate) -> int:
    return gate.pins[bench.library.cells[gate.kind].inputs[0].name]


def _rebuild_one(bench: Workbench, name: str, root: str, node: int) -> bool:
    """Take out the buffers behind a gate and put the best tree there."""
    library = bench.library
    module = bench.modules[name]
    kinds = {buffer.name for buffer in library.buffers}
    rootnet = _driven(bench, module, root, node)
    if rootnet is None:
        return False
    # The buffers below, and what hangs on them and on the root.
    readers: dict[int, list[str]] = {}
    for gate_name, gate in module.gates.items():
        if _added(gate_name) and gate.kind in kinds:
            readers.setdefault(_input(bench, gate), []).append(gate_name)
    inside: list[str] = []
    pending = [rootnet]
    nets = []
    while pending:
        net = pending.pop()
        nets.append(net)
        for gate_name in readers.get(net, ()):
            inside.append(gate_name)
            gate = module.gates[gate_name]
            pending.append(gate.pins[library.cells[gate.kind].outputs[0].name])
    ports = {net for way, port in module.ports.values() if way == "output" for net in port}
    if not inside or any(net in ports for net in nets[1:]):
        return False
    members = set(inside)
    leaves = [
        (weight, place)
        for net in nets
        for weight, place in workbench.sinks(bench, module, net)
        if place[2] >= 0 or place[0] not in members
    ]
    total = sum(weight for weight, _ in leaves)
    now = _arc(bench, node)
    if now is None or total <= 0:
        return False
    cell, pin, slew = now
    tree = _best_tree(bench, cell, pin, node & 1, slew, total, len(leaves))
    if tree is None:
        return False
    owner = bench.edit(name)
    for gate_name in inside:
        del owner.gates[gate_name]
    _plant(bench, owner, rootnet, leaves, tree)
    return True


def _driven(bench: Workbench, module: Module, root: str, node: int) -> int | None:
    """The net of a gate's output behind a node, where the gate has but one."""
    gate = module.gates[root]
    outputs = [p.name for p in bench.library.cells[gate.kind].outputs if p.name in gate.pins]
    if len(outputs) == 1:
        return gate.pins[outputs[0]]
    now = _arc(bench, node)
    return gate.pins.get(now[1]) if now else None


def _arc(bench: Workbench, node: int) -> tuple[Cell, str, float] | None:
    """Cell, output pin and input slew of the arc that decides a node."""
    timing, flat = bench.timing, bench.flat
    number = int(timing.worst_arc[node])
    if number == -1 or timing.joined(node):
        return None
    if number < -1:
        kind, pin, _ = bench.tables.start_key[int(flat.start_kind[-2 - number])]
        return bench.library.cells[kind], pin, bench.tables.inverter_slew
    kind, pin, _ = bench.tables.comb_key[int(timing.arc_kind[number])]
    return bench.library.cells[kind], pin, float(timing.slew[timing.arc_source[number]])


def _drive(cell: Cell, pin: str, edge: int | None, slew: float, load: float) -> tuple[float, float]:
    """Slowest delay and slew of a pin's arcs; of both edges if ``edge`` is None."""
    edges = (0, 1) if edge is None else (edge,)
    delay = out = 0.0
    for arc in cell.pins[pin].arcs:
        if arc.kind == "setup":
            continue
        for at in edges:
            table, slews = arc.delay[at], arc.slew[at]
            if table is not None:
                delay = max(delay, table.at(slew, load))
            if slews is not None:
                out = max(out, slews.at(slew, load))
    return delay, out


def _best_tree(
    bench: Workbench, cell: Cell, pin: str, edge: int, slew: float, total: float, leaves: int
) -> Tree | None:
    """The tree of least area and weighted delay that no driver is overloaded by."""
    library = bench.library
    limit = cell.pins[pin].max_capacitance or math.inf
    wire = bench.boundary.wire_cap
    inverter = library.inverter
    fo4, _ = _drive(
        inverter,
        inverter.outputs[0].name,
        None,
        bench.tables.inverter_slew,
        bench.tables.inverter_load,
    )
    price = _WORTH * leaves * inverter.area / fo4
    best: Tree | None = None

    def consider(levels: tuple[tuple[Cell, int], ...], delay: float) -> None:
        nonlocal best
        score = sum(buffer.area * count for buffer, count in levels) + price * delay
        if best is None or score < best.score:
            best = Tree(levels, score)

    if total <= limit:
        consider((), _drive(cell, pin, edge, slew, total)[0])
    made: dict[tuple[str, float, float], tuple[float, float]] = {}

    def behind(buffer: Cell, came: float, load: float) -> tuple[float, float]:
        key = (buffer.name, round(came, 3), round(load, 1))
        if key not in made:
            made[key] = _drive(buffer, buffer.outputs[0].name, None, came, load)
        return made[key]

    for last in library.buffers:
        cap = last.inputs[0].capacitance + wire
        for count in _COUNTS:
            share = total / count
            if count > leaves or share > last.limit or share < 2 * cap:
                continue
            if count * cap <= limit:
                delay, came = _drive(cell, pin, edge, slew, count * cap)
                consider(((last, count),), delay + behind(last, came, share)[0])
            if count < 4:
                continue
            for first in library.buffers:
                own = first.inputs[0].capacitance + wire
                for over in _COUNTS:
                    below = math.ceil(count / over) * cap
                    if over * 2 > count or below > first.limit or over * own > limit:
                        continue
                    delay, came = _drive(cell, pin, edge, slew, over * own)
                    middle, went = behind(first, came, below)
                    consider(
                        ((first, over), (last, count)),
                        delay + middle + behind(last, went, share)[0],
                    )
    return best


def _plant(
    bench: Workbench,
    owner: Module,
    root: int,
    leaves: list[tuple[float, tuple[str, str, int]]],
    tree: Tree,
) -> None:
    """Put a tree's buffers in, and share the sinks out by weight."""
    sources = [root]
    for cell, count in tree.levels:
        grown = []
        for index in range(count):
            net = owner.new_net()
            owner.gates[bench.name("buffer")] = Gate(
                cell.name,
                {
                    cell.inputs[0].name: sources[index * len(sources) // count],
                    cell.outputs[0].name: net,
                },
            )
            grown.append(net)
        sources = grown
    loads = [0.0] * len(sources)
    for weight, place in sorted(leaves, key=lambda item: -item[0]):
        lightest = loads.index(min(loads))
        loads[lightest] += weight
        workbench.move(owner, [place], sources[lightest])
