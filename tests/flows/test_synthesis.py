"""Mapping small designs: function, hierarchy, adders, registers, timing, errors, cache."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from flows import FlowError, Technology, netlist, recipes, synthesize, yosys
from flows.netlist import FIRST_NET, Module
from flows.recipes import Recipe
from rtl_gen.errors import InputError


def mapped(file: Path, folder: Path, technology: Technology) -> dict[str, Module]:
    """Modules of a mapped netlist, read back from its Verilog."""
    folder.mkdir(exist_ok=True)
    yosys.run(
        [f"read_verilog {file}", "proc", "write_json back.json"], ["back.json"], folder=folder
    )
    data = json.loads((folder / "back.json").read_text())["modules"]
    library = technology.library()
    return {name: netlist.from_json(name, item, library, data) for name, item in data.items()}


class Simulator:
    """A mapped hierarchy, cycle by cycle."""

    def __init__(self, modules: dict[str, Module], top: str, technology: Technology):
        self.library = technology.library()
        modules = {name: module.copy() for name, module in modules.items()}
        netlist.join_feedthroughs(modules, self.library)
        self.gates: list[tuple[str, dict[str, int]]] = []
        self.nets = modules[top].nets
        self.ports = modules[top].ports
        self._visit(modules, top, list(range(self.nets)))
        self.values = [0] * self.nets
        self.values[1] = 1
        self.state = [0] * len(self.gates)

    def _visit(self, modules: dict[str, Module], name: str, nets: list[int]) -> None:
        module = modules[name]
        for gate in module.gates.values():
            self.gates.append((gate.kind, {pin: nets[net] for pin, net in gate.pins.items()}))
        for instance in module.instances:
            child = modules[instance.module]
            inner = [0, 1, *([-1] * (child.nets - FIRST_NET))]
            for port, outer in instance.nets.items():
                for inside, outside in zip(child.ports[port][1], outer, strict=False):
                    if inside >= FIRST_NET:
                        inner[inside] = nets[outside]
            for index, net in enumerate(inner):
                if net < 0:
                    inner[index] = self.nets
                    self.nets += 1
            self._visit(modules, instance.module, inner)

    def settle(self, **inputs: int) -> None:
        for port, value in inputs.items():
            for bit, net in enumerate(self.ports[port][1]):
                self.values[net] = value >> bit & 1
        while True:
            before = list(self.values)
            for (kind, pins), state in zip(self.gates, self.state, strict=True):
                cell = self.library.cells[kind]
                if cell.kind == "comb":
                    names = sorted(pin.name for pin in cell.inputs)
                    row = sum(self.values[pins[name]] << i for i, name in enumerate(names))
                    for pin, truth in cell.truths.items():
                        if pin in pins:
                            self.values[pins[pin]] = truth >> row & 1
                elif cell.kind == "ff":
                    for pin in cell.outputs:
                        if pin.name in pins:
                            true = pin.function.strip("() ") == cell.state[0]
                            self.values[pins[pin.name]] = state if true else 1 - state
            if self.values == before:
                return

    def clock(self) -> None:
        opened = {}
        gate = self.library.clock_gate
        for kind, pins in self.gates:
            if gate and kind == gate.cell.name:
                opened[pins[gate.output]] = self.values[pins[gate.enable]]
        for index, (kind, pins) in enumerate(self.gates):
            cell = self.library.cells[kind]
            if cell.kind == "ff" and opened.get(pins[cell.clocked_on.strip("() ")], 1):
                self.state[index] = self.values[pins[cell.next_state.strip("() ")]]

    def output(self, port: str) -> int:
        return sum(self.values[net] << bit for bit, net in enumerate(self.ports[port][1]))


def check_columns(modules: dict[str, Module], technology: Technology, cycles: int = 60) -> None:
    """The fixture `columns` against integer arithmetic."""
    simulator = Simulator(modules, "columns", technology)
    random.seed(7)
    entry, acc = None, [None] * 4
    for cycle in range(cycles):
        rst, en, up = int(cycle == 0), random.getrandbits(1), random.getrandbits(1)
        t, w = random.getrandbits(6), random.getrandbits(24)
        if cycle in (1, 2):
            # From a state of its own, each accumulator is known only by what it shows.
            en = 0
        simulator.settle(rst=rst, en=en, up=up, t=t, w=w, clk=0)
        shown = simulator.output("o")
        for i in range(4):
            value = ~(shown >> 6 * i) & 63
            assert acc[i] is None or value == acc[i], (cycle, i)
            acc[i] = value
        if en and entry is not None:
            for i in range(4):
                weights = w >> 6 * i & 63
                swapped = (entry & 7) << 3 | entry >> 3
                x = ~((entry & weights) | (swapped & ~weights)) & 63
                other = x >> 1 << 1 | 0
                other = (weights & 1) << 5 | x >> 1
                total = x + other + acc[i]
                acc[i] = (total + (entry & 1) - (1 - up)) & 63
        elif en:
            acc = [None] * 4
        simulator.clock()
        entry = 0 if rst else t + 5 & 63


@pytest.mark.parametrize(
    "recipe",
    [
        *(Recipe("flip", carry, "amap") for carry in recipes.CARRIES),
        *(Recipe("flip", "ripple", script) for script in ("nf", "speed", "amap-plain")),
        Recipe("hard", "hard", "map"),
        Recipe("soft", "select", "amap-dc2"),
    ],
    ids=lambda recipe: recipe.name,
)
def test_every_recipe_keeps_the_function(
    recipe: Recipe, columns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.EFFORTS, "fast", (recipe,))
    technology = Technology.embedded()
    out = tmp_path / "mapped.v"
    report = synthesize(columns, "columns", effort="fast", netlist_file=out)
    assert set(report.recipes.values()) == {recipe.name}
    hard = {"hard": 4 * 5, "flip": 4 * 5, "soft": 0}[recipe.tree]
    assert report.full_adders >= hard
    assert (report.full_adders > 0) == (recipe.tree != "soft" or recipe.carry == "hard")
    check_columns(mapped(out, tmp_path / "back", technology), technology)


def test_repair_keeps_the_function_and_the_checker_notices(columns: Path, tmp_path: Path) -> None:
    technology = Technology.embedded()
    out = tmp_path / "mapped.v"
    relaxed = synthesize(columns, "columns", effort="fast")
    report = synthesize(
        columns,
        "columns",
        effort="fast",
        netlist_file=out,
        clock_ns=relaxed.delay_ns * 0.85,
        wire_cap_per_fanout=6.0,
    )
    assert report.buffers + report.area > relaxed.area
    modules = mapped(out, tmp_path / "back", technology)
    check_columns(modules, technology)
    gate = next(g for g in modules["column"].gates.values() if g.kind.startswith(("XOR", "XNOR")))
    gate.kind = {"XOR2": "XNOR2", "XNOR2": "XOR2"}[gate.kind[:-3]] + gate.kind[-3:]
    with pytest.raises(AssertionError):
        check_columns(modules, technology)


def test_report_of_a_hierarchy(columns: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    report = synthesize(
        columns, "columns", effort="fast", progress=lambda *step: steps.append(step)
    )
    assert [(b.path, b.module, b.instances) for b in report.by_block] == [
        ("columns", "columns", 1),
        ("columns/*", "column", 4),
    ]
    assert report.area == sum(block.area for block in report.by_block)
    assert report.area == pytest.approx(sum(report.cell_areas.values()))
    assert report.by_block[0].area_total == pytest.approx(report.area)
    assert report.flip_flops == 6 + 4 * 6
    assert report.clock_gates == 4
    assert report.area_unit == "NAND2"
    assert report.met is None
    assert report.overloaded == 0
    assert report.delay_ns == pytest.approx(report.path[-1].arrival + report.setup_ns)
    assert steps[-1][1] == steps[-1][2]
    data = json.loads(json.dumps(report.as_dict()))
    assert data["fmax_mhz"] == pytest.approx(1000 / report.delay_ns)
    text = report.table()
    for word in ("column ", "clock gates", "by sub-block", "setup"):
        assert word in text


def write(folder: Path, text: str) -> Path:
    file = folder / "design.v"
    file.write_text(text)
    return file


FA = (
    "module rtlgen_fa #(parameter WIDTH = 1)\n"
    "(input [WIDTH-1:0] a, b, c, output [WIDTH-1:0] s, co);\n"
    "assign s = a ^ b ^ c; assign co = (a & b) | (c & (a ^ b)); endmodule\n"
)


def test_full_adders_with_constants_or_dead_outputs_are_less(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        FA
        + """
