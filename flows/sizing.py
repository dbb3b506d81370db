"""Repair of a mapped design: buffers and strengths for loads, then for slow paths.

A change is made to a module, and so to all its copies. First, nets above their driver's largest
capacitance get a stronger driver or buffers, whichever is smaller. Then, for a clock, cells of the
worst paths change strength where that gains most time for its area, and heavy nets are split, until
the clock is met or nothing helps; last, cells with time to spare become smaller again.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import numpy as np

from flows import fanout, sta, workbench
from flows.liberty import Arc, Cell
from flows.netlist import JOIN, Gate, Module
from flows.sta import Timing
from flows.workbench import Change, Stage, Workbench

# Margin below a driver's largest capacitance, so that a later change of strength still fits.
_LOAD_SHARE = 0.95
# A gate that drives less than so many of its own inputs gains little from a twin.
_CLONE_LOAD = 8.0
# Late endpoints whose paths are looked at in a round, and changes made at a time at most.
_PATHS = 80
_WIDTH = 24
_ROUNDS = 150
# A repair that has not come this much nearer (share of what is missing) in so many rounds ends.
_PROGRESS = 0.05
_PATIENCE = 16


@dataclass
class Sized:
    """A repaired design: its modules, the timing of one copy each, and what was added."""

    modules: dict[str, Module]
    timing: Timing
    area: float
    buffers: dict[str, int] = field(default_factory=dict)


def repair(
    bench: Workbench,
    *,
    clock_ns: float | None = None,
    objective: str = "area",
    area_limit: float = math.inf,
    rounds: int = _ROUNDS,
) -> Sized:
    """Repair a design.

    Args:
        clock_ns: the period to meet; None for loads only.
        objective: ``area``, or ``density`` for the largest ``1 / (area · delay)``.
        area_limit: a design larger than this is of no use: repair may end where it stands.
    """
    repair_loads(bench)
    exchange_pins(bench)
    if clock_ns is not None:
        met = repair_timing(bench, clock_ns, area_limit=area_limit, rounds=rounds)
        # A stronger cell can be too much for another of its drivers.
        repair_loads(bench)
        if met and bench.timing.delay > clock_ns:
            met = repair_timing(bench, clock_ns, area_limit=area_limit, rounds=rounds)
        if met:
            recover_area(bench, clock_ns)
    elif objective == "density":
        _densest(bench, rounds)
    return Sized(dict(bench.modules), bench.timing, bench.area(), added_buffers(bench))


def added_buffers(bench: Workbench) -> dict[str, int]:
    """Buffers that repair put in, by module."""
    return {
        name: count
        for name, module in bench.modules.items()
        if (count := sum(gate.startswith("rtlgen_buffer") for gate in module.gates))
    }


# ---------------------------------------------------------------------------------------------
# Loads.


def repair_loads(bench: Workbench, rounds: int = 12) -> None:
    """Bring every net within its driver's largest capacitance, as far as buffers reach."""
    bench.measure()
    for _ in range(rounds):
        timing = bench.timing
        heavy = np.flatnonzero((timing.load > timing.limit) & (timing.driver >= 0))
        if not len(heavy):
            return
        done: set[tuple[str, int]] = set()
        for net in heavy[np.argsort(-timing.load[heavy])]:
            place, gate, kind = bench.flat.gate(int(timing.driver[net]))
            pin, local = bench.output(place, gate, int(net))
            if (place.module, local) in done:
                continue
            done.add((place.module, local))
            load = float(timing.load[net])
            cell = bench.library.cells[kind]
            stronger = [
                other
                for other in bench.library.strengths(kind)
                if (other.pins[pin].max_capacitance or math.inf) * _LOAD_SHARE >= load
            ]
            cost, make = _plan_buffers(bench, load)
            if stronger and (make is None or stronger[0].area - cell.area <= cost):
                bench.resize(place.module, gate, stronger[0].name)
            elif make is not None:
                _split(bench, place.path, place.module, local, make, load)
        bench.measure()


