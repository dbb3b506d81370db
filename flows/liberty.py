"""Liberty cell libraries: what mapping and timing need of them.

The reader takes areas, pins, functions, registers, clock gates and the NLDM tables, merges the arcs
that hold under a condition into their worst, and passes over the rest (power, noise, scan). Inside,
times are in nanoseconds and capacitances in femtofarads, whatever the file's units; areas keep the
library's own unit. :func:`write` gives the same contents back as a small Liberty text: that text
is what Yosys and ABC read, and what is kept in the cache of parsed libraries.
"""

from __future__ import annotations

import gzip
import re
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flows.errors import LibertyError

_TOKEN = re.compile(
    r"""(?P<group>[A-Za-z_]\w*)\s*\((?P<args>[^(){};]*)\)\s*\{
      | (?P<name>[A-Za-z_]\w*)\s*:\s*(?P<value>"[^"]*"|[^;{}\n]+?)\s*(?:;|\n|(?=\}))
      | (?P<call>[A-Za-z_]\w*)\s*\((?P<list>[^;{}]*?)\)\s*;?
      | (?P<close>\})""",
    re.VERBOSE,
)
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*|\\\r?\n", re.DOTALL)
_SKIPPED = {
    "ccsn_first_stage",
    "ccsn_last_stage",
    "dynamic_current",
    "input_voltage",
    "internal_power",
    "intrinsic_parasitic",
    "leakage_current",
    "leakage_power",
    "normalized_driver_waveform",
    "operating_conditions",
    "output_current_fall",
    "output_current_rise",
    "output_voltage",
    "pg_pin",
    "power_lut_template",
    "receiver_capacitance",
    "receiver_capacitance1_fall",
    "receiver_capacitance1_rise",
    "receiver_capacitance2_fall",
    "receiver_capacitance2_rise",
    "test_cell",
    "wire_load",
    "wire_load_selection",
}
_BRACES = re.compile(r"[{}]")
# Cells for power domains and level shifting are no logic to map to, whatever function they state.
_SPECIAL = (
    "always_on",
    "is_isolation_cell",
    "is_level_shifter",
    "retention_cell",
    "switch_cell_type",
)
_TIME_UNITS = {"1ns": 1.0, "100ps": 0.1, "10ps": 0.01, "1ps": 0.001}
_LOAD_UNITS = {"ff": 1.0, "pf": 1000.0}


@dataclass
class Group:
    """A group of a Liberty file as it is written: attributes, lists and groups within."""

    kind: str
    args: str
    values: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def all(self, kind: str) -> list[Group]:
        return [group for group in self.groups if group.kind == kind]


@dataclass(frozen=True)
class Table:
    """An NLDM table: ``values[i, j]`` (ns) at ``rows[i]`` and ``columns[j]``.

    Rows are input slews (ns), or the data's slews of a constraint; columns are loads (fF), or the
    clock's slews of a constraint. A constant has one row and one column.
    """

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    def at(self, row: float, column: float) -> float:
        """Bilinear interpolation, extrapolating from the outermost cells of the table."""
        rows, columns, v = self._lists
        i, fr, di = _place(rows, row)
        j, fc, dj = _place(columns, column)
        low = v[i][j] * (1 - fc) + v[i][j + dj] * fc
        high = v[i + di][j] * (1 - fc) + v[i + di][j + dj] * fc
        return low * (1 - fr) + high * fr

    @cached_property
    def _lists(self) -> tuple[list[float], list[float], list[list[float]]]:
        # Single look-ups are many; numpy's overhead would be most of them.
        return self.rows.tolist(), self.columns.tolist(), self.values.tolist()


def _place(index: list[float], x: float) -> tuple[int, float, int]:
    if len(index) < 2:
        return 0, 0.0, 0
    i = min(max(bisect_right(index, x) - 1, 0), len(index) - 2)
    return i, (x - index[i]) / (index[i + 1] - index[i]), 1


Edges = tuple["Table | None", "Table | None"]
"""Tables of the rising and of the falling output."""


