"""Power against sums made by hand, on the embedded library with energies added."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from flows import energies, liberty, sta
from flows.energies import interpolated
from flows.errors import FlowError, LibertyError
from flows.netlist import Gate, Instance, Module
from flows.power import power
from flows.saif import Activity, read_saif
from flows.synthesis import Implementation
from flows.technology import Technology
from sw_driver.commands.power import power as verb

CLOCK_PIN, LEAKAGE, RISE, FALL, VOLTS = 2.0, 10.0, 3.0, 5.0, 2.0


def energetic_text() -> str:
    """Every cell leaks 10 nW; a clock pin's change takes 2 fJ, an output's 3 up and 5 down."""
    text = Technology.embedded().path.read_text()
    text = re.sub(r"(cell\(\w+\) \{ area : [\d.]+;)", r"\1 cell_leakage_power : 10;", text)

    def scalar(side: str, value: float) -> str:
        return f'{side}_power(scalar) {{ values("{value:g}"); }}'

    clock = f"internal_power() {{ {scalar('rise', CLOCK_PIN)} {scalar('fall', CLOCK_PIN)} }}"
    text = re.sub(r"(pin\(CK\) \{ direction : input;)", rf"\1 {clock}", text)
    text = re.sub(
        r'timing\(\) \{ related_pin : "(\w+)"; timing_sense',
        lambda found: (
            f'internal_power() {{ related_pin : "{found[1]}"; '
            f"{scalar('rise', RISE)} {scalar('fall', FALL)} }}\n{found[0]}"
        ),
        text,
    )
    return text.replace("nom_voltage : 1;", f"nom_voltage : {VOLTS:g};")


@pytest.fixture(scope="module")
def energetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("library") / "energetic.lib"
    file.write_text(energetic_text())
    return file


def test_a_netlist_by_hand(energetic: Path) -> None:
    """A flip-flop that toggles every cycle through an inverter, and one more inverter behind it."""
    below = Module(
        "below",
        {"a": ("input", [2]), "y": ("output", [3])},
        {"i": Gate("INV_X1", {"A": 2, "Y": 3})},
        [],
        4,
    )
    top = Module(
        "top",
        {"clk": ("input", [2]), "y": ("output", [5])},
        {
            "a": Gate("DFF_X1", {"CK": 2, "D": 4, "Q": 3}),
            "i": Gate("INV_X1", {"A": 3, "Y": 4}),
        },
        [Instance("deep", "below", {"a": [3], "y": [5]})],
        6,
    )
    modules = {"top": top, "below": below}
    library = liberty.parse(energetic.read_text(), energetic)
    tables = sta.Tables(library)
    activity = Activity(
        duration=200,
        toggles={"": {"n2": 200, "n3": 100, "n4": 100, "n5": 100}, "u0": {"n2": 100, "n3": 100}},
    )
    table = energies.read(energetic, {"DFF_X1", "INV_X1"})
    assert table.voltage == VOLTS
    boundary = sta.Boundary(wire_cap=0.5)
    found = power(modules, "top", tables, table, activity, boundary)
    # ½·C·V² is 2 fJ a fF and change. Loads with 0.5 fF of wire a pin: the clock's pin 2 fF, twice a
    # cycle; Q two inverters of 1 fF, once; the first inverter D's 4/3 fF. Ports are not charged.
    loads = {"clk": 2 * 2.5, "q": 2 * 1.5, "d": 4 / 3 + 0.5, "y": 0.0}
    assert found.total.switching == pytest.approx(2 * sum(loads.values()), rel=1e-5)
    # Outputs 4 fJ a change, on average; the clock's pin 2 fJ, twice.
    assert found.total.internal == pytest.approx(3 * (RISE + FALL) / 2 + 2 * CLOCK_PIN)
    assert found.total.clock == pytest.approx(2 * loads["clk"] + 2 * CLOCK_PIN)
    assert found.total.leakage == pytest.approx(3 * LEAKAGE)
    assert found.by_module["below"].internal == pytest.approx((RISE + FALL) / 2)
    assert found.by_module["below"].switching == 0.0
    assert found.total.dynamic_mw(1000.0) == pytest.approx(found.total.dynamic * 1e-3)
    assert found.toggles == pytest.approx(1.0)
    with pytest.raises(FlowError, match="u0: net n3 was not recorded"):
        power(
            modules,
            "top",
            tables,
            table,
            Activity(duration=200, toggles={**activity.toggles, "u0": {"n2": 1}}),
        )


def test_an_output_costs_what_its_cause_makes_it_cost(tmp_path: Path) -> None:
    text = energetic_text()
    # A NAND whose output takes 4 fJ by A and 40 by B.
    head, cell, rest = text.partition("cell(NAND2_X1)")
    body, end, tail = rest.partition("\n  cell(")
    body = re.sub(
        r'(related_pin : "B"; )rise_power.*?; \} fall_power\(scalar\) \{ values\("5"\); \}',
        r'\1rise_power(scalar) { values("40"); } fall_power(scalar) { values("40"); }',
        body,
    )
    file = tmp_path / "skewed.lib"
    file.write_text(head + cell + body + end + tail)
    module = Module(
        "top",
        {"a": ("input", [2]), "b": ("input", [3]), "y": ("output", [4])},
        {"n": Gate("NAND2_X1", {"A": 2, "B": 3, "Y": 4})},
        [],
        5,
    )
    tables = sta.Tables(liberty.parse(file.read_text(), file))
    activity = Activity(duration=20, toggles={"": {"n2": 3, "n3": 1, "n4": 2}})
    found = power({"top": module}, "top", tables, energies.read(file, {"NAND2_X1"}), activity)
    assert found.total.internal == pytest.approx(0.2 * (0.75 * 4 + 0.25 * 40))


def test_energies_are_interpolated_and_not_extrapolated() -> None:
    table = liberty.Table(
        np.array([0.0, 1.0]), np.array([0.0, 10.0]), np.array([[1.0, 2.0], [3.0, 8.0]])
    )
    at = interpolated(table, np.array([0.5, 0.0, 9.0, -1.0]), np.array([5.0, 2.5, 99.0, -5.0]))
    assert at.tolist() == pytest.approx([3.5, 1.25, 8.0, 1.0])
    # Indices that do not begin at 0, three of them: 1 + 2·(3 − 2)/(4 − 2), 3 + 5·(6 − 4)/(8 − 4).
    late = liberty.Table(
        np.array([2.0, 4.0, 8.0]), np.array([1.0, 2.0]), np.array([[1.0, 1], [3, 3], [8, 8]])
    )
    assert interpolated(late, np.array([3.0, 6.0]), np.array([1.5, 1.5])).tolist() == [2.0, 5.5]


def test_saif_instances_nest(tmp_path: Path) -> None:
    file = tmp_path / "run.saif"
    file.write_text(
        "(SAIFILE\n(DURATION 40)\n (INSTANCE bench\n  (NET\n   (x (T0 1) (T1 2) (TC 9))\n  )\n"
        "  (INSTANCE top\n   (NET\n    (n2 (T0 1) (T1 2) (TZ 0) (TX 0) (TC 7))\n"
        "    (i\\[3\\] (T0 1) (T1 2) (TC 4))\n   )\n   (INSTANCE u0\n    (NET\n"
        "     (n2 (T0 1) (T1 2) (TC 5))\n    )\n   )\n   (INSTANCE u1\n    (NET\n"
        "     (n2 (T0 1) (T1 2) (TC 6))\n    )\n   )\n  )\n )\n)\n"
    )
    found = read_saif(file, "top")
    assert found.cycles == 20
    assert found.toggles == {"": {"n2": 7, "i[3]": 4}, "u0": {"n2": 5}, "u1": {"n2": 6}}
    with pytest.raises(FlowError, match="holds no nets of core"):
        read_saif(file, "core")


def test_libraries_without_energies_are_refused(tmp_path: Path) -> None:
    plain = Technology.embedded().path
    with pytest.raises(LibertyError, match="must state energies of its cells"):
        energies.read(plain, {"INV_X1"})
    with pytest.raises(LibertyError, match="must state energies of its cells"):
        energies.check(plain)
    file = tmp_path / "no_volts.lib"
    file.write_text(energetic_text().replace(f"nom_voltage : {VOLTS:g};", ""))
    with pytest.raises(LibertyError, match="nom_voltage: is required"):
        energies.read(file, {"INV_X1"})


SPEC = """
block: mac_core
name: tiny
clock_mhz: 100.0
tile: {m: 1, n: 2, k: 2}
activations: {bits: 3}
weights: {bits: 2}
max_k: 64
"""


def test_a_core_at_work(energetic: Path, tmp_path: Path) -> None:
    """The verb: netlist, simulation against the reference, energies; twice the same."""
    spec, out = tmp_path / "tiny.yaml", tmp_path / "power.json"
    spec.write_text(SPEC)
    options = [str(spec), "--liberty", str(energetic), "--effort", "fast"]
    options += ["--cycles", "60", "--weight-bits", "2"]
    result = CliRunner().invoke(verb, [*options, "-o", str(out)])
    assert result.exit_code == 0, result.output
    data = json.loads(out.read_text())
    (run,) = data["runs"]
    assert run["weight_bits"] == 2
    assert run["cycles"] >= 60
    assert data["leakage_mw"] == pytest.approx(1e-6 * run["total"]["leakage"])
    # Every cell leaks the same: the leakage counts them.
    cells = run["total"]["leakage"] / LEAKAGE
    assert cells == pytest.approx(round(cells))
    total = sum(item["internal"] + item["switching"] for item in run["by_module"].values())
    assert run["pj_per_cycle"] == pytest.approx(1e-3 * total)
    assert run["dynamic_mw"] == pytest.approx(1e-6 * total * data["clock_mhz"])
    assert run["pj_per_mac"] == pytest.approx(run["pj_per_cycle"] * run["cycles"] / run["macs"])
    assert 0 < run["total"]["clock"] < total
    # The clock's net alone: two changes a cycle of every pin that is not behind a gate.
    assert 0.05 < run["toggles"] < 1.0
    again = json.loads(CliRunner().invoke(verb, [*options, "--json"]).output)
    assert again == data


def test_a_wrong_netlist_has_no_power(
    energetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "tiny.yaml"
    spec.write_text(SPEC)
    whole = Implementation.verilog

    def wrong(self: Implementation) -> str:
        """One inverter of the netlist is a buffer."""
        text = whole(self)
        return text.replace("  INV_X1 g", "  BUF_X1 g", 1) + (
            ""
            if "module BUF_X1 " in text
            else "module BUF_X1 (input A, output Y);\n  assign Y = A;\nendmodule\n"
        )

    monkeypatch.setattr(Implementation, "verilog", wrong)
    options = [str(spec), "--liberty", str(energetic), "--effort", "fast", "--cycles", "60"]
    result = CliRunner().invoke(verb, options)
    assert result.exit_code == 1
    assert "netlist of tiny: power" in result.output
    assert "expected" in result.output


@pytest.mark.parametrize(
    ("extra", "rule"),
    [
        (("--weight-bits", "9"), "weight_bits: must lie in [1, 2] for tiny, got 9"),
        (("--clock", "0"), "0.0 is not in the range x>0"),
    ],
)
def test_bad_requests(energetic: Path, tmp_path: Path, extra: tuple[str, ...], rule: str) -> None:
    spec = tmp_path / "tiny.yaml"
    spec.write_text(SPEC)
    result = CliRunner().invoke(verb, [str(spec), "--liberty", str(energetic), *extra])
    assert result.exit_code == 2
    assert rule in result.output
