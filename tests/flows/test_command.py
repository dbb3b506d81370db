"""The verb ``synth``: its report as text and as JSON, its file, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flows.command import synth

SPEC = """\
block: lut_core
name: slim
tile: {m: 1, n: 2, k: 2}
activations: {bits: 3}
weights: {max_bits: 1}
max_k: 4
"""


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    file = tmp_path / "slim.yaml"
    file.write_text(SPEC)
    return file


def run(*arguments: object) -> Result:
    return CliRunner().invoke(synth, [str(argument) for argument in arguments])


def test_the_report_is_the_same_as_text_as_json_and_in_a_file(
    spec_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "reports" / "slim.json"
    result = run(spec_file, "--effort", "fast", "--json", "-o", out)
    assert result.exit_code == 0
    assert result.stderr == ""
    data = json.loads(result.stdout)
    assert json.loads(out.read_text(encoding="utf-8")) == data
    netlist = tmp_path / "netlists" / "slim.v"
    assert run(spec_file, "--effort", "fast", "--netlist", netlist).exit_code == 0
    assert "module slim" in netlist.read_text(encoding="utf-8")
    assert data["area_unit"] == "NAND2"
    assert data["area"] == pytest.approx(sum(part["area"] for part in data["by_block"]))
    assert data["area"] == pytest.approx(data["by_block"][0]["area_total"])
    assert data["area"] == pytest.approx(sum(data["cell_areas"].values()))
    assert data["cells"] == sum(data["cell_counts"].values())
    assert data["macs_per_cycle"] == 4
    assert data["area_per_mac"] == pytest.approx(data["area"] / 4)
    text = run(spec_file, "--effort", "fast").stdout
    for words in (f"{data['area']:,.1f} NAND2", "flip-flops", "critical delay", "slim_column"):
        assert words in text, words


def test_an_fpga_report_counts_by_sub_block(spec_file: Path) -> None:
    result = run(spec_file, "--target", "ice40", "--json")
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    parts = data["by_module"]
    luts = sum(parts[name].get("SB_LUT4", 0) * times for name, times in data["instances"].items())
    assert data["luts"] == luts > 0
    assert {"registers", "block_rams", "dsps"} <= data.keys()
    text = run(spec_file, "--target", "ice40").stdout.partition("by sub-block, each:")[2]
    for name, times in data["instances"].items():
        row = next(line.split() for line in text.splitlines() if line.split()[:1] == [name])
        assert int(row[1]) == times
        assert int(row[3].replace(",", "")) == parts[name].get("SB_LUT4", 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "ecp5", "--liberty", "x.lib"], "--target: an FPGA family has no Liberty"),
        (["--objective", "area", "--clock", "2"], "--clock: the objective area has no clock"),
        (["--liberty", "none.lib"], "none.lib: must be a Liberty file, does not exist"),
        (["--target", "stratix"], "'stratix' is not one of"),
        (["--target", "ecp5", "--netlist", "x.v"], "--netlist: an FPGA family has no cell netlist"),
        (["--netlist", "/proc/none/x.v"], "/proc/none/x.v: cannot be written, "),
        (["-o", "/proc/none/x.json"], "/proc/none/x.json: cannot be written, "),
    ],
)
def test_wrong_requests_end_in_status_2(spec_file: Path, arguments: list[str], words: str) -> None:
    result = run(spec_file, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stdout == ""


def test_a_wrong_library_leaves_no_report(spec_file: Path, tmp_path: Path) -> None:
    library, out = tmp_path / "x.lib", tmp_path / "x.json"
    library.write_text("library(x) { }")
    result = run(spec_file, "--liberty", library, "-o", out)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{library}: the library must hold a cell of each needed")
    assert not out.exists()


def test_area_in_the_banks_process_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "bank.yaml"
    file.write_text(BANK)
    data = json.loads(run(file, "--effort", "fast", "--json").stdout)
    assert data["process_factor"] == 1.5
    assert data["area_in_process"] == pytest.approx(1.5 * data["area"])
    assert "macs_per_cycle" not in data
    text = run(file, "--effort", "fast").stdout
    assert "process factor: 1.50" in text
    assert f"area in process: {1.5 * data['area']:,.2f}" in text


BANK = """
block: pim_bank
name: bank
clock_mhz: 1000.0
column_bits: 64
unit:
  arithmetic: {block: mac_core, activations: {bits: 4}, weights: {bits: 4}, max_k: 16}
  accumulators: 1
  accumulator_bits: 16
  activation: {segments: 0}
process_factor: 1.5
"""
