"""A small core that is right at a glance, and a simulator of it that all tests here share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hw.blocks.mac_core.golden import streams
from hw.blocks.mac_core.spec import MacCoreSpec
from sim.harness import Model, load
from sim.harness.compile import RUN_SHORT

CORE: dict[str, Any] = {
    "block": "mac_core",
    "name": "small_mac",
    "tile": {"m": 2, "n": 3, "k": 5},
    "activations": {"bits": 4, "signed": True},
    "weights": {"encoding": "unsigned", "bits": 3},
    "max_k": 30,
    "addend": True,
}


@pytest.fixture(scope="session")
def spec() -> MacCoreSpec:
    """Three odd dimensions, zero points and an addend: every port that a core can have."""
    return MacCoreSpec(**CORE)


@pytest.fixture(scope="session")
def behavioural() -> Callable[[MacCoreSpec], str]:
    """:func:`mac_verilog`."""
    return mac_verilog


@pytest.fixture(scope="session")
def text(spec: MacCoreSpec) -> str:
    """Verilog of the small core, written apart from the generator."""
    return mac_verilog(spec)


@pytest.fixture(scope="session")
def model(spec: MacCoreSpec, text: str) -> Iterator[Model]:
    """The small core's model."""
    with load(spec, text, effort=RUN_SHORT) as made:
        yield made


def mac_verilog(spec: MacCoreSpec) -> str:
    """Verilog of a core without extra pipeline registers; two's complement or unsigned weights."""
    widths = {item.name: item.width for item in streams(spec)}
    job = streams(spec)[0]
    tile, abits, wbits, obits = (
        spec.tile,
        spec.activations.bits,
        spec.weights.bits,
        spec.result_bits,
    )
    steps = job.fields[0].width
    accumulate = f"job_in[{job.offset('accumulate')}]" if spec.addend else "1'b0"
    sign_a = f"a[{abits} - 1]" if spec.activations.signed else "1'b0"
    sign_w = "1'b0" if spec.zero_point else f"w[{wbits} - 1]"
    zero = f"zp[n*{wbits} +: {wbits}]" if spec.zero_point else f"{wbits}'d0"
    zbase = tile.n * tile.k * wbits
    zwire = f"wire [{tile.n * wbits - 1}:0] zp = w_reg[{zbase} +: {tile.n * wbits}];"
    ports = ["input clk", "input rst"]
    for item in streams(spec):
        here, there = ("input", "output") if item.direction == "in" else ("output", "input")
        ports.append(f"{here} [{item.width - 1}:0] {item.name}__payload")
        ports.append(f"{here} {item.name}__valid")
        ports.append(f"{there} {item.name}__ready")
    addend = (
        f"$signed(i_c__payload[(m*{tile.n}+n)*{obits} +: {obits}])"
        if spec.addend
        else f"{obits}'sd0"
    )
    return f"""
module {spec.name}({", ".join(ports)});
  reg [{widths["i_a"] - 1}:0] a_reg;
  reg [{widths["i_w"] - 1}:0] w_reg;
  reg a_full, w_full, active, first, acc_job, o_full;
  reg [{steps - 1}:0] left;
  reg signed [{obits - 1}:0] acc [0:{tile.m * tile.n - 1}];
  wire [{widths["i_job"] - 1}:0] job_in = i_job__payload;
  {zwire if spec.zero_point else ""}
  wire last = left == 0;
  wire needs_c = last & acc_job;
  wire fire = active & a_full & w_full & (~o_full | o__ready)
            & (~needs_c | {"i_c__valid" if spec.addend else "1'b1"});
  wire finish = fire & last;
  assign i_job__ready = ~active | finish;
  assign i_a__ready = ~a_full | fire;
  assign i_w__ready = ~w_full | fire;
  {"assign i_c__ready = fire & needs_c;" if spec.addend else ""}
  assign o__valid = o_full;
  genvar g;
  generate for (g = 0; g < {tile.m * tile.n}; g = g + 1) begin : pack
    assign o__payload[g*{obits} +: {obits}] = acc[g];
  end endgenerate
  integer m, n, k;
  reg [{abits - 1}:0] a;
  reg [{wbits - 1}:0] w;
  reg signed [{obits - 1}:0] total;
  always @(posedge clk) begin
    a_full <= (i_a__valid & i_a__ready) | (a_full & ~fire);
    w_full <= (i_w__valid & i_w__ready) | (w_full & ~fire);
    if (i_a__valid & i_a__ready) a_reg <= i_a__payload;
    if (i_w__valid & i_w__ready) w_reg <= i_w__payload;
    if (fire) begin
      left <= left - 1;
      first <= 0;
    end
    if (finish) active <= 0;
    if (i_job__valid & i_job__ready) begin
      active <= 1;
      first <= 1;
      left <= job_in[{steps - 1}:0];
      acc_job <= {accumulate};
    end
    o_full <= finish | (o_full & ~o__ready);
    if (fire) for (m = 0; m < {tile.m}; m = m + 1) for (n = 0; n < {tile.n}; n = n + 1) begin
      total = first ? {obits}'sd0 : acc[m*{tile.n}+n];
      for (k = 0; k < {tile.k}; k = k + 1) begin
        a = a_reg[(m*{tile.k}+k)*{abits} +: {abits}];
        w = w_reg[(n*{tile.k}+k)*{wbits} +: {wbits}];
        total = total + $signed({{{{{obits}{{{sign_a}}}}}, a}})
              * ($signed({{{{{obits}{{{sign_w}}}}}, w}}) - $signed({{{obits}'d0, {zero}}}));
      end
      acc[m*{tile.n}+n] <= total + (needs_c ? {addend} : {obits}'sd0);
    end
    if (rst) begin
      a_full <= 0;
      w_full <= 0;
      active <= 0;
      o_full <= 0;
    end
  end
endmodule
"""
