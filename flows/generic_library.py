"""The embedded library: ``data/generic.lib`` from one table of cells.

Areas are NAND2 equivalents by the usual count of a row-based layout: a static CMOS cell is as wide
as its transistor pairs (an n and a p transistor on one gate) and one more for its border, so a
NAND2 is 2 + 1 = 3 units, an inverter 2/3, a NAND3 4/3, an XOR2 of five pairs 2, a full adder of
28 transistors 5. A strength of ``k`` has ``k`` fingers for each transistor of its output stage.

Delays are logical effort (I. Sutherland, B. Sproull, D. Harris, "Logical Effort", 1999): a cell of
strength ``k`` drives ``load`` in ``τ · (parasitic + load / k)``, with loads in unit inverter
inputs, here of 1 fF; its pins load their drivers by ``effort · k``. τ is set to a nominal 5 ps, so
that an inverter of fan-out four takes 25 ps. Slews do not change delays.

``python -m flows.generic_library`` writes the file anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

TAU_NS = 0.005
UNIT_FF = 1.0
LOAD_PER_STRENGTH = 40.0
# Linear tables would do with two entries; ABC's delay-driven mapper refuses those.
_LOADS = (0.0, 10.0, 40.0)
_SLEWS = (0.001, 0.02, 0.2)

FILE = Path(__file__).parent / "data" / "generic.lib"


@dataclass(frozen=True)
class Gate:
    """A combinational cell.

    Attributes:
        pairs: transistor pairs at strength 1; ``last`` of them in the output stage.
        efforts: logical effort by input.
        outputs: ``{pin: (function, parasitic delay in τ)}``.
        sense: unateness of all arcs: 1, −1 or 0.
    """

    name: str
    pairs: int
    last: int
    efforts: dict[str, float]
    outputs: dict[str, tuple[str, float]]
    sense: int
    strengths: tuple[int, ...] = (1, 2, 4)


def _simple(
    name: str, function: str, effort: float, parasitic: float, *, pairs: int | None = None
) -> Gate:
    inputs = sorted({c for c in function if c.isalpha()})
    return Gate(
        name,
        pairs or len(inputs),
        pairs or len(inputs),
        dict.fromkeys(inputs, effort),
        {"Y": (function, parasitic)},
        -1,
    )


def _buffered(name: str, function: str, effort: float, parasitic: float, first: int) -> Gate:
    inputs = sorted({c for c in function if c.isalpha()})
    return Gate(
        name,
        first + 1,
        1,
        dict.fromkeys(inputs, effort),
        {"Y": (function, parasitic)},
        1,
        (1, 2, 4),
    )


GATES = (
    Gate("INV", 1, 1, {"A": 1.0}, {"Y": ("!A", 1.0)}, -1, (1, 2, 4, 8)),
    Gate("BUF", 2, 1, {"A": 1.0}, {"Y": ("A", 3.0)}, 1, (1, 2, 4, 8, 16)),
    _simple("NAND2", "!(A&B)", 4 / 3, 2.0),
    _simple("NAND3", "!(A&B&C)", 5 / 3, 3.0),
    _simple("NAND4", "!(A&B&C&D)", 2.0, 4.0),
    _simple("NOR2", "!(A|B)", 5 / 3, 2.0),
    _simple("NOR3", "!(A|B|C)", 7 / 3, 3.0),
    _simple("NOR4", "!(A|B|C|D)", 3.0, 4.0),
    _buffered("AND2", "A&B", 4 / 3, 4.0, 2),
    _buffered("AND3", "A&B&C", 5 / 3, 5.0, 3),
    _buffered("AND4", "A&B&C&D", 2.0, 6.0, 4),
    _buffered("OR2", "A|B", 5 / 3, 4.0, 2),
    _buffered("OR3", "A|B|C", 7 / 3, 5.0, 3),
    _buffered("OR4", "A|B|C|D", 3.0, 6.0, 4),
    _simple("AOI21", "!((A&B)|C)", 2.0, 7 / 3),
    _simple("AOI22", "!((A&B)|(C&D))", 2.0, 4.0),
    _simple("AOI211", "!((A&B)|C|D)", 8 / 3, 11 / 3),
    _simple("AOI221", "!((A&B)|(C&D)|E)", 8 / 3, 16 / 3),
    _simple("AOI222", "!((A&B)|(C&D)|(E&F))", 8 / 3, 6.0),
    _simple("OAI21", "!((A|B)&C)", 2.0, 7 / 3),
    _simple("OAI22", "!((A|B)&(C|D))", 2.0, 4.0),
    _simple("OAI211", "!((A|B)&C&D)", 2.0, 11 / 3),
    _simple("OAI221", "!((A|B)&(C|D)&E)", 7 / 3, 16 / 3),
    _simple("OAI222", "!((A|B)&(C|D)&(E|F))", 7 / 3, 6.0),
    Gate("XOR2", 5, 3, {"A": 3.0, "B": 3.0}, {"Y": ("A^B", 5.0)}, 0, (1, 2)),
    Gate("XNOR2", 5, 3, {"A": 3.0, "B": 3.0}, {"Y": ("!(A^B)", 5.0)}, 0, (1, 2)),
    Gate("MUX2", 6, 1, {"A": 2.0, "B": 2.0, "S": 3.0}, {"Y": ("(A&!S)|(B&S)", 6.0)}, 0, (1, 2)),
    Gate("HA", 8, 2, {"A": 4.0, "B": 4.0}, {"S": ("A^B", 6.0), "CO": ("A&B", 5.0)}, 0, (1,)),
    # The mirror adder with its two output inverters; the carry is early, the sum waits for it.
    Gate(
        "FA",
        14,
        2,
        {"A": 4.0, "B": 4.0, "CI": 3.0},
        {"S": ("A^B^CI", 17.0), "CO": ("(A&B)|(CI&(A|B))", 9.0)},
        0,
        (1, 2),
    ),
)


@dataclass(frozen=True)
class State:
    """Registers: pairs of a flip-flop with both outputs, and of a latch with an AND."""

    flip_flop_pairs: int = 16
    clock_gate_pairs: int = 12
    clock_to_output: float = 12.0
    setup: float = 6.0
    data_effort: float = 4 / 3
    clock_effort: float = 2.0
    strengths: tuple[int, ...] = field(default=(1, 2))


def _area(pairs: int, last: int, strength: int) -> str:
    return f"{(pairs + (strength - 1) * last + 1) / 3:.6g}"


def _list(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _table(kind: str, parasitic: float, strength: int) -> str:
    row = ",".join(
        f"{TAU_NS * (parasitic + load / (strength * UNIT_FF)):.6g}"
        for load in (strength * item for item in _LOADS)
    )
    loads = ",".join(f"{strength * item:g}" for item in _LOADS)
    return f'        {kind}(delay) {{ index_2("{loads}"); values("{row}", "{row}", "{row}"); }}'


def _arc(related: str, parasitic: float, strength: int, sense: int, kind: str = "") -> list[str]:
    text = {1: "positive_unate", -1: "negative_unate", 0: "non_unate"}[sense]
    return [
        f'      timing() {{ related_pin : "{related}"; timing_sense : {text};',
        *([f"        timing_type : {kind};"] if kind else []),
        _table("cell_rise", parasitic, strength),
        _table("cell_fall", parasitic, strength),
        _table("rise_transition", parasitic, strength),
        _table("fall_transition", parasitic, strength),
        "      }",
    ]


def _setup(clock: str, tau: float) -> list[str]:
    value = f"{tau * TAU_NS:.6g}"
    return [
        f'      timing() {{ related_pin : "{clock}"; timing_type : setup_rising;',
        f'        rise_constraint(scalar) {{ values("{value}"); }}',
        f'        fall_constraint(scalar) {{ values("{value}"); }}',
        "      }",
    ]


def text() -> str:
    """The Liberty text."""
    doc = (__doc__ or "").partition("\n\n``python")[0]
    lines = [
        "/* " + "\n   ".join(line.rstrip() for line in doc.splitlines()) + "\n*/",
        "library(generic) {",
        "  delay_model : table_lookup;",
        '  time_unit : "1ns";',
        '  voltage_unit : "1V";',
        '  current_unit : "1mA";',
        '  leakage_power_unit : "1nW";',
        '  pulling_resistance_unit : "1kohm";',
        "  capacitive_load_unit(1,ff);",
        "  nom_process : 1; nom_temperature : 25; nom_voltage : 1;",
        "  lu_table_template(delay) {",
        "    variable_1 : input_net_transition; variable_2 : total_output_net_capacitance;",
        f'    index_1("{_list(_SLEWS)}"); index_2("{_list(_LOADS)}");',
        "  }",
    ]
    for gate in GATES:
        for strength in gate.strengths:
            lines += [
                f"  cell({gate.name}_X{strength}) {{ area : "
                f"{_area(gate.pairs, gate.last, strength)};"
            ]
            whole = gate.last == gate.pairs
            # Behind an inner stage a pin does not grow with the output's strength, the delay does.
            inner = 1 if whole else strength**0.5
            for pin, effort in gate.efforts.items():
                value = effort * (strength if whole else inner)
                lines.append(f"    pin({pin}) {{ direction : input; capacitance : {value:.6g}; }}")
            for pin, (function, parasitic) in gate.outputs.items():
                lines += [
                    f'    pin({pin}) {{ direction : output; function : "{function}";',
                    f"      max_capacitance : {LOAD_PER_STRENGTH * strength:g};",
                ]
                delay = parasitic if whole else parasitic - 1 + inner
                for related in gate.efforts:
                    lines += _arc(related, delay, strength, gate.sense)
                lines.append("    }")
            lines.append("  }")
    state = State()
    for strength in state.strengths:
        lines += [
            f"  cell(DFF_X{strength}) {{ area : {_area(state.flip_flop_pairs, 2, strength)};",
            '    ff(IQ,IQN) { next_state : "D"; clocked_on : "CK"; }',
            f"    pin(D) {{ direction : input; capacitance : {state.data_effort:.6g};",
            *_setup("CK", state.setup),
            "    }",
            f"    pin(CK) {{ direction : input; capacitance : {state.clock_effort:.6g};"
            " clock : true; }",
        ]
        for pin, function in (("Q", "IQ"), ("QN", "IQN")):
            lines += [
                f'    pin({pin}) {{ direction : output; function : "{function}";',
                f"      max_capacitance : {LOAD_PER_STRENGTH * strength:g};",
                *_arc("CK", state.clock_to_output, strength, 0, "rising_edge"),
                "    }",
            ]
        lines.append("  }")
    lines += [
        f"  cell(CLKGATE_X1) {{ area : {_area(state.clock_gate_pairs, 1, 1)};",
        '    clock_gating_integrated_cell : "latch_posedge";',
        f"    pin(E) {{ direction : input; capacitance : {state.data_effort:.6g};"
        " clock_gate_enable_pin : true;",
        *_setup("CK", state.setup),
        "    }",
        f"    pin(CK) {{ direction : input; capacitance : {state.clock_effort:.6g};"
        " clock : true; clock_gate_clock_pin : true; }",
        "    pin(GCK) { direction : output; clock_gate_out_pin : true;",
        f"      max_capacitance : {LOAD_PER_STRENGTH:g};",
        "    }",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
