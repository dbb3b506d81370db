"""Lint of emitted Verilog: accepted as shipped, and what is wrong is said."""

from __future__ import annotations

from hw.blocks.mac_core.spec import MacCoreSpec
from sim.lint import lint

GOOD = """module small_mac(input clk, input rst, input [1:0] a, output reg [1:0] y);
  always @(posedge clk) if (rst) y <= 0; else y <= a;
endmodule
"""


def verdicts(spec: MacCoreSpec, text: str) -> dict[str, tuple[bool, str]]:
    return {item.tool: (item.accepted, item.words) for item in lint(spec, text)}


def test_a_clean_text_is_accepted(spec: MacCoreSpec) -> None:
    assert all(accepted for accepted, _ in verdicts(spec, GOOD).values())


def test_verilator_complains_of_an_undriven_output(spec: MacCoreSpec) -> None:
    found = verdicts(
        spec, GOOD.replace("else y <= a;", "else ;").replace("output reg", "output reg")
    )
    broken = verdicts(spec, GOOD.replace("output reg [1:0] y", "output reg [1:0] y, output x"))
    assert not broken["verilator"][0]
    assert "UNDRIVEN" in broken["verilator"][1]
    assert found["verilator"][0]  # `a` unused is waived: see the waivers


def test_yosys_complains_of_two_drivers_and_of_a_missing_module(spec: MacCoreSpec) -> None:
    twice = GOOD.replace("endmodule", "  wire w; assign w = a[0]; assign w = a[1];\nendmodule")
    accepted, words = verdicts(spec, twice)["yosys"]
    assert not accepted
    assert "conflicting drivers" in words
    missing = GOOD.replace("endmodule", "  absent one(clk);\nendmodule")
    accepted, words = verdicts(spec, missing)["yosys"]
    assert not accepted
    assert "absent" in words


def test_no_path_in_the_words(spec: MacCoreSpec) -> None:
    broken = verdicts(spec, GOOD.replace("output reg [1:0] y", "output reg [1:0] y, output x"))
    assert "%Warning-UNDRIVEN: small_mac.v:1" in broken["verilator"][1]