@dataclass(frozen=True)
class Arc:
    """One timing arc to a pin.

    Attributes:
        related: the pin it comes from.
        kind: ``comb``, ``edge`` (from a clock edge) or ``setup``.
        sense: 1 (output follows), −1 (output inverts) or 0 (either edge causes either).
        delay: by output edge (for ``setup``, the time needed before the clock, by data edge).
        slew: output transition by output edge.
    """

    related: str
    kind: str
    sense: int
    delay: Edges
    slew: Edges


@dataclass
class Pin:
    """A pin; capacitances in fF, ``max_capacitance`` 0 where the library states none."""

    name: str
    direction: str
    capacitance: float = 0.0
    max_capacitance: float = 0.0
    function: str = ""
    clock: bool = False
    gate_role: str = ""
    arcs: list[Arc] = field(default_factory=list)


@dataclass
class Cell:
    """A library cell.

    Attributes:
        kind: ``comb``, ``ff`` or ``gate`` (integrated clock gate).
        state: the two internal names of a flip-flop (true, complement).
        clocked_on: expression of the clock pin.
        gate: the ``clock_gating_integrated_cell`` attribute.
    """

    name: str
    area: float
    kind: str
    pins: dict[str, Pin]
    state: tuple[str, str] = ("", "")
    next_state: str = ""
    clocked_on: str = ""
    gate: str = ""

    @cached_property
    def outputs(self) -> list[Pin]:
        return [pin for pin in self.pins.values() if pin.direction == "output"]

    @cached_property
    def inputs(self) -> list[Pin]:
        return [pin for pin in self.pins.values() if pin.direction == "input"]

    @cached_property
    def truths(self) -> dict[str, int]:
        """Truth table of every output over the inputs in name order; −1 if it states none."""
        return {pin.name: truth_table(self, pin) for pin in self.outputs}

    @cached_property
    def limit(self) -> float:
        """The smallest ``max_capacitance`` of its outputs, fF."""
        return min((pin.max_capacitance or float("inf") for pin in self.outputs), default=0.0)

    @cached_property
    def inverted_output(self) -> tuple[str, str] | None:
        """Names of the true and the complementary output of a flip-flop that has both."""
        by_state = {pin.function.strip("() "): pin.name for pin in self.outputs}
        true, complement = (by_state.get(name) for name in self.state)
        return (true, complement) if self.kind == "ff" and true and complement else None

    @cached_property
    def alike(self) -> list[list[str]]:
        """Groups of two or more input pins that may be exchanged without changing any output."""
        names = sorted(pin.name for pin in self.inputs)
        if self.kind != "comb" or not 2 <= len(names) <= 6:
            return []

        def exchanged(truth: int, i: int, j: int) -> int:
            result = 0
            for row in range(1 << len(names)):
                swapped = row & ~(1 << i | 1 << j) | (row >> i & 1) << j | (row >> j & 1) << i
                result |= (truth >> swapped & 1) << row
            return result

        groups: list[list[int]] = []
        for j in range(len(names)):
            for group in groups:
                if all(exchanged(truth, group[0], j) == truth for truth in self.truths.values()):
                    group.append(j)
                    break
            else:
                groups.append([j])
        return [[names[i] for i in group] for group in groups if len(group) > 1]

    def signature(self) -> tuple[object, ...]:
        """Equal for cells that can stand for one another: pins, functions and clocking."""
        functions = (
            tuple(sorted(self.truths.items()))
            if self.kind == "comb"
            else (
                self.state,
                self.next_state.strip("() "),
                self.clocked_on.strip("() "),
                self.gate,
                tuple(sorted((pin.name, pin.function.strip("() ")) for pin in self.outputs)),
            )
        )
        return (
            self.kind,
            tuple(sorted((p.name, p.direction) for p in self.pins.values())),
            functions,
        )


class Adder(NamedTuple):
    """A full or half adder of a library: the cell, its inputs, its sum and its carry pin."""

    cell: Cell
    inputs: list[str]
    sum: str
    carry: str


class GateCell(NamedTuple):
    """A clock gate: the cell, its enable, clock and output pins, and the pins to tie low."""

    cell: Cell
    enable: str
    clock: str
    output: str
    low: list[str]


