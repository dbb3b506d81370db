"""The recipes that every design goes through; the best result is kept for each module.

A recipe says how full adders and carry-propagate additions are mapped and which ABC script maps the
rest. No recipe belongs to a design: all of them are tried on every module of every design that is
compared, and which one won is part of the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flows.liberty import Adder, Library

DATA = Path(__file__).parent / "data"

SCRIPTS = {
    # Smallest area met in practice: area-flow mapping behind structural choices.
    "amap": "strash; ifraig; scorr; dc2; dc2; dch -f; amap -m",
    # The same on the structure as it was written: good where the RTL is shaped for the cells.
    "amap-plain": "strash; ifraig; amap -m",
    "amap-dc2": "strash; ifraig; scorr; dc2; strash; amap -m -F 3 -A 8",
    # Another mapper, the one of Yosys' own default script.
    "nf": "strash; &get -n; &fraig -x; &put; scorr; dc2; strash; &get -n; &dch -f; &nf; &put",
    # The same on the structure as it was written.
    "nf-plain": "strash; &get -n; &dch -f; &nf; &put",
    # Delay-minded: load-driven mapping, then buffers and strengths.
    "map": "strash; ifraig; scorr; dc2; fraig; rewrite; rewrite -z; dch -f; map -a -B 0.9; topo",
    "speed": "strash; ifraig; scorr; dc2; strash; dch -f; map -B 0.9; topo; dnsize",
    "speed-plain": "strash; ifraig; dch -f; map -B 0.9 -D 1; topo; dnsize",
}
"""ABC scripts by name."""

CARRIES = ("hard", "ripple", "select", "prefix")
"""Forms of carry-propagate additions: files ``carry_<form>.v``."""

TREES = ("flip", "hard", "soft")
"""Full adders of trees: library cells with inputs and outputs inverted where that saves inverters
(a full adder is self-dual), library cells as written, or plain logic for ABC."""


@dataclass(frozen=True, order=True)
class Recipe:
    """One way to map a module.

    Attributes:
        tree: one of :data:`TREES`.
        carry: one of :data:`CARRIES`.
        script: a key of :data:`SCRIPTS`.
        booth: ``*`` by Yosys' Booth generator.
    """

    tree: str
    carry: str
    script: str
    booth: bool = False

    @property
    def name(self) -> str:
        return f"{self.tree}/{self.carry}/{self.script}" + ("/booth" if self.booth else "")


def _product(trees: str, carries: str, scripts: str) -> tuple[Recipe, ...]:
    return tuple(
        Recipe(tree, carry, script)
        for tree in trees.split()
        for carry in carries.split()
        for script in scripts.split()
    )


EFFORTS: dict[str, tuple[Recipe, ...]] = {
    "fast": (
        *_product("hard", "hard select", "nf-plain"),
        *_product("flip", "hard", "amap"),
    ),
    "normal": (
        *_product("flip hard", "hard ripple select", "amap nf-plain"),
        *_product("hard", "prefix", "nf-plain speed"),
        *_product("soft", "ripple", "amap"),
    ),
    "high": (
        *_product("flip", " ".join(CARRIES), " ".join(SCRIPTS)),
        *_product("hard", " ".join(CARRIES), "amap amap-plain nf nf-plain speed"),
        *_product("soft", "ripple select prefix", "amap amap-plain nf speed"),
    ),
}
"""The recipes of every effort, without Booth's; those double where a design holds a ``*``."""


def final_adders(full: Adder | None, tree: str) -> str:
    """Verilog for ``techmap``: what the one-bit full adders of :mod:`flows.adders` become."""
    plain_sum = "assign s = a ^ b ^ c;"
    plain_carry = "assign co = (a & b) | (c & (a ^ b));"
    if full is None or tree == "soft":
        body = inverted = plain_sum + " " + plain_carry
    else:
        (a, b, c) = full.inputs
        body = (
            f"{full.cell.name} cell (.{a}(a), .{b}(b), .{c}(c), .{full.sum}(s), .{full.carry}(co));"
        )
        inverted = (
            f"wire si, ki; {full.cell.name} cell (.{a}(~a), .{b}(~b), .{c}(~c), "
            f".{full.sum}(si), .{full.carry}(ki)); assign s = ~si; assign co = ~ki;"
        )
    modules = {
        "rtlgen_fa1": body,
        "rtlgen_fa1_inverted": inverted,
        "rtlgen_fa1_sum": plain_sum + " assign co = 1'bx;",
        "rtlgen_fa1_carry": plain_carry + " assign s = 1'bx;",
    }
    return "".join(
        f'(* techmap_celltype = "{name}" *)\n'
        f"module rtlgen_final_{name} (input a, b, c, output s, co);\n  {text}\nendmodule\n"
        for name, text in modules.items()
    )


BOXES = "".join(
    f"(* blackbox *) module {name} (input a, b, c, output s, co); endmodule\n"
    for name in ("rtlgen_fa1", "rtlgen_fa1_inverted", "rtlgen_fa1_sum", "rtlgen_fa1_carry")
)
"""One-bit full adders as boxes that optimisation leaves alone."""


def minimum_gated(library: Library) -> int:
    """Flip-flops that must share an enable for a clock gate: as many as save its area, at least 3.

    An enable without a gate is a multiplexer a bit, about two thirds of a multiplexer's area more
    than the data's own logic.
    """
    gate = library.clock_gate
    if gate is None:
        return 0
    mux = library.find(3, 0b11001010) or library.find(3, 0b10101100) or library.find(3, 0b10111000)
    each = mux.area if mux else 2.0 * library.inverter.area
    return max(3, int(gate.cell.area / each) + 1)
