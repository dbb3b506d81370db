"""Reading cell libraries: functions, units, roles, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from flows import Technology, generic_library, liberty
from flows.errors import LibertyError

INVERTER = """
cell(INV) { area : 1; pin(A) { direction : input; capacitance : 0.002; }
  pin(Y) { direction : output; function : "A'"; max_capacitance : 0.05;
    timing() { related_pin : "A"; timing_sense : negative_unate;
      cell_rise(t) { values("1, 2", "3, 4"); } cell_fall(t) { values("1, 2", "3, 4"); }
      rise_transition(t) { values("1, 2", "3, 4"); } fall_transition(t) { values("1, 2", "3, 4"); }
  } } }
"""
NAND = """
cell(ND2) { area : 2; pin(A) { direction : input; capacitance : 0.002; }
  pin(B) { direction : input; capacitance : 0.002; }
  pin(Y) { direction : output; function : "(A B)'"; } }
"""
FLOP = """
cell(DF) { area : 5; ff(IQ, IQN) { next_state : "D"; clocked_on : "C"; }
  pin(D) { direction : input; capacitance : 0.001; } pin(C) { direction : input; clock : true; }
  pin(Q) { direction : output; function : "IQ"; } pin(QB) { direction : output; function : "IQN"; }
}
"""
HEAD = """library(small) { time_unit : "100ps"; capacitive_load_unit(1, pf);
lu_table_template(t) { variable_1 : total_output_net_capacitance;
  variable_2 : input_net_transition; index_1("0.0, 0.01"); index_2("0, 10"); }
"""


def library(*cells: str) -> liberty.Library:
    return liberty.parse(HEAD + "".join(cells) + "}", "small.lib")


def test_units_are_ns_and_ff_and_tables_have_slews_in_rows() -> None:
    cell = library(INVERTER, NAND, FLOP).cells["INV"]
    assert cell.inputs[0].capacitance == pytest.approx(2.0)
    assert cell.limit == pytest.approx(10.0)  # its tables end before the stated 50 fF
    table = cell.outputs[0].arcs[0].delay[0]
    assert table is not None
    assert table.rows.tolist() == [0.0, 1.0]
    assert table.columns.tolist() == [0.0, 10.0]
    assert table.at(0.0, 10.0) == pytest.approx(0.3)
    assert table.at(1.0, 0.0) == pytest.approx(0.2)
    assert table.at(0.5, 5.0) == pytest.approx(0.25)
    assert table.at(0.0, 20.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("function", "truth"),
    [
        ("!(A & B)", 0b0111),
        ("(A B)'", 0b0111),
        ("A' B'", 0b0001),
        ("A ^ !B", 0b1001),
        ("(A*B)+(!A*!B)", 0b1001),
        ("A+B*A'", 0b1110),
        ("C", -1),
        ("A &", -1),
    ],
)
def test_functions(function: str, truth: int) -> None:
    pins = {
        "A": liberty.Pin("A", "input"),
        "B": liberty.Pin("B", "input"),
        "Y": liberty.Pin("Y", "output", function=function),
    }
    assert liberty.Cell("c", 1.0, "comb", pins).truths == {"Y": truth}


def test_full_adder_is_found_by_function_whatever_its_pins_are_called() -> None:
    adder = """
    cell(XX9) { area : 6; pin(P) { direction : input; } pin(Q) { direction : input; }
      pin(R) { direction : input; }
      pin(Z1) { direction : output; function : "(P Q) + (R (P + Q))"; }
      pin(Z2) { direction : output; function : "P ^ Q ^ R"; } }
    """
    found = library(INVERTER, NAND, FLOP, adder).full_adder
    assert found is not None
    assert (found.cell.name, found.inputs, found.sum, found.carry) == (
        "XX9",
        ["P", "Q", "R"],
        "Z2",
        "Z1",
    )
    assert found.cell.alike == [["P", "Q", "R"]]
    assert library(INVERTER, NAND, FLOP).full_adder is None


def test_both_outputs_of_a_flip_flop() -> None:
    assert library(INVERTER, NAND, FLOP).cells["DF"].inverted_output == ("Q", "QB")


@pytest.mark.parametrize(
    ("cells", "lacking"),
    [
        ((NAND, FLOP), "inverter"),
        ((INVERTER, FLOP), "two-input NAND"),
        ((INVERTER, NAND), "D flip-flop of the rising edge"),
    ],
)
def test_a_library_that_lacks_a_function_is_refused(cells: tuple[str, ...], lacking: str) -> None:
    with pytest.raises(LibertyError, match=rf"^small\.lib: .*it lacks: {lacking}$") as caught:
        library(*cells)
    assert caught.value.exit_status == 2


def test_files_that_are_no_library_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LibertyError, match=r"none\.lib: must be a Liberty file, does not exist"):
        Technology.liberty(tmp_path / "none.lib")
    for name, content, words in (
        ("text.lib", b"module m; endmodule", "has no library group"),
        ("short.lib", (HEAD + INVERTER).encode()[:-30], "ends inside the group"),
        ("torn.lib.gz", gzip.compress(HEAD.encode())[:-9], "cannot be read"),
        (
            "number.lib",
            (HEAD + INVERTER.replace("area : 1", "area : x") + "}").encode(),
            "malformed",
        ),
    ):
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(LibertyError, match=words):
            Technology.liberty(file).library()


def test_written_libraries_read_back() -> None:
    first = Technology.embedded().library()
    again = liberty.parse(liberty.write(first), "again")
    assert again.cells.keys() == first.cells.keys()
    for name, cell in first.cells.items():
        other = again.cells[name]
        assert other.area == pytest.approx(cell.area)
        assert other.signature() == cell.signature()
        for pin in cell.pins.values():
            assert len(other.pins[pin.name].arcs) == len(pin.arcs)


def test_embedded_library_is_what_its_table_makes() -> None:
    assert generic_library.FILE.read_text(encoding="utf-8") == generic_library.text()
    found = Technology.embedded().library()
    nand = found.find(2, 0b0111)
    assert nand is not None
    assert nand.area == pytest.approx(1.0)
    assert found.full_adder is not None
    assert found.clock_gate is not None
    delay = found.inverter.outputs[0].arcs[0].delay[0]
    assert delay is not None
    # An inverter of fan-out four takes 5 τ.
    assert delay.at(0.0, 4.0 * found.inverter.inputs[0].capacitance) == pytest.approx(0.025)


def test_real_libraries(liberty_file: Path, tmp_path: Path) -> None:
    technology = Technology.liberty(liberty_file)
    found = technology.library(tmp_path)
    assert found.full_adder is not None
    assert "fa" in found.full_adder.cell.name.lower()
    assert found.clock_gate is not None
    assert found.flip_flop is not None
    assert len(found.buffers) >= 4
    kept = Technology.liberty(liberty_file).library(tmp_path)
    assert liberty.write(kept) == liberty.write(found)