def _plan_buffers(bench: Workbench, load: float) -> tuple[float, Cell | None]:
    """Least area of equal buffers that share a load, and which buffer; None if there is none."""
    best: tuple[float, Cell | None] = (math.inf, None)
    for cell in bench.library.buffers:
        if math.isinf(cell.limit):
            continue
        count = math.ceil(load / (cell.limit * _LOAD_SHARE))
        # Many small buffers would only need buffers themselves.
        cost = count * cell.area + (0.1 * cell.area * count if count > 8 else 0.0)
        if cost < best[0]:
            best = (cost, cell)
    return best


def _split(bench: Workbench, path: str, name: str, net: int, buffer: Cell, load: float) -> None:
    """Put a net's sinks behind buffers of one kind, each within its largest capacitance.

    If most of the load lies above the driver's module, the buffers go there; if one module below
    has more than a buffer can drive on a port, they go in there first.
    """
    module = bench.modules[name]
    sinks = workbench.sinks(bench, module, net)
    local = sum(weight for weight, _ in sinks)
    outward = next(
        (
            (port, nets.index(net))
            for port, (way, nets) in module.ports.items()
            if way == "output" and net in nets
        ),
        None,
    )
    if outward and path and local < load / 2:
        above = path.rpartition("/")[0]
        parent = next(place.module for place in bench.flat.places if place.path == above)
        instance = next(
            i for i in bench.modules[parent].instances if i.name == path[len(above) :].lstrip("/")
        )
        port, at = outward
        _split(bench, above, parent, instance.nets[port][at], buffer, load)
        return
    if not sinks and not outward:
        return
    fit = buffer.limit * _LOAD_SHARE
    for weight, (holder, port, at) in sinks:
        if holder and at >= 0 and weight > fit:
            # One port of a module below is too much by itself: buffers go in there.
            below = next(i.module for i in module.instances if i.name == holder)
            inner = bench.modules[below].ports[port][1][at]
            _split(bench, f"{path}/{holder}".lstrip("/"), below, inner, buffer, weight)
            return
    module = bench.edit(name)
    groups: list[tuple[float, list[tuple[str, str, int]]]] = []
    total = local
    count = max(1, math.ceil(total / fit))
    for weight, sink in sorted(workbench.sinks(bench, module, net), key=lambda item: -item[0]):
        open_groups = [g for g in groups if g[0] + weight <= fit]
        if len(groups) < count or not open_groups:
            groups.append((weight, [sink]))
        else:
            lightest = min(open_groups, key=lambda g: g[0])
            groups[groups.index(lightest)] = (lightest[0] + weight, [*lightest[1], sink])
    for weight, members in groups:
        fitting = [b for b in bench.library.buffers if b.limit * _LOAD_SHARE >= weight]
        cell = fitting[0] if fitting else buffer
        behind = module.new_net()
        module.gates[bench.name("buffer")] = Gate(
            cell.name, {cell.inputs[0].name: net, cell.outputs[0].name: behind}
        )
        workbench.move(module, members, behind)


# ---------------------------------------------------------------------------------------------
# Timing.


def exchange_pins(bench: Workbench, rounds: int = 3) -> None:
    """Late signals to fast pins of cells whose inputs may be exchanged: costs no area."""
    for _ in range(rounds):
        kept = bench.keep()
        if not _exchange(bench):
            return
        if bench.measure().delay > kept.timing.delay - 1e-6:
            bench.restore(kept)
            return


