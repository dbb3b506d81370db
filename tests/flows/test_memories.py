"""Memories leave a design before it is mapped, and are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import FlowError, Technology, memories, synthesize
from hw.lib.memory import LIBRARY

TOP = """
module top(input clk, en, we, input [2:0] addr, input [5:0] x, output reg [5:0] y);
  wire [5:0] word;
  rtlgen_ram #(
    .ADDRESS(32'd3),
    .DEPTH(32'd8),
    .WIDTH(32'd6)
  ) array (
    .addr(addr), .clk(clk), .din(x ^ 6'd21), .dout(word), .en(en), .we(we)
  );
  always @(posedge clk) y <= word + x;
endmodule
"""


def test_pins_of_a_memory_become_ports() -> None:
    texts, found = memories.leave_out([*LIBRARY, TOP], "top")
    assert found == (("array", 8, 6),)
    (text,) = [item for item in texts if "module top" in item]
    assert "rtlgen_ram" not in "".join(texts)
    for port in ("input [5:0] array__dout", "output [5:0] array__din", "output [2:0] array__addr"):
        assert port in text


def test_a_design_without_one_is_left_as_it_is() -> None:
    plain = "module top(input a, output y); assign y = ~a; endmodule\n"
    assert memories.leave_out([plain], "top") == ([plain], ())


def test_a_memory_below_the_top_is_refused() -> None:
    above = (
        "module above(input clk, en, we, input [2:0] addr, input [5:0] x, output [5:0] y);\n"
        "  top below(.clk(clk), .en(en), .we(we), .addr(addr), .x(x), .y(y));\nendmodule\n"
    )
    with pytest.raises(FlowError, match="a memory must be in the top module above, not top/array"):
        memories.leave_out([*LIBRARY, TOP, above], "above")


def test_synthesis_names_what_it_leaves_out(tmp_path: Path) -> None:
    file = tmp_path / "top.v"
    file.write_text("\n".join([*LIBRARY, TOP]))
    report = synthesize(file, "top", technology=Technology.embedded(), effort="fast", jobs=1)
    assert report.left_out == (("array", 8, 6),)
    assert report.flip_flops == 6
    assert "NOT INCLUDED                8 words of 6 bits: the memory array" in report.table()
