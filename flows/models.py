"""Behaviour of library cells in Verilog, from the functions that the Liberty file states."""

from __future__ import annotations

from collections.abc import Iterable

from flows.liberty import Cell, Library

GUARD = "RTLGEN_CELLS"
"""The macro that turns the models of a mapped netlist on."""


def cell_models(library: Library, kinds: Iterable[str]) -> str:
    """Verilog modules of cells, within ``ifdef RTLGEN_CELLS``.

    A combinational output is its truth table; a flip-flop takes its next state at the rising clock
    edge; a clock gate is a latch that is open while the clock is low.

    Raises:
        KeyError: a kind that the library does not have.
    """
    lines = [f"`ifdef {GUARD}"]
    for kind in sorted(set(kinds)):
        lines += _module(library, library.cells[kind])
    return "\n".join([*lines, "`endif"]) + "\n"


def _module(library: Library, cell: Cell) -> list[str]:
    names = sorted(pin.name for pin in cell.inputs)
    ports = [f"input {name}" for name in names] + [f"output {pin.name}" for pin in cell.outputs]
    lines = [f"module {cell.name} ({', '.join(ports)});"]
    if cell.kind == "comb":
        for pin in cell.outputs:
            size = 1 << len(names)
            table = f"{size}'h{cell.truths[pin.name] & (1 << size) - 1:x}"
            if names:
                lines.append(f"  wire [{size - 1}:0] {pin.name}_table = {table};")
                index = ", ".join(reversed(names))
                lines.append(f"  assign {pin.name} = {pin.name}_table[{{{index}}}];")
            else:
                lines.append(f"  assign {pin.name} = {table};")
    elif cell.kind == "ff":
        clock, data = cell.clocked_on.strip("() "), cell.next_state.strip("() ")
        lines += ["  reg state;", f"  always @(posedge {clock}) state <= {data};"]
        for pin in cell.outputs:
            true = pin.function.strip("() ") == cell.state[0]
            lines.append(f"  assign {pin.name} = {'state' if true else '~state'};")
    else:
        gate = library.clock_gate
        if gate is None or gate.cell.name != cell.name:
            raise KeyError(cell.name)
        open_when = " | ".join([gate.enable, *(pin for pin in gate.low if pin in names)])
        lines += [
            "  reg open;",
            f"  always @* if (!{gate.clock}) open = {open_when};",
            f"  assign {gate.output} = {gate.clock} & open;",
        ]
    return [*lines, "endmodule"]