@dataclass
class Library:
    """A cell library, with the cells that the flow needs by their function."""

    name: str
    path: str
    cells: dict[str, Cell]

    def find(self, inputs: int, truth: int) -> Cell | None:
        """The smallest one-output cell with that many inputs and that truth table.

        Bit ``i`` of ``truth`` is the output for input pins (in name order) at the bits of ``i``.
        """
        found = [
            cell
            for cell in self.cells.values()
            if cell.kind == "comb"
            and len(cell.inputs) == inputs
            and list(cell.truths.values()) == [truth]
        ]
        return min(found, key=lambda cell: (cell.area, cell.name), default=None)

    @cached_property
    def inverter(self) -> Cell:
        found = self.find(1, 0b01)
        if found is None:  # `parse` refuses such a library
            raise LibertyError(self.path, "must hold an inverter")
        return found

    @cached_property
    def full_adder(self) -> Adder | None:
        """The smallest cell of three inputs that gives their parity and their majority."""
        return self._adder(3, 0b10010110, 0b11101000)

    @cached_property
    def half_adder(self) -> Adder | None:
        """The smallest cell of two inputs that gives their exclusive-or and their conjunction."""
        return self._adder(2, 0b0110, 0b1000)

    def _adder(self, width: int, total: int, carry: int) -> Adder | None:
        found = []
        for cell in self.cells.values():
            if cell.kind == "comb" and len(cell.inputs) == width and len(cell.outputs) == 2:
                by_truth = {truth: pin for pin, truth in cell.truths.items()}
                if by_truth.keys() == {total, carry}:
                    names = sorted(pin.name for pin in cell.inputs)
                    found.append(Adder(cell, names, by_truth[total], by_truth[carry]))
        return min(found, key=lambda item: (item.cell.area, item.cell.name), default=None)

    @cached_property
    def flip_flop(self) -> Cell | None:
        """The smallest plain D flip-flop of the rising edge."""
        found = [c for c in self.cells.values() if c.kind == "ff" and "!" not in c.clocked_on]
        return min(found, key=lambda cell: (cell.area, cell.name), default=None)

    @cached_property
    def clock_gate(self) -> GateCell | None:
        """The smallest integrated clock gate of the rising edge without a control output."""
        found = []
        for cell in self.cells.values():
            roles = {pin.gate_role: pin.name for pin in cell.pins.values() if pin.gate_role}
            if cell.kind == "gate" and {"enable_pin", "clock_pin", "out_pin"} <= roles.keys():
                if not cell.gate.startswith("latch_posedge") or "obs" in cell.gate:
                    continue
                used = {roles["enable_pin"], roles["clock_pin"], roles["out_pin"]}
                low = [pin.name for pin in cell.inputs if pin.name not in used]
                found.append(
                    GateCell(cell, roles["enable_pin"], roles["clock_pin"], roles["out_pin"], low)
                )
        return min(found, key=lambda g: (len(g.low), g.cell.area, g.cell.name), default=None)

    @cached_property
    def buffers(self) -> list[Cell]:
        """Buffers, smallest first; of equal area only the one that drives most."""
        best: dict[float, Cell] = {}
        for cell in self.cells.values():
            if cell.kind == "comb" and len(cell.inputs) == 1 and list(cell.truths.values()) == [2]:
                known = best.get(cell.area)
                if known is None or (cell.limit, known.name) > (known.limit, cell.name):
                    best[cell.area] = cell
        result: list[Cell] = []
        for _, cell in sorted(best.items()):
            if not result or cell.limit > result[-1].limit:
                result.append(cell)
        return result

    @cached_property
    def _alike(self) -> dict[str, list[Cell]]:
        table: dict[tuple[object, ...], list[Cell]] = {}
        for cell in self.cells.values():
            table.setdefault(cell.signature(), []).append(cell)
        for items in table.values():
            items.sort(key=lambda cell: (cell.area, cell.limit, cell.name))
        return {cell.name: items for items in table.values() for cell in items}

    def strengths(self, name: str) -> list[Cell]:
        """All cells with the pins and function of this one, smallest first, itself included."""
        return self._alike[name]


def truth_table(cell: Cell, pin: Pin) -> int:
    """Truth table of an output over the input pins in name order; −1 if it has none."""
    names = sorted(item.name for item in cell.inputs)
    if not pin.function or len(names) > 8:
        return -1
    # Bit i of a variable's column is its value in row i: the function of columns is the table.
    rows = 1 << len(names)
    columns = {
        name: sum(1 << row for row in range(rows) if row >> i & 1) for i, name in enumerate(names)
    }
    try:
        return _Expression(pin.function, columns, (1 << rows) - 1).value()
    except (KeyError, IndexError):
        return -1


