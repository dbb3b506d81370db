"""Reading cell libraries: functions, units, roles, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from flows import Technology, generic_library, liberty
from flows.errors import LibertyError

DELAY = """timing() { related_pin : "%s"; timing_type : "%s"; cell_rise(scalar) { values("1"); }
  cell_fall(scalar) { values("1"); } }"""
A_DELAY = DELAY % ("A B", "combinational")
C_DELAY = DELAY % ("C", "rising_edge")
INVERTER = """
cell(INV) { area : 1; pin(A) { direction : input; capacitance : 0.002; }
  pin(Y) { direction : output; function : "A'"; max_capacitance : 0.05;
    timing() { related_pin : "A"; timing_sense : negative_unate;
      cell_rise(t) { values("1, 2", "3, 4"); } cell_fall(t) { values("1, 2", "3, 4"); }
      rise_transition(t) { values("1, 2", "3, 4"); } fall_transition(t) { values("1, 2", "3, 4"); }
  } } }
"""
NAND = f"""
cell(ND2) {{ area : 2; pin(A) {{ direction : input; capacitance : 0.002; }}
  pin(B) {{ direction : input; capacitance : 0.002; }}
  pin(Y) {{ direction : output; function : "(A B)'"; {A_DELAY} }} }}
"""
BUFFER = INVERTER.replace("(INV)", "(BUF)").replace("A'", "A")
FLOP = f"""
cell(DF) {{ area : 5; ff(IQ, IQN) {{ next_state : "D"; clocked_on : "C"; }}
  pin(D) {{ direction : input; capacitance : 0.001; }}
  pin(C) {{ direction : input; clock : true; }}
  pin(Q) {{ direction : output; function : "IQ"; {C_DELAY} }}
  pin(QB) {{ direction : output; function : "IQN"; {C_DELAY} }} }}
"""
NEEDED = (INVERTER, NAND, BUFFER, FLOP)
HEAD = """library(small) { time_unit : "100ps"; capacitive_load_unit(1, pf);
lu_table_template(t) { variable_1 : total_output_net_capacitance;
  variable_2 : input_net_transition; index_1("0.0, 0.01"); index_2("0, 10"); }
"""


def library(*cells: str) -> liberty.Library:
    return liberty.parse(HEAD + "".join(cells) + "}", "small.lib")


def test_units_are_ns_and_ff_and_tables_have_slews_in_rows() -> None:
    cell = library(*NEEDED).cells["INV"]
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
    delay = DELAY % ("P Q R", "combinational")
    adder = f"""
    cell(XX9) {{ area : 6; pin(P) {{ direction : input; }} pin(Q) {{ direction : input; }}
      pin(R) {{ direction : input; }}
      pin(Z1) {{ direction : output; function : "(P Q) + (R (P + Q))"; {delay} }}
      pin(Z2) {{ direction : output; function : "P ^ Q ^ R"; {delay} }} }}
    """
    found = library(*NEEDED, adder).full_adder
    assert found is not None
    assert (found.cell.name, found.inputs, found.sum, found.carry) == (
        "XX9",
        ["P", "Q", "R"],
        "Z2",
        "Z1",
    )
    assert found.cell.alike == [["P", "Q", "R"]]
    assert library(*NEEDED).full_adder is None


def test_both_outputs_of_a_flip_flop() -> None:
    assert library(*NEEDED).cells["DF"].inverted_output == ("Q", "QB")


@pytest.mark.parametrize(
    ("cells", "lacking"),
    [
        ((NAND, BUFFER, FLOP), "inverter"),
        ((INVERTER, BUFFER, FLOP), "two-input NAND"),
        ((INVERTER, NAND, FLOP), "buffer"),
        ((INVERTER, NAND, BUFFER), "D flip-flop of the rising edge"),
        # A cell without delays would make every path through it free.
        ((INVERTER, NAND.replace(A_DELAY, ""), BUFFER, FLOP), "two-input NAND"),
        ((INVERTER, NAND, BUFFER, FLOP.replace(C_DELAY, "")), "D flip-flop of the rising edge"),
    ],
)
def test_a_library_that_lacks_a_function_is_refused(cells: tuple[str, ...], lacking: str) -> None:
    with pytest.raises(LibertyError, match=rf"^small\.lib: .*it lacks: {lacking}$") as caught:
        library(*cells)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("area", ["0", "-1", "nan", "inf"])
def test_an_area_that_is_none_is_refused_with_its_cell(area: str) -> None:
    cells = [INVERTER, NAND.replace("area : 2", f"area : {area}"), BUFFER, FLOP]
    words = rf"^small\.lib: cell\(ND2\): area must be above 0, got {area}$"
    with pytest.raises(LibertyError, match=words):
        library(*cells)


@pytest.mark.parametrize(
    ("known", "other", "words"),
    [
        ('"100ps"', '"1s"', r"time_unit: must be one of 1ns, 100ps, 10ps, 1ps, got '1s'"),
        ("(1, pf)", "(1, nf)", r"capacitive_load_unit: must be one of ff, pf, got 'nf'"),
        ("(1, pf)", "(1)", r"capacitive_load_unit: must be one of ff, pf, got ''"),
    ],
)
def test_a_unit_that_is_not_known_is_refused(known: str, other: str, words: str) -> None:
    with pytest.raises(LibertyError, match=words):
        liberty.parse(HEAD.replace(known, other) + "".join(NEEDED) + "}", "small.lib")


@pytest.mark.parametrize(
    ("known", "other", "words"),
    [
        ('cell_rise(t) { values("1, 2", "3, 4"); }', "cell_rise(t) { }", "cell_rise has no values"),
        ('values("1, 2", "3, 4")', 'values("1, 2", "3, nan")', "cell_rise has values that are not"),
        ('values("1, 2", "3, 4")', 'values("1, 2", "3")', "cannot reshape"),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_cell(known: str, other: str, words: str) -> None:
    with pytest.raises(LibertyError, match=rf"malformed Liberty in cell\(INV\): {words}"):
        library(INVERTER.replace(known, other, 1), NAND, BUFFER, FLOP)


def test_a_cell_that_is_given_twice_is_refused() -> None:
    with pytest.raises(LibertyError, match=r"^small\.lib: cell\(ND2\): must be given once$"):
        library(*NEEDED, NAND)


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
            r"malformed Liberty in cell\(INV\): could not convert string to float: 'x'",
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
