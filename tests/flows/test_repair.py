"""Changes that repair makes, each by itself, and their undoing."""

from __future__ import annotations

import pytest

from flows import Technology, fanout, netlist, sizing, sta
from flows.netlist import Gate, Instance, Module
from flows.sta import Boundary, Tables
from flows.workbench import CLONE, LATE, Workbench

LIBRARY = Technology.embedded().library()
TABLES = Tables(LIBRARY)


def bench_of(module: Module) -> Workbench:
    bench = Workbench({module.name: module}, module.name, TABLES, Boundary(output_load=2.0))
    bench.measure()
    return bench


def state(bench: Workbench) -> dict[str, tuple[str, dict[str, int]]]:
    gates = bench.modules[bench.top].gates
    return {name: (gate.kind, dict(gate.pins)) for name, gate in gates.items()}


def broadcast(sinks: int) -> Module:
    """An inverter into many buffers, each to a port."""
    return Module(
        "top",
        {"a": ("input", [2]), "y": ("output", list(range(4, 4 + sinks)))},
        {
            "d": Gate("INV_X1", {"A": 2, "Y": 3}),
            **{f"s{i}": Gate("BUF_X1", {"A": 3, "Y": 4 + i}) for i in range(sinks)},
        },
        [],
        4 + sinks,
    )


def test_a_twin_takes_half_of_the_sinks_and_gives_them_back() -> None:
    bench = bench_of(broadcast(8))
    before, delay = state(bench), bench.timing.delay
    bench.apply(("top", "d", "INV_X1", CLONE))
    assert bench.measure().delay < delay
    gates = bench.modules["top"].gates
    (twin,) = (name for name in gates if name not in before)
    assert gates[twin].pins["A"] == 2
    nets = [gates[f"s{i}"].pins["A"] for i in range(8)]
    assert sorted(nets.count(net) for net in set(nets)) == [4, 4]
    bench.revert(("top", "d", "INV_X1", CLONE))
    assert state(bench) == before


@pytest.mark.parametrize("late", ["A", "B", "C"])
def test_gates_for_a_full_adder_are_its_function(late: str) -> None:
    full = LIBRARY.full_adder
    assert full is not None
    names = dict(zip(full.inputs, (2, 3, 4), strict=True))
    if late not in names:
        late = list(names)["ABC".index(late)]
    module = Module(
        "top",
        {"x": ("input", [2, 3, 4]), "y": ("output", [5, 6])},
        {"fa": Gate(full.cell.name, {**names, full.sum: 5, full.carry: 6})},
        [],
        7,
    )
    bench = bench_of(module)
    before = state(bench)
    bench.apply(("top", "fa", full.cell.name, LATE + late))
    bench.measure()
    gates = bench.modules["top"].gates
    for row in range(8):
        values = {0: 0, 1: 1, 2: row & 1, 3: row >> 1 & 1, 4: row >> 2 & 1}
        while not {5, 6} <= values.keys():
            for gate in gates.values():
                cell = LIBRARY.cells[gate.kind]
                inputs = sorted(pin.name for pin in cell.inputs)
                if all(gate.pins[name] in values for name in inputs):
                    at = sum(values[gate.pins[name]] << i for i, name in enumerate(inputs))
                    for pin, truth in cell.truths.items():
                        values[gate.pins[pin]] = truth >> at & 1
        assert values[5] + 2 * values[6] == row.bit_count()
    bench.revert(("top", "fa", full.cell.name, LATE + late))
    assert state(bench) == before


def hang_on(bench: Workbench, root: int, nets: list[int]) -> None:
    """Nets are a root's, through nothing but buffers."""
    gates = bench.modules["top"].gates
    driver = {
        gate.pins[pin.name]: gate
        for gate in gates.values()
        for pin in LIBRARY.cells[gate.kind].outputs
    }
    for net in nets:
        while net != root:
            gate = driver[net]
            assert LIBRARY.cells[gate.kind].truths["Y"] == 2
            net = gate.pins["A"]


def test_a_net_of_many_output_ports_is_divided() -> None:
    ports = ("output", [3] * 900)
    gates = {"d": Gate("INV_X1", {"A": 2, "Y": 3})}
    bench = bench_of(Module("top", {"a": ("input", [2]), "y": ports}, gates, [], 4))
    given = bench.modules["top"]
    assert len(bench.timing.overloaded)
    sizing.repair_loads(bench)
    slow = bench.timing.delay
    assert not len(bench.timing.overloaded)
    assert 1 < sizing.added_buffers(bench)["top"] < 200
    hang_on(bench, 3, bench.modules["top"].ports["y"][1])
    assert fanout.rebuild(bench, slow * 0.5)
    assert bench.timing.delay < slow
    hang_on(bench, 3, bench.modules["top"].ports["y"][1])
    assert given.ports["y"] == ("output", [3] * 900)


def test_loads_below_a_port_are_divided_below() -> None:
    below = Module(
        "below",
        {"i": ("input", [2]), "o": ("output", list(range(3, 903)))},
        {f"s{k}": Gate("BUF_X1", {"A": 2, "Y": 3 + k}) for k in range(900)},
        [],
        903,
    )
    top = Module(
        "top",
        {"a": ("input", [2]), "y": ("output", list(range(4, 904)))},
        {"d": Gate("INV_X1", {"A": 2, "Y": 3})},
        [Instance("c", "below", {"i": [3], "o": list(range(4, 904))})],
        904,
    )
    bench = Workbench({"top": top, "below": below}, "top", TABLES, Boundary(output_load=2.0))
    assert len(bench.measure().overloaded)
    sizing.repair_loads(bench)
    assert not len(bench.timing.overloaded)
    added = sizing.added_buffers(bench)
    assert 1 < added["below"] < 200
    gates = bench.modules["below"].gates
    drivers = {gate.pins["Y"]: gate.pins["A"] for gate in gates.values()}
    for k in range(900):
        net = gates[f"s{k}"].pins["A"]
        while net in drivers:
            net = drivers[net]
        assert net == 2


def test_a_late_tree_is_built_anew_and_a_useless_one_is_left() -> None:
    bench = bench_of(broadcast(900))
    sizing.repair_loads(bench)
    slow = bench.timing.delay
    kept = state(bench)
    assert not fanout.rebuild(bench, slow * 1.01)
    assert state(bench) == kept
    assert fanout.rebuild(bench, slow * 0.5)
    assert bench.timing.delay < slow
    assert not len(bench.timing.overloaded)
    # Every sink still sees the inverted input.
    gates = bench.modules["top"].gates
    hang_on(bench, 3, [gates[f"s{i}"].pins["A"] for i in range(900)])
    assert sta.analyse(
        netlist.flatten(bench.modules, "top", bench.compiled), TABLES, bench.boundary
    ).delay == pytest.approx(bench.timing.delay)
