"""Static timing over a flat netlist by NLDM tables, vectorised level by level.

Graph-based: rise and fall apart, of the transitions that reach a net the slowest goes on, of
conditional arcs the worst counts. Clocks are ideal, also behind clock gates; every flip-flop
launches at 0. Paths end at flip-flops and at enables of clock gates (setup included) and at output
ports. Wires have no resistance, and no capacitance unless ``wire_cap`` gives one to every pin they
reach. A node is a net's edge: ``2 · net`` rising, ``2 · net + 1`` falling.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flows.errors import FlowError
from flows.liberty import Library, Table
from flows.netlist import ArcTable, Flat

RISE, FALL = 0, 1


@dataclass(frozen=True)
class Boundary:
    """What surrounds a design.

    Attributes:
        input_slew: transition of input ports and clocks, ns; None for an inverter of fan-out four.
        output_load: fF on every output port; None for four inverters.
        wire_cap: fF of wire for every pin that a net reaches.
    """

    input_slew: float | None = None
    output_load: float | None = None
    wire_cap: float = 0.0

    def port_load(self, tables: Tables) -> float:
        """fF on an output port."""
        return tables.inverter_load if self.output_load is None else self.output_load


class Tables:
    """All tables of a library as padded arrays, and the arcs by number."""

    def __init__(self, library: Library):
        self.library = library
        self.arcs = ArcTable(library)
        self._rows: list[Table] = []
        self._known: dict[int, int] = {}

        def edges(keys: dict[tuple[str, str, int], int]) -> tuple[np.ndarray, ...]:
            count = len(keys)
            delay = np.full((count, 2), -1)
            slew = np.full((count, 2), -1)
            sense = np.zeros(count, dtype=np.int64)
            for (cell, pin, index), number in keys.items():
                arc = library.cells[cell].pins[pin].arcs[index]
                for edge in (RISE, FALL):
                    delay[number, edge] = self._number(arc.delay[edge])
                    slew[number, edge] = self._number(arc.slew[edge])
                sense[number] = arc.sense
            return delay, slew, sense

        self.comb_delay, self.comb_slew, self.comb_sense = self._joined(*edges(self.arcs.comb))
        self.start_delay, self.start_slew, _ = edges(self.arcs.start)
        self.end_delay, _, _ = edges(self.arcs.end)
        self.comb_key = {number: key for key, number in self.arcs.comb.items()}
        self.start_key = {number: key for key, number in self.arcs.start.items()}
        height = max((len(t.rows) for t in self._rows), default=2)
        width = max((len(t.columns) for t in self._rows), default=2)
        number = len(self._rows)
        self.rows = np.full((number, max(height, 2)), np.inf)
        self.columns = np.full((number, max(width, 2)), np.inf)
        self.values = np.zeros((number, max(height, 2), max(width, 2)))
        self.last_row = np.zeros(number, dtype=np.int64)
        self.last_column = np.zeros(number, dtype=np.int64)
        for index, table in enumerate(self._rows):
            values, rows, columns = table.values, table.rows, table.columns
            if len(rows) < 2:
                rows, values = np.array([0.0, 1.0]), np.repeat(values, 2, axis=0)
            if len(columns) < 2:
                columns, values = np.array([0.0, 1.0]), np.repeat(values, 2, axis=1)
            self.rows[index, : len(rows)] = rows
            self.columns[index, : len(columns)] = columns
            self.values[index, : len(rows), : len(columns)] = values
            self.last_row[index] = len(rows) - 2
            self.last_column[index] = len(columns) - 2
        inverter = library.inverter
        self.inverter_load = 4 * inverter.inputs[0].capacitance
        arc = inverter.outputs[0].arcs[0]
        slews = [table for table in arc.slew if table is not None]
        self.inverter_slew = (
            slews[0].at(float(slews[0].rows[0]), self.inverter_load) if slews else 0.0
        )

    def _joined(
        self, delay: np.ndarray, slew: np.ndarray, sense: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same with a last row, which :data:`flows.netlist.JOIN` indexes: a plain wire."""
        axis = np.array([0.0, 1.0])
        at_once = self._number(Table(axis, axis, np.zeros((2, 2))))
        through = self._number(Table(axis, axis, np.array([[0.0, 0.0], [1.0, 1.0]])))
        return (
            np.vstack([delay, [[at_once, at_once]]]),
            np.vstack([slew, [[through, through]]]),
            np.append(sense, 1),
        )

    def _number(self, table: Table | None) -> int:
        if table is None:
            return -1
        if id(table) not in self._known:
            self._known[id(table)] = len(self._rows)
            self._rows.append(table)
        return self._known[id(table)]

    def place_loads(self, table: np.ndarray, load: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Column and fraction of loads in tables."""
        columns = self.columns[table]
        j = np.clip((columns <= load[:, None]).sum(axis=1) - 1, 0, self.last_column[table])
        at = np.arange(len(table))
        low = columns[at, j]
        return j, (load - low) / (columns[at, j + 1] - low)

    def at(
        self, table: np.ndarray, slew: np.ndarray, place: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        """Bilinear interpolation, extrapolating from the outermost cells of a table."""
        rows = self.rows[table]
        i = np.clip((rows <= slew[:, None]).sum(axis=1) - 1, 0, self.last_row[table])
        at = np.arange(len(table))
        low = rows[at, i]
        fr = (slew - low) / (rows[at, i + 1] - low)
        j, fc = place
        v = self.values
        first = v[table, i, j]
        first = first + fc * (v[table, i, j + 1] - first)
        second = v[table, i + 1, j]
        second = second + fc * (v[table, i + 1, j + 1] - second)
        return first + fr * (second - first)


@dataclass(frozen=True)
class Step:
    """A cell on a path: ``arc`` is ``input pin->output pin``; times in ns, the load in fF."""

    instance: str
    cell: str
    arc: str
    edge: str
    delay: float
    arrival: float
    slew: float
    load: float
    fanout: int


@dataclass
class Timing:
    """Result of an analysis; times in ns, capacitances in fF.

    Attributes:
        delay: the worst path, clock edge to clock edge with setup, or from or to a port.
        start, end: of that path; ``setup`` the time it needs before the clock.
        arrival, slew: by node; required: by node, for a period of ``delay``.
        load, limit: by net, ``limit`` the driver's largest capacitance.
        arcs: the edge arcs: source and target node, gate and delay.
    """

    delay: float
    start: str
    end: str
    setup: float
    path: tuple[Step, ...]
    arrival: np.ndarray
    slew: np.ndarray
    required: np.ndarray
    load: np.ndarray
    limit: np.ndarray
    driver: np.ndarray
    arc_source: np.ndarray
    arc_target: np.ndarray
    arc_gate: np.ndarray
    arc_kind: np.ndarray
    arc_delay: np.ndarray
    worst_arc: np.ndarray
    end_node: np.ndarray
    end_needed: np.ndarray

    @cached_property
    def end_arrival(self) -> np.ndarray:
        """Arrival with setup at every endpoint's edge, ns."""
        return self.arrival[self.end_node] + self.end_needed

    def joined(self, node: int) -> bool:
        """Whether what decides a node's arrival is no cell's arc but a join."""
        arc = int(self.worst_arc[node])
        return arc >= 0 and int(self.arc_gate[arc]) < 0

    @cached_property
    def overloaded(self) -> np.ndarray:
        """Nets above their driver's largest capacitance."""
        return np.flatnonzero(self.load > self.limit * (1 + 1e-9))

    def slack(self, clock_ns: float) -> np.ndarray:
        """Time to spare for a period by node, ns."""
        return self.required + (clock_ns - self.delay) - self.arrival

    def missing(self, clock_ns: float) -> float:
        """How much all endpoints together are late for a period, ns."""
        late = self.end_arrival - clock_ns
        return float(late[late > 0].sum())


def _levels(flat: Flat) -> np.ndarray:
    """Level of every net: 0 where no combinational arc ends.

    Raises:
        FlowError: a combinational loop.
    """
    pending = np.bincount(flat.arc_to, minlength=flat.nets)
    order = np.argsort(flat.arc_from, kind="stable")
    first = np.searchsorted(flat.arc_from[order], np.arange(flat.nets + 1))
    targets = flat.arc_to[order]
    level = np.zeros(flat.nets, dtype=np.int64)
    ready = np.flatnonzero(pending == 0)
    settled, depth = len(ready), 0
    while len(ready):
        arcs = _ranges(first[ready], first[ready + 1] - first[ready])
        reached, times = np.unique(targets[arcs], return_counts=True)
        pending[reached] -= times
        ready = reached[pending[reached] == 0]
        depth += 1
        level[ready] = depth
        settled += len(ready)
    if settled < flat.nets:
        stuck = np.flatnonzero((pending > 0)[flat.arc_to] & (pending > 0)[flat.arc_from])
        place, name, kind = flat.gate(int(flat.arc_gate[stuck[0]]))
        raise FlowError(
            "sta",
            f"a combinational loop passes through {place.path or place.module}/{name} ({kind})",
        )
    return level


def _ranges(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """``first[0], first[0] + 1, …`` (``count[0]`` of them), then those of ``first[1]``, and on."""
    total = int(count.sum())
    ends = np.cumsum(count)
    return np.arange(total) - np.repeat(ends - count, count) + np.repeat(first, count)


def analyse(flat: Flat, tables: Tables, boundary: Boundary | None = None) -> Timing:
    """Arrival and required times of a flat netlist.

    Raises:
        FlowError: a combinational loop.
    """
    boundary = boundary or Boundary()
    edge_slew = tables.inverter_slew if boundary.input_slew is None else boundary.input_slew
    load = flat.load + boundary.wire_cap * flat.sinks
    np.add.at(load, flat.outputs, boundary.port_load(tables))
    limit = np.full(flat.nets, np.inf)
    limit[flat.drive_net] = flat.drive_limit
    driver = np.full(flat.nets, -1)
    driver[flat.drive_net] = flat.drive_gate

    arrival = np.full(2 * flat.nets, -np.inf)
    slew = np.full(2 * flat.nets, edge_slew)
    # Number of the arc that decides a node's arrival; −1 a port or nothing, −2 − k launch k.
    worst = np.full(2 * flat.nets, -1)
    for edge in (RISE, FALL):
        arrival[2 * flat.inputs + edge] = 0.0
        table = tables.start_delay[flat.start_kind, edge]
        has = np.flatnonzero(table >= 0)
        nodes = 2 * flat.start_to[has] + edge
        clock = np.full(len(has), edge_slew)
        table = table[has]
        place = tables.place_loads(table, load[flat.start_to[has]])
        arrival[nodes] = tables.at(table, clock, place)
        worst[nodes] = -2 - has
        table = tables.start_slew[flat.start_kind[has], edge]
        slew[nodes] = np.where(
            table >= 0,
            tables.at(table, clock, tables.place_loads(table, load[nodes >> 1])),
            edge_slew,
        )

    arcs = _edge_arcs(flat, tables, _levels(flat))
    source, target, delay_table, slew_table, arc_index, bounds = arcs
    place_delay = tables.place_loads(delay_table, load[target >> 1])
    same = np.array_equal(slew_table, delay_table)
    place_slew = place_delay if same else tables.place_loads(slew_table, load[target >> 1])
    arc_delay = np.zeros(len(source))
    for low, high in bounds:
        part = slice(low, high)
        incoming = slew[source[part]]
        delay = tables.at(delay_table[part], incoming, (place_delay[0][part], place_delay[1][part]))
        out = tables.at(slew_table[part], incoming, (place_slew[0][part], place_slew[1][part]))
        arc_delay[part] = delay
        start = arrival[source[part]]
        time = start + delay
        nodes = target[part]
        firsts = np.flatnonzero(np.r_[True, nodes[1:] != nodes[:-1]])
        best = np.maximum.reduceat(time, firsts)
        reached = nodes[firsts]
        arrival[reached] = best
        slowest = np.maximum.reduceat(np.where(np.isfinite(start), out, 0.0), firsts)
        slew[reached] = np.where(slowest > 0, slowest, edge_slew)
        hit = np.flatnonzero(time == np.repeat(best, np.diff(np.r_[firsts, len(nodes)])))
        worst[nodes[hit]] = low + hit

    needed: list[np.ndarray] = []
    for edge in (RISE, FALL):
        table = tables.end_delay[flat.end_kind, edge]
        data = slew[2 * flat.end_net + edge]
        place = tables.place_loads(table, np.full(len(table), edge_slew))
        setup = np.where(table >= 0, np.maximum(tables.at(table, data, place), 0.0), 0.0)
        needed.append(setup)
    end_nodes = np.concatenate(
        [2 * flat.end_net, 2 * flat.end_net + 1, 2 * flat.outputs, 2 * flat.outputs + 1]
    )
    end_needed = np.concatenate([*needed, np.zeros(2 * len(flat.outputs))])
    at_end = arrival[end_nodes] + end_needed
    required = np.full(2 * flat.nets, np.inf)
    period = 0.0
    if len(at_end) and np.isfinite(at_end).any():
        period = float(at_end.max())
        np.minimum.at(required, end_nodes, period - end_needed)
        for low, high in reversed(bounds):
            part = slice(low, high)
            np.minimum.at(required, source[part], required[target[part]] - arc_delay[part])

    timing = Timing(
        period,
        "none",
        "none",
        0.0,
        (),
        arrival,
        slew,
        required,
        load,
        limit,
        driver,
        source,
        target,
        flat.arc_gate[arc_index],
        flat.arc_kind[arc_index],
        arc_delay,
        worst,
        end_nodes,
        end_needed,
    )
    if period > 0:
        index = int(np.argmax(at_end))
        timing.setup = float(end_needed[index])
        timing.path, timing.start, timing.end = trace(timing, flat, tables, index)
    return timing


def _edge_arcs(
    flat: Flat, tables: Tables, level: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """Arcs between nodes, by level of the target and then by target."""
    pieces = []
    for edge in (RISE, FALL):
        delay = tables.comb_delay[flat.arc_kind, edge]
        slews = tables.comb_slew[flat.arc_kind, edge]
        slews = np.where(slews >= 0, slews, delay)
        sense = tables.comb_sense[flat.arc_kind]
        for before in (RISE, FALL):
            wanted = sense >= 0 if before == edge else sense <= 0
            index = np.flatnonzero(wanted & (delay >= 0))
            pieces.append(
                (
                    2 * flat.arc_from[index] + before,
                    2 * flat.arc_to[index] + edge,
                    delay[index],
                    slews[index],
                    index,
                )
            )
    source, target, delay, slews, index = (
        np.concatenate(column) for column in zip(*pieces, strict=True)
    )
    depth = level[target >> 1]
    order = np.lexsort((target, depth))
    depth = depth[order]
    cuts = np.flatnonzero(np.r_[True, depth[1:] != depth[:-1]]) if len(depth) else np.zeros(0, int)
    bounds = [(int(low), int(high)) for low, high in itertools.pairwise([*cuts, len(depth)])]
    return source[order], target[order], delay[order], slews[order], index[order], bounds


def nodes_to(timing: Timing, end: int) -> list[int]:
    """Nodes of the worst path to an endpoint, from its start."""
    node = int(timing.end_node[end])
    nodes = [node]
    while timing.worst_arc[node] >= 0:
        node = int(timing.arc_source[timing.worst_arc[node]])
        nodes.append(node)
    return nodes[::-1]


def trace(
    timing: Timing, flat: Flat, tables: Tables, end: int
) -> tuple[tuple[Step, ...], str, str]:
    """The worst path to an endpoint: its steps, its start and its end."""
    ends = len(flat.end_net)
    if end < 2 * ends:
        place, name, kind = flat.gate(int(flat.end_gate[end % ends]))
        finish = f"{_joined(place.path, name)} ({kind})"
    else:
        finish = "output " + flat.output_names[(end - 2 * ends) % len(flat.outputs)]
    steps: list[Step] = []
    start = "constant"
    for node in nodes_to(timing, end):
        arc, net, before = int(timing.worst_arc[node]), node >> 1, 0.0
        if arc == -1:
            hits = np.flatnonzero(flat.inputs == net)
            if len(hits):
                start = "input " + flat.input_names[int(hits[0])]
            continue
        if arc < -1:
            place, name, kind = flat.gate(int(flat.start_gate[-2 - arc]))
            key = tables.start_key[int(flat.start_kind[-2 - arc])]
            start = f"{_joined(place.path, name)} ({kind})"
        else:
            if timing.joined(node):
                continue
            place, name, kind = flat.gate(int(timing.arc_gate[arc]))
            key = tables.comb_key[int(timing.arc_kind[arc])]
            before = float(timing.arrival[timing.arc_source[arc]])
        time = float(timing.arrival[node])
        related = tables.library.cells[key[0]].pins[key[1]].arcs[key[2]].related
        steps.append(
            Step(
                _joined(place.path, name),
                kind,
                f"{related}->{key[1]}",
                "fall" if node & 1 else "rise",
                time - before,
                time,
                float(timing.slew[node]),
                float(timing.load[net]),
                int(flat.sinks[net]),
            )
        )
    return tuple(steps), start, finish


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name
