"""Buffer trees of late nets, built anew for speed.

Repair of loads puts the fewest buffers on a heavy net. Where such a net is late, its tree is taken
out and one with the least weighted sum of area and delay takes its place: one or two levels of
equal buffers, sinks shared out evenly. Control that reaches every column is the usual case, and
there a few more buffers cost less than faster columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flows import sta, workbench
from flows.liberty import Cell
from flows.netlist import Gate, Module
from flows.workbench import Stage, Workbench

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
    before = bench.timing.missing(clock_ns)
    if before <= 0:
        return False
    kept = bench.keep()
    changed = False
    for name, net, node in _late_roots(bench, clock_ns):
        changed |= _rebuild_one(bench, name, net, node)
    if changed and bench.measure().missing(clock_ns) < before - 1e-7:
        return True
    bench.restore(kept)
    return False


def _late_roots(bench: Workbench, clock_ns: float) -> list[tuple[str, int, int]]:
    """Module, net and its worst node, where a net with buffers has no time left; worst first.

    Of a gate's nets the worst counts.
    """
    timing = bench.timing
    slack = timing.slack(clock_ns)
    found: dict[tuple[str, str], tuple[float, int, int]] = {}
    for place in bench.flat.places:
        gates = bench.modules[place.module].gates
        buffered = {_input(bench, gate) for name, gate in gates.items() if _added(name)}
        if not buffered:
            continue
        for name, gate in gates.items():
            if _added(name):
                continue
            for pin in bench.library.cells[gate.kind].outputs:
                net = gate.pins.get(pin.name, -1)
                if net not in buffered:
                    continue
                nodes = [2 * int(place.nets[net]) + edge for edge in (sta.RISE, sta.FALL)]
                room = float(slack[nodes].min())
                key = (place.module, name)
                if room < 0 and (key not in found or room < found[key][0]):
                    node = max(nodes, key=lambda node: float(timing.arrival[node]))
                    found[key] = (room, net, node)
    return [
        (name, net, node)
        for (name, _), (_, net, node) in sorted(found.items(), key=lambda item: item[1][0])
    ]


def _added(gate: str) -> bool:
    return gate.startswith(("rtlgen_buffer", "rtlgen_clone"))


def _input(bench: Workbench, gate: Gate) -> int:
    return gate.pins[bench.library.cells[gate.kind].inputs[0].name]


def _rebuild_one(bench: Workbench, name: str, rootnet: int, node: int) -> bool:
    """Take out the buffers behind a net and put the best tree there."""
    library = bench.library
    module = bench.modules[name]
    kinds = {buffer.name for buffer in library.buffers}
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
    # What the top's ports hang on moves with them; another module's ports keep their nets.
    if not inside or (name != bench.top and any(net in ports for net in nets[1:])):
        return False
    members = set(inside)
    leaves = [
        (weight, place)
        for net in nets
        for weight, place in workbench.sinks(bench, module, net)
        if place[2] >= 0 or place[0] not in members
    ]
    total = sum(weight for weight, _ in leaves)
    now = bench.stage(node)
    if now is None or total <= 0:
        return False
    tree = _best_tree(bench, now, total, len(leaves))
    if tree is None:
        return False
    owner = bench.edit(name)
    for gate_name in inside:
        del owner.gates[gate_name]
    _plant(bench, owner, rootnet, leaves, tree)
    return True


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


def _best_tree(bench: Workbench, root: Stage, total: float, leaves: int) -> Tree | None:
    """The tree of least area and weighted delay that no driver is overloaded by."""
    library = bench.library
    limit = root.cell.pins[root.pin].max_capacitance or math.inf
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

    def from_root(load: float) -> tuple[float, float]:
        return _drive(root.cell, root.pin, root.edge, root.slew, load)

    if total <= limit:
        consider((), from_root(total)[0])
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
                delay, came = from_root(count * cap)
                consider(((last, count),), delay + behind(last, came, share)[0])
            if count < 4:
                continue
            for first in library.buffers:
                own = first.inputs[0].capacitance + wire
                for over in _COUNTS:
                    below = math.ceil(count / over) * cap
                    if over * 2 > count or below > first.limit or over * own > limit:
                        continue
                    delay, came = from_root(over * own)
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
