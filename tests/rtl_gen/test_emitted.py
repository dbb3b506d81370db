"""Other tools accept what is emitted: Verilator with the shipped waivers, Yosys, and Icarus."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hw.block import block, blocks, spec_from_dict
from hw.errors import SpecError
from hw.spec import BlockSpec
from rtl_gen.build import build, build_files
from rtl_gen.waivers import REASONS, waiver_file
from sim.toolchain import verilator_binary, verilator_environment

TINY: dict[str, Any] = {"name": "dut", "tile": {"m": 1, "n": 2, "k": 4}, "max_k": 64}
ODD: dict[str, Any] = {"name": "dut", "tile": {"m": 3, "n": 3, "k": 5}, "max_k": 100}
LEAST: dict[str, Any] = {"name": "dut", "tile": {"m": 1, "n": 1, "k": 1}, "max_k": 1}

SPECS: dict[str, dict[str, Any]] = {
    "lut": {"block": "lut_core", **TINY},
    "lut_least": {
        "block": "lut_core",
        **LEAST,
        "weights": {"encoding": "bipolar", "max_bits": 1},
        "table": {"group": 1},
    },
    "lut_symmetric_int8": {
        "block": "lut_core",
        **ODD,
        "weights": {"encoding": "twos_complement", "max_bits": 8},
        "table": {"group": 3, "form": "symmetric", "entries": "int8"},
        "planes": 3,
        "addend": True,
    },
    "lut_ternary": {
        "block": "lut_core",
        **ODD,
        "weights": {"encoding": "ternary"},
        "pipeline": {"front": 1, "heap": 2},
        "addend": True,
    },
    "lut_base3": {
        "block": "lut_core",
        **ODD,
        "weights": {"encoding": "ternary", "packing": "base3"},
    },
    "lut_port": {"block": "lut_core", **ODD, "table": {"source": "port"}, "planes": "parallel"},
    "lut_wide": {
        "block": "lut_core",
        **ODD,
        "activations": {"bits": 16, "signed": False},
        "weights": {"encoding": "bipolar", "max_bits": 3},
    },
    "mac": {"block": "mac_core", **TINY},
    "mac_least": {
        "block": "mac_core",
        **LEAST,
        "weights": {"encoding": "bipolar", "bits": 1},
    },
    "mac_zero_points": {
        "block": "mac_core",
        **ODD,
        "weights": {"encoding": "unsigned", "bits": 4},
        "pipeline": {"front": 1, "heap": 2},
        "addend": True,
    },
    "mac_ternary": {"block": "mac_core", **ODD, "weights": {"encoding": "ternary"}},
    "mac_wide": {
        "block": "mac_core",
        **ODD,
        "activations": {"bits": 16, "signed": False},
        "weights": {"encoding": "twos_complement", "bits": 16},
    },
}


def lint(verilog: Path, waivers: Path | None) -> list[str]:
    """The rules that ``verilator --lint-only -Wall`` finds broken, one item each time."""
    command = [str(verilator_binary()), "--lint-only", "-Wall", "--top-module", "dut"]
    files = [str(file) for file in (waivers, verilog) if file is not None]
    result = subprocess.run(
        [*command, *files],
        capture_output=True,
        text=True,
        check=False,
        env=verilator_environment(),
    )
    found = re.findall(r"^%(?:Warning|Error)(?:-(\w+))?:", result.stderr, re.MULTILINE)
    assert found or result.returncode == 0, result.stderr
    return [rule for rule in found if rule]


@pytest.mark.parametrize("name", SPECS)
def test_verilator_accepts_it_with_the_shipped_waivers(tmp_path: Path, name: str) -> None:
    result = build(spec_from_dict(SPECS[name]), tmp_path)
    assert lint(result.verilog, result.waivers) == []


@pytest.fixture(scope="module")
def broken_rules(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[str]]:
    """Per specification the rules that it breaks without waivers."""
    place = tmp_path_factory.mktemp("bare")
    found = {}
    for name, data in SPECS.items():
        file = place / name / "dut.v"
        file.parent.mkdir()
        file.write_text(build_files(spec_from_dict(data))["dut.v"])
        found[name] = lint(file, None)
    return found


def test_every_waiver_is_needed(broken_rules: Mapping[str, list[str]]) -> None:
    assert {rule for rules in broken_rules.values() for rule in rules} == set(REASONS)


def test_a_waiver_covers_its_own_file_only(tmp_path: Path) -> None:
    result = build(spec_from_dict(SPECS["lut"]), tmp_path)
    other = tmp_path / "dut.v"
    other.write_text(result.verilog.read_text())
    waivers = tmp_path / "other.vlt"
    waivers.write_text(waiver_file("*another.v"))
    assert set(lint(other, waivers)) == set(lint(other, None)) != set()


def test_lint_sees_a_defect_through_the_waivers(tmp_path: Path) -> None:
    result = build(spec_from_dict(SPECS["lut"]), tmp_path)
    text = result.verilog.read_text()
    end = text.rindex("endmodule")
    result.verilog.write_text(text[:end] + "  assign never_declared = clk;\n" + text[end:])
    assert lint(result.verilog, result.waivers) == ["IMPLICIT"]


def random_spec(choice: random.Random) -> BlockSpec:
    """A small specification with every field drawn, drawn again while it breaks a rule."""
    while True:
        tile = {
            "m": choice.choice([1, 1, 2, 3]),
            "n": choice.choice([1, 2, 3]),
            "k": choice.choice([1, 2, 3, 4, 5, 8, 9]),
        }
        lut = choice.random() < 0.7
        encodings = ["unsigned", "twos_complement", "bipolar", "ternary"]
        weights = {"encoding": choice.choice(encodings)}
        weights["max_bits" if lut else "bits"] = choice.choice([1, 2, 3, 4, 8])
        data: dict[str, Any] = {
            "block": "lut_core" if lut else "mac_core",
            "name": "dut",
            "tile": tile,
            "max_k": tile["k"] * choice.choice([1, 1, 2, 3, 7, 64]),
            "addend": choice.random() < 0.4,
            "activations": {
                "bits": choice.choice([2, 3, 4, 8, 16]),
                "signed": choice.random() < 0.6,
            },
            "weights": weights,
            "pipeline": {"front": choice.choice([0, 1]), "heap": choice.choice([0, 0, 1, 2, 4])},
        }
        if lut:
            data["planes"] = choice.choice(["serial", "parallel", 2, 3])
            data["table"] = {
                "group": choice.randint(1, 6),
                "form": choice.choice(["full", "symmetric"]),
                "entries": choice.choice(["exact", "int8"]),
                "source": choice.choice(["internal", "internal", "port"]),
            }
            if weights["encoding"] == "ternary":
                weights["packing"] = choice.choice(["planes", "base3"])
        try:
            return spec_from_dict(data)
        except SpecError:
            continue


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_any_specification_builds_and_lints(tmp_path: Path, seed: int) -> None:
    choice = random.Random(seed)
    for _ in range(6):
        spec = random_spec(choice)
        result = build(spec, tmp_path)
        assert lint(result.verilog, result.waivers) == [], spec.canonical()


def broken(place: Path, name: str, forms: slice) -> list[str]:
    """Forms of a block in its sweep that break a rule of lint."""
    found = []
    for index, fields in enumerate(block(name).sweep[forms]):
        result = build(spec_from_dict({"block": name, "name": "dut", **fields}), place / str(index))
        rules = lint(result.verilog, result.waivers)
        found += [f"{fields}: {', '.join(rules)}"] if rules else []
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", list(blocks()))
def test_forms_of_a_block_lint(tmp_path: Path, name: str) -> None:
    assert broken(tmp_path, name, slice(4)) == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", list(blocks()))
def test_every_form_of_a_block_lints(tmp_path: Path, name: str) -> None:
    assert broken(tmp_path, name, slice(4, None)) == []


READ = """
import sys
from pyosys import libyosys as ys
design = ys.Design()
ys.run_pass(f"read_verilog -defer {sys.argv[1]}", design)
ys.run_pass("hierarchy -check -top dut", design)
ys.run_pass("proc", design)
ys.run_pass("check -assert -initdrv", design)
open(sys.argv[2], "w").write("read")
"""


@pytest.mark.parametrize("name", ["lut_symmetric_int8", "lut_ternary", "mac_zero_points"])
def test_yosys_reads_it_and_finds_no_fault(tmp_path: Path, name: str) -> None:
    verilog = build(spec_from_dict(SPECS[name]), tmp_path).verilog
    done = tmp_path / "done"
    result = subprocess.run(
        [sys.executable, "-c", READ, str(verilog), str(done)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert done.read_text() == "read"


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus is not installed")
@pytest.mark.parametrize("name", SPECS)
def test_icarus_compiles_it(tmp_path: Path, name: str) -> None:
    verilog = build(spec_from_dict(SPECS[name]), tmp_path).verilog
    subprocess.run(
        ["iverilog", "-g2005", "-Wall", "-t", "null", "-s", "dut", str(verilog)],  # noqa: S607
        check=True,
    )
