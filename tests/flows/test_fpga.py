"""Mapping onto FPGA families."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import FlowError, fpga, yosys
from rtl_gen.errors import InputError


@pytest.mark.parametrize("target", ["ecp5", "ice40", "xilinx"])
def test_columns_count_as_often_as_they_are_there(target: str, columns: Path) -> None:
    report = fpga(columns, "columns", target)
    assert report.registers == 6 + 4 * 6
    assert report.instances["column"] == 4
    assert 40 < report.luts < 300
    assert report.block_rams == report.dsps == 0
    assert report.as_dict()["target"] == target
    assert "LUTs" in report.table()


def test_memories_become_block_ram_and_products_dsp(tmp_path: Path) -> None:
    file = tmp_path / "top.v"
    file.write_text(
        "module top(input clk, we, input [8:0] a, input [15:0] d, output reg [15:0] q,"
        " input signed [15:0] x, y, output signed [31:0] p);"
        " reg [15:0] memory [0:511];"
        " always @(posedge clk) begin if (we) memory[a] <= d; else q <= memory[a]; end"
        " assign p = x * y; endmodule"
    )
    report = fpga(file, "top", "ecp5")
    assert report.block_rams == 1
    assert report.dsps == 1


def test_a_crash_of_abc9_is_gone_around_and_noted(
    columns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = yosys.run

    def crashing(commands, outputs, **options):
        commands = list(commands)
        if any(line.startswith("synth_") and "-noabc9" not in line for line in commands):
            raise FlowError("yosys", "killed by signal 11")
        return run(commands, outputs, **options)

    monkeypatch.setattr("flows.yosys.run", crashing)
    report = fpga(columns, "columns", "ecp5")
    assert report.registers == 30
    assert len(report.notes) == 1
    assert "-noabc9" in report.notes[0]


def test_unknown_target(columns: Path) -> None:
    with pytest.raises(InputError, match=r"target: must be one of ecp5, ice40, xilinx, got 'x'"):
        fpga(columns, "columns", "x")