class _Expression:
    """A Liberty function, evaluated over truth-table columns by recursive descent."""

    def __init__(self, text: str, columns: dict[str, int], ones: int):
        self.tokens = re.findall(r"\w+|[!'&|^+*()]", text)
        self.columns, self.ones, self.at = columns, ones, 0

    def value(self) -> int:
        result = self._or()
        if self.at != len(self.tokens):
            raise KeyError(self.tokens[self.at])
        return result

    def _peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _or(self) -> int:
        left = self._and()
        while self._peek() in ("|", "+"):
            self.at += 1
            left |= self._and()
        return left

    def _and(self) -> int:
        left = self._xor()
        while self._peek() in ("&", "*") or re.fullmatch(r"\w+|[!(]", self._peek()):
            if self._peek() in ("&", "*"):
                self.at += 1
            left &= self._xor()
        return left

    def _xor(self) -> int:
        left = self._unary()
        while self._peek() == "^":
            self.at += 1
            left ^= self._unary()
        return left

    def _unary(self) -> int:
        symbol = self.tokens[self.at]
        self.at += 1
        if symbol == "!":
            return self.ones ^ self._unary()
        if symbol == "(":
            result = self._or()
            if self.tokens[self.at] != ")":
                raise KeyError(self.tokens[self.at])
            self.at += 1
        elif symbol in "01":
            result = self.ones * int(symbol)
        else:
            result = self.columns[symbol]
        while self._peek() == "'":
            self.at += 1
            result ^= self.ones
        return result


def text_of(path: Path) -> str:
    """The text of a Liberty file, plain or gzipped.

    Raises:
        LibertyError: it cannot be read.
    """
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LibertyError(path, f"cannot be read: {reason}") from None
    return raw.decode("utf-8", "replace")


def parse(text: str, path: str | Path) -> Library:
    """Read Liberty text.

    Raises:
        LibertyError: not Liberty, or it lacks a function that no mapping can do without.
    """
    library = _library(tree(text, path), path)
    needs = {
        "inverter": library.find(1, 0b01),
        "two-input NAND": library.find(2, 0b0111),
        # ABC ends with an error, or with a fault, where it finds no buffer.
        "buffer": library.find(1, 0b10),
        "D flip-flop of the rising edge": library.flip_flop,
    }
    lacking = [role for role, found in needs.items() if found is None]
    if lacking:
        raise LibertyError(
            path,
            "the library must hold a cell of each needed function, with delays by NLDM tables, "
            f"it lacks: {', '.join(lacking)}",
        )
    return library


def _library(root: Group, path: str | Path) -> Library:
    place = "library"
    cells: dict[str, Cell] = {}
    try:
        time, scale = units(root, path)
        slowest = _number(root.values, "default_max_transition") * time
        place = "lu_table_template"
        shapes = templates(root, "lu_table_template")
        for group in root.all("cell"):
            place = f"cell({group.args})"
            cell = _cell(group, shapes, time, scale, slowest)
            if cell is None:
                continue
            if not 0 < cell.area < float("inf"):
                raise LibertyError(
                    path, f"{place}: area must be above 0, got {group.values['area']}"
                )
            if cell.name in cells:
                raise LibertyError(path, f"{place}: must be given once")
            cells[cell.name] = cell
    except (ValueError, IndexError) as error:
        if isinstance(error, LibertyError):
            raise
        raise LibertyError(path, f"malformed Liberty in {place}: {error}") from None
    return Library(root.args, str(path), cells)


def units(root: Group, path: str | Path) -> tuple[float, float]:
    """A file's unit of time in ns, and of capacitance in fF.

    Raises:
        LibertyError: a unit is not known.
        ValueError: a number is malformed.
    """
    time = unit_of(_TIME_UNITS, root.values.get("time_unit", "1ns"), "time_unit", path)
    unit = [*root.lists.get("capacitive_load_unit", ["1", "pf"]), ""]
    return time, float(unit[0]) * unit_of(_LOAD_UNITS, unit[1], "capacitive_load_unit", path)


