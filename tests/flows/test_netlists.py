"""Mapped and repaired netlists of whole cores against their golden models, in simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import Technology
from flows.command import synthesize_spec
from flows.models import GUARD
from hw.block import spec_from_dict
from sim.compiled import check_verilog

SPECS: dict[str, dict[str, Any]] = {
    "lut_serial": {
        "block": "lut_core",
        "tile": {"m": 2, "n": 2, "k": 3},
        "activations": {"bits": 4},
        "weights": {"encoding": "unsigned", "max_bits": 3},
        "pipeline": {"front": 1, "heap": 1},
        "addend": True,
        "max_k": 9,
    },
    "lut_floats": {
        "block": "lut_core",
        "tile": {"m": 2, "n": 1, "k": 3},
        "activations": {"format": "fp8_e4m3", "bits": 5},
        "weights": {"encoding": "unsigned", "max_bits": 2},
        "pipeline": {"front": 2, "heap": 0},
        "max_k": 9,
    },
    "mac": {
        "block": "mac_core",
        "tile": {"m": 2, "n": 2, "k": 3},
        "activations": {"bits": 5},
        "weights": {"bits": 3},
        "max_k": 9,
    },
}


def netlist_of(name: str, file: Path, liberty: Path | None = None) -> tuple[Any, str, Any]:
    """A specification, its netlist for a clock that needs repair, and the report."""
    spec = spec_from_dict({"name": name, **SPECS[name]})
    slow = synthesize_spec(spec, liberty=liberty, objective="area", effort="fast")
    report = synthesize_spec(
        spec,
        liberty=liberty,
        clock_ns=0.75 * slow.delay_ns,
        effort="fast",
        netlist=file,
    )
    assert report.delay_ns < slow.delay_ns
    return spec, f"`define {GUARD}\n" + file.read_text(), report


@pytest.mark.parametrize("name", SPECS)
def test_a_repaired_netlist_is_its_golden(name: str, tmp_path: Path) -> None:
    spec, text, _ = netlist_of(name, tmp_path / "mapped.v")
    verdict = check_verilog(spec, text)
    assert verdict.passed, verdict.failure
    # One wrong gate is seen.
    line = next(line for line in text.splitlines() if line.lstrip().startswith(("XOR2", "XNOR2")))
    kind = line.split()[0]
    other = kind.replace("XNOR2", "XOR2") if kind.startswith("XN") else "XN" + kind[1:]
    wrong = text.replace(line, line.replace(kind, other))
    if f"module {other} " not in wrong:
        table = {"XOR2": "4'h6", "XNOR2": "4'h9"}[other.split("_")[0]]
        wrong += (
            f"module {other} (input A, B, output Y);\n  wire [3:0] t = {table};\n"
            "  assign Y = t[{B, A}];\nendmodule\n"
        )
    assert not check_verilog(spec, wrong).passed


def test_a_netlist_in_a_real_library_is_its_golden(liberty_file: Path, tmp_path: Path) -> None:
    spec, text, report = netlist_of("lut_serial", tmp_path / "mapped.v", liberty_file)
    full = Technology.liberty(liberty_file).library().full_adder
    assert full is not None
    assert report.full_adders > 0
    assert f"module {full.cell.name} (" in text
    verdict = check_verilog(spec, text)
    assert verdict.passed, verdict.failure