module top (input [3:0] a, b, c, output [3:0] s, output [2:0] co);
  wire last;
  rtlgen_fa #(.WIDTH(4)) u (.a(a), .b({1'b0, b[2:0]}), .c({c[3:1], 1'b1}), .s(s), .co({last, co}));
endmodule""",
    )
    report = synthesize(file, "top", effort="fast")
    assert report.full_adders == 2


def test_a_flip_flop_gives_its_complement(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "module top(input clk, d, output q, n, m); reg r; always @(posedge clk) r <= d;"
        " assign q = r; assign n = ~r; assign m = ~r; endmodule",
    )
    report = synthesize(file, "top", effort="fast")
    assert report.cell_counts == {"DFF_X1": 1}


@pytest.mark.parametrize(("width", "gates"), [(2, 0), (8, 1)])
def test_enables_become_clock_gates_from_a_stated_number_on(
    width: int, gates: int, tmp_path: Path
) -> None:
    file = write(
        tmp_path,
        f"module top(input clk, en, input [{width - 1}:0] d, output reg [{width - 1}:0] q);"
        " always @(posedge clk) if (en) q <= d; endmodule",
    )
    report = synthesize(file, "top", effort="fast")
    assert report.clock_gates == gates
    assert width < report.gated_from or gates
    assert report.flip_flops == width


def test_heavy_nets_get_buffers_and_a_clock_costs_area(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "module top(input clk, input a, input [199:0] b, output reg [199:0] q); reg r;"
        " always @(posedge clk) begin r <= a; q <= b & {200{r}}; end endmodule",
    )
    report = synthesize(file, "top", effort="fast")
    assert report.overloaded == 0
    assert report.buffers > 0
    faster = synthesize(file, "top", effort="fast", clock_ns=report.delay_ns * 0.8)
    assert faster.met
    assert faster.delay_ns <= report.delay_ns * 0.8
    assert faster.area > report.area
    hopeless = synthesize(file, "top", effort="fast", clock_ns=0.01)
    assert hopeless.met is False
    assert "NOT met" in hopeless.table()


def test_density_is_no_worse_than_the_smallest(columns: Path) -> None:
    small = synthesize(columns, "columns", effort="fast")
    dense = synthesize(columns, "columns", effort="fast", objective="density")
    assert dense.area * dense.delay_ns <= small.area * small.delay_ns * (1 + 1e-9)


def test_more_effort_meets_whatever_less_meets(columns: Path) -> None:
    fastest = synthesize(columns, "columns", clock_ns=0.1, effort="fast")
    assert not fastest.met
    for clock in (fastest.delay_ns, 1.1 * fastest.delay_ns):
        assert synthesize(columns, "columns", clock_ns=clock, effort="fast").met
        assert synthesize(columns, "columns", clock_ns=clock, effort="normal").met
    normal = synthesize(columns, "columns", clock_ns=0.1, effort="normal")
    assert normal.delay_ns <= fastest.delay_ns


def test_the_cache_gives_the_same_and_only_what_belongs(columns: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = synthesize(columns, "columns", effort="fast", cache_dir=cache)
    entries = {file: file.stat().st_mtime_ns for file in (cache / "synthesis").iterdir()}
    assert len(entries) == 2 * len(recipes.EFFORTS["fast"])
    assert synthesize(columns, "columns", effort="fast", cache_dir=cache) == first
    assert synthesize(columns, "columns", effort="fast") == first
    # A change in the top alone maps the top alone.
    columns.write_text(columns.read_text().replace("t + 6'd5", "t + 6'd9"))
    assert synthesize(columns, "columns", effort="fast", cache_dir=cache) != first
    after = {file: file.stat().st_mtime_ns for file in (cache / "synthesis").iterdir()}
    assert len(after) == 3 * len(recipes.EFFORTS["fast"])
    assert entries.items() <= after.items()


def test_multiplications_try_booth(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "module top(input [7:0] a, b, output [15:0] p); assign p = a * b; endmodule",
    )
    report = synthesize(file, "top")
    assert {trial.recipe.endswith("/booth") for trial in report.trials} == {True, False}
    assert report.area <= min(trial.area for trial in report.trials) * 1.05


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("module top(input a; endmodule", r"yosys: .*syntax error"),
        ("module top(input a, output y); nothere u(a, y); endmodule", r"nothere"),
        (
            "module top(input a, b, output y); assign y = ~((a & y) | b); endmodule",
            r"loop",
        ),
    ],
)
def test_a_failing_tool_is_named_with_its_last_words(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(FlowError, match=words) as caught:
        synthesize(write(tmp_path, text), "top", effort="fast")
    assert caught.value.exit_status == 1
    if caught.value.tool == "yosys":
        assert caught.value.log is not None
        assert caught.value.log.is_file()


def test_wrong_arguments_are_refused(columns: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"effort: must be one of fast, normal, high, got 'max'"):
        synthesize(columns, "columns", effort="max")
    with pytest.raises(InputError, match=r"clock_ns: must be above 0"):
        synthesize(columns, "columns", clock_ns=0.0)
    with pytest.raises(InputError, match=r"none\.v: must be a Verilog file"):
        synthesize(tmp_path / "none.v", "columns")


def test_importing_flows_loads_no_tool() -> None:
    code = "import sys, flows; flows.Technology, flows.FlowError; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "pyosys"} & set(done.stdout.split())


def test_real_libraries_map_full_adders_to_their_own_cell(
    liberty_file: Path, columns: Path, tmp_path: Path
) -> None:
    technology = Technology.liberty(liberty_file)
    out = tmp_path / "mapped.v"
    report = synthesize(columns, "columns", technology=technology, effort="fast", netlist_file=out)
    full = technology.library().full_adder
    assert full is not None
    assert report.cell_counts[full.cell.name] == report.full_adders >= 20
    assert report.area_unit == "µm²"
    assert report.overloaded == 0
    check_columns(mapped(out, tmp_path / "back", technology), technology)


@pytest.mark.parametrize("carry", recipes.CARRIES)
def test_a_negation_is_an_addition_to_nothing(
    carry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.EFFORTS, "fast", (Recipe("flip", carry, "amap"),))
    file, out = tmp_path / "negation.v", tmp_path / "mapped.v"
    file.write_text(
        "module negation(input clk, input [3:0] q, output reg [3:0] o);\n"
        "  always @(posedge clk) o <= -q;\nendmodule\n"
    )
    technology = Technology.embedded()
    synthesize(file, "negation", effort="fast", netlist_file=out)
    modules = mapped(out, tmp_path / "back", technology)
    simulator = Simulator(modules, "negation", technology)
    for q in range(16):
        simulator.settle(q=q, clk=0)
        simulator.clock()
        simulator.settle(q=q, clk=0)
        assert simulator.output("o") == -q & 15