def unit_of(known: Mapping[str, float], text: str, field: str, path: str | Path) -> float:
    """What a unit stands for; one that is not known must not pass for another.

    Raises:
        LibertyError: it is not known.
    """
    found = known.get(text.replace(" ", "").lower())
    if found is None:
        raise LibertyError(path, f"{field}: must be one of {', '.join(known)}, got {text!r}")
    return found


def templates(root: Group, kind: str) -> Templates:
    """Templates of tables by name: both indices, and what the first one is.

    Raises:
        ValueError: a number is malformed.
    """
    return {
        group.args: (
            _numbers(group.lists.get("index_1")),
            _numbers(group.lists.get("index_2")),
            group.values.get("variable_1", ""),
        )
        for group in root.all(kind)
    }


def tree(text: str, path: str | Path, *, keep: Sequence[str] = ()) -> Group:
    """The groups of a Liberty text, as far as mapping and timing need them.

    Args:
        keep: kinds of groups that are read as well.

    Raises:
        LibertyError: it is not Liberty, or ends too early.
    """
    text = _COMMENT.sub(" ", text)
    skipped = _SKIPPED.difference(keep)
    match = re.search(r"\blibrary\s*\(\s*\"?([\w.\-]*)\"?\s*\)\s*\{", text)
    if match is None:
        raise LibertyError(path, "must be a Liberty file, has no library group")
    root = Group("library", match.group(1))
    stack = [root]
    position = match.end()
    while True:
        token = _TOKEN.search(text, position)
        if token is None:
            raise LibertyError(path, f"ends inside the group {stack[-1].kind}({stack[-1].args})")
        position = token.end()
        if token["group"]:
            kind = token["group"]
            if kind in skipped:
                depth = 1
                while depth:
                    brace = _BRACES.search(text, position)
                    if brace is None:
                        raise LibertyError(path, f"ends inside the group {kind}")
                    depth += 1 if brace.group() == "{" else -1
                    position = brace.end()
                continue
            group = Group(kind, token["args"].strip().replace('"', ""))
            stack[-1].groups.append(group)
            stack.append(group)
        elif token["close"]:
            stack.pop()
            if not stack:
                return root
        elif token["name"]:
            stack[-1].values[token["name"]] = token["value"].strip().strip('"')
        else:
            parts = re.findall(r'"([^"]*)"|([^\s,"]+)', token["list"])
            stack[-1].lists[token["call"]] = [a or b for a, b in parts]


def _numbers(parts: list[str] | None) -> np.ndarray:
    if not parts:
        return np.zeros(1)
    return np.array(",".join(parts).replace(",", " ").split(), dtype=np.float64)


Templates = dict[str, tuple[np.ndarray, np.ndarray, str]]


def table(
    group: Group | None,
    templates: Templates,
    time: float,
    scale: float,
    *,
    value: float | None = None,
) -> Table | None:
    """A table of a file in ns and fF, None of none.

    Args:
        time, scale: the file's units. value: the unit of the values; that of time if None.

    Raises:
        ValueError: the table is malformed.
    """
    if group is None:
        return None
    index_1, index_2, first = templates.get(group.args, (np.zeros(1), np.zeros(1), ""))
    if "index_1" in group.lists:
        index_1 = _numbers(group.lists["index_1"])
    if "index_2" in group.lists:
        index_2 = _numbers(group.lists["index_2"])
    if "values" not in group.lists:
        raise ValueError(f"{group.kind} has no values")
    values = _numbers(group.lists["values"]) * (time if value is None else value)
    if not np.isfinite(values).all():
        raise ValueError(f"{group.kind} has values that are not finite")
    if group.args == "scalar" or values.size == 1:
        return Table(np.zeros(1), np.zeros(1), values[:1].reshape(1, 1))
    values = values.reshape(len(index_1), len(index_2))
    if "capacitance" in first or first.startswith("related"):
        values, index_1, index_2 = values.T, index_2, index_1
    constraint = "constraint" in group.kind
    return Table(index_1 * time, index_2 * (time if constraint else scale), values)


def _merge(tables: Iterable[Table | None]) -> Table | None:
    """The worst of tables that hold under different conditions."""
    found = [table for table in tables if table is not None]
    if not found:
        return None
    first = found[0]
    if all(
        np.array_equal(table.rows, first.rows) and np.array_equal(table.columns, first.columns)
        for table in found
    ):
        return Table(first.rows, first.columns, np.max([table.values for table in found], axis=0))
    return max(found, key=lambda table: float(table.values.max()))


