"""Baselines as a plain Verilog writer would put them: ``*`` and ``+``, nothing shaped for cells.

The same shape and registers as a GEMM core's (operands, accumulators), a column a module, and no
handshake: what is left out favours the baseline. Yosys makes the multipliers, with and without its
Booth generator, and every recipe of :mod:`flows.recipes` is tried, as on everything else.
"""

from __future__ import annotations


def plain_gemm(
    name: str,
    *,
    weight_bits: int,
    ternary: bool = False,
    activation_bits: int = 8,
    m: int = 2,
    n: int = 64,
    k: int = 16,
    accumulator_bits: int = 32,
    registers: int = 0,
) -> str:
    """Verilog of a signed multiplier tree with accumulators.

    Args:
        name: of the top module.
        weight_bits: bits of a weight; one bit counts as plus or minus one (bipolar).
        ternary: two bits a weight, ``{negative, nonzero}``, selected and added.
        activation_bits, m, n, k: as in a GEMM core's specification.
        accumulator_bits: of every output.
        registers: 0 or 1, between the step's sum and the accumulator.
    """
    bits = 2 if ternary else weight_bits
    term_bits = activation_bits + (1 if ternary or weight_bits == 1 else weight_bits)
    sum_bits = term_bits + (k - 1).bit_length()
    lines = [
        f"module {name}_column (input clk, load, first, input [{m * k * activation_bits - 1}:0] a,"
        f" input [{k * bits - 1}:0] w_in, output [{m * accumulator_bits - 1}:0] o);",
        f"  reg [{k * bits - 1}:0] w;",
        "  always @(posedge clk) if (load) w <= w_in;",
    ]
    for row in range(m):
        for lane in range(k):
            low = (row * k + lane) * activation_bits
            value = f"a_{row}_{lane}"
            if ternary:
                term = f"w[{2 * lane}] ? (w[{2 * lane + 1}] ? -{value} : {value}) : 0"
            elif weight_bits == 1:
                term = f"w[{lane}] ? {value} : -{value}"
            else:
                term = f"{value} * $signed(w[{(lane + 1) * bits - 1}:{lane * bits}])"
            lines += [
                f"  wire signed [{activation_bits - 1}:0] {value} ="
                f" a[{low + activation_bits - 1}:{low}];",
                f"  wire signed [{term_bits - 1}:0] t_{row}_{lane} = {term};",
            ]
        terms = " + ".join(f"t_{row}_{lane}" for lane in range(k))
        lines.append(f"  wire signed [{sum_bits - 1}:0] sum_{row} = {terms};")
        step = f"sum_{row}"
        start = "first"
        if registers:
            step, start = f"held_{row}", "begun"
            lines.append(f"  reg signed [{sum_bits - 1}:0] held_{row};")
            lines.append(f"  always @(posedge clk) held_{row} <= sum_{row};")
        lines += [
            f"  reg signed [{accumulator_bits - 1}:0] acc_{row};",
            f"  always @(posedge clk) acc_{row} <= ({start} ? 0 : acc_{row}) + {step};",
            f"  assign o[{(row + 1) * accumulator_bits - 1}:{row * accumulator_bits}] = acc_{row};",
        ]
    if registers:
        lines.append("  reg begun;\n  always @(posedge clk) begun <= first;")
    lines += [
        "endmodule",
        f"module {name} (input clk, load, first, input [{m * k * activation_bits - 1}:0] a_in,"
        f" input [{n * k * bits - 1}:0] w, output [{n * m * accumulator_bits - 1}:0] o);",
        f"  reg [{m * k * activation_bits - 1}:0] a;",
        "  always @(posedge clk) if (load) a <= a_in;",
    ]
    width, out = k * bits, m * accumulator_bits
    for column in range(n):
        lines.append(
            f"  {name}_column column_{column} (.clk(clk), .load(load), .first(first), .a(a),"
            f" .w_in(w[{(column + 1) * width - 1}:{column * width}]),"
            f" .o(o[{(column + 1) * out - 1}:{column * out}]));"
        )
    return "\n".join([*lines, "endmodule"]) + "\n"