def _exchange(bench: Workbench) -> bool:
    timing, flat = bench.timing, bench.flat
    late: dict[tuple[int, str], float] = {}
    for gate, kind, node in zip(
        timing.arc_gate.tolist(), timing.arc_kind.tolist(), timing.arc_source.tolist(), strict=True
    ):
        if kind == JOIN:
            continue
        cell, pin, index = bench.tables.comb_key[kind]
        related = bench.library.cells[cell].pins[pin].arcs[index].related
        key = gate, related
        late[key] = max(late.get(key, -math.inf), float(timing.arrival[node]))
    changed = False
    seen: set[str] = set()
    for place in flat.places:
        if place.module in seen:
            continue
        seen.add(place.module)
        arrays = flat.compiled[place.module]
        for number, (name, kind) in enumerate(
            zip(arrays.names, arrays.kinds, strict=True), start=place.first_gate
        ):
            for pins in bench.library.cells[kind].alike:
                times = [late.get((number, pin), -math.inf) for pin in pins]
                if len(set(times)) < 2:
                    continue
                # The slowest pin gets the earliest signal.
                slow_first = sorted(pins, key=lambda pin: -bench.pin_delay(kind, pin))
                early_first = [pin for _, pin in sorted(zip(times, pins, strict=True))]
                if slow_first == early_first:
                    continue
                connected = bench.modules[place.module].gates[name].pins
                if any(pin not in connected for pin in pins):
                    continue
                nets = [connected[pin] for pin in early_first]
                bench.edit(place.module).gates[name].pins.update(zip(slow_first, nets, strict=True))
                changed = True
    return changed