def _number(values: dict[str, str], key: str) -> float:
    return float(values.get(key, 0) or 0)


def _cell(
    group: Group, templates: Templates, time: float, scale: float, slowest: float
) -> Cell | None:
    """A cell that mapping may use, else None."""
    if "area" not in group.values or group.values.get("dont_use") == "true":
        return None
    if any(group.values.get(key, "false") != "false" for key in _SPECIAL):
        return None
    pins: dict[str, Pin] = {}
    tristate = False
    for item in group.all("pin"):
        values = item.values
        tristate |= "three_state" in values
        pin = Pin(
            item.args,
            values.get("direction", ""),
            _number(values, "capacitance") * scale,
            _number(values, "max_capacitance") * scale,
            values.get("function", ""),
            values.get("clock") == "true" or values.get("clock_gate_clock_pin") == "true",
        )
        for role in ("clock_pin", "enable_pin", "test_pin", "out_pin"):
            if values.get(f"clock_gate_{role}") == "true":
                pin.gate_role = role
        pin.arcs = _arcs(item, templates, time, scale)
        if pin.direction == "output":
            # What an output may drive itself to is more than the library's inputs are made for.
            stated = _number(values, "max_transition") * time or slowest
            pin.max_capacitance = _within(pin, min(stated, slowest) if slowest else stated)
        pins[pin.name] = pin
    cell = Cell(group.args, float(group.values["area"]), "comb", pins)
    cell.gate = group.values.get("clock_gating_integrated_cell", "")
    wide = group.all("bus") or group.all("bundle")
    if tristate or wide or (group.all("latch") and not cell.gate):
        return None
    ff = group.all("ff")
    if cell.gate:
        cell.kind = "gate"
    elif ff:
        cell.kind = "ff"
        names = [part.strip() for part in ff[0].args.split(",")]
        cell.state = (names[0], names[1] if len(names) > 1 else "")
        cell.next_state = ff[0].values.get("next_state", "")
        cell.clocked_on = ff[0].values.get("clocked_on", "")
        # Only the plain flip-flop: resets are logic, enables are clock gates or multiplexers.
        if {"clear", "preset"} & ff[0].values.keys():
            return None
        if not re.fullmatch(r"\(?\s*\w+\s*\)?", cell.next_state):
            return None
    elif not cell.outputs or any(truth < 0 for truth in cell.truths.values()):
        return None
    # Without tables a cell would come out as one that takes no time; the clock's network is ideal.
    free = cell.kind == "gate" or not cell.inputs
    return cell if free or all(_timed(pin) for pin in cell.outputs) else None


def _timed(pin: Pin) -> bool:
    """Whether an output states a delay."""
    return any(arc.kind != "setup" and arc.delay != (None, None) for arc in pin.arcs)


def _within(pin: Pin, slowest: float) -> float:
    """The largest load of an output: as stated, within its tables and its largest transition."""
    limit = pin.max_capacitance or np.inf
    for arc in pin.arcs:
        for table in arc.slew if arc.kind != "setup" else ():
            if table is None or len(table.columns) < 2:
                continue
            limit = min(limit, float(table.columns[-1]))
            row = table.values[0]
            above = np.flatnonzero(row > slowest) if slowest else np.zeros(0, dtype=int)
            if len(above) and above[0] > 0:
                i = int(above[0])
                share = (slowest - row[i - 1]) / (row[i] - row[i - 1])
                load = table.columns[i - 1] + share * (table.columns[i] - table.columns[i - 1])
                limit = min(limit, float(load))
    return 0.0 if np.isinf(limit) else limit


