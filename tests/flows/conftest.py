"""Small designs and, where it is to be found, a real cell library."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["nangate45_typ", "sky130hd_tt"])
def liberty_file(request: pytest.FixtureRequest) -> Path:
    """A library from $RTLGEN_LIBERTY_DIR or ../shared/liberty; skips if it is not there."""
    folder = Path(os.environ.get("RTLGEN_LIBERTY_DIR") or ROOT.parent / "shared" / "liberty")
    file = folder / f"{request.param}.lib.gz"
    if not file.is_file():
        pytest.skip(f"no {file.name} in $RTLGEN_LIBERTY_DIR or ../shared/liberty")
    return file


FULL_ADDER = """
module rtlgen_fa #(parameter WIDTH = 1) (input [WIDTH-1:0] a, b, c, output [WIDTH-1:0] s, co);
  assign s = a ^ b ^ c;
  assign co = (a & b) | (c & (a ^ b));
endmodule
module rtlgen_add #(parameter WIDTH = 1)
  (input [WIDTH-1:0] a, b, input ci, output [WIDTH-1:0] s, output co);
  assign {co, s} = {1'b0, a} + {1'b0, b} + {{(WIDTH){1'b0}}, ci};
endmodule
module rtlgen_step #(parameter WIDTH = 1)
  (input [WIDTH-1:0] a, input up, ci, output [WIDTH-1:0] s);
  assign s = a + {(WIDTH){~up}} + {{(WIDTH){1'b0}}, ci};
endmodule
"""


@pytest.fixture
def columns(tmp_path: Path) -> Path:
    """Four equal columns behind one register: a tree, an addition, gated accumulators."""
    file = tmp_path / "columns.v"
    file.write_text(
        FULL_ADDER
        + """
module column (input clk, input en, input [5:0] t, input [5:0] w, input up, output [5:0] o);
  reg [5:0] acc;
  wire [5:0] s, co, total, stepped;
  wire [5:0] x = ~((t & w) | ({t[2:0], t[5:3]} & ~w));
  rtlgen_fa #(.WIDTH(6)) tree (.a(x), .b({w[0], x[5:1]}), .c(acc), .s(s), .co(co));
  rtlgen_add #(.WIDTH(6)) add (.a(s), .b({co[4:0], 1'b0}), .ci(1'b0), .s(total), .co());
  rtlgen_step #(.WIDTH(6)) step (.a(total), .up(up), .ci(t[0]), .s(stepped));
  always @(posedge clk) if (en) acc <= stepped;
  assign o = ~acc;
endmodule
module columns (input clk, input rst, input en, up, input [5:0] t, input [23:0] w,
                output [23:0] o);
  reg [5:0] table_q;
  always @(posedge clk) if (rst) table_q <= 6'd0; else table_q <= t + 6'd5;
  genvar i;
  generate for (i = 0; i < 4; i = i + 1) begin : columns
    column c (.clk(clk), .en(en), .t(table_q), .w(w[6*i+:6]), .up(up), .o(o[6*i+:6]));
  end endgenerate
endmodule
"""
    )
    return file
