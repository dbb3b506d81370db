"""A memory of one port: behavioural Verilog that tools infer a RAM from, or a flow may replace.

``rtlgen_ram`` is one small module with parameters, as the full adders of :mod:`hw.lib.heap` are: an
FPGA tool maps it to its block RAM, an ASIC flow puts a macro of that shape in its place. The area
flow of this project takes its instances out of the design, with their pins as ports, and says so.
"""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Instance, Signal, Value

LIBRARY = (
    """\
`ifndef RTLGEN_RAM
`define RTLGEN_RAM
// DEPTH words of WIDTH bits behind one synchronous port. An access writes, or reads into dout,
// which holds the word until the next read. Words are undefined before they are written.
module rtlgen_ram #(parameter WIDTH = 1, parameter DEPTH = 2, parameter ADDRESS = 1) (
  input                    clk,
  input                    en,
  input                    we,
  input      [ADDRESS-1:0] addr,
  input      [WIDTH-1:0]   din,
  output reg [WIDTH-1:0]   dout
);
  reg [WIDTH-1:0] words [0:DEPTH-1];
  always @(posedge clk)
    if (en) begin
      if (we) words[addr] <= din;
      else dout <= words[addr];
    end
endmodule
`endif
""",
)


def ram(
    *, depth: int, enable: Value, write: Value, address: Value, data: Value, out: Signal
) -> Instance:
    """An instance of ``rtlgen_ram`` with words as wide as ``data``; needs :data:`LIBRARY`."""
    if len(out) != len(data) or not 1 < depth <= 1 << len(address):
        raise ValueError(
            f"depth: must lie in [2, {1 << len(address)}] and words be as wide as out, got {depth} "
            f"words of {len(data)} bits and {len(out)} bits out"
        )
    return Instance(
        "rtlgen_ram",
        p_WIDTH=len(data),
        p_DEPTH=depth,
        p_ADDRESS=len(address),
        i_clk=ClockSignal(),
        i_en=enable,
        i_we=write,
        i_addr=address,
        i_din=data,
        o_dout=out,
    )