def _arcs(item: Group, templates: Templates, time: float, scale: float) -> list[Arc]:
    found: dict[tuple[str, str, int], list[Group]] = {}
    for timing in item.all("timing"):
        stated = timing.values.get("timing_type", "combinational")
        if stated.startswith("setup"):
            kind = "setup"
        elif stated.endswith("_edge"):
            kind = "edge"
        elif stated.startswith("combinational"):
            kind = "comb"
        else:
            continue
        sense = {"positive_unate": 1, "negative_unate": -1}.get(
            timing.values.get("timing_sense", ""), 0
        )
        for related in timing.values.get("related_pin", "").split():
            found.setdefault((related, kind, sense), []).append(timing)

    def merged(groups: Sequence[Group], name: str) -> Table | None:
        return _merge(table(next(iter(g.all(name)), None), templates, time, scale) for g in groups)

    arcs = []
    for (related, kind, sense), groups in found.items():
        names = (
            ("rise_constraint", "fall_constraint")
            if kind == "setup"
            else ("cell_rise", "cell_fall")
        )
        arcs.append(
            Arc(
                related,
                kind,
                sense,
                (merged(groups, names[0]), merged(groups, names[1])),
                (merged(groups, "rise_transition"), merged(groups, "fall_transition")),
            )
        )
    return arcs


def write(library: Library) -> str:
    """A library as Liberty text in ns and fF, with nothing but what :func:`parse` reads."""
    shapes: dict[tuple[bytes, bytes, bool], str] = {}
    heads: list[str] = []
    body: list[str] = []

    def numbers(values: np.ndarray) -> str:
        return ",".join(f"{value:.6g}" for value in values)

    def table(name: str, item: Table | None, constraint: bool) -> None:
        if item is None:
            return
        if item.values.size == 1:
            body.append(f'{name}(scalar) {{ values("{item.values[0, 0]:.6g}"); }}')
            return
        key = (item.rows.tobytes(), item.columns.tobytes(), constraint)
        if key not in shapes:
            shapes[key] = f"t{len(shapes)}"
            first, second = (
                ("constrained_pin_transition", "related_pin_transition")
                if constraint
                else ("input_net_transition", "total_output_net_capacitance")
            )
            heads.append(
                f"lu_table_template({shapes[key]}) {{ variable_1 : {first}; "
                f"variable_2 : {second}; "
                f'index_1("{numbers(item.rows)}"); index_2("{numbers(item.columns)}"); }}'
            )
        rows = ", ".join(f'"{numbers(row)}"' for row in item.values)
        body.append(f"{name}({shapes[key]}) {{ values({rows}); }}")

    for cell in library.cells.values():
        body.append(f"cell({cell.name}) {{ area : {cell.area:.9g};")
        if cell.gate:
            body.append(f"clock_gating_integrated_cell : {cell.gate};")
        if cell.kind == "ff":
            body.append(
                f'ff({cell.state[0]},{cell.state[1]}) {{ next_state : "{cell.next_state}"; '
                f'clocked_on : "{cell.clocked_on}"; }}'
            )
        for pin in cell.pins.values():
            body.append(f"pin({pin.name}) {{ direction : {pin.direction};")
            if pin.direction == "input":
                body.append(f"capacitance : {pin.capacitance:.6g};")
            if pin.max_capacitance:
                body.append(f"max_capacitance : {pin.max_capacitance:.6g};")
            if pin.function:
                body.append(f'function : "{pin.function}";')
            if pin.clock:
                body.append("clock : true;")
            if pin.gate_role:
                body.append(f"clock_gate_{pin.gate_role} : true;")
            for arc in pin.arcs:
                body.append(f'timing() {{ related_pin : "{arc.related}";')
                if arc.kind != "comb":
                    kind = "setup_rising" if arc.kind == "setup" else "rising_edge"
                    body.append(f"timing_type : {kind};")
                sense = {1: "positive_unate", -1: "negative_unate", 0: "non_unate"}[arc.sense]
                body.append(f"timing_sense : {sense};")
                if arc.kind == "setup":
                    table("rise_constraint", arc.delay[0], True)
                    table("fall_constraint", arc.delay[1], True)
                else:
                    for name, item in zip(
                        ("cell_rise", "cell_fall", "rise_transition", "fall_transition"),
                        (*arc.delay, *arc.slew),
                        strict=True,
                    ):
                        table(name, item, False)
                body.append("}")
            body.append("}")
        body.append("}")
    head = [
        f"library({library.name or 'cells'}) {{",
        "delay_model : table_lookup;",
        'time_unit : "1ns";',
        "capacitive_load_unit(1,ff);",
    ]
    return "\n".join([*head, *heads, *body, "}"]) + "\n"
