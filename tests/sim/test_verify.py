"""``rtlgen verify``: what it prints, what it leaves, and its exit status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from hw.block import spec_from_dict
from rtl_gen import build
from rtl_gen.specfile import load_spec
from sim import toolchain
from sim.command import verify as verb
from sim.verify import verify

SPEC = """\
block: lut_core
name: tiny_lut
tile: {m: 1, n: 2, k: 3}
activations: {bits: 3, signed: true}
weights: {encoding: unsigned, max_bits: 2}
max_k: 9
"""


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(SPEC)
    return file


@pytest.mark.slow
def test_a_core_passes_both_benches(spec_file: Path, tmp_path: Path) -> None:
    arguments = [str(spec_file), "--seeds", "1", "--json", "--wave", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(verb, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["passed"]
    assert report["problems"] == []
    assert [bench["name"] for bench in report["benches"]] == ["cocotb", "compiled"]
    for bench in report["benches"]:
        contract = bench["contract"]
        assert contract["runs"] > 3
        assert contract["predicted_cycles"] == contract["observed_cycles"] > 0
    assert report["benches"][1]["vectors"] > 10 * report["benches"][0]["vectors"]
    assert report["coverage"]["hit"] == report["coverage"]["points"] > 10
    assert report["lint"]["verilator"] == "accepted"
    assert Path(report["wave"]).stat().st_size > 1000


def test_the_table_of_the_compiled_bench(spec_file: Path) -> None:
    result = CliRunner().invoke(verb, [str(spec_file), "--bench", "compiled", "--seeds", "1"])
    assert result.exit_code == 0, result.output
    assert "compiled" in result.output
    assert "tiny_lut: passed" in result.output
    assert "functional coverage: " in result.output


def test_a_failure_exits_with_1_and_says_where(
    spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = build.verilog(load_spec(spec_file))
    wrong = good.replace("assign s = a ^ b ^ c;", "assign s = a ^ b;")
    assert wrong != good
    monkeypatch.setattr(build, "verilog", lambda spec: wrong)
    arguments = ["--bench", "compiled", "--seeds", "1", "--wave", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(verb, [str(spec_file), *arguments])
    assert result.exit_code == 1
    assert "compiled bench: seed 0, " in result.stderr
    for word in ("o.o[", "expected", "observed", "in cycle", "inputs:", "a[0,:]=", "w["):
        assert word in result.stderr, word
    assert "FAILED" in result.stdout
    assert (tmp_path / "out" / "tiny_lut.fst").stat().st_size > 100


def test_another_text_is_verified_in_place_of_the_emitted_one(
    spec_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "edited.v"
    good = build.verilog(load_spec(spec_file))
    file.write_text(good.replace("assign s = a ^ b ^ c;", "assign s = a ^ b;"))
    arguments = ["--bench", "compiled", "--seeds", "1", "--verilog", str(file)]
    result = CliRunner().invoke(verb, [str(spec_file), *arguments])
    assert result.exit_code == 1
    assert "compiled bench: seed 0, " in result.stderr
    result = CliRunner().invoke(verb, [str(spec_file), *arguments, "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["passed"] is False
    file.write_bytes(b"\xff")
    for name, text in (("edited.v", "must be UTF-8 text, got byte 0xff"), ("no.v", "cannot be")):
        result = CliRunner().invoke(verb, [str(spec_file), "--verilog", str(tmp_path / name)])
        assert result.exit_code == 2
        assert result.stderr.startswith(f"{tmp_path / name}: {text}")


@pytest.mark.parametrize("text", ["not verilog\n", "module other; endmodule\n"])
def test_a_text_that_is_no_design_is_refused_by_the_lint(
    spec_file: Path, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "other.v"
    file.write_text(text)
    result = CliRunner().invoke(verb, [str(spec_file), "--verilog", str(file), "--wave"])
    assert result.exit_code == 1
    assert result.stderr.startswith("lint: verilator:\n%Error: ")
    assert "Traceback" not in result.output
    assert str(tmp_path) not in result.output
    assert "rtlgen-lint" not in result.output
    assert "waveform" not in result.output


@pytest.mark.parametrize("taken", ["folder", "parent"])
def test_a_place_that_no_waveform_fits_is_said_before_the_work(
    spec_file: Path, tmp_path: Path, taken: str
) -> None:
    out = tmp_path / "out"
    if taken == "folder":
        (out / "tiny_lut.fst").mkdir(parents=True)
    else:
        out = Path("/proc/none")
    result = CliRunner().invoke(verb, [str(spec_file), "--wave", "-o", str(out)])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"{out / 'tiny_lut.fst'}: ")


def test_lint_that_complains_fails_the_verification(spec_file: Path) -> None:
    spec = load_spec(spec_file)
    good = build.verilog(spec)
    text = good.replace(f"module {spec.name}(", f"module {spec.name}(extra, ").replace(
        "  input clk;", "  output extra;\n  input clk;", 1
    )
    report = verify(spec, seeds=(0,), benches="compiled", verilog=text, progress=False)
    assert not report.passed
    assert report.problems[0].startswith("lint: verilator")


def test_a_missing_point_of_coverage_fails_the_verification(
    spec_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sim import stimulus

    spec = load_spec(spec_file)
    points = stimulus.coverage_points
    monkeypatch.setattr(stimulus, "coverage_points", lambda spec: (*points(spec), "unheard of"))
    report = verify(spec, seeds=(0,), benches="compiled", progress=False)
    assert report.problems == ("coverage: not hit: unheard of",)


@pytest.mark.parametrize("tool", ["g++", "make", "perl"])
def test_a_missing_tool_is_named_and_exits_with_1(
    spec_file: Path, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, *rest, **more: None if name == tool else which(name)
    )
    toolchain.tool.cache_clear()
    toolchain.versions.cache_clear()
    try:
        result = CliRunner().invoke(verb, [str(spec_file)])
    finally:
        toolchain.tool.cache_clear()
        toolchain.versions.cache_clear()
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{tool}: not found; install")
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_bad_spec_exits_with_2(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(SPEC.replace("max_k: 9", "max_k: 1"))
    result = CliRunner().invoke(verb, [str(file)])
    assert result.exit_code == 2
    assert f"{file}:6:8: max_k: must be at least tile.k = 3" in result.stderr


def test_both_cores_pass_the_compiled_bench_in_other_shapes() -> None:
    for data in (
        {
            "block": "mac_core",
            "name": "odd_mac",
            "tile": {"m": 3, "n": 2, "k": 3},
            "activations": {"bits": 5, "signed": False},
            "weights": {"encoding": "twos_complement", "bits": 4},
            "max_k": 21,
            "addend": True,
        },
        {
            "block": "lut_core",
            "name": "odd_lut",
            "tile": {"m": 1, "n": 3, "k": 5},
            "activations": {"bits": 4},
            "weights": {"encoding": "twos_complement", "max_bits": 3},
            "table": {"group": 3, "form": "symmetric"},
            "max_k": 20,
        },
    ):
        from sim import check_verilog

        spec = spec_from_dict(data)
        verdict = check_verilog(spec, build.verilog(spec))
        assert verdict.passed, verdict.failure