def repair_timing(
    bench: Workbench, clock_ns: float, *, area_limit: float = math.inf, rounds: int = _ROUNDS
) -> bool:
    """Make the worst paths faster until a clock is met; False if it is not."""
    tabu: set[tuple[str, str, str]] = set()
    width = _WIDTH
    fanout.rebuild(bench, clock_ns)
    again = True
    milestone, since = bench.timing.missing(clock_ns), 0
    for _ in range(rounds):
        timing = bench.timing
        if timing.delay <= clock_ns + 1e-9:
            return True
        before = timing.missing(clock_ns)
        if before < milestone * (1 - _PROGRESS):
            milestone, since = before, 0
        since += 1
        if since > _PATIENCE or bench.area() > area_limit * 1.1:
            return False
        changes = _faster(bench, clock_ns, tabu)[:width]
        if not changes:
            if _offload(bench, clock_ns, tabu):
                continue
            # Once more with what has become of the nets; oftener it gains next to nothing.
            if not again or not fanout.rebuild(bench, clock_ns):
                return False
            again = False
            continue
        kept = bench.flat, timing
        for change in changes:
            bench.apply(change)
        if bench.measure().missing(clock_ns) < before - 1e-7:
            width = min(_WIDTH, width + 2)
            continue
        for change in reversed(changes):
            bench.revert(change)
        bench.flat, bench.timing = kept
        if len(changes) == 1:
            tabu.add((changes[0][0], changes[0][1], changes[0][3]))
        width = max(1, len(changes) // 3)
    return bench.timing.delay <= clock_ns + 1e-9


def _arc_of(cell: Cell, pin: str, related: str, sense: int) -> Arc | None:
    found = [a for a in cell.pins[pin].arcs if a.related == related and a.kind != "setup"]
    exact = [a for a in found if a.sense == sense]
    return next(iter(exact or found), None)


def _worst_ends(timing: Timing, clock_ns: float, number: int) -> list[int]:
    """Late endpoints' edges, worst first."""
    order = np.argsort(-timing.end_arrival)[:number]
    return [int(end) for end in order if timing.end_arrival[end] > clock_ns]


def _faster(bench: Workbench, clock_ns: float, tabu: set[tuple[str, str, str]]) -> list[Change]:
    """Changes of strength on late paths, most time for their area first.

    What a change gains counts once for every late endpoint that the cell's output is on the way to.
    """
    timing = bench.timing
    weight: dict[int, float] = {}
    before: dict[int, int] = {}
    through: dict[int, list[int]] = {}
    missing: list[float] = []
    for path, end in enumerate(_worst_ends(timing, clock_ns, _PATHS)):
        late = float(timing.end_arrival[end]) - clock_ns
        missing.append(late)
        last = -1
        for node in sta.nodes_to(timing, end):
            if timing.joined(node):
                continue
            weight[node] = weight.get(node, 0.0) + late
            before[node] = last
            through.setdefault(node, []).append(path)
            last = node
    found: dict[tuple[str, str], tuple[float, float, int, Change]] = {}
    stage = functools.cache(bench.stage)

    for node, importance in weight.items():
        now = stage(node)
        if now is None:
            continue
        previous = stage(before[node]) if before[node] >= 0 else None
        for gain, cost, other in [
            *_options(bench, now, previous, tabu),
            *_softer(bench, now, tabu),
            *_twin(bench, now, previous, tabu),
        ]:
            score = importance * gain / cost
            key = (now.module, now.gate)
            if key not in found or score > found[key][0]:
                found[key] = (score, gain, node, (now.module, now.gate, now.cell.name, other))
    chosen = []
    # A change that only paths need which others have already brought home is left for later.
    for _, gain, node, change in sorted(found.values(), key=lambda item: (-item[0], item[3])):
        if any(missing[path] > 0 for path in through[node]):
            chosen.append(change)
            for path in through[node]:
                missing[path] -= gain
    return chosen


def _softer(
    bench: Workbench, now: Stage, tabu: set[tuple[str, str, str]]
) -> list[tuple[float, float, str]]:
    """What gates in the place of a full-adder cell gain: ns, area, the change."""
    full, exclusive, nand = bench.library.full_adder, bench.exclusive, bench.nand
    change = f"{workbench.LATE}{now.arc.related}"
    if full is None or exclusive is None or nand is None or now.cell is not full.cell:
        return []
    if (now.module, now.gate, change) in tabu:
        return []
    table = now.arc.delay[now.edge]
    if table is None:
        return []
    pins = bench.modules[now.module].gates[now.gate].pins
    area = exclusive.area * (1 + (full.sum in pins)) + 3 * nand.area * (full.carry in pins)
    if now.pin == full.sum:
        soft = _slowest(exclusive, now.edge, now.slew, now.load)
    else:
        cap = nand.inputs[0].capacitance
        soft = _slowest(nand, 1 - now.edge, now.slew, cap)
        soft += _slowest(nand, now.edge, bench.tables.inverter_slew, now.load)
    if min(exclusive.limit, nand.limit) < now.load:
        return []
    gain = table.at(now.slew, now.load) - soft
    cost = (area - now.cell.area) * bench.copies[now.module]
    return [(gain, max(cost, 0.02 * now.cell.area), change)] if gain > 2e-3 else []


def _twin(
    bench: Workbench, now: Stage, previous: Stage | None, tabu: set[tuple[str, str, str]]
) -> list[tuple[float, float, str]]:
    """What a second gate for half of the sinks gains: ns, area, the change."""
    table = now.arc.delay[now.edge]
    if table is None or now.cell.kind != "comb" or len(now.cell.outputs) != 1:
        return []
    cap = now.cell.pins[now.arc.related].capacitance
    if now.load < _CLONE_LOAD * cap or (now.module, now.gate, workbench.CLONE) in tabu:
        return []
    gain = table.at(now.slew, now.load) - table.at(now.slew, now.load / 2)
    if previous is not None:
        driver = previous.arc.delay[previous.edge]
        limit = previous.cell.pins[previous.pin].max_capacitance or math.inf
        if previous.load + cap > limit:
            return []
        if driver is not None:
            gain -= driver.at(previous.slew, previous.load + cap)
            gain += driver.at(previous.slew, previous.load)
    if gain <= 2e-3 or _sink_count(bench, now) < 4:
        return []
    return [(gain, now.cell.area * bench.copies[now.module], workbench.CLONE)]


def _sink_count(bench: Workbench, now: Stage) -> int:
    """Pins of its own module that a stage's gate drives."""
    module = bench.modules[now.module]
    net = module.gates[now.gate].pins[now.pin]
    cells = bench.library.cells
    inside = sum(
        at == net and cells[gate.kind].pins[pin].direction == "input"
        for gate in module.gates.values()
        for pin, at in gate.pins.items()
    )
    return inside + sum(
        nets.count(net)
        for instance in module.instances
        for port, nets in instance.nets.items()
        if bench.modules[instance.module].ports[port][0] == "input"
    )


def _slowest(cell: Cell, edge: int, slew: float, load: float) -> float:
    """The slowest arc of a cell to an edge of its output, ns."""
    tables = [arc.delay[edge] for arc in cell.outputs[0].arcs]
    return max((table.at(slew, load) for table in tables if table is not None), default=0.0)


def _options(
    bench: Workbench, now: Stage, previous: Stage | None, tabu: set[tuple[str, str, str]]
) -> list[tuple[float, float, str]]:
    """Strengths that are faster: ns gained, with what the driver before loses; area; cell."""
    table = now.arc.delay[now.edge]
    if table is None:
        return []
    delay = table.at(now.slew, now.load)
    found = []
    for other in bench.library.strengths(now.cell.name):
        if other is now.cell or (now.module, now.gate, other.name) in tabu:
            continue
        if (other.pins[now.pin].max_capacitance or math.inf) < now.load:
            continue
        arc = _arc_of(other, now.pin, now.arc.related, now.arc.sense)
        faster = arc.delay[now.edge] if arc else None
        if faster is None:
            continue
        gain = delay - faster.at(now.slew, now.load)
        if previous is not None and now.arc.related in other.pins:
            more = (
                other.pins[now.arc.related].capacitance - now.cell.pins[now.arc.related].capacitance
            )
            if previous.load + more > (
                previous.cell.pins[previous.pin].max_capacitance or math.inf
            ):
                continue
            driver = previous.arc.delay[previous.edge]
            if driver is not None:
                gain -= driver.at(previous.slew, previous.load + more) - driver.at(
                    previous.slew, previous.load
                )
        if gain > 2e-4:
            cost = (other.area - now.cell.area) * bench.copies[now.module]
            found.append((gain, max(cost, 0.02 * now.cell.area), other.name))
    return found


def _offload(bench: Workbench, clock_ns: float, tabu: set[tuple[str, str, str]]) -> bool:
    """Put sinks with time to spare of a net on the worst path behind a buffer, if that helps."""
    timing, flat = bench.timing, bench.flat
    slack = timing.slack(clock_ns)
    ends = _worst_ends(timing, clock_ns, 2)
    for end in ends:
        for node in sorted(sta.nodes_to(timing, end), key=lambda n: -timing.load[n >> 1]):
            net = node >> 1
            number = int(timing.driver[net])
            if number < 0 or flat.sinks[net] < 3:
                continue
            place, gate, _ = flat.gate(number)
            key = (place.module, gate, "offload")
            if key in tabu:
                continue
            tabu.add(key)
            _, local = bench.output(place, gate, net)
            idle = _idle_sinks(bench, place.module, place.first_gate, local, node, slack)
            if not idle:
                continue
            kept = bench.keep()
            changed = bench.edit(place.module)
            weight = sum(w for w, _ in idle)
            fitting = [b for b in bench.library.buffers if b.limit * _LOAD_SHARE >= weight]
            cell = fitting[0] if fitting else bench.library.buffers[-1]
            behind = changed.new_net()
            changed.gates[bench.name("buffer")] = Gate(
                cell.name, {cell.inputs[0].name: local, cell.outputs[0].name: behind}
            )
            workbench.move(changed, [place for _, place in idle], behind)
            after = bench.measure()
            if (
                after.missing(clock_ns) < timing.missing(clock_ns) - 1e-7
                and after.delay < timing.delay + 1e-9
            ):
                return True
            bench.restore(kept)
    return False


def _idle_sinks(
    bench: Workbench, name: str, first_gate: int, net: int, node: int, slack: np.ndarray
) -> list[tuple[float, tuple[str, str, int]]]:
    """Sinks of a net, cells of its module, whose outputs have time for a buffer."""
    timing = bench.timing
    library = bench.library
    names = bench.flat.compiled[name].names
    index = {gate: first_gate + i for i, gate in enumerate(names)}
    arcs = np.flatnonzero((timing.arc_source >> 1) == node >> 1)
    worst: dict[int, float] = {}
    for arc in arcs:
        gate = int(timing.arc_gate[arc])
        if gate < 0:
            continue
        room = float(
            timing.required[timing.arc_target[arc]]
            - timing.arc_delay[arc]
            - timing.arrival[timing.arc_source[arc]]
        )
        worst[gate] = min(worst.get(gate, math.inf), room)
    buffer = library.buffers[0]
    table = buffer.outputs[0].arcs[0].delay[0]
    extra = 2.0 * table.at(bench.tables.inverter_slew, bench.tables.inverter_load) if table else 0.0
    return [
        (weight, sink)
        for weight, sink in workbench.sinks(bench, bench.modules[name], net)
        if sink[2] < 0
        and not sink[0].startswith("rtlgen_buffer")
        and worst.get(index.get(sink[0], -1), 0.0) > extra
    ]


def recover_area(bench: Workbench, clock_ns: float | None) -> None:
    """Smaller cells where there is time: all that could be, then a third of them, and so on.

    Full adders that became gates are tried as cells again one by one, the last first.
    """
    limit = max(clock_ns or 0.0, bench.timing.delay) + 1e-9
    for module, gate in reversed(list(bench.softened)):
        kept = bench.keep()
        bench.harden(module, gate)
        timing = bench.measure()
        if timing.delay > limit or len(timing.overloaded):
            bench.restore(kept)
    refused: set[tuple[str, str]] = set()
    share = 1.0
    for _ in range(24):
        changes = _smaller(bench, limit, refused)
        if not changes:
            return
        taken = changes[: max(1, int(len(changes) * share))]
        for module, gate, _, new in taken:
            bench.resize(module, gate, new)
        timing = bench.measure()
        over = np.flatnonzero((timing.load > timing.limit) & (timing.driver >= 0))
        if timing.delay <= limit and not len(over):
            continue
        for module, gate, old, _ in taken:
            bench.resize(module, gate, old)
        bench.measure()
        if len(taken) == 1:
            refused.add((taken[0][0], taken[0][1]))
        share /= 3.0


def _smaller(bench: Workbench, limit: float, refused: set[tuple[str, str]]) -> list[Change]:
    """The next smaller strength of cells, most time to spare first."""
    timing, flat, library = bench.timing, bench.flat, bench.library
    slack = timing.slack(limit)
    by_net = np.minimum(slack[0::2], slack[1::2])
    by_net = np.where(np.isfinite(by_net), by_net, 10.0 * limit)
    nets, gates = flat.drive_net, flat.drive_gate
    room: dict[int, float] = {}
    load: dict[int, float] = {}
    for net, gate in zip(nets.tolist(), gates.tolist(), strict=True):
        room[gate] = min(room.get(gate, math.inf), float(by_net[net]))
        load[gate] = max(load.get(gate, 0.0), float(timing.load[net]))
    found: dict[tuple[str, str], tuple[float, Change]] = {}
    for place in flat.places:
        compiled = flat.compiled[place.module]
        for index, (gate, kind) in enumerate(zip(compiled.names, compiled.kinds, strict=True)):
            key = (place.module, gate)
            options = library.strengths(kind)
            cell = library.cells[kind]
            number = place.first_gate + index
            if len(options) < 2 or cell.kind == "gate" or key in refused or number not in room:
                continue
            smaller = [o for o in options if o.area < cell.area - 1e-9 and o.limit >= load[number]]
            if not smaller:
                continue
            spare = room[number]
            change = (place.module, gate, kind, smaller[-1].name)
            # A cell of a module that lies in several places is as slow as its slowest copy.
            if key not in found or spare < found[key][0]:
                found[key] = (spare, change)
    need = 0.02 * limit
    ordered = sorted(found.values(), key=lambda item: -item[0])
    return [change for spare, change in ordered if spare > need]


def _densest(bench: Workbench, rounds: int) -> None:
    """Walk towards shorter delays and keep the point of the least area times delay."""
    recover_area(bench, None)
    best = (bench.area() * bench.timing.delay, bench.keep())
    stale = 0
    while stale < 4:
        target = bench.timing.delay * 0.96
        met = repair_timing(bench, target, rounds=min(rounds, 40))
        value = bench.area() * bench.timing.delay
        if value < best[0]:
            best, stale = (value, bench.keep()), 0
        else:
            stale += 1
        if not met:
            break
    bench.restore(best[1])
    recover_area(bench, None)
