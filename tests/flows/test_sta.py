"""Timing against sums made by hand, on the embedded library (τ = 5 ps, loads in unit inverters)."""

from __future__ import annotations

import numpy as np
import pytest

from flows import Technology, netlist, sta
from flows.errors import FlowError
from flows.netlist import Gate, Instance, Module

LIBRARY = Technology.embedded().library()
TABLES = sta.Tables(LIBRARY)
TAU = 0.005


def near(value: object, abs: float | None = None) -> object:  # noqa: A002 - as pytest calls it
    """Six digits, as the library's text has them."""
    return pytest.approx(value, rel=1e-5, abs=abs)


def timed(
    *modules: Module, boundary: sta.Boundary | None = None, one_of_each: bool = False
) -> sta.Timing:
    """Timing of a hierarchy whose top comes first."""
    all_modules = {module.name: module for module in modules}
    compiled = {
        name: netlist.compile_module(module, TABLES.arcs) for name, module in all_modules.items()
    }
    flat = netlist.flatten(all_modules, modules[0].name, compiled, one_of_each=one_of_each)
    return sta.analyse(flat, TABLES, boundary or sta.Boundary(output_load=10.0))


def test_register_to_register() -> None:
    # DFF -> INV -> NAND2 -> DFF, the NAND's other input constant 1.
    module = Module(
        "top",
        {"clk": ("input", [2])},
        {
            "a": Gate("DFF_X1", {"CK": 2, "D": 5, "Q": 3}),
            "i": Gate("INV_X1", {"A": 3, "Y": 4}),
            "n": Gate("NAND2_X1", {"A": 4, "B": 1, "Y": 5}),
        },
        [],
        6,
    )
    timing = timed(module)
    stages = [12 + 1.0, 1 + 4 / 3, 2 + 4 / 3]
    assert timing.delay == near(TAU * (sum(stages) + 6))
    assert [step.delay for step in timing.path] == near([TAU * x for x in stages])
    assert [step.arc for step in timing.path] == ["CK->Q", "A->Y", "A->Y"]
    assert timing.setup == near(6 * TAU)
    assert timing.start == "a (DFF_X1)"
    assert timing.end == "a (DFF_X1)"


def test_ports_loads_strengths_and_wires() -> None:
    module = Module(
        "top",
        {"a": ("input", [2]), "y": ("output", [4])},
        {
            "first": Gate("INV_X1", {"A": 2, "Y": 3}),
            "second": Gate("INV_X4", {"A": 3, "Y": 4}),
        },
        [],
        5,
    )
    timing = timed(module)
    assert timing.delay == near(TAU * ((1 + 4) + (1 + 10 / 4)))
    assert (timing.start, timing.end) == ("input a", "output y")
    wired = timed(module, boundary=sta.Boundary(output_load=10.0, wire_cap=2.0))
    # Two fF for the one pin of the inner net; the port is no pin.
    assert wired.delay - timing.delay == near(TAU * 2.0)


def test_worst_of_two_inputs_and_slack() -> None:
    module = Module(
        "top",
        {"a": ("input", [2]), "b": ("input", [3]), "y": ("output", [5])},
        {
            "i": Gate("INV_X1", {"A": 2, "Y": 4}),
            "n": Gate("NOR2_X1", {"A": 4, "B": 3, "Y": 5}),
        },
        [],
        6,
    )
    timing = timed(module)
    first = TAU * (1 + 5 / 3)
    assert timing.delay == near(first + TAU * (2 + 10))
    slack = timing.slack(timing.delay)
    assert slack[2 * 4] == near(0.0, abs=1e-12)
    assert slack[2 * 3] == near(first)


def test_rise_and_fall_are_apart() -> None:
    # With only the rising output slow, an inverting pair sees one slow and one fast stage.
    from flows import liberty

    text = liberty.write(LIBRARY)
    head, cell, rest = text.partition("cell(INV_X1)")
    body, end, tail = rest.partition("\ncell(")
    lines = body.split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("cell_rise"))
    row = ",".join(f"{TAU * 3 * (1 + load):.6g}" for load in (0, 10, 40))
    lines[at] = lines[at].split("values")[0] + f'values("{row}", "{row}", "{row}"); }}'
    skewed = liberty.parse(head + cell + "\n".join(lines) + end + tail, "skewed")
    tables = sta.Tables(skewed)
    module = Module(
        "top",
        {"a": ("input", [2]), "y": ("output", [4])},
        {"i": Gate("INV_X1", {"A": 2, "Y": 3}), "j": Gate("INV_X1", {"A": 3, "Y": 4})},
        [],
        5,
    )
    flat = netlist.flatten(
        {"top": module}, "top", {"top": netlist.compile_module(module, tables.arcs)}
    )
    timing = sta.analyse(flat, tables, sta.Boundary(output_load=5.0))
    rising = TAU * (1 + 1) + TAU * 3 * (1 + 5)
    falling = TAU * 3 * (1 + 1) + TAU * (1 + 5)
    assert timing.arrival[2 * 4 : 2 * 4 + 2] == near([rising, falling])
    assert timing.delay == near(max(rising, falling))


