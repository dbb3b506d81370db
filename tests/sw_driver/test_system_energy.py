"""Energy of a phase on a system: from a report of each kind of core, added up by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rtl_gen.errors import InputError
from sw_driver.commands.map import map_model as map_command
from sw_driver.mapper.choices import Choices
from sw_driver.mapper.core import Core
from sw_driver.system.energy import core_cycles, energy, read_powers
from sw_driver.system.report import map_model_on_system
from sw_driver.system.spec import load_system


def power_file(folder: Path, core: Core, **change: Any) -> Path:
    data = {
        "spec": core.name,
        "spec_digest": core.digest,
        "technology": "t",
        "clock_mhz": 250.0,
        "leakage_mw": 2.0,
        "runs": [{"weight_bits": 4, "dynamic_mw": 50.0}, {"weight_bits": 8, "dynamic_mw": 30.0}],
        **change,
    }
    file = folder / f"{core.name}_{len(list(folder.glob('*.json')))}.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    return file


def test_energy_by_hand(tmp_path: Path) -> None:
    system = load_system("server_lut")
    lut, mac = (kind.core for kind in system.kinds)
    files = [power_file(tmp_path, mac, leakage_mw=0.5), power_file(tmp_path, lut)]
    powers = read_powers(files, system)
    assert {name: power.leakage_mw for name, power in powers.items()} == {
        lut.name: 2.0,
        mac.name: 0.5,
    }
    choices = Choices(weight_bits=4, operator_bits={"lm_head": 8})
    report = map_model_on_system("gpt2", system, prefill=20, choices=choices)
    (mapping,) = report.mappings
    found = energy(mapping, powers, 10.0)
    dynamic, shared, kinds = 0.0, 0, set()
    for item in mapping.operators:
        core = {lut.name: lut, mac.name: mac}[item.kind]
        kinds.add(item.kind)
        start, step = core.job_cycles[item.bits - 1]
        cycles = 0
        for part in item.pieces:
            gemm = part.gemm
            tiles = gemm.instances * -(-gemm.m // core.m) * -(-gemm.n // core.n)
            steps = -(-gemm.k // core.k)
            # A job for every block of K; without groups a unit of K is a step.
            jobs = -(-steps // part.cut.bk)
            cycles += part.times * tiles * (start * jobs + step * steps)
        assert core_cycles(item) == cycles
        shared += cycles > item.busy
        dynamic += cycles * {4: 200.0, 8: 120.0}[item.bits] * 1e-12
    assert kinds == {lut.name, mac.name}
    assert shared  # some operators run on several cores at once
    assert found.dynamic == pytest.approx(dynamic)
    assert found.leakage == pytest.approx((16 * 2.0 + 4 * 0.5) * 1e-3 * mapping.seconds)
    assert found.dram == pytest.approx(mapping.bytes * 80e-12)
    assert found.tokens == 20
    assert energy(mapping, powers).dram is None


def test_one_core_s_work_is_what_its_schedule_has() -> None:
    report = map_model_on_system("gpt2", "edge_lut", decode=2, context=9)
    for item in report.mappings[0].operators:
        assert core_cycles(item) == item.busy


def run(*arguments: str) -> Result:
    given = ["gpt2", "--decode", "1", "--context", "9", "--weight-bits", "4", *arguments]
    return CliRunner().invoke(map_command, given)


def test_energy_in_a_report(tmp_path: Path) -> None:
    core = load_system("edge_lut").kinds[0].core
    file = str(power_file(tmp_path, core))
    system = ("--system", "edge_lut")
    told = run(*system, "--power-report", file, "--dram-pj-per-bit", "4")
    assert told.exit_code == 0, told.output
    for text in (
        "cores' energy",
        "energy a token",
        "DRAM at 4 pJ a bit",
        f"{core.name} at 250 MHz",
    ):
        assert text in told.output
    data = json.loads(run(*system, "--power-report", file, "--json").output)
    (phase,) = data["phases"]
    assert phase["energy"]["dram_j"] is None
    assert phase["energy"]["total_j"] == pytest.approx(
        phase["energy"]["core_dynamic_j"] + phase["energy"]["core_leakage_j"]
    )
    plain = json.loads(run(*system, "--json").output)
    assert plain["phases"][0]["energy"] is None
    assert "energy" not in run(*system).output


def test_reports_are_of_every_kind_and_of_no_other(tmp_path: Path) -> None:
    system = load_system("server_lut")
    lut, mac = (kind.core for kind in system.kinds)
    one, two = power_file(tmp_path, lut), power_file(tmp_path, mac)
    with pytest.raises(InputError, match=r"power_report: .* there is none of mac_wide"):
        read_powers([one], system)
    with pytest.raises(InputError, match=r"spec_digest: must be given once for lut_wide, which"):
        read_powers([one, two, power_file(tmp_path, lut)], system)
    other = power_file(tmp_path, lut, spec_digest="0" * 64)
    with pytest.raises(
        InputError, match=r"spec_digest: must be of a core of server_lut \(lut_wide"
    ):
        read_powers([two, other], system)
    bad = power_file(tmp_path, lut, leakage_mw=-1)
    with pytest.raises(InputError, match="leakage_mw: must be at least 0, got -1"):
        read_powers([bad, two], system)
    powers = read_powers([one, two], system)
    report = map_model_on_system(
        "gpt2", system, decode=1, context=9, choices=Choices(weight_bits=3)
    )
    with pytest.raises(
        InputError, match="power report of lut_wide: runs: must have one at the wid"
    ):
        energy(report.mappings[0], powers)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--system", "edge_lut", "--dram-pj-per-bit", "4"], "must come with power reports"),
        (["--system", "edge_lut", "--dram-pj-per-bit", "nan"], "dram_pj_per_bit: must lie in"),
        (["--system", "edge_lut", "--power-report", "none.json"], "none.json: cannot be read"),
        (
            ["--core", "core.yaml", "--power-report", "a.json", "--power-report", "b.json"],
            "--power-report: must be one for --core, got 2",
        ),
    ],
)
def test_the_command_refuses(arguments: list[str], wanted: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert wanted in result.output