def chain(copies: int) -> tuple[Module, Module]:
    """A driver into equal columns, each with two inverters on its port."""
    column = Module(
        "column",
        {"a": ("input", [2]), "y": ("output", [3])},
        {"i": Gate("INV_X1", {"A": 2, "Y": 3}), "j": Gate("INV_X2", {"A": 2, "Y": 4})},
        [],
        5,
    )
    top = Module(
        "top",
        {"a": ("input", [2]), "y": ("output", list(range(4, 4 + copies)))},
        {"d": Gate("BUF_X1", {"A": 2, "Y": 3})},
        [Instance(f"c{i}", "column", {"a": [3], "y": [4 + i]}) for i in range(copies)],
        4 + copies,
    )
    return top, column


@pytest.mark.parametrize("one_of_each", [False, True])
def test_hierarchy_loads_a_broadcast_net_with_all_copies(one_of_each: bool) -> None:
    timing = timed(*chain(5), one_of_each=one_of_each)
    assert timing.delay == near(TAU * ((3 + 5 * 3) + (1 + 10)))
    assert timing.path[0].load == near(15.0)
    assert timing.path[0].fanout == 10


def test_ports_that_pass_through_are_joined() -> None:
    inner = Module(
        "inner", {"a": ("input", [2]), "y": ("output", [2]), "z": ("output", [2])}, {}, [], 3
    )
    top = Module(
        "top",
        {"a": ("input", [2]), "y": ("output", [5])},
        {"n": Gate("NAND2_X1", {"A": 3, "B": 4, "Y": 5})},
        [Instance("u", "inner", {"a": [2], "y": [3], "z": [4]})],
        6,
    )
    modules = {"top": top, "inner": inner}
    netlist.join_feedthroughs(modules, LIBRARY)
    timing = timed(top, inner)
    assert timing.delay == near(TAU * (2 + 10))
    assert timing.start == "input a"


def test_a_loop_is_named() -> None:
    module = Module(
        "top",
        {"a": ("input", [2]), "y": ("output", [3])},
        {"n": Gate("NAND2_X1", {"A": 2, "B": 4, "Y": 3}), "i": Gate("INV_X1", {"A": 3, "Y": 4})},
        [],
        5,
    )
    with pytest.raises(FlowError, match="combinational loop passes through"):
        timed(module)


def test_interpolation_equals_the_table(liberty_file) -> None:
    library = Technology.liberty(liberty_file).library()
    tables = sta.Tables(library)
    random = np.random.default_rng(1)
    for (cell, pin, index), number in list(tables.arcs.comb.items())[::97]:
        table = library.cells[cell].pins[pin].arcs[index].delay[0]
        row = int(tables.comb_delay[number, 0])
        if table is None:
            continue
        slews, loads = random.uniform(0, 0.4, 20), random.uniform(0, 90, 20)
        rows = np.full(20, row)
        found = tables.at(rows, slews, tables.place_loads(rows, loads))
        expected = [table.at(s, c) for s, c in zip(slews, loads, strict=True)]
        assert found == near(expected)


def test_one_of_each_sees_the_latest_of_what_the_copies_get() -> None:
    """The second copy's input comes through two buffers more than the first one's."""
    top, column = chain(3)
    top.gates["e"] = Gate("BUF_X1", {"A": 2, "Y": 7})
    top.gates["f"] = Gate("BUF_X1", {"A": 7, "Y": 8})
    top.gates["g"] = Gate("BUF_X1", {"A": 8, "Y": 9})
    top.nets = 10
    top.instances[1].nets["a"] = [9]
    whole, one = (timed(top, column, one_of_each=flag) for flag in (False, True))
    slow = TAU * ((3 + 1) + (3 + 1) + (3 + 3) + (1 + 10))
    assert whole.delay == near(slow)
    assert one.delay == near(slow)
    assert [step.instance for step in one.path] == ["e", "f", "g", "c0/i"]
    assert one.load[9] == near(3.0)
    # What is late there is late for the buffers of the copy that is left out.
    assert min(one.slack(one.delay)[2 * 7 : 2 * 7 + 2]) == near(0.0, abs=1e-9)
